"""The face for asyncio: `AsyncClient` and its handle. Decides nothing: `calls.py` and `feed.py` do; `client.py` is
its twin.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, SupportsIndex, TypeVar, Unpack

import grpc
import grpc.aio

from bptt.v1 import forecast_pb2_grpc, session_pb2_grpc
from bptt_client import answers, calls, errors
from bptt_client.aio_stream import AsyncStream, being_cancelled
from bptt_client.answers import Known
from bptt_client.events import Given, paired, paired_async
from bptt_client.feed import Feed, Resume
from bptt_client.replies import BatchResult, Forecast, LabelResult, Reply, Summary, WarmStartResult
from bptt_client.rows import Row, Time
from bptt_client.session import Session

T = TypeVar("T")


class AsyncClient:
    """A connection to one server; for one event loop. Close it, or use it in an `async with`.

    `target` is "host:port"; without `credentials` the connection is not encrypted. A call waits at most `timeout_s`;
    `resume` says how streams come back.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = calls.DEFAULT_TIMEOUT_S,
        resume: Resume | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=calls.CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=calls.CHANNEL_OPTIONS)
        sessions = session_pb2_grpc.SessionServiceStub(self._channel)
        forecasts = forecast_pb2_grpc.ForecastServiceStub(self._channel)
        self._methods: dict[str, Any] = {**vars(sessions), **vars(forecasts)}
        self._timeout_s, self._resume = timeout_s, resume or Resume()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Watches end; calls and streams still running, and new ones, raise ClientClosed."""
        await self._channel.close()

    async def create_session(
        self,
        session_id: str,
        *,
        features: Sequence[str],
        tags: Mapping[str, str] | None = None,
        learning: bool | None = None,
        credit_events: int | None = None,
        **configuration: Unpack[calls.Configuration],
    ) -> AsyncSessionHandle:
        """Makes a session, or finds the one made by the same call. None is the server's default for every field.

        `configuration` has the other fields of the contract's `SessionConfig`: targets, horizon, seasons, period_ns,
        coverage, task, labels, categories (a mapping from a channel's name to its symbols, or to their number n for
        "0" to "n-1"), label_age, scaling, means, deviations, seasonality, and learner, a mapping, e.g. {"cell": "gru",
        "hidden": 16}, or learners, a list of such mappings. Raises SessionExists if the id is taken by another
        configuration, InvalidRequest for a value out of range.
        """
        fields = {"features": features, **configuration}
        return self._handle(await self._run(calls.create_session(session_id, fields, tags, learning, credit_events)))

    async def session(self, session_id: str) -> AsyncSessionHandle:
        """A handle on a session that exists. Raises SessionNotFound."""
        return self._handle(await self.get_session(session_id))

    async def get_session(self, session_id: str) -> Session:
        """The session with its counters and scores. Raises SessionNotFound."""
        return await self._run(calls.get_session(session_id))

    async def list_sessions(self, *, tags: Mapping[str, str] | None = None) -> AsyncIterator[Session]:
        """Sessions in order of id, without scores; only those that have all these tags. Pages are fetched as needed."""
        token: str | None = ""
        while token is not None:
            page, following = await self._run(calls.list_sessions(tags, token))
            for session in page:
                yield session
            token = following or None

    async def update_session(self, session_id: str, *, session_uid: str = "", **changes: Any) -> Session:
        """Changes learning, learning_rate, tags or credit_events; None returns one to its default."""
        return await self._run(calls.update_session(session_id, session_uid, changes))

    async def fork_session(
        self, session_id: str, fork_id: str, *, session_uid: str = "", **changes: Any
    ) -> AsyncSessionHandle:
        """Copies a session to an id that is free; fed the same events, the two go on to the same bits. `changes` are
        those of `update_session`, made in the copy only. Not tried again by itself: after a lost answer the copy may be
        there. Raises SessionNotFound, SessionExists.
        """
        return self._handle(await self._run(calls.fork_session(session_id, session_uid, fork_id, changes)))

    async def delete_session(self, session_id: str, *, session_uid: str = "") -> None:
        """Removes a session and what is stored of it. Raises SessionNotFound."""
        await self._run(calls.delete_session(session_id, session_uid))

    async def export_session(
        self,
        session_id: str,
        format: calls.ExportFormat = "checkpoint",  # noqa: A002 - the contract's word
        *,
        session_uid: str = "",
    ) -> bytes:
        """The session as the bytes of a file: a "checkpoint" is all of it, "safetensors" the parameters of its network,
        named as in a PyTorch state dict (modules `rnn` and `readout`). Raises SessionNotFound.
        """
        return await self._run(calls.export_session(session_id, session_uid, format))

    async def import_session(
        self,
        data: bytes,
        session_id: str,
        format: calls.ExportFormat = "checkpoint",  # noqa: A002 - the contract's word
        *,
        features: Sequence[str] | None = None,
        tags: Mapping[str, str] | None = None,
        learning: bool | None = None,
        credit_events: int | None = None,
        **configuration: Unpack[calls.Configuration],
    ) -> AsyncSessionHandle:
        """Makes a session, under an id that is free, of such bytes. It goes on where the checkpoint was, or begins with
        the network of the safetensors.

        Safetensors need the configuration that the network is to run in, as `create_session` takes it (cell, layers and
        hidden may be left to the file); a checkpoint has its own. Not tried again by itself: after a lost answer the
        session may be there. Raises SessionExists, InvalidRequest for bytes that are no such file.
        """
        fields = {"features": features, **configuration}
        call = calls.import_session(data, session_id, format, fields, tags, learning, credit_events)
        return self._handle(await self._run(call))

    def _handle(self, session: Session) -> AsyncSessionHandle:
        return AsyncSessionHandle(self, Known.of(session))

    async def _run(self, call: calls.Call[T], known: Known | None = None, timeout_s: float | None = None) -> T:
        try:
            begun = self._begin(call.method, call.request, timeout=timeout_s or self._timeout_s)
            return call.decode([piece async for piece in begun] if call.in_pieces else await begun)
        except grpc.RpcError as error:
            raise answers.failure(error, known, call.prefixes, call.numbering) from error
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            raise errors.ClientClosed from None

    def _begin(self, method: str, request: Any, **options: Any) -> Any:
        try:
            return self._methods[method](request, **options)
        except grpc.aio.UsageError as error:  # gRPC's word for a closed channel
            raise errors.ClientClosed from error


class AsyncSessionHandle:
    """One session as its writer sees it: events are numbered from `last_sequence`, and only one writer is meant."""

    def __init__(self, client: AsyncClient, known: Known) -> None:
        self._client, self._known = client, known
        self._one_at_a_time = asyncio.Lock()

    @property
    def session_id(self) -> str:
        """Id of the session."""
        return self._known.session_id

    @property
    def uid(self) -> str:
        """Incarnation of the session this handle is bound to."""
        return self._known.uid

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the values of an event, in order."""
        return self._known.features.names

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of an event's labels, in order; none where the targets are features."""
        return self._known.labels.names

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of what is predicted, in the order of every reply: the labels, or the features to forecast."""
        return self._known.targets

    @property
    def horizon(self) -> int:
        """How many events ahead a forecast reaches; with labels 1, and it is the event's own."""
        return self._known.horizon

    @property
    def last_sequence(self) -> int:
        """Sequence of the last event acknowledged to this handle."""
        return self._known.last_sequence

    async def refresh(self) -> Session:
        """The session as it is now; the handle adopts its uid and last sequence."""
        session = await self._client.get_session(self.session_id)
        self._known = Known.of(session)
        return session

    async def learn_one(
        self, row: Row, *, timestamp: Time | None = None, labels: Row | None = None, new_episode: bool = False
    ) -> Reply:
        """Sends one event and waits for its reply; with `new_episode` the network first forgets what came before. After
        a timeout or a cancellation the server may have taken it or not: repeating the same row is safe; before any
        other, call refresh().
        """
        async with self._one_at_a_time:
            call = calls.learn_one(self._known, Given(row, timestamp, labels, new_episode))
            return await self._client._run(call, self._known)

    async def learn_many(
        self,
        rows: Iterable[Row] | AsyncIterable[Row],
        *,
        timestamps: Iterable[Time] | None = None,
        labels: Iterable[Row | None] | None = None,
        episode_starts: Iterable[SupportsIndex] | None = None,
        start: int = 0,
        batch: int = calls.DEFAULT_BATCH,
        reply: calls.ReplyMode = "last",
        on_reply: Callable[[Reply], object] | None = None,
        on_batch: Callable[[BatchResult], object] | None = None,
        in_flight: int | None = None,
    ) -> Summary:
        """Streams rows in batches until all are acknowledged, resuming by itself; the first `start` are left out.

        `timestamps` and `labels` have one entry per row (None: that row's labels are not known yet), `episode_starts`
        numbers of rows from 0. `reply` says which events are answered: every one, the last of each batch, or none;
        `on_reply` gets those replies, `on_batch` whole batches. At most `in_flight` events are unacknowledged at a time
        (None: the server's credit). Where it ends early, the server may have taken more than was acknowledged:
        call refresh() before sending other rows. Raises InvalidRequest with the `row` that was refused; those before
        its batch are learned.
        """
        tally = calls.Tally(self.last_sequence, on_reply, on_batch)
        async with self._stream(reply, batch, False, in_flight, start) as stream:
            async for given in paired_async(rows, timestamps, labels, episode_starts, start):
                await stream.send(*given)
                tally.add(stream.results())
            await stream.flush()
        tally.add(stream.results())
        return tally.summary(self.last_sequence, stream.reconnects)

    def stream(
        self, *, reply: calls.ReplyMode = "every", batch: int = calls.DEFAULT_BATCH, live: bool = True
    ) -> AsyncStream:
        """A feed, to be used in an `async with`. If `live`, an event leaves at once while nothing is in flight, else in
        batches; otherwise always in whole batches, or at `flush`.
        """
        return self._stream(reply, batch, live, None, 0)

    async def label(self, sequence: int, labels: Row) -> LabelResult:
        """Tells the labels of one event; see `label_many`."""
        return await self.label_many({sequence: labels})

    async def label_many(self, labels: Mapping[int, Row]) -> LabelResult:
        """Tells labels of acknowledged events by sequence, any time within the session's `label_age`: they are scored,
        and learned from if their step is still in the window. Telling the same again is safe. Raises LabelConflict if
        one was known to be another.
        """
        return calls.total([await self._client._run(call, self._known) for call in calls.label(self._known, labels)])

    async def warm_start(
        self,
        rows: Iterable[Row],
        *,
        timestamps: Iterable[Time] | None = None,
        labels: Iterable[Row | None] | None = None,
        episode_starts: Iterable[SupportsIndex] | None = None,
        passes: int | None = None,
        updates: calls.WarmStartUpdates | None = None,
        timeout_s: float | None = None,
    ) -> WarmStartResult:
        """Trains a session that has had no event on a history, by full backpropagation through each sequence in it (an
        episode is one). The stream goes on from its end; its rows are not counted.

        `updates` is "per_sequence" (the default) or "per_pass"; `timeout_s` None is the client's. Not tried again by
        itself: after a lost answer AlreadyStarted on a second try says that the first was carried out.
        """
        history = paired(rows, timestamps, labels, episode_starts)
        call = calls.warm_start(self._known, history, passes, updates)
        return await self._client._run(call, self._known, timeout_s)

    async def forecast(self, horizon: int | None = None) -> Forecast:
        """The forecast after the last acknowledged event. Changes nothing. Raises NoEvents before the first."""
        return await self._client._run(calls.forecast(self._known, horizon))

    def watch(self) -> AsyncWatch:
        """Outcomes as they are acknowledged, whoever sends the events. Iterate; close it, or use it in an `async
        with`.
        """
        return AsyncWatch(self._client, self._known)

    async def update(self, **changes: Any) -> Session:
        """Changes learning, learning_rate, tags or credit_events of this incarnation; None returns one to its
        default.
        """
        return await self._client.update_session(self.session_id, session_uid=self.uid, **changes)

    async def fork(self, fork_id: str, **changes: Any) -> AsyncSessionHandle:
        """A copy of this incarnation of the session; see the client's `fork_session`."""
        return await self._client.fork_session(self.session_id, fork_id, session_uid=self.uid, **changes)

    async def export(
        self,
        format: calls.ExportFormat = "checkpoint",  # noqa: A002 - the contract's word
    ) -> bytes:
        """This incarnation of the session as the bytes of a file; see the client's `export_session`."""
        return await self._client.export_session(self.session_id, format, session_uid=self.uid)

    async def delete(self) -> None:
        """Removes this incarnation of the session."""
        await self._client.delete_session(self.session_id, session_uid=self.uid)

    def _stream(
        self, reply: calls.ReplyMode, batch: int, live: bool, in_flight: int | None, first_row: int
    ) -> AsyncStream:
        feed = Feed(self._known, reply, batch, live, in_flight, self._client._resume, first_row)
        return AsyncStream(partial(self._client._begin, "Stream"), feed)


class AsyncWatch:
    """Replies of a session as they are acknowledged. `session` is its state at the start, `dropped_events` how many
    outcomes the server dropped because this reader was too slow.
    """

    def __init__(self, client: AsyncClient, known: Known) -> None:
        self._call, self._reading = client._begin("Watch", calls.watch(known)), calls.WatchReading(known)
        self._closed = False

    async def __aenter__(self) -> AsyncWatch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def session(self) -> Session | None:
        """The session at the start of the watch; None until the first message."""
        return self._reading.session

    @property
    def dropped_events(self) -> int:
        """Outcomes the server dropped so far because this reader was too slow."""
        return self._reading.dropped_events

    async def __aiter__(self) -> AsyncIterator[Reply]:
        try:
            async for message in self._call:
                for reply in self._reading.read(message):
                    yield reply
        except grpc.RpcError as error:
            if not self._closed:
                raise answers.failure(error) from error
        except asyncio.CancelledError:
            if being_cancelled():
                raise

    async def close(self) -> None:
        """Ends the watch."""
        self._closed = True
        self._call.cancel()
