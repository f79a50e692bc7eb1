"""Shapes, launches and the way through the fold of the GPU engine, and what the compiler makes of its source.

There is no GPU: CuPy is a stand-in whose kernels are emulated (`support/emulated.py`). What the kernels compute is held
to the reference by the tests of conformance.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated import Run, emulated_learn, slabs_of, stand_in
from lessons import distance, random_lesson, random_state, reference_learn, shape_with, taught

from bptt_core import Backend, Events, Fold, select_backend
from bptt_core.backends.cuda import shapes
from bptt_core.backends.cuda.launch import CudaLearning
from bptt_core.backends.cuda.source import source
from bptt_core.lessons import RESULT

SIZES = [(cell, hidden) for cell in ("tanh", "relu", "gru", "lstm") for hidden in (16, 32, 64, 96, 128)]


# ---- Shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "hidden"), SIZES)
def test_parameters_lie_in_another_order_and_none_is_lost(cell: str, hidden: int) -> None:
    shape = shape_with(cell=cell, hidden=hidden, window=32, inputs=8)
    assert shapes.supports(shape)
    order = shapes.order(shape)
    assert order is not None
    assert (np.sort(order) == np.arange(shape.layout.size)).all()
    own, canonical = (shape.layout.split(places[None]) for places in (order, np.arange(shape.layout.size)))
    for name in ("wx", "b"):
        assert (getattr(own.layers[0], name) == getattr(canonical.layers[0], name)).all()
    assert (own.wo == canonical.wo).all()
    assert (own.layers[0].wh != canonical.layers[0].wh).any()


@pytest.mark.parametrize(
    "given",
    [{"layers": 2}, {"hidden": 17}, {"hidden": 256}, {"inputs": 65}, {"hidden": 96, "window": 120}],
    ids=str,
)
def test_other_shapes_are_left_to_the_reference(given: dict[str, Any]) -> None:
    shape = shape_with(**{"hidden": 16, **given})
    learning = CudaLearning(stand_in())
    assert not learning.can_teach(shape)
    with pytest.raises(ValueError, match="no kernel"):
        learning.learn(shape, *slabs_of(np, shape, 1), np.array([0]), random_lesson(shape, 1, 1, seed=1))


@pytest.mark.parametrize("hidden", [96, 128])
def test_one_step_of_large_learners(hidden: int) -> None:
    """Several warps; weights that are read again at every step; one block for several learners."""
    shape = shape_with(hidden=hidden, window=3)
    state, lesson = random_state(shape, 3, seed=2), random_lesson(shape, 3, 1, seed=3, events_only=True, missing=0.0)
    device, _, learned = taught(emulated_learn, shape, state, lesson)
    true_device, _, truth = taught(reference_learn, shape, state, lesson, np.float64)
    assert (learned.reports[:, RESULT] == truth.reports[:, RESULT]).all()
    assert distance(learned.ys.reshape(1, -1), truth.ys.reshape(1, -1)) <= 2e-6
    step, true_step = (rows["params"] - state[0]["params"] for rows in (device, true_device))
    assert distance(step, true_step) <= 1e-4


# ---- Launches --------------------------------------------------------------------------------------------------------


def test_a_call_is_one_copy_in_one_launch_and_one_copy_out() -> None:
    """Nothing is allocated once the buffers are large enough."""
    shape, cupy = shape_with(hidden=16), stand_in()
    learning = CudaLearning(cupy)
    slabs = slabs_of(cupy, shape, 3)
    happened = []
    for steps, chosen in ((4, [0, 2]), (3, [1]), (4, [2, 0])):
        Run.happened.clear()
        learned = learning.learn(shape, *slabs, np.array(chosen), random_lesson(shape, len(chosen), steps, seed=5))
        assert len(learned.ys) > 0
        happened.append(list(Run.happened))
    assert [event for event in happened[0] if event != "allocation"] == ["set", "launch", "get"]
    assert happened[1:] == [["set", "launch", "get"]] * 2


def test_a_learner_comes_once_in_a_call_or_not_at_all() -> None:
    shape, cupy = shape_with(hidden=16), stand_in()
    learning = CudaLearning(cupy)
    slabs = slabs_of(cupy, shape, 2)
    with pytest.raises(ValueError, match="twice"):
        learning.learn(shape, *slabs, np.array([1, 1]), random_lesson(shape, 2, 2, seed=5))
    Run.happened.clear()
    nobody = random_lesson(shape, 0, 2, seed=5)
    assert learning.learn(shape, *slabs, np.array([], np.int64), nobody).ys.shape == (0, shape.outputs)
    assert "launch" not in Run.happened


# ---- The fold --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cupy_backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setitem(sys.modules, "cupy", stand_in())
    return select_backend("cupy")


def test_sessions_learn_through_the_fold_what_the_reference_learns(
    cupy_backend: Backend, numpy_backend: Backend, make_config: Any, random_walks: Any
) -> None:
    """With fillers of gaps and missing values; a copy is one to the bit, and a checkpoint is in canonical order."""
    config, values = make_config(2, hidden=16, window=6, horizon=2, period_ns=10), random_walks(40, 2, missing=0.05)
    times = 10 * np.arange(len(values))
    times[30:] += 30
    outcomes, folds = [], [Fold(cupy_backend), Fold(numpy_backend)]
    for fold in folds:
        slots = [fold.create(config) for _ in range(2)]
        fold.step([(slots[0], Events(values[:20], times[:20])), (slots[1], Events(values[:9] * 2, times[:9]))])
        outcomes.append(fold.step([(slots[0], Events(values[20:], times[20:]))])[0])
        again = fold.fork(slots[0])
        assert fold.checkpoint(again) == fold.checkpoint(slots[0])
    assert isinstance(cupy_backend.learning, CudaLearning)
    assert "launch" in Run.happened
    np.testing.assert_array_equal(outcomes[0].update_result, outcomes[1].update_result)
    np.testing.assert_allclose(outcomes[0].mean, outcomes[1].mean, rtol=1e-4, atol=1e-4)
    moved = folds[1].restore(folds[0].checkpoint(again))
    ahead = [
        fold.step([(slot, Events(values, times + 1000))])[0] for fold, slot in zip(folds, (again, moved), strict=True)
    ]
    np.testing.assert_allclose(ahead[0].mean, ahead[1].mean, rtol=1e-4, atol=1e-4)


# ---- The compiler ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [{"hidden": 64, "ahead": 0, "clip": "value"}, {"hidden": 128, "horizon": 3}],
    ids=str,
)
def test_the_source_compiles_for_the_gpu_and_nothing_is_spilled(given: dict[str, Any], tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("the CUDA source is compiled with nvcc, which is not here")
    text = tmp_path / "learn.cu"
    text.write_text(source(shape_with(**{"window": 32, "inputs": 8, "loss_span": 3, **given})), encoding="utf-8")
    command = ["nvcc", "-std=c++17", "-arch=sm_90", "-cubin", "-Xptxas", "-v", "-o", str(tmp_path / "o"), str(text)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert "warning" not in said
    spilled = re.findall(r"(\d+) bytes spill", said)
    assert len(spilled) >= 2
    assert set(spilled) == {"0"}
    assert set(re.findall(r"(\d+) bytes stack frame", said)) == {"0"}
