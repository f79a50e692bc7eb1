"""The RPC handlers: translate, ask, translate back. No rule is decided here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import grpc

from bptt.v1 import forecast_pb2, forecast_pb2_grpc, session_pb2, session_pb2_grpc
from server import messages, translate
from server.batches import known
from server.book import Book
from server.errors import Refusal, draining
from server.exports import Exports, Wanted
from server.intake import Intake
from server.metrics import Metrics
from server.packing import packed
from server.settings import Settings
from server.sizes import SESSION_BYTES, event_count, held_bytes, history_bytes
from server.streams import Streams
from server.teaching import Teaching
from server.watch import Watcher

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    Unary = ServicerContext[object, object]
    StreamContext = ServicerContext[forecast_pb2.StreamRequest, forecast_pb2.StreamResponse]
    ExportContext = ServicerContext[session_pb2.ExportSessionRequest, session_pb2.ExportSessionResponse]
    ImportContext = ServicerContext[session_pb2.ImportSessionRequest, session_pb2.ImportSessionResponse]
    WatchContext = ServicerContext[forecast_pb2.WatchRequest, forecast_pb2.WatchResponse]

_SERVICES: Final = (
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
    forecast_pb2.DESCRIPTOR.services_by_name["ForecastService"],
)
NAMES: Final = tuple(service.full_name for service in _SERVICES)
# What describes a session is short; reading the lists and tags of megabytes would hold up everybody.
REQUEST_BYTES: Final = {"bptt.v1.SessionService": SESSION_BYTES}


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """Creates, finds, changes, copies and removes sessions, and moves them in and out as files."""

    def __init__(self, book: Book, exports: Exports, max_message_bytes: int) -> None:
        self._book, self._exports = book, exports
        self._page_bytes = max_message_bytes

    async def CreateSession(
        self, request: session_pb2.CreateSessionRequest, context: Unary
    ) -> session_pb2.CreateSessionResponse:
        view, created = await self._book.create(request.session_id, translate.terms(request))
        return session_pb2.CreateSessionResponse(session=translate.session(view), created=created)

    async def GetSession(
        self, request: session_pb2.GetSessionRequest, context: Unary
    ) -> session_pb2.GetSessionResponse:
        view = await self._book.view(self._book.get(request.session_id))
        return session_pb2.GetSessionResponse(session=translate.session(view))

    async def ListSessions(
        self, request: session_pb2.ListSessionsRequest, context: Unary
    ) -> session_pb2.ListSessionsResponse:
        size, after = translate.page_size(request.page_size), translate.page_after(request.page_token)
        views, last = await self._book.page(after, request.tags, size)
        response = session_pb2.ListSessionsResponse()
        room = self._page_bytes - 1024
        for view in views:
            message = translate.session(view)
            room -= message.ByteSize() + 8
            if room < 0:
                last = response.sessions[-1].session_id
                break
            response.sessions.append(message)
        response.next_page_token = translate.page_token(last) if last else ""
        return response

    async def UpdateSession(
        self, request: session_pb2.UpdateSessionRequest, context: Unary
    ) -> session_pb2.UpdateSessionResponse:
        changes = translate.changes(request.changes, request.update_mask.paths)
        view = await self._book.update(request.session_id, request.session_uid, changes)
        return session_pb2.UpdateSessionResponse(session=translate.session(view))

    async def DeleteSession(
        self, request: session_pb2.DeleteSessionRequest, context: Unary
    ) -> session_pb2.DeleteSessionResponse:
        await self._book.delete(request.session_id, request.session_uid)
        return session_pb2.DeleteSessionResponse()

    async def ForkSession(
        self, request: session_pb2.ForkSessionRequest, context: Unary
    ) -> session_pb2.ForkSessionResponse:
        changes = translate.changes(request.changes, request.fork_mask.paths)
        view = await self._book.fork(request.session_id, request.session_uid, request.fork_id, changes)
        return session_pb2.ForkSessionResponse(session=translate.session(view))

    async def ExportSession(self, request: session_pb2.ExportSessionRequest, context: ExportContext) -> None:
        async def write(piece: bytes) -> None:
            await context.write(session_pb2.ExportSessionResponse(data=piece))

        kind = translate.export_format(request.format)
        await self._exports.send(request.session_id, request.session_uid, kind, write)

    async def ImportSession(self, requests: object, context: ImportContext) -> session_pb2.ImportSessionResponse:
        async def read() -> Wanted | bytes | None:
            message: Any = await context.read()
            return None if message is grpc.aio.EOF else translate.import_request(message)

        view = await self._exports.receive(read)
        return session_pb2.ImportSessionResponse(session=translate.session(view))


class ForecastService(forecast_pb2_grpc.ForecastServiceServicer):
    """Takes events in, gives forecasts out."""

    def __init__(
        self,
        book: Book,
        intake: Intake,
        teaching: Teaching,
        streams: Streams,
        metrics: Metrics,
        limits: Settings,
    ) -> None:
        self._book, self._intake, self._teaching = book, intake, teaching
        self._streams, self._metrics = streams, metrics
        self._limits = limits
        self._watchers = 0
        self._held_bytes = 0

    async def Stream(self, requests: object, context: StreamContext) -> None:
        write: Any = context.write  # bytes as they are: see `interceptors.py`

        async def receive() -> messages.Request | None:
            message: Any = await context.read()
            return None if message is grpc.aio.EOF else translate.stream_request(message)

        def send(answer: messages.Response) -> Awaitable[None]:
            written: Awaitable[None] = write(translate.stream_response(answer))
            return written

        await self._streams.converse(receive, send)

    async def Ingest(self, request: forecast_pb2.IngestRequest, context: Unary) -> forecast_pb2.IngestResponse:
        record = self._book.get(request.session_id)
        batch = translate.batch(request.batch)
        try:
            reply = translate.reply(request.reply_mode)
            held = held_bytes(record, batch, reply)
            answer = self._begin(held, lambda done: self._intake.offer(record, batch, reply, done))
        except Refusal:
            self._metrics.rejected(event_count(record, batch), batch.known_labels)
            raise
        result = translate.result(await _result(answer))
        return forecast_pb2.IngestResponse(session_uid=record.uid, result=result)

    async def Label(self, request: forecast_pb2.LabelRequest, context: Unary) -> forecast_pb2.LabelResponse:
        record = self._book.get(request.session_id)
        labels = translate.late_labels(request)
        try:
            answer = self._begin(labels.nbytes, lambda done: self._teaching.label(record, labels, done))
        except Refusal:
            self._metrics.rejected(0, known(labels.values))
            raise
        return translate.told(record, await _result(answer))

    async def WarmStart(self, request: forecast_pb2.WarmStartRequest, context: Unary) -> forecast_pb2.WarmStartResponse:
        record = self._book.get(request.session_id)
        history = translate.history(request)
        held = history_bytes(record, history.batch)
        answer = self._begin(held, lambda done: self._teaching.warm_start(record, history, done))
        return translate.trained(record, await _result(answer))

    def _begin(self, held: int, begin: Callable[[Callable[[Any], None]], None]) -> asyncio.Future[Any]:
        """What `begin` is done with, a result or a refusal. Until then `held` bytes count against the memory for calls
        in flight. Raises Refusal."""
        if self._held_bytes and self._held_bytes + held > self._limits.ingest_memory_mib * 2**20:
            raise Refusal("OVERLOADED", "calls in flight fill the memory for them", limit="ingest-memory-mib")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Any) -> None:
            self._held_bytes -= held
            if not answer.done():
                answer.set_result(result)

        begin(done)
        self._held_bytes += held
        return answer

    async def Forecast(self, request: forecast_pb2.ForecastRequest, context: Unary) -> forecast_pb2.ForecastResponse:
        record = self._book.get(request.session_id, request.session_uid)
        return translate.forecast(record, request.horizon if request.HasField("horizon") else None)

    async def Watch(self, request: forecast_pb2.WatchRequest, context: WatchContext) -> None:
        record = self._book.get(request.session_id)
        if self._intake.draining:
            raise draining()
        limit = self._limits.max_watchers
        if self._watchers >= limit:
            raise Refusal("WATCHER_LIMIT", f"{limit} watches are open, the most allowed", limit=limit)
        watcher = Watcher(self._limits.max_message_bytes, record.max_batch_events, self._metrics.watch_dropped.inc)
        self._count_watchers(1)
        self._intake.watch(record, watcher)
        try:
            view = await self._book.view(record)
            watcher.skip(view.status.last_sequence)
            await context.write(forecast_pb2.WatchResponse(session=translate.session(view)))
            while True:
                outs, dropped = await watcher.next()
                await context.write(translate.watched(packed(outs, record.window), dropped))
        finally:
            self._intake.unwatch(record, watcher)
            self._count_watchers(-1)

    def _count_watchers(self, change: int) -> None:
        self._watchers += change
        self._metrics.watchers.set(self._watchers)


async def _result(answer: asyncio.Future[Any]) -> Any:
    """The result; a refusal is raised."""
    result = await answer
    if isinstance(result, Refusal):
        raise result
    return result


def attach(server: grpc.aio.Server, sessions: SessionService, forecasts: ForecastService, metrics: Metrics) -> None:
    """Adds both services to a server, and their methods to its metrics."""
    for service in _SERVICES:
        for method in service.methods:
            metrics.calls.method(method.client_streaming, method.server_streaming, service.full_name, method.name)
    session_pb2_grpc.add_SessionServiceServicer_to_server(sessions, server)
    forecast_pb2_grpc.add_ForecastServiceServicer_to_server(forecasts, server)
