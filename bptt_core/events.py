"""Events in, outcomes out: the two tables that cross the border of the core, and the check every event passes first."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.config import FieldError, Words

MAX_MAGNITUDE: Final = 1e100
MAX_TIMESTAMP_NS: Final = 2**62


class UpdateResult(enum.IntEnum):
    """What became of the update at one event. Numbers and names are those of `bptt.v1.UpdateResult`."""

    NOT_DUE = 1
    APPLIED = 2
    NO_TARGET = 3
    NON_FINITE = 4
    LEARNING_OFF = 5


@dataclass(frozen=True, slots=True)
class Events:
    """Consecutive events of one session."""

    values: NDArray[np.float64]  # [n, D], NaN: missing
    timestamps_ns: NDArray[np.int64] | None = None  # [n], or None in a session without timestamps

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the fold returns for n consecutive events. `H` horizons, `O` targets; see `bptt.v1.Outcomes`."""

    first_sequence: int
    mean: NDArray[np.float64]  # [n, H, O] original units; NaN: target never seen
    lower: NDArray[np.float64]  # [n, H, O]; NaN in warm-up
    upper: NDArray[np.float64]  # [n, H, O]; NaN in warm-up
    anomaly_score: NDArray[np.float64]  # [n]
    update_result: NDArray[np.int8]  # [n] UpdateResult
    loss: NDArray[np.float32]  # [n]; NaN without an update
    gradient_norm: NDArray[np.float32]  # [n]; before the clip; NaN without an update
    clip_scale: NDArray[np.float32]  # [n]; NaN without an update

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def last_sequence(self) -> int:
        return self.first_sequence + len(self) - 1

    def rows(self, start: int, stop: int) -> Outcomes:
        """Rows start..stop, as views."""
        return Outcomes(self.first_sequence + start, *(getattr(self, name)[start:stop] for name in COLUMNS))

    def last(self) -> Outcomes:
        """The newest of them, as a table of one row."""
        return self.rows(len(self) - 1, len(self))

    def copied(self) -> Outcomes:
        """The same rows in memory of their own, so that they do not keep the table alive they were cut from."""
        return Outcomes(self.first_sequence, *(getattr(self, name).copy() for name in COLUMNS))

    @property
    def nbytes(self) -> int:
        """Memory of the rows."""
        return sum(getattr(self, name).nbytes for name in COLUMNS)

    @staticmethod
    def joined(parts: list[Outcomes]) -> Outcomes:
        """Consecutive tables as one."""
        if len(parts) == 1:
            return parts[0]
        columns = (np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS)
        return Outcomes(parts[0].first_sequence, *columns)


COLUMNS: Final = tuple(f.name for f in fields(Outcomes) if f.name != "first_sequence")


@dataclass(frozen=True, slots=True)
class Scores:
    """Running means over settled pairs, each float64 [H, O] in original units; see `bptt.v1.Scores`."""

    count: NDArray[np.int64]
    mse: NDArray[np.float64]
    mae: NDArray[np.float64]
    persistence_mse: NDArray[np.float64]
    persistence_mae: NDArray[np.float64]
    seasonal_mse: NDArray[np.float64] | None
    seasonal_mae: NDArray[np.float64] | None
    coverage: NDArray[np.float64]
    width: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """Facts of one session that its owner reports: counters, time, scores."""

    last_sequence: int
    last_timestamp_ns: int | None
    period_ns: int | None
    timed: bool | None  # None before the first event
    learning: bool
    learning_rate: float
    parameters: int
    applied: int
    clipped: int
    no_target: int
    non_finite: int
    learning_off: int
    carry_resets: int
    scores: Scores | None = field(default=None)


def check_events(events: Events, features: int, timed: bool | None, last_timestamp_ns: int | None) -> None:
    """Raises FieldError unless the session may take these events.

    `features` is D, `timed` whether earlier events of the session had timestamps (None: there were none) and
    `last_timestamp_ns` the newest of those. Nothing is changed either way.
    """
    values, times = events.values, events.timestamps_ns
    if values.ndim != 2 or values.shape[1] != features or len(values) == 0:
        raise FieldError("values", list(values.shape), f"[n, {features}] with n ≥ 1")
    bad = ~(np.isnan(values) | (np.abs(values) <= MAX_MAGNITUDE))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise FieldError(f"values[{row}][{column}]", float(values[row, column]), f"NaN (missing) or ±{MAX_MAGNITUDE:g}")
    if timed is not None and timed != (times is not None):
        allowed = "one per event, as in the events before" if timed else "none, as in the events before"
        raise FieldError("timestamps_ns", Words("absent" if times is None else f"{len(times)} values"), allowed)
    if times is None:
        return
    if times.shape != (len(values),):
        raise FieldError("timestamps_ns", Words(f"{len(times)} values"), f"one per event ({len(values)}) or none")
    outside = (times < -MAX_TIMESTAMP_NS) | (times > MAX_TIMESTAMP_NS)
    if outside.any():
        raise FieldError("timestamps_ns", int(times[outside][0]), "-2^62..2^62")
    before = times if last_timestamp_ns is None else np.concatenate([[last_timestamp_ns], times])
    backward = np.flatnonzero(before[1:] < before[:-1])
    if len(backward):
        first = int(backward[0])
        raise FieldError("timestamps_ns", int(before[first + 1]), f"at least the one before, {int(before[first])}")
