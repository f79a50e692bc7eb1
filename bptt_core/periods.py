"""The search for seasons: the periods, in steps, at which the last values of a stream repeat themselves.

It looks at a window of values and knows nothing of sessions, forecasts or calendars. For every lag it takes the mean
squared difference of the values that far apart (the difference function of de Cheveigné & Kawahara 2002), over the
pairs that were observed, of each target and of its first difference: a season on a wandering level shows in the second.
A season of P steps is a dip of that function at P below its mean over one period around P. A line through the function
cancels in that comparison, so neither trend nor random walk makes a dip, and its depth is the variance of the season.
The dip must be deep, come again at 2P (the cycles of an autoregression fade), and be significant: sample
autocorrelations of a stream without the season vary with the sum of its squared autocorrelations (Bartlett 1946), and
the difference one season apart is such a stream. A second, longer season is a dip below the lags that lie whole first
seasons away, where the first one explains just as much: a week beside a day.

Array legend: C channels (targets and their differences), N steps of the window, P periods from 0 to the longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.running import Floats

Flags = NDArray[np.bool_]

WINDOW: Final = 2048  # steps that are looked at, at most
SHORTEST: Final = 4  # a shorter season is found as two or three of it
LONGEST: Final = 720  # a month of hours; the window then tells what lies around twice that
TARGETS: Final = 8  # of more the first are looked at

DEPTH: Final = 0.2  # of a dip, as a part of its surroundings: a shallower one forecasts little
AGAIN: Final = 0.6  # of the deeper one of the dips at P and 2P the other one is at least
SIGMAS: Final = 4.0  # how significant a dip must be …
SIGMAS_BESIDE: Final = 3.0  # … beside a first season: far fewer lags are in question
MATTERS: Final = 0.08  # how much more than the first a second season must explain
APART: Final = 1.5  # least ratio of the two
ALIKE: Final = 0.75  # a dip of this much of the deepest one's depth is as good, and the shortest is the season
KEPT: Final = 0.6  # … and of this much if it was the season before, unless a shorter one will do for the first
SAME: Final = 1.3  # lags of less than this ratio are one dip, of which the bottom is the season …
STAYS: Final = 0.97  # … or the season before, if it is this deep there
WHOLE: Final = 0.9  # a second season is whole first ones, if the dip is this deep there
PAIRS: Final = 16  # that tell a mean squared difference
NUGGET: Final = 0.1  # … of which this part is taken for noise: ends of the window alone make differences of that size
TRIES: Final = 16  # dips whose significance is looked at
CLIP: Final = 5.0  # mean absolute deviations; a value further out is taken for this …
ROUNDS: Final = 64  # … and then again, as long as such values have hidden the usual deviation
ROUNDING: Final = 1e-9  # what is so much smaller than the values or the function is rounding


def longest(window: int) -> int:
    """The longest season that is searched for in so many steps."""
    return window * LONGEST // WINDOW


def find(window: Floats, current: tuple[int, int]) -> tuple[int, int]:
    """The two seasons of `window` [N, O], oldest step first, NaN missing; 0: none. N is at most WINDOW.

    `current` are those found before: they stay where nothing is found or nothing clearly better.
    """
    lags = _Lags.of(_channels(window[:, :TARGETS]))
    first = _season(lags, 0, current[0])
    if not first:
        return current
    second = current[1] if current[1] > APART * first else 0
    if first > longest(len(window)):  # kept from elsewhere: so few steps tell nothing beside it
        return first, second
    return first, _season(lags, first, second)


@dataclass(frozen=True, slots=True)
class _Lags:
    """The difference function of each channel at each lag."""

    difference: Floats  # [C, N] mean squared; 0 where it is not known
    pairs: Floats  # [C, N] it is the mean of
    known: Flags  # [C, N]
    periods: NDArray[np.int64]  # [P]

    @classmethod
    def of(cls, channels: Floats) -> _Lags:
        """Of `channels` [C, N], NaN missing: (x − y)² = x² + y² − 2xy, each a correlation with the flags of what is
        there, by Fourier transforms padded against wrapping."""
        N, there = channels.shape[1], ~np.isnan(channels)
        x = np.where(there, channels, 0)
        flags, values, squares = (np.fft.rfft(part, 2 * N) for part in (there.astype(np.float64), x, x * x))
        total = np.fft.irfft(2 * (flags.conj() * squares - values.conj() * values).real, 2 * N)[:, :N]
        pairs = np.rint(np.fft.irfft((flags.conj() * flags).real, 2 * N)[:, :N])
        known = pairs >= PAIRS
        known[:, 0] = False
        difference = np.where(known, np.maximum(total, 0) / np.maximum(pairs, 1), 0)
        return cls(difference, pairs, known, np.arange(longest(N) + 1))

    def around(self, step: int) -> tuple[Floats, Floats]:
        """The means of one period around P and around 2P, lags `step` apart, each [C, P]; 0: not known.

        Where an even number of steps makes a period, its two ends are half of one lag each.
        """
        steps = self.periods // step
        reach, ends = steps // 2 * step, np.where(steps % 2 == 0, 0.5, 0.0)
        tables = [(table, _sums(table, step)) for table in (self.difference, self.known)]

        def mean(centre: NDArray[np.int64]) -> Floats:
            low, high = centre - reach, centre + reach
            total, count = (
                sums[:, high + step] - sums[:, low] - ends * table[:, low] - ends * table[:, high]
                for table, sums in tables
            )
            return np.where(count > 0, total / np.maximum(count, 1), 0)

        return mean(self.periods), mean(2 * self.periods)


def _season(lags: _Lags, first: int, current: int) -> int:
    """The shortest season of those that show as deep a dip as any; `current` if it nearly does, or there is none.

    A dip is as deep as it is in the channel that shows it most. Beside a `first` season (0: none) a second is sought.
    """
    depth, found = _dips(lags, first)
    best = np.where(found, depth, 0).max(axis=0)
    deepest = max(float(best.max()), DEPTH)
    for lag in np.flatnonzero(best >= ALIKE * deepest)[:TRIES].tolist():
        if _significant(lags, lag, first, np.where(found[:, lag], depth[:, lag], 0)):
            season = lag + int(best[lag : int(lag * SAME) + 1].argmax())  # the bottom of the dip
            return _settled(depth.max(axis=0), first, season, current)
    return current


def _settled(depth: Floats, first: int, season: int, current: int) -> int:
    """The season that is best in line with a `first` one and with the `current` one, given the depths [P]."""
    whole = round(season / first) * first if first else season
    if whole < len(depth) and depth[whole] >= WHOLE * depth[season]:
        season = whole
    if not 0 < current < len(depth):
        return season
    if season <= current * SAME and current <= season * SAME:
        return current if depth[current] >= STAYS * depth[season] else season
    return current if depth[current] >= KEPT * depth[season] and (first or current < season) else season


def _dips(lags: _Lags, first: int) -> tuple[Floats, Flags]:
    """How deep the function dips at each lag and at twice that below the mean of their surroundings, as a part of it,
    and which dips are a season's but for their significance; both [C, P].

    The surroundings are those of `_Lags.around`; for a season beside a `first` one the lags whole first seasons away.
    """
    step, P = first or 1, len(lags.periods)
    here, twice = lags.difference[:, :P], lags.difference[:, : 2 * P - 1 : 2]
    around, around_again = lags.around(1)
    drop, drop_again = around - here, around_again - twice
    real = lags.known[:, :P] & lags.known[:, : 2 * P - 1 : 2] & (drop > ROUNDING * around)
    if first:
        explained = drop + drop_again
        real &= explained - explained[:, first, None] > 2 * MATTERS * around
        around, around_again = lags.around(first)
        drop, drop_again = around - here, around_again - twice
    real &= (around > 0) & (lags.periods >= SHORTEST) & (lags.periods > APART * first)
    depth = np.where(real, np.maximum(drop + drop_again, 0) / np.where(real, 2 * around, 1), 0)
    found = (depth >= DEPTH) & (drop_again >= AGAIN * drop) & (drop >= AGAIN * drop_again)
    found &= depth * np.sqrt(lags.pairs[:, :P]) >= SIGMAS_BESIDE  # the most significant that it can be
    lowest = np.where(lags.known, lags.difference, np.inf)
    for beside in {1, step}:
        found[:, beside:] &= here[:, beside:] < lowest[:, : P - beside]
        found &= here <= lowest[:, beside : P + beside]
    return depth, found


def _significant(lags: _Lags, lag: int, first: int, depth: Floats) -> bool:
    """Whether the dips of that `depth` [C] at a lag are too deep for chance in any channel (Bartlett's formula)."""
    surroundings = 1 + 1 / (2 * max(1, lag // (2 * max(first, 1))))
    j = np.arange(lag)
    for channel in np.flatnonzero(depth).tolist():
        D, pairs = lags.difference[channel], lags.pairs[channel, lag]
        covariance = (D[lag + j] + D[lag - j]) / 2 - D[j]  # of the difference one season apart
        correlation = covariance[1:] / max(covariance[0], NUGGET * D[1 : 2 * lag].mean())
        deviation = np.sqrt(surroundings * (1 + 2 * (correlation * correlation).sum()) / pairs)
        if depth[channel] >= (SIGMAS_BESIDE if first else SIGMAS) * deviation:
            return True
    return False


def _channels(window: Floats) -> Floats:
    """The targets and their first differences [C, N], centred, in mean absolute deviations and without their spikes;
    what never changes is missing."""
    values = np.ascontiguousarray(window.T)
    change = np.full_like(values, np.nan)
    change[:, 1:] = values[:, 1:] - values[:, :-1]
    channels = np.concatenate([values, change])
    there = ~np.isnan(channels)
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    channels = np.where(there, channels, 0)
    clipped, deviation = channels, np.full((len(channels), 1), np.inf)
    for _ in range(ROUNDS):
        centre, before = clipped.sum(axis=1, keepdims=True) / count, deviation
        deviation = np.where(there, np.abs(clipped - centre), 0).sum(axis=1, keepdims=True) / count
        low, high = centre - CLIP * deviation, centre + CLIP * deviation
        clipped = np.where(there, np.minimum(np.maximum(channels, low), high), 0)
        if (deviation >= before / 2).all():
            break
    size = np.abs(clipped[: len(values)]).sum(axis=1, keepdims=True) / count[: len(values)]
    real = deviation > ROUNDING * np.concatenate([size, size])
    return np.where(there & real, (clipped - centre) / np.where(real, deviation, 1), np.nan)


def _sums(terms: Floats | Flags, step: int) -> Floats:
    """For each lag l at l + step: the sum of the terms [C, N] at l, l − step, l − 2·step, …"""
    sums = np.zeros((len(terms), -(-terms.shape[1] // step) + 1, step))
    flat = sums.reshape(len(terms), -1)
    flat[:, step : step + terms.shape[1]] = terms
    return np.cumsum(sums, axis=1).reshape(len(terms), -1)
