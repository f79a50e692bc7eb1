"""Random lessons for random learners, and who gives them: the test bodies that all backends share are built on these.

A backend is a function that gives a lesson to learners in place on their rows, as `reference.learn` does, and a word on
which shapes it takes. What it does is held to the reference in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from emulated import emulated_learn, learn_on, nearest_shape
from learners import learner_shape

from bptt_core import FieldError, reference, select_backend
from bptt_core.backends.cuda import shapes
from bptt_core.learner import LearnerShape, device_fields, host_fields
from bptt_core.lessons import CHANGED, CLEAR, EVENT, Learned, Lesson
from bptt_core.slab import LINE, Rows, Slab

Learn = Callable[[LearnerShape, Rows, Rows, Lesson], Learned]
State = tuple[Rows, Rows]


class Backend(NamedTuple):
    """Who gives lessons."""

    name: str
    learn: Learn
    supports: Callable[[LearnerShape], bool] = lambda _: True
    fitted: Callable[[LearnerShape], LearnerShape] = lambda shape: shape  # the nearest shape of a size it takes


def shape_with(**given: Any) -> LearnerShape:
    """A guarded LSTM with the defaults of a service, but small; `given` changes it."""
    defaults: dict[str, Any] = {
        "cell": "lstm", "inputs": 3, "hidden": 4, "window": 7, "optimizer": "adam", "clip": "norm", "guard": True,
    }  # fmt: skip
    return learner_shape(**defaults | given)


# ---- States and lessons ----------------------------------------------------------------------------------------------


def random_targets(rng: np.random.Generator, shape: LearnerShape, *size: int, missing: float = 0.2) -> np.ndarray:
    """Targets such as the loss is for, a share of them missing."""
    if shape.loss == "softmax":
        values = rng.integers(0, shape.symbols, size).astype(np.float32)
    elif shape.loss == "sigmoid":
        values = rng.integers(0, 2, size).astype(np.float32)
    else:
        values = rng.standard_normal(size).astype(np.float32)
    values[rng.random(size) < missing] = np.nan
    return values


def random_state(shape: LearnerShape, count: int, seed: int) -> State:
    """Learners in the middle of their lives: windows filled to different lengths, moments and carries that are not
    zero, settings of their own. Rows (device in float32, host)."""
    rng = np.random.default_rng(seed)
    device = {f.name: np.zeros((count, *f.shape), np.float32) for f in device_fields(shape)}
    for name, array in device.items():
        array[...] = 0.4 * rng.standard_normal(array.shape)
        if name == "moment1" or (shape.optimizer == "rmsprop" and name == "moment0"):
            array[...] = 0.01 + abs(array)
    device["inputs"][...] *= 2.5
    host = {f.name: np.full((count, *f.shape), f.start, f.dtype) for f in host_fields(shape)}
    host["length"][...] = rng.integers(shape.window // 2 + 1, shape.rows + 1, count)
    host["length"][: count // 2] = shape.rows
    host["since_update"][...] = shape.stride - 1
    host["optimizer_steps"][...] = rng.integers(3, 50, count)
    host["span"][...] = rng.integers(1, shape.loss_span + 1, count)
    host["learning_rate"][...] = rng.uniform(0.01, 0.05, count)
    host["weight_decay"][...] = rng.choice([0.0, 0.1], count)
    host["warmup_updates"][...] = rng.choice([0.0, 30.0], count)
    host["decay_updates"][...] = 20
    host["loss_parameter"][...] = rng.uniform(0.3, 4, count)
    host["clip_limit"][...] = (
        rng.uniform(0.1, 0.9, count) if shape.clip == "quantile" else rng.choice([0.05, 50], count)
    )
    if shape.clip == "quantile":
        host["norm_count"][...] = known = rng.integers(2, 200, count)
        norms = rng.uniform(0, 1, host["norm_ring"].shape)
        host["norm_ring"][...] = np.where(np.arange(norms.shape[1]) < known[:, None], norms, np.nan)
    _fill_windows(rng, shape, device, host)
    return device, host


def _fill_windows(rng: np.random.Generator, shape: LearnerShape, device: Rows, host: Rows) -> None:
    """Targets where they can have arrived, and when labels did."""
    count, W = len(host["length"]), shape.rows
    targets = random_targets(rng, shape, count, W, shape.horizon, shape.targets)
    due = np.arange(W)[:, None] + shape.ahead + np.arange(shape.horizon)  # [W, horizon] the row it comes with
    targets[due[None] >= host["length"][:, None, None]] = np.nan
    device["targets"][...] = targets.reshape(count, W, -1)
    if shape.ahead == 0:
        host["event_count"][...] = 40
        host["arrived_event"][...] = rng.integers(38, 42, host["arrived_event"].shape)  # some with the next event


def random_lesson(
    shape: LearnerShape, learners: int, steps: int, seed: int, events_only: bool = False, missing: float = 0.2
) -> Lesson:
    """Two sessions' steps for learners of two anchors, the second one's fewer; with gaps that are filled, jumps and
    other seasons here and there unless `events_only`."""
    rng = np.random.default_rng(seed)
    first = np.arange(learners) % 2 == 0
    shorter = max(1, steps - 3)
    rows = steps + shorter
    flags = np.full(rows, EVENT, np.int8)
    if not events_only:
        flags[rng.random(rows) < 0.15] = 0
        flags[rng.random(rows) < 0.08] |= CLEAR
        for changed in CHANGED:
            flags[rng.random(rows) < 0.06] |= changed
    return Lesson(
        start=np.where(first, 0, steps),
        count=np.where(first, steps, shorter),
        anchor=np.arange(learners) // 2 % 2,
        season=np.arange(learners) % 3 - 1,
        inputs=rng.standard_normal((rows, shape.inputs)).astype(np.float32),
        arrived=random_targets(rng, shape, rows, 2, shape.pairs, missing=missing),
        flags=flags,
    )


def copied(state: State, dtype: type = np.float32) -> State:
    """The same state once more; the backend's numbers in another type if need be."""
    device, host = state
    return {k: v.astype(dtype) for k, v in device.items()}, {k: v.copy() for k, v in host.items()}


def taught(
    learn: Learn, shape: LearnerShape, state: State, lesson: Lesson, dtype: type = np.float32
) -> tuple[Any, ...]:
    """A copy of the state after the lesson, and what was learned: (device, host, Learned)."""
    device, host = copied(state, dtype)
    with np.errstate(all="ignore"):
        learned = learn(shape, device, host, lesson)
    return device, host, learned


def distance(got: np.ndarray, truth: np.ndarray) -> float:
    """The largest relative L2 distance of any learner's numbers [n, …] from the true ones."""
    truth = truth.astype(np.float64).reshape(len(truth), -1)
    away = np.linalg.norm(got.astype(np.float64).reshape(truth.shape) - truth, axis=1)
    return float((away / np.maximum(np.linalg.norm(truth, axis=1), 1e-30)).max())


# ---- Backends --------------------------------------------------------------------------------------------------------


def reference_learn(shape: LearnerShape, device: Rows, host: Rows, lesson: Lesson) -> Learned:
    return reference.learn(np, shape, device, host, lesson)


@functools.cache
def _engine() -> Any:
    """Compiled once on a machine, for the service and the tests."""
    from bptt_core.backends.jit.engine import CompiledFold

    return CompiledFold(1)


def numba_learn(shape: LearnerShape, device: Rows, host: Rows, lesson: Lesson) -> Learned:
    """In compiled code, learner after learner; others lie beside them that nobody may touch."""
    pytest.importorskip("numba", reason="compiled learners need the extra jit")
    n, slabs = len(host["length"]), (Slab(np, device_fields(shape)), Slab(np, host_fields(shape)))
    slots = np.array([slab.allocate() for _ in range(2 * n) for slab in slabs]).reshape(-1, 2)
    own, beside = slots[1::2], slots[::2]
    for slab, rows, slot in zip(slabs, (device, host), own.T, strict=True):
        slab.put(slot, rows)
    untouched = [slab.rows[slot].tobytes() for slab, slot in zip(slabs, beside.T, strict=True)]
    learned = learn_at(shape, [slab.addresses(slot) for slab, slot in zip(slabs, own.T, strict=True)], lesson)
    assert [slab.rows[slot].tobytes() for slab, slot in zip(slabs, beside.T, strict=True)] == untouched
    for slab, rows, slot in zip(slabs, (device, host), own.T, strict=True):
        for name, row in slab.take(slot).items():
            rows[name][...] = row
    return learned


def learn_at(shape: LearnerShape, addresses: list[np.ndarray], lesson: Lesson) -> Learned:
    """The same of learners whose rows, device and host, lie at `addresses`. The scratch memory is NaN at first, and
    what lies behind it stays that."""
    engine, places = _engine(), [SimpleNamespace(addresses=lambda _, own=own: own) for own in addresses]
    size = engine._learner_plan(shape).scratch
    memory = np.full(size + 3 * LINE, 0xFF, np.uint8)  # NaN in every type
    engine._blocks[0] = memory
    learned: Learned = engine.learn(shape, *places, np.arange(len(lesson.count)), lesson)
    assert (memory[-memory.ctypes.data % LINE + size :] == 0xFF).all()
    return learned


def cupy_learn(shape: LearnerShape, device: Rows, host: Rows, lesson: Lesson) -> Learned:
    """On a GPU."""
    try:
        gpu = select_backend("cupy")
    except FieldError as error:
        pytest.skip(str(error))
    return learn_on(gpu.learning, gpu.xp, shape, device, host, lesson)


BACKENDS = [
    Backend("numpy", reference_learn),
    Backend("numba", numba_learn),
    Backend("emulated", emulated_learn, shapes.supports, nearest_shape),
    pytest.param(Backend("cupy", cupy_learn, shapes.supports, nearest_shape), marks=pytest.mark.gpu),
]
