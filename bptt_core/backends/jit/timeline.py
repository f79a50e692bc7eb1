"""How many steps an event is late, in compiled code: the grid of `bptt_core/timeline.py` on a session's own row.

What is done with the steps that lie between two events is the driver's business. The reference counts in integers of
any length; here no difference is formed that 64 bits do not hold.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.memory import exact, i64
from bptt_core.timeline import DIFFERENCES, MAX_DIFFERENCE_NS

TIMED, LAST, GRID, PERIOD, COUNT, FIRST = range(6)  # places in the row; FIRST: of the differences
SIZE: Final = FIRST + DIFFERENCES


@exact
def periods_missed(address: int, now: int, fresh: bool) -> int:
    """How many whole steps lie between the event before and one at `now`, in place on the `timeline` at the address.

    `fresh`: the event begins an episode.
    """
    row = i64(address, SIZE)
    period, missed = row[PERIOD], 0
    if row[TIMED] != 1 or period == 0:
        if row[TIMED] == 1 and not fresh:
            # A longer difference than the row can hold wraps around to a negative one.
            difference = now - row[LAST]
            _learn_period(row, difference if 0 <= difference < MAX_DIFFERENCE_NS else MAX_DIFFERENCE_NS)
        row[GRID] = now
    else:
        half = period // 2
        missed, beyond = _steps(now, row[GRID], period)
        row[GRID] = now if fresh else now - min(max(beyond, -half), half)
    row[TIMED], row[LAST] = 1, now
    return missed


@exact
def _steps(now: int, grid: int, period: int) -> Any:
    """The grid steps from `grid` to `now`, to the nearest one, less the one that each event is; and how far beyond
    the last of them the event lies, in nanoseconds."""
    if now < grid:
        return 0, now - grid - period
    difference = np.uint64(now) - np.uint64(grid)
    steps, one = difference // np.uint64(period), np.uint64(1)  # up to 2^63, of which one less is what 64 bits hold
    beyond = np.int64(difference % np.uint64(period))
    if beyond >= period - period // 2:
        steps, beyond = steps + one, beyond - period
    return (np.int64(steps - one), beyond) if steps >= one else (np.int64(0), beyond - period)


@exact
def _learn_period(row: Any, difference: int) -> None:
    """Equal timestamps say nothing about the period and are passed over; of so many differences it is the median."""
    if difference == 0:
        return
    row[FIRST + row[COUNT]] = difference
    row[COUNT] += 1
    if row[COUNT] < DIFFERENCES:
        return
    for k in range(FIRST, SIZE):
        smaller = 0
        for other in range(FIRST, SIZE):
            smaller += row[other] < row[k] or (row[other] == row[k] and other < k)
        if smaller == DIFFERENCES // 2:
            row[PERIOD] = row[k]
    for k in range(COUNT, SIZE):
        row[k] = 0
