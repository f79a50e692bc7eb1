"""From raw values to what a learner sees: scaled inputs, anchors, and the scaled targets that arrive with each step.

All of it is float64 and runs step by step, so that its bits do not depend on how events were batched. Nothing here sees
a learner's output. Online, a running mean and deviation per feature scale the level, and the running size of the first
difference scales the difference; per (horizon, target) the running root mean square of the anchor's own h-step residual
scales the target: a learner forecasts value − anchor in units of how far the anchor is usually off. With fixed scaling
given means and deviations do all of that. A categorical feature enters one-hot; a predicted symbol is its code.

Array legend: B sessions, D features, O targets or labels, H horizons. What a pair was made with waits in rings: with
targets of the stream one row per step, the last H of them; with labels one row per event, until its label may no longer
come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core.running import Floats, track_level, track_square
from bptt_core.slab import Field, Rows

Flags = NDArray[np.bool_]

LEVEL_MEMORY: Final = 2000
RESIDUAL_MEMORY: Final = 2000
INPUT_LIMIT: Final = 10.0  # inputs and targets scaled online lie in ± this
FIXED_LIMIT: Final = 1e6  # … scaled by given numbers in ± this
LEVEL_GAIN: Final = 0.3  # levels enter the network weaker than differences beside them
FLOOR: Final = 1e-13  # smallest scale, relative to the size of the value: a thousand times its rounding
TINY: Final = 1e-30  # … and absolutely


@dataclass(frozen=True)
class ScalingShape:
    """What sessions of one slab have in common here."""

    features: int
    symbols: tuple[int, ...]  # of each feature: how many there are, 0 if it is numeric
    targets: tuple[int, ...]  # positions of the predicted features; none with labels
    labels: int
    horizon: int
    anchor: str
    fixed: bool  # scaled by given means and deviations
    numeric: bool  # False: what is predicted are codes or probabilities
    slots: int  # rows of the rings: the horizon, or with labels the oldest age of a late one + 1

    @property
    def ahead(self) -> int:
        """How many events after the one it is made at the first predicted value lies; 0 with labels."""
        return 0 if self.labels else 1

    @property
    def outputs(self) -> int:
        """O."""
        return self.labels or len(self.targets)

    @property
    def differences(self) -> bool:
        """Whether a learner sees first differences: it does if it forecasts a change, from the last value on."""
        return self.anchor == "last_value" and not self.fixed

    @property
    def inputs(self) -> int:
        """Width of a learner's input: blocks of level, difference and missing flag of the numeric features (fixed: the
        level alone), then the symbols of the categorical ones."""
        blocks = 1 if self.fixed else 3 if self.differences else 2
        return blocks * len(self.numbers) + sum(self.symbols)

    @property
    def limit(self) -> float:
        """Scaled targets lie in ± this; codes are as they are."""
        return math.inf if not self.numeric else FIXED_LIMIT if self.fixed else INPUT_LIMIT

    @cached_property
    def numbers(self) -> list[int]:
        """Positions of the numeric features."""
        return [k for k, count in enumerate(self.symbols) if count == 0]

    @cached_property
    def places(self) -> list[int]:
        """Position of each target among the numeric features."""
        return [self.numbers.index(target) for target in self.targets]

    @cached_property
    def one_hot(self) -> tuple[list[int], Floats]:
        """For each input that stands for a symbol the feature and the code it is 1 for."""
        pairs = [(k, code) for k, count in enumerate(self.symbols) for code in range(count)]
        return [k for k, _ in pairs], np.array([code for _, code in pairs], np.float64)

    @cached_property
    def back(self) -> NDArray[np.int64]:
        """[H]: the horizons, 1..H."""
        return np.arange(1, self.horizon + 1)


class Scaled(NamedTuple):
    """One step after scaling. Where symbols are predicted anchors are 0 and scales 1."""

    inputs: Floats  # [B, inputs]
    observed: Floats  # [B, O] values of the targets or labels, NaN: missing
    residual: Floats  # [B, H, O] (value − anchor) of the pairs that end here, original units; NaN: no such pair
    residual_scale: Floats  # [B, H, O] the scale known when the pair was made; NaN: none yet
    anchor: Floats  # [B, O] for the forecasts made here; NaN: nothing seen yet to take it from
    scale: Floats  # [B, H, O] for the forecasts made here; NaN: none yet
    last: Floats  # [B, O] last value known when the forecasts were made; NaN: never one


def fields(shape: ScalingShape) -> list[Field]:
    """State of one session."""
    N, L, O, H = len(shape.numbers), shape.labels, shape.outputs, shape.horizon
    state = [Field("last_value", (N,), np.float64, np.nan)]
    if shape.fixed:
        state += [Field(name, (shape.features + L,), np.float64) for name in ("given_mean", "given_deviation")]
    else:
        state += _level_fields("level", N)
    if shape.differences:
        state += [
            Field("difference_count", (N,), np.int64),
            Field("difference_square", (N,), np.float64),
            Field("difference_from", (N,), np.float64, np.nan),  # NaN: nothing to form a difference from
        ]
    if not shape.numeric:
        return [*state, Field("steps_since_break", (), np.int64)]
    state += [
        Field("label_events" if L else "steps", (), np.int64),
        Field("anchor_ring", (shape.slots, O), np.float64, np.nan),
    ]
    if L:
        state += [Field("last_label", (L,), np.float64, np.nan)]
    if L and not shape.fixed:
        state += _level_fields("label", L)
    if not shape.fixed:
        state += [
            Field("residual_count", (H, O), np.int64),
            Field("residual_square", (H, O), np.float64),
            Field("scale_ring", (shape.slots, H, O), np.float64, np.nan),
        ]
    return state


def _level_fields(name: str, width: int) -> list[Field]:
    return [
        Field(f"{name}_count", (width,), np.int64),
        Field(f"{name}_mean", (width,), np.float64),
        Field(f"{name}_square", (width,), np.float64),
    ]


def step(shape: ScalingShape, rows: Rows, values: Floats, labels: Floats, event: Flags) -> Scaled:
    """Takes the values [B, D] and labels [B, O] of one step (NaN: missing, or not known yet), in place on `rows`.

    `event` [B] is False for missing steps. Labels, where there are any, are looked at after anchor and scale.
    """
    numbers = values if len(shape.numbers) == shape.features else values[:, shape.numbers]
    floor = _floor(rows["last_value"])
    inputs = _fixed_inputs(shape, rows, numbers) if shape.fixed else _online_inputs(shape, rows, numbers, floor)
    if len(shape.numbers) < shape.features:
        column, code = shape.one_hot
        inputs = np.concatenate([inputs, values[:, column] == code], axis=1)
    if not shape.numeric:
        return _symbols(shape, rows, inputs, values[:, list(shape.targets)] if shape.ahead else labels)
    if shape.ahead:
        return _ahead(shape, rows, inputs, numbers[:, shape.places], floor[:, shape.places])
    return _labelled(shape, rows, inputs, labels, event)


def clear(shape: ScalingShape, rows: Rows, which: Flags) -> None:
    """Forgets what came before the next step, in place: pairs of the stream that wait for their value, and what a
    difference would be formed from. Anchors stay, and so do the events that wait for a label."""
    if shape.differences:
        rows["difference_from"][which] = np.nan
    if not shape.numeric:
        rows["steps_since_break"][which] = 0
    elif shape.ahead:
        rows["anchor_ring"][which] = np.nan


def late(shape: ScalingShape, rows: Rows, slots: NDArray[np.int64], values: Floats) -> tuple[Floats, Floats]:
    """Takes labels `values` [n, O] of earlier events, in order and in place on the `rows` of one session.

    `slots` [n] are the events' numbers, counted from 0, modulo `shape.slots`; a label may come once. Returns the scaled
    targets [n, O] and the scales [n, O] known at the events; NaN: no label, or nothing to scale it by.
    """
    if not shape.numeric:
        return values.copy(), np.ones_like(values)
    scale = _given(shape, rows, "given_deviation")[[0] * len(slots)] if shape.fixed else rows["scale_ring"][0, slots, 0]
    residual = values - rows["anchor_ring"][0, slots]
    for k in range(len(slots)):
        _learn_labels(shape, rows, values[k : k + 1], residual[k : k + 1])
    return _limited(residual / scale, shape.limit), scale


def learner_targets(shape: ScalingShape, scaled: Scaled) -> Floats:
    """The scaled targets that arrive with this step, [B, H·O]; NaN: none."""
    ratio = scaled.residual / scaled.residual_scale
    return _limited(ratio, shape.limit).reshape(len(ratio), -1)


def _limited(values: Floats, limit: float) -> Floats:
    """`values` within ± `limit`, in place; NaN stays."""
    np.minimum(values, limit, out=values)
    return np.maximum(values, -limit, out=values)


def _floor(values: Floats) -> Floats:
    """The smallest scale beside such values; TINY for NaN, a value never seen."""
    floor: Floats = np.fmax(FLOOR * np.abs(values), TINY)
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
        track_square(rows["difference_count"], rows["difference_square"], difference, floor, RESIDUAL_MEMORY)
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


def _anchor(shape: ScalingShape, rows: Rows, last: Floats) -> Floats:
    """What the next outputs are added to [B, O], given the last values [B, O]."""
    if shape.anchor == "last_value":
        return last
    if shape.fixed:
        return _given(shape, rows, "given_mean")
    mean = rows["label_mean"] if shape.labels else rows["level_mean"][:, shape.places]
    return np.where(np.isnan(last), np.nan, mean)


def _scale(shape: ScalingShape, rows: Rows, floor: Floats) -> Floats:
    """The unit [B, H, O] of the next outputs."""
    if shape.fixed:
        return np.repeat(_given(shape, rows, "given_deviation")[:, None], shape.horizon, axis=1)
    scale: Floats = np.where(rows["residual_count"] > 0, np.sqrt(rows["residual_square"]) + floor[:, None], np.nan)
    return scale


def _ahead(shape: ScalingShape, rows: Rows, inputs: Floats, observed: Floats, floor: Floats) -> Scaled:
    """Pairs that end here meet the value `observed` [B, O] of their target; new ones begin. In place."""
    session = np.arange(len(observed))
    made = (rows["steps"][:, None] - shape.back) % shape.slots
    residual = observed[:, None, :] - rows["anchor_ring"][session[:, None], made]
    if not shape.fixed:
        residual_scale = rows["scale_ring"][session[:, None], made, shape.back - 1]
        square = rows["residual_square"]
        track_square(rows["residual_count"], square, residual, floor[:, None], RESIDUAL_MEMORY)
    last = rows["last_value"][:, shape.places]
    anchor = _anchor(shape, rows, last)
    scale = _scale(shape, rows, floor)
    now = rows["steps"] % shape.slots
    rows["anchor_ring"][session, now] = anchor
    if shape.fixed:
        residual_scale = scale
    else:
        rows["scale_ring"][session, now] = scale
    rows["steps"] += 1
    return Scaled(inputs, observed, residual, residual_scale, anchor, scale, last)


def _labelled(shape: ScalingShape, rows: Rows, inputs: Floats, labels: Floats, event: Flags) -> Scaled:
    """The event's own pairs begin with what was known before its labels [B, O], and end with them. In place."""
    last = rows["last_label"].copy()
    anchor = _anchor(shape, rows, last)
    scale = _scale(shape, rows, _floor(last))
    here = np.flatnonzero(event)
    now = rows["label_events"][here] % shape.slots
    rows["anchor_ring"][here, now] = anchor[here]
    if not shape.fixed:
        rows["scale_ring"][here, now] = scale[here]
    rows["label_events"] += event
    residual = labels - anchor
    _learn_labels(shape, rows, labels, residual)
    return Scaled(inputs, labels, residual[:, None], scale, anchor, scale, last)


def _learn_labels(shape: ScalingShape, rows: Rows, labels: Floats, residual: Floats) -> None:
    """Moves the statistics of labels towards `labels` [B, O] and their anchors' residuals, in place."""
    if not shape.fixed:
        floor = _floor(rows["last_label"])
        count, square = rows["residual_count"], rows["residual_square"]
        track_square(count, square, residual[:, None], floor[:, None], RESIDUAL_MEMORY)
        track_level(rows["label_count"], rows["label_mean"], rows["label_square"], labels, floor, LEVEL_MEMORY)
    np.copyto(rows["last_label"], labels, where=~np.isnan(labels))


def _symbols(shape: ScalingShape, rows: Rows, inputs: Floats, observed: Floats) -> Scaled:
    """Codes or probabilities [B, O] as they are, for every pair that ends here. In place."""
    ends = rows["steps_since_break"][:, None] >= shape.back * shape.ahead
    residual = np.where(ends[:, :, None], observed[:, None], np.nan)
    rows["steps_since_break"] += 1
    one = np.ones_like(residual)
    return Scaled(inputs, observed, residual, one, np.zeros_like(observed), one, observed)
