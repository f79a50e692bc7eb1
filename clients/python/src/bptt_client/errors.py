"""What can go wrong, one exception per row of the server's error table. Knows no transport: facts in, exceptions out.

BpttError                       everything below; .code .reason .metadata .retry_delay_s
├── InvalidRequest              a value outside its allowed range; .field .value .allowed .row .sequence
│   └── MessageTooLarge         a request above the server's message limit
├── SessionNotFound             no session of that id; .session_id
├── SessionExists               the id is taken by a session of another configuration; .differences
├── UidMismatch                 the id lives on, in another incarnation than the one meant; .session_uid
├── SessionSuperseded           another stream has opened the session and took it over
├── SessionRewound              the server is behind what it had acknowledged; .acknowledged .last_sequence
├── SequenceError               .last_sequence
│   ├── SequenceConflict        that sequence was acknowledged with other content: two writers
│   ├── SequenceGap             events before this one are missing
│   └── SequenceTooOld          a repeat too old to be compared with what was acknowledged
├── LabelError                  a late label; .sequence .last_sequence
│   ├── LabelConflict           that label was known before, and was another one
│   ├── LabelTooOld             its event is further back than the session's label_age
│   └── LabelUnknownSequence    its event was never acknowledged
├── AlreadyStarted              a warm start of a session that has had one, or an event; .last_sequence
├── NoEvents                    a forecast was asked for before the first event
├── Overloaded                  the server takes no more just now; .retry_delay_s
│   ├── CreditExceeded          more events in flight than the session may have
│   └── LimitReached            a number of things (sessions, streams, watchers) is at its limit
├── Unavailable                 no server there, or the connection broke
│   ├── ServerDraining          the server is stopping
│   └── ClientClosed            the client was closed, here; nothing was sent
├── DeadlineExceeded            no answer within the timeout; whether it was done is not known
├── ProtocolError               the two sides do not speak the same protocol
└── ServerError                 the server failed; its log says why
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CODES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class BpttError(Exception):
    """A call or a stream failed. `code` is a canonical gRPC status name, `reason` a row of the error table ("" if none
    was given), `metadata` the facts by name, `retry_delay_s` the wait the server asks for (None: retrying does not
    help).
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_delay_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_delay_s = retry_delay_s

    def _number(self, name: str) -> int | None:
        text = self.metadata.get(name, "")
        return int(text) if text.isdecimal() else None


class InvalidRequest(BpttError):
    """A value outside its allowed range; nothing was changed. In a stream, `row` counts what was given to it from 0
    (with `learn_many`, the rows left out by `start` too) and `sequence` is that event's; None if it was no event's.
    """

    row: int | None = None
    sequence: int | None = None

    @property
    def field(self) -> str:
        """Name of the field, "" if the server named none."""
        return self.metadata.get("field", "")

    @property
    def value(self) -> str:
        """The offending value as text."""
        return self.metadata.get("value", "")

    @property
    def allowed(self) -> str:
        """What would have been accepted."""
        return self.metadata.get("allowed", "")


class MessageTooLarge(InvalidRequest):
    """A request above the server's message limit."""


class SessionNotFound(BpttError):
    """No session of that id."""

    @property
    def session_id(self) -> str:
        """The id that was asked for."""
        return self.metadata.get("session_id", "")


class SessionExists(BpttError):
    """The id is taken by a session of another configuration."""

    @property
    def differences(self) -> tuple[str, ...]:
        """Names of the fields that differ; the message says how."""
        return tuple(filter(None, self.metadata.get("differences", "").split(",")))


class UidMismatch(BpttError):
    """The id lives on, in another incarnation than the one meant."""

    @property
    def session_uid(self) -> str:
        """The incarnation the server has."""
        return self.metadata.get("session_uid", "")


class SessionSuperseded(BpttError):
    """Another stream has opened the session and took it over."""


class SessionRewound(BpttError):
    """The server is behind what it had acknowledged, so events are lost. Never retried: send them again, knowingly."""

    def __init__(self, session_id: str, acknowledged: int, last_sequence: int, *, exists: bool = True) -> None:
        found = f"is at sequence {last_sequence}" if exists else "is not there any more"
        remedy = "handle.refresh() adopts its state; send the events after it again"
        super().__init__(
            f"session {session_id!r} {found}, though {acknowledged} had been acknowledged: the server lost what it "
            f"learned since. {remedy if exists else 'Create it and send the events again'}",
            code="DATA_LOSS",
            reason="SESSION_REWOUND",
            metadata={"session_id": session_id, "last_sequence": str(last_sequence)},
        )
        self.acknowledged = acknowledged
        self.last_sequence = last_sequence


class SequenceError(BpttError):
    """Events out of order."""

    @property
    def last_sequence(self) -> int | None:
        """Last acknowledged sequence of the session."""
        return self._number("last_sequence")


class SequenceConflict(SequenceError):
    """That sequence was acknowledged with other content: two writers."""


class SequenceGap(SequenceError):
    """Events before this one are missing."""


class SequenceTooOld(SequenceError):
    """A repeat too old to be compared with what was acknowledged."""


class LabelError(BpttError):
    """A label that came after its event, and was refused with all that were told in the same call."""

    @property
    def sequence(self) -> int | None:
        """The event it was for."""
        return self._number("sequence")

    @property
    def last_sequence(self) -> int | None:
        """Last acknowledged sequence of the session."""
        return self._number("last_sequence")


class LabelConflict(LabelError):
    """That label was known before, and was another one: two sources of truth."""


class LabelTooOld(LabelError):
    """Its event is further back than the session's label_age."""


class LabelUnknownSequence(LabelError):
    """Its event was never acknowledged."""


class AlreadyStarted(BpttError):
    """A warm start of a session that has had one, or an event. After a lost answer: the first was carried out."""

    @property
    def last_sequence(self) -> int | None:
        """Last acknowledged sequence of the session."""
        return self._number("last_sequence")


class NoEvents(BpttError):
    """A forecast was asked for before the first event."""


class Overloaded(BpttError):
    """The server takes no more just now."""


class CreditExceeded(Overloaded):
    """More events in flight than the session may have."""


class LimitReached(Overloaded):
    """A number of things the server keeps (sessions, streams, watchers) is at its limit."""


class Unavailable(BpttError):
    """No server there, or the connection broke and could not be made again."""


class ServerDraining(Unavailable):
    """The server is stopping."""


class ClientClosed(Unavailable):
    """The client was closed, here: its calls, streams and watches end, and no more can be made."""

    def __init__(self) -> None:
        super().__init__("the client was closed", code="CANCELLED")


class DeadlineExceeded(BpttError):
    """No answer within the timeout. Whether the request was carried out is not known; repeating it is safe."""


class ProtocolError(BpttError):
    """The two sides do not speak the same protocol."""


class ServerError(BpttError):
    """The server failed; its log says why."""


BY_REASON: Final[dict[str, type[BpttError]]] = {
    "INVALID_FIELD": InvalidRequest,
    "MESSAGE_TOO_LARGE": MessageTooLarge,
    "SESSION_NOT_FOUND": SessionNotFound,
    "SESSION_EXISTS": SessionExists,
    "UID_MISMATCH": UidMismatch,
    "SUPERSEDED": SessionSuperseded,
    "SEQUENCE_CONFLICT": SequenceConflict,
    "SEQUENCE_GAP": SequenceGap,
    "SEQUENCE_TOO_OLD": SequenceTooOld,
    "LABEL_CONFLICT": LabelConflict,
    "LABEL_TOO_OLD": LabelTooOld,
    "LABEL_UNKNOWN_SEQUENCE": LabelUnknownSequence,
    "ALREADY_STARTED": AlreadyStarted,
    "NO_EVENTS": NoEvents,
    "OVERLOADED": Overloaded,
    "CREDIT_EXCEEDED": CreditExceeded,
    "SESSION_LIMIT": LimitReached,
    "STREAM_LIMIT": LimitReached,
    "CHANNEL_LIMIT": LimitReached,
    "WATCHER_LIMIT": LimitReached,
    "DRAINING": ServerDraining,
    "CHANNEL_IN_USE": ProtocolError,
    "CHANNEL_UNKNOWN": ProtocolError,
    "STREAM_IDLE": ProtocolError,
    "END_MISSING": ProtocolError,
    "SKIPPED": ProtocolError,
    "INTERNAL": ServerError,
}

BY_CODE: Final[dict[str, type[BpttError]]] = {
    "CANCELLED": Unavailable,  # by the other side: a server that stops just as the call arrives
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": SessionNotFound,
    "ALREADY_EXISTS": SessionExists,
    "OUT_OF_RANGE": SequenceError,
    "RESOURCE_EXHAUSTED": Overloaded,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNIMPLEMENTED": ProtocolError,
    "INTERNAL": ServerError,
    "UNKNOWN": ServerError,
    "DATA_LOSS": ServerError,
}


def from_facts(
    code: str, reason: str, message: str, metadata: Mapping[str, str], retry_delay_s: float | None
) -> BpttError:
    """The exception for one row of the error table; an unknown reason falls back to its code."""
    kind = BY_REASON.get(reason) or BY_CODE.get(code, BpttError)
    if not reason and code == "RESOURCE_EXHAUSTED" and "larger than max" in message:
        kind = MessageTooLarge  # gRPC itself refuses these, on either side, and gives no details
    return kind(message or code, code=code, reason=reason, metadata=metadata, retry_delay_s=retry_delay_s)
