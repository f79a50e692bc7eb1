"""The core against PyTorch's answers, kept as vectors in tests/golden: every cell, one and two layers, every loss.

Float64 to 1e-9: forward, every gradient including the incoming carry's, one step of every optimiser, every clip, and a
run of 100 updates. Float32 is held to float64 by the gates below. `test_torch_live.py` asks PyTorch itself.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import subject

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


CASES = cases.all_cases()
NAMES = [case.name for case in CASES]

# Relative L2 errors of float32, by the beginning of the result's name. Of the gradient by a carry little may be left
# after some steps, as a difference of larger numbers: no weight's gradient depends on its last digits.
GATES = {
    "dcarry": 1e-4, "trail": 1e-4,
    "hs": 2e-6, "carry": 2e-6, "ys": 2e-6, "loss": 2e-6, "whole loss": 2e-6, "norm": 1e-6,
    "d": 5e-6, "all of the whole gradient": 5e-6, "scale": 5e-6,
    "all change": 5e-5, "all moment0 of rmsprop": 1e-5, "all moment0": 5e-6, "all moment1": 1e-5,
}  # fmt: skip
PREDICTIONS_AFTER_100_UPDATES = 1e-3


def exact(name: str) -> float:
    return 1e-6 if name.startswith(cases.FLOAT32_REPORTS) else 1e-9


def gate(name: str) -> float:
    return next(limit for beginning, limit in GATES.items() if name.startswith(beginning))


def in_core(case: Any, data: Any, update: Any, pairs: Any, dtype: type = np.float64) -> dict[str, np.ndarray]:
    """One window and one update of each kind, as the core computes them in `dtype`."""
    found: dict[str, np.ndarray] = subject.window(case, data, dtype)
    gradient = np.concatenate([found[f"d{name}"].reshape(case.learners, -1) for name in case.shapes()], axis=1)
    found["norm"] = np.linalg.norm(gradient.astype(np.float64), axis=1)
    return found | subject.updates(case, gradient, data["params"].astype(dtype), update, pairs)


@functools.cache
def stream(case: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = subject.stream(case, cases.stream(case))
    return found


def stored(case: Any) -> np.ndarray:
    with np.load(GOLDEN / f"{case.cell}.npz", allow_pickle=False) as file:
        vector: np.ndarray = file[case.name]
    return vector


def golden_disagreements(case: Any, vector: np.ndarray) -> list[str]:
    """What the core finds differently from the vector of this case."""
    found = in_core(case, cases.window(case), cases.update(case), cases.STORED_PAIRS)
    del found["norm"]
    found |= stream(replace(case, learners=1))
    reduced = {name: cases.reduced(name, array) for name, array in found.items()}
    problems: list[str] = cases.disagreements(reduced, cases.unpack(vector, found), exact)
    return problems


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_float64_agrees_with_pytorch(case: Any) -> None:
    assert golden_disagreements(case, stored(case)) == []


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_float32_is_within_the_gates(case: Any) -> None:
    data, update = cases.window(case), cases.update(case, fresh=False)
    expected = in_core(case, data, update, cases.PAIRS)
    found = in_core(case, data, update, cases.PAIRS, np.float32)
    assert all(array.dtype == np.float32 for name, array in found.items() if name != "norm")
    assert cases.disagreements(found, expected, gate) == []


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_float32_predicts_the_same_after_100_updates(case: Any) -> None:
    alone = replace(case, learners=1)
    found, expected = (subject.stream(alone, cases.stream(alone), np.float32), stream(alone))
    last = (run["all outputs"][:, -10:] for run in (found, expected))
    assert cases.relative_error(*last) < PREDICTIONS_AFTER_100_UPDATES


def test_a_run_holds_100_updates_with_one_measurement_by_lag_and_a_time_without_targets() -> None:
    for case in CASES[::9]:
        found = stream(replace(case, learners=1))
        assert found["losses"].shape == (1, 100)
        assert np.isfinite(found["by_lag"]).all()
        assert len(cases.QUIET) > case.loss_span + case.stride


def test_clips_and_masks_are_exercised() -> None:
    """In every case one learner is clipped and one is not, and some pairs are missing, others too old."""
    for case in CASES:
        data = cases.window(case)
        known = ~np.isnan(data["targets"])
        assert known.any(), case.name
        assert not known.all(), case.name
        assert (known & ~data["active"]).any() or case.loss_span == case.window, case.name
        found = in_core(case, data, cases.update(case), cases.STORED_PAIRS)
        for kind in ("norm", "value", "quantile"):
            clipped, free = found[f"scale after {kind}"]
            assert clipped < 1, f"{case.name} {kind}"
            assert free == 1, f"{case.name} {kind}"


def test_a_difference_is_found() -> None:
    """One number of a vector changed in its ninth digit, wherever it lies."""
    case = CASES[-1]
    vector = stored(case)
    for place in (0, len(vector) // 3, len(vector) // 2, len(vector) - 1):
        wrong = vector.copy()
        wrong[place] += 1e-8 * np.abs(vector).max()
        assert len(golden_disagreements(case, wrong)) == 1
    with pytest.raises(AssertionError, match="packed numbers"):
        golden_disagreements(case, vector[:-1])
