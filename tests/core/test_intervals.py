"""Intervals: coverage, the bound on missed shares against an adversary, change and recovery, and what moves nothing."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from bptt_core import intervals
from bptt_core.intervals import RATE, IntervalShape
from bptt_core.running import WARM_UP

COVERAGES = (0.5, 0.8, 0.9, 0.99)


class Sessions:
    """Sessions of one horizon whose forecasts settle in order; `coverage` is one number, or one per session."""

    def __init__(self, count: int, horizon: int = 1, targets: int = 1, coverage: Any = 0.9) -> None:
        self.shape = IntervalShape(horizon, targets)
        self.rows = {
            f.name: np.full((count, *f.shape), f.start, f.dtype) for f in intervals.fields(self.shape)
        }  # fmt: skip
        self.rows["coverage_target"][:] = coverage
        reach = [intervals.initial_reach(c) for c in self.rows["coverage_target"]]
        self.rows["interval_reach"][:] = np.reshape(reach, (count, 1, 1, 1))
        self.waiting: list[tuple[np.ndarray, ...]] = []
        self.pairs = (count, horizon, targets)

    def issued(self) -> tuple[np.ndarray, ...]:
        """mean, lower, upper, unit [B, H, O] of the pairs that the next step settles."""
        empty = np.full(self.pairs, np.nan)
        rows = tuple(empty.copy() for _ in range(4))
        for h in range(min(self.pairs[1], len(self.waiting))):
            for row, made in zip(rows, self.waiting[-1 - h], strict=True):
                row[:, h] = made[:, h]
        return rows

    def step(self, observed: np.ndarray, mean: Any = 0.0, unit: Any = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Settles what waited for `observed` [B, O], forecasts `mean`; returns the new bounds."""
        with np.errstate(over="ignore"):
            intervals.settle(self.shape, self.rows, *self.issued(), observed)
        mean = np.broadcast_to(np.asarray(mean, float), self.pairs)
        lower, upper = intervals.bounds(self.shape, self.rows, mean)
        self.waiting = [*self.waiting[-self.pairs[1] :], (mean, lower, upper, np.broadcast_to(unit, self.pairs))]
        return lower, upper

    def run(self, values: np.ndarray, means: Any = 0.0, unit: Any = 1.0) -> tuple[np.ndarray, ...]:
        """Of `values` [n, B, O] with forecasts `means` [n, B, H, O] or a constant: lower and upper [n, B, H, O] as
        made, and what was missed below and above by the step that settled it (NaN: nothing was)."""
        lower, upper, below, above = (np.full((len(values), *self.pairs), np.nan) for _ in range(4))
        for n, value in enumerate(values):
            _, low, high, _ = self.issued()
            unknown = np.isnan(low) | np.isnan(value[:, None])
            below[n] = np.where(unknown, np.nan, value[:, None] < low)
            above[n] = np.where(unknown, np.nan, value[:, None] > high)
            lower[n], upper[n] = self.step(value, means if np.isscalar(means) else means[n], unit)
        return lower, upper, below, above


def rate_of(tail: float) -> float:
    return RATE / np.sqrt(tail * (1 - tail))


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("horizon", [1, 5])
@pytest.mark.parametrize("noise", ["normal", "student", "skewed"])
def test_exchangeable_errors_are_covered_as_asked_on_either_side(horizon: int, noise: str) -> None:
    """Within binomial error, but for what the way from the Gaussian quantile to the errors' own one must cost."""
    draw = {
        "normal": lambda size: rng(1).standard_normal(size),
        "student": lambda size: rng(2).standard_t(3, size),
        "skewed": lambda size: rng(3).exponential(1, size) - 1,
    }[noise]
    steps, each, targets = 2500, 8, 3
    values = draw((steps, len(COVERAGES) * each, targets))
    _, _, below, above = Sessions(len(COVERAGES) * each, horizon, targets, np.repeat(COVERAGES, each)).run(values)
    for k, coverage in enumerate(COVERAGES):
        tail = (1 - coverage) / 2
        binomial = np.sqrt(tail * (1 - tail) / (steps * each * targets))  # one value meets all horizons
        for missed, errors in ((below, -values), (above, values)):
            way = abs(np.quantile(errors, 1 - tail) / errors.std() - NormalDist().inv_cdf(1 - tail))
            share = np.nanmean(missed[:, k * each : (k + 1) * each])
            assert abs(share - tail) < 4 * binomial + way / (rate_of(tail) * steps), (coverage, share)


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("play", ["above", "either", "drift"])
def test_no_stream_is_missed_more_often_than_the_bound_says(horizon: int, play: str) -> None:
    """An adversary who sees all bounds and steps just outside one wherever that is within eight scales."""
    coverage, steps, dice = 0.9, 3000, rng(4)
    sessions = Sessions(1, horizon, coverage=coverage)
    first = sessions.rows["interval_reach"].copy()
    missed, settled, farthest = np.zeros((2, horizon)), np.zeros(horizon), 1.0
    scales: list[np.ndarray] = []
    for n in range(steps):
        _, low, high, _ = (made[0, :, 0] for made in sessions.issued())
        known = ~np.isnan(low)
        scale = np.array([scales[-1 - h][h] if h < len(scales) else np.nan for h in range(horizon)])
        value = dice.standard_normal() * (1.002**n if play == "drift" else 1)
        side = -1 if play == "either" and n % 20 < 10 else 1
        if play != "drift" and known.all():
            edge = 1.01 * side * max(np.where(side > 0, high, -low))
            value = edge if abs(edge) < 8 * scale.min() else 0.0
        missed += np.array([value < low, value > high])
        settled += known
        farthest = max(farthest, np.nanmax(np.abs(value) / scale, initial=0, where=known))
        lower, upper = sessions.step(np.array([[value]]))
        scales.append(((upper - lower) / sessions.rows["interval_reach"].sum(axis=1))[0, :, 0])
    tail = (1 - coverage) / 2
    rate = rate_of(tail)
    delay = np.arange(horizon)
    bound = tail + (max(farthest - first.min(), 0) + rate * (delay + 1)) / (rate * settled)
    assert (missed / settled <= bound).all(), (missed / settled, bound)
    assert bound.max() < (0.12 if play != "drift" else 0.2)  # so it says something
    if play == "above":
        assert (missed[1] / settled > tail).all()  # and the adversary was one


def test_intervals_widen_after_a_change_and_recover() -> None:
    noise = rng(5).standard_normal((5000, 20, 1))
    noise[2000:3000] *= 5
    lower, upper, below, above = Sessions(20).run(noise)
    width = (upper - lower).mean(axis=(1, 2, 3))
    missed = (below + above).mean(axis=(1, 2, 3))
    usual = width[1000:2000].mean()
    assert usual == pytest.approx(2 * NormalDist().inv_cdf(0.95), rel=0.05)
    assert width[2030] > 2 * usual
    assert width[2200:3000].mean() == pytest.approx(5 * usual, rel=0.15)
    assert width[4000:].mean() == pytest.approx(usual, rel=0.15)
    windows = np.convolve(missed[WARM_UP + 1 :], np.full(500, 1 / 500), mode="valid")
    assert windows.max() < 0.15
    assert missed[WARM_UP + 1 :].mean() == pytest.approx(0.1, abs=0.01)


def test_a_reach_does_not_sink_for_as_long_as_nothing_happens() -> None:
    noise = rng(19).standard_normal((5000, 20, 1))
    noise[500:4000] = 0.0
    _, _, below, above = Sessions(20).run(noise)
    missed = below + above
    assert (missed[501:4000] == 0).all()
    assert missed[4000:4500].mean() < 0.35
    assert missed[4500:].mean() == pytest.approx(0.1, abs=0.02)


def test_an_old_session_learns_as_fast_as_a_young_one() -> None:
    sessions = Sessions(1)
    sessions.rows["interval_count"][:] = 10**12
    sessions.rows["interval_square"][:] = 25.0
    sessions.run(rng(20).standard_normal((5000, 1, 1)))
    np.testing.assert_allclose(sessions.rows["interval_square"], 1.0, rtol=0.5)


@pytest.mark.parametrize("unit", [1.0, np.nan])
def test_a_spike_does_not_blind(unit: float) -> None:
    noise = rng(6).standard_normal((1500, 20, 1))
    noise[1000] = 1e6
    lower, upper, _, _ = Sessions(20).run(noise, unit=unit)
    width = (upper - lower).mean(axis=(1, 2, 3))
    assert width[1001:1010].max() < 2 * width[800:1000].mean()
    assert width[1200:].mean() < 1.15 * width[800:1000].mean()


def test_skewed_errors_get_unequal_sides() -> None:
    lower, upper, _, _ = Sessions(20).run(rng(7).exponential(1, (4000, 20, 1)) - 1)
    assert -lower[1500:].mean() == pytest.approx(1 + np.log(0.95), rel=0.05)
    assert upper[1500:].mean() == pytest.approx(-np.log(0.05) - 1, rel=0.05)


@pytest.mark.parametrize("factor", [2.0**40, 2.0**-40])
def test_units_do_not_matter(factor: float) -> None:
    values = rng(8).standard_t(3, (400, 2, 3))
    means = rng(9).standard_normal((400, 2, 2, 3))
    plain = Sessions(2, 2, 3).run(values, means, 0.7)
    scaled = Sessions(2, 2, 3).run(factor * values, factor * means, factor * 0.7)
    for ours, theirs in zip(plain[:2], scaled[:2], strict=True):
        np.testing.assert_array_equal(factor * ours, theirs)


def test_missing_values_and_forecasts_move_nothing() -> None:
    sessions = Sessions(2, 2, 2)
    sessions.run(rng(10).standard_normal((100, 2, 2)))
    mean, lower, upper, unit = sessions.issued()
    mean[0, 1, 0] = np.nan
    observed = np.array([[9.0, np.nan], [np.nan, np.nan]])
    before = {name: row.copy() for name, row in sessions.rows.items()}
    intervals.settle(sessions.shape, sessions.rows, mean, lower, upper, unit, observed)
    moved = before["interval_count"] != sessions.rows["interval_count"]
    np.testing.assert_array_equal(moved, [[[True, False], [False, False]], [[False, False], [False, False]]])
    for name in ("interval_square", "interval_reach"):
        changed = before[name] != sessions.rows[name]
        np.testing.assert_array_equal(changed, np.stack([moved, moved], axis=1), err_msg=name)
    observed[...] = np.nan
    before = {name: row.copy() for name, row in sessions.rows.items()}
    intervals.settle(sessions.shape, sessions.rows, mean, lower, upper, unit, observed)
    assert all(before[name].tobytes() == row.tobytes() for name, row in sessions.rows.items())


def test_a_forecast_that_is_missing_has_no_bounds() -> None:
    sessions = Sessions(1, 1, 2)
    sessions.run(rng(11).standard_normal((100, 1, 2)))
    lower, upper = intervals.bounds(sessions.shape, sessions.rows, np.array([[[np.nan, 1.0]]]))
    np.testing.assert_array_equal(np.isnan(lower), [[[True, False]]])
    np.testing.assert_array_equal(np.isnan(upper), [[[True, False]]])


def test_the_first_bounds_come_after_warm_up_where_gaussian_errors_would_have_them() -> None:
    horizon = 3
    signs = np.where(np.arange(40) % 2, 1.0, -1.0).reshape(-1, 1, 1)
    lower, upper, _, _ = Sessions(1, horizon, coverage=0.8).run(signs)
    for h in range(horizon):
        warm = WARM_UP + h + 1  # the first step comes before any pair of it has settled
        assert np.isnan(upper[: warm - 1, 0, h]).all()
        assert np.isnan(lower[: warm - 1, 0, h]).all()
        assert np.isfinite(upper[warm - 1 :, 0, h]).all()
        assert upper[warm - 1, 0, h, 0] == pytest.approx(NormalDist().inv_cdf(0.9), rel=1e-12)
        assert lower[warm - 1, 0, h, 0] == pytest.approx(-NormalDist().inv_cdf(0.9), rel=1e-12)


def test_a_session_has_the_same_bits_whoever_is_beside_it() -> None:
    values, means = rng(12).standard_t(3, (300, 7, 3)), rng(13).standard_normal((300, 7, 4, 3))
    values[rng(14).random(values.shape) < 0.2] = np.nan
    together = Sessions(7, 4, 3).run(values, means)
    for k in range(7):
        alone = Sessions(1, 4, 3).run(values[:, k : k + 1], means[:, k : k + 1])
        for ours, theirs in zip(together, alone, strict=True):
            assert ours[:, k].tobytes() == theirs[:, 0].tobytes()


def test_pairs_may_settle_in_any_order() -> None:
    """Each label comes up to 40 steps late, one at a time."""
    steps, count = 3000, 10
    sessions = Sessions(count)
    values, due = rng(15).standard_normal((steps, count, 1)), np.arange(steps) + rng(16).integers(0, 40, steps)
    waiting, missed = {}, []
    for n in range(steps):
        mean, unit = np.zeros((count, 1, 1)), np.ones((count, 1, 1))
        waiting[n] = mean, *intervals.bounds(sessions.shape, sessions.rows, mean), unit
        for k in sorted(waiting, reverse=True):
            if due[k] <= n:
                made = waiting.pop(k)
                if not np.isnan(made[1]).any():
                    missed.append((values[k] < made[1][:, 0]) | (values[k] > made[2][:, 0]))
                intervals.settle(sessions.shape, sessions.rows, *made, values[k])
    assert np.mean(missed) == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / (steps * count)) + 0.003)


@pytest.mark.parametrize("unit", [np.nan, 0.0, 1e-300, 1e300])
def test_bounds_are_finite_and_hold_the_forecast_whatever_comes(unit: float) -> None:
    dice = rng(17)
    values = dice.standard_normal((600, 5, 1))
    values[200:400] = 0.0  # nothing happens, then something
    values[100:600:25, 1] = 1e300
    values[:, 2] = 0.0
    values[:, 3] *= 10.0 ** dice.integers(-160, 160, (600, 1))
    values[:150, 4] = 0.0
    lower, upper, _, _ = Sessions(5).run(values, 0.0, unit)
    assert np.isfinite(lower[WARM_UP:]).all()
    assert np.isfinite(upper[WARM_UP:]).all()
    assert (lower[WARM_UP:] <= 0).all()
    assert (upper[WARM_UP:] >= 0).all()
    assert (upper[450:, [0, 4]] - lower[450:, [0, 4]] > 0.5).all()
    assert (upper[WARM_UP:, 2] == 0).all()


def test_intervals_are_as_wide_as_a_learner_says_where_it_tells_its_deviation() -> None:
    sessions, dice, inside = Sessions(10), rng(18), []
    shape, rows, mean = sessions.shape, sessions.rows, np.zeros((10, 1, 1))
    for n in range(2000):
        spread = 10.0 ** dice.uniform(-1, 1, (10, 1, 1))
        lower, upper = intervals.bounds(shape, rows, mean, spread)
        value = spread[:, 0] * dice.standard_normal((10, 1))
        intervals.settle(shape, rows, mean, lower, upper, spread, value, spread)
        if n > 500:
            inside.append((lower[:, 0] <= value) & (value <= upper[:, 0]))
            np.testing.assert_allclose((upper - lower) / spread, 3.3, rtol=0.6)
    assert np.mean(inside) == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / (1500 * 10)) + 0.003)
