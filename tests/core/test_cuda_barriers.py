"""Every barrier of the CUDA source is needed: without any one of them, some order of threads changes what comes out.

The source is run on the CPU with its threads in random order (`support/emulation`), each barrier left out in turn.
"""

from __future__ import annotations

import numpy as np
import pytest
from emulated import Run, barriers_met, emulated_learn
from lessons import State, random_lesson, random_state, shape_with, taught

from bptt_core import guard
from bptt_core.backends.cuda.source import source
from bptt_core.learner import LearnerShape
from bptt_core.lessons import CHANGED, EVENT, Lesson

SEEDS = range(1, 9)
# One warp and several, weights in registers and not, everything that only some learners do.
SHAPES = {
    "lstm": {"hidden": 32, "horizon": 2, "loss_span": 3, "clip": "quantile", "inputs": 20, "window": 5, "stride": 2},
    "labels": {"hidden": 16, "ahead": 0, "loss_span": 3, "clip": "value", "cell": "gru", "window": 5, "stride": 2},
    "tanh": {"cell": "tanh", "hidden": 16, "window": 4},
    "streamed": {"hidden": 128, "window": 3, "guard": False, "loss_span": 2},
}


def busy(shape: LearnerShape) -> tuple[State, Lesson]:
    """Three learners to whom everything happens: measured gradients, leaps, other seasons, new beginnings."""
    state = _, host = random_state(shape, 3, seed=30)
    lesson = random_lesson(shape, 3, 8, seed=31)
    host["optimizer_steps"][...] = 63
    host["learning_rate"][0] = 1e30
    if shape.guard:
        host["healthy"][...], host["steady"][...] = guard.KEEP_EVERY - 2, guard.RECOVERY
        host["guard_count"][...], host["guard_loss"][1], host["strikes"][1] = guard.FEWEST, 1e6, guard.STRIKES
    host["length"][2], lesson.flags[lesson.start[2]] = shape.rows, EVENT | CHANGED[1]
    lesson.arrived[-2:] = np.inf
    return state, lesson


def result(shape: LearnerShape, seed: int, without: int = 0) -> list[bytes]:
    """What comes of it, to the bit; nothing if that has no end."""
    state, lesson = busy(shape)
    Run.seed, Run.without = seed, without
    try:
        device, host, learned = taught(emulated_learn, shape, state, lesson)
    except RuntimeError:
        return []
    finally:
        Run.seed = Run.without = 0
    rows = [array.tobytes() for row in (device, host) for array in row.values()]
    return [*rows, learned.ys.tobytes(), learned.reports.tobytes()]


@pytest.mark.parametrize("name", SHAPES)
def test_the_order_of_threads_changes_nothing(name: str) -> None:
    shape = shape_with(**SHAPES[name])
    assert len({tuple(result(shape, seed)) for seed in SEEDS[:4]}) == 1
    assert result(shape, SEEDS[0])


def test_without_any_one_barrier_it_does() -> None:
    met: set[str] = set()
    needed: set[str] = set()
    for given in SHAPES.values():
        shape = shape_with(**given)
        expected, code = result(shape, 1), source(shape)
        lines = code.splitlines()
        for number in barriers_met(code):
            place = context(lines, number)
            met.add(place)
            if place not in needed and any(result(shape, seed, number) != expected for seed in SEEDS):
                needed.add(place)
    assert len(met) > 20
    assert sorted(met - needed) == []


def context(lines: list[str], number: int) -> str:
    """A place in the text that all shapes share: the line of a barrier and those before it."""
    return "\n".join(lines[number - 4 : number])
