"""How odd a value is: an anomaly score, an anomaly likelihood, and whether the sensor that gave it seems dead.

The score compares the residual of the one-step forecast with what it usually is: with the half width, on its own side,
of the interval that was issued for it, and with a running mean of its size; the larger of both is its unit. How many
units are odd depends on the tail of the noise, which is learned: the 98 % quantile of the residual in units is tracked
online (Gibbs & Candès 2021), the tail above it is taken to be Pareto's, its index estimated from the excesses (Hill
1975) and extrapolated to the residual that `ODDS` events in a row would exceed once (Weissman 1978; the idea for
streams: Siffer et al. 2017). That residual scores 1. The likelihood compares the mean of the last few scores with its
own long history (Lavin & Ahmad 2015): many half-odd values in a row, or a spike in quiet times.

A missing value, and a value that repeats longer than any before, are no surprise but a state of the sensor. Nothing
here knows who made the forecast.

Array legend: B sessions, O targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core.events import SensorState
from bptt_core.running import CAP, CAP_FROM, Floats, newest_weight
from bptt_core.scaling import FLOOR, TINY
from bptt_core.slab import Field, Rows

Flags = NDArray[np.bool_]
Codes = NDArray[np.int8]

ODDS: Final = 1000  # events of steady noise per score above 1
WARM_UP: Final = 64  # residuals of a target before it is scored, scores before they have a likelihood
SCORE_LIMIT: Final = 1000.0  # no score is larger
LOG_LIMIT: Final = math.log(SCORE_LIMIT)
SIZE_MEMORY: Final = 64  # of the mean size of the residual
SIZES: Final = 2.0  # the unit is at least this many mean sizes: about the half width of a 90 % interval
TAIL: Final = 0.02  # share of residuals that is taken for the tail
TAIL_RATE: Final = 0.02  # how far the tail's beginning moves, relative to itself, when it is exceeded
TAIL_RANGE: Final = (math.log(0.5), math.log(20.0))  # log of where it may begin, in units
TAIL_MEMORY: Final = 100  # of the mean log excess, in excesses
TAIL_PRIOR: Final = 20  # excesses that the Gaussian tail a target starts with counts for
GAUSS_TAIL: Final = math.log(2.3263 / 1.6449)  # log of where the Gaussian tail begins, in half widths of 90 %
GAUSS_EXCESS: Final = 0.137  # mean log excess of the Gaussian tail
EXCESS_CAP: Final = 2.0  # an excess counts at most as this many mean ones: anomalies are no part of the tail
STRETCH: Final = math.log(3.0)  # score 1 is at most this far (log) beyond the tail's beginning: 7 sigmas if Gaussian
SHORT: Final = 10  # scores in the mean whose likelihood is told
LONG: Final = 2000  # … and of its history
SCORE_CAP: Final = 2.0  # a score counts at most as this there
CHANGES: Final = 64  # changes of value before a sensor can be called stuck
LEAST_RUN: Final = 7.0  # repeats that are always plausible
RUNS: Final = 3.0  # … and so is this many times the longest run of repeats
RUN_MEMORY: Final = 10_000  # of the longest run


MISSING: Final = np.int8(SensorState.MISSING)
STUCK: Final = np.int8(SensorState.STUCK)
OK: Final = np.int8(SensorState.OK)


@dataclass(frozen=True, slots=True)
class AnomalyShape:
    """What sessions of one slab have in common here."""

    targets: int

    @property
    def extrapolation(self) -> float:
        """Log of how much rarer than the tail a score above 1 of one target is: all targets share `ODDS`."""
        return math.log(TAIL * ODDS * self.targets)


class Anomaly(NamedTuple):
    """How odd the values of one step are."""

    score: Floats  # [B] largest over the targets; above 1: anomalous; 0 in warm-up
    target_score: Floats  # [B, O] 0 also where the state is not OK
    likelihood: Floats  # [B] 0..1, usually about ½; 0 in warm-up and where nothing can be judged
    state: Codes  # [B, O] `SensorState`


def fields(shape: AnomalyShape) -> list[Field]:
    """State of one session."""
    O = shape.targets
    return [
        Field("anomaly_count", (O,), np.int64),  # residuals
        Field("anomaly_size", (O,), np.float64),  # mean of their size, original units
        Field("anomaly_tail", (O,), np.float64, GAUSS_TAIL),  # log of where the tail begins, in units
        Field("anomaly_excesses", (O,), np.int64, TAIL_PRIOR),
        Field("anomaly_excess", (O,), np.float64, GAUSS_EXCESS),
        Field("anomaly_scores", (), np.int64),
        Field("anomaly_short", (), np.float64),
        Field("anomaly_long", (), np.float64),
        Field("anomaly_gap_square", (), np.float64),  # mean square of short − long
        Field("anomaly_last", (O,), np.float64, np.nan),
        Field("anomaly_changes", (O,), np.int64),
        Field("anomaly_run", (O,), np.int64),  # how often the last value has been repeated
        Field("anomaly_longest_run", (O,), np.float64),
    ]


def step(
    shape: AnomalyShape,
    rows: Rows,
    observed: Floats,
    mean: Floats,
    lower: Floats,
    upper: Floats,
    least: Floats | None = None,
) -> Anomaly:
    """Judges the values `observed` [B, O] (NaN: missing, all of them at a missing step), in place on `rows`.

    `mean`, `lower`, `upper` [B, O] are the forecast and interval issued for them one step ago (NaN: none). Where the
    usual error is below `least` [B, O], the stream has stood still, and larger ones are no spikes. Without it that is a
    matter of rounding.
    """
    seen = observed == observed
    stuck = _stuck(rows, observed, seen)
    residual = observed - mean
    size = np.abs(residual)
    alive = ~stuck
    width = np.where(residual > 0, upper - mean, mean - lower)
    floor = np.maximum(FLOOR * np.fmin(np.abs(observed), np.abs(mean)), TINY)  # an absurd value must not lift it
    ratio = size / np.maximum(np.maximum(width, SIZES * rows["anomaly_size"]), floor)  # NaN in the interval's warm-up
    judged = alive & (ratio == ratio) & (rows["anomaly_count"] >= WARM_UP)
    log_ratio = np.log(np.maximum(ratio, TINY))
    beyond = np.minimum(rows["anomaly_excess"] * shape.extrapolation, STRETCH)
    oddness = np.exp(np.minimum(log_ratio - rows["anomaly_tail"] - beyond, LOG_LIMIT))
    target_score = np.where(judged, oddness, 0.0)
    _learn_tail(rows, log_ratio, judged)
    still = floor if least is None else np.fmin(floor, least)
    _learn_size(rows, size, still, alive & (size < np.inf))
    score: Floats = np.maximum.reduce(target_score, axis=-1)
    likelihood = _likelihood(rows, score, np.logical_or.reduce(judged, axis=-1))
    return Anomaly(score, target_score, likelihood, np.where(seen, np.where(stuck, STUCK, OK), MISSING))


def _learn_size(rows: Rows, size: Floats, floor: Floats, learned: Flags) -> None:
    """Moves the mean size of the residuals, in place; a spike counts as `CAP` usual ones."""
    count, usual = rows["anomaly_count"], rows["anomaly_size"]
    count += learned
    capped = np.where((count > CAP_FROM) & (usual > floor), np.minimum(size, CAP * usual), size)
    np.add(usual, newest_weight(count, SIZE_MEMORY) * (capped - usual), out=usual, where=learned)


def _learn_tail(rows: Rows, log_ratio: Floats, judged: Flags) -> None:
    """Moves where the tail begins so that the share `TAIL` lies beyond, and the mean excess of those, in place.

    However n ratios come, the share is met within log(20 / ½) / (TAIL_RATE · n), unless the tail begins outside
    `TAIL_RANGE`.
    """
    tail, mean, count = rows["anomaly_tail"], rows["anomaly_excess"], rows["anomaly_excesses"]
    excess = log_ratio - tail
    beyond = judged & (excess > 0)
    moved = np.minimum(np.maximum(tail + TAIL_RATE * (beyond - TAIL), TAIL_RANGE[0]), TAIL_RANGE[1])
    np.copyto(tail, moved, where=judged)
    if beyond.any():
        count += beyond
        capped = np.minimum(excess, EXCESS_CAP * mean) / (1 - math.exp(-EXCESS_CAP))  # unbiased if exponential
        np.add(mean, newest_weight(count, TAIL_MEMORY) * (capped - mean), out=mean, where=beyond)


def _likelihood(rows: Rows, score: Floats, judged: Flags) -> Floats:
    """How unusually high the mean of the latest scores is [B], 0..1; moves the running means, in place."""
    count, short, long, square = (rows[f"anomaly_{name}"] for name in ("scores", "short", "long", "gap_square"))
    capped = np.minimum(score, SCORE_CAP)
    count += judged
    np.add(short, newest_weight(count, SHORT) * (capped - short), out=short, where=judged)
    gap = short - long
    sigmas = gap / np.sqrt(2 * square + TINY)
    weight = newest_weight(count, LONG)
    np.add(long, weight * (capped - long), out=long, where=judged)
    newest = np.where(count > WARM_UP, np.minimum(gap * gap, CAP * CAP * square), gap * gap)
    np.add(square, weight * (newest - square), out=square, where=judged)
    normal = np.array([0.5 + 0.5 * math.erf(s) for s in sigmas.tolist()])
    return np.where(judged & (count > WARM_UP), normal, 0.0)


def _stuck(rows: Rows, observed: Floats, seen: Flags) -> Flags:
    """Where a value has been repeated implausibly often [B, O]; moves runs, in place.

    Of n runs of repeats, each one longer with probability p, the longest is about log n / log(1/p) long, and three
    times as long a run has probability n⁻³, whatever p is. A run teaches no more than was plausible when it ended, so
    that a dead sensor does not make the next one look alive, but what is regular is learned.
    """
    last, run, longest = rows["anomaly_last"], rows["anomaly_run"], rows["anomaly_longest_run"]
    plausible = np.maximum(RUNS * longest, LEAST_RUN)
    repeated = observed == last
    changed = seen & ~repeated
    np.multiply(longest, 1 - 1 / RUN_MEMORY, out=longest, where=seen)
    np.maximum(longest, np.minimum(run, plausible), out=longest, where=changed)
    run += repeated
    np.copyto(run, 0, where=changed)
    np.copyto(last, observed, where=seen)
    changes = rows["anomaly_changes"]
    changes += changed
    stuck: Flags = repeated & (run >= plausible) & (changes > CHANGES)
    return stuck
