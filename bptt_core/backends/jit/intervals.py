"""Intervals of forecasts, for one session in compiled code: `bptt_core/intervals.py`, number for number.

Sees forecasts and bounds, and what came of them. Array legend: H horizons, O targets, P = H · O pairs, target by target
within a horizon; sides are below and above, memories short and long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.memory import exact, f64, f64_2, i64
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.running import fmax, maximum, minimum
from bptt_core.forecasts import ForecastShape
from bptt_core.intervals import LARGEST, MEMORIES, RATE
from bptt_core.running import CAP, CAP_FROM, WARM_UP

_FIELDS: Final = ("coverage_target", "interval_count", "interval_square", "interval_reach")
NAMES: Final = ("H", "O", *_FIELDS)

_SHORT, _LONG = (int(memory) for memory in MEMORIES.ravel())


def fill(plan: Plan, shape: ForecastShape, at: Mapping[str, int], _to: Mapping[str, int]) -> None:
    """What this module needs to know of a shape."""
    plan.set(H=shape.horizon, O=shape.targets, **{name: at[name] for name in _FIELDS})


@exact
def interval_bounds(plan: Any, row: int, mean: int, spread: int, lower: int, upper: int) -> bool:
    """Bounds of the forecasts `mean` [P] made now, written to `lower` and `upper` [P]; whether one of them is NaN.

    `spread` [P] is the deviation that the learner tells of each pair; 0 if it tells none.
    """
    P = plan.H * plan.O
    count, square = i64(row + plan.interval_count, P), f64_2(row + plan.interval_square, 2, P)
    reach, means = f64_2(row + plan.interval_reach, 2, P), f64(mean, P)
    below, above, spreads = f64(lower, P), f64(upper, P), f64(spread, P)
    told, warming_up = spread != 0, False
    for p in range(P):
        scale = math.sqrt(0.5 * (square[0, p] + square[1, p]))
        if told:
            scale *= spreads[p]
        if count[p] < WARM_UP:
            scale = np.nan
        below[p] = means[p] - reach[0, p] * scale
        above[p] = means[p] + reach[1, p] * scale
        warming_up |= below[p] != below[p]
    return warming_up


@exact
def interval_settle(
    plan: Any, row: int, mean: int, lower: int, upper: int, unit: int, spread: int, observed: int
) -> None:
    """Moves reach and scale by the pairs whose value has come, in place on the session's row.

    `mean`, `lower`, `upper`, `unit` and `spread` [P] (0: none) are as they were when the pairs were made, `observed`
    [O] is what came. Where it or `mean` is NaN nothing moves.
    """
    H, O = plan.H, plan.O
    P = H * O
    means, below, above, units, spreads = f64(mean, P), f64(lower, P), f64(upper, P), f64(unit, P), f64(spread, P)
    count, square = i64(row + plan.interval_count, P), f64_2(row + plan.interval_square, 2, P)
    reach, values = f64_2(row + plan.interval_reach, 2, P), f64(observed, O)
    tail = (1 - f64(row + plan.coverage_target, 1)[0]) / 2
    rate = RATE / math.sqrt(tail * (1 - tail))
    out, back = rate * (1 - tail), rate * (0 - tail)
    told = spread != 0
    for h in range(H):
        for o in range(O):
            p, value = h * O + o, values[o]
            error, usual = value - means[p], units[p]
            if error != error:
                continue
            if below[p] == below[p]:  # a value on its bound is covered
                reach[0, p] = maximum(reach[0, p] + (out if value < below[p] else back), 0.0)
                reach[1, p] = maximum(reach[1, p] + (out if value > above[p] else back), 0.0)
            if told:
                error, usual = error / spreads[p], usual / spreads[p]
                if error != error:  # nothing was told yet, or what was told is no number
                    continue
            count[p] += 1
            size = minimum(abs(error), LARGEST)
            known, usual_square = count[p] > CAP_FROM, usual * usual
            square[0, p] = _tracked(square[0, p], size, usual_square, known, 1 / min(count[p], _SHORT))
            square[1, p] = _tracked(square[1, p], size, usual_square, known, 1 / min(count[p], _LONG))


@exact
def _tracked(square: float, size: float, usual: float, known: bool, weight: float) -> float:
    """A running mean square error, moved towards `size`²; a spike is cut to CAP scales."""
    limit = CAP * math.sqrt(fmax(square, usual))
    if known and limit > 0:  # none known, or all errors were zero: nothing to compare with
        size = minimum(size, limit)
    return square + weight * (size * size - square)
