"""From raw values to what a learner sees: scaled inputs, anchors, and the scaled targets that arrive with each step.

All of it is float64 and runs step by step, so that its bits do not depend on how events were batched. Nothing here sees
a learner's output. Online, a running mean and deviation per feature scale the level, and the running size of the first
difference scales the difference; per (horizon, target) the running root mean square of the anchor's own h-step residual
scales the target: a learner forecasts value − anchor in units of how far the anchor is usually off. With fixed scaling
given means and deviations do all of that. A categorical feature enters one-hot; a predicted symbol is its code.

Array legend: B sessions, D features, O targets or labels, H horizons, A anchors, M learners. What a pair was made with
waits in rings: with targets of the stream one row per step, the last H of them; with labels one row per event, until
its label may no longer come.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import context, seasons
from bptt_core.calendars import calendar, usual_seasons
from bptt_core.learner_config import SEASON_ANCHORS
from bptt_core.running import Floats, track_level, track_square
from bptt_core.scales import FIXED_LIMIT, INPUT_LIMIT, Scaled, ScalingShape
from bptt_core.seasons import Seasonal
from bptt_core.slab import Rows

Flags = NDArray[np.bool_]

LEVEL_MEMORY: Final = 2000
RESIDUAL_MEMORY: Final = 2000
LEVEL_GAIN: Final = 0.3  # levels enter the network weaker than differences beside them
FLOOR: Final = 1e-13  # smallest scale, relative to the size of the value: a thousand times its rounding
TINY: Final = 1e-30  # … and absolutely


def step(
    shape: ScalingShape,
    rows: Rows,
    values: Floats,
    labels: Floats,
    event: Flags,
    clock: NDArray[np.int64] | None = None,
) -> Scaled:
    """Takes the values [B, D] and labels [B, O] of one step (NaN: missing, or not known yet), in place on `rows`.

    `event` [B] is False for missing steps; `clock` [B, 3] as in `timeline.Steps`, read with seasons only. Labels, where
    there are any, are looked at after anchor and scale.
    """
    numbers = values if len(shape.numbers) == shape.features else values[:, shape.numbers]
    floor = _floor(numbers, rows["last_value"], *(() if shape.fixed else (rows["level_mean"],)))
    inputs = _fixed_inputs(shape, rows, numbers) if shape.fixed else _online_inputs(shape, rows, numbers, floor)
    if not shape.numeric:
        inputs = _with_symbols(shape, inputs, values)
        return _symbols(shape, rows, inputs, values[:, list(shape.targets)] if shape.ahead else labels)
    if shape.ahead:
        scaled = _ahead(shape, rows, inputs, numbers[:, shape.places], floor[:, shape.places], clock)
        if shape.seasons is not None:
            assert clock is not None
            scaled = _with_context(shape, scaled, clock)
    else:
        scaled = _labelled(shape, rows, inputs, labels, event)
    return scaled._replace(inputs=_with_symbols(shape, scaled.inputs, values))


def _with_symbols(shape: ScalingShape, inputs: Floats, values: Floats) -> Floats:
    """With the categorical features, one-hot."""
    if len(shape.numbers) == shape.features:
        return inputs
    column, code = shape.one_hot
    return np.concatenate([inputs, values[:, column] == code], axis=1)


def _with_context(shape: ScalingShape, scaled: Scaled, clock: NDArray[np.int64]) -> Scaled:
    """With what seasons and calendar say, for the network and of each target."""
    assert scaled.seasonal is not None
    times = calendar(clock[:, 1], clock[:, 0] == 1, clock[:, 2])
    told = context.of_targets(shape.context_shape, scaled.last, scaled.seasonal, scaled.scale, times)
    inputs = context.inputs(shape.context_shape, told)
    return scaled._replace(inputs=np.concatenate([scaled.inputs, inputs], axis=1), context=told)


def clear(shape: ScalingShape, rows: Rows, which: Flags) -> None:
    """Forgets what came before the next step, in place: pairs of the stream that wait for their value, and what a
    difference would be formed from. Anchors stay, and so do the events that wait for a label, and the seasons."""
    if shape.differences:
        rows["difference_from"][which] = np.nan
    if not shape.numeric:
        rows["steps_since_break"][which] = 0
    elif shape.ahead:
        rows["anchor_ring"][which] = np.nan


def skip(shape: ScalingShape, rows: Rows, jump: NDArray[np.int64], which: Flags) -> None:
    """The streams in `which` [B] jumped over `jump` [B] steps, in place."""
    if shape.seasons is not None:
        seasons.skip(shape.seasons, rows, jump, which)


def late(shape: ScalingShape, rows: Rows, slots: NDArray[np.int64], values: Floats) -> Floats:
    """Takes labels `values` [n, O] of earlier events, in order and in place on the `rows` of one session.

    `slots` [n] are the events' numbers, counted from 0, modulo `shape.slots`; a label may come once. Returns the scaled
    targets [n, O]; NaN: no label, or nothing to scale it by.
    """
    if not shape.numeric:
        return values.copy()
    given = shape.fixed
    scale = _given(shape, rows, "given_deviation")[[0] * len(slots)] if given else rows["scale_ring"][0, slots, 0, 0]
    residual = values - rows["anchor_ring"][0, slots, 0, 0]
    for k in range(len(slots)):
        _learn_labels(shape, rows, values[k : k + 1], residual[k : k + 1])
    return _limited(residual / scale, shape.limit)


def learner_targets(shape: ScalingShape, scaled: Scaled, anchors: tuple[int, ...] = (0,)) -> Floats:
    """The scaled targets that arrive with this step, for M learners with these positions of their anchors in the shape:
    [B·M, H·O], session by session; NaN: none."""
    ratio = scaled.residual / scaled.residual_scale
    ratio = ratio[:, :, list(anchors)].transpose(0, 2, 1, 3)  # [B, M, H, O]
    return _limited(np.ascontiguousarray(ratio), shape.limit).reshape(ratio.shape[0] * len(anchors), -1)


def _limited(values: Floats, limit: float) -> Floats:
    """`values` within ± `limit`, in place; NaN stays."""
    np.minimum(values, limit, out=values)
    return np.maximum(values, -limit, out=values)


def _floor(*values: Floats) -> Floats:
    """The smallest scale beside such values: beside the smallest of them, as an absurd one must not lift it. TINY where
    all are NaN, never seen."""
    smallest = np.abs(values[0])
    for others in values[1:]:
        smallest = np.fmin(smallest, np.abs(others))
    floor: Floats = np.fmax(FLOOR * smallest, TINY)
    return floor


def _online_inputs(shape: ScalingShape, rows: Rows, values: Floats, floor: Floats) -> Floats:
    """Updates level and difference statistics, in place, and returns the scaled inputs of the numeric features.

    The newest value is part of the statistics that scale it. A missing value is replaced by the last observed one.
    """
    missing = np.isnan(values)
    track_level(rows["level_count"], rows["level_mean"], rows["level_square"], values, floor, LEVEL_MEMORY)
    np.copyto(rows["last_value"], values, where=~missing)
    level = (rows["last_value"] - rows["level_mean"]) / (np.sqrt(rows["level_square"]) + floor)
    parts = [level, missing]
    if shape.differences:
        difference = values - rows["difference_from"]
        count, square, recent = (rows[f"difference_{name}"] for name in ("count", "square", "recent"))
        track_square(count, square, difference, floor, RESIDUAL_MEMORY, recent)
        np.copyto(rows["difference_from"], values, where=~missing)
        parts = [LEVEL_GAIN * level, difference / (np.sqrt(rows["difference_square"]) + floor), missing]
    inputs = np.concatenate(parts, axis=1)
    inputs[np.isnan(inputs)] = 0  # a level never seen, a difference to or from a missing value
    return _limited(inputs, INPUT_LIMIT)


def _fixed_inputs(shape: ScalingShape, rows: Rows, values: Floats) -> Floats:
    """The numeric features by their given mean and deviation; 0 where a value is missing."""
    mean, deviation = (rows[name][:, shape.numbers] for name in ("given_mean", "given_deviation"))
    inputs = (values - mean) / deviation
    missing = np.isnan(values)
    inputs[missing] = 0
    np.copyto(rows["last_value"], values, where=~missing)
    return _limited(inputs, FIXED_LIMIT)


def _given(shape: ScalingShape, rows: Rows, name: str) -> Floats:
    """The given means or deviations [B, O] of what is predicted."""
    given: Floats = rows[name]
    return given[:, shape.features :] if shape.labels else given[:, list(shape.targets)]


def _anchor(shape: ScalingShape, rows: Rows, last: Floats, seasonal: Seasonal | None) -> Floats:
    """What the next outputs are added to [B, H, A, O], given the last values [B, O]."""
    anchor = np.empty((len(last), shape.horizon, len(shape.anchors), last.shape[1]))
    for a, name in enumerate(shape.anchors):
        if name in SEASON_ANCHORS:
            assert seasonal is not None
            anchor[:, :, a] = seasonal.naive[:, SEASON_ANCHORS.index(name)]
        else:
            anchor[:, :, a] = (last if name == "last_value" else _given_or_mean(shape, rows, last))[:, None]
    return anchor


def _given_or_mean(shape: ScalingShape, rows: Rows, last: Floats) -> Floats:
    """The anchor [B, O] where there is none: what an output of 0 stands for."""
    if shape.fixed:
        return _given(shape, rows, "given_mean")
    return np.where(np.isnan(last), np.nan, _level(shape, rows))


def _level(shape: ScalingShape, rows: Rows) -> Floats:
    """Running mean [B, O] of what is predicted; with fixed scaling the given one."""
    if shape.fixed:
        return _given(shape, rows, "given_mean")
    level: Floats = rows["label_mean"] if shape.labels else rows["level_mean"][:, shape.places]
    return level


def _deviation(shape: ScalingShape, rows: Rows) -> Floats:
    """Running deviation [B, O] of what is predicted from its level; with fixed scaling the given one."""
    if shape.fixed:
        return _given(shape, rows, "given_deviation")
    square: Floats = rows["label_square"] if shape.labels else rows["level_square"][:, shape.places]
    return np.sqrt(square)


def _scale(shape: ScalingShape, rows: Rows, floor: Floats) -> Floats:
    """The unit [B, H, A, O] of the next outputs."""
    if shape.fixed:
        given = _given(shape, rows, "given_deviation")[:, None, None]
        return np.tile(given, (1, shape.horizon, len(shape.anchors), 1))
    square = np.sqrt(rows["residual_square"]) + floor[:, None, None]
    scale: Floats = np.where(rows["residual_count"] > 0, square, np.nan)
    return scale


def _ahead(
    shape: ScalingShape,
    rows: Rows,
    inputs: Floats,
    observed: Floats,
    floor: Floats,
    clock: NDArray[np.int64] | None,
) -> Scaled:
    """Pairs that end here meet the value `observed` [B, O] of their target; new ones begin. In place."""
    session = np.arange(len(observed))
    made = (rows["steps"][:, None] - shape.back) % shape.slots
    residual = observed[:, None, None] - rows["anchor_ring"][session[:, None], made, shape.back - 1]
    if not shape.fixed:
        residual_scale = rows["scale_ring"][session[:, None], made, shape.back - 1]
        count, square, recent = (rows[f"residual_{name}"] for name in ("count", "square", "recent"))
        track_square(count, square, residual, floor[:, None, None], RESIDUAL_MEMORY, recent)
    last = rows["last_value"][:, shape.places]
    seasonal = None
    if shape.seasons is not None:
        assert clock is not None
        usual = usual_seasons(clock[:, 0] == 1, clock[:, 2])
        seasonal = seasons.step(shape.seasons, rows, observed, last, usual)
    if seasonal is not None and seasonal.changed.any():
        _change_season(shape, rows, residual_scale, seasonal)
    anchor = _anchor(shape, rows, last, seasonal)
    scale = _scale(shape, rows, floor)
    now = rows["steps"] % shape.slots
    rows["anchor_ring"][session, now] = anchor
    if shape.fixed:
        residual_scale = scale
    else:
        rows["scale_ring"][session, now] = scale
    rows["steps"] += 1
    none = np.empty((*observed.shape, 0))
    level, deviation = _level(shape, rows), _deviation(shape, rows)
    return Scaled(inputs, observed, residual, residual_scale, anchor, scale, last, level, deviation, seasonal, none)


def _change_season(shape: ScalingShape, rows: Rows, residual_scale: Floats, seasonal: Seasonal) -> None:
    """What is known of the residuals to a season that is another one now is forgotten, in place; pairs that were made
    with the old one are learned by nobody."""
    for a, name in enumerate(shape.anchors):
        if name in SEASON_ANCHORS:
            changed = seasonal.changed[:, SEASON_ANCHORS.index(name)]
            rows["residual_count"][changed, :, a] = 0
            rows["residual_square"][changed, :, a] = 0
            rows["residual_recent"][changed, :, a] = 0
            rows["anchor_ring"][changed, :, :, a] = np.nan
            rows["scale_ring"][changed, :, :, a] = np.nan
            residual_scale[changed, :, a] = np.nan


def _labelled(shape: ScalingShape, rows: Rows, inputs: Floats, labels: Floats, event: Flags) -> Scaled:
    """The event's own pairs begin with what was known before its labels [B, O], and end with them. In place."""
    last = rows["last_label"].copy()
    level, deviation = _level(shape, rows).copy(), _deviation(shape, rows)
    anchor = _anchor(shape, rows, last, None)
    scale = _scale(shape, rows, _floor(last) if shape.fixed else _floor(last, rows["label_mean"]))
    here = np.flatnonzero(event)
    now = rows["label_events"][here] % shape.slots
    rows["anchor_ring"][here, now] = anchor[here]
    if not shape.fixed:
        rows["scale_ring"][here, now] = scale[here]
    rows["label_events"] += event
    residual = labels - anchor[:, 0, 0]
    _learn_labels(shape, rows, labels, residual)
    none = np.empty((*labels.shape, 0))
    return Scaled(inputs, labels, residual[:, None, None], scale, anchor, scale, last, level, deviation, None, none)


def _learn_labels(shape: ScalingShape, rows: Rows, labels: Floats, residual: Floats) -> None:
    """Moves the statistics of labels towards `labels` [B, O] and their anchors' residuals, in place."""
    if not shape.fixed:
        floor = _floor(labels, rows["last_label"], rows["label_mean"])
        count, square, recent = (rows[f"residual_{name}"] for name in ("count", "square", "recent"))
        track_square(count, square, residual[:, None, None], floor[:, None, None], RESIDUAL_MEMORY, recent)
        track_level(rows["label_count"], rows["label_mean"], rows["label_square"], labels, floor, LEVEL_MEMORY)
    np.copyto(rows["last_label"], labels, where=~np.isnan(labels))


def _symbols(shape: ScalingShape, rows: Rows, inputs: Floats, observed: Floats) -> Scaled:
    """Codes or probabilities [B, O] as they are, for every pair that ends here. In place."""
    ends = rows["steps_since_break"][:, None] >= shape.back * shape.ahead
    residual = np.where(ends[:, :, None, None], observed[:, None, None], np.nan)
    rows["steps_since_break"] += 1
    one, zero = np.ones_like(residual), np.zeros_like(residual)
    none = np.empty((*observed.shape, 0))
    return Scaled(inputs, observed, residual, one, zero, one, observed, observed, np.ones_like(observed), None, none)
