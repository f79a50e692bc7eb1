"""Slabs: the state of many equal sessions as named arrays [slot, …], a slot being one session's row of bytes.

A stage of the fold declares its state as fields; nothing else holds state. So a checkpoint is a slot's row in every
field, a micro-batch is the rows of some slots, and a new field is saved, restored and copied without further code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import Array

LINE: Final = 64  # bytes of a cache line

Rows = dict[str, Array]  # field name → [B, …]


@dataclass(frozen=True, slots=True)
class Field:
    """One named array of a slot: its shape and type without the slot axis, and the value it starts with."""

    name: str
    shape: tuple[int, ...]
    dtype: type
    start: float = 0

    @property
    def bytes(self) -> int:
        """Size of one slot."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Layout:
    """Where the fields of one slot lie in a row of bytes. Arrays begin on cache lines of their own, numbers side by
    side."""

    offsets: dict[str, int]
    bytes: int

    @classmethod
    def of(cls, fields: list[Field]) -> Layout:
        """Small fields first, so that they share cache lines; a row is a whole number of lines."""
        offsets, end = {}, 0
        for f in sorted(fields, key=lambda f: (f.bytes >= LINE, -np.dtype(f.dtype).itemsize)):
            step = LINE if f.bytes >= LINE else np.dtype(f.dtype).itemsize
            offsets[f.name] = -(-end // step) * step
            end = offsets[f.name] + f.bytes
        return cls(offsets, -(-end // LINE) * LINE)


class Slab:
    """Rows [capacity, bytes] of one array module, growing by doubling; freed slots are used again.

    A field of all slots is a strided view of the rows, so that what a slot holds lies together.
    """

    def __init__(self, xp: Any, fields: list[Field]) -> None:
        self.xp, self.fields, self.layout = xp, fields, Layout.of(fields)
        types = {np.dtype(f.dtype) for f in fields}
        # Of one type where all fields are: such rows need no reinterpretation, which not every array module has.
        self._unit = types.pop() if len(types) == 1 else np.dtype(np.uint8)
        self._capacity = 0
        self._free: list[int] = []
        self._rows: Array = None
        self._arrays: Rows = {}
        self._hold(self._empty(0))

    def allocate(self) -> int:
        """A slot whose every field holds its start value."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        for f in self.fields:
            self._arrays[f.name][slot] = f.start
        return slot

    def release(self, slot: int) -> None:
        """Gives a slot back; its content is no longer anybody's."""
        self._free.append(slot)

    @property
    def empty(self) -> bool:
        """No slot is in use."""
        return len(self._free) == self._capacity

    @property
    def used(self) -> NDArray[np.int64]:
        """The slots in use, rising."""
        return np.setdiff1d(np.arange(self._capacity), self._free)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    @property
    def rows(self) -> Array:
        """All rows as they lie in memory, [capacity, bytes or numbers]; not to be kept, as growth replaces them."""
        return self._rows

    def addresses(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows of `slots` begin in NumPy's memory; good until the next `allocate`."""
        first: int = self._rows.ctypes.data
        return first + self.layout.bytes * slots

    def take(self, slots: NDArray[np.int64], names: tuple[str, ...] | None = None) -> Rows:
        """Copies of the rows of `slots`, in that order, each field contiguous; of the fields `names` only, if given."""
        index = self._index(slots)
        rows = {name: self._arrays[name][index] for name in names or self._arrays}
        return rows if len(slots) > 1 else {name: row.copy() for name, row in rows.items()}

    def put(self, slots: NDArray[np.int64], rows: Rows) -> None:
        """Writes rows taken before, or parts of them by name, back to `slots` (each at most once)."""
        index = self._index(slots)
        for name, row in rows.items():
            self._arrays[name][index] = row

    def get(self, name: str, slot: int) -> Any:
        """One field of one slot: a view, or a scalar."""
        return self._arrays[name][slot]

    def set(self, name: str, slot: int, value: Any) -> None:
        """Writes one field of one slot; `value` may be NumPy's on any backend."""
        self._arrays[name][slot] = self.xp.asarray(value)

    def _index(self, slots: NDArray[np.int64]) -> Any:
        """An index of those slots; a slice if it can be, which is several times faster."""
        if len(slots) == 1:
            return slice(int(slots[0]), int(slots[0]) + 1)
        return self.xp.asarray(slots)

    def _grow(self) -> None:
        capacity = max(1, 2 * self._capacity)
        larger = self._empty(capacity)  # nothing has changed if there was no memory for it
        larger[: self._capacity] = self._rows
        self._hold(larger)
        self._free.extend(range(capacity - 1, self._capacity - 1, -1))
        self._capacity = capacity

    def _empty(self, capacity: int) -> Array:
        """Rows that begin on a cache line, where the array module lets one see where they begin."""
        width, unit = self.layout.bytes // self._unit.itemsize, self._unit
        spare = self.xp.empty((capacity * width + LINE // unit.itemsize,), unit)
        start = -spare.ctypes.data % LINE // unit.itemsize if isinstance(spare, np.ndarray) else 0
        return spare[start : start + capacity * width].reshape(capacity, width)

    def _hold(self, rows: Array) -> None:
        self._rows = rows
        for f in self.fields:
            start = self.layout.offsets[f.name] // self._unit.itemsize
            part = rows[:, start : start + f.bytes // self._unit.itemsize]
            typed = part if self._unit == f.dtype else part.view(f.dtype)
            self._arrays[f.name] = typed.reshape(len(rows), *f.shape)


def first(rows: Rows, count: int) -> Rows:
    """The first `count` rows of every field, as views."""
    return {name: row[:count] for name, row in rows.items()}
