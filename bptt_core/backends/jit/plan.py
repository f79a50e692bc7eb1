"""What compiled code must know of a shape: sizes, offsets of fields and addresses of constants, as one record.

A stage has one record type, whatever the shape, so that it is compiled once. It is written here, in Python, from the
shapes the reference uses; nothing here is compiled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Plan:
    """One record, and the constant arrays that it holds the addresses of."""

    def __init__(self, names: Iterable[str]) -> None:
        self.dtype = np.dtype([(name, np.int64) for name in names])
        self._row = np.full(len(self.dtype.names or ()), -1, np.int64)  # -1: the shape has no such thing
        self._constants: list[NDArray[Any]] = []

    def set(self, **numbers: int) -> None:
        """Sizes, flags and offsets."""
        for name, number in numbers.items():
            self._row[self._place(name)] = number

    def keep(self, **constants: NDArray[Any]) -> None:
        """The addresses of constant arrays, which live as long as the plan. Their type is the caller's business."""
        for name, array in constants.items():
            constant = np.ascontiguousarray(array)
            self._constants.append(constant)
            self._row[self._place(name)] = constant.ctypes.data

    @property
    def row(self) -> NDArray[np.int64]:
        """The numbers in the order of the type's fields."""
        return self._row

    def _place(self, name: str) -> int:
        return (self.dtype.names or ()).index(name)


def table(plans: list[Plan]) -> NDArray[Any]:
    """Plans of one type as an array of records."""
    rows = np.stack([plan.row for plan in plans])
    records: NDArray[Any] = rows.view(plans[0].dtype)[:, 0]
    return records
