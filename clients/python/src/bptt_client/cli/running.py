"""One series through one session: sends the rows, scores the replies as they come, and measures what it took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt_client import BatchResult, SessionHandle
from bptt_client.cli.scoring import Scorer

Array = NDArray[np.float64]
# Two batches in flight keep the server busy; more would only make the round trips longer.
BATCHES_IN_FLIGHT = 2


@dataclass(slots=True)
class Run:
    """What a run left behind. Arrays are by row; NaN where no reply spoke of the row."""

    scorer: Scorer
    next_mean: Array  # [row, target], the forecast made at the row for the next one
    next_lower: Array
    next_upper: Array
    gradient_norm: Array  # [row]
    updates: Counter[str] = field(default_factory=Counter)
    clipped: int = 0
    events: int = 0
    seconds: float = 0.0
    round_trips_s: list[float] = field(default_factory=list)

    @classmethod
    def empty(cls, scorer: Scorer, rows: int, targets: int) -> Run:
        """A run of which nothing has happened yet."""
        mean, lower, upper = np.full((3, rows, targets), np.nan)
        return cls(scorer, mean, lower, upper, np.full(rows, np.nan))

    def take(self, result: BatchResult, first_sequence: int, first_row: int) -> None:
        """Takes the answer to one batch; `first_sequence` was the event of row `first_row`."""
        self.round_trips_s.append(result.round_trip_s)
        outcomes = result.outcomes
        if outcomes is None or not len(outcomes):
            return
        count, row = len(outcomes), first_row + outcomes.first_sequence - first_sequence
        shape = (count, outcomes.horizon, len(outcomes.targets))
        mean, lower, upper = (
            np.asarray(column).reshape(shape) for column in (outcomes.mean, outcomes.lower, outcomes.upper)
        )
        self.scorer.add(row, mean, lower, upper)
        part = slice(row, row + count)
        self.next_mean[part], self.next_lower[part], self.next_upper[part] = mean[:, 0], lower[:, 0], upper[:, 0]
        self.gradient_norm[part] = np.asarray(outcomes.gradient_norm)
        self.updates.update(outcomes.update_results)
        self.clipped += int((np.asarray(outcomes.clip_scale) < 1.0).sum())

    @property
    def skipped(self) -> int:
        """Updates that were due and did not happen."""
        return sum(n for name, n in self.updates.items() if name not in ("applied", "not_due"))


def stream_rows(
    handle: SessionHandle,
    values: Array,
    times_ns: list[int] | None,
    run: Run,
    *,
    start: int,
    batch: int,
    rate: float | None,
    progress: Callable[[int], Any],
) -> None:
    """Sends the rows from `start` on and fills `run`; `progress` is told how many rows have been acknowledged."""
    first_sequence = handle.last_sequence + 1
    if rate is not None:
        batch = max(1, min(batch, int(rate / 20.0)))  # a reply waits for its batch to fill: 50 ms at most
    rows = values.tolist()
    began = time.perf_counter()

    def on_batch(result: BatchResult) -> None:
        run.take(result, first_sequence, start)
        progress(start + result.last_sequence - first_sequence + 1)

    try:
        handle.learn_many(
            rows if rate is None else _paced(rows, start, rate),
            timestamps=times_ns,
            start=start,
            batch=batch,
            reply="every",
            on_batch=on_batch,
            in_flight=BATCHES_IN_FLIGHT * batch,
        )
    finally:
        run.seconds = time.perf_counter() - began
        run.events = handle.last_sequence - first_sequence + 1


def _paced(rows: list[list[float]], start: int, rate: float) -> Iterator[list[float]]:
    began = time.monotonic()
    for i, row in enumerate(rows):
        wait = began + (i - start) / rate - time.monotonic()
        if wait > 0.0:
            time.sleep(wait)
        yield row
