"""The protocol of one stream: channels, order, credit, errors that leave the stream alive, and every way it can end.

A conversation reads requests, hands batches to the intake and answers each channel in order. It pauses reading while it
holds as many bytes as one message may have, so a client that does not read cannot make the server buffer. It knows no
wire form. An end of input without `End` means nothing: what was admitted is folded all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from server.book import Book
from server.errors import Refusal, draining
from server.intake import Intake
from server.messages import Draining, End, Ended, Failed, Open, Opened, Request, Response, Result, Send
from server.metrics import Metrics
from server.sessions import Acknowledged, Record, Reply
from server.sizes import event_count, held_bytes

_ANSWER_BYTES: Final = 512

Finish = Ended | Draining | Refusal | Exception


@dataclass(eq=False, slots=True)
class _Channel:
    """One session on one stream, with the credit it was promised. `resume_at`: after an error, the only sequence a
    batch may begin with."""

    number: int
    record: Record
    reply: Reply
    credit_events: int
    owner: Conversation
    in_flight: int = 0
    resume_at: int | None = None


@dataclass(eq=False, slots=True)
class _Answer:
    """What will be sent for one request, once `message` is there. `events` are in flight on `channel` until then."""

    channel: _Channel | None = None
    first_sequence: int = 0
    events: int = 0
    held_bytes: int = _ANSWER_BYTES
    message: Response | None = None


class Streams:
    """All open conversations, and which channel has which session."""

    def __init__(
        self,
        book: Book,
        intake: Intake,
        metrics: Metrics,
        max_streams: int,
        max_channels: int,
        max_held_bytes: int,
        idle_timeout_s: float,
    ) -> None:
        self.book, self.intake, self.metrics = book, intake, metrics
        self.max_channels, self.max_held_bytes, self.idle_timeout_s = max_channels, max_held_bytes, idle_timeout_s
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
        self._owed: dict[int, deque[_Answer]] = {}  # by channel number, which may be closed and open again by now
        self._ready: deque[_Answer] = deque()
        self._held_bytes = 0
        self._finish: Finish | None = None  # read through `_finishing`, as others may set it at any time
        self._loop = asyncio.get_running_loop()
        self._asleep: asyncio.Future[None] | None = None  # what the writer waits for, while it has nothing to do
        self._room = asyncio.Event()
        self._idle = self._idle_timer()

    async def run(
        self, receive: Callable[[], Awaitable[Request | None]], send: Callable[[Response], Awaitable[None]]
    ) -> None:
        """Answers until the stream is finished and everything it asked is answered."""
        # The reader is never cancelled: a cancelled read leaks in gRPC. The end of the call wakes it up.
        reader = asyncio.ensure_future(self._read(receive))
        while True:
            while self._ready:
                answer = self._ready.popleft()
                assert answer.message is not None
                if answer.channel is not None:
                    answer.channel.in_flight -= answer.events  # before the send: who has read the answer has the credit
                await send(answer.message)
                self._held_bytes -= answer.held_bytes
                self._room.set()
            how = self._finishing()
            if how is not None and not self._owed:
                break
            self._asleep = self._loop.create_future()
            await self._asleep
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
        self._wake()
        self._room.set()

    def _wake(self) -> None:
        """Lets the writer look again at what there is to do."""
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)

    def _finishing(self) -> Finish | None:
        return self._finish

    def leave(self) -> None:
        """Gives up all channels."""
        self.finish(Ended())
        for channel in list(self._channels.values()):
            self._close(channel)
        self._idle.cancel()

    def supersede(self, channel: _Channel) -> None:
        """Another stream, or another channel of this one, has opened the session."""
        self._close(channel)
        record = channel.record
        refusal = Refusal(
            "SUPERSEDED",
            f"session {record.session_id!r} was opened by another stream",
            session_id=record.session_id,
        )
        answer = self._expect(channel.number)
        if self._channels or self._finishing() is not None:
            self._metrics.errors[refusal.reason].inc()
        else:
            self.finish(refusal)  # which is counted as the end of the call
        self._answer(channel.number, answer, Failed(channel.number, refusal, record.last_sequence, closed=True))

    async def _read(self, receive: Callable[[], Awaitable[Request | None]]) -> None:
        try:
            while self._finishing() is None:
                if self._held_bytes >= self._streams.max_held_bytes:
                    self._room.clear()
                    await self._room.wait()
                    continue
                request = await receive()
                if self._finishing() is not None:
                    return
                if isinstance(request, Send):
                    self._send(request)
                elif request is None:
                    self.finish(Refusal("END_MISSING", "the input ended without StreamEnd; resume from last_sequence"))
                elif isinstance(request, End):
                    self.finish(Ended())
                elif isinstance(request, Open):
                    self._open(request)
                else:
                    self._not_opened(request.channel, request.refusal)
        except Exception as error:  # noqa: BLE001 - handed to run(), which raises it
            self.finish(error)

    def _open(self, request: Open) -> None:
        try:
            record = self._openable(request)
        except Refusal as refusal:
            self._not_opened(request.channel, refusal)
            return
        owners = self._streams.owners
        channel = _Channel(request.channel, record, request.reply, record.credit_events, self)
        self._idle.cancel()
        self._channels[channel.number] = channel
        answer = self._expect(channel.number)
        if record.uid in owners:
            owners[record.uid].owner.supersede(owners[record.uid])
        owners[record.uid] = channel
        batch_limit = record.batch_limit(channel.credit_events)
        opened = Opened(channel.number, record.uid, record.last_sequence, channel.credit_events, batch_limit)
        self._answer(channel.number, answer, opened)

    def _openable(self, request: Open) -> Record:
        """The session asked for. Raises Refusal."""
        if request.channel in self._channels:
            raise Refusal("CHANNEL_IN_USE", f"channel {request.channel} is open", channel=request.channel)
        if len(self._channels) >= self._streams.max_channels:
            limit = self._streams.max_channels
            raise Refusal("CHANNEL_LIMIT", f"{limit} channels are open, the most allowed", limit=limit)
        return self._streams.book.get(request.session_id, request.session_uid)

    def _not_opened(self, number: int, refusal: Refusal) -> None:
        self._metrics.errors[refusal.reason].inc()
        self._answer(number, self._expect(number), Failed(number, refusal, closed=number not in self._channels))

    def _send(self, request: Send) -> None:
        batch, number = request.batch, request.channel
        channel = self._channels.get(number)
        if channel is None:
            refusal = Refusal("CHANNEL_UNKNOWN", f"channel {number} is not open", channel=number)
            self._metrics.errors[refusal.reason].inc()
            failed = Failed(number, refusal, first_sequence=batch.first_sequence, closed=True)
            self._answer(number, self._expect(number), failed)
            return
        record = channel.record
        events = event_count(record, batch)
        answer = self._expect(number, channel, batch.first_sequence, events, held_bytes(record, batch, channel.reply))
        done = partial(self._acknowledged, channel, answer)
        try:
            over = channel.in_flight > channel.credit_events
            if over or channel.resume_at is not None or not self._intake.lives(record):
                self._check_turn(channel, batch.first_sequence, events)
            self._intake.offer(record, batch, channel.reply, done, channel.credit_events)
        except Refusal as refusal:
            self._metrics.rejected(events, batch.known_labels)
            self._refuse(channel, answer, refusal)
        else:
            channel.resume_at = None

    def _check_turn(self, channel: _Channel, first_sequence: int, events: int) -> None:
        """Raises Refusal if the channel may not send this now."""
        record = channel.record
        self._streams.book.get(record.session_id, record.uid)
        if channel.resume_at not in (None, first_sequence):
            raise Refusal(
                "SKIPPED",
                f"a batch before this one failed; the next one must begin at {channel.resume_at}",
                session_id=record.session_id,
                expected=channel.resume_at,
            )
        if channel.in_flight > max(channel.credit_events, events):
            raise Refusal(
                "CREDIT_EXCEEDED",
                f"channel {channel.number} has {channel.in_flight} events in flight; allowed: {channel.credit_events}",
                session_id=record.session_id,
                limit=channel.credit_events,
            )

    def _refuse(self, channel: _Channel, answer: _Answer, refusal: Refusal) -> None:
        if refusal.row.closes_channel:
            self._close(channel)
            self._fail(channel, answer, refusal, closed=True)
        elif refusal.reason == "SKIPPED":
            assert channel.resume_at is not None
            self._fail(channel, answer, refusal, channel.resume_at - 1)
        else:
            # The error names the last sequence, so it goes out when that one is acknowledged, or never will be.
            last = channel.record.admitted
            channel.resume_at = last + 1

            def reached(result: Acknowledged | Refusal) -> None:
                self._fail(channel, answer, refusal, None if isinstance(result, Refusal) else last)

            self._intake.barrier(channel.record, reached)

    def _acknowledged(self, channel: _Channel, answer: _Answer, result: Acknowledged | Refusal) -> None:
        if isinstance(result, Refusal):
            closed = result.row.closes_channel
            if closed:
                self._close(channel)
            self._fail(channel, answer, result, closed=closed)
        else:
            self._answer(channel.number, answer, Result(channel.number, result))

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
        self._answer(channel.number, answer, Failed(channel.number, refusal, last, answer.first_sequence, closed))

    def _close(self, channel: _Channel) -> None:
        if self._channels.get(channel.number) is channel:
            del self._channels[channel.number]
            if not self._channels:
                self._idle = self._idle_timer()
        if self._streams.owners.get(channel.record.uid) is channel:
            del self._streams.owners[channel.record.uid]

    def _idle_timer(self) -> asyncio.TimerHandle:
        timeout_s = self._streams.idle_timeout_s
        refusal = Refusal("STREAM_IDLE", f"the stream had no open channel for {timeout_s:g} s", timeout_s=timeout_s)
        return asyncio.get_running_loop().call_later(timeout_s, self.finish, refusal)

    def _expect(
        self, number: int, channel: _Channel | None = None, first: int = 0, events: int = 0, held_bytes: int = 0
    ) -> _Answer:
        """Notes that an answer is owed, in the order of its channel number."""
        answer = _Answer(channel, first, events, _ANSWER_BYTES + held_bytes)
        self._owed.setdefault(number, deque()).append(answer)
        self._held_bytes += answer.held_bytes
        if channel is not None:
            channel.in_flight += events
        return answer

    def _answer(self, number: int, answer: _Answer, message: Response) -> None:
        """An answer is known; it and those behind it that are known too are ready to be sent."""
        answer.message = message
        owed = self._owed[number]
        while owed and owed[0].message is not None:
            self._ready.append(owed.popleft())
        if not owed:
            del self._owed[number]
        self._wake()
