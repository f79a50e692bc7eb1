"""The rules for labels that come after their event: which may still come, what was said before, who contradicts whom.

A label is said once; said again it must be what it was, and is then acknowledged without being learned twice. NaN says
nothing. Everything here is plain and synchronous, as in `sessions.py`: a rule either raises `Refusal` and has changed
nothing, or returns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bptt_core import FieldError, Labels, Words, check_labels
from server.batches import known
from server.errors import Refusal, invalid, invalid_field
from server.sessions import Record, check_uid


@dataclass(frozen=True, slots=True)
class LateLabels:
    """Labels as a client sent them; `values` is flat, row-major."""

    session_uid: str
    sequences: NDArray[np.uint64]
    values: NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """Memory of the labels."""
        return self.sequences.nbytes + self.values.nbytes


@dataclass(frozen=True, slots=True)
class LabelAdmission:
    """What is to be done for late labels: fold those that are new (every other one is NaN in `labels`)."""

    labels: Labels
    accepted: int
    duplicates: int


def examine_labels(record: Record, sent: LateLabels) -> LabelAdmission:
    """Checks labels against the events and labels admitted so far; changes nothing. Raises Refusal."""
    check_uid(record, sent.session_uid)
    labels = _shaped(record, sent)
    _check_sequences(record, sent.sequences)
    try:
        check_labels(labels, record.created.config, record.admitted)
    except FieldError as error:
        raise invalid(error) from None
    assert record.labels is not None
    before = record.labels.at(labels.sequences)
    _check_agreement(record, labels, before)
    new = np.where(np.isnan(before), labels.values, np.nan)
    rows = ~np.isnan(new).all(axis=1)
    accepted = known(new)
    return LabelAdmission(Labels(labels.sequences[rows], new[rows]), accepted, known(labels.values) - accepted)


def admit_labels(record: Record, admission: LabelAdmission) -> None:
    """Takes in what `examine_labels` allowed: the next labels are checked against it."""
    _note(record, admission.labels.sequences, admission.labels.values, ~np.isnan(admission.labels.values))


def withdraw_labels(record: Record, admission: LabelAdmission) -> None:
    """Forgets labels that were admitted and will not be folded: they may be said again."""
    values = admission.labels.values
    _note(record, admission.labels.sequences, np.full_like(values, np.nan), ~np.isnan(values))


def _note(record: Record, sequences: NDArray[np.int64], values: NDArray[np.float64], where: NDArray[np.bool_]) -> None:
    assert record.labels is not None
    kept = sequences >= record.labels.oldest  # events that came since may have pushed the oldest out
    rows = record.labels.at(sequences[kept])
    record.labels.put(sequences[kept], np.where(where[kept], values[kept], rows))


def _shaped(record: Record, sent: LateLabels) -> Labels:
    width, count = len(record.created.config.labels), len(sent.sequences)
    most = record.batch_limit(record.credit_events)
    if not width:
        raise invalid_field("labels", Words(f"{len(sent.values)} values"), "none, as the session has no labels")
    if not 1 <= count <= most:
        raise invalid_field("sequences", Words(f"{count} sequences"), f"1..{most}")
    if len(sent.values) != count * width:
        raise invalid_field("labels", Words(f"{len(sent.values)} values"), f"{count} rows of {width}")
    return Labels(sent.sequences.astype(np.int64), sent.values.reshape(count, width))


def _check_sequences(record: Record, sequences: NDArray[np.uint64]) -> None:
    """Raises Refusal if a sequence is not there yet, or not any more."""
    assert record.labels is not None
    last, oldest, lowest, highest = record.admitted, record.labels.oldest, int(sequences.min()), int(sequences.max())
    if highest > last:
        raise Refusal(
            "LABEL_UNKNOWN_SEQUENCE",
            f"a label is for event {highest} of session {record.session_id!r}, whose last sequence is {last}",
            session_id=record.session_id,
            sequence=highest,
            last_sequence=last,
        )
    if 0 < lowest < oldest:
        raise Refusal(
            "LABEL_TOO_OLD",
            f"a label is for event {lowest} of session {record.session_id!r}; allowed: {oldest}..{last}, "
            f"by label_age {record.created.config.label_age}",
            session_id=record.session_id,
            sequence=lowest,
            oldest=oldest,
            last_sequence=last,
        )


def _check_agreement(record: Record, labels: Labels, before: NDArray[np.float64]) -> None:
    """Raises Refusal if a label was known before and was another one."""
    other = ~np.isnan(labels.values) & ~np.isnan(before) & (labels.values != before)
    if other.any():
        row, column = np.argwhere(other)[0]
        sequence, name = int(labels.sequences[row]), record.created.config.labels[column]
        raise Refusal(
            "LABEL_CONFLICT",
            f"label {name!r} of event {sequence} of session {record.session_id!r} is {labels.values[row, column]}; it "
            f"came before as {before[row, column]}",
            session_id=record.session_id,
            sequence=sequence,
            label=name,
            last_sequence=record.admitted,
        )
