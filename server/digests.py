"""What is remembered of a session's last events: fingerprints, which tell a repeat from a conflict, and labels.

Eight bytes per event, over all that it says, with every NaN and both zeros made the same. It knows nothing of sessions
or requests, only sequences. After Google's BigQuery Storage Write offsets and Kafka's idempotent producers, with
content compared where those compare numbers only.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import Events

REMEMBERED: Final = 4096


def digests(events: Events) -> NDArray[np.uint64]:
    """One number per event, uint64 [n]. Equal content gives equal numbers on every machine.

    Labels that are not known count as NaN, so a session with labels must give a table of them with every event.
    """
    columns = [_as_integers(events.values)]
    if events.labels is not None:
        columns.append(_as_integers(events.labels))
    if events.timestamps_ns is not None:
        columns.append(events.timestamps_ns.astype("<i8")[:, None])
    starts = np.zeros(len(events)) if events.episode_start is None else events.episode_start
    columns.append(starts.astype("<i8")[:, None])
    table = np.ascontiguousarray(np.concatenate(columns, axis=1))
    width, data = table.shape[1] * 8, table.tobytes()
    rows = (blake2b(data[at : at + width], digest_size=8).digest() for at in range(0, len(data), width))
    return np.frombuffer(b"".join(rows), dtype="<u8").astype(np.uint64)


def _as_integers(table: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bits of numbers, one form for all that are equal."""
    one: NDArray[np.float64] = (np.where(np.isnan(table), np.nan, table) + 0.0).astype("<f8")  # -0.0 + 0.0 is 0.0
    return one.view("<i8")


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
        self.last += len(new)
        new = new[-self._limit :]
        self.put(_run(self.last - len(new) + 1, len(new)), new)
        self._count = count

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
