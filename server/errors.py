"""The error table: every way a call can be refused, one row each.

A row is a stable reason, its gRPC code and what a caller can do about it. The rest of the server raises `Refusal` with
a reason and facts; this file alone chooses status codes. How a refusal looks on the wire is the affair of `details.py`
(whole calls) and `translate.py` (inside streams).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import grpc

from bptt_core import FieldError

_Code = grpc.StatusCode


class Detail(Enum):
    """Which google.rpc detail goes with a row, besides ErrorInfo (always) and RetryInfo (rows with a delay)."""

    NONE = "none"
    FIELD = "BadRequest"
    QUOTA = "QuotaFailure"
    SESSION = "ResourceInfo"


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of failure. `retry_s`: trying the same again after that long may work; None: it will not."""

    code: grpc.StatusCode
    detail: Detail = Detail.NONE
    retry_s: float | None = None
    closes_channel: bool = False


TABLE: Final[dict[str, Row]] = {
    # The caller's mistake.
    "INVALID_FIELD": Row(_Code.INVALID_ARGUMENT, Detail.FIELD),
    "NO_EVENTS": Row(_Code.FAILED_PRECONDITION, Detail.SESSION),
    "ALREADY_STARTED": Row(_Code.FAILED_PRECONDITION, Detail.SESSION),
    "CHANNEL_IN_USE": Row(_Code.ALREADY_EXISTS),
    "CHANNEL_UNKNOWN": Row(_Code.FAILED_PRECONDITION, closes_channel=True),
    "STREAM_IDLE": Row(_Code.FAILED_PRECONDITION),
    "END_MISSING": Row(_Code.CANCELLED),
    # Raised by gRPC itself, without details: "Received message larger than max (SIZE vs. LIMIT)".
    "MESSAGE_TOO_LARGE": Row(_Code.RESOURCE_EXHAUSTED),
    # Missing, or another one.
    "SESSION_NOT_FOUND": Row(_Code.NOT_FOUND, Detail.SESSION, closes_channel=True),
    "SESSION_EXISTS": Row(_Code.ALREADY_EXISTS, Detail.SESSION),
    "UID_MISMATCH": Row(_Code.FAILED_PRECONDITION, Detail.SESSION, closes_channel=True),
    # Sequences.
    "SEQUENCE_CONFLICT": Row(_Code.ABORTED, Detail.SESSION),
    "SEQUENCE_TOO_OLD": Row(_Code.OUT_OF_RANGE, Detail.SESSION),
    "SEQUENCE_GAP": Row(_Code.OUT_OF_RANGE, Detail.SESSION),
    "SKIPPED": Row(_Code.ABORTED, Detail.SESSION),
    "SUPERSEDED": Row(_Code.ABORTED, Detail.SESSION, closes_channel=True),
    # Labels that come after their event.
    "LABEL_CONFLICT": Row(_Code.ABORTED, Detail.SESSION),
    "LABEL_TOO_OLD": Row(_Code.OUT_OF_RANGE, Detail.SESSION),
    "LABEL_UNKNOWN_SEQUENCE": Row(_Code.OUT_OF_RANGE, Detail.SESSION),
    # Overload and limits.
    "OVERLOADED": Row(_Code.RESOURCE_EXHAUSTED, Detail.QUOTA, retry_s=0.2),
    "CREDIT_EXCEEDED": Row(_Code.RESOURCE_EXHAUSTED, Detail.QUOTA, retry_s=0.1),
    "SESSION_LIMIT": Row(_Code.RESOURCE_EXHAUSTED, Detail.QUOTA),
    "STREAM_LIMIT": Row(_Code.RESOURCE_EXHAUSTED, Detail.QUOTA, retry_s=1.0),
    "CHANNEL_LIMIT": Row(_Code.RESOURCE_EXHAUSTED, Detail.QUOTA, closes_channel=True),
    "WATCHER_LIMIT": Row(_Code.RESOURCE_EXHAUSTED, Detail.QUOTA, retry_s=1.0),
    # The server's state.
    "DRAINING": Row(_Code.UNAVAILABLE, retry_s=1.0),
    "INTERNAL": Row(_Code.INTERNAL),
}

OK: Final = _Code.OK.name
CANCELLED: Final = _Code.CANCELLED.name
UNKNOWN: Final = _Code.UNKNOWN.name
CODES: Final = tuple(dict.fromkeys([OK, UNKNOWN, *(row.code.name for row in TABLE.values())]))


class Refusal(Exception):
    """A call, a batch or an open that failed and changed nothing. `facts` are for programs, `message` is for people."""

    def __init__(self, reason: str, message: str, **facts: object) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message
        self.facts = {name: str(value) for name, value in facts.items()}

    @property
    def row(self) -> Row:
        """The row of the table that this is a case of."""
        return TABLE[self.reason]


def invalid(error: FieldError, within: str = "") -> Refusal:
    """The refusal of a value outside its allowed range. `within`: path of the message that has the field."""
    field = within + error.field
    return Refusal("INVALID_FIELD", within + str(error), field=field, value=error.value, allowed=error.allowed)


def draining() -> Refusal:
    """The server is stopping."""
    return Refusal("DRAINING", "the server is stopping; try again when it is back, or elsewhere")


def invalid_field(name: str, value: object, allowed: str) -> Refusal:
    """The refusal of one field of a request, `value` as it was sent or in Words."""
    return invalid(FieldError(name, value, allowed))
