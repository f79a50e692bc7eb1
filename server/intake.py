"""From an admitted batch to its acknowledgement: the network side's half of the engine.

A batch that passes `sessions.examine` becomes a ticket; the engine folds its events, in one micro-batch or several; the
pieces come back here, complete the ticket, renew the session's latest outcome and reach its watchers. It runs on the
network's thread only and knows neither streams nor messages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bptt_core import Events, Outcomes
from server.batches import Batch
from server.errors import Refusal, draining
from server.metrics import Metrics
from server.microbatches import MicroBatch, Settled
from server.packing import packed, packed_run
from server.scheduler import Work
from server.sessions import Acknowledged, Admission, Record, Reply, admit, examine
from server.watch import Watcher

Done = Callable[[Acknowledged | Refusal], None]


@dataclass(eq=False, slots=True)
class Ticket:
    """One batch on its way through the engine. `done` is called once, on the network's thread."""

    record: Record
    admission: Admission
    reply: Reply
    done: Done
    arrived_s: float
    parts: list[Outcomes] = field(default_factory=list)

    @property
    def events(self) -> Events | None:
        return self.admission.events


class Intake:
    """The queue of admitted events over all sessions, and what becomes of them."""

    def __init__(self, submit: Callable[[str, Work], None], max_pending_events: int, metrics: Metrics) -> None:
        self._submit, self._max_pending, self._metrics = submit, max_pending_events, metrics
        self.pending_events = 0
        self.draining = False
        self._on_their_way = 0
        self._watchers: dict[str, set[Watcher]] = {}
        self._live: dict[str, Record] = {}

    @property
    def idle(self) -> bool:
        """Nothing is on its way."""
        return self._on_their_way == 0

    def add(self, record: Record) -> None:
        """Starts to take events of a session."""
        self._live[record.uid] = record

    def lives(self, record: Record) -> bool:
        """Whether the session still takes events."""
        return record.uid in self._live

    def offer(self, record: Record, batch: Batch, reply: Reply, done: Done, credit_events: int | None = None) -> None:
        """Admits a batch and calls `done` when it is folded. Raises Refusal, and then nothing has changed."""
        arrived = time.perf_counter()
        if self.draining or record.uid not in self._live:
            self.accepting(record)
        admission = examine(record, batch, self._max_pending - self.pending_events, credit_events)
        admit(record, admission)
        new = admission.new_events
        self._metrics.admitted(new, admission.duplicates)
        if batch.labels is not None:
            labels = admission.new_labels
            self._metrics.labelled(labels, batch.known_labels - labels)
        self.pending_events += new
        self._on_their_way += 1
        self._submit(record.uid, Work(new, Ticket(record, admission, reply, done, arrived)))

    def barrier(self, record: Record, done: Done) -> None:
        """Calls `done` when everything admitted so far of the session is folded."""
        last = record.admitted
        nothing = Admission(None, np.zeros(0, np.uint64), last + 1, last, 0, repeats_last=False)
        self._on_their_way += 1
        self._submit(record.uid, Work(0, Ticket(record, nothing, Reply.NONE, done, math.nan)))

    def watch(self, record: Record, watcher: Watcher) -> None:
        """Sends the session's outcomes to `watcher` from now on."""
        self._watchers.setdefault(record.uid, set()).add(watcher)

    def unwatch(self, record: Record, watcher: Watcher) -> None:
        """Ends `watch`."""
        watchers = self._watchers.get(record.uid, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(record.uid, None)

    def forget(self, record: Record) -> None:
        """Takes no more events of a session and ends its watches."""
        self._live.pop(record.uid, None)
        for watcher in self._watchers.pop(record.uid, set()):
            watcher.end(not_found(record.session_id))

    def drop(self, left: list[Work]) -> None:
        """Fails queued tickets that will not be folded: their session was removed, or the server stops."""
        for work in left:
            ticket = work.load
            if isinstance(ticket, Ticket):
                remaining = work.rows - work.taken
                self.pending_events -= remaining
                ticket.record.pending_events -= remaining
                live = self.lives(ticket.record)
                self._finish(ticket, draining() if live else not_found(ticket.record.session_id))

    def drain(self) -> None:
        """Refuses everything from now on, and tells the watchers."""
        self.draining = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.end(draining())

    def settle(self, batch: MicroBatch) -> None:
        """Takes back what the engine folded."""
        for part in batch.parts:
            if part.turn.spans:
                self._settle(part)
        folded = [part.outcomes for part in batch.parts if part.outcomes is not None]
        if folded:
            self._metrics.folded(folded, batch.seconds, batch.carry_resets)

    def working(self) -> bool:
        """Whether new work is still taken. May be called from the engine's thread."""
        return not self.draining

    def enter(self) -> None:
        """Something that is no batch is on its way; a drain waits for it."""
        self._on_their_way += 1

    def leave(self) -> None:
        """Ends `enter`."""
        self._on_their_way -= 1

    def accepting(self, record: Record) -> None:
        """Raises Refusal if nothing new of the session is taken."""
        if self.draining:
            raise draining()
        if not self.lives(record):
            raise not_found(record.session_id)

    def _settle(self, part: Settled) -> None:
        record: Record = part.turn.spans[0].work.load.record
        outs, before, row = part.outcomes, record.latest, 0
        if outs is not None:
            count = len(outs)
            record.pending_events -= count
            self.pending_events -= count
            record.last_sequence, record.last_timestamp_ns = outs.first_sequence + count - 1, part.last_timestamp_ns
            record.latest = packed(outs if count == 1 else outs.last(), record.window)
            for watcher in self._watchers.get(part.uid, ()):
                watcher.offer(outs)
        for span in part.turn.spans:
            ticket: Ticket = span.work.load
            stop = row + span.stop - span.start
            if span.done:
                self._finish(ticket, self._acknowledged(ticket, outs, row, stop, before))
            elif ticket.reply is Reply.EVERY and outs is not None:
                ticket.parts.append(outs.rows(row, stop).copied())
            row = stop

    def _acknowledged(
        self, ticket: Ticket, outs: Outcomes | None, row: int, stop: int, before: bytes | None
    ) -> Acknowledged:
        """The answer to a ticket whose last rows are `row`..`stop` of `outs`; `before`: the outcome before all rows."""
        admission, record, reply, told = ticket.admission, ticket.record, ticket.reply, None
        if reply is not Reply.NONE and (admission.events is not None or admission.repeats_last):
            whole = reply is Reply.EVERY and admission.new_events > 1
            if whole and outs is not None:
                told = packed_run([*ticket.parts, outs.rows(row, stop)], record.window)
            elif stop == 0 or outs is None:
                told = before
            elif stop == len(outs):
                told = record.latest
            else:
                told = packed(outs.rows(stop - 1, stop), record.window)
        return Acknowledged(admission.first_sequence, admission.last_sequence, admission.duplicates, told)

    def _finish(self, ticket: Ticket, result: Acknowledged | Refusal) -> None:
        self._on_their_way -= 1
        if isinstance(result, Acknowledged) and not math.isnan(ticket.arrived_s):
            self._metrics.ingest_reply.observe(time.perf_counter() - ticket.arrived_s)
        ticket.done(result)


def not_found(session_id: str) -> Refusal:
    """There is no such session."""
    return Refusal("SESSION_NOT_FOUND", f"there is no session {session_id!r}", session_id=session_id)
