"""Whether the stream has changed for good: a detector of forecast errors that have become larger and stay so.

A cumulative sum (Page 1954; for a mean that is itself learned, Hinkley 1971) of the logarithm of the error's size, per
target: a logarithm makes a factor of the error a step, the same for every noise, and leaves spikes next to no weight.
Its usual mean and deviation are learned since the last change; where they are still uncertain, more is allowed for.
Errors that have become smaller are a change, too, after which the usual is learned anew, but no drift to report: a
learner improves. Windows of adapting length (ADWIN, Bifet & Gavaldà 2007) find the same changes with bounds instead of
a model, at a cost that grows with the window.

Array legend: B sessions, O targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.running import Floats, blend, newest_weight
from bptt_core.scaling import TINY
from bptt_core.slab import Field, Rows

Flags = NDArray[np.bool_]

LEAST: Final = 0.25  # an error counts at least as this many usual ones: those of coarse data are often zero
MOST: Final = 20.0  # … and at most as this
DEVIATION_FLOOR: Final = 0.25  # smallest deviation of the logarithms
CORRELATION_LIMIT: Final = 0.95  # largest correlation of an error's size with the last one's that is allowed for
STEP_LIMIT: Final = 2.0  # one error moves a sum by at most this many deviations
ALLOWED: Final = 0.3  # deviations that the mean may be off without being a change: half of what doubling errors does
THRESHOLD: Final = 20.0  # a sum, in deviations, that is a change; steady noise takes about exp(0.6 · 20) events
MEMORY: Final = 2000  # of the usual mean and deviation
WARM_UP: Final = 64  # errors that these are learned from before sums begin
SINCE_CHANGE: Final = ("errors", "mean", "square", "product", "last", "sums")  # what a change sets back
SIGNS: Final = np.array([[1.0], [-1.0]])


@dataclass(frozen=True, slots=True)
class DriftShape:
    """What sessions of one slab have in common here."""

    targets: int

    @property
    def threshold(self) -> float:
        """Each of several targets has to be as many times rarer in error."""
        return THRESHOLD + math.log(self.targets) / (2 * ALLOWED)


def fields(shape: DriftShape) -> list[Field]:
    """State of one session."""
    O = shape.targets
    return [
        Field("drift_errors", (O,), np.int64),  # since the last change
        Field("drift_mean", (O,), np.float64),
        Field("drift_square", (O,), np.float64),
        Field("drift_product", (O,), np.float64),  # of a deviation from the mean and the one before
        Field("drift_last", (O,), np.float64),  # that deviation
        Field("drift_sums", (2, O), np.float64),  # for larger and for smaller errors
        Field("drift_count", (), np.int64),  # detections
        Field("drift_since", (), np.int64),  # events with an error since the last detection, or the first
    ]


def step(shape: DriftShape, rows: Rows, error: Floats) -> Flags:
    """Takes the errors [B, O] of one step in usual ones (NaN: none), in place; returns where they are a drift [B]."""
    seen = error == error
    count, mean, square, product, last, sums = (rows[f"drift_{name}"] for name in SINCE_CHANGE)
    level = np.log(np.minimum(np.maximum(np.abs(error), LEAST), MOST))
    deviation = level - mean
    steps = deviation / np.maximum(np.sqrt(square * _inflation(square, product)), DEVIATION_FLOOR)
    steps = np.minimum(np.maximum(steps, -STEP_LIMIT), STEP_LIMIT)
    allowed = ALLOWED + 1 / np.sqrt(np.maximum(count, 1))
    ready = seen & (count >= WARM_UP)
    moved = np.maximum(sums + SIGNS * steps[:, None] - allowed[:, None], 0)
    np.copyto(sums, moved, where=ready[:, None])
    changed = np.logical_or.reduce(sums > shape.threshold, axis=-1)  # [B, 2]
    detected: Flags = changed[:, 0]
    count += seen
    weight = newest_weight(count, MEMORY)
    blend(mean, level, weight, seen)
    blend(product, deviation * last, weight, seen)
    np.copyto(last, deviation, where=seen)
    blend(square, (1 - weight) * (deviation * deviation), weight, seen)
    rows["drift_since"] += np.logical_or.reduce(seen, axis=-1)
    if changed.any():
        for name in SINCE_CHANGE:
            rows[f"drift_{name}"][changed.any(axis=-1)] = 0
        rows["drift_count"] += detected
        rows["drift_since"][detected] = 0
    return detected


def _inflation(square: Floats, product: Floats) -> Floats:
    """How much more a sum of correlated deviations varies than one of independent ones, by their first correlation."""
    correlation = np.minimum(np.maximum(product / np.maximum(square, TINY), 0), CORRELATION_LIMIT)
    inflation: Floats = (1 + correlation) / (1 - correlation)
    return inflation
