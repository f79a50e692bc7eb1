"""A batch of events as it was sent, and as the tables that the core takes.

Whether there are as many numbers as there must be is decided here; what numbers are events is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bptt_core import Events, SessionConfig, Words
from server.errors import invalid_field


@dataclass(slots=True)
class Batch:
    """Consecutive events as a client sent them; `values` and `labels` are flat, row-major."""

    session_uid: str
    first_sequence: int
    values: NDArray[np.float64]
    timestamps_ns: NDArray[np.int64] | None
    labels: NDArray[np.float64] | None = None  # None: none is known
    episode_starts: NDArray[np.int64] | None = None  # positions in the batch; None: no episode begins

    @property
    def known_labels(self) -> int:
        """Labels that are not NaN."""
        return known(self.labels)

    @property
    def nbytes(self) -> int:
        """Memory of the events."""
        size = self.values.nbytes
        for column in (self.timestamps_ns, self.labels, self.episode_starts):
            if column is not None:
                size += column.nbytes
        return size


def known(labels: NDArray[np.float64] | None) -> int:
    """How many labels are not NaN."""
    return 0 if labels is None else int(np.count_nonzero(~np.isnan(labels)))


def shaped(config: SessionConfig, batch: Batch, most: int, within: str = "") -> Events:
    """The events of a batch as tables, at most so many; a session with labels always has a table of them.

    `within`: path of the message that has the fields. Raises Refusal.
    """
    width = len(config.features)
    if len(batch.values) == 0 or len(batch.values) % width:
        allowed = f"a positive multiple of the {width} features"
        raise invalid_field(f"{within}values", Words(f"{len(batch.values)} values"), allowed)
    count = len(batch.values) // width
    if count > most:
        raise invalid_field(f"{within}values", Words(f"{count} events"), f"at most {most} events per batch")
    labels, starts = batch.labels, batch.episode_starts
    return Events(
        batch.values.reshape(count, width),
        batch.timestamps_ns,
        None if labels is None and not config.labels else _label_table(labels, count, len(config.labels), within),
        None if starts is None else _episode_starts(starts, count, within),
    )


def _label_table(labels: NDArray[np.float64] | None, count: int, width: int, within: str) -> NDArray[np.float64]:
    if labels is None:
        return np.full((count, width), np.nan)
    if len(labels) != count * width:
        allowed = f"{count} rows of {width}, or none" if width else "none, as the session has no labels"
        raise invalid_field(f"{within}labels", Words(f"{len(labels)} values"), allowed)
    return labels.reshape(count, width)


def _episode_starts(positions: NDArray[np.int64], count: int, within: str) -> NDArray[np.bool_]:
    wrong = np.flatnonzero((positions >= count) | (np.diff(positions, prepend=-1) <= 0))
    if len(wrong):
        allowed = f"0..{count - 1}, positions in the batch, rising"
        raise invalid_field(f"{within}episode_starts", int(positions[wrong[0]]), allowed)
    starts = np.zeros(count, bool)
    starts[positions] = True
    return starts
