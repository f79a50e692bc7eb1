"""How answers are read: messages and failed calls in, plain values and exceptions out. Does no I/O."""

from __future__ import annotations

import dataclasses
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Final, NamedTuple, TypeVar, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from bptt.v1 import error_pb2, forecast_pb2, session_pb2
from bptt_client import config, errors
from bptt_client.replies import RESET_NAMES, SENSOR_NAMES, UPDATE_NAMES, BatchResult, LearnerReset, Outcomes
from bptt_client.rows import Channels
from bptt_client.session import Expert, Scores, Session, UpdateCounts

T = TypeVar("T")
_BY_EVENT: Final = (
    "anomaly_score", "loss", "gradient_norm", "clip_scale", "saturation", "update_ratio", "anomaly_likelihood",
)  # fmt: skip
_FLAGS: Final = ("drift", "warming_up")  # by event, too
_BY_PAIR: Final = ("mean", "lower", "upper")
_IN_BATCH: Final = re.compile(r"(values|labels)\[(\d+)\]\[(\d+)\]")


@dataclass(slots=True)
class Known:
    """What a handle knows about its session; `last_sequence` moves on with every acknowledgement. `symbols` are those
    of the one categorical target, `levels` those of the quantiles.
    """

    session_id: str
    uid: str
    features: Channels
    labels: Channels
    targets: tuple[str, ...]
    symbols: tuple[str, ...]
    levels: tuple[float, ...]
    horizon: int
    credit_events: int
    last_sequence: int

    @classmethod
    def of(cls, session: Session) -> Known:
        """The facts a handle needs of a session."""
        symbols = session.config.get("categories", {})
        positions = {name: {symbol: i for i, symbol in enumerate(own)} for name, own in symbols.items()}
        return cls(
            session_id=session.session_id,
            uid=session.uid,
            features=Channels(session.features, positions),
            labels=Channels(session.labels, positions, "label"),
            targets=session.targets,
            symbols=tuple(symbols.get(session.targets[0], ())),
            levels=tuple(session.config.get("learner", {}).get("quantiles", ())),
            horizon=session.horizon,
            credit_events=session.credit_events,
            last_sequence=session.last_sequence,
        )


class Numbering(NamedTuple):
    """How the caller numbers the events of a request, by position: sequences, rows, or both. `whole`: a refusal that
    names no event is said of all of them.
    """

    sequences: Sequence[int] = ()
    rows: Sequence[int] = ()
    whole: bool = False

    def words(self, position: int) -> str:
        """The place of one event."""
        if not self.rows:
            return f"sequence {self.sequences[position]}"
        return f"row {self.rows[position]}" + (f" (sequence {self.sequences[position]})" if self.sequences else "")


def read_session(message: session_pb2.Session) -> Session:
    """A session as plain values."""
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
        updates=_read_counts(message.updates),
        scores=_read_scores(message) if message.HasField("scores") else None,
        backend=message.backend,
        parameters=message.parameters,
        experts=tuple(map(_read_expert, message.experts)),
        seasons=tuple(message.seasons),
        drifts=message.drifts,
    )


def _read_counts(message: session_pb2.UpdateCounts) -> UpdateCounts:
    return UpdateCounts(**{f.name: getattr(message, f.name) for f in dataclasses.fields(UpdateCounts)})


def _read_expert(message: session_pb2.Expert) -> Expert:
    learns = message.HasField("updates")
    return Expert(
        name=message.name,
        weight=message.weight,
        relative_error=message.relative_error,
        updates=_read_counts(message.updates) if learns else None,
        rate_factor=message.rate_factor if learns else None,
    )


def _read_scores(session: session_pb2.Session) -> Scores:
    message, targets = session.scores, len(session.config.labels or session.config.targets)

    def nested(values: Sequence[T]) -> list[list[T]]:
        return [list(values[i : i + targets]) for i in range(0, len(values), targets)]

    means = (f.name for f in dataclasses.fields(Scores) if f.name != "count")
    return Scores(count=nested(message.count), **{name: nested(getattr(message, name)) or None for name in means})


def read_result(message: forecast_pb2.BatchResult, known: Known, round_trip_s: float) -> BatchResult:
    """The answer to one batch."""
    outcomes = read_outcomes(message.outcomes, known) if message.HasField("outcomes") else None
    return BatchResult(message.first_sequence, message.last_sequence, message.duplicates, outcomes, round_trip_s)


def read_outcomes(message: forecast_pb2.Outcomes, known: Known) -> Outcomes:
    """Outcomes by column. Raises ProtocolError if the columns do not fit together."""
    if not _fits(message, known):
        raise errors.ProtocolError("the columns of an answer do not fit together", code="INTERNAL")
    numbers = (*_BY_EVENT, *_BY_PAIR, "distribution", "target_anomaly_score")
    resets: dict[int, tuple[LearnerReset, ...]] = {}
    for reset in message.learner_resets:
        made = LearnerReset(reset.learner, _word(RESET_NAMES, reset.reason))
        resets[reset.sequence] = (*resets.get(reset.sequence, ()), made)
    return Outcomes(
        first_sequence=message.first_sequence,
        targets=known.targets,
        horizon=message.horizon,
        update_results=tuple(_word(UPDATE_NAMES, number) for number in message.update_results),
        gradient_by_lag={m.sequence: dict(zip(m.lag, m.norm, strict=True)) for m in message.gradient_by_lag},
        sensor_states=tuple(_word(SENSOR_NAMES, number) for number in message.sensor_states),
        learner_resets=resets,
        distribution_size=message.distribution_size,
        symbols=known.symbols,
        levels=known.levels,
        **{name: tuple(getattr(message, name)) for name in _FLAGS},
        **{name: array("d", getattr(message, name)) for name in numbers},
    )


def _fits(message: forecast_pb2.Outcomes, known: Known) -> bool:
    """Whether every column is as long as the shape of the message says, and its shape the session's."""
    size, entries = message.distribution_size, message.count * message.targets
    pairs = entries * message.horizon
    lengths = dict.fromkeys((*_BY_EVENT, *_FLAGS, "update_results"), message.count) | dict.fromkeys(_BY_PAIR, pairs)
    lengths |= {"distribution": pairs * size, "target_anomaly_score": entries}
    return (
        all(len(getattr(message, name)) == length for name, length in lengths.items())
        and len(message.sensor_states) in (0, entries)
        and message.targets == len(known.targets)
        and size in (0, len(known.symbols or known.levels))
        and all(len(measured.lag) == len(measured.norm) for measured in message.gradient_by_lag)
    )


def _word(names: Sequence[T], number: int) -> T:
    """The word for a number of an enum, whose zero is never sent; of one that a newer server knows, the first."""
    return names[number - 1] if 1 <= number <= len(names) else names[0]


def failure(
    error: grpc.RpcError, known: Known | None = None, prefixes: Sequence[str] = (), numbering: Numbering | None = None
) -> errors.BpttError:
    """The exception for a call that ended badly, from its status and `google.rpc` details; `prefixes` as in `named`,
    `numbering` as in `located`.
    """
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
    made = named(rewound(errors.from_facts(code, reason, message, metadata, delay), known), prefixes)
    return made if known is None or numbering is None else located(made, known, numbering)


def stream_failure(error: error_pb2.Error) -> errors.BpttError:
    """The exception for a failure reported inside a stream."""
    code = errors.CODES[error.code] if 0 <= error.code < len(errors.CODES) else "UNKNOWN"
    delay = error.retry_delay.ToTimedelta().total_seconds() if error.HasField("retry_delay") else None
    return errors.from_facts(code, error.reason, error.message, error.metadata, delay)


def located(error: errors.BpttError, known: Known, numbering: Numbering) -> errors.BpttError:
    """The same error of a request about several events, with the place of a refused value in the caller's numbering
    and under its channel's name.
    """
    if not isinstance(error, errors.InvalidRequest):
        return error
    place, text, where = _IN_BATCH.fullmatch(error.field), str(error), ""
    if place is not None:
        position, channels = int(place[2]), known.labels if place[1] == "labels" else known.features
        error.row = numbering.rows[position] if numbering.rows else None
        error.sequence = numbering.sequences[position] if numbering.sequences else None
        where = f"{numbering.words(position)}: "
        text = text.replace(place[0], channels.names[int(place[3])])
    elif numbering.whole:
        where = f"rows {numbering.rows[0]}..{numbering.rows[-1]}: "
    error.args = (f"{where}{text}",)
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
