"""Protobuf ↔ plain values, both ways, without side effects.

The one place that knows the fields of the messages of `bptt.v1`, with `translate_config.py` for configurations. It
checks only what cannot be expressed in plain values (unknown enum numbers, missing messages, page tokens); ranges are
the business of those who use the values.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt.v1 import error_pb2, forecast_pb2, session_pb2
from bptt_core import ExpertStatus, Scores, SymbolScores, UpdateCounts, WarmStart, Words
from server import messages, packing, translate_config
from server.batches import Batch
from server.book import View
from server.changes import Changes
from server.errors import Refusal, invalid_field
from server.exports import Format, Wanted
from server.histories import PASSES, History
from server.labels import LateLabels
from server.sessions import Acknowledged, Record, Reply, Terms
from server.teaching import Told
from server.translate_config import enum_name

_MAX_PAGE: Final = 1000


def terms(request: session_pb2.CreateSessionRequest) -> Terms:
    """What a session is to be created with, and which fields were stated."""
    if not request.HasField("config"):
        raise invalid_field("config", Words("absent"), "a configuration with at least one feature")
    config, stated = translate_config.plain(request.config)
    credit = _credit(request.limits)
    stated |= {"tags"} if request.tags else set()
    stated |= {"learning"} if request.HasField("learning") else set()
    stated |= set() if credit is None else {"limits.credit_events"}
    learning = request.learning if request.HasField("learning") else True
    return Terms(config, dict(request.tags), learning, credit, frozenset(stated))


def export_format(number: int) -> Format:
    """What kind of file."""
    return _format("format", number)


def import_request(message: session_pb2.ImportSessionRequest) -> Wanted | bytes:
    """One request of an import."""
    match message.WhichOneof("request"):
        case "terms":
            asked = message.terms
            config, stated = translate_config.plain(asked.config) if asked.HasField("config") else (None, set())
            return Wanted(
                asked.session_id,
                _format("terms.format", asked.format),
                config,
                frozenset(stated),
                dict(asked.tags),
                asked.learning if asked.HasField("learning") else None,
                _credit(asked.limits),
            )
        case "data":
            return message.data
        case _:
            raise invalid_field("request", Words("absent"), "terms or data")


def changes(values: session_pb2.SessionChanges, paths: Iterable[str]) -> Changes:
    """The changes named by the paths of a mask."""
    return Changes(
        tuple(paths),
        values.learning if values.HasField("learning") else None,
        values.learning_rate if values.HasField("learning_rate") else None,
        dict(values.tags),
        _credit(values.limits),
    )


def session(view: View) -> session_pb2.Session:
    """A session as clients see it; scores if the view has them."""
    record, status = view.record, view.status
    message = session_pb2.Session(
        session_id=record.session_id,
        uid=record.uid,
        config=translate_config.wire(record.created.config, status.learning_rate),
        tags=record.tags,
        learning=status.learning,
        limits=session_pb2.SessionLimits(credit_events=record.credit_events),
        last_sequence=status.last_sequence,
        last_timestamp_ns=status.last_timestamp_ns if status.last_sequence else None,
        period_ns=status.period_ns,
        updates=_counts(status.updates),
        scores=None if status.scores is None else _scores(status.scores),
        backend=view.backend,
        parameters=status.parameters,
        experts=[_expert(expert) for expert in status.experts],
        seasons=status.seasons,
        drifts=status.drifts,
    )
    message.create_time.FromNanoseconds(record.create_time_ns)
    return message


def page_size(asked: int) -> int:
    """Most sessions on a page."""
    if not 0 <= asked <= _MAX_PAGE:
        raise invalid_field("page_size", asked, f"0..{_MAX_PAGE}")
    return asked or 100


def page_token(session_id: str) -> str:
    """Opaque token of the page that follows `session_id`."""
    return base64.urlsafe_b64encode(b"1" + session_id.encode()).decode()


def page_after(token: str) -> str:
    """The id a page token stands for; empty for the first page."""
    try:
        data = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        if not token or data[:1] == b"1":
            return data[1:].decode("ascii")
    except (binascii.Error, UnicodeError):
        pass
    raise invalid_field("page_token", token, "empty, or a next_page_token of this server")


def batch(message: forecast_pb2.EventBatch) -> Batch:
    """Events as arrays; their shape is not known here."""
    times, labels, starts = message.timestamps_ns, message.labels, message.episode_starts
    return Batch(
        message.session_uid,
        message.first_sequence,
        np.array(message.values[:], np.float64),  # a list is read several times as fast as a field
        np.array(times[:], np.int64) if times else None,
        np.array(labels[:], np.float64) if labels else None,
        np.array(starts, np.int64) if starts else None,
    )


def late_labels(request: forecast_pb2.LabelRequest) -> LateLabels:
    """Labels of events that came before, as arrays; their shape is not known here."""
    return LateLabels(request.session_uid, np.array(request.sequences, np.uint64), np.array(request.labels, np.float64))


def told(record: Record, answer: Told) -> forecast_pb2.LabelResponse:
    """The answer to late labels."""
    return forecast_pb2.LabelResponse(
        session_uid=record.uid,
        accepted=answer.accepted,
        duplicates=answer.duplicates,
        trainable=answer.trainable,
    )


def history(request: forecast_pb2.WarmStartRequest) -> History:
    """A warm start."""
    updates = enum_name("updates", forecast_pb2.WarmStartUpdates.DESCRIPTOR, request.updates, "per_sequence")
    return History(
        request.session_uid,
        batch(request.history),
        request.passes if request.HasField("passes") else PASSES,
        updates == "per_pass",
    )


def trained(record: Record, result: WarmStart) -> forecast_pb2.WarmStartResponse:
    """The answer to a warm start."""
    return forecast_pb2.WarmStartResponse(session_uid=record.uid, loss=_flat(result.loss), applied=result.applied)


def reply(mode: int) -> Reply:
    """Which events are answered."""
    return Reply(enum_name("reply_mode", forecast_pb2.ReplyMode.DESCRIPTOR, mode, "last"))


def result(acknowledged: Acknowledged) -> forecast_pb2.BatchResult:
    """The answer to a batch."""
    told = acknowledged.outcomes
    return forecast_pb2.BatchResult(
        first_sequence=acknowledged.first_sequence,
        last_sequence=acknowledged.last_sequence,
        duplicates=acknowledged.duplicates,
        outcomes=None if told is None else forecast_pb2.Outcomes.FromString(told),
    )


def watched(outcomes: bytes, dropped: int) -> forecast_pb2.WatchResponse:
    """One answer of a watch: packed outcomes, and how many were dropped before them."""
    return forecast_pb2.WatchResponse(outcomes=forecast_pb2.Outcomes.FromString(outcomes), dropped_events=dropped)


def forecast(record: Record, asked: int | None) -> forecast_pb2.ForecastResponse:
    """The latest outcome, cut to the horizons asked for. Raises Refusal."""
    most = record.created.config.horizon
    if asked is not None and not 1 <= asked <= most:
        raise invalid_field("horizon", asked, f"1..{most}")
    if record.latest is None:
        raise Refusal("NO_EVENTS", f"session {record.session_id!r} has had no event yet", session_id=record.session_id)
    outcome = forecast_pb2.Outcomes.FromString(record.latest)
    if asked is not None:
        pairs = asked * outcome.targets
        outcome.horizon = asked
        del outcome.mean[pairs:], outcome.lower[pairs:], outcome.upper[pairs:]
        del outcome.distribution[pairs * outcome.distribution_size :]
    return forecast_pb2.ForecastResponse(session_uid=record.uid, outcome=outcome, timestamp_ns=record.last_timestamp_ns)


def stream_request(message: forecast_pb2.StreamRequest) -> messages.Request:
    """One request of a stream."""
    kind = message.WhichOneof("request")
    if kind == "events":  # first, as nearly all of them are
        events = message.events
        return messages.Send(events.channel, batch(events.batch))
    if kind == "open":
        opened = message.open
        try:
            mode = reply(opened.reply_mode)
        except Refusal as refusal:
            return messages.Unreadable(opened.channel, refusal)
        return messages.Open(opened.channel, opened.session_id, opened.session_uid, mode)
    if kind == "end":
        return messages.End()
    raise invalid_field("request", Words("absent"), "open, events or end")


def stream_response(answer: messages.Response) -> bytes:
    """One answer of a stream."""
    if isinstance(answer, messages.Result):
        told = answer.acknowledged
        return packing.stream_result(
            answer.channel, told.first_sequence, told.last_sequence, told.duplicates, told.outcomes
        )
    response = forecast_pb2.StreamResponse()
    match answer:
        case messages.Opened():
            response.opened.channel = answer.channel
            response.opened.session_uid = answer.session_uid
            response.opened.last_sequence = answer.last_sequence
            response.opened.credit_events = answer.credit_events
            response.opened.max_batch_events = answer.max_batch_events
        case messages.Failed():
            response.error.channel = answer.channel
            response.error.error.CopyFrom(error(answer.refusal))
            response.error.last_sequence = answer.last_sequence
            response.error.first_sequence = answer.first_sequence
            response.error.closed = answer.closed
        case messages.Draining():
            for channel, last in answer.resume:
                response.draining.resume_points.add(channel=channel, last_sequence=last)
            response.draining.SetInParent()
        case messages.Ended():
            response.ended.SetInParent()
    return response.SerializeToString()


def error(refusal: Refusal) -> error_pb2.Error:
    """A refusal inside a stream."""
    row = refusal.row
    message = error_pb2.Error(
        code=row.code.value[0], reason=refusal.reason, message=refusal.message, metadata=refusal.facts
    )
    if row.retry_s is not None:
        message.retry_delay.FromNanoseconds(int(row.retry_s * 1e9))
    return message


def _expert(expert: ExpertStatus) -> session_pb2.Expert:
    message = session_pb2.Expert(name=expert.name, weight=expert.weight, relative_error=expert.relative_error)
    if expert.updates is not None:
        message.updates.CopyFrom(_counts(expert.updates))
        message.rate_factor = expert.rate_factor
    return message


def _counts(counts: UpdateCounts) -> session_pb2.UpdateCounts:
    return session_pb2.UpdateCounts(**asdict(counts))


def _scores(scores: Scores | SymbolScores) -> session_pb2.Scores:
    names = [entry.name for entry in session_pb2.Scores.DESCRIPTOR.fields]
    tables = {name: getattr(scores, name, None) for name in names}
    return session_pb2.Scores(**{name: _flat(table) for name, table in tables.items() if table is not None})


def _format(field: str, number: int) -> Format:
    return Format(enum_name(field, session_pb2.ExportFormat.DESCRIPTOR, number, "checkpoint"))


def _credit(limits: session_pb2.SessionLimits) -> int | None:
    return limits.credit_events if limits.HasField("credit_events") else None


def _flat(table: NDArray[Any]) -> list[Any]:
    values: list[Any] = table.ravel().tolist()
    return values
