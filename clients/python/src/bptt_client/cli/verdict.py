"""Whether one of two forecasters is better, or the difference may be chance: a test that respects autocorrelation.

Diebold and Mariano (1995) ask whether the mean difference of losses is far from 0 in units of its own spread. Forecasts
of several steps overlap, so their losses are correlated, and the spread is estimated with autocovariances that fade out
linearly (Newey and West 1987). As many as the horizon would leave twice the errors that are promised; they reach twice
as far, and at least over the 1.3 √n of Lazarus, Lewis, Stock and Watson (2018), and the critical value allows for what
so many cost (Kiefer and Vogelsang 2005; for forecasts Coroneo and Iacone 2020). Knows numbers only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

LEVEL: Final = 0.05  # two-sided
FEWEST_STEPS: Final = 50
_NORMAL: Final = 1.96  # critical value at LEVEL if the spread were known


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is better at `LEVEL`: 1 the second, -1 the first, 0 it is not clear. The statistic and its p-value (NaN: too
    few steps), which is exact near `LEVEL`; the mean of first loss - second; over how many steps and lags.
    """

    better: Literal[-1, 0, 1]
    statistic: float
    p_value: float
    difference: float
    steps: int
    lags: int


def judge(differences: NDArray[np.float64], horizon: int) -> Verdict:
    """The verdict on losses of the first minus losses of the second [n], step by step, of forecasts that reach
    `horizon` steps ahead.
    """
    steps = len(differences)
    lags = max(2 * (horizon - 1), math.floor(1.3 * math.sqrt(steps)))
    mean = float(differences.mean()) if steps else math.nan
    if steps < max(FEWEST_STEPS, 4 * (lags + 1)):
        return Verdict(0, math.nan, math.nan, mean, steps, lags)
    spread = math.sqrt(_long_run_variance(differences - mean, lags) / steps)
    statistic = mean / spread if spread > 0.0 else math.copysign(math.inf, mean) if mean else 0.0
    p_value = math.erfc(abs(statistic) * _NORMAL / _critical_value((lags + 1) / steps) / math.sqrt(2.0))
    better: Literal[-1, 0, 1] = 0 if p_value >= LEVEL else 1 if mean > 0.0 else -1
    return Verdict(better, statistic, p_value, mean, steps, lags)


def _long_run_variance(centred: NDArray[np.float64], lags: int) -> float:
    """Newey and West's estimate, never negative: autocovariances weighted by 1 - lag / (lags + 1)."""
    steps = len(centred)
    total = float(centred @ centred)
    for lag in range(1, lags + 1):
        total += 2.0 * (1.0 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag])
    return max(total / steps, 0.0)


def _critical_value(share: float) -> float:
    """Of the statistic at `LEVEL`, where the autocovariances reach over this share of the steps: Kiefer and Vogelsang's
    polynomial.
    """
    return _NORMAL + 2.9694 * share + 0.4160 * share**2 - 0.5324 * share**3
