"""Histograms that take many values at once, and counters that cost next to nothing.

The library's own take a value in about a microsecond, which is too slow for several values of every event. Here a whole
column is counted in a few array operations, and it looks the same on the page. It knows nothing of what is counted; a
value that is not finite is left out, as one NaN would spoil the sum for ever.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString


class Tally:
    """A histogram on a page; or several, one for each of `values` of its only label. Written by one thread at a time,
    read by any."""

    def __init__(
        self,
        name: str,
        text: str,
        buckets: Sequence[float],
        registry: CollectorRegistry,
        label: str = "",
        values: Sequence[str] = ("",),
    ) -> None:
        self._name, self._text, self._label, self._values = name, text, label, values
        self._bounds, self._edges = list(buckets), np.array(buckets)
        self._counts = np.zeros((len(values), len(buckets) + 1), np.int64)
        self._sums = [0.0] * len(values)
        registry.register(self)

    def observe(self, value: float, child: int = 0) -> None:
        """Counts one value."""
        if math.isfinite(value):
            self._counts[child, bisect_left(self._bounds, value)] += 1
            self._sums[child] += value

    def observe_all(self, column: NDArray[Any], child: int = 0) -> None:
        """Counts every number of a column."""
        with np.errstate(all="ignore"):
            total = float(np.add.reduce(column, dtype=np.float64))
            if not math.isfinite(total):
                column = column[np.isfinite(column)]
                total = float(np.add.reduce(column, dtype=np.float64))
        self._counts[child] += np.bincount(self._edges.searchsorted(column), minlength=len(self._edges) + 1)
        self._sums[child] += total

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """Called by the registry, once."""
        yield HistogramMetricFamily(self._name, self._text)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Called by the registry, on a thread of the HTTP server."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label] if self._label else [])
        bounds = [floatToGoString(bound) for bound in (*self._bounds, math.inf)]
        for value, counts, total in zip(self._values, self._counts, self._sums, strict=True):
            cumulative = np.cumsum(counts).tolist()
            family.add_metric([value] if self._label else [], list(zip(bounds, cumulative, strict=True)), total)
        yield family


class Count:
    """A counter's child whose page is brought up to date only when it is asked for. Added to by one thread, told by one
    at a time."""

    def __init__(self, child: Counter) -> None:
        self._child, self._total, self._told = child, 0, 0

    def add(self, number: int) -> None:
        """Counts so many."""
        self._total += number

    def tell(self) -> None:
        """Brings the child up to date."""
        total = self._total
        self._child.inc(total - self._told)
        self._told = total
