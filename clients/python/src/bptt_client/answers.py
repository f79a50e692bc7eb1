"""How answers are read: messages and failed calls in, plain values and exceptions out. Does no I/O."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Final, TypeVar, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from bptt.v1 import error_pb2, forecast_pb2, session_pb2
from bptt_client import config, errors
from bptt_client.replies import UPDATE_NAMES, BatchResult, Outcomes, Scores, Session, UpdateCounts

T = TypeVar("T")
_IN_BATCH: Final = re.compile(r"values\[(\d+)\]\[(\d+)\]")


@dataclass(slots=True)
class Known:
    """What a handle knows about its session; `last_sequence` moves on with every acknowledgement."""

    session_id: str
    uid: str
    features: tuple[str, ...]
    targets: tuple[str, ...]
    horizon: int
    last_sequence: int

    @classmethod
    def of(cls, session: Session) -> Known:
        """The facts a handle needs of a session."""
        return cls(
            session.session_id, session.uid, session.features, session.targets, session.horizon, session.last_sequence
        )


def read_session(message: session_pb2.Session) -> Session:
    """A session as plain values."""
    counts = message.updates
    return Session(
        session_id=message.session_id,
        uid=message.uid,
        config=config.as_mapping(message.config),
        tags=dict(message.tags),
        learning=message.learning,
        credit_events=message.limits.credit_events,
        create_time=message.create_time.ToDatetime(UTC),
        last_sequence=message.last_sequence,
        last_timestamp_ns=message.last_timestamp_ns if message.HasField("last_timestamp_ns") else None,
        period_ns=message.period_ns if message.HasField("period_ns") else None,
        updates=UpdateCounts(counts.applied, counts.clipped, counts.no_target, counts.non_finite, counts.learning_off),
        scores=_read_scores(message.scores, len(message.config.targets)) if message.HasField("scores") else None,
        backend=message.backend,
        parameters=message.parameters,
    )


def _read_scores(message: session_pb2.Scores, targets: int) -> Scores:
    def nested(values: Sequence[T]) -> list[list[T]]:
        return [list(values[i : i + targets]) for i in range(0, len(values), targets)]

    return Scores(
        count=nested(message.count),
        mse=nested(message.mse),
        mae=nested(message.mae),
        persistence_mse=nested(message.persistence_mse),
        persistence_mae=nested(message.persistence_mae),
        seasonal_mse=nested(message.seasonal_mse) or None,
        seasonal_mae=nested(message.seasonal_mae) or None,
        coverage=nested(message.coverage),
        width=nested(message.width),
    )


def read_result(message: forecast_pb2.BatchResult, known: Known, round_trip_s: float) -> BatchResult:
    """The answer to one batch."""
    outcomes = read_outcomes(message.outcomes, known.targets) if message.HasField("outcomes") else None
    return BatchResult(message.first_sequence, message.last_sequence, message.duplicates, outcomes, round_trip_s)


def read_outcomes(message: forecast_pb2.Outcomes, targets: tuple[str, ...]) -> Outcomes:
    """Outcomes by column. Raises ProtocolError if the columns do not fit together."""
    cells = message.count * message.horizon * message.targets
    forecasts = [array("d", column) for column in (message.mean, message.lower, message.upper)]
    scalars = [array("d", c) for c in (message.anomaly_score, message.loss, message.gradient_norm, message.clip_scale)]
    results = message.update_results
    counts = {len(column) for column in scalars} | {len(results)}
    cell_counts = {len(column) for column in forecasts}
    if cell_counts != {cells} or counts != {message.count} or message.targets != len(targets):
        raise errors.ProtocolError("the columns of an answer do not fit together", code="INTERNAL")
    names = tuple(UPDATE_NAMES[number - 1] if 1 <= number <= len(UPDATE_NAMES) else "not_due" for number in results)
    mean, lower, upper = forecasts
    anomaly, loss, norm, scale = scalars
    return Outcomes(
        message.first_sequence, targets, message.horizon, mean, lower, upper, anomaly, names, loss, norm, scale
    )


def failure(error: grpc.RpcError, known: Known | None = None, prefixes: Sequence[str] = ()) -> errors.BpttError:
    """The exception for a call that ended badly, from its status and `google.rpc` details; `prefixes` as in `named`."""
    call = cast(grpc.Call, error)
    code, message = call.code().name, call.details() or ""
    reason, metadata, delay = "", dict[str, str](), None
    try:
        status = rpc_status.from_call(call)
    except ValueError:
        status = None
    for detail in status.details if status is not None else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    return named(rewound(errors.from_facts(code, reason, message, metadata, delay), known), prefixes)


def stream_failure(error: error_pb2.Error) -> errors.BpttError:
    """The exception for a failure reported inside a stream."""
    code = errors.CODES[error.code] if 0 <= error.code < len(errors.CODES) else "UNKNOWN"
    delay = error.retry_delay.ToTimedelta().total_seconds() if error.HasField("retry_delay") else None
    return errors.from_facts(code, error.reason, error.message, error.metadata, delay)


def located(error: errors.BpttError, known: Known, first_sequence: int, first_row: int, count: int) -> errors.BpttError:
    """The same error of a batch of `count` events, the first with `first_sequence` and the caller's `first_row`, with
    the place of a refused value in the caller's numbering.
    """
    if isinstance(error, errors.InvalidRequest):
        where = f"rows {first_row}..{first_row + count - 1}"
        place = _IN_BATCH.fullmatch(error.field)
        text = str(error)
        if place is not None:
            error.row, error.sequence = first_row + int(place[1]), first_sequence + int(place[1])
            where = f"row {error.row} (sequence {error.sequence})"
            text = text.replace(place[0], known.features[int(place[2])])
        error.args = (f"{where}: {text}",)
    return error


def named(error: errors.BpttError, prefixes: Sequence[str]) -> errors.BpttError:
    """The same error with the refused field under the caller's name for it: its path without one of `prefixes`."""
    prefix = next((p for p in prefixes if isinstance(error, errors.InvalidRequest) and error.field.startswith(p)), "")
    if prefix:
        path = error.metadata["field"]
        error.metadata["field"] = path.removeprefix(prefix)
        error.args = (str(error).replace(path, error.metadata["field"]),)
    return error


def rewound(error: errors.BpttError, known: Known | None) -> errors.BpttError:
    """A gap that the server fell into by losing acknowledged events is not the caller's gap: SessionRewound instead."""
    if known is not None and isinstance(error, errors.SequenceGap):
        at = error.last_sequence
        if at is not None and at < known.last_sequence:
            return errors.SessionRewound(known.session_id, known.last_sequence, at)
    return error
