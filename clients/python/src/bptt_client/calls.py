"""What to ask: every request as a `Call` that knows its method and how its answer is read. Does no I/O.

Both faces of the client run these and decide nothing themselves. Answers are read in `answers.py`; the stream that
resumes by itself is decided in `feed.py`.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Literal, SupportsIndex, TypedDict, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from bptt.v1 import forecast_pb2, session_pb2
from bptt_client import config, errors
from bptt_client.answers import Known, Numbering, read_outcomes, read_result, read_session
from bptt_client.events import Given, gathered
from bptt_client.replies import BatchResult, Forecast, LabelResult, Reply, Summary, WarmStartResult
from bptt_client.rows import Row, encode_row
from bptt_client.session import Session

T = TypeVar("T")
ReplyMode = Literal["every", "last", "none"]
REPLY_MODES: Final = {
    "every": forecast_pb2.REPLY_MODE_EVERY,
    "last": forecast_pb2.REPLY_MODE_LAST,
    "none": forecast_pb2.REPLY_MODE_NONE,
}
WarmStartUpdates = Literal["per_sequence", "per_pass"]
WARM_START_UPDATES: Final = {
    "per_sequence": forecast_pb2.WARM_START_UPDATES_PER_SEQUENCE,
    "per_pass": forecast_pb2.WARM_START_UPDATES_PER_PASS,
}
ExportFormat = Literal["checkpoint", "safetensors"]
EXPORT_FORMATS: Final = {
    "checkpoint": session_pb2.EXPORT_FORMAT_CHECKPOINT,
    "safetensors": session_pb2.EXPORT_FORMAT_SAFETENSORS,
}
DEFAULT_TIMEOUT_S: Final = 60.0
DEFAULT_BATCH: Final = 64
PAGE_SIZE: Final = 100
PIECE_BYTES: Final = 64 * 1024
MOST_LABELLED: Final = 256  # events in one call

# What may be repeated: the server recognises events and labels that come again. Not a warm start, a fork or an import,
# which would find what the first one did. Streams resume by themselves, so gRPC must leave them alone.
_RETRIED: Final = {
    "bptt.v1.SessionService": (
        "CreateSession", "GetSession", "ListSessions", "UpdateSession", "DeleteSession", "ExportSession",
    ),
    "bptt.v1.ForecastService": ("Ingest", "Label", "Forecast"),
}  # fmt: skip
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


class Configuration(TypedDict, total=False):
    """The fields of a session's configuration beside its features; None leaves one to the server. Their meanings,
    ranges and defaults are those of `SessionConfig` in `bptt/v1/config.proto`.
    """

    targets: Sequence[str] | None
    horizon: int | None
    seasons: Sequence[int] | None
    period_ns: int | None
    coverage: float | None
    learner: Mapping[str, Any] | None
    task: Literal["forecast", "regress", "classify"] | None
    labels: Sequence[str] | None
    categories: Mapping[str, Sequence[str] | int] | None
    label_age: int | None
    scaling: Literal["online", "fixed"] | None
    means: Sequence[float] | None
    deviations: Sequence[float] | None
    learners: Sequence[Mapping[str, Any]] | None
    seasonality: Literal["found", "given", "off"] | None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request: the method's name, the message (or messages, where the method takes a stream of them), how to read
    the answer (`in_pieces`: all of the answers), what stands before the caller's names of the fields in the message's,
    and how the caller numbers the events in it.
    """

    method: str
    request: Message | Iterator[Message]
    decode: Callable[[Any], T]
    prefixes: tuple[str, ...] = ()
    numbering: Numbering | None = None
    in_pieces: bool = False


def create_session(
    session_id: str,
    configuration: Mapping[str, Any],
    tags: Mapping[str, str] | None,
    learning: bool | None,
    credit_events: int | None,
) -> Call[Session]:
    """Makes the session, or finds the one that was made by the same request."""
    request = session_pb2.CreateSessionRequest(session_id=session_id, config=config.session_config(configuration))
    _describe(request, tags, learning, credit_events)
    return Call("CreateSession", request, lambda answer: read_session(answer.session), ("config.", "limits."))


def _describe(
    message: session_pb2.CreateSessionRequest | session_pb2.ImportTerms,
    tags: Mapping[str, str] | None,
    learning: bool | None,
    credit_events: int | None,
) -> None:
    """Sets, in place, what a new session is beside its configuration."""
    message.tags.update(tags or {})
    if learning is not None:
        message.learning = learning
    if credit_events is not None:
        message.limits.credit_events = credit_events


def export_session(session_id: str, uid: str, file_format: ExportFormat) -> Call[bytes]:
    """The session, or its network alone, as the bytes of a file."""
    request = session_pb2.ExportSessionRequest(
        session_id=session_id, session_uid=uid, format=_choice("format", file_format, EXPORT_FORMATS)
    )
    return Call("ExportSession", request, lambda pieces: b"".join(p.data for p in pieces), in_pieces=True)


def import_session(
    data: bytes,
    session_id: str,
    file_format: ExportFormat,
    configuration: Mapping[str, Any],
    tags: Mapping[str, str] | None,
    learning: bool | None,
    credit_events: int | None,
) -> Call[Session]:
    """Makes a session of the bytes of a file; of `configuration` only what is not None is sent. Raises TypeError."""
    if not isinstance(data, bytes | bytearray):
        raise TypeError(f"data is {data!r:.80}; allowed: bytes, the contents of a file")
    terms = session_pb2.ImportTerms(session_id=session_id, format=_choice("format", file_format, EXPORT_FORMATS))
    _describe(terms, tags, learning, credit_events)
    if any(value is not None for value in configuration.values()):
        terms.config.CopyFrom(config.session_config(configuration))

    def requests() -> Iterator[Message]:
        yield session_pb2.ImportSessionRequest(terms=terms)
        for start in range(0, len(data), PIECE_BYTES):
            yield session_pb2.ImportSessionRequest(data=bytes(data[start : start + PIECE_BYTES]))

    prefixes = ("terms.config.", "terms.limits.", "terms.", "config.", "limits.")
    return Call("ImportSession", requests(), lambda answer: read_session(answer.session), prefixes)


def _choice(name: str, value: str, choices: Mapping[str, T]) -> T:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(choices)}")
    return choices[value]


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
    _change(request, request.update_mask, changes)
    return Call("UpdateSession", request, lambda answer: read_session(answer.session), _CHANGED)


def fork_session(session_id: str, uid: str, fork_id: str, changes: Mapping[str, Any]) -> Call[Session]:
    """Copies the session to the free id `fork_id`, with `changes` as in `update_session`."""
    request = session_pb2.ForkSessionRequest(session_id=session_id, session_uid=uid, fork_id=fork_id)
    _change(request, request.fork_mask, changes)
    return Call("ForkSession", request, lambda answer: read_session(answer.session), _CHANGED)


_CHANGED: Final = ("changes.limits.", "changes.", "config.learner.", "learner.")


def _change(
    request: session_pb2.UpdateSessionRequest | session_pb2.ForkSessionRequest,
    mask: FieldMask,
    changes: Mapping[str, Any],
) -> None:
    """Sets, in place, what is to be different, and the mask that says so. Raises ValueError."""
    for name, value in changes.items():
        if name not in ("learning", "learning_rate", "tags", "credit_events"):
            raise ValueError(f"{name!r} cannot change; allowed: learning, learning_rate, tags, credit_events")
        mask.paths.append("limits" if name == "credit_events" else name)
        if value is None:
            continue
        if name == "tags":
            request.changes.tags.update(value)
        elif name == "credit_events":
            request.changes.limits.credit_events = value
        else:
            setattr(request.changes, name, value)


def delete_session(session_id: str, uid: str) -> Call[None]:
    """Removes the session (with a `uid`: only that incarnation)."""
    request = session_pb2.DeleteSessionRequest(session_id=session_id, session_uid=uid)
    return Call("DeleteSession", request, lambda answer: None)


def learn_one(known: Known, given: Given) -> Call[Reply]:
    """One event after the last acknowledged one. The answer moves `known` on."""
    batch = gathered(known, known.last_sequence + 1, [given])
    request = forecast_pb2.IngestRequest(
        session_id=known.session_id, batch=batch.message(known.uid), reply_mode=forecast_pb2.REPLY_MODE_LAST
    )

    def decode(answer: Any) -> Reply:
        result = read_result(answer.result, known, 0.0)
        known.last_sequence = max(known.last_sequence, batch.first)
        if result.outcomes is None or len(result.outcomes) == 0:
            raise errors.ProtocolError("the answer to one event carries no outcome", code="INTERNAL")
        return result.outcomes[-1]

    return Call("Ingest", request, decode, numbering=Numbering(sequences=[batch.first]))


def label(known: Known, labels: Mapping[int, Row]) -> list[Call[LabelResult]]:
    """Labels of events by sequence, in as many calls as their number needs. Raises TypeError or ValueError."""
    if not known.labels.names:
        raise ValueError("labels are given; allowed: none, as the session has no labels")
    for sequence in labels:
        _whole("sequence", sequence, 2**64 - 1)
    sequences, most = sorted(labels), min(MOST_LABELLED, known.credit_events)
    return [_label_some(known, labels, sequences[start : start + most]) for start in range(0, len(sequences), most)]


def _whole(name: str, value: object, most: int) -> None:
    """Raises TypeError or ValueError unless the contract's type can hold `value`; its range is the server's to say."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} is {value!r}; allowed: a whole number")
    if not 0 <= operator.index(value) <= most:
        raise ValueError(f"{name} is {value!r}; allowed: 0..{most} at most")


def _label_some(known: Known, labels: Mapping[int, Row], sequences: list[int]) -> Call[LabelResult]:
    request = forecast_pb2.LabelRequest(session_id=known.session_id, session_uid=known.uid, sequences=sequences)
    for sequence in sequences:
        request.labels.extend(encode_row(labels[sequence], known.labels))
    return Call(
        "Label",
        request,
        lambda answer: LabelResult(answer.accepted, answer.duplicates, answer.trainable),
        numbering=Numbering(sequences),
    )


def total(results: Sequence[LabelResult]) -> LabelResult:
    """What several calls did with labels, together."""
    return LabelResult(
        sum(result.accepted for result in results),
        sum(result.duplicates for result in results),
        sum(result.trainable for result in results),
    )


def warm_start(
    known: Known, history: Iterable[Given], passes: int | None, updates: WarmStartUpdates | None
) -> Call[WarmStartResult]:
    """Trains a session that has had no event on a history."""
    if passes is not None:
        _whole("passes", passes, 2**32 - 1)
    batch = gathered(known, 1, history)
    request = forecast_pb2.WarmStartRequest(
        session_id=known.session_id, session_uid=known.uid, history=batch.message(""), passes=passes
    )
    if updates is not None:
        request.updates = _choice("updates", updates, WARM_START_UPDATES)
    return Call(
        "WarmStart",
        request,
        lambda answer: WarmStartResult(list(answer.loss), answer.applied),
        ("history.",),
        Numbering(rows=range(batch.count)),
    )


def forecast(known: Known, horizon: int | None) -> Call[Forecast]:
    """The forecast after the last acknowledged event."""
    request = forecast_pb2.ForecastRequest(session_id=known.session_id, session_uid=known.uid, horizon=horizon)

    def decode(answer: Any) -> Forecast:
        time = answer.timestamp_ns if answer.HasField("timestamp_ns") else None
        return replace(read_outcomes(answer.outcome, known)[0].forecast, timestamp_ns=time)

    return Call("Forecast", request, decode)


def watch(known: Known) -> forecast_pb2.WatchRequest:
    """Request of a watch."""
    return forecast_pb2.WatchRequest(session_id=known.session_id)


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
        return list(read_outcomes(message.outcomes, self._known))
