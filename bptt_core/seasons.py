"""What a session remembers of its seasons: the values of the last two of them, and which periods they have.

Up to two seasons are given, or found by `periods.py` in the last values of the stream. Either way the memory is a ring
of one row per step of time, missing steps too: a gap moves the seasons on as time does. For horizon h a season of P
steps forecasts x[t + h − P⌈h/P⌉], the newest value of that phase and never one of the future; where it is missing the
one a season earlier, and then the last observed value. Nothing here knows scales, learners or clocks.

Array legend: B sessions, O targets, H horizons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core import periods
from bptt_core.running import Floats
from bptt_core.slab import Field, Rows

Flags = NDArray[np.bool_]

SLOTS: Final = 2
WINDOWS: Final = (256, 512, 1024, periods.WINDOW)
SEARCH_EVERY: Final = 64  # steps between two searches at first
SEARCH_LATER: Final = 512  # … and once the memory is full


@dataclass(frozen=True)
class SeasonShape:
    """What sessions of one slab have in common here."""

    targets: int
    horizon: int
    given: tuple[int, ...]  # none, one or two seasons
    find: bool  # search for seasons if none is given

    @property
    def searches(self) -> bool:
        """Whether seasons are searched for."""
        return self.find and not self.given

    @property
    def length(self) -> int:
        """Rows of the ring: this step and all that lies up to two seasons back; with a search also its window."""
        longest = periods.LONGEST if self.searches else max(self.given, default=0)
        return max(2 * longest + 1, periods.WINDOW if self.searches else 1)

    @cached_property
    def horizons(self) -> NDArray[np.int64]:
        """[H]: 1..H."""
        return np.arange(1, self.horizon + 1)

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """[SLOTS]: the given seasons; 0: none."""
        return np.array((*self.given, *(0,) * SLOTS)[:SLOTS])


class Seasonal(NamedTuple):
    """What the seasons say at one step."""

    period: NDArray[np.int64]  # [B, SLOTS] steps; 0: no season, or not yet one of it has been seen
    naive: Floats  # [B, SLOTS, H, O] the forecasts made here
    ago: Floats  # [B, SLOTS, O] the value one season ago; if missing two, then the last observed one
    changed: Flags  # [B, SLOTS] the period is another one than at the step before


def fields(shape: SeasonShape) -> list[Field]:
    """State of one session."""
    return [
        Field("season_steps", (), np.int64),  # taken; jumps are none
        Field("season_place", (), np.int64),  # of the next step in the ring
        Field("season_period", (SLOTS,), np.int64),
        Field("season_ring", (shape.length, shape.targets), np.float64, np.nan),
    ]


def step(
    shape: SeasonShape, rows: Rows, observed: Floats, last: Floats, usual: NDArray[np.int64] | None = None
) -> Seasonal:
    """Takes the values `observed` [B, O] of one step (NaN: missing), and forecasts by season, in place on `rows`.

    `last` [B, O] are the last observed values, this step's included; NaN: never one. `usual` [B, SLOTS] are seasons
    that the calendar suggests, in steps, 0: none; they fill the slots for which the search has found nothing.
    """
    session = np.arange(len(observed))
    now = rows["season_place"].copy()
    rows["season_ring"][session, now] = observed
    rows["season_place"][...] = (now + 1) % shape.length
    rows["season_steps"] += 1
    before = rows["season_period"].copy()
    if shape.searches:
        _search(shape, rows)
        if usual is not None:
            _fill(shape, rows, usual)
        season = rows["season_period"]
    else:
        season = np.broadcast_to(shape.slots, before.shape)
        rows["season_period"][...] = np.where(rows["season_steps"][:, None] > season, season, 0)
    naive, ago = _seasons_back(shape, rows["season_ring"], now, season, last)
    period = rows["season_period"].copy()
    return Seasonal(period, naive, ago, period != before)


def skip(shape: SeasonShape, rows: Rows, jump: NDArray[np.int64], which: Flags) -> None:
    """Moves the memory on where (`which` [B]) the stream jumped over `jump` [B] steps, whose values are missing, in
    place. The seasons stay, and of a jump only what is left of whole seasons counts: what came one season ago is then
    what came in the last season that was seen, however long ago that is."""
    jump = np.where(which, jump, 0)
    for b in np.flatnonzero(jump).tolist():
        seasons = [season for season in rows["season_period"][b].tolist() if season]
        jump[b] = jump[b] % math.lcm(*seasons) if seasons else min(jump[b], shape.length)
    ahead = (np.arange(shape.length) - rows["season_place"][:, None]) % shape.length
    rows["season_ring"][ahead < jump[:, None]] = np.nan
    rows["season_place"][...] = (rows["season_place"] + jump % shape.length) % shape.length


def _seasons_back(
    shape: SeasonShape, ring: Floats, now: NDArray[np.int64], season: NDArray[np.int64], last: Floats
) -> tuple[Floats, Floats]:
    """`naive` and `ago` of the seasons [B, SLOTS]; a season of 0 steps says the last value."""
    known = season > 0
    P = np.where(known, season, 1)[:, :, None]
    back = np.concatenate([-shape.horizons % P, P], axis=2)  # steps before this one; [B, SLOTS, H + 1]
    session = np.arange(len(ring))[:, None, None]
    place = now[:, None, None] - back
    values = ring[session, place % shape.length]
    values[~known] = np.nan
    missing = np.isnan(values)
    if missing.any():
        values = np.where(missing & known[:, :, None, None], ring[session, (place - P) % shape.length], values)
        values = np.where(np.isnan(values), last[:, None, None, :], values)
    return values[:, :, :-1], values[:, :, -1]


def _fill(shape: SeasonShape, rows: Rows, usual: NDArray[np.int64]) -> None:
    """Fills empty slots by the `usual` seasons [B, SLOTS] once one of them has been seen, in place; the second only by
    whole first ones."""
    period, steps = rows["season_period"], rows["season_steps"]
    for slot in range(SLOTS):
        season = usual[:, slot]
        fits = (period[:, slot] == 0) & (season > 0) & (steps > season) & (2 * season < shape.length)
        if slot:
            first = period[:, 0]
            fits &= (first > 0) & (season > first) & (season % np.maximum(first, 1) == 0)
        np.copyto(period[:, slot], season, where=fits)


def _search(shape: SeasonShape, rows: Rows) -> None:
    """Looks for seasons in the last values of the sessions that are due, in place on `season_period`.

    While the memory fills the window doubles, and a search becomes rarer as it becomes dearer.
    """
    steps = rows["season_steps"]
    for b in np.flatnonzero(steps % SEARCH_EVERY == 0).tolist():
        taken = int(steps[b])
        window = next((size for size in WINDOWS if size >= taken), periods.WINDOW)
        if taken % (SEARCH_LATER if taken > window else max(SEARCH_EVERY, window // 16)) == 0:
            place = (int(rows["season_place"][b]) + np.arange(-window, 0)) % shape.length
            first, second = rows["season_period"][b].tolist()
            rows["season_period"][b] = periods.find(rows["season_ring"][b, place], (first, second))
