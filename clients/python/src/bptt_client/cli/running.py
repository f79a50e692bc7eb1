"""One series through one session: sends the rows, scores the replies as they come, and measures what it took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
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
    next_mean: Array  # [row, target], the forecast made at the row for the next one, or for its own label
    next_lower: Array
    next_upper: Array
    gradient_norm: Array  # [row]
    saturation: Array  # [row]
    update_ratio: Array  # [row]
    gradient_by_lag: list[Mapping[int, float]] = field(default_factory=list)  # as they were measured
    updates: Counter[str] = field(default_factory=Counter)
    clipped: int = 0
    events: int = 0
    seconds: float = 0.0
    round_trips_s: list[float] = field(default_factory=list)

    @classmethod
    def empty(cls, scorer: Scorer, rows: int, targets: int) -> Run:
        """A run of which nothing has happened yet."""
        return cls(scorer, *np.full((3, rows, targets), np.nan), *np.full((3, rows), np.nan))

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
        self.scorer.add(row, mean, lower, upper, np.asarray(outcomes.distribution).reshape(*shape, -1))
        part = slice(row, row + count)
        self.next_mean[part], self.next_lower[part], self.next_upper[part] = mean[:, 0], lower[:, 0], upper[:, 0]
        self.gradient_norm[part] = np.asarray(outcomes.gradient_norm)
        self.saturation[part] = np.asarray(outcomes.saturation)
        self.update_ratio[part] = np.asarray(outcomes.update_ratio)
        self.gradient_by_lag.extend(outcomes.gradient_by_lag.values())
        self.updates.update(outcomes.update_results)
        self.clipped += int((np.asarray(outcomes.clip_scale) < 1.0).sum())

    @property
    def skipped(self) -> int:
        """Updates that were due and did not happen."""
        return sum(n for name, n in self.updates.items() if name not in ("applied", "not_due"))


@dataclass(frozen=True, slots=True)
class Source:
    """What is sent: `values` [row, feature], `times_ns` by row or None, `labels` [row, label], those of row r
    `label_delay` rows after it (0: with it).
    """

    values: Array
    times_ns: list[int] | None
    labels: Array
    label_delay: int = 0

    def label_rows(self, start: int, stop: int) -> list[list[float]] | None:
        """The labels of some rows; None in a source without."""
        return self.labels[start:stop].tolist() if self.labels.shape[1] else None


def batch_at(rate: float | None, batch: int) -> int:
    """The size of batches at so many events per second: a reply waits for its batch to fill, 50 ms at most."""
    return batch if rate is None else max(1, min(batch, int(rate / 20.0)))


def known_labels(rows: int, start: int, batch: int, delay: int) -> NDArray[np.int64]:
    """For each row the last one whose label is known when its own is predicted, -1 before the first. Rows go from
    `start` on, `batch` at a time where labels come late.
    """
    row = np.arange(rows)
    if delay:
        row = start + (row - start) // batch * batch
    return np.maximum(row - 1 - delay, -1)


def stream_rows(
    handle: SessionHandle,
    source: Source,
    run: Run,
    *,
    start: int,
    batch: int,
    rate: float | None,
    progress: Callable[[int], Any],
) -> None:
    """Sends the rows from `start` on and fills `run`; `progress` is told how many rows have been acknowledged."""
    first_sequence = handle.last_sequence + 1
    rows = source.values.tolist()
    paced = rows if rate is None else _paced(rows, start, rate)
    began = time.perf_counter()

    def on_batch(result: BatchResult) -> None:
        run.take(result, first_sequence, start)
        progress(start + result.last_sequence - first_sequence + 1)

    try:
        if source.label_delay:
            _with_late_labels(handle, source, islice(paced, start, None), start, batch, on_batch)
        else:
            handle.learn_many(
                paced,
                timestamps=source.times_ns,
                labels=source.label_rows(0, len(rows)),
                start=start,
                batch=batch,
                reply="every",
                on_batch=on_batch,
                in_flight=BATCHES_IN_FLIGHT * batch,
            )
    finally:
        run.seconds = time.perf_counter() - began
        run.events = handle.last_sequence - first_sequence + 1


def _with_late_labels(
    handle: SessionHandle,
    source: Source,
    rows: Iterator[list[float]],
    start: int,
    batch: int,
    on_batch: Callable[[BatchResult], None],
) -> None:
    """One batch at a time; when it is answered, the labels that are due by then."""
    sequence_of_row_0 = handle.last_sequence + 1 - start
    labelled = max(0, start - source.label_delay, 1 - sequence_of_row_0)
    with handle.stream(reply="every", batch=batch) as stream:
        for first in range(start, len(source.values), batch):
            for row, values in enumerate(islice(rows, batch), first):
                stream.send(values, None if source.times_ns is None else source.times_ns[row])
            stream.flush()
            for result in stream.results():
                on_batch(result)
            due = min(first + batch, len(source.values)) - source.label_delay
            if due > labelled:
                labels = source.label_rows(labelled, due) or []
                handle.label_many(dict(enumerate(labels, sequence_of_row_0 + labelled)))
                labelled = due


def _paced(rows: list[list[float]], start: int, rate: float) -> Iterator[list[float]]:
    began = time.monotonic()
    for i, row in enumerate(rows):
        wait = began + (i - start) / rate - time.monotonic()
        if wait > 0.0:
            time.sleep(wait)
        yield row
