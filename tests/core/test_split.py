"""Sessions whose learners are taught elsewhere: the compiled engine scales and serves, to the same bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bptt_core import Backend, Events, Fold, LearnerConfig, SessionConfig, Slot, select_backend, stepping

pytest.importorskip("numba", reason="the engine needs the extra jit")

HOUR = 3_600_000_000_000


class Elsewhere:
    """A teacher that is not the engine, though it teaches as that does. `fails`: at which lesson."""

    def __init__(self, engine: Any, fails: int = -1) -> None:
        self._engine, self._left = engine, fails

    def can_teach(self, shape: Any) -> bool:
        return bool(shape.cell != "gru")  # the reference has to

    def order(self, shape: Any) -> None: ...

    def learn(self, *given: Any) -> Any:
        learned = self._engine.learn(*given)
        self._left -= 1
        if self._left == -1:
            raise RuntimeError("the device is gone")
        return learned


def company(fold: Fold) -> list[Slot]:
    """Portfolios with and without seasons, and single learners."""
    return [
        fold.create(SessionConfig(("x",), horizon=2, seasons=(12,))),
        fold.create(SessionConfig(("x",), horizon=2, seasons=(12,))),
        fold.create(SessionConfig(("x", "y"), targets=("y",))),
        fold.create(SessionConfig(("x",), learner=LearnerConfig(hidden=8, loss="pinball", quantiles=(0.1, 0.5, 0.9)))),
    ]


def work_of(slots: list[Slot], call: int) -> list[tuple[Slot, Events]]:
    """Events with gaps to fill in, jumps, episodes and missing values; of some sessions without times."""
    work = []
    for place, slot in enumerate(slots):
        rng = np.random.default_rng([call, place])
        values = rng.standard_normal((9 + 5 * place, len(slot.config.features)))
        values[rng.random(values.shape) < 0.1] = np.nan
        gaps = rng.choice([1, 1, 1, 3, 200], len(values))
        times = (1000 * call + gaps.cumsum()) * HOUR
        starts = rng.random(len(values)) < 0.1
        work.append((slot, Events(values, times if place != 1 else None, None, starts)))
    return work


def bits(fold: Fold, slots: list[Slot], calls: range, outcome_bits: Any) -> list[list[bytes]]:
    found = [outcome_bits(outs) for call in calls for outs in fold.step(work_of(slots, call))]
    return [*found, [fold.checkpoint(slot) for slot in slots]]


def split(whole: Backend, fails: int = -1) -> Backend:
    return replace(whole, learning=Elsewhere(whole.engine, fails))


def test_taught_elsewhere_is_the_same_to_the_bit(outcome_bits: Any) -> None:
    whole = select_backend("numba", 2)
    found = []
    for backend in (whole, split(whole)):
        fold = Fold(backend)
        found.append(bits(fold, company(fold), range(4), outcome_bits))
    assert found[0] == found[1]


def test_a_call_that_becomes_too_many_steps_is_taken_in_parts(
    outcome_bits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, found, calls = select_backend("numba", 2), [], []
    begin = type(whole.engine).begin

    def counted(self: Any, *given: Any) -> Any:
        calls.append(given)
        return begin(self, *given)

    monkeypatch.setattr(type(whole.engine), "begin", counted)
    for room in (stepping.ROOM_BYTES, 10_000):
        monkeypatch.setattr(stepping, "ROOM_BYTES", room)
        fold = Fold(split(whole))
        found.append(bits(fold, company(fold), range(3), outcome_bits))
        calls.append(None)
    assert found[0] == found[1]
    first = calls.index(None)
    assert len(calls) - first > 2 * first, "or nothing was parted"


def test_a_learner_of_the_reference_is_in_good_hands(outcome_bits: Any) -> None:
    """The engine scales and serves, the reference teaches what the device cannot."""
    whole = select_backend("numba", 2)
    errors = []
    for backend in (whole, split(whole), select_backend("numpy")):
        fold = Fold(backend)
        slot = fold.create(SessionConfig(("x",), learner=LearnerConfig(cell="gru", hidden=8)))
        steps = np.arange(400)
        (outs,) = fold.step([(slot, Events(np.sin(steps / 5)[:, None]))])
        errors.append(np.abs(outs.mean[50:-1, 0, 0] - np.sin(steps[51:] / 5)).mean())
    np.testing.assert_allclose(errors, errors[0], rtol=1e-3)


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_a_teacher_that_fails_changes_nothing(fails: int, outcome_bits: Any) -> None:
    whole = select_backend("numba", 2)
    fold = Fold(split(whole))
    slots = company(fold)
    bits(fold, slots, range(2), outcome_bits)
    before = [fold.checkpoint(slot) for slot in slots]
    fold.backend = split(whole, fails)
    with pytest.raises(RuntimeError, match="the device is gone"):
        fold.step(work_of(slots, 2))
    assert [fold.checkpoint(slot) for slot in slots] == before
