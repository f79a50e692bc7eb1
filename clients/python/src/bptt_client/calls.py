"""What to ask: every request as a `Call` that knows its method and how its answer is read. Does no I/O.

Both faces of the client run these and decide nothing themselves. Answers are read in `answers.py`; the stream that
resumes by itself is decided in `feed.py`.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, Generic, Literal, TypeVar

from google.protobuf.message import Message

from bptt.v1 import forecast_pb2, session_pb2
from bptt_client import config, errors
from bptt_client.answers import Known, read_outcomes, read_result, read_session
from bptt_client.replies import BatchResult, Forecast, Reply, Session, Summary
from bptt_client.rows import Row, Time, encode_row, encode_time

T = TypeVar("T")
ReplyMode = Literal["every", "last", "none"]
REPLY_MODES: Final = {
    "every": forecast_pb2.REPLY_MODE_EVERY,
    "last": forecast_pb2.REPLY_MODE_LAST,
    "none": forecast_pb2.REPLY_MODE_NONE,
}
DEFAULT_TIMEOUT_S: Final = 60.0
DEFAULT_BATCH: Final = 64
PAGE_SIZE: Final = 100

# Ingest may be repeated: the server recognises the events. Streams resume by themselves, so gRPC must leave them alone.
_RETRIED: Final = {
    "bptt.v1.SessionService": ("CreateSession", "GetSession", "ListSessions", "UpdateSession", "DeleteSession"),
    "bptt.v1.ForecastService": ("Ingest", "Forecast"),
}
_RETRY_POLICY: Final = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],  # the latter: see errors.BY_CODE
}
_SERVICE_CONFIG: Final = {
    "methodConfig": [
        {"name": [{"service": service, "method": method} for method in methods], "retryPolicy": _RETRY_POLICY}
        for service, methods in _RETRIED.items()
    ]
}
CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary request: the method's name, the message, how to read the answer, and what stands before the caller's
    names of the fields in the message's.
    """

    method: str
    request: Message
    decode: Callable[[Any], T]
    prefixes: tuple[str, ...] = ()


def configuration(
    features: Sequence[str],
    targets: Sequence[str] | None,
    horizon: int | None,
    seasons: Sequence[int] | None,
    period_ns: int | None,
    coverage: float | None,
    learner: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The fields of a session's configuration by name; None leaves one to the server."""
    return {
        "features": features,
        "targets": targets,
        "horizon": horizon,
        "seasons": seasons,
        "period_ns": period_ns,
        "coverage": coverage,
        "learner": learner,
    }


def create_session(
    session_id: str,
    configuration: Mapping[str, Any],
    tags: Mapping[str, str] | None,
    learning: bool | None,
    credit_events: int | None,
) -> Call[Session]:
    """Makes the session, or finds the one that was made by the same request."""
    request = session_pb2.CreateSessionRequest(
        session_id=session_id, config=config.session_config(configuration), tags=tags
    )
    if learning is not None:
        request.learning = learning
    if credit_events is not None:
        request.limits.credit_events = credit_events
    return Call("CreateSession", request, lambda answer: read_session(answer.session), ("config.", "limits."))


def get_session(session_id: str) -> Call[Session]:
    """One session with its counters and scores."""
    request = session_pb2.GetSessionRequest(session_id=session_id)
    return Call("GetSession", request, lambda answer: read_session(answer.session))


def list_sessions(tags: Mapping[str, str] | None, page_token: str) -> Call[tuple[list[Session], str]]:
    """One page of sessions, and the token of the next ("": this was the last)."""
    request = session_pb2.ListSessionsRequest(page_size=PAGE_SIZE, page_token=page_token, tags=tags)
    return Call("ListSessions", request, lambda a: ([read_session(s) for s in a.sessions], a.next_page_token))


def update_session(session_id: str, uid: str, changes: Mapping[str, Any]) -> Call[Session]:
    """Changes the fields named in `changes` (learning, learning_rate, tags, credit_events); None returns to the
    default.
    """
    request = session_pb2.UpdateSessionRequest(session_id=session_id, session_uid=uid)
    for name, value in changes.items():
        if name not in ("learning", "learning_rate", "tags", "credit_events"):
            raise ValueError(f"{name!r} cannot change; allowed: learning, learning_rate, tags, credit_events")
        request.update_mask.paths.append("limits" if name == "credit_events" else name)
        if value is None:
            continue
        if name == "tags":
            request.changes.tags.update(value)
        elif name == "credit_events":
            request.changes.limits.credit_events = value
        else:
            setattr(request.changes, name, value)
    prefixes = ("changes.limits.", "changes.", "config.learner.", "learner.")
    return Call("UpdateSession", request, lambda answer: read_session(answer.session), prefixes)


def delete_session(session_id: str, uid: str) -> Call[None]:
    """Removes the session (with a `uid`: only that incarnation)."""
    request = session_pb2.DeleteSessionRequest(session_id=session_id, session_uid=uid)
    return Call("DeleteSession", request, lambda answer: None)


def learn_one(known: Known, row: Row, timestamp: Time | None) -> Call[Reply]:
    """One event after the last acknowledged one. The answer moves `known` on."""
    values, time = encode_row(row, known.features), encode_time(timestamp)
    batch = event_batch(known.uid, known.last_sequence + 1, values, [] if time is None else [time])
    request = forecast_pb2.IngestRequest(
        session_id=known.session_id, batch=batch, reply_mode=forecast_pb2.REPLY_MODE_LAST
    )

    def decode(answer: Any) -> Reply:
        result = read_result(answer.result, known, 0.0)
        known.last_sequence = max(known.last_sequence, batch.first_sequence)
        if result.outcomes is None or len(result.outcomes) == 0:
            raise errors.ProtocolError("the answer to one event carries no outcome", code="INTERNAL")
        return result.outcomes[-1]

    return Call("Ingest", request, decode)


def forecast(known: Known, horizon: int | None) -> Call[Forecast]:
    """The forecast after the last acknowledged event."""
    request = forecast_pb2.ForecastRequest(session_id=known.session_id, session_uid=known.uid, horizon=horizon)

    def decode(answer: Any) -> Forecast:
        made = read_outcomes(answer.outcome, known.targets)[0].forecast
        time = answer.timestamp_ns if answer.HasField("timestamp_ns") else None
        return Forecast(made.sequence, made.targets, made.mean, made.lower, made.upper, time)

    return Call("Forecast", request, decode)


def watch(known: Known) -> forecast_pb2.WatchRequest:
    """Request of a watch."""
    return forecast_pb2.WatchRequest(session_id=known.session_id)


def event_batch(uid: str, first_sequence: int, values: array[float], times: Sequence[int]) -> forecast_pb2.EventBatch:
    """Consecutive events by column."""
    return forecast_pb2.EventBatch(session_uid=uid, first_sequence=first_sequence, timestamps_ns=times, values=values)


def paired(rows: Iterable[Row], timestamps: Iterable[Time] | None, start: int) -> Iterator[tuple[Row, Time | None]]:
    """Rows with their times, the first `start` left out. Raises ValueError if the two differ in length, before the
    first where both are known.
    """
    pairs = ((row, None) for row in rows) if timestamps is None else _zipped(rows, timestamps)
    for number, pair in enumerate(pairs):
        if number >= start:
            yield pair


def _zipped(rows: Iterable[Row], timestamps: Iterable[Time]) -> Iterator[tuple[Row, Time]]:
    if isinstance(rows, Sized) and isinstance(timestamps, Sized) and len(rows) != len(timestamps):
        raise ValueError(f"{len(timestamps)} timestamps for {len(rows)} rows; allowed: one per row")
    missing: Any = object()
    for number, (row, timestamp) in enumerate(zip_longest(rows, timestamps, fillvalue=missing)):
        if timestamp is missing:
            raise ValueError(f"{number} timestamps for more rows than {number}; allowed: one per row")
        if row is missing:
            raise ValueError(f"more timestamps than {number} for {number} rows; allowed: one per row")
        yield row, timestamp


async def paired_async(
    rows: Iterable[Row] | AsyncIterable[Row], timestamps: Iterable[Time] | None, start: int
) -> AsyncIterator[tuple[Row, Time | None]]:
    """As `paired`, for rows that may arrive asynchronously."""
    if not isinstance(rows, AsyncIterable):
        for pair in paired(rows, timestamps, start):
            yield pair
        return
    if timestamps is not None:
        raise TypeError(
            "timestamps with rows that arrive one by one; allowed: stream(), sending each row with its time"
        )
    number = 0
    async for row in rows:
        if number >= start:
            yield row, None
        number += 1


class Tally:
    """Adds up the results of one `learn_many` and hands them to its callbacks."""

    def __init__(
        self,
        first_sequence: int,
        on_reply: Callable[[Reply], object] | None,
        on_batch: Callable[[BatchResult], object] | None,
    ) -> None:
        self._first = first_sequence
        self._on_reply, self._on_batch = on_reply, on_batch
        self._duplicates = 0
        self._last_reply: Reply | None = None

    def add(self, results: Sequence[BatchResult]) -> None:
        """Takes what was acknowledged since the last time."""
        for result in results:
            self._duplicates += result.duplicates
            if self._on_batch is not None:
                self._on_batch(result)
            if result.outcomes is None or not len(result.outcomes):
                continue
            self._last_reply = result.outcomes[-1]
            if self._on_reply is not None:
                for reply in result.outcomes:
                    self._on_reply(reply)

    def summary(self, last_sequence: int, reconnects: int) -> Summary:
        """The whole of it, now that everything up to `last_sequence` is acknowledged."""
        return Summary(last_sequence - self._first, self._duplicates, last_sequence, self._last_reply, reconnects)


class WatchReading:
    """Reads the messages of one watch: the session first, then outcomes."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self.session: Session | None = None
        self.dropped_events = 0

    def read(self, message: forecast_pb2.WatchResponse) -> Sequence[Reply]:
        """The replies of one message, none for the session's."""
        self.dropped_events += message.dropped_events
        if message.WhichOneof("response") == "session":
            self.session = read_session(message.session)
            return ()
        return list(read_outcomes(message.outcomes, self._known.targets))
