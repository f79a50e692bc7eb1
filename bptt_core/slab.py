"""Slabs: the state of many equal sessions as named arrays [slot, …], a slot being one session's row in each.

A stage of the fold declares its state as fields; nothing else holds state. So a checkpoint is a slot's row in every
field, a micro-batch is the rows of some slots, and a new field is saved, restored and copied without further code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import Array

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


class Slab:
    """Arrays [capacity, …] of one array module, growing by doubling; freed slots are used again."""

    def __init__(self, xp: Any, fields: list[Field]) -> None:
        self.xp, self.fields = xp, fields
        self._capacity = 0
        self._free: list[int] = []
        self._arrays: Rows = {f.name: xp.empty((0, *f.shape), f.dtype) for f in fields}

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

    def take(self, slots: NDArray[np.int64], names: tuple[str, ...] | None = None) -> Rows:
        """Copies of the rows of `slots`, in that order; of the fields `names` only, if given."""
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
        larger = {f.name: self.xp.empty((capacity, *f.shape), f.dtype) for f in self.fields}
        for name, array in larger.items():  # nothing has changed if there was no memory for one of them
            array[: self._capacity] = self._arrays[name]
        self._arrays = larger
        self._free.extend(range(capacity - 1, self._capacity - 1, -1))
        self._capacity = capacity


def first(rows: Rows, count: int) -> Rows:
    """The first `count` rows of every field, as views."""
    return {name: row[:count] for name, row in rows.items()}
