"""How good the forecasts were, beside the naive ones, on exactly the same values. Knows rows and arrays, no server.

Rows lie on steps of equal length, in a file without gaps one after the other. A forecast made at step s for s + h meets
the value of step s + h; where no row has that step it meets none. Persistence repeats the last observed value at s; the
seasonal forecast is x[s + h - P⌈h/P⌉], one season earlier where that is missing, else the last observed value. A pair
counts only where the value, the forecast and persistence all exist. Shapes: N rows, n rows of a batch, H horizons,
O targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SUMS = ("mse", "mae", "persistence_mse", "persistence_mae", "seasonal_mse")


@dataclass(frozen=True, slots=True)
class Span:
    """Forecasts are scored if all the rows they speak of, without gaps t + 1..t + H, lie in [start, stop)."""

    start: int
    stop: int


class Scorer:
    """Adds up errors batch by batch. `scale` [O] divides errors (1: original units); `season` P in steps, or None;
    `steps` [N] of the rows, increasing (None: one after the other).
    """

    def __init__(
        self,
        truth: Array,
        horizon: int,
        season: int | None,
        scale: Array,
        span: Span,
        steps: NDArray[np.int64] | None = None,
    ) -> None:
        rows, targets = truth.shape
        self._steps = np.arange(rows) if steps is None else steps
        self._step_behind = self._steps[span.stop] if span.stop < rows else self._steps[-1] + 1
        self._truth, self._horizon, self._season, self._scale, self._span = truth, horizon, season, scale, span
        self._observed = _last_observed(truth)
        self._sums = {name: np.zeros((horizon, targets)) for name in SUMS}
        self._inside, self._width = np.zeros((horizon, targets)), np.zeros((horizon, targets))
        self._count, self._bounded = np.zeros((horizon, targets)), np.zeros((horizon, targets))
        self.scored = 0
        # Mean squared errors by row, for running views; NaN where nothing could be compared.
        self.by_row = {name: np.full(rows, np.nan) for name in ("model", "persistence", "seasonal")}

    def add(self, row: int, mean: Array, lower: Array, upper: Array) -> None:
        """Takes the forecasts [n, H, O] made at rows `row`, `row` + 1, …"""
        rows = np.arange(row, row + len(mean))
        horizons = np.arange(1, self._horizon + 1)
        ahead = self._steps[rows][:, None] + horizons  # [n, H]
        truth = self._at(ahead)
        last = np.broadcast_to(self._observed[rows][:, None, :], truth.shape)
        compared = np.isfinite(truth) & np.isfinite(mean) & np.isfinite(last)
        errors = {"model": mean - truth, "persistence": last - truth}
        if self._season is not None:
            errors["seasonal"] = self._seasonal(ahead, horizons, last) - truth
        errors = {name: np.where(compared, error, 0.0) / self._scale for name, error in errors.items()}
        self._keep_running(rows, compared, errors)
        in_span = (rows + 1 >= self._span.start) & (ahead[:, -1] < self._step_behind)
        if in_span.any():
            bounds = (lower[in_span], upper[in_span])
            kept = {name: error[in_span] for name, error in errors.items()}
            self._add_scored(compared[in_span], kept, truth[in_span], *bounds)

    def _seasonal(self, ahead: NDArray[np.int64], horizons: NDArray[np.int64], last: Array) -> Array:
        assert self._season is not None
        back = ahead - self._season * -(-horizons // self._season)
        value = self._at(back)
        value = np.where(np.isfinite(value), value, self._at(back - self._season))
        return np.where(np.isfinite(value), value, last)

    def _at(self, steps: NDArray[np.int64]) -> Array:
        """The values at `steps` [n, H], NaN where no row has that step."""
        rows = np.minimum(np.searchsorted(self._steps, steps), len(self._steps) - 1)
        return np.where((self._steps[rows] == steps)[:, :, None], self._truth[rows], np.nan)

    def meets_next(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the row after each of `rows` is the next step."""
        following = np.minimum(rows + 1, len(self._steps) - 1)
        meets: NDArray[np.bool_] = self._steps[following] == self._steps[rows] + 1
        return meets

    def _keep_running(self, rows: NDArray[np.int64], compared: NDArray[np.bool_], errors: dict[str, Array]) -> None:
        pairs = compared.sum((1, 2))
        some = pairs > 0
        for name, error in errors.items():
            self.by_row[name][rows[some]] = (error[some] ** 2).sum((1, 2)) / pairs[some]

    def _add_scored(
        self, compared: NDArray[np.bool_], errors: dict[str, Array], truth: Array, lower: Array, upper: Array
    ) -> None:
        self.scored += int(compared.any((1, 2)).sum())
        self._count += compared.sum(0)
        for prefix, name in (("", "model"), ("persistence_", "persistence"), ("seasonal_", "seasonal")):
            if name in errors:
                self._sums[f"{prefix}mse"] += (errors[name] ** 2).sum(0)
            if name in errors and name != "seasonal":
                self._sums[f"{prefix}mae"] += np.abs(errors[name]).sum(0)
        bounded = compared & np.isfinite(lower) & np.isfinite(upper)
        self._bounded += bounded.sum(0)
        with np.errstate(invalid="ignore"):
            self._inside += (bounded & (lower <= truth) & (truth <= upper)).sum(0)
            self._width += np.where(bounded, (upper - lower) / self._scale, 0.0).sum(0)

    def running(self, name: str, row: int, rows: int) -> float:
        """Mean squared error over the last `rows` rows up to `row`; NaN before there is any."""
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
        count, bounded = float(self._count[part].sum()), float(self._bounded[part].sum())
        means = {name: _ratio(float(total[part].sum()), count) for name, total in self._sums.items()}
        if self._season is None:
            means["seasonal_mse"] = None
        means["coverage"] = _ratio(float(self._inside[part].sum()), bounded)
        means["width"] = _ratio(float(self._width[part].sum()), bounded)
        return means


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


def _last_observed(values: Array) -> Array:
    """Each value, or where it is missing the one before it that is not."""
    index = np.where(np.isfinite(values), np.arange(len(values))[:, None], -1)
    index = np.maximum.accumulate(index, axis=0)
    return np.where(index >= 0, np.take_along_axis(values, np.maximum(index, 0), axis=0), np.nan)


def _ratio(total: float, count: float) -> float | None:
    return total / count if count else None
