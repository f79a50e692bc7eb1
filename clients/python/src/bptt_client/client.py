"""The blocking face: `Client` and `SessionHandle`. Decides nothing: `calls.py` and `feed.py` do; `aio.py` is its
twin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import grpc

from bptt.v1 import forecast_pb2_grpc, session_pb2_grpc
from bptt_client import answers, calls, errors
from bptt_client.answers import Known
from bptt_client.feed import Feed, Resume
from bptt_client.replies import BatchResult, Forecast, Reply, Session, Summary
from bptt_client.rows import Row, Time
from bptt_client.stream import Stream

T = TypeVar("T")


class Client:
    """A connection to one server; thread-safe. Close it, or use it in a `with`.

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
            self._channel = grpc.insecure_channel(target, options=calls.CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=calls.CHANNEL_OPTIONS)
        sessions = session_pb2_grpc.SessionServiceStub(self._channel)
        forecasts = forecast_pb2_grpc.ForecastServiceStub(self._channel)
        self._methods: dict[str, Any] = {**vars(sessions), **vars(forecasts)}
        self._timeout_s, self._resume = timeout_s, resume or Resume()
        self._closed = False

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Watches end; calls and streams still running, and new ones, raise ClientClosed."""
        self._closed = True
        self._channel.close()

    def create_session(
        self,
        session_id: str,
        *,
        features: Sequence[str],
        targets: Sequence[str] | None = None,
        horizon: int | None = None,
        seasons: Sequence[int] | None = None,
        period_ns: int | None = None,
        coverage: float | None = None,
        learner: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        learning: bool | None = None,
        credit_events: int | None = None,
    ) -> SessionHandle:
        """Makes a session, or finds the one made by the same call. None is the server's default for every field.

        `learner` is a mapping, e.g. {"cell": "gru", "hidden": 16}. Raises SessionExists if the id is taken by another
        configuration, InvalidRequest for a value out of range.
        """
        configuration = calls.configuration(features, targets, horizon, seasons, period_ns, coverage, learner)
        call = calls.create_session(session_id, configuration, tags, learning, credit_events)
        return self._handle(self._run(call))

    def session(self, session_id: str) -> SessionHandle:
        """A handle on a session that exists. Raises SessionNotFound."""
        return self._handle(self.get_session(session_id))

    def get_session(self, session_id: str) -> Session:
        """The session with its counters and scores. Raises SessionNotFound."""
        return self._run(calls.get_session(session_id))

    def list_sessions(self, *, tags: Mapping[str, str] | None = None) -> Iterator[Session]:
        """Sessions in order of id, without scores; only those that have all these tags. Pages are fetched as needed."""
        token: str | None = ""
        while token is not None:
            page, following = self._run(calls.list_sessions(tags, token))
            yield from page
            token = following or None

    def update_session(self, session_id: str, *, session_uid: str = "", **changes: Any) -> Session:
        """Changes learning, learning_rate, tags or credit_events; None returns one to its default."""
        return self._run(calls.update_session(session_id, session_uid, changes))

    def delete_session(self, session_id: str, *, session_uid: str = "") -> None:
        """Removes a session and what is stored of it. Raises SessionNotFound."""
        self._run(calls.delete_session(session_id, session_uid))

    def _handle(self, session: Session) -> SessionHandle:
        return SessionHandle(self, Known.of(session))

    def _run(self, call: calls.Call[T], known: Known | None = None) -> T:
        try:
            answer = self._begin(call.method, call.request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            failed = answers.failure(error, known, call.prefixes)
            raise errors.ClientClosed() if self._closed and failed.code == "CANCELLED" else failed from error
        return call.decode(answer)

    def _begin(self, method: str, request: Any, **options: Any) -> Any:
        try:
            return self._methods[method](request, **options)
        except ValueError as error:  # gRPC's word for a closed channel
            raise errors.ClientClosed from error


class SessionHandle:
    """One session as its writer sees it: events are numbered from `last_sequence`, and only one writer is meant."""

    def __init__(self, client: Client, known: Known) -> None:
        self._client, self._known = client, known
        self._one_at_a_time = threading.Lock()

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
        return self._known.features

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the forecast features, in the order of every reply."""
        return self._known.targets

    @property
    def horizon(self) -> int:
        """How many events ahead a forecast reaches."""
        return self._known.horizon

    @property
    def last_sequence(self) -> int:
        """Sequence of the last event acknowledged to this handle."""
        return self._known.last_sequence

    def refresh(self) -> Session:
        """The session as it is now; the handle adopts its uid and last sequence."""
        session = self._client.get_session(self.session_id)
        self._known = Known.of(session)
        return session

    def learn_one(self, row: Row, *, timestamp: Time | None = None) -> Reply:
        """Sends one event and waits for its reply. After a timeout or a cancellation the server may have taken it or
        not: repeating the same row is safe; before any other, call refresh().
        """
        with self._one_at_a_time:
            return self._client._run(calls.learn_one(self._known, row, timestamp), self._known)

    def learn_many(
        self,
        rows: Iterable[Row],
        *,
        timestamps: Iterable[Time] | None = None,
        start: int = 0,
        batch: int = calls.DEFAULT_BATCH,
        reply: calls.ReplyMode = "last",
        on_reply: Callable[[Reply], object] | None = None,
        on_batch: Callable[[BatchResult], object] | None = None,
        in_flight: int | None = None,
    ) -> Summary:
        """Streams rows in batches until all are acknowledged, resuming by itself; the first `start` are left out.

        `reply` says which events are answered: every one, the last of each batch, or none; `on_reply` gets those
        replies, `on_batch` whole batches. At most `in_flight` events are unacknowledged at a time (None: the
        server's credit). Where it ends early, the server may have taken more than was acknowledged: call refresh()
        before sending other rows. Raises InvalidRequest with the `row` that was refused; those before its batch are
        learned.
        """
        tally = calls.Tally(self.last_sequence, on_reply, on_batch)
        with self._stream(reply, batch, False, in_flight, start) as stream:
            for row, timestamp in calls.paired(rows, timestamps, start):
                stream.send(row, timestamp)
                tally.add(stream.results())
            stream.flush()
        tally.add(stream.results())
        return tally.summary(self.last_sequence, stream.reconnects)

    def stream(self, *, reply: calls.ReplyMode = "every", batch: int = calls.DEFAULT_BATCH) -> Stream:
        """A live feed, to be used in a `with`: an event leaves at once while nothing is in flight, else in batches."""
        return self._stream(reply, batch, True, None, 0)

    def forecast(self, horizon: int | None = None) -> Forecast:
        """The forecast after the last acknowledged event. Changes nothing. Raises NoEvents before the first."""
        return self._client._run(calls.forecast(self._known, horizon))

    def watch(self) -> Watch:
        """Outcomes as they are acknowledged, whoever sends the events. Iterate; close it, or use it in a `with`."""
        return Watch(self._client, self._known)

    def update(self, **changes: Any) -> Session:
        """Changes learning, learning_rate, tags or credit_events of this incarnation; None returns one to its
        default.
        """
        return self._client.update_session(self.session_id, session_uid=self.uid, **changes)

    def delete(self) -> None:
        """Removes this incarnation of the session."""
        self._client.delete_session(self.session_id, session_uid=self.uid)

    def _stream(self, reply: calls.ReplyMode, batch: int, live: bool, in_flight: int | None, first_row: int) -> Stream:
        feed = Feed(self._known, reply, batch, live, in_flight, self._client._resume, first_row)
        return Stream(partial(self._client._begin, "Stream"), feed)


class Watch:
    """Replies of a session as they are acknowledged. `session` is its state at the start, `dropped_events` how many
    outcomes the server dropped because this reader was too slow.
    """

    def __init__(self, client: Client, known: Known) -> None:
        self._call, self._reading = client._begin("Watch", calls.watch(known)), calls.WatchReading(known)
        self._client = client
        self._closed = False

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def session(self) -> Session | None:
        """The session at the start of the watch; None until the first message."""
        return self._reading.session

    @property
    def dropped_events(self) -> int:
        """Outcomes the server dropped so far because this reader was too slow."""
        return self._reading.dropped_events

    def __iter__(self) -> Iterator[Reply]:
        try:
            for message in self._call:
                yield from self._reading.read(message)
        except grpc.RpcError as error:
            if not (self._closed or self._client._closed):
                raise answers.failure(error) from error

    def close(self) -> None:
        """Ends the watch."""
        self._closed = True
        self._call.cancel()
