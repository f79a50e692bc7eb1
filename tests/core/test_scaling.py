"""Online scaling: bounded, robust to one value, and with targets in the unit known when their pair was made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt_core import scales, scaling
from bptt_core.slab import Rows, Slab

NO_LABELS, EVENT = np.empty((1, 0)), np.array([True])


def new_rows(shape: scales.ScalingShape) -> Rows:
    slab = Slab(np, scales.fields(shape))
    return slab.take(np.array([slab.allocate()]))


def shape_of(
    features: int = 1, targets: tuple[int, ...] = (0,), horizon: int = 1, anchor: str = "last_value", **more: Any
) -> scales.ScalingShape:
    rest = {"symbols": (0,) * features, "labels": 0, "fixed": False, "numeric": True, "slots": horizon} | more
    return scales.ScalingShape(features=features, targets=targets, horizon=horizon, anchors=(anchor,), **rest)


def feed(shape: scales.ScalingShape, values: np.ndarray, rows: Rows | None = None) -> list[scales.Scaled]:
    """One session's steps; what is kept of each is its own copy."""
    rows = new_rows(shape) if rows is None else rows
    with np.errstate(all="ignore"):
        return [scaling.step(shape, rows, value[None], NO_LABELS, EVENT) for value in values]


def present(scaled: scales.Scaled) -> dict[str, np.ndarray]:
    """Its arrays by name; without seasons there is nothing of them."""
    return {name: array for name, array in scaled._asdict().items() if array is not None}


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
            targets = scaling.learner_targets(shape, scaled)
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
        feed(shape, np.zeros((1, 1)), rows)
        for name in ("level_square", "difference_square", "residual_square"):
            assert rows[name] <= before[name] * (1 + 25 / n) ** 2 * (1 + 1e-9), "nor does the way back from it"


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
            targets = scaling.learner_targets(shape, scaled)
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
            np.testing.assert_equal(scaled.residual[0, h - 1, 0, 0], residual)
            np.testing.assert_allclose(scaled.residual_scale[0, h - 1, 0, 0], scale.get((t - h, h), np.nan), rtol=1e-6)
            if not np.isnan(residual):
                seen.append(min(residual**2, 25 * np.mean(seen)) if len(seen) >= 8 else residual**2)
            scale[t, h] = float(np.sqrt(np.mean(seen))) if seen else float("nan")
            np.testing.assert_allclose(scaled.scale[0, h - 1, 0, 0], scale[t, h], rtol=1e-6)
        with np.errstate(all="ignore"):
            ratio = scaled.residual / scaled.residual_scale
        np.testing.assert_equal(scaling.learner_targets(shape, scaled), np.clip(ratio, -10, 10).reshape(1, -1))


def test_without_an_anchor_the_level_is_forecast() -> None:
    values = np.random.default_rng(6).standard_normal((60, 1)) + 5
    steps = feed(shape_of(anchor="none"), values)
    means = np.cumsum(values[:, 0]) / np.arange(1, 61)
    np.testing.assert_allclose([s.anchor[0, 0, 0, 0] for s in steps], means, rtol=1e-9)
    np.testing.assert_allclose([s.residual[0, 0, 0, 0] for s in steps[1:]], values[1:, 0] - means[:-1], rtol=1e-6)


def test_a_jump_forgets_the_pairs_that_wait() -> None:
    shape = shape_of(horizon=3)
    rows = new_rows(shape)
    feed(shape, np.arange(20.0)[:, None] ** 2, rows)
    scaling.clear(shape, rows, np.array([True]))
    (scaled,) = feed(shape, np.array([[3.0]]), rows)
    assert np.isnan(scaled.residual).all()
    assert not np.isnan(scaled.scale).any()


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_no_difference_is_formed_across_a_break(gap: int) -> None:
    """The step after it, or the first that has a value, sees none and moves no statistic; the next one does."""
    shape = shape_of(2, (0,))
    rows = new_rows(shape)
    feed(shape, np.random.default_rng(7).standard_normal((30, 2)), rows)
    scaling.clear(shape, rows, np.array([True]))
    before = rows["difference_square"].copy()
    missing = np.tile([[np.nan, 0.0]], (gap, 1))
    feed(shape, missing, rows)
    (scaled,) = feed(shape, np.array([[50.0, 1.0]]), rows)
    assert scaled.inputs[0, 2] == 0
    assert rows["difference_square"][0, 0] == before[0, 0]
    assert scaled.last.tolist() == [[50.0]], "the anchor is still the last value"
    (scaled,) = feed(shape, np.array([[51.0, 1.0]]), rows)
    assert scaled.inputs[0, 2] > 0


def test_a_break_of_one_session_is_no_business_of_the_others() -> None:
    shape = shape_of(2, (0, 1), horizon=2)
    values = np.random.default_rng(8).standard_normal((40, 2, 2))
    slab = Slab(np, scales.fields(shape))
    both = slab.take(np.array([slab.allocate(), slab.allocate()]))
    alone = new_rows(shape)
    labels, event = np.empty((2, 0)), np.ones(2, bool)
    with np.errstate(all="ignore"):
        for t, value in enumerate(values):
            if t == 20:
                scaling.clear(shape, both, np.array([False, True]))
            together = scaling.step(shape, both, value, labels, event)
            (own,) = feed(shape, value[:1], alone)
            for name, ours in present(own).items():
                assert getattr(together, name)[:1].tobytes() == ours.tobytes(), name
            assert np.isnan(together.residual[1]).all() == (t in {0, 20})


def test_without_differences_the_level_enters_in_full() -> None:
    values = np.random.default_rng(9).standard_normal((50, 2)) * [1, 100] + 3
    (with_differences,) = feed(shape_of(2), values)[-1:]
    (level_only,) = feed(shape_of(2, anchor="none"), values)[-1:]
    assert with_differences.inputs.shape == (1, 6)
    assert level_only.inputs.shape == (1, 4)
    expected = (values[-1] - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(level_only.inputs[0], [*expected, 0, 0], rtol=1e-9)
    np.testing.assert_allclose(with_differences.inputs[0, :2], 0.3 * expected, rtol=1e-9)


@pytest.mark.parametrize("fixed", [False, True])
def test_symbols_enter_one_hot_behind_the_numbers(fixed: bool) -> None:
    """And the numbers are scaled as if they were alone."""
    shape = shape_of(4, (3,), horizon=2, symbols=(3, 0, 2, 0), fixed=fixed)
    numbers = shape_of(2, (1,), horizon=2, fixed=fixed)
    rng = np.random.default_rng(10)
    values = rng.standard_normal((60, 4))
    values[:, 0], values[:, 2] = rng.integers(0, 3, 60), rng.integers(0, 2, 60)
    values[rng.random((60, 4)) < 0.2] = np.nan
    rows, rows_of_numbers = new_rows(shape), new_rows(numbers)
    if fixed:
        rows["given_deviation"][...] = rows_of_numbers["given_deviation"][...] = 1
    for scaled, alone, value in zip(
        feed(shape, values, rows), feed(numbers, values[:, [1, 3]], rows_of_numbers), values, strict=True
    ):
        codes = [float(value[feature] == code) for feature, count in ((0, 3), (2, 2)) for code in range(count)]
        assert scaled.inputs[0, -5:].tolist() == codes
        assert scaled.inputs.shape == (1, shape.inputs)
        for name, expected in present(alone).items():
            found = scaled.inputs[:, :-5] if name == "inputs" else getattr(scaled, name)
            assert found.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("anchor", ["none", "last_value"])
def test_fixed_scaling_is_the_given_formula_and_nothing_else(anchor: str) -> None:
    horizon, n = 2, 40
    mean, deviation = np.array([3.0, -1.0, 0.5]), np.array([2.0, 1e-9, 10.0])
    values = np.random.default_rng(11).standard_normal((n, 3)) * deviation + mean
    values[5] = np.nan
    values[9, 1] = 4.0
    shape = shape_of(3, (2, 0), horizon=horizon, anchor=anchor, fixed=True)
    rows = new_rows(shape)
    rows["given_mean"][...], rows["given_deviation"][...] = mean, deviation
    for t, scaled in enumerate(feed(shape, values, rows)):
        expected = np.nan_to_num(np.clip((values[t] - mean) / deviation, -1e6, 1e6), nan=0.0)
        np.testing.assert_array_equal(scaled.inputs[0], expected)
        assert (scaled.scale[0] == deviation[[2, 0]]).all()
        held = values[t - 1 if t == 5 else t, [2, 0]]
        np.testing.assert_array_equal(
            scaled.anchor[0], np.tile(mean[[2, 0]] if anchor == "none" else held, (horizon, 1, 1))
        )
        np.testing.assert_array_equal(scaled.last[0], held)
        for h in range(1, horizon + 1):
            held = values[t - h - (t - h == 5), [2, 0]]
            anchors = mean[[2, 0]] if anchor == "none" else held
            target = (values[t, [2, 0]] - anchors) / deviation[[2, 0]] if t >= h else [np.nan] * 2
            found = scaling.learner_targets(shape, scaled).reshape(horizon, 2)[h - 1]
            np.testing.assert_allclose(found, target, rtol=1e-12)


def test_with_fixed_scaling_a_target_may_be_far_out() -> None:
    shape = shape_of(anchor="none", fixed=True)
    rows = new_rows(shape)
    rows["given_deviation"][...] = 1e-3
    found = [scaling.learner_targets(shape, scaled)[0, 0] for scaled in feed(shape, np.array([[0], [50], [1e9]]), rows)]
    np.testing.assert_allclose(found, [np.nan, 50e3, 1e6])


def test_codes_are_targets_as_they_are() -> None:
    """For every horizon whose step lies in the stream, and after a break in what came since."""
    shape = shape_of(2, (1,), horizon=3, symbols=(0, 40), numeric=False, anchor="none")
    codes = np.random.default_rng(12).integers(0, 40, 12).astype(float)
    codes[4] = np.nan
    rows, begin = new_rows(shape), 0
    for t, code in enumerate(codes):
        if t == 7:
            scaling.clear(shape, rows, np.array([True]))
            begin = t
        (scaled,) = feed(shape, np.array([[0.0, code]]), rows)
        expected = [code if t - h >= begin else np.nan for h in (1, 2, 3)]
        np.testing.assert_array_equal(scaling.learner_targets(shape, scaled)[0], expected)
        np.testing.assert_array_equal(scaled.observed, [[code]])
