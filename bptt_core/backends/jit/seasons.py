"""The memory of seasons in compiled code: `bptt_core/seasons.py` for one session and one step.

A ring lies at an address, [length, O], and what else there is of the memory at addresses beside it: the stages that
keep such a memory have records of their own. Array legend: O targets, H horizons.
"""

from __future__ import annotations

import math

import numpy as np

from bptt_core.backends.jit import periods
from bptt_core.backends.jit.memory import exact, f64, f64_2, i64
from bptt_core.periods import TARGETS, WINDOW
from bptt_core.seasons import SEARCH_EVERY, SEARCH_LATER, SLOTS, WINDOWS

_WINDOWS = WINDOWS[::-1]


@exact
def seasons_remember(steps: int, place: int, ring: int, length: int, O: int, observed: int) -> int:
    """Takes the values of one step, and returns their row of the ring; `steps` and `place` are addresses."""
    counter = i64(place, 1)
    now: int = counter[0]
    values, memory = f64(observed, O), f64(ring + 8 * O * now, O)
    for o in range(O):
        memory[o] = values[o]
    counter[0] = (now + 1) % length
    i64(steps, 1)[0] += 1
    return now


@exact
def seasons_given(steps: int, period: int, given: int) -> None:
    """Writes the periods of the `given` seasons of which one has been seen, 0 for the others."""
    taken, seasons, periods_ = i64(steps, 1)[0], i64(given, SLOTS), i64(period, SLOTS)
    for slot in range(SLOTS):
        periods_[slot] = seasons[slot] if taken > seasons[slot] else 0


@exact
def seasons_naive(
    ring: int, length: int, O: int, H: int, now: int, seasons: int, last: int, naive: int, ago: int
) -> None:
    """Forecasts by each season, of which `seasons` has the steps; `naive` [SLOTS, H, O] and `ago` [SLOTS, O]."""
    season = i64(seasons, SLOTS)
    for slot in range(SLOTS):
        P = season[slot]
        for h in range(1, H + 1):
            back = -h % P if P > 0 else 0
            _back(ring, length, O, now, back, P, last, naive + 8 * O * (slot * H + h - 1))
        _back(ring, length, O, now, P, P, last, ago + 8 * O * slot)


@exact
def _back(ring: int, length: int, O: int, now: int, back: int, season: int, last: int, values: int) -> None:
    """The values `back` steps before this one; of what is missing those one `season` earlier, then the last values."""
    memory, newest, found = f64_2(ring, length, O), f64(last, O), f64(values, O)
    if season == 0:
        for o in range(O):
            found[o] = newest[o]
        return
    here = (now - back) % length
    before = (here - season) % length
    for o in range(O):
        value = memory[here, o]
        if value != value:
            value = memory[before, o]
        found[o] = value if value == value else newest[o]


@exact
def seasons_step(
    steps: int,
    place: int,
    period: int,
    ring: int,
    length: int,
    O: int,
    H: int,
    given: int,
    observed: int,
    last: int,
    naive: int,
    ago: int,
) -> None:
    """Takes the values of one step and forecasts by `given` seasons; everything but the three sizes is an address."""
    now = seasons_remember(steps, place, ring, length, O, observed)
    seasons_given(steps, period, given)
    seasons_naive(ring, length, O, H, now, given, last, naive, ago)


@exact
def seasons_skip(place: int, period: int, ring: int, length: int, O: int, jump: int) -> None:
    """Moves the memory on where the stream jumped over so many steps, of which whole seasons do not count."""
    counter, season = i64(place, 1), i64(period, SLOTS)
    whole = 0
    for slot in range(SLOTS):
        P = season[slot]
        if P > 0:
            whole = P if whole == 0 else whole // math.gcd(whole, P) * P
    over = jump % whole if whole > 0 else min(jump, length)
    memory = f64_2(ring, length, O)
    for k in range(min(over, length)):
        row = (counter[0] + k) % length
        for o in range(O):
            memory[row, o] = np.nan
    counter[0] = (counter[0] + over % length) % length


@exact
def seasons_fill(steps: int, period: int, length: int, usual: int) -> None:
    """Fills empty slots by the `usual` seasons once one of them has been seen; the second only by whole first ones."""
    taken, found, suggested = i64(steps, 1)[0], i64(period, SLOTS), i64(usual, SLOTS)
    for slot in range(SLOTS):
        season = suggested[slot]
        fits = found[slot] == 0 and season > 0 and taken > season and 2 * season < length
        if slot == 1:
            first = found[0]
            fits = fits and first > 0 and season > first and season % first == 0
        if fits:
            found[slot] = season


@exact
def _due(taken: int) -> int:
    """The window, in steps, that is to be searched after so many steps; 0: none now."""
    if taken % SEARCH_EVERY != 0:
        return 0
    window = WINDOW
    for size in _WINDOWS:
        if size >= taken:
            window = size
    every = SEARCH_LATER if taken > window else max(SEARCH_EVERY, window // 16)
    return window if taken % every == 0 else 0


@exact
def seasons_search(
    steps: int, place: int, period: int, ring: int, length: int, O: int, window: int, scratch: int
) -> None:
    """Looks for seasons in the last values if a search is due, by way of copies of them at `window`."""
    size = _due(i64(steps, 1)[0])
    if size == 0:
        return
    seen, next_place = min(O, TARGETS), i64(place, 1)[0]
    memory, copies, season = f64_2(ring, length, O), f64_2(window, size, seen), i64(period, SLOTS)
    for k in range(size):
        row = (next_place - size + k) % length
        for o in range(seen):
            copies[k, o] = memory[row, o]
    season[0], season[1] = periods.find(window, size, seen, season[0], season[1], scratch)
