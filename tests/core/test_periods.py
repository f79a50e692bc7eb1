"""Seasons are found where there are any, and in nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt_core.periods import LONGEST, WINDOW, find

Values = Any
NONE = (0, 0)
T = np.arange(WINDOW)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """As the fold calls it."""
    with np.errstate(all="ignore"):
        yield


def noise(seed: int, *shape: int) -> Values:
    return np.random.default_rng(seed).standard_normal(shape or (WINDOW,))


def search(*targets: Values, current: tuple[int, int] = NONE) -> tuple[int, int]:
    return find(np.stack(targets, axis=1), current)


def profile(seed: int, period: int) -> Values:
    """A season that is as rough as can be."""
    return noise(seed, period)[T % period]


def half_hour_counts(seed: int) -> Values:
    """Day and week in half hours: two harmonics, quieter weekends, holidays, noise."""
    rng, day = np.random.default_rng(seed), T % 48
    shape = 1 + 0.8 * np.sin(2 * np.pi * (day - 14) / 48) + 0.35 * np.sin(4 * np.pi * (day - 5) / 48)
    holiday = (rng.random(WINDOW // 48 + 1) < 0.03)[T // 48]
    busy = np.where(holiday, 0.4, np.where(T // 48 % 7 >= 5, 0.55, 1.0))
    return rng.poisson(20 * np.maximum(shape, 0.05) * busy + 4).astype(float)


def autoregression(seed: int, *weights: float) -> Values:
    x, e = np.zeros(WINDOW + 500), noise(seed, WINDOW + 500)
    for t in range(len(weights), len(x)):
        x[t] = sum(w * x[t - 1 - k] for k, w in enumerate(weights)) + e[t]
    return x[500:]


WITHOUT = {
    "white noise": noise,
    "heavy tails": lambda seed: np.random.default_rng(seed).standard_t(2, WINDOW),
    "random walk": lambda seed: noise(seed).cumsum(),
    "heavy-tailed walk": lambda seed: np.random.default_rng(seed).standard_t(2.5, WINDOW).cumsum(),
    "trend": lambda seed: 0.01 * T + noise(seed),
    "parabola": lambda seed: 1e-5 * T * T + 0.1 * noise(seed),
    "mean reversion": lambda seed: autoregression(seed, 0.97),
    "fading cycles": lambda seed: autoregression(seed, 1.8 * np.cos(0.3), -0.81),
    "level shifts": lambda seed: (
        noise(seed) + 5 * np.where(np.random.default_rng(seed).random(WINDOW) < 0.003, 1, 0).cumsum()
    ),
    "rare bursts": lambda seed: np.where(np.random.default_rng(seed).random(WINDOW) < 0.02, np.abs(noise(seed)), 0),
}


@pytest.mark.parametrize("name", WITHOUT)
@pytest.mark.parametrize("size", [256, 1024, WINDOW])
def test_no_season_is_found_where_there_is_none(name: str, size: int) -> None:
    for seed in range(5):
        assert find(WITHOUT[name](seed)[-size:, None], NONE) == NONE


@pytest.mark.parametrize("period", [4, 7, 24, 96, 365, 672, LONGEST])
def test_a_season_is_found_on_a_wandering_level(period: int) -> None:
    assert search(3 * profile(period, period) + noise(1).cumsum()) == (period, 0)


@pytest.mark.parametrize("period", [10, 48, 300])
def test_a_season_without_any_noise_is_found(period: int) -> None:
    assert search(profile(0, period)) == (period, 0)
    assert search(np.sin(2 * np.pi * T / period)) == (period, 0)


@pytest.mark.parametrize(("period", "found"), [(17.3, {17, 18}), (99.6, set(range(96, 104))), (5.5, {5, 6, 11})])
def test_a_noisy_sine_is_found_at_the_steps_next_to_its_period(period: float, found: set[int]) -> None:
    for seed in range(5):
        first, second = search(np.sin(2 * np.pi * T / period + seed) + 0.5 * noise(seed))
        assert first in found
        assert second == 0


def test_day_and_week_of_half_hour_counts_are_both_found() -> None:
    for seed in range(5):
        assert search(half_hour_counts(seed)) == (48, 336)


def test_a_day_of_changing_size_is_no_week() -> None:
    size = 1 + 0.3 * np.repeat(autoregression(3, 0.8)[: WINDOW // 24 + 1], 24)[:WINDOW]
    assert search(np.sin(2 * np.pi * T / 24) * size + 0.3 * noise(4)) == (24, 0)


def test_one_target_is_enough_whatever_the_scales_of_the_others_and_dead_ones_among_them() -> None:
    season = profile(5, 24) + 0.5 * noise(6)
    others = [1e90 * noise(7).cumsum(), np.full(WINDOW, 3.7), np.full(WINDOW, np.nan), 1e-60 * noise(8)]
    assert search(*others, 1e-30 * season + 1e-25, *others[:2]) == (24, 0)
    assert search(*others) == NONE


def test_missing_values_and_spikes_hide_no_season() -> None:
    season = profile(9, 24) + 0.5 * noise(10)
    season[np.random.default_rng(11).random(WINDOW) < 0.5] = np.nan
    season[:300] = np.nan
    season[1000], season[1500] = 1e38, -1e15
    assert search(season) == (24, 0)
    every_third = np.where(T % 3 == 0, profile(12, 24) + 0.5 * noise(13), np.nan)
    assert search(every_third) == (24, 0)


def test_a_season_too_faint_to_forecast_by_is_none() -> None:
    season = profile(19, 24) / profile(19, 24).std()
    assert search(0.3 * season + noise(20)) == NONE, "a twelfth of the variance"
    assert search(0.8 * season + noise(20)) == (24, 0)


def test_little_data_makes_no_season() -> None:
    sparse = [np.where(noise(seed) > 2, noise(seed + 50), np.nan) for seed in range(10)]
    assert [search(values) for values in sparse] == [NONE] * 10
    for seed in range(20):
        day = np.sin(2 * np.pi * T / 12) + 0.7 * noise(seed)
        assert find(day[:256, None], NONE)[1] == 0, "one season and no second"


def test_the_rounding_of_a_constant_is_no_season() -> None:
    assert search(1e6 + 2e-10 * (T % 7)) == NONE


@pytest.mark.parametrize("value", [np.nan, 0.0, 0.1, -1e200])
def test_a_stream_that_never_changes_has_no_season(value: float) -> None:
    assert search(np.full(WINDOW, value)) == NONE
    assert search(np.full(WINDOW, value), current=(24, 168)) == (24, 168)


def test_a_season_stays_when_it_fades_and_makes_way_for_a_better_one() -> None:
    assert search(noise(14), current=(24, 168)) == (24, 168)
    for seed in range(5):
        sine = np.sin(2 * np.pi * T / 17.5) + 0.3 * noise(seed)
        assert search(sine, current=(17, 0)) == (17, 0)
        assert search(sine, current=(18, 0)) == (18, 0)
    assert search(profile(15, 24) + 0.3 * noise(16), current=(31, 0)) == (24, 0)
    assert search(profile(15, 24) + 0.3 * noise(16), current=(48, 0)) == (24, 0), "the fundamental one"
    assert search(half_hour_counts(17), current=(48, 672)) == (48, 672), "as good as 336"
    assert search(half_hour_counts(17), current=(48, 240)) == (48, 336)


def test_the_scale_of_a_stream_changes_nothing() -> None:
    values = half_hour_counts(18)
    assert search(values * 2.0**300) == search(values) == search(values * 2.0**-300)
