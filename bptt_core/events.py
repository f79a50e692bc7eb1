"""Events, the check that every event passes first, and what the core says of sessions and their learners."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.checks import FieldError, Words
from bptt_core.config import SessionConfig

MAX_MAGNITUDE: Final = 1e100
MAX_TIMESTAMP_NS: Final = 2**62


class UpdateResult(enum.IntEnum):
    """What became of the update at one event. Numbers and names are those of `bptt.v1.UpdateResult`."""

    NOT_DUE = 1
    APPLIED = 2
    NO_TARGET = 3
    NON_FINITE = 4
    LEARNING_OFF = 5


class ResetReason(enum.IntEnum):
    """Why a learner lost what it had learned last. Numbers and names are those of `bptt.v1.ResetReason`."""

    NON_FINITE = 1
    DIVERGED = 2
    RESTARTED = 3
    SEASON = 4


class SensorState(enum.IntEnum):
    """What a sensor seems to be doing. Numbers and names are those of `bptt.v1.SensorState`."""

    OK = 1
    MISSING = 2
    STUCK = 3


@dataclass(frozen=True, slots=True)
class Events:
    """Consecutive events of one session."""

    values: NDArray[np.float64]  # [n, D], NaN: missing; of a categorical feature the position of its symbol
    timestamps_ns: NDArray[np.int64] | None = None  # [n], or None in a session without timestamps
    labels: NDArray[np.float64] | None = None  # [n, O], NaN: not known (yet); None: none is known
    episode_start: NDArray[np.bool_] | None = None  # [n] True: forget what came before this event; None: nowhere

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, start: int, stop: int) -> Events:
        """Events start..stop, as views."""
        return Events(*(None if c is None else c[start:stop] for c in self._columns()))  # type: ignore[arg-type]

    def chosen(self, rows: NDArray[np.bool_]) -> Events:
        """Those events alone, in their order."""
        return Events(*(None if c is None else c[rows] for c in self._columns()))  # type: ignore[arg-type]

    @staticmethod
    def joined(parts: list[Events]) -> Events:
        """Consecutive tables as one."""
        if len(parts) == 1:
            return parts[0]
        columns: list[NDArray[Any] | None] = []
        for name, blank in (("labels", np.nan), ("episode_start", False)):
            given = [getattr(part, name) for part in parts]
            known = next((column for column in given if column is not None), None)
            if known is None:
                columns.append(None)
                continue
            shapes = [(len(part), *known.shape[1:]) for part in parts]
            filled = [np.full(shape, blank) if c is None else c for c, shape in zip(given, shapes, strict=True)]
            columns.append(np.concatenate(filled))
        times = None
        if parts[0].timestamps_ns is not None:
            times = np.concatenate([part.timestamps_ns for part in parts])
        return Events(np.concatenate([part.values for part in parts]), times, *columns)

    def _columns(self) -> tuple[NDArray[Any] | None, ...]:
        return self.values, self.timestamps_ns, self.labels, self.episode_start


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of events that were folded before, rising by sequence."""

    sequences: NDArray[np.int64]  # [n]
    values: NDArray[np.float64]  # [n, O], NaN: still not known

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True, slots=True)
class Labelled:
    """What the fold did with late labels, counted per value that was not NaN."""

    accepted: int  # new
    trainable: int  # … and their step was still in the window


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What a warm start did."""

    loss: NDArray[np.float64]  # [passes] mean loss before the updates of the pass; NaN: nothing to train from
    applied: int  # updates


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
    interval_score: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SymbolScores:
    """Running means over settled pairs of a classifying session, each float64 [H, O]; see `bptt.v1.Scores`."""

    count: NDArray[np.int64]
    log_loss: NDArray[np.float64]
    naive_log_loss: NDArray[np.float64]
    error_rate: NDArray[np.float64]
    naive_error_rate: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class UpdateCounts:
    """What updates did so far; see `bptt.v1.UpdateCounts`, whose names these are."""

    applied: int = 0
    clipped: int = 0
    no_target: int = 0
    non_finite: int = 0
    learning_off: int = 0
    reset_non_finite: int = 0
    reset_diverged: int = 0
    reset_restarted: int = 0
    reset_season: int = 0


@dataclass(frozen=True, slots=True)
class ExpertStatus:
    """One forecaster of a portfolio; see `bptt.v1.Expert`."""

    name: str
    weight: float
    relative_error: float
    updates: UpdateCounts | None = None
    rate_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """Facts of one session that its owner reports: counters, time, scores."""

    last_sequence: int
    last_timestamp_ns: int | None
    period_ns: int | None
    timed: bool | None  # None before the first event
    learning: bool
    learning_rate: float | None  # None: several learners
    parameters: int
    updates: UpdateCounts  # of all learners
    carry_resets: int
    drifts: int
    seasons: tuple[int, ...]  # in force, 0: none yet; empty with seasonality off
    scores: Scores | SymbolScores | None = field(default=None)
    experts: tuple[ExpertStatus, ...] = ()  # empty with a single learner, or if scores are not wanted


def check_events(events: Events, config: SessionConfig, timed: bool | None, last_timestamp_ns: int | None) -> None:
    """Raises FieldError unless a session of this validated configuration may take these events.

    `timed` is whether earlier events of the session had timestamps (None: there were none) and `last_timestamp_ns` the
    newest of those. Nothing is changed either way.
    """
    values, labels, starts = events.values, events.labels, events.episode_start
    _check_table("values", values, config, config.features)
    if labels is not None:
        if not config.labels:
            raise FieldError("labels", Words(f"{len(labels)} rows"), "none, as the session has no labels")
        _check_table("labels", labels, config, config.labels)
        if len(labels) != len(values):
            raise FieldError("labels", Words(f"{len(labels)} rows"), f"one per event ({len(values)}) or none")
    if starts is not None and starts.shape != (len(values),):
        raise FieldError("episode_start", list(starts.shape), f"one per event ({len(values)}) or none")
    _check_times(events, timed, last_timestamp_ns)


def check_labels(labels: Labels, config: SessionConfig, last_sequence: int) -> None:
    """Raises FieldError unless a session of this validated configuration, whose last event is `last_sequence`, may
    take these labels. Nothing is changed either way."""
    if not config.labels:
        raise FieldError("labels", Words(f"{len(labels.values)} rows"), "none, as the session has no labels")
    _check_table("labels", labels.values, config, config.labels)
    sequences = labels.sequences
    if sequences.shape != (len(labels.values),):
        raise FieldError(
            "sequences", Words(f"{len(sequences)} values"), f"one per row of labels ({len(labels.values)})"
        )
    falling = np.flatnonzero(sequences[1:] <= sequences[:-1])
    if len(falling):
        at = int(falling[0])
        raise FieldError("sequences", int(sequences[at + 1]), f"more than the one before, {int(sequences[at])}")
    assert config.label_age is not None
    oldest = max(1, last_sequence - config.label_age)
    for sequence in sequences[[0, -1]].tolist():
        if not oldest <= sequence <= last_sequence:
            raise FieldError("sequences", sequence, f"{oldest}..{last_sequence}" if last_sequence else "none yet")


def _check_table(name: str, table: NDArray[np.float64], config: SessionConfig, channels: tuple[str, ...]) -> None:
    """Values or labels: their shape, and the range of every column."""
    if table.ndim != 2 or table.shape[1] != len(channels) or len(table) == 0:
        raise FieldError(name, list(table.shape), f"[n, {len(channels)}] with n ≥ 1")
    _check_cells(name, table, ~(np.abs(table) <= MAX_MAGNITUDE), f"NaN (missing) or ±{MAX_MAGNITUDE:g}")
    if not config.categories and config.task != "classify":
        return
    for column, channel in enumerate(channels):
        symbols = config.symbols(channel)
        cells = table[:, column : column + 1]
        if symbols:
            outside = ~((cells >= 0) & (cells < len(symbols)) & (cells == np.floor(cells)))
            _check_cells(name, cells, outside, f"NaN (missing) or 0..{len(symbols) - 1}, a position in symbols", column)
        elif config.portfolio[0].loss == "sigmoid" and channel in config.predicted:
            _check_cells(name, cells, ~((cells >= 0) & (cells <= 1)), "NaN (missing) or 0..1", column)


def _check_cells(name: str, cells: NDArray[Any], bad: NDArray[np.bool_], allowed: str, first_column: int = 0) -> None:
    bad &= ~np.isnan(cells)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise FieldError(f"{name}[{row}][{first_column + column}]", float(cells[row, column]), allowed)


def _check_times(events: Events, timed: bool | None, last_timestamp_ns: int | None) -> None:
    times, count = events.timestamps_ns, len(events)
    if timed is not None and timed != (times is not None):
        allowed = "one per event, as in the events before" if timed else "none, as in the events before"
        raise FieldError("timestamps_ns", Words("absent" if times is None else f"{len(times)} values"), allowed)
    if times is None:
        return
    if times.shape != (count,):
        raise FieldError("timestamps_ns", Words(f"{len(times)} values"), f"one per event ({count}) or none")
    outside = (times < -MAX_TIMESTAMP_NS) | (times > MAX_TIMESTAMP_NS)
    if outside.any():
        raise FieldError("timestamps_ns", int(times[outside][0]), "-2^62..2^62")
    before = times if last_timestamp_ns is None else np.concatenate([[last_timestamp_ns], times])
    backward = np.flatnonzero(before[1:] < before[:-1])
    if len(backward):
        first = int(backward[0])
        raise FieldError("timestamps_ns", int(before[first + 1]), f"at least the one before, {int(before[first])}")
