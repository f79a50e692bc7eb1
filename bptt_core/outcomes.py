"""What the fold says of events: a table of columns, and cuts of a table that many sessions share.

To make an array of every column for every session takes longer than the sessions' steps, so the compiled fold writes
one piece of memory for all, and arrays are made when they are asked for. Knows names and types, not what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.slab import Field


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the fold returns for n consecutive events: H horizons, O targets, M learners; see `bptt.v1.Outcomes`."""

    first_sequence: int
    mean: NDArray[np.float64]  # [n, H, O] original units; NaN: target never seen
    lower: NDArray[np.float64]  # [n, H, O]; NaN in warm-up and for symbols
    upper: NDArray[np.float64]  # [n, H, O]; NaN in warm-up and for symbols
    distribution: NDArray[np.float64]  # [n, H, O, Q] quantiles or probabilities; Q = 0: the loss learns none
    anomaly_score: NDArray[np.float64]  # [n]
    target_anomaly_score: NDArray[np.float64]  # [n, O]
    anomaly_likelihood: NDArray[np.float64]  # [n]; 0 for symbols
    sensor_state: NDArray[np.int8]  # [n, O] SensorState; [n, 0] with labels and for symbols
    drift: NDArray[np.bool_]  # [n]
    warming_up: NDArray[np.bool_]  # [n]
    update_result: NDArray[np.int8]  # [n] UpdateResult
    loss: NDArray[np.float32]  # [n]; NaN without an update
    gradient_norm: NDArray[np.float32]  # [n]; before the clip; NaN without an update
    clip_scale: NDArray[np.float32]  # [n]; norm after the clip over norm before; NaN without an update
    saturation: NDArray[np.float32]  # [n]; share of saturated units; NaN without an update
    update_ratio: NDArray[np.float32]  # [n]; change of the parameters over their norm; NaN without an update
    norm_by_lag: NDArray[np.float32]  # [n, lags]; at every 64th update, else NaN; `tbptt.lags` names the lags
    learner_reset: NDArray[np.int8]  # [n, M]; ResetReason, or 0

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

    @property
    def source(self) -> object:
        """What all cuts of one table have in common."""
        return self

    @property
    def table(self) -> Outcomes:
        """The table that they were cut from; themselves if they are one."""
        return self

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """H, O, Q and how many sensors have a state."""
        return *self.mean.shape[1:], self.distribution.shape[3], self.sensor_state.shape[1]

    def pieces(self, first: int = 0) -> list[bytes]:
        """The columns from there on as bytes, in their order."""
        return [getattr(self, name).tobytes() for name in COLUMNS[first:]]

    def woven(self, heads: tuple[bytes, ...]) -> bytes:
        """The first columns as bytes, each behind one of the heads."""
        return weave(heads, self.pieces())

    @staticmethod
    def joined(parts: list[Outcomes]) -> Outcomes:
        """Consecutive tables as one."""
        if len(parts) == 1:
            return parts[0]
        columns = (np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS)
        return Outcomes(parts[0].first_sequence, *columns)


def weave(heads: tuple[bytes, ...], pieces: list[bytes]) -> bytes:
    """The first pieces one after the other, each behind one of the heads."""
    return b"".join([part for pair in zip(heads, pieces, strict=False) for part in pair])


COLUMNS: Final = tuple(f.name for f in fields(Outcomes) if f.name != "first_sequence")
_FEW: Final = 4  # rows that are not worth weaving together
_PLACES: Final = {name: place for place, name in enumerate(COLUMNS)}


class Columns:
    """How the columns of outcomes of one shape lie in memory."""

    def __init__(self, described: list[Field]) -> None:
        """`described`: in the order of `COLUMNS`, whatever their names."""
        self.types = [(f.shape, f.dtype) for f in described]
        self.bytes = [f.bytes for f in described]
        shapes = dict(zip(COLUMNS, (f.shape for f in described), strict=True))
        horizon, targets, numbers = shapes["distribution"]
        self.sizes = horizon, targets, numbers, shapes["sensor_state"][0]
        # Of each the bytes that a row has in the columns before it, and of all. Those of the largest numbers come
        # first, so that all lie where such numbers may.
        self.before = np.zeros(len(described) + 1, np.int64)
        for place in sorted(range(len(described)), key=lambda place: -np.dtype(described[place].dtype).itemsize):
            self.before[place] = self.before[-1]
            self.before[-1] += self.bytes[place]


class Table:
    """Outcomes of sessions of one shape in one piece of memory, column after column."""

    __slots__ = ("_raw", "_rows", "columns", "cuts", "memory", "rows", "starts")

    def __init__(self, columns: Columns, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.starts: list[int] = (columns.before * rows).tolist()
        self.memory = np.empty(self.starts[-1], np.uint8)
        self.cuts = 0
        self._raw: bytes | None = None
        self._rows: list[bytes] | None = None

    def column(self, place: int) -> NDArray[Any]:
        """[rows, …], as a view."""
        shape, dtype = self.columns.types[place]
        return np.ndarray((self.rows, *shape), dtype, self.memory, self.starts[place])

    def pieces(self, start: int, stop: int, first: int = 0) -> list[bytes]:
        """Rows start..stop of every column from `first` on, as bytes."""
        if self._raw is None:
            self._raw = self.memory.tobytes()
        raw, sizes = self._raw, self.columns.bytes
        return [raw[at + start * size : at + stop * size] for at, size in zip(self.starts[first:], sizes[first:])]  # noqa: B905

    def row(self, place: int, heads: tuple[bytes, ...]) -> bytes:
        """What `woven` is of one row. Where nearly all cuts are of one row, all are woven together, which is quicker;
        the heads are the same each time then."""
        if not _FEW < self.rows < 2 * self.cuts:
            return weave(heads, self.pieces(place, place + 1))
        if self._rows is None:
            self._rows = self._woven_rows(heads)
        return self._rows[place]

    def _woven_rows(self, heads: tuple[bytes, ...]) -> list[bytes]:
        sizes = self.columns.bytes
        pattern = weave(heads, [bytes(size) for size in sizes])
        rows = np.empty((self.rows, len(pattern)), np.uint8)
        rows[:] = np.frombuffer(pattern, np.uint8)
        end = 0
        for head, start, size in zip(heads, self.starts, sizes, strict=False):
            first, end = end + len(head), end + len(head) + size
            if size:
                rows[:, first:end] = self.memory[start : start + self.rows * size].reshape(self.rows, size)
        raw = rows.tobytes()
        return [raw[at : at + end] for at in range(0, len(raw), end)]

    def cut(self, first_sequence: int, start: int, stop: int) -> Outcomes:
        """Rows start..stop."""
        self.cuts += 1
        return _Cut(first_sequence, self, start, stop)


class _Cut(Outcomes):
    """Rows of a table."""

    __slots__ = ("_start", "_stop", "_table")
    _start: int
    _stop: int
    _table: Table

    def __init__(self, first_sequence: int, table: Table, start: int, stop: int) -> None:
        put = object.__setattr__
        put(self, "first_sequence", first_sequence)
        put(self, "_table", table)
        put(self, "_start", start)
        put(self, "_stop", stop)

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name not in _PLACES:
            raise AttributeError(name)
        column = self._table.column(_PLACES[name])[self._start : self._stop]
        object.__setattr__(self, name, column)
        return column

    def __len__(self) -> int:
        return self._stop - self._start

    def rows(self, start: int, stop: int) -> Outcomes:
        return _Cut(self.first_sequence + start, self._table, self._start + start, self._start + stop)

    def copied(self) -> Outcomes:
        own, columns = Table(self._table.columns, len(self)), self._table.columns
        for place, size in enumerate(columns.bytes):
            here, there = own.starts[place], self._table.starts[place] + self._start * size
            own.memory[here : here + len(self) * size] = self._table.memory[there : there + len(self) * size]
        return own.cut(self.first_sequence, 0, len(self))

    @property
    def nbytes(self) -> int:
        return len(self) * self._table.memory.size // max(1, self._table.rows)

    @property
    def source(self) -> object:
        return self._table

    @property
    def table(self) -> Outcomes:
        return _Cut(0, self._table, 0, self._table.rows)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self._table.columns.sizes

    def pieces(self, first: int = 0) -> list[bytes]:
        return self._table.pieces(self._start, self._stop, first)

    def woven(self, heads: tuple[bytes, ...]) -> bytes:
        if self._stop - self._start == 1:
            return self._table.row(self._start, heads)
        return weave(heads, self.pieces())
