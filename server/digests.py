"""What is remembered of a session's last events: fingerprints, which tell a repeat from a conflict, and labels.

Eight bytes per event, over all that it says, with every NaN and both zeros made the same. It knows nothing of sessions
or requests, only sequences. After Google's BigQuery Storage Write offsets and Kafka's idempotent producers, with
content compared where those compare numbers only.
"""

from __future__ import annotations

import math
import struct
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import Events

REMEMBERED: Final = 4096
_NO_START: Final = bytes(8)  # what stands last for an event that begins no episode


def digests(events: Events) -> NDArray[np.uint64]:
    """One number per event, uint64 [n]. Equal content gives equal numbers on every machine.

    Labels that are not known count as NaN, so a session with labels must give a table of them with every event.
    """
    values_alone = events.labels is None and events.timestamps_ns is None and events.episode_start is None
    if values_alone and len(events) == 1:
        return _of_one(events.values[0].tolist())
    table, rest = _bits(events.values), _NO_START
    columns: list[NDArray[np.int64]] = []
    if events.labels is not None:
        columns.append(_bits(events.labels))
    if events.timestamps_ns is not None:
        columns.append(events.timestamps_ns[:, None])
    if events.episode_start is not None:
        columns.append(events.episode_start[:, None].astype(np.int64))
        rest = b""
    if columns:
        table = np.concatenate([table, *columns], axis=1)
    width, data = table.shape[1] * 8, table.astype("<i8", copy=False).tobytes()
    rows = [blake2b(data[at : at + width] + rest, digest_size=8).digest() for at in range(0, len(data), width)]
    return np.frombuffer(b"".join(rows), dtype="<u8").astype(np.uint64, copy=False)


def _of_one(values: list[float]) -> NDArray[np.uint64]:
    """The same for one event of values alone, as most are: quicker than by way of a table."""
    numbers = [value + 0.0 if value == value else math.nan for value in values]
    data = struct.pack(f"<{len(numbers)}d", *numbers) + _NO_START
    return np.frombuffer(blake2b(data, digest_size=8).digest(), dtype="<u8").astype(np.uint64, copy=False)


def _bits(table: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers as integers, one for all that are equal."""
    numbers = table + 0.0  # -0.0 + 0.0 is 0.0
    if np.isnan(np.add.reduce(numbers, axis=None)):
        numbers[np.isnan(numbers)] = np.nan
    return numbers.view(np.int64)


class Ring:
    """One row (a digest, or an event's labels) of each of the sequences `oldest`..`last`, at most `limit` of them;
    memory grows with use."""

    def __init__(self, last: int = 0, recent: NDArray[Any] | None = None, limit: int = REMEMBERED) -> None:
        """Begins with the rows `recent` [n, …] of the sequences up to `last`; None: digests, of which there is none."""
        recent = np.zeros(0, np.uint64) if recent is None else recent
        self.last, self._count, self._limit = last - len(recent), 0, limit
        self._cells = np.zeros((min(16, limit), *recent.shape[1:]), recent.dtype)
        self.append(recent)

    @property
    def oldest(self) -> int:
        """First sequence remembered; last + 1 if none is."""
        return self.last - self._count + 1

    def append(self, new: NDArray[Any]) -> None:
        """Remembers the rows of the events after `last`, forgetting the oldest."""
        count = min(self._limit, self._count + len(new))
        if count > len(self._cells):
            kept = self.get(self.oldest, self._count)
            size = min(self._limit, max(count, 2 * len(self._cells)))
            self._cells = np.zeros((size, *kept.shape[1:]), kept.dtype)
            self.put(_run(self.oldest, len(kept)), kept)
        at = (self.last + 1) % len(self._cells)
        self.last += len(new)
        self._count = count
        if at + len(new) <= len(self._cells):
            self._cells[at : at + len(new)] = new
        else:
            new = new[-self._limit :]
            self.put(_run(self.last - len(new) + 1, len(new)), new)

    def get(self, first: int, count: int) -> NDArray[Any]:
        """Rows of `count` remembered events from sequence `first`."""
        return self.at(_run(first, count))

    def at(self, sequences: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of remembered events."""
        rows: NDArray[Any] = self._cells[sequences % len(self._cells)]
        return rows

    def put(self, sequences: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Replaces rows of remembered events."""
        self._cells[sequences % len(self._cells)] = rows

    def recent(self, until: int | None = None) -> NDArray[Any]:
        """All remembered rows, oldest first; those up to sequence `until` if that is given."""
        last = self.last if until is None else until
        return self.get(self.oldest, max(0, last - self.oldest + 1))


def _run(first: int, count: int) -> NDArray[np.int64]:
    return np.arange(first, first + count)
