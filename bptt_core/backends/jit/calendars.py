"""Calendar inputs and the seasons that a calendar suggests, in compiled code: `bptt_core/calendars.py` for one step."""

from __future__ import annotations

import math
from typing import Final

from bptt_core.backends.jit.memory import exact, f64, i64
from bptt_core.calendars import CYCLES_NS, EPOCH_NS, FEWEST

_DAY, _WEEK = (int(cycle) for cycle in CYCLES_NS)
_DAY_EPOCH, _WEEK_EPOCH = (int(epoch) for epoch in EPOCH_NS)
_TURN: Final = 2 * math.pi


@exact
def _cycle(time_ns: int, shown: bool, cycle: int, epoch: int, inputs: int) -> None:
    """Sine and cosine of where a time lies in one cycle."""
    angle = (time_ns % cycle + epoch) % cycle * (_TURN / cycle)
    pair = f64(inputs, 2)
    pair[0] = math.sin(angle) if shown else 0.0
    pair[1] = math.cos(angle) if shown else 0.0


@exact
def calendar(time_ns: int, timed: bool, period_ns: int, inputs: int) -> None:
    """Writes sine and cosine of the time of day and of the time of week; 0 where they tell nothing."""
    _cycle(time_ns, timed and period_ns < _DAY, _DAY, _DAY_EPOCH, inputs)
    _cycle(time_ns, timed and period_ns < _WEEK, _WEEK, _WEEK_EPOCH, inputs + 16)


@exact
def _usual(cycle: int, period: int) -> int:
    """A cycle in steps; 0: it is not whole steps, or too few of them."""
    steps = (cycle + period // 2) // period
    return steps if abs(cycle - steps * period) <= period // 8 and steps >= FEWEST else 0


@exact
def usual_seasons(timed: bool, period_ns: int, usual: int) -> None:
    """Writes a day and a week in steps, the shorter first; 0: none."""
    period = period_ns if timed and period_ns > 0 else 2 * _WEEK
    seasons = i64(usual, 2)
    seasons[0], seasons[1] = _usual(_DAY, period), _usual(_WEEK, period)
    if seasons[0] == 0:
        seasons[0], seasons[1] = seasons[1], 0
