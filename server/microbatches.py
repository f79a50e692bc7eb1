"""What goes into one pass through the fold and what comes out of it, as the engine hands it to the network's side."""

from __future__ import annotations

from dataclasses import dataclass

from bptt_core import Events, Outcomes
from server.scheduler import Span, Turn


@dataclass(slots=True)
class Settled:
    """One session's part of a micro-batch: the turn and what the fold said (None: it held no events)."""

    uid: str
    turn: Turn
    outcomes: Outcomes | None
    last_timestamp_ns: int | None


@dataclass(slots=True)
class MicroBatch:
    """What one pass through the fold settled, how long the fold took, and how many carries were found reset."""

    parts: list[Settled]
    seconds: float
    carry_resets: int


def events_of(turn: Turn) -> Events:
    """The events of all spans of a turn, as one table."""
    if len(turn.spans) == 1:
        return _part(turn.spans[0])
    return Events.joined([_part(span) for span in turn.spans if span.stop > span.start])


def _part(span: Span) -> Events:
    """The events of a span."""
    events: Events = span.work.load.events
    return events if span.stop - span.start == len(events) else events.rows(span.start, span.stop)
