"""Intervals of forecasts: per horizon and target a lower and an upper bound that hold a requested coverage online.

The two sides are independent, each missed with probability tail = (1 − coverage) / 2. A bound lies `reach` running
scales from the forecast. The reach is a quantile tracker on the coverage that was really served (conformal quantile
tracking, Angelopoulos, Candès & Tibshirani 2023; adaptive conformal inference, Gibbs & Candès 2021): a missed bound
moves out by rate · (1 − tail), one that held moves in by rate · tail. Misses count in their own standard deviations,
rate = RATE / √(tail · (1 − tail)), so that rare ones weigh more and a coverage of .99 is found as surely as one of .5.
The running scale follows the size of the errors, half by a long memory and half by a short one: an interval widens
within a few pairs of a change and need not wait for the tracker. There is no integrator, nor a choice among trackers of
several rates: beside such a scale they widened intervals and mended nothing. Where a learner tells the deviation of its
error, errors are measured in it.

What is guaranteed, whatever the stream: let T bounds of one horizon, target and side have met their values, with errors
within M running scales as known when they were made, and at most d others settled between the making of one and its
settling. Then the missed share is at most tail + (max(M − first reach, 0) + rate · (d + 1)) / (rate · T). It can stay
below tail only where a reach of zero covers more than was asked for, as with errors that are exactly zero. The order in
which pairs settle does not matter. The module knows no forecaster: it sees forecasts and bounds, and what came of them.

Array legend: B sessions, H horizons, O targets; sides are below and above; memories are short and long.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from bptt_core.running import CAP, CAP_FROM, WARM_UP, Floats
from bptt_core.slab import Field, Rows

RATE: Final = 0.011  # of the trackers; at a coverage of .9 a missed bound moves by 0.05 running scales
MEMORIES: Final = np.array([[[32]], [[1000]]])  # pairs: volatility, and the usual size of errors
LARGEST: Final = 1e150  # a larger error is tracked as this: its square is finite
SIDES: Final = np.array([[[-1.0]], [[1.0]]])  # below, above


@dataclass(frozen=True, slots=True)
class IntervalShape:
    """What sessions of one slab have in common here."""

    horizon: int
    targets: int


def fields(shape: IntervalShape) -> list[Field]:
    """State of one session. Its creator sets `coverage_target`, and `interval_reach` to `initial_reach` of it."""
    pairs = (shape.horizon, shape.targets)
    return [
        Field("coverage_target", (), np.float64),
        Field("interval_count", pairs, np.int64),  # settled pairs
        Field("interval_square", (2, *pairs), np.float64),  # running mean square error by memory
        Field("interval_reach", (2, *pairs), np.float64),  # by side, in running scales
    ]


def bounds(shape: IntervalShape, rows: Rows, mean: Floats, spread: Floats | None = None) -> tuple[Floats, Floats]:
    """Lower and upper bounds [B, H, O] of the forecasts `mean` [B, H, O] made now, in the units of the target.

    lower ≤ mean ≤ upper, both finite where `mean` is; NaN where it is NaN or fewer than WARM_UP pairs have settled.
    `spread` [B, H, O] is the deviation that the learner tells of each pair, if it tells one; `settle` wants it again.
    """
    square = rows["interval_square"]
    scale = np.sqrt(0.5 * (square[:, 0] + square[:, 1]))
    if spread is not None:
        scale = scale * spread
    np.copyto(scale, np.nan, where=rows["interval_count"] < WARM_UP)
    both = mean[:, None] + SIDES * (rows["interval_reach"] * scale[:, None])
    return both[:, 0], both[:, 1]


def settle(
    shape: IntervalShape,
    rows: Rows,
    mean: Floats,
    lower: Floats,
    upper: Floats,
    unit: Floats,
    observed: Floats,
    spread: Floats | None = None,
) -> None:
    """Moves reach and scale by pairs whose value has come, in place on `rows`.

    `mean`, `lower`, `upper`, `unit` and `spread` [B, H, O] are as they were when the pairs were made; bounds of warm-up
    are NaN. `unit` is a scale of such errors known then, or NaN: up to CAP of it, or of the running error, an error is
    no spike. `observed` [B, O] is what came. Where it or `mean` is NaN nothing moves.
    """
    values = observed[:, None]
    error = values - mean
    seen = ~np.isnan(error)
    if not seen.any():
        return
    _move_reach(rows, values, lower, upper, seen)
    if spread is not None:  # NaN: nothing was told yet, or what was told is no number
        error, unit = error / spread, unit / spread
        seen &= ~np.isnan(error)
    _track_error(rows, error, unit, seen)


def initial_reach(coverage: float) -> float:
    """Where the bounds of a new session begin: the quantile that Gaussian errors would have."""
    return NormalDist().inv_cdf((1 + coverage) / 2)


def _move_reach(rows: Rows, values: Floats, lower: Floats, upper: Floats, seen: np.ndarray) -> None:
    """One step of both quantile trackers where bounds were issued. A value on its bound is covered."""
    reach = rows["interval_reach"]
    missed = np.empty(reach.shape)
    missed[:, 0] = values < lower
    missed[:, 1] = values > upper
    tail = ((1 - rows["coverage_target"]) / 2)[:, None, None, None]
    step = RATE / np.sqrt(tail * (1 - tail)) * (missed - tail)
    issued = seen & ~np.isnan(lower)
    np.copyto(reach, np.maximum(reach + step, 0), where=issued[:, None])


def _track_error(rows: Rows, error: Floats, unit: Floats, seen: np.ndarray) -> None:
    """Moves the running mean square errors towards `error`² of the pairs `seen`, a spike cut to CAP scales."""
    count, square = rows["interval_count"], rows["interval_square"]
    count += seen
    size = np.minimum(np.abs(error), LARGEST)[:, None]
    limit = CAP * np.sqrt(np.fmax(square, (unit * unit)[:, None]))
    capped = (count > CAP_FROM)[:, None] & (limit > 0)  # none known, or all errors were zero: nothing to compare with
    size = np.where(capped, np.minimum(size, limit), size)
    weight = 1 / np.clip(count[:, None], 1, MEMORIES)
    np.add(square, weight * (size * size - square), out=square, where=seen[:, None])
