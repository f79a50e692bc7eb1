"""Cutting and joining tables of outcomes by row, whatever their columns."""

from __future__ import annotations

from dataclasses import fields
from typing import Final

import numpy as np

from bptt_core import Outcomes

_COLUMNS: Final = tuple(f.name for f in fields(Outcomes) if f.name != "first_sequence")


def rows(outs: Outcomes, start: int, stop: int) -> Outcomes:
    """Rows start..stop of a table, as views."""
    return Outcomes(outs.first_sequence + start, *(getattr(outs, name)[start:stop] for name in _COLUMNS))


def copied(outs: Outcomes) -> Outcomes:
    """The same rows in memory of their own, so that they do not keep the table alive they were cut from."""
    return Outcomes(outs.first_sequence, *(getattr(outs, name).copy() for name in _COLUMNS))


def joined(parts: list[Outcomes]) -> Outcomes:
    """Consecutive tables as one."""
    if len(parts) == 1:
        return parts[0]
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS)
    return Outcomes(parts[0].first_sequence, *columns)


def size_bytes(outs: Outcomes) -> int:
    """Memory of a table's rows."""
    return sum(getattr(outs, name).nbytes for name in _COLUMNS)
