"""The first stage of the fold in compiled code: `bptt_core/scaling.py` for one step of one session.

The same numbers in the same order; what a step gives lies in its row (`steps.py`), inputs and targets as learners take
them. It knows forecasts of numbers only: sessions with labels and those that predict symbols stay on the reference.

Array legend: N numeric features, O targets, H horizons, A anchors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit import context, periods
from bptt_core.backends.jit.calendars import calendar, usual_seasons
from bptt_core.backends.jit.context import context_inputs, context_told
from bptt_core.backends.jit.memory import exact, f32, f32_2, f64, f64_3, f64_4, i8, i64, i64_3
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.running import fmax, fmin, limited, track_level, track_square_and_recent
from bptt_core.backends.jit.seasons import (
    seasons_fill,
    seasons_naive,
    seasons_remember,
    seasons_search,
    seasons_skip,
    seasons_step,
)
from bptt_core.forecasts import ForecastShape
from bptt_core.learner_config import SEASON_ANCHORS
from bptt_core.periods import TARGETS, WINDOW
from bptt_core.scales import FIXED_LIMIT, INPUT_LIMIT, ScalingShape
from bptt_core.scaling import FLOOR, LEVEL_GAIN, LEVEL_MEMORY, RESIDUAL_MEMORY, TINY
from bptt_core.seasons import SLOTS
from bptt_core.shape import Shape
from bptt_core.slab import Field, Layout

LAST_VALUE: Final = -1  # what an anchor is, if it is not the season of a slot …
NONE: Final = -2

_STATE: Final = (
    "last_value", "given_mean", "given_deviation", "level_count", "level_mean", "level_square", "difference_count",
    "difference_square", "difference_recent", "difference_from", "steps", "anchor_ring", "scale_ring",
    "residual_count", "residual_square", "residual_recent", "season_steps", "season_place", "season_period",
    "season_ring",
)  # fmt: skip
_STEP: Final = (
    "inputs", "arrived", "changed", "observed", "last", "level", "deviation", "anchor", "scale", "period", "naive",
    "context",
)  # fmt: skip
_SCRATCH: Final = ("floor", "ago", "usual", "window", "search")
# Tables: positions of the numeric features, of the targets among them and among all, what each anchor is, the given
# seasons, and of each input that stands for a symbol its feature and its code.
_TABLES: Final = ("numbers", "places", "targets", "anchors", "given", "symbol_of", "symbol")
_SIZES: Final = (
    "N", "O", "H", "A", "fixed", "differences", "seasonal", "searches", "length", "symbols", "context_at", "symbols_at",
)  # fmt: skip
NAMES: Final = (
    *_SIZES,
    *_TABLES,
    *_STATE,
    *(f"to_{name}" for name in _STEP),
    *(f"scratch_{name}" for name in _SCRATCH),
    *context.NAMES,
)


def supports(shape: Shape) -> bool:
    """Whether sessions of this shape can be scaled here."""
    return shape.scaling.ahead == 1 and shape.scaling.numeric and isinstance(shape.served, ForecastShape)


def scale_plan(shape: Shape, at: Mapping[str, int], to: Mapping[str, int]) -> tuple[Plan, int]:
    """The record of a shape, given the offsets `at` of the session's fields and `to` in the step's row; and the bytes
    of scratch that a step needs."""
    plan, scales, scratch = Plan(NAMES), shape.scaling, Layout.of(_scratch_fields(shape.scaling))
    own = scales.inputs - scales.context - sum(scales.symbols)
    plan.set(
        N=len(scales.numbers),
        O=scales.outputs,
        H=scales.horizon,
        A=len(scales.anchors),
        fixed=scales.fixed,
        differences=scales.differences,
        seasonal=scales.seasons is not None,
        symbols=sum(scales.symbols),
        context_at=own,
        symbols_at=own + scales.context,
    )
    plan.set(**{name: at[name] for name in _STATE if name in at})
    plan.set(**{f"to_{name}": to[name] for name in _STEP})
    plan.set(**{f"scratch_{name}": offset for name, offset in scratch.offsets.items()})
    _keep_tables(plan, scales)
    if scales.seasons is not None:
        plan.set(searches=scales.seasons.searches, length=scales.seasons.length)
        plan.keep(given=scales.seasons.slots)
        context.fill(plan, scales.context_shape)
    return plan, scratch.bytes


def _scratch_fields(scales: ScalingShape) -> list[Field]:
    fields = [Field("floor", (len(scales.numbers),), np.float64)]
    if scales.seasons is not None:
        fields += [Field("ago", (SLOTS, scales.outputs), np.float64), Field("usual", (SLOTS,), np.int64)]
        if scales.seasons.searches:
            seen = min(scales.outputs, TARGETS)
            fields.append(Field("window", (WINDOW, seen), np.float64))
            fields.append(Field("search", (periods.scratch_bytes(seen),), np.int8))
    return fields


def _keep_tables(plan: Plan, scales: ScalingShape) -> None:
    kinds = {"last_value": LAST_VALUE, "none": NONE} | {name: slot for slot, name in enumerate(SEASON_ANCHORS)}
    feature, code = scales.one_hot
    plan.keep(
        numbers=np.array(scales.numbers, np.int64),
        places=np.array(scales.places, np.int64),
        targets=np.array(scales.targets, np.int64),
        anchors=np.array([kinds[name] for name in scales.anchors], np.int64),
        symbol_of=np.array(feature, np.int64),
        symbol=code,
    )


@exact
def scale_step(
    plan: Any, row: int, step: int, values: int, timed: bool, time_ns: int, period_ns: int, scratch: int
) -> None:
    """Takes the `values` of one step of the session at `row`, NaN: missing, and writes what it gives to `step`.

    `timed` is whether the step has a time, `time_ns`; `period_ns` is the time from step to step, 0: not known.
    """
    if plan.fixed:
        _fixed_inputs(plan, row, step, values)
    else:
        _online_inputs(plan, row, step, values, scratch + plan.scratch_floor)
    _what_was_seen(plan, row, step, values)
    _arrive(plan, row, step, scratch + plan.scratch_floor)
    if plan.seasonal:
        _look_back(plan, row, step, timed, period_ns, scratch)
    _begin(plan, row, step, scratch + plan.scratch_floor)
    if plan.seasonal:
        told = step + plan.to_context + 8 * SLOTS * (1 + plan.followed)
        calendar(time_ns, timed, period_ns, told)
        context_told(plan, step, scratch + plan.scratch_ago)
        context_inputs(plan, step, step + plan.to_inputs + 4 * plan.context_at)
    _symbols(plan, step, values)


@exact
def scale_clear(plan: Any, row: int, jump: int) -> None:
    """Forgets what came before the next step, which lies `jump` steps further on than it should."""
    if plan.differences:
        f64(row + plan.difference_from, plan.N)[:] = np.nan
    f64(row + plan.anchor_ring, plan.H * plan.H * plan.A * plan.O)[:] = np.nan
    if plan.seasonal:
        seasons_skip(
            row + plan.season_place, row + plan.season_period, row + plan.season_ring, plan.length, plan.O, jump
        )


@exact
def _online_inputs(plan: Any, row: int, step: int, values: int, floors: int) -> None:
    """Moves level and difference statistics, and writes the scaled inputs of the numeric features.

    The newest value is part of the statistics that scale it. A missing value is replaced by the last observed one.
    """
    N, differences, numbers, floor = plan.N, plan.differences, i64(plan.numbers, plan.N), f64(floors, plan.N)
    last, count = f64(row + plan.last_value, N), i64(row + plan.level_count, N)
    mean, square = f64(row + plan.level_mean, N), f64(row + plan.level_square, N)
    inputs = f32(step + plan.to_inputs, (2 + differences) * N)
    for k in range(N):
        value = f64(values + 8 * numbers[k], 1)[0]
        floor[k] = fmax(FLOOR * fmin(fmin(abs(value), abs(last[k])), abs(mean[k])), TINY)
        track_level(count, mean, square, k, value, floor[k], LEVEL_MEMORY)
        if value == value:
            last[k] = value
        level = (last[k] - mean[k]) / (np.sqrt(square[k]) + floor[k])
        if differences:
            change = _difference(plan, row, k, value, floor[k])
            inputs[k], inputs[N + k] = _input(LEVEL_GAIN * level, INPUT_LIMIT), _input(change, INPUT_LIMIT)
        else:
            inputs[k] = _input(level, INPUT_LIMIT)
        inputs[(1 + differences) * N + k] = value != value


@exact
def _difference(plan: Any, row: int, k: int, value: float, floor: float) -> float:
    """The scaled difference to the value before, of which the statistics move."""
    count, square = i64(row + plan.difference_count, plan.N), f64(row + plan.difference_square, plan.N)
    before = f64(row + plan.difference_from, plan.N)
    difference = value - before[k]
    track_square_and_recent(
        count, square, f64(row + plan.difference_recent, plan.N), k, difference, floor, RESIDUAL_MEMORY
    )
    if value == value:
        before[k] = value
    return float(difference / (np.sqrt(square[k]) + floor))


@exact
def _input(value: float, limit: float) -> float:
    """Within the limit; 0 for what is not known."""
    return limited(value, limit) if value == value else 0.0


@exact
def _fixed_inputs(plan: Any, row: int, step: int, values: int) -> None:
    """The numeric features by their given mean and deviation; 0 where a value is missing."""
    N, numbers, last = plan.N, i64(plan.numbers, plan.N), f64(row + plan.last_value, plan.N)
    inputs = f32(step + plan.to_inputs, N)
    for k in range(N):
        place = 8 * numbers[k]
        value = f64(values + place, 1)[0]
        mean, deviation = f64(row + plan.given_mean + place, 1)[0], f64(row + plan.given_deviation + place, 1)[0]
        inputs[k] = _input((value - mean) / deviation, FIXED_LIMIT)
        if value == value:
            last[k] = value


@exact
def _what_was_seen(plan: Any, row: int, step: int, values: int) -> None:
    """Writes the targets' values, last values, level and deviation."""
    N, O, places, targets = plan.N, plan.O, i64(plan.places, plan.O), i64(plan.targets, plan.O)
    observed, last = f64(step + plan.to_observed, O), f64(step + plan.to_last, O)
    level, deviation = f64(step + plan.to_level, O), f64(step + plan.to_deviation, O)
    for o in range(O):
        place, target = places[o], 8 * targets[o]
        observed[o] = f64(values + target, 1)[0]
        last[o] = f64(row + plan.last_value, N)[place]
        if plan.fixed:
            level[o] = f64(row + plan.given_mean + target, 1)[0]
            deviation[o] = f64(row + plan.given_deviation + target, 1)[0]
        else:
            level[o] = f64(row + plan.level_mean, N)[place]
            deviation[o] = np.sqrt(f64(row + plan.level_square, N)[place])


@exact
def _arrive(plan: Any, row: int, step: int, floors: int) -> None:
    """The pairs that end here meet the value of their target: writes the scaled targets."""
    H, A, O, fixed = plan.H, plan.A, plan.O, plan.fixed
    places, floor, observed = i64(plan.places, O), f64(floors, plan.N), f64(step + plan.to_observed, O)
    anchor, arrived = f64_4(row + plan.anchor_ring, H, H, A, O), f32_2(step + plan.to_arrived, A * H, O)
    unit = f64_4(row + plan.scale_ring, H, H, A, O)
    count, square, recent = (
        i64(row + plan.residual_count, H * A * O),
        f64(row + plan.residual_square, H * A * O),
        f64(row + plan.residual_recent, H * A * O),
    )
    given, limit = f64(step + plan.to_deviation, O), FIXED_LIMIT if fixed else INPUT_LIMIT
    steps = i64(row + plan.steps, 1)[0]
    for h in range(H):
        made = (steps - 1 - h) % H
        for a in range(A):
            for o in range(O):
                residual = observed[o] - anchor[made, h, a, o]
                if fixed:
                    arrived[a * H + h, o] = limited(residual / given[o], limit)
                    continue
                arrived[a * H + h, o] = limited(residual / unit[made, h, a, o], limit)
                k = (h * A + a) * O + o
                track_square_and_recent(count, square, recent, k, residual, floor[places[o]], RESIDUAL_MEMORY)


@exact
def _look_back(plan: Any, row: int, step: int, timed: bool, period_ns: int, scratch: int) -> None:
    """The memory of seasons takes the step, and forecasts; writes periods, which have changed, and naive forecasts."""
    O, H, length = plan.O, plan.H, plan.length
    steps, place = row + plan.season_steps, row + plan.season_place
    period, ring = row + plan.season_period, row + plan.season_ring
    observed, last, naive = step + plan.to_observed, step + plan.to_last, step + plan.to_naive
    ago, usual = scratch + plan.scratch_ago, scratch + plan.scratch_usual
    season, told, changed = i64(period, SLOTS), i64(step + plan.to_period, SLOTS), i8(step + plan.to_changed, SLOTS)
    first, second = season[0], season[1]
    if plan.searches:
        now = seasons_remember(steps, place, ring, length, O, observed)
        seasons_search(
            steps, place, period, ring, length, O, scratch + plan.scratch_window, scratch + plan.scratch_search
        )
        usual_seasons(timed, period_ns, usual)
        seasons_fill(steps, period, length, usual)
        seasons_naive(ring, length, O, H, now, period, last, naive, ago)
    else:
        seasons_step(steps, place, period, ring, length, O, H, plan.given, observed, last, naive, ago)
    changed[0], changed[1] = season[0] != first, season[1] != second
    told[0], told[1] = season[0], season[1]
    anchors = i64(plan.anchors, plan.A)
    for a in range(plan.A):
        if anchors[a] >= 0 and changed[anchors[a]]:
            _forget(plan, row, step, a)


@exact
def _forget(plan: Any, row: int, step: int, a: int) -> None:
    """What is known of the residuals to a season that is another one now, and the pairs that were made with it."""
    H, A, O = plan.H, plan.A, plan.O
    anchor, scale = f64_4(row + plan.anchor_ring, H, H, A, O), f64_4(row + plan.scale_ring, H, H, A, O)
    count, square = i64_3(row + plan.residual_count, H, A, O), f64_3(row + plan.residual_square, H, A, O)
    recent, arrived = f64_3(row + plan.residual_recent, H, A, O), f32_2(step + plan.to_arrived, A * H, O)
    for h in range(H):
        for o in range(O):
            count[h, a, o], square[h, a, o], recent[h, a, o] = 0, 0.0, 0.0
            arrived[a * H + h, o] = np.nan
            for made in range(H):
                anchor[made, h, a, o], scale[made, h, a, o] = np.nan, np.nan


@exact
def _begin(plan: Any, row: int, step: int, floors: int) -> None:
    """New pairs: writes what their outputs are added to and the unit of these, and keeps both until their value."""
    N, H, A, O, fixed, seasonal = plan.N, plan.H, plan.A, plan.O, plan.fixed, plan.seasonal
    places, anchors = i64(plan.places, O), i64(plan.anchors, A)
    anchor, scale = f64_3(step + plan.to_anchor, H, A, O), f64_3(step + plan.to_scale, H, A, O)
    last, level, naive = f64(step + plan.to_last, O), f64(step + plan.to_level, O), step + plan.to_naive
    given, floor = f64(step + plan.to_deviation, O), f64(floors, N)
    count, square = i64_3(row + plan.residual_count, H, A, O), f64_3(row + plan.residual_square, H, A, O)
    steps = i64(row + plan.steps, 1)
    now = steps[0] % H
    kept_anchor = f64_3(row + plan.anchor_ring + 8 * now * H * A * O, H, A, O)
    kept_scale = f64_3(row + plan.scale_ring + 8 * now * H * A * O, H, A, O)
    for h in range(H):
        for a in range(A):
            kind = anchors[a]
            for o in range(O):
                if kind >= 0 and seasonal:
                    base = f64_3(naive, SLOTS, H, O)[kind, h, o]
                elif kind == LAST_VALUE:
                    base = last[o]
                else:
                    base = level[o] if fixed or last[o] == last[o] else np.nan
                anchor[h, a, o], kept_anchor[h, a, o] = base, base
                if fixed:
                    scale[h, a, o] = given[o]
                    continue
                unit = np.sqrt(square[h, a, o]) + floor[places[o]] if count[h, a, o] > 0 else np.nan
                scale[h, a, o], kept_scale[h, a, o] = unit, unit
    steps[0] += 1


@exact
def _symbols(plan: Any, step: int, values: int) -> None:
    """Writes the inputs that stand for the symbols of the categorical features, one-hot."""
    S = plan.symbols
    inputs, feature, code = (
        f32(step + plan.to_inputs + 4 * plan.symbols_at, S),
        i64(plan.symbol_of, S),
        f64(plan.symbol, S),
    )
    for k in range(S):
        inputs[k] = f64(values + 8 * feature[k], 1)[0] == code[k]
