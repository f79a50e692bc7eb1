"""One series through one session, or through several in turn: sends the rows, scores the replies as they come, and
measures what it took.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt_client import BatchResult, SessionHandle, Stream
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
    anomaly_score: Array  # [row, target], of the row's own value
    gradient_norm: Array  # [row]
    saturation: Array  # [row]
    update_ratio: Array  # [row]
    gradient_by_lag: list[Mapping[int, float]] = field(default_factory=list)  # as they were measured
    updates: Counter[str] = field(default_factory=Counter)
    clipped: int = 0
    anomalies: int = 0  # events with a score above 1
    drifts: int = 0
    resets: Counter[str] = field(default_factory=Counter)  # of learners, by reason
    events: int = 0
    seconds: float = 0.0
    round_trips_s: list[float] = field(default_factory=list)

    @classmethod
    def empty(cls, scorer: Scorer, rows: int, targets: int) -> Run:
        """A run of which nothing has happened yet."""
        return cls(scorer, *np.full((4, rows, targets), np.nan), *np.full((3, rows), np.nan))

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
        self.anomaly_score[part] = np.asarray(outcomes.target_anomaly_score).reshape(count, -1)
        self.gradient_norm[part] = np.asarray(outcomes.gradient_norm)
        self.saturation[part] = np.asarray(outcomes.saturation)
        self.update_ratio[part] = np.asarray(outcomes.update_ratio)
        self.gradient_by_lag.extend(outcomes.gradient_by_lag.values())
        self.updates.update(outcomes.update_results)
        self.clipped += int((np.asarray(outcomes.clip_scale) < 1.0).sum())
        self.anomalies += int((np.asarray(outcomes.anomaly_score) > 1.0).sum())
        self.drifts += sum(outcomes.drift)
        self.resets.update(reset.reason for resets in outcomes.learner_resets.values() for reset in resets)

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
    began = time.perf_counter()

    def on_batch(result: BatchResult) -> None:
        run.take(result, first_sequence, start)
        progress(start + result.last_sequence - first_sequence + 1)

    try:
        if source.label_delay:
            stream_in_turn([(handle, run)], source, start=start, batch=batch, rate=rate, progress=progress)
        else:
            handle.learn_many(
                _paced(source.values.tolist(), start, rate),
                timestamps=source.times_ns,
                labels=source.label_rows(0, len(source.values)),
                start=start,
                batch=batch,
                reply="every",
                on_batch=on_batch,
                in_flight=BATCHES_IN_FLIGHT * batch,
            )
    finally:
        run.seconds = time.perf_counter() - began
        run.events = handle.last_sequence - first_sequence + 1


def stream_in_turn(
    runs: Sequence[tuple[SessionHandle, Run]],
    source: Source,
    *,
    start: int,
    batch: int,
    rate: float | None,
    progress: Callable[[int], Any],
) -> None:
    """Sends the rows from `start` on to several sessions, batch by batch: each batch, and the labels that are due when
    it is answered, to one session after the other. `Run.seconds` is what each session took for itself.
    """
    rows = islice(_paced(source.values.tolist(), start, rate), start, None)
    with ExitStack() as stack:
        turns = []
        for handle, run in runs:
            stream = stack.enter_context(handle.stream(reply="every", batch=batch, live=False))
            turns.append(_Turns(handle, run, stream, source, start))
        for first in range(start, len(source.values), batch):
            sent = list(islice(rows, batch))
            for one in turns:
                one.take(first, sent)
            progress(first + len(sent))


class _Turns:
    """One session of several, through a stream that is open."""

    def __init__(self, handle: SessionHandle, run: Run, stream: Stream, source: Source, start: int) -> None:
        self._handle, self._run, self._stream, self._source, self._start = handle, run, stream, source, start
        self._first_sequence = handle.last_sequence + 1
        self._labelled = max(0, start - source.label_delay, 1 - (self._first_sequence - start))

    def take(self, first: int, rows: list[list[float]]) -> None:
        """Sends the rows from row `first` on, and waits for the answers."""
        began, source, behind = time.perf_counter(), self._source, first + len(rows)
        labels = None if source.label_delay else source.label_rows(first, behind)
        for i, values in enumerate(rows):
            timestamp = None if source.times_ns is None else source.times_ns[first + i]
            self._stream.send(values, timestamp, None if labels is None else labels[i])
        self._stream.flush()
        for result in self._stream.results():
            self._run.take(result, self._first_sequence, self._start)
        if source.label_delay:
            self._tell_labels(behind - source.label_delay)
        self._run.seconds += time.perf_counter() - began
        self._run.events = self._handle.last_sequence - self._first_sequence + 1

    def _tell_labels(self, due: int) -> None:
        """Tells the labels of the rows before `due` that were not told yet."""
        if due > self._labelled:
            labels = self._source.label_rows(self._labelled, due) or []
            self._handle.label_many(dict(enumerate(labels, self._first_sequence - self._start + self._labelled)))
            self._labelled = due


def _paced(rows: list[list[float]], start: int, rate: float | None) -> Iterator[list[float]]:
    """The rows, those from `start` on no faster than `rate` a second."""
    began = time.monotonic()
    for i, row in enumerate(rows):
        wait = 0.0 if rate is None else began + (i - start) / rate - time.monotonic()
        if wait > 0.0:
            time.sleep(wait)
        yield row
