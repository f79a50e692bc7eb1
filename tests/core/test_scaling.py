"""Online scaling: bounded, robust to one value, and with targets in the unit known when their pair was made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt_core import scaling
from bptt_core.slab import Rows, Slab


def new_rows(shape: scaling.ScalingShape) -> Rows:
    slab = Slab(np, scaling.fields(shape))
    return slab.take(np.array([slab.allocate()]))


def shape_of(features: int = 1, targets: tuple[int, ...] = (0,), horizon: int = 1, anchor: str = "last_value") -> Any:
    return scaling.ScalingShape(features, targets, horizon, anchor)


def feed(shape: scaling.ScalingShape, values: np.ndarray, rows: Rows | None = None) -> list[scaling.Scaled]:
    """One session's steps; what is kept of each is its own copy."""
    rows = new_rows(shape) if rows is None else rows
    with np.errstate(all="ignore"):
        return [scaling.step(shape, rows, value[None]) for value in values]


def hostile(n: int, rng: np.random.Generator) -> np.ndarray:
    """A stream with jumps over many orders of magnitude, constants, spikes and missing values."""
    values = rng.standard_normal((n, 3)) * 10.0 ** rng.integers(-20, 20, (n, 1))
    values[:, 1] = np.where(np.arange(n) < n // 2, 4.0, rng.standard_normal(n))
    values[rng.integers(0, n, n // 20), 2] = 1e100
    values[rng.random((n, 3)) < 0.1] = np.nan
    return values


@pytest.mark.parametrize("seed", range(3))
def test_inputs_and_targets_are_bounded_and_inputs_are_finite(seed: int) -> None:
    shape = shape_of(3, (2, 0), horizon=4)
    for scaled in feed(shape, hostile(400, np.random.default_rng(seed))):
        assert np.isfinite(scaled.inputs).all()
        assert np.abs(scaled.inputs).max() <= 10
        with np.errstate(all="ignore"):
            targets = scaling.learner_targets(scaled)
        assert not (np.abs(targets) > 10).any()


@pytest.mark.parametrize("extreme", [1e50, -1e50])
def test_one_value_moves_a_scale_by_at_most_five_of_its_units(extreme: float) -> None:
    shape = shape_of()
    for seed in range(5):
        rows = new_rows(shape)
        n = 40
        feed(shape, np.random.default_rng(seed).standard_normal((n, 1)), rows)
        before = {name: array.copy() for name, array in rows.items()}
        feed(shape, np.array([[extreme]]), rows)
        weight = 1 / (n + 1)
        moved = abs(rows["level_mean"] - before["level_mean"])
        assert moved <= 5 * np.sqrt(before["level_square"]) * weight * (1 + 1e-9)
        for name in ("level_square", "difference_square", "residual_square"):
            assert before[name] < rows[name] <= before[name] * (1 + 25 / n) * (1 + 1e-9), name


def test_the_level_statistics_are_mean_and_variance_of_what_was_seen() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (500, 2)) * [1, 50] + [3, -7]
    values[::7, 1] = np.nan
    rows = new_rows(shape := shape_of(2, (0, 1)))
    feed(shape, values, rows)
    np.testing.assert_allclose(rows["level_mean"][0], np.nanmean(values, axis=0), rtol=1e-9)
    np.testing.assert_allclose(rows["level_square"][0], np.nanvar(values, axis=0), rtol=1e-9)
    assert rows["level_count"][0].tolist() == [500, 500 - 72]


def test_a_running_scale_forgets() -> None:
    rows = new_rows(shape := shape_of())
    feed(shape, np.random.default_rng(1).standard_normal((4000, 1)), rows)
    feed(shape, 100 + 10 * np.random.default_rng(2).standard_normal((12_000, 1)), rows)
    assert abs(rows["level_mean"] - 100) < 3
    assert 9 < np.sqrt(rows["level_square"]) < 12


@pytest.mark.parametrize("constant", [0.0, 7.25, -1e12, 1e-25])
def test_a_constant_series(constant: float) -> None:
    shape = shape_of(horizon=2)
    for scaled in feed(shape, np.full((50, 1), constant)):
        assert (scaled.inputs == 0).all()
        assert (scaled.anchor == constant).all()
        with np.errstate(all="ignore"):
            targets = scaling.learner_targets(scaled)
        assert ((targets == 0) | np.isnan(targets)).all()
    assert (targets == 0).all()


def test_missing_values_are_imputed_and_flagged() -> None:
    shape = shape_of(2, (0,))
    rng = np.random.default_rng(3)
    rows = new_rows(shape)
    feed(shape, rng.standard_normal((30, 2)), rows)
    last = rows["last_value"].copy()
    statistics = {name: rows[name].copy() for name in ("level_mean", "level_square", "level_count", "difference_count")}
    (scaled,) = feed(shape, np.array([[np.nan, np.nan]]), rows)
    level, change, missing = np.split(scaled.inputs[0], 3)
    assert missing.tolist() == [1, 1]
    assert change.tolist() == [0, 0]
    expected = 0.3 * (last - rows["level_mean"]) / np.sqrt(rows["level_square"])
    np.testing.assert_allclose(level, expected[0], rtol=1e-6)
    for name, before in statistics.items():
        assert rows[name].tobytes() == before.tobytes(), name
    assert (scaled.last == last[:, :1]).all()
    assert np.isnan(scaled.observed).all()
    (scaled,) = feed(shape, np.array([[1.0, np.nan]]), rows)
    assert scaled.inputs[0, 4:].tolist() == [0, 1]


def test_a_target_never_seen_has_no_anchor() -> None:
    for anchor in ("last_value", "none"):
        shape = shape_of(2, (1,), anchor=anchor)
        for scaled in feed(shape, np.array([[1.0, np.nan], [2.0, np.nan], [0.5, 3.0]])):
            assert np.isnan(scaled.anchor).all() == np.isnan(scaled.observed).all()
            assert np.isnan(scaled.scale).all()


def test_targets_use_the_anchor_and_the_scale_known_when_the_pair_was_made() -> None:
    """An independent computation over the whole stream, with missing values."""
    horizon, n = 3, 120
    values = np.random.default_rng(4).standard_normal(n).cumsum()
    values[np.random.default_rng(5).random(n) < 0.15] = np.nan
    shape = shape_of(horizon=horizon)
    steps = feed(shape, values[:, None])
    last = [float("nan")]
    for value in values:
        last.append(last[-1] if np.isnan(value) else value)
    last = last[1:]
    squares: dict[int, list[float]] = {h: [] for h in range(1, horizon + 1)}
    scale: dict[tuple[int, int], float] = {}
    for t, scaled in enumerate(steps):
        for h, seen in squares.items():
            residual = values[t] - last[t - h] if t >= h else float("nan")
            np.testing.assert_equal(scaled.residual[0, h - 1, 0], residual)
            np.testing.assert_allclose(scaled.residual_scale[0, h - 1, 0], scale.get((t - h, h), np.nan), rtol=1e-6)
            if not np.isnan(residual):
                seen.append(min(residual**2, 25 * np.mean(seen)) if len(seen) >= 8 else residual**2)
            scale[t, h] = float(np.sqrt(np.mean(seen))) if seen else float("nan")
            np.testing.assert_allclose(scaled.scale[0, h - 1, 0], scale[t, h], rtol=1e-6)
        with np.errstate(all="ignore"):
            ratio = scaled.residual / scaled.residual_scale
        np.testing.assert_equal(scaling.learner_targets(scaled), np.clip(ratio, -10, 10).reshape(1, -1))


def test_without_an_anchor_the_level_is_forecast() -> None:
    values = np.random.default_rng(6).standard_normal((60, 1)) + 5
    steps = feed(shape_of(anchor="none"), values)
    means = np.cumsum(values[:, 0]) / np.arange(1, 61)
    np.testing.assert_allclose([s.anchor[0, 0] for s in steps], means, rtol=1e-9)
    np.testing.assert_allclose([s.residual[0, 0, 0] for s in steps[1:]], values[1:, 0] - means[:-1], rtol=1e-6)


def test_a_jump_forgets_the_pairs_that_wait() -> None:
    shape = shape_of(horizon=3)
    rows = new_rows(shape)
    feed(shape, np.arange(20.0)[:, None] ** 2, rows)
    scaling.clear(rows, np.array([True]))
    (scaled,) = feed(shape, np.array([[3.0]]), rows)
    assert np.isnan(scaled.residual).all()
    assert not np.isnan(scaled.scale).any()
