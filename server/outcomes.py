"""The memory of tables of outcomes: what they take, and how to keep a few rows without the rest."""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from bptt_core import Outcomes

_COLUMNS: Final = tuple(f.name for f in fields(Outcomes) if f.name != "first_sequence")


def copied(outs: Outcomes) -> Outcomes:
    """The same rows in memory of their own, so that they do not keep the table alive they were cut from."""
    return Outcomes(outs.first_sequence, *(getattr(outs, name).copy() for name in _COLUMNS))


def size_bytes(outs: Outcomes) -> int:
    """Memory of a table's rows."""
    return sum(getattr(outs, name).nbytes for name in _COLUMNS)
