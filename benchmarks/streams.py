"""Streams of numbers made by a formula, of which it is known how well they can be forecast.

Each is a function of a seed and a length and returns [n, 1], or [n, D] where it says so; the same seed gives the same
stream. `benchmarks/accuracy.py` prints how the default session forecasts them, the tests of the core hold short ones to
figures. Knows nothing of sessions and forecasts.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY, WEEK = 48, 336  # half hours
HALF_HOUR_NS: Final = 30 * 60 * 10**9
HOLIDAY_SHARE: Final = 0.03


def random_walk(seed: int, n: int) -> Floats:
    """Nothing forecasts it better than its last value."""
    return np.random.default_rng(seed).standard_normal((n, 1)).cumsum(axis=0)


def white_noise(seed: int, n: int) -> Floats:
    """Nothing forecasts it better than its mean, 5; the last value has twice that error."""
    return 5 + np.random.default_rng(seed).standard_normal((n, 1))


def autoregressive(seed: int, n: int) -> Floats:
    """x(t) = 0.7 x(t − 1) + noise of variance 1, which is the least mean squared error one step ahead; stationary."""
    noise = np.random.default_rng(seed).standard_normal(n)
    values = np.empty(n)
    values[0] = noise[0] / math.sqrt(1 - 0.49)
    for t in range(1, n):
        values[t] = 0.7 * values[t - 1] + noise[t]
    return values[:, None]


def noisy_sine(seed: int, n: int, noise: float = 0.3) -> Floats:
    """A sine of amplitude 1, whose period (19 to 61, no whole number) and phase the seed draws, and noise of this
    deviation, whose square is the least mean squared error."""
    rng = np.random.default_rng(seed)
    period, phase = rng.uniform(19, 61), rng.uniform(0, 2 * math.pi)
    values = np.sin(2 * math.pi * np.arange(n) / period + phase) + noise * rng.standard_normal(n)
    return values[:, None]


def noisy_chaos(seed: int, n: int) -> Floats:
    """The logistic map at 3.7, observed with noise of deviation 0.05: nothing linear forecasts it, a network does."""
    rng = np.random.default_rng(seed)
    values = np.empty(n)
    values[0] = rng.uniform(0.2, 0.8)
    for t in range(1, n):
        values[t] = 3.7 * values[t - 1] * (1 - values[t - 1])
    return (values + 0.05 * rng.standard_normal(n))[:, None]


def threshold_autoregressive(seed: int, n: int) -> Floats:
    """Two regimes that the sign two steps back chooses between (Tong & Lim 1980), with noise of variance 0.09, which is
    the least mean squared error one step ahead."""
    noise = 0.3 * np.random.default_rng(seed).standard_normal(n)
    values = np.zeros(n)
    for t in range(2, n):
        values[t] = (0.9 * values[t - 1] if values[t - 2] > 0 else -0.9 * values[t - 1] - 0.5) + noise[t]
    return values[:, None]


def level_shift(seed: int, n: int, at: int, size: float = 20.0) -> Floats:
    """The autoregressive stream, `size` higher from event `at` on: 14 of its deviations."""
    values = autoregressive(seed, n)
    values[at:] += size
    return values


def variance_change(seed: int, n: int, at: int, factor: float = 5.0) -> Floats:
    """The autoregressive stream, its noise (and so all of it) `factor` times as large from event `at` on."""
    values = autoregressive(seed, n)
    values[at:] *= factor
    return values


def related_channels(seed: int, n: int) -> Floats:
    """Three channels [n, 3] of noise around sines of period 24, each of which tells of the others."""
    rng = np.random.default_rng(seed)
    t = np.arange(n)[:, None]
    return np.sin(2 * math.pi * t / 24 + np.array([0.0, 1.0, 2.0])) + 0.3 * rng.standard_normal((n, 3))


def with_missing(values: Floats, share: float, seed: int = 0) -> Floats:
    """A copy in which each value is missing (NaN) with this probability, whatever became of the others."""
    gone = np.random.default_rng([seed, 1]).random(values.shape) < share
    return np.where(gone, np.nan, values)


def half_hour_counts(seed: int, n: int, usual: float = 200.0) -> Floats:
    """Counts by the half hour: two daily harmonics times two weekly ones, slow busy and quiet spells, Poisson noise.

    On 3 % of the days, holidays that the seed draws, half as much happens.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    daily = 1 + _harmonics(rng, t, DAY, 0.6, 0.25)
    weekly = 1 + _harmonics(rng, t, WEEK, 0.25, 0.1)
    holiday = np.where(rng.random(n // DAY + 1) < HOLIDAY_SHARE, 0.5, 1.0)[t // DAY]
    spell = np.empty(n)
    shocks = rng.standard_normal(n)
    spell[0] = shocks[0]
    for s in range(1, n):
        spell[s] = 0.95 * spell[s - 1] + math.sqrt(1 - 0.95**2) * shocks[s]
    rate = usual * np.maximum(daily * weekly, 0.02) * holiday * np.exp(0.05 * spell)
    return rng.poisson(rate).astype(float)[:, None]


def half_hours(n: int) -> NDArray[np.int64]:
    """Timestamps [n] in nanoseconds, half an hour apart, from the beginning of a Monday on."""
    return 1_704_067_200 * 10**9 + HALF_HOUR_NS * np.arange(n, dtype=np.int64)


def _harmonics(rng: np.random.Generator, t: NDArray[np.int64], period: int, first: float, second: float) -> Floats:
    """Two of them, of these amplitudes and of phases that are drawn."""
    angle = 2 * math.pi * t / period
    phases = rng.uniform(0, 2 * math.pi, 2)
    wave: Floats = first * np.sin(angle + phases[0]) + second * np.sin(2 * angle + phases[1])
    return wave
