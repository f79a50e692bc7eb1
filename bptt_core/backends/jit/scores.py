"""Running errors of what is served, for one session in compiled code: `bptt_core/scores.py`, number for number.

Knows forecasts and what came of them. Array legend: H horizons, O targets, P = H · O pairs, target by target within a
horizon, K experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bptt_core import scores
from bptt_core.aggregation import ERROR_LIMIT
from bptt_core.backends.jit.memory import exact, f64, f64_2, i64
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.running import blend, maximum, minimum, newest_weight
from bptt_core.forecasts import ForecastShape
from bptt_core.running import SCORE_MEMORY
from bptt_core.scores import MODEL, PERSISTENCE, SEASONAL

_FIELDS: Final = tuple(field.name for field in scores.fields(1, 1, 1))
NAMES: Final = ("H", "O", "K", *_FIELDS)


def fill(plan: Plan, shape: ForecastShape, at: Mapping[str, int], _to: Mapping[str, int]) -> None:
    """What this module needs to know of a shape."""
    experts = 0 if shape.portfolio is None else len(shape.portfolio.names)
    plan.set(H=shape.horizon, O=shape.targets, K=experts)
    plan.set(**{name: at[name] for name in _FIELDS if name in at})


@exact
def scores_settle(plan: Any, row: int, mean: int, persistence: int, seasonal: int, observed: int) -> None:
    """Scores the forecasts of model, persistence and season, each [P], by `observed` [O]; in place."""
    H, O = plan.H, plan.O
    P = H * O
    values, count = f64(observed, O), i64(row + plan.settled, P)
    means, naive, seasons = f64(mean, P), f64(persistence, P), f64(seasonal, P)
    square, absolute = f64_2(row + plan.score_square, 3, P), f64_2(row + plan.score_absolute, 3, P)
    for h in range(H):
        for o in range(O):
            p, value = h * O + o, values[o]
            error = abs(value - naive[p])
            if error != error:
                continue
            count[p] += 1
            weight = newest_weight(count[p], SCORE_MEMORY)
            _score(square, absolute, MODEL, p, abs(value - means[p]), weight)
            _score(square, absolute, PERSISTENCE, p, error, weight)
            _score(square, absolute, SEASONAL, p, abs(value - seasons[p]), weight)


@exact
def _score(square: Any, absolute: Any, k: int, p: int, error: float, weight: float) -> None:
    """Scores one forecast, in place."""
    square[k, p] = blend(square[k, p], error * error, weight)
    absolute[k, p] = blend(absolute[k, p], error, weight)


@exact
def scores_settle_bounds(plan: Any, row: int, lower: int, upper: int, observed: int) -> None:
    """Scores the bounds [P] by `observed` [O], in place; those of warm-up are NaN and are not counted."""
    H, O = plan.H, plan.O
    P = H * O
    values, count = f64(observed, O), i64(row + plan.bounded, P)
    bottom, top = f64(lower, P), f64(upper, P)
    coverage, widths = f64(row + plan.score_coverage, P), f64(row + plan.score_width, P)
    interval = f64(row + plan.score_interval, P)
    penalty = 2 / (1 - f64(row + plan.coverage_target, 1)[0])
    for h in range(H):
        for o in range(O):
            p = h * O + o
            below, above = bottom[p] - values[o], values[o] - top[p]
            both = below + above
            if both != both:
                continue
            count[p] += 1
            weight = newest_weight(count[p], SCORE_MEMORY)
            outside = maximum(maximum(below, above), 0.0)
            width = top[p] - bottom[p]
            coverage[p] = blend(coverage[p], 0.0 if outside > 0 else 1.0, weight)
            widths[p] = blend(widths[p], width, weight)
            interval[p] = blend(interval[p], width + penalty * outside, weight)


@exact
def scores_settle_experts(plan: Any, row: int, forecasts: int, observed: int, unit: int, sums: int) -> None:
    """Scores the experts' forecasts [P, K] in units [P], pooled over the pairs that end now; in place. `sums` [K] is
    scratch."""
    H, O, K = plan.H, plan.O, plan.K
    values, units, total = f64(observed, O), f64(unit, H * O), f64(sums, K)
    table, square, pairs = f64_2(forecasts, H * O, K), f64(row + plan.expert_square, K), 0
    for k in range(K):
        total[k] = 0.0
    for h in range(H):
        for o in range(O):
            p, value = h * O + o, values[o]
            first = abs(table[p, 0] - value) / units[p]
            if first != first:
                continue
            pairs += 1
            for k in range(K):
                error = minimum(abs(table[p, k] - value) / units[p], ERROR_LIMIT)  # first units may be next to nothing
                total[k] += error * error
    if pairs == 0:
        return
    count = i64(row + plan.expert_count, 1)
    count[0] += 1
    weight = newest_weight(count[0], SCORE_MEMORY)
    for k in range(K):
        square[k] = blend(square[k], total[k] / pairs, weight)
