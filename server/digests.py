"""Fingerprints of a session's last events, which tell a repeat from a conflict.

Eight bytes per event, over its timestamp and values with every NaN and both zeros made the same. It knows nothing of
sessions or requests, only sequences. After Google's BigQuery Storage Write offsets and Kafka's idempotent producers,
with content compared where those compare numbers only.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import Events

REMEMBERED: Final = 4096


def digests(events: Events) -> NDArray[np.uint64]:
    """One number per event, uint64 [n]. Equal content gives equal numbers on every machine."""
    values = (np.where(np.isnan(events.values), np.nan, events.values) + 0.0).astype("<f8")  # -0.0 + 0.0 is 0.0
    columns = [values.view("<i8")]
    if events.timestamps_ns is not None:
        columns.insert(0, events.timestamps_ns.astype("<i8")[:, None])
    table = np.ascontiguousarray(np.concatenate(columns, axis=1))
    width, data = table.shape[1] * 8, table.tobytes()
    rows = (blake2b(data[at : at + width], digest_size=8).digest() for at in range(0, len(data), width))
    return np.frombuffer(b"".join(rows), dtype="<u8").astype(np.uint64)


class Ring:
    """The digests of sequences `oldest`..`last`, at most REMEMBERED of them; memory grows with use."""

    def __init__(self, last: int = 0, recent: NDArray[np.uint64] | None = None) -> None:
        recent = np.zeros(0, np.uint64) if recent is None else recent
        self.last, self._count = 0, 0
        self._cells = np.zeros(16, np.uint64)
        if len(recent):
            self.last = last - len(recent)
            self.append(recent)
        self.last = last

    @property
    def oldest(self) -> int:
        """First sequence remembered; last + 1 if none is."""
        return self.last - self._count + 1

    def append(self, new: NDArray[np.uint64]) -> None:
        """Remembers the digests of the events after `last`, forgetting the oldest."""
        count = min(REMEMBERED, self._count + len(new))
        if count > len(self._cells):
            kept = self.get(self.oldest, self._count)
            size = min(REMEMBERED, max(count, 2 * len(self._cells)))
            self._cells = np.zeros(size, np.uint64)
            self._cells[self._places(self.oldest, self._count)] = kept
        self.last += len(new)
        new = new[-REMEMBERED:]
        self._cells[self._places(self.last - len(new) + 1, len(new))] = new
        self._count = count

    def get(self, first: int, count: int) -> NDArray[np.uint64]:
        """Digests of `count` remembered events from sequence `first`."""
        return self._cells[self._places(first, count)]

    def recent(self, until: int | None = None) -> NDArray[np.uint64]:
        """All remembered digests, oldest first; those up to sequence `until` if that is given."""
        last = self.last if until is None else until
        return self.get(self.oldest, max(0, last - self.oldest + 1))

    def _places(self, first: int, count: int) -> NDArray[np.int64]:
        return (np.arange(count) + first) % len(self._cells)
