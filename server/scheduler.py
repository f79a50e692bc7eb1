"""The choice of the next micro-batch, pure: no clock, no threads, no arrays.

Each session has a lane of waiting work, in order. A micro-batch takes a turn of each of several lanes, whatever their
shapes, until what they cost is as long as a micro-batch may take; nobody waits for a timer. Lanes share the time, not
the rows: next is whose turn would end first if all had been served at once, so a single event waits for a micro-batch
or two, however many events, or dear ones, other sessions have waiting. What a row costs is learned from how long turns
take. Calls that take long wait as if all were of one lane: however many there are, nobody else waits for two of them.
The idea of schedule → run → settle is nano-vllm's, the order that of weighted fair queueing (Demers, Keshav & Shenker
1989; Parekh & Gallager 1993).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final

BATCH_S: Final = 0.004  # of a micro-batch of compiled code
_LANES: Final = 16  # a micro-batch has room for as many: threads share them, and NumPy steps them together
# A turn takes up to so many times its share if that ends a batch of events, whose answer is then one piece.
_WHOLE: Final = 4.0
_STEP_COST: Final = 2_000  # multiply-adds that a learner's step costs beside those of its parameters
_COST_S: Final = 3e-9  # of a multiply-add on NumPy
_LEAST_S: Final = 1e-7
_MOST_WRONG: Final = 4.0  # an estimate that is further off is corrected as if it were this far off
_DRAWN: Final = 0.02  # by this share an estimate is drawn to what was guessed, at the pace that was found
_PACE: Final = 0.2  # share that a micro-batch has in that pace


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
    """The waiting work of one session. `row_s`: what one of its rows is thought to cost, in seconds."""

    key: Hashable
    slot: Any = None
    row_s: float = 1e-4
    waiting: deque[Work] = field(default_factory=deque)
    had_s: float = 0.0  # the time it has had, or if it was away, what everybody had when it came back
    since: int = 0
    ready: bool = False
    backend: str = ""  # where the session computes, and the carries that became zero so far; the engine's
    unchecked_rows: int = 0
    carry_resets: int = 0
    guess_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.guess_s = self.row_s


@dataclass(slots=True)
class Span:
    """Rows `start`..`stop` of a work's events; equal for work without events. `done`: the last of them."""

    work: Work
    start: int
    stop: int

    @property
    def done(self) -> bool:
        return self.stop == self.work.rows


@dataclass(slots=True)
class Turn:
    """What one lane contributes to a micro-batch: first `calls`, then the events of `spans`, `rows` in all, as one
    run."""

    lane: Lane
    calls: list[Callable[[], None]]
    spans: list[Span]
    alone: bool = False
    rows: int = 0


class Scheduler:
    """Lanes that wait, by the time they have had; and those whose next work is to be alone, in order of waiting."""

    def __init__(self, batch_rows: int, turn_rows: int, batch_s: float = BATCH_S) -> None:
        """A micro-batch has at most `batch_rows`, `turn_rows` of them of one lane, and takes about `batch_s`."""
        self._batch_rows, self._turn_rows, self._batch_s = batch_rows, turn_rows, batch_s
        self._heap: list[tuple[float, int, Lane]] = []  # by when their turns would end
        self._long: deque[Lane] = deque()
        self._tick = 0
        self._pace: dict[str, float] = {}  # by backend, what rows cost lately over what was guessed
        self._now_s = 0.0  # the time that everybody has had who always had work waiting
        self._first: int | None = 0  # who waits since before this tick goes before a long turn; None: one runs
        self._ahead = 0  # how many these are

    def __bool__(self) -> bool:
        return bool(self._heap or self._long)

    def add(self, lane: Lane, work: Work) -> None:
        """Queues work at the end of its lane."""
        lane.waiting.append(work)
        if lane.since == 0:
            lane.row_s = max(_LEAST_S, lane.guess_s * self._pace.get(lane.backend, 1.0))
        if not lane.ready:
            lane.had_s = max(lane.had_s, self._now_s)
            self._enqueue(lane)

    def remove(self, lane: Lane) -> list[Work]:
        """Takes a lane out and returns the work it still had."""
        if lane.ready and lane.waiting[0].alone:
            self._long.remove(lane)
        elif lane.ready:
            self._heap = [entry for entry in self._heap if entry[2] is not lane]
            heapq.heapify(self._heap)
            self._leaves(lane)
        lane.ready = False
        left = list(lane.waiting)
        lane.waiting.clear()
        return left

    def clear(self) -> None:
        """Takes all lanes out; each has its work still."""
        for lane in (*(entry[2] for entry in self._heap), *self._long):
            lane.ready = False
        self._heap.clear()
        self._long.clear()
        self._first, self._ahead = 0, 0

    def next(self) -> list[Turn]:
        """The next micro-batch; empty if nothing waits. Every lane is in it at most once."""
        if self._first is None:
            self._let_all_before()
        if self._long and self._ahead == 0:
            self._first = None
            turns = [self._turn(self._long.popleft(), 1)]
        else:
            turns = self._short_turns()
        for turn in turns:
            if turn.lane.waiting:
                self._enqueue(turn.lane)
        return turns

    def took(self, turns: list[Turn], seconds: float) -> None:
        """Corrects what rows are thought to cost by the processor time that those of a micro-batch took.

        That says what the lanes cost together, so what each does is drawn to what was guessed of it as well, or equal
        lanes would drift apart. A lane is charged what is thought now.
        """
        busy = [turn for turn in turns if turn.rows]
        if not busy:
            return
        right = seconds / sum(turn.rows * turn.lane.row_s for turn in busy)
        right = min(max(right, 1 / _MOST_WRONG), _MOST_WRONG)
        guessed = sum(turn.rows * turn.lane.guess_s * self._pace.setdefault(turn.lane.backend, 1.0) for turn in busy)
        for backend in {turn.lane.backend for turn in busy}:
            self._pace[backend] *= 1 + _PACE * (min(max(seconds / guessed, 1 / _MOST_WRONG), _MOST_WRONG) - 1)
        for turn in busy:
            lane = turn.lane
            found = lane.row_s * (1 + right) / 2
            found += _DRAWN * (lane.guess_s * self._pace[lane.backend] - found)
            found = max(_LEAST_S, found)
            lane.had_s += turn.rows * (found - lane.row_s)
            lane.row_s = found

    def _short_turns(self) -> list[Turn]:
        room, room_s, waiting = self._batch_rows, self._batch_s, len(self._heap)
        turn_s = self._batch_s / max(1, min(waiting, _LANES))
        turns: list[Turn] = []
        while self._heap and room > 0:
            lane = self._heap[0][2]
            if turns and lane.row_s > room_s:
                break  # it begins the next micro-batch
            heapq.heappop(self._heap)
            self._leaves(lane)
            turn = self._turn(lane, max(1, min(room, self._turn_rows, _share(lane, turn_s, room_s))))
            turns.append(turn)
            room -= max(1, turn.rows + len(turn.calls))
            room_s -= _cost(turn)
        if turns:
            self._now_s += (self._batch_s - room_s) / waiting
        return turns

    def _turn(self, lane: Lane, room: int) -> Turn:
        """Takes a turn of a lane that is in no queue."""
        lane.ready = False
        turn = _take(lane, room)
        lane.had_s += _cost(turn)
        return turn

    def _enqueue(self, lane: Lane) -> None:
        self._tick += 1
        lane.since, lane.ready = self._tick, True
        first = lane.waiting[0]
        if not first.alone:
            rows = min(max(1, first.rows - first.taken), self._turn_rows)
            heapq.heappush(self._heap, (lane.had_s + rows * lane.row_s, self._tick, lane))
            return
        if not self._long and self._first is not None:
            self._let_all_before()
        self._long.append(lane)

    def _let_all_before(self) -> None:
        """Those who wait now go before the next long turn."""
        self._tick += 1
        self._first, self._ahead = self._tick, len(self._heap)

    def _leaves(self, lane: Lane) -> None:
        """A lane is in the heap no more."""
        if self._first is not None and lane.since < self._first:
            self._ahead -= 1


def _share(lane: Lane, turn_s: float, room_s: float) -> int:
    """How many rows a lane may take of a micro-batch with so much room, in a turn of about `turn_s`."""
    first, share_s = lane.waiting[0], min(turn_s, room_s)
    left = first.rows - first.taken
    return left if share_s < left * lane.row_s <= min(_WHOLE * share_s, room_s) else int(share_s / lane.row_s)


def _cost(turn: Turn) -> float:
    """What a turn is thought to cost, in seconds; a call as much as a row."""
    return max(1, turn.rows + len(turn.calls)) * turn.lane.row_s


def guess(window: int, learners: int, parameters: int) -> float:
    """What a row of a session may cost in seconds, on NumPy, before one was seen: an update goes over the window, per
    step there is a cost per parameter, of all learners, and one of each learner."""
    return (window + 1) * (parameters + learners * _STEP_COST) * _COST_S


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
            turn.rows += stop - work.taken
            room -= stop - work.taken
            work.taken = stop
            if stop < work.rows:
                break
        lane.waiting.popleft()
    return turn
