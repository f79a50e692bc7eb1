"""The protocol of one stream: channels, order, credit, errors that leave the stream alive, and every way it can end.

A conversation reads requests, hands batches to the intake and answers each channel in order. It pauses reading while it
holds as many bytes as one message may have, so a client that does not read cannot make the server buffer. It knows no
wire form. An end of input without `End` means nothing: what was admitted is folded all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from server.book import Book
from server.errors import Refusal
from server.intake import Intake, draining, not_found
from server.messages import Draining, End, Ended, Failed, Open, Opened, Request, Response, Result, Send
from server.metrics import Metrics
from server.sessions import Acknowledged, Record, Reply, held_bytes

_ANSWER_BYTES: Final = 512

Finish = Ended | Draining | Refusal | Exception


@dataclass(eq=False, slots=True)
class _Answer:
    """What will be sent for one request, once `message` is there."""

    first_sequence: int = 0
    events: int = 0
    held_bytes: int = _ANSWER_BYTES
    message: Response | None = None


@dataclass(eq=False, slots=True)
class _Channel:
    """One session on one stream. `resume_at`: after an error, the only sequence a batch may begin with."""

    number: int
    record: Record
    reply: Reply
    credit_events: int
    owner: Conversation
    waiting: deque[_Answer] = field(default_factory=deque)
    in_flight: int = 0
    resume_at: int | None = None


class Streams:
    """All open conversations, and which channel has which session."""

    def __init__(
        self, book: Book, intake: Intake, metrics: Metrics, max_streams: int, max_channels: int, max_held_bytes: int
    ) -> None:
        self.book, self.intake, self.metrics = book, intake, metrics
        self.max_channels, self.max_held_bytes = max_channels, max_held_bytes
        self._max_streams = max_streams
        self._open: set[Conversation] = set()
        self.owners: dict[str, _Channel] = {}

    def __len__(self) -> int:
        return len(self._open)

    def drain(self) -> None:
        """Every conversation answers what it has, says from where to resume, and ends."""
        for conversation in self._open:
            conversation.finish(Draining(()))

    async def converse(
        self, receive: Callable[[], Awaitable[Request | None]], send: Callable[[Response], Awaitable[None]]
    ) -> None:
        """Runs one stream to its end. Returns if it ended well and raises Refusal otherwise."""
        if self.intake.draining:
            raise draining()
        if len(self._open) >= self._max_streams:
            raise Refusal("STREAM_LIMIT", f"{len(self)} streams are open, the most allowed", limit=self._max_streams)
        conversation = Conversation(self)
        self._open.add(conversation)
        self.metrics.streams.set(len(self))
        try:
            await conversation.run(receive, send)
        finally:
            conversation.leave()
            self._open.discard(conversation)
            self.metrics.streams.set(len(self))


class Conversation:
    """One stream."""

    def __init__(self, streams: Streams) -> None:
        self._streams, self._intake, self._metrics = streams, streams.intake, streams.metrics
        self._channels: dict[int, _Channel] = {}
        self._closed: dict[int, _Channel] = {}  # closed while answers were owed; later answers queue behind those
        self._ready: deque[tuple[_Channel | None, _Answer]] = deque()
        self._waiting = 0
        self._held_bytes = 0
        self._finish: Finish | None = None  # read through `_finishing`, as others may set it at any time
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    async def run(
        self, receive: Callable[[], Awaitable[Request | None]], send: Callable[[Response], Awaitable[None]]
    ) -> None:
        """Answers until the stream is finished and everything it asked is answered."""
        # The reader is never cancelled: a cancelled read leaks in gRPC. The end of the call wakes it up.
        reader = asyncio.ensure_future(self._read(receive))
        while True:
            self._wake.clear()
            while self._ready:
                channel, answer = self._ready.popleft()
                assert answer.message is not None
                if channel is not None:
                    channel.in_flight -= answer.events  # before the send: who has read the answer has the credit
                await send(answer.message)
                self._held_bytes -= answer.held_bytes
                self._room.set()
            how = self._finishing()
            if how is not None and not self._waiting:
                break
            await self._wake.wait()
        if isinstance(how, Ended):
            await send(how)
        elif isinstance(how, Draining):
            resume = ((channel.number, channel.record.last_sequence) for channel in self._channels.values())
            await send(Draining(tuple(resume)))
            raise draining()
        else:
            raise how
        await reader

    def finish(self, how: Finish) -> None:
        """Takes no more requests; the stream ends as said once everything is answered. The first word counts."""
        if self._finish is None:
            self._finish = how
        self._wake.set()
        self._room.set()

    def _finishing(self) -> Finish | None:
        return self._finish

    def leave(self) -> None:
        """Gives up all channels."""
        self.finish(Ended())
        for channel in list(self._channels.values()):
            self._close(channel)

    def supersede(self, channel: _Channel) -> None:
        """Another stream, or another channel of this one, has opened the session."""
        self._close(channel)
        refusal = Refusal(
            "SUPERSEDED",
            f"session {channel.record.session_id!r} was opened by another stream",
            session_id=channel.record.session_id,
        )
        self._fail(channel, self._expect(channel), refusal, closed=True)
        if not self._channels:
            self.finish(refusal)

    async def _read(self, receive: Callable[[], Awaitable[Request | None]]) -> None:
        try:
            while self._finishing() is None:
                self._room.clear()
                if self._held_bytes >= self._streams.max_held_bytes:
                    await self._room.wait()
                    continue
                request = await receive()
                if self._finishing() is not None:
                    return
                if request is None:
                    self.finish(Refusal("END_MISSING", "the input ended without StreamEnd; resume from last_sequence"))
                elif isinstance(request, End):
                    self.finish(Ended())
                elif isinstance(request, Open):
                    self._open(request)
                else:
                    self._send(request)
        except Exception as error:  # noqa: BLE001 - handed to run(), which raises it
            self.finish(error)

    def _open(self, request: Open) -> None:
        behind = self._closed.get(request.channel)
        answer = self._expect(behind)
        try:
            if request.channel in self._channels:
                raise Refusal("CHANNEL_IN_USE", f"channel {request.channel} is open", channel=request.channel)
            if len(self._channels) >= self._streams.max_channels:
                limit = self._streams.max_channels
                raise Refusal("CHANNEL_LIMIT", f"{limit} channels are open, the most allowed", limit=limit)
            record = self._streams.book.get(request.session_id, request.session_uid)
        except Refusal as refusal:
            self._metrics.errors[refusal.reason].inc()
            closed = refusal.reason != "CHANNEL_IN_USE"
            self._answer(behind, answer, Failed(request.channel, refusal, closed=closed))
            return
        owners = self._streams.owners
        channel = _Channel(request.channel, record, request.reply, record.credit_events, self)
        self._channels[channel.number] = channel
        if record.uid in owners:
            owners[record.uid].owner.supersede(owners[record.uid])
        owners[record.uid] = channel
        opened = Opened(channel.number, record.uid, record.last_sequence, channel.credit_events, record.batch_limit)
        self._answer(behind, answer, opened)

    def _send(self, request: Send) -> None:
        batch = request.batch
        channel = self._channels.get(request.channel)
        if channel is None:
            refusal = Refusal("CHANNEL_UNKNOWN", f"channel {request.channel} is not open", channel=request.channel)
            self._metrics.errors[refusal.reason].inc()
            failed = Failed(request.channel, refusal, first_sequence=batch.first_sequence, closed=True)
            behind = self._closed.get(request.channel)
            self._answer(behind, self._expect(behind), failed)
            return
        record = channel.record
        events = max(1, len(batch.values) // record.features)
        held = held_bytes(record, batch, channel.reply)
        answer = self._expect(channel, batch.first_sequence, events, held)
        refused = self._turn_refused(channel, batch.first_sequence, events)
        if refused is not None:
            self._metrics.rejected(events)
            self._refuse(channel, answer, refused)
            return
        try:
            self._intake.offer(record, batch, channel.reply, partial(self._acknowledged, channel, answer))
        except Refusal as refusal:
            self._refuse(channel, answer, refusal)
        else:
            channel.resume_at = None

    def _turn_refused(self, channel: _Channel, first_sequence: int, events: int) -> Refusal | None:
        """Why the channel may not send this now; None if it may."""
        record = channel.record
        if not self._intake.lives(record):
            return not_found(record.session_id)
        if channel.resume_at not in (None, first_sequence):
            return Refusal(
                "SKIPPED",
                f"a batch before this one failed; the next one must begin at {channel.resume_at}",
                session_id=record.session_id,
                expected=channel.resume_at,
            )
        if channel.in_flight > max(channel.credit_events, events):
            return Refusal(
                "CREDIT_EXCEEDED",
                f"channel {channel.number} has {channel.in_flight} events in flight; allowed: {channel.credit_events}",
                session_id=record.session_id,
                limit=channel.credit_events,
            )
        return None

    def _refuse(self, channel: _Channel, answer: _Answer, refusal: Refusal) -> None:
        if refusal.row.closes_channel:
            self._close(channel)
            self._fail(channel, answer, refusal, closed=True)
        elif refusal.reason == "SKIPPED":
            assert channel.resume_at is not None
            self._fail(channel, answer, refusal, channel.resume_at - 1)
        else:
            # The error names the last sequence, so it goes out when that one is acknowledged.
            last = channel.record.admitted
            channel.resume_at = last + 1
            self._intake.barrier(channel.record, lambda _: self._fail(channel, answer, refusal, last))

    def _acknowledged(self, channel: _Channel, answer: _Answer, result: Acknowledged | Refusal) -> None:
        if isinstance(result, Refusal):
            self._close(channel)
            self._fail(channel, answer, result, closed=True)
        else:
            self._answer(channel, answer, Result(channel.number, result))

    def _fail(
        self,
        channel: _Channel,
        answer: _Answer,
        refusal: Refusal,
        last_sequence: int | None = None,
        closed: bool = False,
    ) -> None:
        self._metrics.errors[refusal.reason].inc()
        last = channel.record.last_sequence if last_sequence is None else last_sequence
        self._answer(channel, answer, Failed(channel.number, refusal, last, answer.first_sequence, closed))

    def _close(self, channel: _Channel) -> None:
        if self._channels.get(channel.number) is channel:
            del self._channels[channel.number]
            if channel.waiting:
                self._closed[channel.number] = channel
        if self._streams.owners.get(channel.record.uid) is channel:
            del self._streams.owners[channel.record.uid]

    def _expect(self, channel: _Channel | None, first: int = 0, events: int = 0, held_bytes: int = 0) -> _Answer:
        """Notes that an answer is owed, in the channel's order."""
        answer = _Answer(first, events, _ANSWER_BYTES + held_bytes)
        self._waiting += 1
        self._held_bytes += answer.held_bytes
        if channel is not None:
            channel.waiting.append(answer)
            channel.in_flight += events
        return answer

    def _answer(self, channel: _Channel | None, answer: _Answer, message: Response) -> None:
        """An answer is known; it and those behind it that are known too are ready to be sent."""
        answer.message = message
        if channel is None:
            self._waiting -= 1
            self._ready.append((None, answer))
        else:
            while channel.waiting and channel.waiting[0].message is not None:
                self._waiting -= 1
                self._ready.append((channel, channel.waiting.popleft()))
            if not channel.waiting and self._closed.get(channel.number) is channel:
                del self._closed[channel.number]
        self._wake.set()
