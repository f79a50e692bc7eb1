"""The choice of the next micro-batch, pure: no clock, no threads, no arrays.

Each session has a lane of waiting work, in order. A micro-batch takes a turn of each of several lanes of one shape: the
lane that has waited longest decides the shape, and a lane that was served goes to the back, so that nobody starves and
nobody waits for a timer. Sessions that cost more per event contribute fewer events, so that a micro-batch stays short.
Calls that take long wait as if all were of one lane: however many there are, nobody else waits for two of them.
The idea of schedule → run → settle is nano-vllm's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final

# In multiply-adds of about a nanosecond, each done some three times. Sessions of one learner near the defaults get
# their full share.
_STEP_COST: Final = 2_000
_FULL_SHARE_COST: Final = 250_000
FIRST_PACE: Final = 8
_SLOW_S: Final = 0.3
_FAST_S: Final = 0.1
_LONG: Final = "long"  # the queue of lanes whose next work is to be alone


@dataclass(eq=False, slots=True)
class Work:
    """`rows` events to fold (0: nothing, reached when all before it is folded), or a call to make at this point.

    `alone`: the call takes long, so nothing else is in its micro-batch, and whoever came meanwhile is served before the
    next one.
    """

    rows: int = 0
    load: Any = None
    call: Callable[[], None] | None = None
    alone: bool = False
    taken: int = 0


@dataclass(eq=False, slots=True)
class Lane:
    """The waiting work of one session. Lanes of equal shape may share a micro-batch, and have equal shares."""

    key: Hashable
    shape: Hashable
    slot: Any = None
    share: float = 1.0  # of the rows that a turn and a micro-batch may have, as each costs so much more
    pace: int | None = None  # most rows of the next turn, by how long the last ones took; None: as many as allowed
    waiting: deque[Work] = field(default_factory=deque)
    since: int = 0
    ready: bool = False
    unchecked_rows: int = 0
    carry_resets: int = 0  # counted so far; the engine's


@dataclass(frozen=True, slots=True)
class Span:
    """Rows `start`..`stop` of a work's events; equal for work without events. `done`: the last of them."""

    work: Work
    start: int
    stop: int

    @property
    def done(self) -> bool:
        return self.stop == self.work.rows


@dataclass(frozen=True, slots=True)
class Turn:
    """What one lane contributes to a micro-batch: first `calls`, then the events of `spans` as one run."""

    lane: Lane
    calls: list[Callable[[], None]]
    spans: list[Span]
    alone: bool = False

    @property
    def rows(self) -> int:
        return sum(span.stop - span.start for span in self.spans)


class Scheduler:
    """Lanes by shape, and those whose next work is to be alone, each queue in order of waiting."""

    def __init__(self, batch_rows: int, turn_rows: int) -> None:
        self._batch_rows, self._turn_rows = batch_rows, turn_rows
        self._queues: dict[Hashable, deque[Lane]] = {}
        self._tick = 0
        self._long_since: int | None = 0  # when the last long turn was over; None: it still runs

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, lane: Lane, work: Work) -> None:
        """Queues work at the end of its lane."""
        lane.waiting.append(work)
        if not lane.ready:
            self._enqueue(lane)

    def remove(self, lane: Lane) -> list[Work]:
        """Takes a lane out and returns the work it still had."""
        if lane.ready:
            queue = self._queues[_kind(lane)]
            queue.remove(lane)
            if not queue:
                del self._queues[_kind(lane)]
        lane.ready = False
        left = list(lane.waiting)
        lane.waiting.clear()
        return left

    def next(self) -> list[Turn]:
        """The next micro-batch, oldest lane first; empty if nothing waits. Every lane is in it at most once."""
        if self._long_since is None:
            self._tick += 1
            self._long_since = self._tick
        if not self._queues:
            return []
        kind = min(self._queues, key=self._since)
        queue = self._queues[kind]
        room, most = (max(1, int(rows * queue[0].share)) for rows in (self._batch_rows, self._turn_rows))
        turns: list[Turn] = []
        while queue and room > 0:
            lane = queue.popleft()
            lane.ready = False
            turn = _take(lane, min(room, most, lane.pace or most))
            turns.append(turn)
            room = 0 if turn.alone else room - max(turn.rows + len(turn.calls), 1)
        if not queue:
            del self._queues[kind]
        for turn in turns:
            if turn.alone:
                self._long_since = None
            if turn.lane.waiting:
                self._enqueue(turn.lane)
        return turns

    def _since(self, kind: Hashable) -> int:
        """Since when a queue waits: since its first lane does, or the long ones since one of them was served."""
        since = self._queues[kind][0].since
        return max(since, self._long_since or 0) if kind == _LONG else since

    def _enqueue(self, lane: Lane) -> None:
        self._tick += 1
        lane.since, lane.ready = self._tick, True
        self._queues.setdefault(_kind(lane), deque()).append(lane)


def _kind(lane: Lane) -> Hashable:
    """The queue of a lane with work: by its shape, or that of the long ones."""
    return _LONG if lane.waiting[0].alone else ("shape", lane.shape)


def pace(rows: int, allowed: int, seconds: float) -> int:
    """Most rows of a lane's next turn, if one of at most `allowed` rows took so long: half of it, or twice.

    Some rows cost what nothing says beforehand, like events after gaps in time; nobody else should wait long for them.
    """
    if seconds > _SLOW_S:
        return max(1, allowed // 2)
    return 2 * allowed if seconds < _FAST_S and rows == allowed else allowed


def share(window: int, learners: int, parameters: int, state_bytes: int) -> float:
    """What part of the full number of rows a session may have in a micro-batch, 0..1, by what a row of it costs.

    An update goes over the window, and so may a gap in time: per step there, a cost per parameter, of all learners, and
    one of each learner. Everything a session holds is moved about as well.
    """
    cost = (window + 1) * (parameters + learners * _STEP_COST) + state_bytes // 4
    return min(1.0, _FULL_SHARE_COST / cost)


def _take(lane: Lane, room: int) -> Turn:
    """Up to `room` calls and rows from the front of a lane. A call ends the turn unless it comes before any row."""
    turn = Turn(lane, [], [])
    while lane.waiting:
        work = lane.waiting[0]
        if work.alone and work.call is not None:
            if turn.calls or turn.spans:
                break
            lane.waiting.popleft()
            return Turn(lane, [work.call], [], alone=True)
        if work.call is not None:
            if turn.spans or room == 0:
                break
            turn.calls.append(work.call)
            room -= 1
        else:
            stop = min(work.rows, work.taken + room)
            if stop == work.taken and work.rows > 0:
                break
            turn.spans.append(Span(work, work.taken, stop))
            room -= stop - work.taken
            work.taken = stop
            if stop < work.rows:
                break
        lane.waiting.popleft()
    return turn
