"""What the server knows of a session beside its learned state, and the rules a request must pass to change it.

Identity, terms of creation, limits, and the admission of events: repeats, gaps, conflicts, credit. Everything here is
plain and synchronous; a rule either raises `Refusal` and has changed nothing, or returns. It knows neither the wire nor
the thread that computes. Labels that come late and warm starts have rules of their own, in `labels.py` and
`histories.py`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import Events, FieldError, SessionConfig, Words, check_events
from server.batches import Batch, known, shaped
from server.digests import Ring, digests
from server.errors import Refusal, invalid, invalid_field

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
MAX_TAGS: Final = 32
MAX_TAG_KEY: Final = 64
MAX_TAG_VALUE: Final = 256
MAX_CREDIT_EVENTS: Final = 65536
_FEW: Final = 16  # values that are looked at faster one by one than as an array
_PLAUSIBLE: Final = 1e30  # no number up to here is refused for its size


@dataclass(frozen=True, slots=True)
class Terms:
    """What a session is created with. `stated`: paths of the fields the request set, e.g. "config.horizon"."""

    config: SessionConfig
    tags: Mapping[str, str]
    learning: bool
    credit_events: int | None
    stated: frozenset[str] = frozenset()

    def flat(self) -> dict[str, Any]:
        """Every field by its path, for comparison; those of a single learner only where there is one."""
        values = {f"config.{f.name}": getattr(self.config, f.name) for f in fields(self.config)}
        learner = self.config.learner
        if learner is not None:
            values |= {f"config.learner.{f.name}": getattr(learner, f.name) for f in fields(learner)}
        values["config.learner"] = Words("absent" if learner is None else "present")
        return values | {
            "tags": dict(self.tags),
            "learning": self.learning,
            "limits.credit_events": self.credit_events,
        }


class WarmStarted(enum.Enum):
    """How far a session's warm start has come."""

    NO = "no"
    RUNNING = "running"
    YES = "yes"


@dataclass(slots=True)
class Record:
    """One session as the network's side sees it. Sequences: admitted ≥ last_sequence (acknowledged)."""

    session_id: str
    uid: str
    created: Terms
    create_time_ns: int
    tags: dict[str, str]
    credit_events: int
    max_batch_events: int
    ring: Ring = field(default_factory=Ring)
    timed: bool | None = None
    admitted_timestamp_ns: int | None = None
    last_sequence: int = 0
    last_timestamp_ns: int | None = None
    latest: bytes | None = None  # the outcome of the last event, packed
    pending_events: int = 0
    labels: Ring | None = None  # the labels of the events that may still get some, NaN: not known; None: has no labels
    warm_started: WarmStarted = WarmStarted.NO
    event_bytes: int = 0  # what an event takes, at most; 0: not computed yet
    # Of the configuration, kept as every batch asks for them: values per event, k2 of the first learner, and whether
    # any numbers of a plausible size are events.
    features: int = field(init=False)
    window: int = field(init=False)
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        config = self.created.config
        if self.labels is None:
            self.labels = label_memory(config)
        self.features, self.window = len(config.features), window_of(config)
        self.plain = not config.labels and not config.categories and config.task != "classify"

    @property
    def admitted(self) -> int:
        """Sequence of the last event taken in, folded or still queued."""
        return self.ring.last

    def batch_limit(self, credit_events: int) -> int:
        """Most events in one batch: what fits a message, and the credit."""
        return min(self.max_batch_events, credit_events)


class Reply(enum.Enum):
    """Which events of a batch are answered with an outcome."""

    EVERY = "every"
    LAST = "last"
    NONE = "none"


@dataclass(slots=True)
class Admission:
    """What is to be done for a batch: fold `events` (None: all are repeats), then acknowledge up to `last_sequence`."""

    events: Events | None
    digests: NDArray[np.uint64]
    first_sequence: int
    last_sequence: int
    duplicates: int
    repeats_last: bool

    @property
    def new_events(self) -> int:
        """Events to fold."""
        return 0 if self.events is None else len(self.events)

    @property
    def new_labels(self) -> int:
        """Labels that came with them."""
        return 0 if self.events is None else known(self.events.labels)


@dataclass(slots=True)
class Acknowledged:
    """Answer to a batch: everything up to `last_sequence` is folded. `outcomes` are packed."""

    first_sequence: int
    last_sequence: int
    duplicates: int
    outcomes: bytes | None


def examine(record: Record, batch: Batch, queue_room: int, credit_events: int | None = None) -> Admission:
    """Checks a whole batch against the events admitted so far; changes nothing.

    `queue_room`: events the server can still queue over all sessions. `credit_events`: what the sender was promised,
    whatever the session's limit is by now; None: that limit. Raises Refusal.
    """
    credit = record.credit_events if credit_events is None else credit_events
    if batch.session_uid:
        check_uid(record, batch.session_uid)
    first, last = batch.first_sequence, record.admitted
    if first < 1:
        raise invalid_field("first_sequence", first, "at least 1")
    events = shaped(record.created.config, batch, record.batch_limit(credit))
    if first > last + 1:
        raise Refusal(
            "SEQUENCE_GAP",
            f"first_sequence is {first}; allowed: at most {last + 1}, as the last sequence is {last}",
            session_id=record.session_id,
            expected=last + 1,
            last_sequence=last,
        )
    count = len(events)
    repeats = min(count, last - first + 1)
    new = _check_content(record, events, repeats)
    marks = digests(events)
    if repeats:
        _check_repeats(record, first, marks[:repeats])
    if count > repeats:
        _check_room(record, count - repeats, queue_room, credit)
    through = first + count - 1
    return Admission(
        events=new,
        digests=marks[repeats:],
        first_sequence=first,
        last_sequence=max(last, through),
        duplicates=repeats,
        repeats_last=new is None and through == last,
    )


def admit(record: Record, admission: Admission) -> None:
    """Takes in what `examine` allowed: the next batch is checked against it."""
    events = admission.events
    if events is None:
        return
    record.ring.append(admission.digests)
    if record.labels is not None and events.labels is not None:
        record.labels.append(events.labels)
    record.timed = events.timestamps_ns is not None
    if events.timestamps_ns is not None:
        record.admitted_timestamp_ns = int(events.timestamps_ns[-1])
    record.pending_events += len(events)


def check_uid(record: Record, uid: str) -> None:
    """Raises Refusal if `uid` names another incarnation; empty means whichever there is."""
    if uid and uid != record.uid:
        raise Refusal(
            "UID_MISMATCH",
            f"session_uid is {uid[:40]!a}; allowed: {record.uid!r}, as session {record.session_id!r} was made anew",
            session_id=record.session_id,
            session_uid=record.uid,
        )


def check_id(session_id: str, name: str = "session_id") -> None:
    """Raises Refusal unless `session_id` may name a session. `name`: the field it came in."""
    if not _ID.fullmatch(session_id):
        raise invalid_field(name, session_id, _ID.pattern)


def check_tags(tags: Mapping[str, str], name: str = "tags") -> None:
    """Raises Refusal unless `tags` keep the limits on number and length."""
    if len(tags) > MAX_TAGS:
        raise invalid_field(name, Words(f"{len(tags)} tags"), f"at most {MAX_TAGS}")
    for key, value in tags.items():
        if not 1 <= len(key) <= MAX_TAG_KEY:
            raise invalid_field(name, key, f"keys of 1..{MAX_TAG_KEY} characters")
        if len(value) > MAX_TAG_VALUE:
            raise invalid_field(f"{name}[{key}]", value, f"values of at most {MAX_TAG_VALUE} characters")


def check_credit(credit_events: int | None, name: str = "limits.credit_events") -> None:
    """Raises Refusal unless `credit_events` may be a session's limit."""
    if credit_events is not None and not 1 <= credit_events <= MAX_CREDIT_EVENTS:
        raise invalid_field(name, credit_events, f"1..{MAX_CREDIT_EVENTS}")


def check_same(record: Record, asked: Terms) -> None:
    """Raises Refusal naming the differences unless every stated field equals the one the session was created with."""
    there, here = asked.flat(), record.created.flat()
    differences = [path for path in sorted(asked.stated & here.keys()) if there[path] != here[path]]
    if differences:
        listed = "; ".join(_difference(path, there[path], here[path]) for path in differences)
        raise Refusal(
            "SESSION_EXISTS",
            f"session {record.session_id!r} exists with other terms: {listed[:1000]}",
            session_id=record.session_id,
            session_uid=record.uid,
            differences=",".join(differences),
        )


def _difference(path: str, asked: Any, made: Any) -> str:
    """What differs, in words; of several learners the first field that does."""
    if path == "config.learners":
        if len(asked) != len(made):
            return f"{path}: asked {len(asked)} learners, is {len(made)}"
        position = next(k for k, (a, b) in enumerate(zip(asked, made, strict=True)) if a != b)
        asked, made = asked[position], made[position]
        name = next(f.name for f in fields(asked) if getattr(asked, f.name) != getattr(made, f.name))
        path, asked, made = f"{path}[{position}].{name}", getattr(asked, name), getattr(made, name)
    return f"{path}: asked {asked!a}, is {made!a}"


def window_of(config: SessionConfig) -> int:
    """k2 of a validated configuration's first learner, whose gradient by lag is told."""
    window = config.portfolio[0].window
    assert window is not None
    return window


def label_memory(config: SessionConfig, last: int = 0, recent: NDArray[np.float64] | None = None) -> Ring | None:
    """What is remembered of labels, the rows `recent` [n, O] of the events up to `last` to begin with; None without
    labels."""
    if config.label_age is None:
        return None
    return Ring(last, np.zeros((0, len(config.labels))) if recent is None else recent, config.label_age + 1)


def _check_content(record: Record, events: Events, repeats: int) -> Events | None:
    """Checks the values of all events and that the new ones may follow those admitted. Returns the new ones."""
    if repeats == 0 and _passes_at_a_glance(record, events):
        return events
    before = None if repeats else record.admitted_timestamp_ns
    try:
        check_events(events, record.created.config, record.timed, before)
        if not repeats:
            return events
        if repeats == len(events):
            return None
        new = events.rows(repeats, len(events))
        check_events(new, record.created.config, record.timed, record.admitted_timestamp_ns)
    except FieldError as error:
        raise invalid(error) from None
    return new


def _passes_at_a_glance(record: Record, events: Events) -> bool:
    """Whether the largest value says that events would pass every check. False says nothing."""
    if not record.plain or record.timed or events.timestamps_ns is not None or events.episode_start is not None:
        return False
    if events.values.size > _FEW:
        return bool(np.maximum.reduce(np.abs(events.values), axis=None) <= _PLAUSIBLE)  # NaN is not
    return max(map(abs, events.values.ravel().tolist())) <= _PLAUSIBLE  # NaN is not, or is skipped


def _check_repeats(record: Record, first: int, marks: NDArray[np.uint64]) -> None:
    facts = {"session_id": record.session_id, "last_sequence": record.admitted}
    if first < record.ring.oldest:
        oldest = record.ring.oldest
        raise Refusal(
            "SEQUENCE_TOO_OLD",
            f"first_sequence is {first}; allowed: {oldest}..{record.admitted + 1}, older events cannot be compared",
            oldest=oldest,
            **facts,
        )
    different = np.flatnonzero(record.ring.get(first, len(marks)) != marks)
    if len(different):
        at = first + int(different[0])
        raise Refusal(
            "SEQUENCE_CONFLICT",
            f"event {at} of session {record.session_id!r} came before with other content, and its last sequence is "
            f"{record.admitted}: there are two writers",
            sequence=at,
            **facts,
        )


def _check_room(record: Record, new: int, queue_room: int, credit: int) -> None:
    if record.pending_events + new > credit:
        raise Refusal(
            "CREDIT_EXCEEDED",
            f"session {record.session_id!r} has {record.pending_events} events queued and {new} more came; "
            f"allowed: {credit} together",
            session_id=record.session_id,
            limit=credit,
        )
    if new > queue_room:
        raise Refusal("OVERLOADED", "the server's queue of events is full", limit="max-pending-events")
