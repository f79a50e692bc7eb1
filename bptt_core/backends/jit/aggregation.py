"""How far each expert is trusted, for one session in compiled code: `bptt_core/aggregation.py`, number for number.

Knows neither what an expert is nor in which unit values come. Array legend: H horizons, O targets, P = H · O pairs,
target by target within a horizon, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bptt_core.aggregation import ERROR_LIMIT, FADE, LEAST, NARROWEST, SHARE
from bptt_core.backends.jit.memory import exact, f64, f64_2
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.running import limited, maximum
from bptt_core.forecasts import ForecastShape

_FIELDS: Final = ("aggregate_range", "aggregate_regret", "aggregate_variance", "aggregate_score")
NAMES: Final = ("H", "O", "K", "log_prior", "patience", *_FIELDS)

_LOG_SHARE: Final = math.log(SHARE)


def fill(plan: Plan, shape: ForecastShape, at: Mapping[str, int], _to: Mapping[str, int]) -> None:
    """What this module needs to know of a shape."""
    plan.set(H=shape.horizon, O=shape.targets, K=0)
    if shape.portfolio is not None:
        plan.set(K=len(shape.portfolio.names), **{name: at[name] for name in _FIELDS})
        plan.keep(log_prior=shape.weighting.log_prior, patience=shape.weighting.patience)


@exact
def aggregation_weights(plan: Any, row: int, weight: int) -> None:
    """Writes what forecasts made now are weighted with, [P, K]; positive, with sum 1 over K."""
    P, K = plan.H * plan.O, plan.K
    weights, score, prior = f64_2(weight, P, K), f64_2(row + plan.aggregate_score, P, K), f64(plan.log_prior, K)
    for p in range(P):
        most, total = score[p, 0] + prior[0], 0.0
        for k in range(1, K):
            most = maximum(score[p, k] + prior[k], most)
        for k in range(K):
            weights[p, k] = math.exp(score[p, k] + prior[k] - most)
            total += weights[p, k]
        for k in range(K):
            weights[p, k] /= total


@exact
def aggregation_mix(plan: Any, weight: int, forecasts: int, mean: int) -> None:
    """Writes the weighted mean [P] of forecasts [P, K]: exactly theirs where all agree."""
    P, K = plan.H * plan.O, plan.K
    weights, table, means = f64_2(weight, P, K), f64_2(forecasts, P, K), f64(mean, P)
    for p in range(P):
        first, total = table[p, 0], 0.0
        for k in range(K):
            total += weights[p, k] * (table[p, k] - first)
        means[p] = first + total


@exact
def aggregation_settle(plan: Any, row: int, forecasts: int, mixed: int, observed: int, unit: int) -> None:
    """Learns from the pairs that end now, in place on the session's row.

    `forecasts` [P, K] and their aggregate `mixed` [P] are as issued; `observed` [O] is the value that came; `unit` [P]
    the size of a usual error as known then. Where one of them is NaN nothing moves.
    """
    H, O, K = plan.H, plan.O, plan.K
    means, values, units, patience = f64(mixed, H * O), f64(observed, O), f64(unit, H * O), f64(plan.patience, H)
    for h in range(H):
        for o in range(O):
            p = h * O + o
            limit = ERROR_LIMIT * units[p]
            error = limited(means[p] - values[o], limit)
            factor = 2 * error / (units[p] * units[p])
            if factor == factor:
                _settle(plan, row, p, forecasts + 8 * K * p, means[p], factor, patience[h])


@exact
def _settle(plan: Any, row: int, p: int, forecasts: int, mixed: float, factor: float, patience: float) -> None:
    """Learns from one pair; the regret towards an expert is `factor` times how far `mixed` is from its forecast."""
    K, skipped = plan.K, 8 * p * plan.K
    told, prior = f64(forecasts, K), f64(plan.log_prior, K)
    span, regret = f64(row + plan.aggregate_range + skipped, K), f64(row + plan.aggregate_regret + skipped, K)
    variance, score = f64(row + plan.aggregate_variance + skipped, K), f64(row + plan.aggregate_score + skipped, K)
    widest, largest = 0.0, 0.0
    for k in range(K):
        size = abs((mixed - told[k]) * factor)
        widest, largest = maximum(widest, maximum(FADE * span[k], size)), maximum(largest, size)
    if not largest > LEAST:  # a pair on which all agree, or without an error, teaches nothing; nor does NaN
        return
    least = -np.inf
    for k in range(K):
        newest = (mixed - told[k]) * factor
        wide = maximum(maximum(FADE * span[k], abs(newest)), NARROWEST * widest)
        newest /= wide
        kept = span[k] / wide  # evidence so far in units of the new range
        square = newest * newest
        spread = kept * kept * (FADE * variance[k]) + square
        rate = np.sqrt(patience / maximum(spread, 4 * patience))  # η E, at most 1/2
        evidence = newest - square * rate + kept * (FADE * regret[k])
        span[k], variance[k], regret[k] = wide, spread, evidence
        score[k] = math.log(widest / wide * rate) + rate * evidence
        least = maximum(least, score[k] + prior[k])
    least += _LOG_SHARE
    for k in range(K):
        raised = maximum(score[k], least)
        if raised != score[k]:
            regret[k] += (raised - score[k]) / np.sqrt(patience / maximum(variance[k], 4 * patience))
            score[k] = raised
