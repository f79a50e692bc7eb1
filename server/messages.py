"""The messages of a stream as plain values: what a client may ask and what it is answered."""

from __future__ import annotations

from dataclasses import dataclass

from server.batches import Batch
from server.errors import Refusal
from server.sessions import Acknowledged, Reply


@dataclass(frozen=True, slots=True)
class Open:
    """Request: open a session under a channel number."""

    channel: int
    session_id: str
    session_uid: str
    reply: Reply


@dataclass(slots=True)
class Send:
    """Request: fold a batch."""

    channel: int
    batch: Batch


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Request: an open that asks for what there is not."""

    channel: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class End:
    """Request: nothing more will come."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Answer to Open."""

    channel: int
    session_uid: str
    last_sequence: int
    credit_events: int
    max_batch_events: int


@dataclass(slots=True)
class Result:
    """Answer to Send."""

    channel: int
    acknowledged: Acknowledged


@dataclass(frozen=True, slots=True)
class Failed:
    """Failed answer to either, or a channel that was taken over."""

    channel: int
    refusal: Refusal
    last_sequence: int = 0
    first_sequence: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Draining:
    """The server stops; `resume` has (channel, last sequence) of every open channel."""

    resume: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """Answer to End."""


Request = Open | Send | Unreadable | End
Response = Opened | Result | Failed | Draining | Ended
