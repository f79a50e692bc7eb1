"""The drift detector: silent on steady errors of any kind, soon there when they double, and ready for the next time."""

from __future__ import annotations

import numpy as np
import pytest

from bptt_core import drift
from bptt_core.slab import Rows, Slab


def new_rows(shape: drift.DriftShape, sessions: int) -> Rows:
    slab = Slab(np, drift.fields(shape))
    return slab.take(np.array([slab.allocate() for _ in range(sessions)]))


def detect(errors: np.ndarray) -> tuple[np.ndarray, Rows]:
    """Where errors [T, B, O] are called a drift [T, B], and the state after."""
    shape = drift.DriftShape(errors.shape[2])
    rows = new_rows(shape, errors.shape[1])
    with np.errstate(all="ignore"):
        return np.stack([drift.step(shape, rows, error) for error in errors]), rows


def noise(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Errors in units of their root mean square."""
    rng = np.random.default_rng(seed)
    if kind == "t3":
        values = rng.standard_t(3, shape)
    elif kind == "laplace":
        values = rng.laplace(size=shape)
    elif kind == "lognormal":
        values = rng.lognormal(size=shape) - np.exp(0.5)
    elif kind == "counts":
        values = rng.poisson(3, shape) - 3.0
    else:
        values = rng.standard_normal(shape)
    for t in range(1, len(values)) if kind == "correlated" else ():
        values[t] += 0.9 * values[t - 1]
    return values / np.sqrt(np.minimum(values**2, 25 * np.median(values**2)).mean())


def delays(errors: np.ndarray, change: int) -> np.ndarray:
    """[B] events from the change to the first detection; nothing may be detected before."""
    detected, _ = detect(errors)
    assert not detected[:change].any()
    return np.where(detected[change:].any(axis=0), detected[change:].argmax(axis=0), len(errors))


KINDS = ["gauss", "t3", "laplace", "lognormal", "counts"]


@pytest.mark.parametrize("targets", [1, 7])
def test_steady_errors_are_called_a_drift_less_than_once_in_ten_thousand_events(targets: int) -> None:
    kinds = [*KINDS, "correlated"]
    sessions = 56 // targets
    detected, _ = detect(np.concatenate([noise(kind, (2500, sessions, targets), seed=1) for kind in kinds], axis=1))
    for k, kind in enumerate(kinds):
        false = detected[:, k * sessions : (k + 1) * sessions].sum()
        assert false <= 2500 * sessions // 10_000, kind
    assert detected.mean() < 2e-5


@pytest.mark.parametrize("targets", [1, 7])
def test_doubled_errors_of_one_target_are_found_within_200_events(targets: int) -> None:
    errors = np.concatenate([noise(kind, (1300, 40, targets)) for kind in KINDS], axis=1)
    errors[1000:, :, 0] *= 2
    found = delays(errors, 1000).reshape(len(KINDS), 40)
    assert (np.median(found, axis=1) <= 100).all()
    assert (np.quantile(found, 0.9, axis=1) <= 200).all()


def test_a_spike_is_no_drift_and_five_spikes_are_none() -> None:
    errors = noise("gauss", (1200, 30, 1))
    errors[600:605] = 1e6
    errors[800::40] = 1e6
    assert not detect(errors)[0].any()


def test_after_a_detection_the_new_errors_are_the_usual_ones() -> None:
    errors = noise("gauss", (2400, 30, 1))
    errors[800:1600] *= 3
    errors[1600:] *= 12
    detected, rows = detect(errors)
    assert (detected[800:900].sum(axis=0) == 1).all()
    assert (detected[1600:1700].sum(axis=0) == 1).all()
    assert detected.sum() == 60
    assert (rows["drift_count"] == 2).all()
    last = np.array([np.flatnonzero(detected[:, b])[-1] for b in range(30)])
    np.testing.assert_array_equal(rows["drift_since"], 2400 - 1 - last)


def test_smaller_errors_are_no_drift_but_become_the_usual_ones() -> None:
    errors = noise("gauss", (1600, 30, 1))
    errors[600:] /= 4
    errors[1300:] *= 4
    detected, _ = detect(errors)
    assert not detected[:1300].any()
    assert detected[1300:1400].any(axis=0).all()


def test_the_unit_and_the_sign_of_the_errors_do_not_matter_much() -> None:
    errors = noise("gauss", (1500, 10, 1))
    errors[1000:] *= 2
    np.testing.assert_array_equal(detect(errors)[0], detect(-errors)[0])
    assert detect(1.7 * errors)[0].any(axis=0).all()  # "usual" need not be known well


def test_missing_errors_move_nothing() -> None:
    errors = noise("gauss", (1500, 6, 2))
    errors[1000:] *= 2
    gaps = np.insert(errors, np.arange(0, 1500, 3), np.nan, axis=0)
    (dense, rows), (sparse, same) = detect(errors), detect(gaps)
    np.testing.assert_array_equal(dense, np.delete(sparse, np.arange(0, len(gaps), 4), axis=0))
    for name, row in rows.items():
        assert row.tobytes() == same[name].tobytes(), name
    assert not detect(np.full((200, 3, 2), np.nan))[0].any()


def test_odd_errors_leave_finite_state() -> None:
    rng = np.random.default_rng(5)
    errors = rng.standard_normal((1500, 4, 3)) * 10.0 ** rng.integers(-300, 300, (1500, 4, 3))
    errors[:, 1] = 0
    errors[rng.random(errors.shape) < 0.1] = np.nan
    errors[::11, 2] = np.inf
    _, rows = detect(errors)
    for name, row in rows.items():
        assert np.isfinite(row).all(), name
    assert rows["drift_sums"].max() <= drift.DriftShape(3).threshold


def test_neighbours_in_the_call_change_no_bit() -> None:
    errors = noise("t3", (600, 13, 5))
    errors[300:, ::2] *= 5
    errors[::7, 3] = np.nan
    together, rows = detect(errors)
    assert together.any()
    for b in (0, 3, 12):
        own = slice(b, b + 1)
        alone, state = detect(errors[:, own].copy())
        assert alone.tobytes() == together[:, own].tobytes()
        for name, row in state.items():
            assert row.tobytes() == rows[name][own].tobytes(), name
