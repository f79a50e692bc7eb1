"""How odd a value is, for one session in compiled code: `bptt_core/anomaly.py`, number for number.

Knows where the residuals, sizes and runs lie in a session's row, and nothing of who forecast. What is said of the
step's values goes to the row of the step. Array legend: O targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bptt_core import anomaly
from bptt_core.anomaly import (
    CHANGES,
    EXCESS_CAP,
    LEAST_RUN,
    LOG_LIMIT,
    LONG,
    RUN_MEMORY,
    RUNS,
    SCORE_CAP,
    SHORT,
    SIZE_MEMORY,
    SIZES,
    STRETCH,
    TAIL,
    TAIL_MEMORY,
    TAIL_RANGE,
    TAIL_RATE,
    WARM_UP,
)
from bptt_core.backends.jit.memory import exact, f64, i8, i64
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.running import blend, fmin, maximum, minimum, newest_weight
from bptt_core.forecasts import FAR_BELOW, ForecastShape
from bptt_core.running import CAP, CAP_FROM
from bptt_core.scaling import FLOOR, TINY

_TOLD: Final = ("anomaly_score", "target_anomaly_score", "anomaly_likelihood", "sensor_state")
_FIELDS: Final = tuple(field.name for field in anomaly.fields(anomaly.AnomalyShape(1)))
NAMES: Final = ("O", "to_observed", "extrapolation", *_FIELDS, *(f"to_{name}" for name in _TOLD))

MISSING, STUCK, OK = int(anomaly.MISSING), int(anomaly.STUCK), int(anomaly.OK)

_LEFT: Final = 1 - 1 / RUN_MEMORY
_UNBIASED: Final = 1 - math.exp(-EXCESS_CAP)
_LOWEST, _HIGHEST = TAIL_RANGE


def fill(plan: Plan, shape: ForecastShape, at: Mapping[str, int], to: Mapping[str, int]) -> None:
    """What this module needs to know of a shape."""
    plan.set(O=shape.targets, to_observed=to["observed"])
    plan.set(**{name: at[name] for name in _FIELDS}, **{f"to_{name}": to[name] for name in _TOLD})
    plan.keep(extrapolation=np.array([shape.oddness.extrapolation]))


@exact
def anomaly_step(plan: Any, row: int, step: int, mean: int, lower: int, upper: int, unit: int) -> None:
    """Judges the values of the step, in place on the session's row; told in the row of the step.

    `mean`, `lower`, `upper` and `unit` [O] are what was issued for them one step ago; NaN: nothing.
    """
    O = plan.O
    observed, means, units = f64(step + plan.to_observed, O), f64(mean, O), f64(unit, O)
    below, above = f64(lower, O), f64(upper, O)
    count, usual = i64(row + plan.anomaly_count, O), f64(row + plan.anomaly_size, O)
    tail, excess = f64(row + plan.anomaly_tail, O), f64(row + plan.anomaly_excess, O)
    target_score, state = f64(step + plan.to_target_anomaly_score, O), i8(step + plan.to_sensor_state, O)
    extrapolation = f64(plan.extrapolation, 1)[0]
    score, any_judged = 0.0, False
    for o in range(O):
        value, forecast = observed[o], means[o]
        stuck = _stuck(plan, row, value, o)
        state[o] = MISSING if value != value else STUCK if stuck else OK
        target_score[o] = 0.0
        residual = value - forecast
        size = abs(residual)
        if stuck or size != size:
            continue
        width = above[o] - forecast if residual > 0 else forecast - below[o]
        floor = maximum(FLOOR * fmin(abs(value), abs(forecast)), TINY)  # an absurd value must not lift it
        ratio = size / maximum(maximum(width, SIZES * usual[o]), floor)  # NaN in the interval's warm-up
        if ratio == ratio and count[o] >= WARM_UP:
            any_judged = True
            log_ratio = math.log(maximum(ratio, TINY))
            beyond = minimum(excess[o] * extrapolation, STRETCH)
            target_score[o] = math.exp(minimum(log_ratio - tail[o] - beyond, LOG_LIMIT))
            score = maximum(score, target_score[o])
            _learn_tail(plan, row, log_ratio, o)
        if size < np.inf:
            _learn_size(count, usual, size, fmin(floor, FAR_BELOW * units[o]), o)
    f64(step + plan.to_anomaly_score, 1)[0] = score
    f64(step + plan.to_anomaly_likelihood, 1)[0] = _likelihood(plan, row, score, any_judged)


@exact
def _learn_size(count: Any, usual: Any, size: float, floor: float, o: int) -> None:
    """Moves the mean size of the residuals, in place; a spike counts as `CAP` usual ones."""
    count[o] += 1
    capped = minimum(size, CAP * usual[o]) if count[o] > CAP_FROM and usual[o] > floor else size
    usual[o] = blend(usual[o], capped, newest_weight(count[o], SIZE_MEMORY))


@exact
def _learn_tail(plan: Any, row: int, log_ratio: float, o: int) -> None:
    """Moves where the tail begins, and the mean excess of those beyond, in place."""
    O = plan.O
    tail, mean, count = (
        f64(row + plan.anomaly_tail, O),
        f64(row + plan.anomaly_excess, O),
        i64(row + plan.anomaly_excesses, O),
    )
    excess = log_ratio - tail[o]
    beyond = 1.0 if excess > 0 else 0.0
    tail[o] = minimum(maximum(tail[o] + TAIL_RATE * (beyond - TAIL), _LOWEST), _HIGHEST)
    if excess > 0:
        count[o] += 1
        capped = minimum(excess, EXCESS_CAP * mean[o]) / _UNBIASED
        mean[o] = blend(mean[o], capped, newest_weight(count[o], TAIL_MEMORY))


@exact
def _likelihood(plan: Any, row: int, score: float, judged: bool) -> float:
    """How unusually high the mean of the latest scores is, 0..1; moves the running means, in place."""
    if not judged:
        return 0.0
    count = i64(row + plan.anomaly_scores, 1)
    short, long = f64(row + plan.anomaly_short, 1), f64(row + plan.anomaly_long, 1)
    square = f64(row + plan.anomaly_gap_square, 1)
    capped = minimum(score, SCORE_CAP)
    count[0] += 1
    short[0] = blend(short[0], capped, newest_weight(count[0], SHORT))
    gap = short[0] - long[0]
    sigmas = gap / math.sqrt(2 * square[0] + TINY)
    weight = newest_weight(count[0], LONG)
    long[0] = blend(long[0], capped, weight)
    warm = count[0] > WARM_UP
    newest = minimum(gap * gap, CAP * CAP * square[0]) if warm else gap * gap
    square[0] = blend(square[0], newest, weight)
    return 0.5 + 0.5 * math.erf(sigmas) if warm else 0.0


@exact
def _stuck(plan: Any, row: int, value: float, o: int) -> bool:
    """Whether the value has been repeated implausibly often; moves its run, in place."""
    if value != value:
        return False
    O = plan.O
    last, run = f64(row + plan.anomaly_last, O), i64(row + plan.anomaly_run, O)
    longest, changes = f64(row + plan.anomaly_longest_run, O), i64(row + plan.anomaly_changes, O)
    plausible = maximum(RUNS * longest[o], LEAST_RUN)
    longest[o] *= _LEFT
    if value == last[o]:
        run[o] += 1
        return bool(run[o] >= plausible and changes[o] > CHANGES)
    longest[o] = maximum(longest[o], minimum(float(run[o]), plausible))
    run[o] = 0
    last[o] = value
    changes[o] += 1
    return False
