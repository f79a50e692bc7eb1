"""Whether the stream has changed for good, for one session in compiled code: `bptt_core/drift.py`, number for number.

Knows errors in usual ones, and nothing of where they come from. Array legend: O targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bptt_core import drift
from bptt_core.backends.jit.memory import exact, f64, f64_2, i64
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.running import blend, limited, maximum, minimum, newest_weight
from bptt_core.drift import (
    ALLOWED,
    CORRELATION_LIMIT,
    DEVIATION_FLOOR,
    LEAST,
    MEMORY,
    MOST,
    STEP_LIMIT,
    WARM_UP,
)
from bptt_core.forecasts import ForecastShape
from bptt_core.scaling import TINY

_FIELDS: Final = tuple(field.name for field in drift.fields(drift.DriftShape(1)))
NAMES: Final = ("O", "drift_threshold", *_FIELDS)


def fill(plan: Plan, shape: ForecastShape, at: Mapping[str, int], _to: Mapping[str, int]) -> None:
    """What this module needs to know of a shape."""
    plan.set(O=shape.targets, **{name: at[name] for name in _FIELDS})
    plan.keep(drift_threshold=np.array([shape.change.threshold]))


@exact
def drift_step(plan: Any, row: int, observed: int, mean: int, unit: int) -> bool:
    """Takes the errors of one step, in place on the session's row; returns whether they are a drift.

    `observed` [O] are the step's values, `mean` and `unit` [O] what was issued for them one step ago.
    """
    O = plan.O
    values, means, units = f64(observed, O), f64(mean, O), f64(unit, O)
    sums, threshold = f64_2(row + plan.drift_sums, 2, O), f64(plan.drift_threshold, 1)[0]
    any_seen, larger, smaller = False, False, False
    for o in range(O):
        error = (values[o] - means[o]) / units[o]
        if error == error:
            any_seen = True
            _take(plan, row, error, o)
        larger |= sums[0, o] > threshold
        smaller |= sums[1, o] > threshold
    since = i64(row + plan.drift_since, 1)
    since[0] += any_seen
    if larger or smaller:
        _begin_anew(plan, row)
    if larger:
        i64(row + plan.drift_count, 1)[0] += 1
        since[0] = 0
    return larger


@exact
def _usual_errors(plan: Any, row: int) -> Any:
    """Count, mean, square, product with the one before, that one [O], and the sums [2, O] of all targets."""
    O = plan.O
    return (
        i64(row + plan.drift_errors, O),
        f64(row + plan.drift_mean, O),
        f64(row + plan.drift_square, O),
        f64(row + plan.drift_product, O),
        f64(row + plan.drift_last, O),
        f64_2(row + plan.drift_sums, 2, O),
    )


@exact
def _take(plan: Any, row: int, error: float, o: int) -> None:
    """Moves the sums of one target, and then what its errors usually are, in place."""
    count, mean, square, product, last, sums = _usual_errors(plan, row)
    level = math.log(min(max(abs(error), LEAST), MOST))
    deviation = level - mean[o]
    if count[o] >= WARM_UP:
        usual = maximum(math.sqrt(square[o] * _inflation(square[o], product[o])), DEVIATION_FLOOR)
        step = limited(deviation / usual, STEP_LIMIT)
        allowed = ALLOWED + 1 / math.sqrt(float(max(count[o], 1)))
        sums[0, o] = maximum(sums[0, o] + step - allowed, 0.0)
        sums[1, o] = maximum(sums[1, o] - step - allowed, 0.0)
    count[o] += 1
    weight = newest_weight(count[o], MEMORY)
    mean[o] = blend(mean[o], level, weight)
    product[o] = blend(product[o], deviation * last[o], weight)
    last[o] = deviation
    square[o] = blend(square[o], (1 - weight) * (deviation * deviation), weight)


@exact
def _begin_anew(plan: Any, row: int) -> None:
    """Forgets the usual errors and the sums of all targets, in place."""
    count, mean, square, product, last, sums = _usual_errors(plan, row)
    for o in range(plan.O):
        count[o] = 0
        mean[o] = square[o] = product[o] = last[o] = sums[0, o] = sums[1, o] = 0.0


@exact
def _inflation(square: float, product: float) -> float:
    """How much more a sum of correlated deviations varies than one of independent ones."""
    correlation = minimum(maximum(product / maximum(square, TINY), 0.0), CORRELATION_LIMIT)
    return (1 + correlation) / (1 - correlation)
