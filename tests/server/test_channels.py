"""Channels: whose number it is, what was promised, when one closes, and how long a stream may be without any."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from bptt.v1 import session_pb2
from bptt_core import SessionConfig, select_backend
from server.batches import Batch
from server.errors import Refusal, draining
from server.messages import Draining, Failed, Open, Opened, Response, Result, Send
from server.metrics import Metrics
from server.sessions import Acknowledged, Record, Reply, Terms
from server.streams import Streams

NO_SUCH_MODE = 9


class HeldIntake:
    """An intake whose batches are folded when the test says so."""

    draining = False

    def lives(self, record: Record) -> bool:
        return True

    def __init__(self) -> None:
        self._held: list[tuple[str, Callable[[Acknowledged | Refusal], None], Acknowledged]] = []

    def offer(self, record: Record, batch: Batch, reply: Reply, done: Any, credit_events: int | None = None) -> None:
        self._held.append((record.session_id, done, Acknowledged(batch.first_sequence, 1, 0, None)))

    def fold(self, session_id: str) -> None:
        for held_id, done, result in self._held:
            if held_id == session_id:
                done(result)

    def drop(self) -> None:
        for _, done, _ in self._held:
            done(draining())


class Sessions:
    """A book of sessions that are there whatever their name."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def get(self, session_id: str, uid: str = "") -> Record:
        terms = Terms(SessionConfig(("x",)).validated(), {}, True, None)
        return self._records.setdefault(session_id, Record(session_id, f"uid of {session_id}", terms, 0, {}, 8, 8))


class Peer:
    """The other end of a stream: `ask` sends requests, `answers` is what has come back."""

    def __init__(self, streams: Streams) -> None:
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: list[Response] = []
        self._task = asyncio.ensure_future(streams.converse(self._requests.get, self._take))

    async def ask(self, *requests: Any) -> None:
        for request in requests:
            self._requests.put_nowait(request)
        await settled()

    async def leave(self) -> None:
        self._requests.put_nowait(None)
        await self.ended()

    async def ended(self) -> None:
        await asyncio.wait([self._task])
        assert isinstance(self._task.exception(), Refusal)

    async def _take(self, answer: Response) -> None:
        self.answers.append(answer)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def send(channel: int) -> Send:
    return Send(channel, Batch("", 1, np.ones(1), None))


def streams_of(intake: Any) -> Streams:
    book: Any = Sessions()
    return Streams(book, intake, Metrics(select_backend("numpy"), "test"), 4, 8, 2**20, 60.0)


def test_a_reopened_number_waits_for_what_the_old_channel_is_owed() -> None:
    async def run() -> list[Response]:
        intake = HeldIntake()
        streams = streams_of(intake)
        one, two = Peer(streams), Peer(streams)
        await one.ask(Open(9, "other", "", Reply.LAST), Open(1, "slow", "", Reply.LAST), send(1))
        await two.ask(Open(1, "slow", "", Reply.LAST))
        await one.ask(Open(1, "fast", "", Reply.LAST), send(1), send(1))
        intake.fold("fast")
        await settled()
        assert one.answers[2:] == []
        intake.fold("slow")
        await settled()
        await one.leave()
        await two.leave()
        return one.answers[2:]

    result, lost, opened, first, second = asyncio.run(run())
    assert isinstance(result, Result)
    assert isinstance(lost, Failed)
    assert (lost.refusal.reason, lost.closed) == ("SUPERSEDED", True)
    assert isinstance(opened, Opened)
    assert opened.session_uid == "uid of fast"
    assert isinstance(first, Result)
    assert isinstance(second, Result)


def test_a_batch_that_a_stopping_server_drops_leaves_its_channel_among_the_resume_points() -> None:
    async def run() -> list[Response]:
        intake = HeldIntake()
        streams = streams_of(intake)
        peer = Peer(streams)
        await peer.ask(Open(3, "s", "", Reply.LAST), send(3))
        streams.drain()
        intake.drop()
        await peer.ended()
        return peer.answers[1:]

    failed, last = asyncio.run(run())
    assert isinstance(failed, Failed)
    assert (failed.refusal.reason, failed.closed) == ("DRAINING", False)
    assert last == Draining(((3, 0),))


def test_a_channel_keeps_the_credit_it_was_opened_with(rpc: Any, new_id: Any, noise: Any, refused: Any) -> None:
    session = new_id()
    rpc.create(session)
    stream = rpc.stream()
    stream.open(session)
    assert stream.next().credit_events == 1024
    request = session_pb2.UpdateSessionRequest(session_id=session)
    request.changes.limits.credit_events = 10
    request.update_mask.paths.append("limits")
    rpc.sessions.UpdateSession(request, timeout=60)
    stream.send(1, noise(64))
    assert stream.next().result.last_sequence == 64
    assert "at most 10 events" in refused(lambda: rpc.ingest(session, 65, noise(11))).message
    assert rpc.ingest(session, 65, noise(10)).last_sequence == 74
    stream.open(session, channel=2)
    opened, lost = sorted((stream.next() for _ in range(2)), key=lambda answer: -answer.channel)
    assert (opened.credit_events, opened.max_batch_events) == (10, 10)
    assert lost.error.reason == "SUPERSEDED"
    stream.send(75, noise(11), channel=2)
    assert stream.next().error.reason == "INVALID_FIELD"


def test_an_open_with_an_unknown_reply_mode_is_refused_inside_the_stream(rpc: Any, new_id: Any) -> None:
    session = new_id()
    rpc.create(session)
    stream = rpc.stream()
    stream.open(session, channel=1)
    stream.next()
    stream.open(session, channel=2, reply=NO_SUCH_MODE)
    error = stream.next()
    assert (error.channel, error.error.reason, error.closed) == (2, "INVALID_FIELD", True)
    assert error.error.metadata["field"] == "reply_mode"
    stream.open(session, channel=1, reply=NO_SUCH_MODE)
    assert (stream.next().closed, stream.call.is_active()) == (False, True)
    stream.send(1, [1, 2])
    assert stream.next().result.last_sequence == 1


def test_a_batch_for_a_session_made_anew_says_so(rpc: Any, new_id: Any) -> None:
    session = new_id()
    rpc.create(session)
    stream = rpc.stream()
    stream.open(session)
    stream.next()
    rpc.delete(session)
    uid = rpc.create(session).session.uid
    stream.send(1, [1, 2])
    error = stream.next()
    assert (error.error.reason, error.closed) == ("UID_MISMATCH", True)
    assert error.error.metadata["session_uid"] == uid


def test_losing_the_last_channel_is_counted_once(start_server: Any, connect: Any, fetch: Any) -> None:
    server = start_server()
    rpc = connect(server.target)
    rpc.create("s")
    old, new = rpc.stream(), rpc.stream()
    for stream in (old, new):
        stream.open("s")
        stream.next()
    answers, code = old.rest()
    assert ([a.error.reason for a in answers], code) == (["SUPERSEDED"], "ABORTED")
    assert 'bptt_errors_total{reason="SUPERSEDED"} 1.0' in fetch(server.http_url + "/metrics")[1]


def test_a_stream_without_an_open_channel_is_ended(start_server: Any, connect: Any, refused: Any) -> None:
    rpc = connect(start_server("--stream-idle-timeout-s", "0.5").target)
    rpc.create("s")
    busy = rpc.stream()
    busy.open("s")
    busy.next()
    bereft = rpc.stream()
    bereft.open("no-such-session")
    assert bereft.next().closed
    never = rpc.stream()
    for stream in (never, bereft):
        error = refused(stream.next)
        assert (error.code, error.reason, error.facts) == ("FAILED_PRECONDITION", "STREAM_IDLE", {"timeout_s": "0.5"})
    busy.send(1, [1, 2])
    assert busy.next().result.last_sequence == 1
    rpc.delete("s")
    busy.send(2, [1, 2])
    assert busy.next().error.reason == "SESSION_NOT_FOUND"
    assert refused(busy.next).reason == "STREAM_IDLE"
