"""The search for seasons of `bptt_core.periods` in compiled code, for the window of one session.

What is different is how the difference function is had: as what it says, a sum over all pairs of values that far apart,
a few lags at once so that a value is loaded once for them. For the lengths in question that takes a tenth of the time
of the Fourier transforms. Everything after it is the reference, whose words and constants these are. Nothing here knows
where the window comes from.

All tables lie in one scratch block as rows of numbers, see `_row`: C of values, of differences, of pairs and of dips, a
row for each channel; then the depths, the dips of any channel, sums, means, and numbers that each channel has once.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.memory import exact, f64, f64_2, fast
from bptt_core.periods import (
    AGAIN,
    ALIKE,
    APART,
    CLIP,
    DEPTH,
    KEPT,
    LONGEST,
    MATTERS,
    NUGGET,
    PAIRS,
    ROUNDING,
    ROUNDS,
    SAME,
    SHORTEST,
    SIGMAS,
    SIGMAS_BESIDE,
    STAYS,
    TARGETS,
    TRIES,
    WHOLE,
    WINDOW,
)

# Typed, as a function that is called with a literal is compiled for it once more.
NONE: Final[Any] = np.int64(0)
ONE: Final[Any] = np.int64(1)

LAGS: Final[Any] = np.int64(4)  # whose sums are taken at once
SPARE: Final = 128  # numbers of a row that are more than the window's
ONCE: Final[Any] = np.int64(5)  # numbers that a channel has once: count, centre, deviation, lowest and highest value

# Rows after the four of each channel; sums are longer than a window and have two each.
DEEP, BEST, SUMS, COUNTS, AROUND, AROUND_AGAIN, FAR, FAR_AGAIN, ONCES, ROWS = 0, 1, 2, 4, 6, 7, 8, 9, 10, 11


def scratch_bytes(targets: int) -> int:
    """Size of the block that a search over so many targets writes to; it must begin on a multiple of 8."""
    return 8 * (WINDOW + SPARE) * (4 * 2 * min(targets, TARGETS) + ROWS)


@exact
def find(window: int, N: int, O: int, first: int, second: int, scratch: int) -> tuple[int, int]:
    """The two seasons of the window at an address [N, O], as `periods.find` has them; `first` and `second` are those
    found before."""
    C = 2 * min(O, TARGETS)
    _channels(window, N, O, C, scratch)
    for c in range(C):
        _differences(_row(scratch, N, c), N, _row(scratch, N, C + c), _row(scratch, N, 2 * C + c))
    found = _season(scratch, N, C, NONE, first)
    if not found:
        return first, second
    beside = second if second > APART * found else 0
    if found > N * LONGEST // WINDOW:
        return found, beside
    return found, _season(scratch, N, C, found, beside)


@exact
def _row(scratch: int, N: int, k: int) -> int:
    """Where row `k` of the scratch block begins."""
    return scratch + 8 * (N + SPARE) * k


@exact
def _differences(x: int, N: int, differences: int, pairs: int) -> None:
    """The difference function [N] of the values x [N] and how many pairs it is the mean of [N]; 0 where they are too
    few. Behind the values there must be NaN, and behind both results room, for `LAGS` more."""
    for lag in range(0, N, LAGS):
        _sum_pairs(x, N, lag, differences + 8 * lag, pairs + 8 * lag)
    D, count = f64(differences, N), f64(pairs, N)
    for lag in range(N):
        D[lag] = D[lag] / count[lag] if _known(count, lag) else 0.0


@fast
def _sum_pairs(x: int, N: int, lag: int, total: int, count: int) -> None:
    """The sums of the squared differences of the values `lag`, … `lag` + 3 apart, and of how many, both [LAGS]."""
    n = N - lag
    here = f64(x, n)
    at = x + 8 * lag
    x0, x1, x2, x3 = f64(at, n), f64(at + 8, n), f64(at + 16, n), f64(at + 24, n)
    t0 = t1 = t2 = t3 = 0.0
    n0 = n1 = n2 = n3 = 0
    for i in range(n):
        d0, d1, d2, d3 = here[i] - x0[i], here[i] - x1[i], here[i] - x2[i], here[i] - x3[i]
        t0 += d0 * d0 if d0 == d0 else 0.0
        t1 += d1 * d1 if d1 == d1 else 0.0
        t2 += d2 * d2 if d2 == d2 else 0.0
        t3 += d3 * d3 if d3 == d3 else 0.0
        n0 += int(d0 == d0)
        n1 += int(d1 == d1)
        n2 += int(d2 == d2)
        n3 += int(d3 == d3)
    totals, counts = f64(total, LAGS), f64(count, LAGS)
    totals[0], totals[1], totals[2], totals[3] = t0, t1, t2, t3
    counts[0], counts[1], counts[2], counts[3] = n0, n1, n2, n3


@exact
def _known(pairs: Any, lag: int) -> bool:
    """Whether enough pairs tell the difference at a lag."""
    return bool(lag > 0 and pairs[lag] >= PAIRS)


@exact
def _season(scratch: int, N: int, C: int, first: int, current: int) -> int:
    """`periods._season` of the differences in the scratch block."""
    P = N * LONGEST // WINDOW + 1
    deep, best = f64(_row(scratch, N, 4 * C + DEEP), P), f64(_row(scratch, N, 4 * C + BEST), P)
    for lag in range(P):
        deep[lag] = best[lag] = 0.0
    for c in range(C):
        _dips(scratch, N, C, c, first)
    deepest = DEPTH
    for lag in range(P):
        deepest = max(deepest, best[lag])
    tries = 0
    for lag in range(P):
        if best[lag] >= ALIKE * deepest and tries < TRIES:
            tries += 1
            if _significant(scratch, N, C, lag, first):
                season = lag  # the bottom of the dip
                for beside in range(lag + 1, min(int(lag * SAME) + 1, P)):
                    if best[beside] > best[season]:
                        season = beside
                return _settled(deep, P, first, season, current)
    return current


@exact
def _settled(deep: Any, P: int, first: int, season: int, current: int) -> int:
    """`periods._settled`, given the depths [P]."""
    whole = int(np.rint(season / first)) * first if first else season
    if whole < P and deep[whole] >= WHOLE * deep[season]:
        season = whole
    if not 0 < current < P:
        return season
    if season <= current * SAME and current <= season * SAME:
        return current if deep[current] >= STAYS * deep[season] else season
    return current if deep[current] >= KEPT * deep[season] and (first or current < season) else season


@exact
def _dips(scratch: int, N: int, C: int, c: int, first: int) -> None:
    """`periods._dips` of channel `c`: its dips, and with them the depths and dips of any channel so far."""
    P = N * LONGEST // WINDOW + 1
    D, pairs = f64(_row(scratch, N, C + c), N), f64(_row(scratch, N, 2 * C + c), N)
    dips = f64(_row(scratch, N, 3 * C + c), P)
    deep, best = f64(_row(scratch, N, 4 * C + DEEP), P), f64(_row(scratch, N, 4 * C + BEST), P)
    around, again = f64(_row(scratch, N, 4 * C + AROUND), P), f64(_row(scratch, N, 4 * C + AROUND_AGAIN), P)
    _around(D, pairs, N, C, scratch, ONE, around, again)
    far, far_again, explained = around, again, 0.0
    if first:
        far, far_again = f64(_row(scratch, N, 4 * C + FAR), P), f64(_row(scratch, N, 4 * C + FAR_AGAIN), P)
        _around(D, pairs, N, C, scratch, first, far, far_again)
        explained = around[first] - D[first] + (again[first] - D[2 * first])
    for lag in range(P):
        dips[lag] = 0.0
        drop, drop_again = around[lag] - D[lag], again[lag] - D[2 * lag]
        real = _known(pairs, lag) and _known(pairs, 2 * lag) and drop > ROUNDING * around[lag]
        if first:
            real = real and drop + drop_again - explained > 2 * MATTERS * around[lag]
            drop, drop_again = far[lag] - D[lag], far_again[lag] - D[2 * lag]
        if real and far[lag] > 0 and lag >= SHORTEST and lag > APART * first:
            depth = max(drop + drop_again, 0.0) / (2 * far[lag])
            deep[lag] = max(deep[lag], depth)
            if _is_season(D, pairs, lag, first or 1, depth, drop, drop_again):
                dips[lag] = depth
                best[lag] = max(best[lag], depth)


@exact
def _is_season(D: Any, pairs: Any, lag: int, step: int, depth: float, drop: float, drop_again: float) -> bool:
    """Whether a dip is a season's but for its significance: deep, there again at twice the lag, and at the bottom."""
    if depth < DEPTH or depth * math.sqrt(pairs[lag]) < SIGMAS_BESIDE:
        return False
    if drop_again < AGAIN * drop or drop < AGAIN * drop_again:
        return False
    return _is_lowest(D, pairs, lag, ONE) and _is_lowest(D, pairs, lag, step)


@exact
def _is_lowest(D: Any, pairs: Any, lag: int, beside: int) -> bool:
    """Whether the differences so many lags before and after are not known or larger; after may be equal."""
    if lag >= beside and _known(pairs, lag - beside) and D[lag - beside] <= D[lag]:
        return False
    return not (_known(pairs, lag + beside) and D[lag + beside] < D[lag])


@exact
def _around(D: Any, pairs: Any, N: int, C: int, scratch: int, step: int, around: Any, again: Any) -> None:
    """`periods._Lags.around` of one channel: the two means of surroundings [P]."""
    sums, counts = f64(_row(scratch, N, 4 * C + SUMS), N + step), f64(_row(scratch, N, 4 * C + COUNTS), N + step)
    for lag in range(step):
        sums[lag] = counts[lag] = 0.0
    for lag in range(N):
        sums[lag + step] = sums[lag] + D[lag]
        counts[lag + step] = counts[lag] + (1.0 if _known(pairs, lag) else 0.0)
    for lag in range(len(around)):
        steps = lag // step
        reach, ends = steps // 2 * step, 0.5 if steps % 2 == 0 else 0.0
        around[lag] = _mean(D, pairs, sums, counts, lag - reach, lag + reach, step, ends)
        again[lag] = _mean(D, pairs, sums, counts, 2 * lag - reach, 2 * lag + reach, step, ends)


@exact
def _mean(D: Any, pairs: Any, sums: Any, counts: Any, low: int, high: int, step: int, ends: float) -> float:
    """Of the known differences at `low`, `low` + `step`, … `high`, less that part of the two ends; 0: none is known."""
    total = sums[high + step] - sums[low] - ends * D[low] - ends * D[high]
    count = counts[high + step] - counts[low]
    count -= ends * ((1.0 if _known(pairs, low) else 0.0) + (1.0 if _known(pairs, high) else 0.0))
    return total / max(count, 1.0) if count > 0 else 0.0


@exact
def _significant(scratch: int, N: int, C: int, lag: int, first: int) -> bool:
    """`periods._significant` of the dips at a lag."""
    surroundings = 1 + 1 / (2 * max(1, lag // (2 * max(first, 1))))
    sigmas = SIGMAS_BESIDE if first else SIGMAS
    for c in range(C):
        depth = f64(_row(scratch, N, 3 * C + c), lag + 1)[lag]
        if depth > 0:
            pairs = f64(_row(scratch, N, 2 * C + c), N)[lag]
            squares = _squared_correlations(f64(_row(scratch, N, C + c), N), lag)
            if depth >= sigmas * math.sqrt(surroundings * (1 + 2 * squares) / pairs):
                return True
    return False


@fast
def _squared_correlations(D: Any, lag: int) -> float:
    """The sum over all lags below `lag` of the squared autocorrelations of the difference that far apart."""
    total = 0.0
    for j in range(1, 2 * lag):
        total += D[j]
    variance = max(D[lag] - D[0], NUGGET * (total / (2 * lag - 1)))
    squares = 0.0
    for j in range(1, lag):
        correlation = ((D[lag + j] + D[lag - j]) / 2 - D[j]) / variance
        squares += correlation * correlation
    return squares


@exact
def _channels(window: int, N: int, O: int, C: int, scratch: int) -> None:
    """`periods._channels`, as rows of the scratch block that end in NaN."""
    targets = C // 2
    once = f64_2(_row(scratch, N, 4 * C + ONCES), C, ONCE)
    for c in range(C):
        once[c, 0] = _channel(f64_2(window, N, O), c, targets, f64(_row(scratch, N, c), N + LAGS))
        once[c, 2], once[c, 3], once[c, 4] = np.inf, -np.inf, np.inf
    for _ in range(ROUNDS):
        settled = True
        for c in range(C):
            x, before = f64(_row(scratch, N, c), N), once[c, 2]
            centre = _total(x, once[c, 3], once[c, 4]) / once[c, 0]
            deviation = _total_from(x, once[c, 3], once[c, 4], centre) / once[c, 0]
            once[c, 1], once[c, 2] = centre, deviation
            once[c, 3], once[c, 4] = centre - CLIP * deviation, centre + CLIP * deviation
            settled = settled and deviation >= before / 2
        if settled:
            break
    for c in range(C - 1, -1, -1):  # the targets last, whose sizes their changes need
        target = c % targets
        size = _total_from(f64(_row(scratch, N, target), N), once[target, 3], once[target, 4], 0.0) / once[target, 0]
        x, centre, deviation = f64(_row(scratch, N, c), N), once[c, 1], once[c, 2]
        changes = deviation > ROUNDING * size
        for i in range(N):
            x[i] = (_clipped(x[i], once[c, 3], once[c, 4]) - centre) / deviation if changes else np.nan


@exact
def _channel(values: Any, c: int, targets: int, x: Any) -> float:
    """Writes channel `c` of the values [N, O] to x, and NaN behind it; how many values it has, 1 if none."""
    count = 0.0
    N = len(values)
    for i in range(N):
        if c < targets:
            x[i] = values[i, c]
        else:
            x[i] = values[i, c - targets] - values[i - 1, c - targets] if i else np.nan
        count += 0.0 if math.isnan(x[i]) else 1.0
    x[N:] = np.nan
    return max(count, 1.0)


@fast
def _total(x: Any, low: float, high: float) -> float:
    """The sum of what is not missing, clipped."""
    total = 0.0
    for i in range(len(x)):
        total += 0.0 if math.isnan(x[i]) else _clipped(x[i], low, high)
    return total


@fast
def _total_from(x: Any, low: float, high: float, centre: float) -> float:
    """The sum of the distances from a centre of what is not missing, clipped."""
    total = 0.0
    for i in range(len(x)):
        total += 0.0 if math.isnan(x[i]) else abs(_clipped(x[i], low, high) - centre)
    return total


@exact
def _clipped(value: float, low: float, high: float) -> float:
    """A value within bounds; NaN where any of the three is."""
    above = value if value >= low or math.isnan(value) else low
    return above if above <= high or math.isnan(above) else high
