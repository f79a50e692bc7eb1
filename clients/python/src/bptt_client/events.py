"""Events on their way out: the caller's rows with what belongs to each, encoded one by one, gathered by column.

Rows, times, labels and episode starts come as the caller has them, and leave as an `EventBatch`. Does no I/O and knows
no session beyond what its handle knows.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple, SupportsIndex

from bptt.v1 import forecast_pb2
from bptt_client.answers import Known
from bptt_client.rows import Row, Time, encode_row, encode_time


class Given(NamedTuple):
    """One event as the caller has it. `labels` None: none is known."""

    row: Row
    timestamp: Time | None = None
    labels: Row | None = None
    new_episode: bool = False


class Event(NamedTuple):
    """One event as it travels; `labels` is empty in a session without."""

    values: array[float]
    time_ns: int | None
    labels: array[float]
    new_episode: bool


def encode(given: Given, known: Known) -> Event:
    """The columns of one event. Raises TypeError or ValueError."""
    if given.labels is not None and not known.labels.names:
        raise ValueError("labels are given; allowed: none, as the session has no labels")
    # All labels missing is said in one way only: a repeat must look like what was sent before.
    labels = encode_row({} if given.labels is None else given.labels, known.labels)
    return Event(encode_row(given.row, known.features), encode_time(given.timestamp), labels, bool(given.new_episode))


@dataclass(slots=True)
class Batch:
    """Consecutive events by column, the first with sequence `first`. `starts` are positions of new episodes."""

    first: int
    values: array[float] = field(default_factory=lambda: array("d"))
    times: array[int] = field(default_factory=lambda: array("q"))
    labels: array[float] = field(default_factory=lambda: array("d"))
    starts: list[int] = field(default_factory=list)
    count: int = 0
    sent_at: float = 0.0

    @property
    def last(self) -> int:
        """Sequence of the last event."""
        return self.first + self.count - 1

    def add(self, event: Event) -> None:
        """Takes one more event."""
        self.values.extend(event.values)
        self.labels.extend(event.labels)
        if event.time_ns is not None:
            self.times.append(event.time_ns)
        if event.new_episode:
            self.starts.append(self.count)
        self.count += 1

    def split(self, most: int) -> list[Batch]:
        """The same events in batches of at most `most`."""
        return [self._part(start, min(start + most, self.count)) for start in range(0, self.count, most)]

    def _part(self, start: int, stop: int) -> Batch:
        width, labels = len(self.values) // self.count, len(self.labels) // self.count
        return Batch(
            self.first + start,
            self.values[start * width : stop * width],
            self.times[start:stop],
            self.labels[start * labels : stop * labels],
            [position - start for position in self.starts if start <= position < stop],
            stop - start,
        )

    def message(self, uid: str) -> forecast_pb2.EventBatch:
        """The batch as it travels, for the incarnation `uid`."""
        return forecast_pb2.EventBatch(
            session_uid=uid,
            first_sequence=self.first,
            timestamps_ns=self.times,
            values=self.values,
            labels=self.labels,
            episode_starts=self.starts,
        )


def gathered(known: Known, first: int, given: Iterable[Given]) -> Batch:
    """Events, encoded, as one batch. Raises TypeError or ValueError."""
    batch, timed = Batch(first), None
    for one in given:
        event = encode(one, known)
        timed = timed_as_before(timed, event)
        batch.add(event)
    return batch


def timed_as_before(before: bool | None, event: Event) -> bool:
    """Whether events have times, given whether those `before` had (None: there were none). Raises ValueError if only
    some do.
    """
    timed = event.time_ns is not None
    if before not in (None, timed):
        raise ValueError("only some rows have a timestamp; allowed: all rows or none")
    return timed


def paired(
    rows: Iterable[Row],
    timestamps: Iterable[Time] | None = None,
    labels: Iterable[Row | None] | None = None,
    episode_starts: Iterable[SupportsIndex] | None = None,
    start: int = 0,
) -> Iterator[Given]:
    """Rows with what belongs to each, the first `start` left out. Raises ValueError if the numbers of rows, timestamps
    and labels differ (before the first where they are known) or an episode begins at a row that is not there.
    """
    columns: dict[str, Iterable[Any]] = {"rows": rows}
    columns |= {} if timestamps is None else {"timestamps": timestamps}
    columns |= {} if labels is None else {"labels": labels}
    _check_lengths(columns)
    starts, count = _row_numbers(episode_starts), 0
    if isinstance(rows, Sized):
        _check_starts(starts, len(rows))
    for number, cells in enumerate(_zipped(columns)):
        count = number + 1
        if number >= start:
            named = dict(zip(columns, cells, strict=True))
            yield Given(named["rows"], named.get("timestamps"), named.get("labels"), number in starts)
    _check_starts(starts, count)


def _check_lengths(columns: dict[str, Iterable[Any]]) -> None:
    rows = columns["rows"]
    for name, column in columns.items():
        if isinstance(rows, Sized) and isinstance(column, Sized) and len(rows) != len(column):
            raise ValueError(f"{len(column)} {name} for {len(rows)} rows; allowed: one per row")


def _zipped(columns: dict[str, Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    missing: Any = object()
    for number, cells in enumerate(zip_longest(*columns.values(), fillvalue=missing)):
        for name, cell in zip(columns, cells, strict=True):
            if cell is not missing:
                continue
            if name == "rows":
                longer = next(n for n, c in zip(columns, cells, strict=True) if c is not missing)
                raise ValueError(f"more {longer} than {number} for {number} rows; allowed: one per row")
            raise ValueError(f"{number} {name} for more rows than {number}; allowed: one per row")
        yield cells


def _row_numbers(starts: Iterable[SupportsIndex] | None) -> frozenset[int]:
    numbers = set()
    for start in starts or ():
        if isinstance(start, bool) or not isinstance(start, SupportsIndex):
            raise TypeError(f"an episode start is {start!r}; allowed: numbers of rows, counted from 0")
        numbers.add(operator.index(start))
    return frozenset(numbers)


def _check_starts(starts: frozenset[int], rows: int) -> None:
    for start in sorted(starts):
        if not 0 <= start < rows:
            raise ValueError(f"an episode starts at row {start}; allowed: 0..{rows - 1}, the rows")


async def paired_async(
    rows: Iterable[Row] | AsyncIterable[Row],
    timestamps: Iterable[Time] | None,
    labels: Iterable[Row | None] | None,
    episode_starts: Iterable[SupportsIndex] | None,
    start: int,
) -> AsyncIterator[Given]:
    """As `paired`, for rows that may arrive asynchronously."""
    if not isinstance(rows, AsyncIterable):
        for given in paired(rows, timestamps, labels, episode_starts, start):
            yield given
        return
    for name, column in (("timestamps", timestamps), ("labels", labels)):
        if column is not None:
            allowed = f"stream(), sending each row with its {name.removesuffix('s')}"
            raise TypeError(f"{name} with rows that arrive one by one; allowed: {allowed}")
    starts, number = _row_numbers(episode_starts), 0
    async for row in rows:
        if number >= start:
            yield Given(row, new_episode=number in starts)
        number += 1
    _check_starts(starts, number)
