"""From events to steps of equal length: where a stream with timestamps has a gap, missing steps fill it.

Without timestamps every event is one step. With them the period is configured, or the median of the first 16
differences between events and then frozen. Events lie on a grid of that period, which follows them so that jitter does
not add up; an event g grid steps after the one before is preceded by g − 1 missing steps, or, if those would be more
than the network can look back over, by a jump that clears the window. An event that begins an episode clears it too,
whatever time lies before it. Integers only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.checks import FieldError
from bptt_core.events import Events
from bptt_core.slab import Field

DIFFERENCES: Final = 16
_ROW: Final = 5 + DIFFERENCES
UNKNOWN: Final = -1
MAX_DIFFERENCE_NS: Final = 2**62  # a longer one is remembered as this, which fits the state


@dataclass(frozen=True, slots=True)
class Timeline:
    """What a session knows of time."""

    timed: int = UNKNOWN  # whether its events have timestamps, 0 or 1
    last_ns: int = 0
    grid_ns: int = 0  # where the last event's step lies
    period_ns: int = 0  # 0: not known yet
    differences: tuple[int, ...] = ()  # while the period is not known

    @classmethod
    def of_row(cls, row: NDArray[np.int64]) -> Timeline:
        """Reads the slab's `timeline` field."""
        timed, last, grid, period, count, *differences = row.tolist()
        return cls(timed, last, grid, period, tuple(differences[:count]))

    def row(self) -> NDArray[np.int64]:
        """As the slab's `timeline` field."""
        row = np.zeros(_ROW, np.int64)
        facts = self.timed, self.last_ns, self.grid_ns, self.period_ns, len(self.differences), *self.differences
        row[: len(facts)] = facts
        return row


def fields() -> list[Field]:
    """State of one session."""
    return [Field("timeline", (_ROW,), np.int64)]


def sound(row: NDArray[np.int64]) -> bool:
    """Whether a `timeline` field is one that events may follow. A grid lies within half a period of its event."""
    timed, last, grid, period, count, *differences = row.tolist()
    return (
        timed in (UNKNOWN, 0, 1)
        and abs(last) <= MAX_DIFFERENCE_NS
        and 0 <= period <= MAX_DIFFERENCE_NS
        and abs(grid - last) <= period // 2
        and 0 <= count < DIFFERENCES
        and all(0 <= difference <= MAX_DIFFERENCE_NS for difference in differences)
    )


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of one session's events, `S` of them."""

    values: NDArray[np.float64]  # [S, D], NaN rows for missing steps
    labels: NDArray[np.float64]  # [S, O], NaN: not known; O = 0 without labels
    event: NDArray[np.bool_]  # [S] False: a missing step
    clear: NDArray[np.bool_]  # [S] True: the stream does not go on from the step before
    jump: NDArray[np.int64]  # [S] periods the stream jumped over before this step; > 0 only where it is cleared
    clock: NDArray[np.int64]  # [S, 3] 1 if the step has a time, its time and the period in nanoseconds (0: not known)

    def __len__(self) -> int:
        return len(self.event)

    def part(self, start: int, stop: int) -> Steps:
        """The steps `start`..`stop`, as views."""
        here = slice(start, stop)
        return Steps(*(getattr(self, name)[here] for name in COLUMNS))


COLUMNS: Final = tuple(f.name for f in dataclass_fields(Steps))


def steps_of(
    timeline: Timeline, events: Events, longest_gap: int, labels: int = 0, most: int | None = None
) -> tuple[Timeline, Steps]:
    """The steps of `events`, and the timeline after them. `labels` is O, their number in this session.

    Gaps of more than `longest_gap` missing steps are jumps, and so is any gap before an episode. Raises FieldError,
    before it takes memory for them, if there are more than `most` steps.
    """
    n = len(events)
    _check_count(n, most)
    known = np.full((n, labels), np.nan) if events.labels is None else events.labels
    start = np.zeros(n, bool) if events.episode_start is None else events.episode_start
    if events.timestamps_ns is None:
        jump, clock = np.zeros(n, np.int64), np.zeros((n, 3), np.int64)
        everything = Steps(events.values, known, np.ones(n, bool), start, jump, clock)
        return (timeline if timeline.timed == 0 else replace(timeline, timed=0)), everything
    missing, periods = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for k, (now, fresh) in enumerate(zip(events.timestamps_ns.tolist(), start.tolist(), strict=True)):
        missing[k], timeline = _periods_missed(timeline, now, fresh)
        periods[k] = timeline.period_ns
    filled = np.where((missing <= longest_gap) & ~start, missing, 0)
    position = np.arange(n) + np.cumsum(filled)
    total = n + int(filled.sum())
    _check_count(total, most)
    values, all_labels = (np.full((total, table.shape[1]), np.nan) for table in (events.values, known))
    event, clear, jump = np.zeros(total, bool), np.zeros(total, bool), np.zeros(total, np.int64)
    values[position], all_labels[position], event[position] = events.values, known, True
    jump[position] = missing - filled
    clear[position] = start | (missing > filled)
    clock = _clock(events.timestamps_ns, periods, position, total)
    return timeline, Steps(values, all_labels, event, clear, jump, clock)


def _clock(
    times: NDArray[np.int64], periods: NDArray[np.int64], position: NDArray[np.int64], total: int
) -> NDArray[np.int64]:
    """The clock [total, 3] of the steps of events at `times` [n]: missing steps lie whole periods before the event they
    lead up to."""
    event = np.searchsorted(position, np.arange(total))
    clock = np.ones((total, 3), np.int64)
    clock[:, 1] = times[event] - (position[event] - np.arange(total)) * periods[event]
    clock[:, 2] = periods[event]
    return clock


def _check_count(steps: int, most: int | None) -> None:
    if most is not None and steps > most:
        raise FieldError("history", steps, f"at most {most} steps, with those that fill gaps in time")


def _periods_missed(timeline: Timeline, now: int, fresh: bool) -> tuple[int, Timeline]:
    """How many whole steps lie between the event before and one at `now`; `fresh`: it begins an episode.

    Counted on a grid that follows the events within half a period, so that early and late ones do not add up to steps
    that never were. An episode has a grid of its own, and the time before it says nothing about the period.
    """
    period = timeline.period_ns
    if timeline.timed != 1 or period == 0:
        knows = timeline.timed == 1 and not fresh
        learned = _learn_period(timeline, now - timeline.last_ns) if knows else timeline
        return 0, replace(learned, timed=1, last_ns=now, grid_ns=now)
    steps = max(1, (now - timeline.grid_ns + period // 2) // period)
    grid = min(max(timeline.grid_ns + steps * period, now - period // 2), now + period // 2)
    return steps - 1, replace(timeline, last_ns=now, grid_ns=now if fresh else grid)


def _learn_period(timeline: Timeline, difference: int) -> Timeline:
    """Equal timestamps say nothing about the period and are passed over."""
    if difference == 0:
        return timeline
    differences = (*timeline.differences, min(difference, MAX_DIFFERENCE_NS))
    if len(differences) < DIFFERENCES:
        return replace(timeline, differences=differences)
    return replace(timeline, differences=(), period_ns=sorted(differences)[DIFFERENCES // 2])
