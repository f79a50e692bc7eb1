"""The sessions of this server: made, found, listed, changed, removed, kept on disk.

The network side's only owner of records. It decides nothing about events (that is `sessions.py` and `intake.py`) and
nothing about messages. Changes of a session run to their end even if the caller goes away in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from bisect import bisect_right, insort
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from bptt_core import FieldError, Outcomes, SessionConfig, SessionStatus, session_bytes
from server import sessions
from server.changes import Changes, check_changes, no_changes
from server.digests import Ring
from server.engine import Engine
from server.errors import Refusal, draining, invalid
from server.intake import Intake, not_found
from server.packing import packed
from server.sessions import Record, Terms, WarmStarted, label_memory
from server.sizes import batch_events
from server.store import Store, Stored, StoreError

_T = TypeVar("_T")
_LOG: Final = logging.getLogger("server")
_WRITERS: Final = 8
_PROGRESS_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class View:
    """A session as it is reported."""

    record: Record
    status: SessionStatus
    backend: str


class Book:
    """All records, by id. Coroutines and methods run on the network's thread only."""

    def __init__(
        self,
        engine: Engine,
        intake: Intake,
        store: Store,
        max_sessions: int,
        session_memory_mib: int,
        credit_events: int,
        max_message_bytes: int,
    ) -> None:
        self._engine, self._intake, self._store = engine, intake, store
        self._max_sessions, self._memory_mib, self._credit = max_sessions, session_memory_mib, credit_events
        self._max_message_bytes = max_message_bytes
        self._state_bytes = 0
        self._records: dict[str, Record] = {}
        self._ids: list[str] = []
        self._promised: set[str] = set()  # ids of sessions that are being made and have no record yet
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, session_id: str, uid: str = "") -> Record:
        """The live session of that id. Raises Refusal."""
        sessions.check_id(session_id)
        if session_id not in self._records:
            raise not_found(session_id)
        record = self._records[session_id]
        sessions.check_uid(record, uid)
        return record

    async def create(self, session_id: str, terms: Terms) -> tuple[View, bool]:
        """The session of that id, made unless it is there already with the same stated terms."""
        sessions.check_id(session_id)
        terms = self._checked(terms)
        record = self._records.get(session_id)
        if record is not None:
            sessions.check_same(record, terms)
            return self._view(record, await ask(self._engine.status(record.uid, scores=True))), False
        self.check_free(session_id)
        return await self._create(session_id, terms), True

    async def create_with(self, session_id: str, terms: Terms, parameters: NDArray[np.float32]) -> View:
        """A new session whose network begins with `parameters`, a row of its `session_layout`."""
        self.check_free(session_id)
        return await self._create(session_id, self._checked(terms), parameters)

    async def adopt(self, stored: Stored, status: SessionStatus, latest: Outcomes | None) -> View:
        """A new session that goes on from what was stored of another one. It gets a uid of its own and counts as
        created with `stored.created`; `status` and `latest` are what a fold says of the checkpoint."""
        self.check_free(stored.session_id)
        terms = self._checked(stored.created)
        self._check_room(terms.config)
        made = replace(
            stored,
            uid=uuid.uuid4().hex,
            created=terms,
            create_time_ns=time.time_ns(),
            tags=terms.tags,
            credit_events=terms.credit_events or self._credit,
        )
        record = _restored(made, batch_events(terms.config, self._max_message_bytes), latest, status)
        self._insert(record)
        restored = self._engine.restore(record.uid, stored.checkpoint, terms.learning)
        reported = self._engine.status(record.uid, scores=True)
        await self._unbroken(self._make(record, restored))
        return self._view(record, await ask(reported))

    async def fork(self, session_id: str, uid: str, fork_id: str, changes: Changes) -> View:
        """A new session that is as another one after the events queued so far, but for `changes`."""
        record = self.get(session_id, uid)
        return await self._unbroken(self._fork(record, fork_id, changes))

    def check_free(self, session_id: str, name: str = "session_id") -> None:
        """Raises Refusal unless a session of that id may be made. `name`: the field it came in."""
        sessions.check_id(session_id, name)
        self._not_draining()
        if session_id in self._records or session_id in self._promised:
            raise Refusal("SESSION_EXISTS", f"session {session_id!r} exists", session_id=session_id)

    async def export(self, record: Record) -> Stored:
        """The session after the events admitted so far."""
        self._not_draining()
        stored = await self._stored(record)
        self._not_draining()  # or labels may be in it that were said and not folded
        return stored

    async def parameters(self, record: Record) -> NDArray[np.float32]:
        """The parameters of the session's network after the events admitted so far, a row of its `session_layout`."""
        self._not_draining()
        return await ask(self._engine.parameters(record.uid))

    async def view(self, record: Record) -> View:
        """The session with its counters and scores."""
        return self._view(record, await ask(self._engine.status(record.uid, scores=True)))

    async def page(self, after: str, tags: Mapping[str, str], size: int) -> tuple[list[View], str]:
        """Up to `size` sessions with those tags whose ids follow `after`, and the id more follow; "" if none do."""
        found: list[Record] = []
        for record in self._after(after):
            if tags.items() <= record.tags.items():
                found.append(record)
                if len(found) > size:
                    break
        statuses = await ask(self._engine.statuses([record.uid for record in found[:size]]))
        views = [self._view(record, statuses[record.uid]) for record in found[:size] if record.uid in statuses]
        return views, found[size - 1].session_id if len(found) > size else ""

    async def update(self, session_id: str, uid: str, changes: Changes) -> View:
        """Changes a session after the events queued so far."""
        record = self.get(session_id, uid)
        self._not_draining()
        if not changes.mask:
            raise no_changes("update_mask")
        check_changes(changes, "update_mask", record.created.config)
        return await self._unbroken(self._change(record, changes))

    async def delete(self, session_id: str, uid: str) -> None:
        """Removes a session and its file; its queued events fail."""
        record = self.get(session_id, uid)
        self._not_draining()
        self._remove(record)
        await self._unbroken(self._forget(record))

    async def restore(self) -> int:
        """Takes up the sessions on disk. Raises StoreError or CheckpointError naming the file."""
        count = 0
        for stored in self._store.load():
            if session_bytes(stored.created.config) > self.free_bytes():
                raise StoreError(f"the sessions on disk need more than --session-memory-mib {self._memory_mib}")
            try:
                config = await ask(self._engine.restore(stored.uid, stored.checkpoint))
                most = batch_events(config, self._max_message_bytes)
            except (Refusal, ValueError) as error:
                raise self._store.refused(stored.uid, str(error)) from error
            if config != stored.created.config:
                raise self._store.refused(stored.uid, "its header and its checkpoint have different configurations")
            if stored.session_id in self._records:
                raise self._store.refused(stored.uid, f"another file holds session {stored.session_id!r}")
            status = await ask(self._engine.status(stored.uid, scores=False))
            self._insert(_restored(stored, most, await ask(self._engine.latest(stored.uid)), status))
            count += 1
        return count

    async def save(self) -> tuple[int, int]:
        """Writes every session to disk, several at a time. How many were written, of how many; the log names the rest.
        Nothing may be folded meanwhile."""
        records = list(self._records.values())
        left = iter(records)
        written, said_s = 0, time.monotonic()

        async def write() -> None:
            nonlocal written, said_s
            for record in left:
                try:
                    stored = await self._stored(record)
                    await asyncio.to_thread(self._store.save, stored)
                    written += 1
                except Exception as error:  # noqa: BLE001 - whatever befalls one session, the others are written
                    _LOG.error("session %r is not written: %s", record.session_id, error)
                if time.monotonic() - said_s > _PROGRESS_S:
                    said_s = time.monotonic()
                    _LOG.info("%d of %d sessions written", written, len(records))

        await asyncio.gather(*(write() for _ in range(_WRITERS)))
        await asyncio.to_thread(self._store.sync)
        return written, len(records)

    async def _stored(self, record: Record) -> Stored:
        """The session after the events admitted so far."""
        stored, checkpoint, _ = await self._when_folded(record, self._engine.checkpoint(record.uid))
        return replace(stored, checkpoint=checkpoint)

    async def _when_folded(
        self, record: Record, answer: Future[tuple[_T, SessionStatus]]
    ) -> tuple[Stored, _T, SessionStatus]:
        """What the engine, asked just now, answers after the events admitted so far, and the session of then without
        its checkpoint; those of the events that will not be folded are not in it."""
        admitted, digests = record.admitted, record.ring.recent()
        labels = np.zeros((0, 0)) if record.labels is None else record.labels.recent()
        result, status = await ask(answer)
        missing = admitted - status.last_sequence
        stored = Stored(
            uid=record.uid,
            session_id=record.session_id,
            created=record.created,
            create_time_ns=record.create_time_ns,
            tags=dict(record.tags),
            credit_events=record.credit_events,
            digests=digests[: max(0, len(digests) - missing)],
            labels=labels[: max(0, len(labels) - missing)],
            warm_started=record.warm_started is WarmStarted.YES,
            checkpoint=b"",
        )
        return stored, result, status

    def _checked(self, terms: Terms) -> Terms:
        sessions.check_tags(terms.tags)
        sessions.check_credit(terms.credit_events)
        try:
            config = terms.config.validated()
        except FieldError as error:
            raise invalid(error, "config.") from None
        batch_events(config, self._max_message_bytes)
        return replace(terms, config=config, credit_events=terms.credit_events or self._credit)

    def _check_room(self, config: SessionConfig) -> None:
        if len(self._records) + len(self._promised) >= self._max_sessions:
            most = self._max_sessions
            raise Refusal("SESSION_LIMIT", f"there are {most} sessions, the most allowed", limit=most)
        size, free = session_bytes(config), self.free_bytes()
        if size > free:
            raise Refusal(
                "SESSION_LIMIT",
                f"the session needs {size} bytes of state, {free} are left; allowed: {self._memory_mib} MiB together",
                limit="session-memory-mib",
                session_bytes=size,
                free_bytes=free,
            )

    def free_bytes(self) -> int:
        """State that sessions may still take."""
        return self._memory_mib * 2**20 - self._state_bytes

    def _view(self, record: Record, status: SessionStatus) -> View:
        return View(record, status, self._engine.backend_of(record.uid))

    def _not_draining(self) -> None:
        if self._intake.draining:
            raise draining()

    def _after(self, session_id: str) -> Iterator[Record]:
        for place in range(bisect_right(self._ids, session_id), len(self._ids)):
            yield self._records[self._ids[place]]

    def _insert(self, record: Record) -> None:
        self._records[record.session_id] = record
        insort(self._ids, record.session_id)
        self._state_bytes += session_bytes(record.created.config)
        self._intake.add(record)

    def _remove(self, record: Record) -> None:
        del self._records[record.session_id]
        self._ids.remove(record.session_id)
        self._state_bytes -= session_bytes(record.created.config)
        self._intake.forget(record)

    async def _create(self, session_id: str, terms: Terms, parameters: NDArray[np.float32] | None = None) -> View:
        self._check_room(terms.config)
        record = Record(
            session_id=session_id,
            uid=uuid.uuid4().hex,
            created=terms,
            create_time_ns=time.time_ns(),
            tags=dict(terms.tags),
            credit_events=terms.credit_events or self._credit,
            max_batch_events=batch_events(terms.config, self._max_message_bytes),
        )
        self._insert(record)
        # Asked of the engine at once: who finds the record from now on is behind its making in the engine's inbox.
        made = self._engine.create(record.uid, terms.config, terms.learning, parameters)
        return self._view(record, await self._unbroken(self._make(record, made)))

    async def _fork(self, record: Record, fork_id: str, changes: Changes) -> View:
        config, uid = record.created.config, uuid.uuid4().hex
        self.check_free(fork_id, "fork_id")
        check_changes(changes, "fork_mask", config)
        with self._promise(fork_id, config):
            answer = self._engine.fork(record.uid, uid, changes.new_learning(), changes.new_rate(config))
            stored, latest, status = await self._when_folded(record, answer)
        tags = changes.new_tags(stored.tags)
        credit = changes.new_credit(stored.credit_events, self._credit)
        made = replace(
            stored,
            uid=uid,
            session_id=fork_id,
            created=replace(record.created, tags=tags, learning=status.learning, credit_events=credit),
            create_time_ns=time.time_ns(),
            tags=tags,
            credit_events=credit,
        )
        fork = _restored(made, record.max_batch_events, latest, status)
        self._insert(fork)
        return self._view(fork, status)

    @contextlib.contextmanager
    def _promise(self, session_id: str, config: SessionConfig) -> Iterator[None]:
        """Keeps the id and the room of a session that will have its record only when it is made."""
        self._check_room(config)
        size = session_bytes(config)
        self._promised.add(session_id)
        self._state_bytes += size
        try:
            yield
        finally:
            self._promised.remove(session_id)
            self._state_bytes -= size

    async def _make(self, record: Record, made: Future[_T]) -> _T:
        try:
            return await ask(made)
        except Exception:
            if self._intake.lives(record):
                self._remove(record)
            raise

    async def _change(self, record: Record, changes: Changes) -> View:
        rate = changes.new_rate(record.created.config)
        status = await ask(self._engine.configure(record.uid, changes.new_learning(), rate))
        record.tags = changes.new_tags(record.tags)
        record.credit_events = changes.new_credit(record.credit_events, self._credit)
        return self._view(record, status)

    async def _forget(self, record: Record) -> None:
        await ask(self._engine.delete(record.uid))
        await asyncio.to_thread(self._store.remove, record.uid)

    async def _unbroken(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Awaits a coroutine that goes on even if the caller is cancelled."""
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


async def ask(answer: Future[_T]) -> _T:
    """What the engine answers; a cancelled caller leaves the engine's future alone."""
    return await asyncio.shield(asyncio.wrap_future(answer))


def _restored(stored: Stored, max_batch_events: int, latest: Outcomes | None, status: SessionStatus) -> Record:
    return Record(
        session_id=stored.session_id,
        uid=stored.uid,
        created=stored.created,
        create_time_ns=stored.create_time_ns,
        tags=dict(stored.tags),
        credit_events=stored.credit_events,
        max_batch_events=max_batch_events,
        ring=Ring(status.last_sequence, stored.digests),
        timed=status.timed,
        admitted_timestamp_ns=status.last_timestamp_ns,
        last_sequence=status.last_sequence,
        last_timestamp_ns=status.last_timestamp_ns,
        latest=None if latest is None else packed(latest, sessions.window_of(stored.created.config)),
        labels=label_memory(stored.created.config, status.last_sequence, stored.labels),
        warm_started=WarmStarted.YES if stored.warm_started else WarmStarted.NO,
    )
