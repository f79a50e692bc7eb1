"""The linear expert for one session in compiled code: `bptt_core/autoregression.py`, number for number.

Everything of a target is a few contiguous rows of q numbers, so all loops run along such rows. The regressors of a step
are formed where they wait for their values, in the ring. Nothing here knows other experts. Array legend: O targets, H
horizons, q regressors, C of them from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bptt_core import autoregression
from bptt_core.autoregression import (
    ERROR_LIMIT,
    FADE,
    LAGS,
    LIMIT,
    RIDGE,
    ROOTS,
    SEASONS,
    TARGET_LIMIT,
    AutoregressionShape,
)
from bptt_core.backends.jit.memory import exact, f64, f64_2, fast, i64, i64_2
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.running import limited
from bptt_core.forecasts import ForecastShape
from bptt_core.slab import Field

_FIELDS: Final = tuple(field.name for field in autoregression.fields(AutoregressionShape(1, 1, 0)))
_SCRATCH: Final = ("linear_column", "linear_spread", "linear_change")
NAMES: Final = ("H", "O", "regressors", "told", "neighbours", "others", "seasonal", *_FIELDS, *_SCRATCH)

PAST: Final = LAGS[-1] + 1
_CHANGES: Final = len(LAGS) - 1
_LAGS: Final = np.array(LAGS)
_NEWEST: Final = 1 - FADE
_LEAST: Final = (1 - FADE) * RIDGE


def fill(plan: Plan, shape: ForecastShape, at: Mapping[str, int], _to: Mapping[str, int]) -> None:
    """What this module needs to know of a shape."""
    plan.set(H=shape.horizon, O=shape.targets, seasonal=int(shape.seasonal))
    if shape.portfolio is not None:
        linear = shape.portfolio.linear
        plan.set(regressors=linear.regressors, told=linear.context, neighbours=linear.neighbours.shape[1])
        plan.set(**{name: at[name] for name in _FIELDS})
        plan.keep(others=linear.neighbours)


def scratch_fields(shape: ForecastShape) -> list[Field]:
    """What a step needs besides the state."""
    if shape.portfolio is None:
        return []
    q = shape.portfolio.linear.regressors
    sizes = (q, q, shape.targets)
    return [Field(name, (size,), np.float64) for name, size in zip(_SCRATCH, sizes, strict=True)]


@exact
def linear_step(
    plan: Any,
    row: int,
    observed: int,
    last: int,
    level: int,
    scale: int,
    stride: int,
    context: int,
    seasonal: int,
    period: int,
    ahead: int,
    scratch: int,
) -> None:
    """Takes the values `observed` [O] of one step (NaN: missing) and writes forecasts [H, O] to `ahead`, in place on
    the session's row.

    `last`, `level` [O] and `context` [O, C] are as in the reference; `scale` [H, O] has rows `stride` numbers apart. Of
    the seasonal naive forecasts `seasonal` [S, H, O] those count whose `period` [S] is above 0; without seasons none.
    """
    H, O, q = plan.H, plan.O, plan.regressors
    steps = i64(row + plan.linear_steps, 1)
    if steps[0] == 0:
        _begin(row + plan.linear_inverse, O, q)
    _settle(plan, row, steps[0], observed)
    values = f64(observed, O)
    now, turn = steps[0] % H, steps[0] % q
    ring, width = row + plan.linear_ring + 8 * now * O * (2 * q + 1), 2 * q + 1
    pairs = row + plan.linear_pair_ring + 8 * now * (1 + SEASONS) * H * O
    _change(plan, row, last, scale, scratch)
    for o in range(O):
        u = ring + 8 * o * width
        gain = u + 8 * q
        _regressors(plan, row, o, level, scale, context, u, scratch)
        learned = values[o] == values[o]
        _gain(plan, row + plan.linear_inverse + 8 * o * q * q, q, turn, u, gain, learned, scratch)
        f64(gain + 8 * q, 1)[0] = values[o]
        _forecast(plan, row, o, u, gain, last, scale, stride, seasonal, period, pairs, ahead)
    steps[0] += 1


@exact
def linear_clear(plan: Any, row: int) -> None:
    """Forgets, in place, waiting pairs and past values: the stream does not go on from the step before."""
    H, O = plan.H, plan.O
    _fill(row + plan.linear_past, O * PAST, np.nan)
    _fill(row + plan.linear_pair_ring, H * (1 + SEASONS) * H * O, np.nan)


@exact
def linear_change_season(plan: Any, row: int, s: int) -> None:
    """Forgets, in place, what was learned of the season of slot `s`, which is another one from the next step on."""
    H, O, q = plan.H, plan.O, plan.regressors
    P = H * O
    for o in range(O):
        _fill(row + plan.linear_weights + 8 * (o * (1 + SEASONS) + 1 + s) * H * q, H * q, 0.0)
    for h in range(H):
        _fill(row + plan.linear_pair_ring + 8 * (h * (1 + SEASONS) + 1 + s) * P, P, 0.0)
    for k in (s, SEASONS, SEASONS + 1 + s):
        _fill(row + plan.linear_season_moments + 8 * k * P, P, 0.0)


@exact
def _fill(address: int, count: int, number: float) -> None:
    array = f64(address, count)
    for k in range(count):
        array[k] = number


@exact
def _begin(inverse: int, O: int, q: int) -> None:
    """The inverses before the first step."""
    _fill(inverse, O * q * q, 0.0)
    for o in range(O):
        diagonal = f64(inverse + 8 * o * q * q, q * q)
        for k in range(q):
            diagonal[k * (q + 1)] = 1 / RIDGE


@fast
def _dot(a: int, b: int, count: int) -> float:
    """The product of two vectors."""
    left, right, total = f64(a, count), f64(b, count), 0.0
    for k in range(count):
        total += left[k] * right[k]
    return total


@exact
def _add(target: int, other: int, factor: float, count: int) -> None:
    """Adds a multiple of a vector to another one, in place."""
    to, by = f64(target, count), f64(other, count)
    for k in range(count):
        to[k] += by[k] * factor


@exact
def _settle(plan: Any, row: int, steps: int, observed: int) -> None:
    """The pairs that end here move weights and season moments, in place; those without a value move nothing."""
    H, O, q = plan.H, plan.O, plan.regressors
    values, means = f64(observed, O), f64_2(row + plan.linear_season_moments, 5, H * O)
    for h in range(H):
        made = (steps - 1 - h) % H
        ring = row + plan.linear_ring + 8 * made * O * (2 * q + 1)
        waited = f64_2(row + plan.linear_pair_ring + 8 * made * (1 + SEASONS) * H * O, 1 + SEASONS, H * O)
        for o in range(O):
            p, u = h * O + o, ring + 8 * o * (2 * q + 1)
            target = (values[o] - f64(u + 16 * q, 1)[0]) / waited[0, p]
            if target != target:
                continue
            weights = row + plan.linear_weights + 8 * (o * (1 + SEASONS) * H + h) * q
            error = limited(limited(target, TARGET_LIMIT) - _dot(weights, u, q), ERROR_LIMIT)
            _add(weights, u + 8 * q, error, q)
            first, second = waited[1, p], waited[2, p]
            means[0, p] += _NEWEST * (first * first - means[0, p])
            means[1, p] += _NEWEST * (second * second - means[1, p])
            means[2, p] += _NEWEST * (first * second - means[2, p])
            means[3, p] += _NEWEST * (first * error - means[3, p])
            means[4, p] += _NEWEST * (second * error - means[4, p])


@exact
def _change(plan: Any, row: int, last: int, scale: int, scratch: int) -> None:
    """Moves the past by the `last` values, in place; leaves the newest change of every target in scratch."""
    O = plan.O
    values, unit, change = f64(last, O), f64(scale, O), f64(scratch + plan.linear_change, O)
    past = f64_2(row + plan.linear_past, O, PAST)
    for o in range(O):
        for k in range(PAST - 1, 0, -1):
            past[o, k] = past[o, k - 1]
        past[o, 0] = values[o]
        change[o] = _bounded((past[o, 0] - past[o, 1]) / (unit[o] * ROOTS[0]))


@exact
def _bounded(regressor: float) -> float:
    """A regressor as it may be; 0 where nothing is known."""
    return limited(regressor, LIMIT) if regressor == regressor else 0.0


@exact
def _regressors(
    plan: Any, row: int, o: int, level: int, scale: int, context: int, regressors: int, scratch: int
) -> None:
    """Writes the regressors [q] of target `o` at this step."""
    O, C, neighbours = plan.O, plan.told, plan.neighbours
    u, change = f64(regressors, plan.regressors), f64(scratch + plan.linear_change, O)
    past, unit = f64(row + plan.linear_past + 8 * o * PAST, PAST), f64(scale, O)[o]
    for k in range(_CHANGES):
        u[k] = _bounded((past[_LAGS[k]] - past[_LAGS[k + 1]]) / (unit * ROOTS[k]))
    u[_CHANGES] = 1.0
    u[_CHANGES + 1] = _bounded(f64(level, O)[o])
    others, rest = i64_2(plan.others, O, neighbours), _CHANGES + 2
    for k in range(neighbours):
        u[rest + k] = change[others[o, k]]
    rest += neighbours
    told = f64(context + 8 * o * C, C)
    for k in range(C):
        u[rest + k] = _bounded(told[k])


@exact
def _gain(plan: Any, inverse: int, q: int, turn: int, regressors: int, gain: int, learned: bool, scratch: int) -> None:
    """Writes the gain [q] of regressors; moves the inverse [q, q] of their moments, in place, both if `learned`."""
    u, gains = f64(regressors, q), f64(gain, q)
    column, spread = f64(scratch + plan.linear_column, q), f64(scratch + plan.linear_spread, q)
    given = (1 - FADE) * q * RIDGE * learned
    turned = f64(inverse + 8 * turn * q, q)
    root = np.sqrt(given / (1 + given * turned[turn]))
    for j in range(q):
        column[j] = turned[j] * root
        spread[j] = 0.0
    for i in range(q):
        line, factor, by = f64(inverse + 8 * i * q, q), column[i], u[i]
        for j in range(q):  # a vector with itself: the inverse stays symmetric to the bit
            line[j] -= factor * column[j]
            spread[j] += by * line[j]
    fade = FADE if learned else 1.0
    whole = fade + _dot(scratch + plan.linear_spread, regressors, q)
    root = np.sqrt(learned / whole)
    for j in range(q):
        gains[j] = spread[j] / whole * learned
        spread[j] *= root
    grown = 1 / fade
    for i in range(q):
        line, factor = f64(inverse + 8 * i * q, q), spread[i]
        for j in range(q):
            line[j] = (line[j] - factor * spread[j]) * grown


@exact
def _forecast(
    plan: Any,
    row: int,
    o: int,
    u: int,
    gain: int,
    last: int,
    scale: int,
    stride: int,
    seasonal: int,
    period: int,
    pairs: int,
    ahead: int,
) -> None:
    """Forecasts target `o`, whose regressors move the weights of the seasonal forecasts; what the pairs that begin here
    are settled with is written to `pairs` [1 + S, H, O]."""
    H, O, q = plan.H, plan.O, plan.regressors
    means, kept = f64_2(row + plan.linear_season_moments, 5, H * O), f64_2(pairs, 1 + SEASONS, H * O)
    naive, forecast, periods = f64_2(seasonal, SEASONS, H * O), f64(ahead, H * O), i64(period, SEASONS)
    units, value = f64_2(scale, H, stride), f64(last, O)[o]
    for h in range(H):
        p, unit = h * O + o, units[h, o]
        weights = row + plan.linear_weights + 8 * (o * (1 + SEASONS) * H + h) * q
        base = _dot(weights, u, q)
        kept[0, p] = unit
        for s in range(SEASONS):
            weights += 8 * H * q
            known = plan.seasonal != 0 and periods[s] > 0
            left = _bounded((naive[s, p] - value) / unit) if known else 0.0
            left -= _dot(weights, u, q)
            _add(weights, gain, left, q)
            kept[1 + s, p] = left
        first, second, product = means[0, p] + _LEAST, means[1, p] + _LEAST, means[2, p]
        determinant = first * second - product * product
        one = (second * means[3, p] - product * means[4, p]) / determinant
        two = (first * means[4, p] - product * means[3, p]) / determinant
        answer = (base + kept[1, p] * one + kept[2, p] * two) * unit + value
        forecast[p] = answer if answer == answer else value
