"""From raw values to what a learner sees: online scaling, anchors, and the scaled targets that arrive with each step.

All of it is float64 and runs step by step, so that its bits do not depend on how events were batched. Nothing here sees
a learner's output. Per feature a running mean and deviation scale the level, and the running size of the first
difference scales the difference. Per (horizon, target) the running root mean square of the anchor's own h-step residual
scales the target: a learner forecasts value − anchor in units of how far the anchor is usually off.

Array legend: B sessions, D features, O targets, H horizons; ring buffers hold the last H steps, step t in row t mod H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core.slab import Field, Rows

Floats = NDArray[np.floating]

LEVEL_MEMORY: Final = 2000  # a running statistic weighs the newest value by 1/n, never less than 1/memory
RESIDUAL_MEMORY: Final = 2000
CAP: Final = 5.0  # a value moves a scale by at most this many of its units
CAP_FROM: Final = 8  # … once it has seen this many
INPUT_LIMIT: Final = 10.0  # scaled inputs and targets lie in ± this
LEVEL_GAIN: Final = 0.3  # levels enter the network weaker than differences
FLOOR: Final = 1e-13  # smallest scale, relative to the size of the value: a thousand times its rounding
TINY: Final = 1e-30  # … and absolutely


@dataclass(frozen=True, slots=True)
class ScalingShape:
    """What sessions of one slab have in common here."""

    features: int
    targets: tuple[int, ...]  # positions of the targets among the features
    horizon: int
    anchor: str

    @property
    def differences(self) -> bool:
        """Whether a learner sees first differences: it does if it forecasts a change, from the last value on."""
        return self.anchor == "last_value"

    @property
    def inputs(self) -> int:
        """Width of a learner's input: level, missing flag and, with `differences`, difference of every feature."""
        return (3 if self.differences else 2) * self.features


class Scaled(NamedTuple):
    """One step after scaling."""

    inputs: Floats  # [B, 2·D or 3·D]
    observed: Floats  # [B, O] target values of this step, NaN: missing
    residual: Floats  # [B, H, O] (value − anchor) of the pairs that end here, original units; NaN: no such pair
    residual_scale: Floats  # [B, H, O] the scale known when the pair was made; NaN: none yet
    anchor: Floats  # [B, O] for the forecasts made here; NaN: target never seen
    scale: Floats  # [B, H, O] for the forecasts made here; NaN: none yet
    last: Floats  # [B, O] last observed value, this step included; NaN: never


def fields(shape: ScalingShape) -> list[Field]:
    """State of one session."""
    D, O, H = shape.features, len(shape.targets), shape.horizon
    return [
        Field("steps", (), np.int64),
        Field("level_count", (D,), np.int64),
        Field("level_mean", (D,), np.float64),
        Field("level_square", (D,), np.float64),
        Field("difference_count", (D,), np.int64),
        Field("difference_square", (D,), np.float64),
        Field("last_value", (D,), np.float64, np.nan),
        Field("residual_count", (H, O), np.int64),
        Field("residual_square", (H, O), np.float64),
        Field("anchor_ring", (H, O), np.float64, np.nan),
        Field("scale_ring", (H, H, O), np.float64, np.nan),
    ]


def step(shape: ScalingShape, rows: Rows, values: Floats) -> Scaled:
    """Takes the values [B, D] of one step (NaN: missing), in place on `rows`; returns what the other stages need."""
    session = np.arange(len(values))[:, None]
    horizons = np.arange(1, shape.horizon + 1)
    made = (rows["steps"][:, None] - horizons) % shape.horizon
    targets = list(shape.targets)
    observed = values[:, targets]
    residual = observed[:, None, :] - rows["anchor_ring"][session, made]
    residual_scale = rows["scale_ring"][session, made, horizons - 1]
    floor = np.fmax(FLOOR * np.abs(rows["last_value"]), TINY)  # of a value never seen: TINY
    target_floor = floor[:, None, targets]
    track_square(rows["residual_count"], rows["residual_square"], residual, target_floor, RESIDUAL_MEMORY)
    inputs = _inputs(shape, rows, values, floor)
    last = rows["last_value"][:, targets]
    anchor = last if shape.anchor == "last_value" else np.where(np.isnan(last), np.nan, rows["level_mean"][:, targets])
    known = rows["residual_count"] > 0
    scale = np.where(known, np.sqrt(rows["residual_square"]) + target_floor, np.nan)
    now = rows["steps"] % shape.horizon
    rows["anchor_ring"][session[:, 0], now] = anchor
    rows["scale_ring"][session[:, 0], now] = scale
    rows["steps"] += 1
    return Scaled(inputs, observed, residual, residual_scale, anchor, scale, last)


def clear(rows: Rows, which: NDArray[np.bool_]) -> None:
    """Forgets the pairs that wait for their value, in place: the stream has jumped over it."""
    rows["anchor_ring"][which] = np.nan
    rows["scale_ring"][which] = np.nan


def learner_targets(scaled: Scaled) -> Floats:
    """The scaled targets that arrive with this step, [B, H·O]; NaN: none."""
    ratio = scaled.residual / scaled.residual_scale
    return _limited(ratio).reshape(len(ratio), -1)


def _limited(values: Floats) -> Floats:
    """`values` within ± INPUT_LIMIT, in place; NaN stays."""
    np.minimum(values, INPUT_LIMIT, out=values)
    return np.maximum(values, -INPUT_LIMIT, out=values)


def _inputs(shape: ScalingShape, rows: Rows, values: Floats, floor: Floats) -> Floats:
    """Updates level and difference statistics, in place, and returns the scaled inputs.

    The newest value is part of the statistics that scale it. A missing value is replaced by the last observed one.
    """
    missing = np.isnan(values)
    difference = values - rows["last_value"]
    _track_level(rows, values, floor)
    track_square(rows["difference_count"], rows["difference_square"], difference, floor, RESIDUAL_MEMORY)
    np.copyto(rows["last_value"], values, where=~missing)
    level = (rows["last_value"] - rows["level_mean"]) / (np.sqrt(rows["level_square"]) + floor)
    change = difference / (np.sqrt(rows["difference_square"]) + floor)
    parts = [LEVEL_GAIN * level, change, missing] if shape.differences else [LEVEL_GAIN * level, missing]
    inputs = np.concatenate(parts, axis=1)
    inputs[np.isnan(inputs)] = 0  # a level never seen, a difference to or from a missing value
    return _limited(inputs)


def _track_level(rows: Rows, values: Floats, floor: Floats) -> None:
    """Moves running mean and mean square deviation towards `values`, in place; missing ones move nothing."""
    count, mean, square = rows["level_count"], rows["level_mean"], rows["level_square"]
    seen = values == values
    count += seen
    weight = 1 / np.minimum(np.maximum(count, 1), LEVEL_MEMORY)
    deviation = values - mean
    cap = CAP * np.sqrt(square)
    capped = (count > CAP_FROM) & (cap > CAP * floor)
    np.minimum(deviation, cap, out=deviation, where=capped)
    np.maximum(deviation, -cap, out=deviation, where=capped)
    np.add(mean, weight * deviation, out=mean, where=seen)
    np.add(square, weight * ((1 - weight) * (deviation * deviation) - square), out=square, where=seen)


def track_square(count: NDArray[np.int64], square: Floats, values: Floats, floor: Floats, memory: int) -> None:
    """Moves a running mean square towards `values`², in place on `count` and `square`; NaN moves nothing."""
    seen = values == values
    count += seen
    weight = 1 / np.minimum(np.maximum(count, 1), memory)
    newest = values * values
    np.minimum(newest, CAP * CAP * square, out=newest, where=(count > CAP_FROM) & (square > floor * floor))
    np.add(square, weight * (newest - square), out=square, where=seen)
