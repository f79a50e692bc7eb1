"""The one thread that owns every learner state: pick → run → settle.

The network's side hands in work and calls through a queue; results go back through one call to `post` per micro-batch,
in the order they came about. Calls (create, checkpoint, delete, …) run between micro-batches. It knows nothing of
requests, records or replies. An exception out of the fold is fatal: `failed` is told and nothing more is folded. The
fold changes nothing when it raises, so the sessions are as they were after the last settled events, and calls are
answered still: they can be saved.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from bptt_core import (
    Backend,
    CheckpointError,
    Events,
    FieldError,
    Fold,
    Labelled,
    Labels,
    Outcomes,
    SessionConfig,
    SessionStatus,
    Slot,
    WarmStart,
)
from server.errors import Refusal, draining
from server.microbatches import MicroBatch, Settled, events_of
from server.scheduler import BATCH_S, Lane, Scheduler, Turn, Work, guess
from server.training import Training

_T = TypeVar("_T")
_BEAT_S: Final = 1.0
_ROWS_BETWEEN_CHECKS: Final = 256
_STAGED_S: Final = 0.016  # of a micro-batch where nothing is compiled, as a call takes ms beside its rows


class Engine:
    """Owner of the fold. Every method but the constructor may be called from the network's thread."""

    def __init__(
        self,
        backend: Backend,
        batch_rows: int,
        turn_rows: int,
        settle: Callable[[MicroBatch], None],
        drop: Callable[[list[Work]], None],
        post: Callable[[Callable[[], None]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`post` runs a function on the network's thread; the other three are called there, through it: `settle` with
        what was folded, `drop` with work that will not be, `failed` with what ended the folding."""
        self._fold = Fold(backend)
        self._scheduler = Scheduler(batch_rows, turn_rows, _STAGED_S if backend.engine is None else BATCH_S)
        self._lanes: dict[str, Lane] = {}
        self._halted = False
        self._inbox: queue.SimpleQueue[Callable[[], None] | tuple[str, Work] | None] = queue.SimpleQueue()
        self._settle, self._drop, self._post, self._failed = settle, drop, post, failed
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.beat_s = time.monotonic()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after what it is doing; work still waiting is forgotten."""
        self._inbox.put(None)
        self._thread.join()

    def halt(self) -> Future[None]:
        """Folds nothing more: work that waits or comes is dropped. Calls are answered still."""
        return self._call(self._halt)

    def submit(self, uid: str, work: Work) -> None:
        """Queues events (`work.load`) of a session."""
        self._inbox.put((uid, work))

    def create(
        self, uid: str, config: SessionConfig, learning: bool, parameters: NDArray[np.float32] | None = None
    ) -> Future[SessionStatus]:
        """Makes a session, whose network is drawn from its seed or given as a row of parameters."""

        def make() -> SessionStatus:
            with _memory_for_a_session():
                slot = self._fold.create(config, learning=learning, parameters=parameters)
            self._lanes[uid] = self._lane_of(uid, slot)
            return self._fold.status(slot, scores=True)

        return self._call(make)

    def restore(self, uid: str, data: bytes, learning: bool | None = None) -> Future[SessionConfig]:
        """Makes a session from its checkpoint, and sets its learning unless that is None. The future raises
        CheckpointError."""

        def make() -> SessionConfig:
            with _memory_for_a_session():
                slot = self._fold.restore(data)
            self._fold.configure(slot, learning=learning)
            self._lanes[uid] = self._lane_of(uid, slot)
            return slot.config

        return self._call(make)

    def latest(self, uid: str) -> Future[Outcomes | None]:
        """Outcome of the session's last event."""
        return self._call(lambda: self._fold.latest(self._lane(uid).slot))

    def status(self, uid: str, scores: bool) -> Future[SessionStatus]:
        """The session's counters, and its scores if asked for."""
        return self._call(lambda: self._fold.status(self._lane(uid).slot, scores=scores))

    def statuses(self, uids: list[str]) -> Future[dict[str, SessionStatus]]:
        """The counters of those of the sessions that still live."""

        def read() -> dict[str, SessionStatus]:
            found = {uid: self._lanes[uid].slot for uid in uids if uid in self._lanes}
            return {uid: self._fold.status(slot, scores=False) for uid, slot in found.items()}

        return self._call(read)

    def checkpoint(self, uid: str) -> Future[tuple[bytes, SessionStatus]]:
        """The session's whole learned state and its counters, after the events queued before."""

        def read() -> tuple[bytes, SessionStatus]:
            slot = self._lane(uid).slot
            return self._fold.checkpoint(slot), self._fold.status(slot, scores=False)

        return self._call_in_lane(uid, read)

    def parameters(self, uid: str) -> Future[NDArray[np.float32]]:
        """The parameters of the session's network, after the events queued before."""
        return self._call_in_lane(uid, lambda: self._fold.parameters(self._lane(uid).slot))

    def configure(self, uid: str, learning: bool | None, learning_rate: float | None) -> Future[SessionStatus]:
        """Changes how a session learns, after the events queued before."""

        def change() -> SessionStatus:
            slot = self._lane(uid).slot
            self._fold.configure(slot, learning=learning, learning_rate=learning_rate)
            return self._fold.status(slot, scores=True)

        return self._call_in_lane(uid, change)

    def fork(
        self, uid: str, fork_uid: str, learning: bool | None, learning_rate: float | None
    ) -> Future[tuple[Outcomes | None, SessionStatus]]:
        """Makes a session that is as another one after the events queued before, but for what is not None here. Its
        last outcome, counters and scores."""

        def make() -> tuple[Outcomes | None, SessionStatus]:
            with _memory_for_a_session():
                slot = self._fold.fork(self._working(uid).slot)
            self._fold.configure(slot, learning=learning, learning_rate=learning_rate)
            self._lanes[fork_uid] = self._lane_of(fork_uid, slot)
            return self._fold.latest(slot), self._fold.status(slot, scores=True)

        return self._call_in_lane(uid, make)

    def skills(self) -> Future[NDArray[np.float64]]:
        """The skill of every session that has settled pairs, in no order."""
        return self._call(self._fold.skills)

    def label(self, uid: str, labels: Labels) -> Future[Labelled]:
        """Folds labels of events that were queued before. None of them must be known, and there may be none."""

        def fold() -> Labelled:
            slot = self._working(uid).slot
            return self._fold.label(slot, labels) if len(labels) else Labelled(0, 0)

        return self._call_in_lane(uid, fold)

    def warm_start(
        self, uid: str, history: Events, passes: int, per_pass: bool, wanted: Callable[[], bool]
    ) -> Future[WarmStart]:
        """Trains a session that has had no event, one pass in a turn, so that others are served in between.

        `wanted` is asked before every turn, on the engine's thread: when it says no, the session is left as it was, the
        future raises Refusal, and what waits behind is dropped.
        """
        future: Future[WarmStart] = Future()

        def check() -> Slot:
            slot: Slot = self._working(uid).slot
            if not wanted():
                raise draining()
            return slot

        training = Training(check, lambda slot: self._fold.warm_start(slot, history, per_pass), passes)

        def turn() -> None:
            if not training.over and training.turn():
                self._answer(future, training.result)
                if training.failed and uid in self._lanes and not wanted():
                    self._discard(self._lanes[uid])

        def enqueue() -> None:
            for _ in range(training.turns):
                if uid in self._lanes:
                    self._enqueue(uid, Work(call=turn, alone=True))
                else:
                    turn()

        self._inbox.put(enqueue)
        return future

    def delete(self, uid: str) -> Future[None]:
        """Forgets a session at once and drops the work it still had."""

        def forget() -> None:
            lane = self._lane(uid)
            del self._lanes[uid]
            self._fold.delete(lane.slot)
            self._discard(lane)

        return self._call(forget)

    def backend_of(self, uid: str) -> str:
        """Where a session computes. Does not wait for the engine."""
        lane = self._lanes.get(uid)
        return self._fold.backend.name if lane is None else lane.backend

    def _lane_of(self, uid: str, slot: Slot) -> Lane:
        status, learners = self._fold.status(slot, scores=False), slot.config.portfolio
        window = max(learner.window or 0 for learner in learners)
        row_s = guess(window, len(learners), status.parameters)
        return Lane(uid, slot, row_s, backend=self._fold.backend_of(slot), carry_resets=status.carry_resets)

    def _working(self, uid: str) -> Lane:
        """The lane of a session that may still change."""
        lane = self._lane(uid)
        if self._halted:
            raise draining()
        return lane

    def _lane(self, uid: str) -> Lane:
        if uid not in self._lanes:
            raise Refusal("SESSION_NOT_FOUND", "the session was deleted", session_uid=uid)
        return self._lanes[uid]

    def _enqueue(self, uid: str, work: Work) -> None:
        lane = self._lanes.get(uid)
        if lane is None:
            self._post(lambda: self._drop([work]))
            return
        self._scheduler.add(lane, work)
        if self._halted:
            self._discard(lane)

    def _discard(self, lane: Lane) -> None:
        """Takes a lane's work away. Its calls are made, as they have someone waiting for their answer."""
        left = self._scheduler.remove(lane)
        for work in left:
            if work.call is not None:
                work.call()
        self._post(lambda: self._drop(left))

    def _halt(self) -> None:
        self._halted = True
        self._scheduler.clear()  # one by one would take seconds where thousands wait
        for lane in self._lanes.values():
            self._discard(lane)

    def _fault(self, error: BaseException, turns: list[Turn]) -> None:
        """Nothing more is folded, `turns` included."""
        self._post(lambda: self._failed(error))
        self._post(lambda: self._drop([span.work for turn in turns for span in turn.spans if span.done]))
        if not self._halted:
            self._halt()

    def _call(self, function: Callable[[], _T]) -> Future[_T]:
        future: Future[_T] = Future()
        self._inbox.put(lambda: self._answer(future, function))
        return future

    def _call_in_lane(self, uid: str, function: Callable[[], _T]) -> Future[_T]:
        """A call that is made after the events queued so far of a session; at once if the session is gone."""
        future: Future[_T] = Future()

        def enqueue() -> None:
            if uid in self._lanes:
                self._enqueue(uid, Work(call=lambda: self._answer(future, function)))
            else:
                self._answer(future, function)

        self._inbox.put(enqueue)
        return future

    def _answer(self, future: Future[Any], function: Callable[[], Any]) -> None:
        """Runs a call here and resolves its future on the network's thread, in order with the settled work."""
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - who asked must hear of it, and a fault is told below
            failure = error
            self._post(lambda: future.set_exception(failure))
            if not isinstance(error, Refusal | FieldError | CheckpointError):
                self._fault(error, [])
        else:
            self._post(lambda: future.set_result(result))

    def _run(self) -> None:
        while True:
            turns: list[Turn] = []
            try:
                if not self._receive():
                    return
                turns = self._scheduler.next()
                self._step(turns)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the process must hear of it and end
                self._fault(error, turns)

    def _receive(self) -> bool:
        """Runs what was handed in, waiting for it if there is nothing to compute. False: time to end."""
        while True:
            self.beat_s = time.monotonic()
            try:
                message = self._inbox.get(block=not self._scheduler, timeout=_BEAT_S)
            except queue.Empty:
                if self._scheduler:
                    return True
                continue
            if isinstance(message, tuple):
                self._enqueue(*message)
            elif message is None:
                return False
            else:
                message()

    def _step(self, turns: list[Turn]) -> None:
        parts, busy = [], []
        for turn in turns:
            for call in turn.calls:
                call()
            part = Settled(str(turn.lane.key), turn, None, None)
            parts.append(part)
            if turn.rows:
                busy.append((part, events_of(turn)))
        started, used = time.perf_counter(), time.thread_time()
        outcomes = self._fold.step([(part.turn.lane.slot, events) for part, events in busy]) if busy else []
        seconds, used = time.perf_counter() - started, time.thread_time() - used
        carry_resets = 0
        for (part, events), outs in zip(busy, outcomes, strict=True):
            turn, part.outcomes = part.turn, outs
            if events.timestamps_ns is not None:
                part.last_timestamp_ns = int(events.timestamps_ns[-1])
            carry_resets += self._carry_resets(turn)
        self._scheduler.took(turns, used)  # a busy network must not make rows look dear
        batch = MicroBatch(parts, seconds, carry_resets)
        self._post(lambda: self._settle(batch))

    def _carry_resets(self, turn: Turn) -> int:
        """Carries of the lane that became zero since they were last counted; looked at now and then, as it costs."""
        lane = turn.lane
        lane.unchecked_rows += turn.rows
        if lane.unchecked_rows < _ROWS_BETWEEN_CHECKS:
            return 0
        before, lane.unchecked_rows = lane.carry_resets, 0
        lane.carry_resets = self._fold.status(lane.slot, scores=False).carry_resets
        return lane.carry_resets - before


@contextlib.contextmanager
def _memory_for_a_session() -> Iterator[None]:
    """Too little memory for another session is no fault of the fold."""
    try:
        yield
    except MemoryError as error:
        raise Refusal("SESSION_LIMIT", "no memory for another session", limit="memory") from error
