"""The rules of a warm start: a history to train a session on before its first event, once.

Plain and synchronous, as in `sessions.py`. The stream goes on from the end of the history, so its last timestamp is the
earliest that an event may have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bptt_core import Events, FieldError, Words, check_events
from server.batches import Batch, shaped
from server.errors import Refusal, invalid, invalid_field
from server.sessions import Record, WarmStarted, check_uid

MAX_EVENTS: Final = 10_000
MAX_PASSES: Final = 1000
MAX_EVENT_PASSES: Final = 10**6
PASSES: Final = 10


@dataclass(frozen=True, slots=True)
class History:
    """A warm start as a client asked for it. `per_pass`: one update per pass, in place of one per sequence."""

    session_uid: str
    batch: Batch
    passes: int = PASSES
    per_pass: bool = False


def examine_history(record: Record, history: History) -> Events:
    """The events of a history that the session may be trained on; changes nothing. Raises Refusal."""
    check_uid(record, history.session_uid)
    _check_untouched(record)
    events = shaped(record.created.config, history.batch, MAX_EVENTS, "history.")
    if len(events) < 2:
        raise invalid_field("history.values", Words("1 event"), f"2..{MAX_EVENTS} events")
    most = min(MAX_PASSES, MAX_EVENT_PASSES // len(events))
    if not 1 <= history.passes <= most:
        raise invalid_field("passes", history.passes, f"1..{most}, with {len(events)} events")
    try:
        check_events(events, record.created.config, None, None)
    except FieldError as error:
        raise invalid(error, "history.") from None
    return events


def begin_history(record: Record, events: Events) -> None:
    """Takes in what `examine_history` allowed: events that come from now on are checked against its end."""
    record.warm_started, record.timed = WarmStarted.RUNNING, events.timestamps_ns is not None
    if events.timestamps_ns is not None:
        record.admitted_timestamp_ns = int(events.timestamps_ns[-1])


def end_history(record: Record, trained: bool) -> None:
    """The session is trained, or is as it was before."""
    record.warm_started = WarmStarted.YES if trained else WarmStarted.NO
    if not trained and record.admitted == 0:
        record.timed, record.admitted_timestamp_ns = None, None


def _check_untouched(record: Record) -> None:
    if record.admitted == 0 and record.warm_started is WarmStarted.NO:
        return
    had = f"{record.admitted} events" if record.admitted else "a warm start"
    raise Refusal(
        "ALREADY_STARTED",
        f"session {record.session_id!r} has had {had}; a warm start comes before the first event, and once",
        session_id=record.session_id,
        last_sequence=record.admitted,
        warm_started=record.warm_started.value,
    )
