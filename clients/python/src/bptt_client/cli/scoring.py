"""How good the forecasts were, beside the naive ones, on exactly the same values. Knows rows and arrays, no server.

Rows lie on steps of equal length, in a file without gaps one after the other. A forecast made at step s for s + h meets
the value of step s + h; where no row has that step it meets none. Persistence repeats the last observed value at s; the
seasonal forecast is x[s + h - P⌈h/P⌉], one season earlier where that is missing, else the last observed value. A label
is predicted at its own row, and persistence repeats the last label known then. A pair counts only where the value, the
forecast and persistence all exist. Shapes: N rows, n rows of a batch, H horizons, O targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
_ROWS_AT_ONCE = 1_024


@dataclass(frozen=True, slots=True)
class Span:
    """Forecasts are scored if all the rows they speak of, without gaps t + 1..t + H (a label: t), lie in [start,
    stop).
    """

    start: int
    stop: int


class Scorer(ABC):
    """Adds up measures batch by batch; what is measured is the affair of those who derive from it. `truth` [N, O];
    `steps` [N] of the rows, increasing (None: one after the other). `known` [N]: labels are predicted, and this is the
    last row whose label was known when the row's was predicted (-1: none).
    """

    # Names of the measures in the order of a report, and which of them are kept by row for running views.
    MEASURES: ClassVar[tuple[str, ...]]
    RUNNING: ClassVar[dict[str, str]]

    def __init__(self, truth: Array, horizon: int, span: Span, steps: Rows | None = None, known: Rows | None = None):
        rows, targets = truth.shape
        self.ahead = 1 if known is None else 0  # how many steps after the row its first value lies
        self._steps = np.arange(rows) if steps is None else steps
        self._step_behind = self._steps[span.stop] if span.stop < rows else self._steps[-1] + 1
        self._known = np.arange(rows) if known is None else known
        self._truth, self._span = truth, span
        self._horizons = np.arange(self.ahead, self.ahead + horizon)
        self._sums = {name: np.zeros((horizon, targets)) for name in self.MEASURES}
        self._counts = {name: np.zeros((horizon, targets)) for name in self.MEASURES}
        self.scored = 0
        self.season: int | None = None  # that a seasonal forecast was scored by
        # Means by row; NaN where nothing could be compared.
        self.by_row = {name: np.full(rows, np.nan) for name in self.RUNNING}
        # The first measure by row and target, mean over horizons; NaN where nothing was scored.
        self.loss = np.full((rows, targets), np.nan)

    @abstractmethod
    def measure(
        self, rows: Rows, truth: Array, mean: Array, lower: Array, upper: Array, distribution: Array
    ) -> dict[str, Array]:
        """The measures [n, H, O] of the forecasts made at `rows`, NaN where a pair does not count."""

    def add(self, row: int, mean: Array, lower: Array, upper: Array, distribution: Array | None = None) -> None:
        """Takes the forecasts [n, H, O] (`distribution` [n, H, O, Q]) made at rows `row`, `row` + 1, …"""
        rows = np.arange(row, row + len(mean))
        made = np.empty((*mean.shape, 0)) if distribution is None else distribution
        measured = self.measure(rows, self._at(self._steps_ahead(rows)), mean, lower, upper, made)
        self._keep(rows, measured)
        in_span = self._in_span(rows)
        losses = measured[self.MEASURES[0]][in_span]
        self.scored += int((~np.isnan(losses)).any((1, 2)).sum())
        self.loss[rows[in_span]] = means_of(losses, axis=1)

    def _keep(self, rows: Rows, measured: dict[str, Array]) -> None:
        for name, measure in self.RUNNING.items():
            if measure in measured:
                means = means_of(measured[measure], axis=(1, 2))
                known = ~np.isnan(means)
                self.by_row[name][rows[known]] = means[known]
        in_span = self._in_span(rows)
        for name, values in measured.items():
            kept = values[in_span]
            counts = ~np.isnan(kept)
            self._sums[name] += np.where(counts, kept, 0.0).sum(0)
            self._counts[name] += counts.sum(0)

    def _steps_ahead(self, rows: Rows) -> Rows:
        """The steps [n, H] that the forecasts made at `rows` speak of."""
        ahead: Rows = self._steps[rows][:, None] + self._horizons
        return ahead

    def _in_span(self, rows: Rows) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = self._steps_ahead(rows)[:, -1] < self._step_behind
        inside &= rows + self.ahead >= self._span.start
        return inside

    def _at(self, steps: Rows) -> Array:
        """The values at `steps` [n, H], NaN where no row has that step."""
        rows = np.minimum(np.searchsorted(self._steps, steps), len(self._steps) - 1)
        return np.where((self._steps[rows] == steps)[:, :, None], self._truth[rows], np.nan)

    def meets_next(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether the first value that the forecasts made at `rows` speak of is that of the row `ahead` rows on."""
        following = np.minimum(rows + self.ahead, len(self._steps) - 1)
        meets: NDArray[np.bool_] = self._steps[following] == self._steps[rows] + self.ahead
        return meets

    def running(self, name: str, row: int, rows: int) -> float:
        """Mean over the last `rows` rows up to `row`; NaN before there is any."""
        part = self.by_row[name][max(0, row + 1 - rows) : row + 1]
        part = part[np.isfinite(part)]
        return float(part.mean()) if len(part) else float("nan")

    def overall(self) -> dict[str, float | None]:
        """Means over everything scored."""
        return self._means(np.s_[:, :])

    def by_target(self, index: int) -> dict[str, float | None]:
        """Means of one target over all horizons."""
        return self._means(np.s_[:, index])

    def by_horizon(self, step: int) -> dict[str, float | None]:
        """Means over all targets at `step` steps ahead, from 1."""
        return self._means(np.s_[step - 1, :])

    def of(self, index: int, step: int) -> dict[str, float | None]:
        """Means of one target at `step` steps ahead, from 1."""
        return self._means(np.s_[step - 1, index])

    def _means(self, part: Any) -> dict[str, float | None]:
        totals = {name: (float(self._sums[name][part].sum()), self._counts[name][part].sum()) for name in self._sums}
        return {name: total / float(count) if count else None for name, (total, count) in totals.items()}


class NumberScorer(Scorer):
    """Errors of numbers. `scale` [O] divides them (1: original units); `coverage` is what the intervals are to have.
    The interval score is the width, and 2 / (1 - coverage) times what a value lay outside (Gneiting and Raftery 2007).
    """

    MEASURES = (
        "mse", "mae", "persistence_mse", "persistence_mae", "seasonal_mse", "coverage", "width", "interval_score",
    )  # fmt: skip
    RUNNING: ClassVar = {"model": "mse", "persistence": "persistence_mse", "seasonal": "seasonal_mse"}

    def __init__(
        self,
        truth: Array,
        horizon: int,
        coverage: float,
        scale: Array,
        span: Span,
        steps: Rows | None = None,
        known: Rows | None = None,
    ) -> None:
        super().__init__(truth, horizon, span, steps, known)
        self._penalty, self._scale, self._observed = 2.0 / (1.0 - coverage), scale, _last_observed(truth)
        self._made = np.zeros(truth.shape, bool)  # where a forecast was made; it is for all horizons or none

    def measure(
        self, rows: Rows, truth: Array, mean: Array, lower: Array, upper: Array, distribution: Array
    ) -> dict[str, Array]:
        """As the base class says."""
        self._made[rows] = np.isfinite(mean[:, 0])
        last = self._last(rows)
        compared = np.isfinite(truth) & np.isfinite(mean) & np.isfinite(last)
        measured = {}
        for prefix, error in (("", mean - truth), ("persistence_", last - truth)):
            scaled = np.where(compared, error, np.nan) / self._scale
            measured[f"{prefix}mse"], measured[f"{prefix}mae"] = scaled**2, np.abs(scaled)
        bounded = compared & np.isfinite(lower) & np.isfinite(upper)
        with np.errstate(invalid="ignore"):
            width, outside = upper - lower, np.maximum(np.maximum(lower - truth, truth - upper), 0.0)
            measured["coverage"] = np.where(bounded, outside == 0.0, np.nan)
            measured["width"] = np.where(bounded, width / self._scale, np.nan)
            measured["interval_score"] = np.where(bounded, (width + self._penalty * outside) / self._scale, np.nan)
        return measured

    def compare_with_season(self, season: int) -> None:
        """Scores the seasonal forecast of a season of so many steps on all that was added; to be called once, when the
        season is known.
        """
        self.season = season
        for start in range(0, len(self._truth), _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(self._truth)))
            truth, last = self._at(self._steps_ahead(rows)), self._last(rows)
            compared = np.isfinite(truth) & np.isfinite(last) & self._made[rows][:, None, :]
            error = np.where(compared, self._seasonal(rows, season, last) - truth, np.nan)
            self._keep(rows, {"seasonal_mse": (error / self._scale) ** 2})

    def _last(self, rows: Rows) -> Array:
        """The last value observed at `rows`, [n, 1, O]."""
        known = self._known[rows]
        return np.where(known[:, None] >= 0, self._observed[known], np.nan)[:, None, :]

    def _seasonal(self, rows: Rows, season: int, last: Array) -> Array:
        back = self._steps[rows][:, None] + self._horizons - season * -(-self._horizons // season)
        value = self._at(back)
        value = np.where(np.isfinite(value), value, self._at(back - season))
        return np.where(np.isfinite(value), value, last)


def standard_deviations(truth: Array, rows: int | None) -> Array:
    """Population standard deviation of each target over the first `rows` rows, 1 where it is 0 or unknown; None:
    all 1.
    """
    scale = np.ones(truth.shape[1])
    if rows is None:
        return scale
    for i, column in enumerate(truth[:rows].T):
        seen = column[np.isfinite(column)]
        deviation = float(seen.std()) if len(seen) else 0.0
        scale[i] = deviation if deviation > 0.0 else 1.0
    return scale


def means_of(values: Array, axis: int | tuple[int, ...]) -> Array:
    """Means over axes of what is not NaN; NaN where nothing is."""
    counts = ~np.isnan(values)
    number = counts.sum(axis)
    total: Array = np.where(counts, values, 0.0).sum(axis)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _last_observed(values: Array) -> Array:
    """Each value, or where it is missing the one before it that is not."""
    index = np.where(np.isfinite(values), np.arange(len(values))[:, None], -1)
    index = np.maximum.accumulate(index, axis=0)
    return np.where(index >= 0, np.take_along_axis(values, np.maximum(index, 0), axis=0), np.nan)
