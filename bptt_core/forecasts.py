"""From a learner's outputs to served forecasts, and what became of them: settling, intervals, anomaly score, scores.

A forecast made at step s for s + h waits until step s + h brings its value, and is scored then against exactly that
value, beside the naive forecasts issued at the same moment: persistence (the last observed value) and, if there is a
season P, the seasonal naive x[s + h − P⌈h/P⌉]; where that is missing one season earlier, then the last observed value.
Forecasts of missing steps are served to nobody and scored for nobody.

The intervals are online quantile trackers per horizon, target and side (conformal quantile tracking, Angelopoulos,
Candès & Tibshirani 2023, without the integrator), in units of the running error: a bound that was crossed moves out,
one that was not moves in by a step so much smaller that it is crossed with probability (1 − coverage) / 2.

Array legend: B sessions, H horizons, O targets, M forecasters (model, persistence, seasonal); ring buffers hold the
last H steps, step t in row t mod H.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core.scaling import FLOOR, Scaled, track_square
from bptt_core.slab import Field, Rows

Floats = NDArray[np.floating]

CLAMP: Final = 4.0  # a forecast stays within this many residual scales of its anchor
WARM_UP: Final = 32  # pairs to settle before an interval or an anomaly score is served
SCORE_MEMORY: Final = 10_000
ERROR_MEMORY: Final = 256
ERROR_LIMIT: Final = (
    10.0  # a larger error, in residual scales, is tracked as this: the scale may have been next to zero
)
TRACK_RATE: Final = 0.05  # how far a crossed bound moves, in running errors
ANOMALY_SIGMAS: Final = 4.0  # an error of this many running RMS errors scores 1
SIDES: Final = np.array([[-1.0], [1.0]])  # below, above


@dataclass(frozen=True, slots=True)
class ForecastShape:
    """What sessions of one slab have in common here. `season` 0: none."""

    horizon: int
    targets: int
    season: int

    @property
    def forecasters(self) -> int:
        """M."""
        return 3 if self.season else 2


class Served(NamedTuple):
    """What one step serves: float64 [B, H, O] thrice, and the anomaly score of the step's own values [B]."""

    mean: Floats
    lower: Floats
    upper: Floats
    anomaly_score: Floats


def fields(shape: ForecastShape) -> list[Field]:
    """State of one session."""
    H, O, M = shape.horizon, shape.targets, shape.forecasters
    return [
        Field("forecast_steps", (), np.int64),
        Field("coverage_target", (), np.float64),
        Field("waiting", (H, M + 2, H, O), np.float64, np.nan),  # the forecasters', then the bounds below and above
        Field("season_values", (shape.season, O), np.float64, np.nan),
        Field("season_stale", (shape.season, O), np.int8),  # 1: not from the newest season
        Field("season_phase", (), np.int64),
        Field("settled", (H, O), np.int64),
        Field("score_square", (H, M, O), np.float64),
        Field("score_absolute", (H, M, O), np.float64),
        Field("bounded", (H, O), np.int64),
        Field("score_coverage", (H, O), np.float64),
        Field("score_width", (H, O), np.float64),
        Field("error_count", (H, O), np.int64),
        Field("error_square", (H, O), np.float64),  # in residual scales
        Field("reach", (H, 2, O), np.float64),  # distance of the bounds from the mean, in running errors
    ]


def step(shape: ForecastShape, rows: Rows, scaled: Scaled, ys: Floats, event: NDArray[np.bool_]) -> Served:
    """Settles what waited for this step's values, then forecasts, in place on `rows`.

    `ys` [B, H·O] are the learner's outputs in units of `scaled.scale`; `event` [B] is False for missing steps.
    """
    anomaly = _settle(shape, rows, scaled)
    mean = _mean(scaled, ys)
    unit = np.where(rows["error_count"] >= WARM_UP, np.sqrt(rows["error_square"]) * scaled.scale, np.nan)
    bounds = mean[:, :, None] + SIDES * rows["reach"] * unit[:, :, None]
    _remember_season(shape, rows, scaled)
    _wait(shape, rows, scaled, mean, bounds, event)
    return Served(mean, bounds[:, :, 0], bounds[:, :, 1], anomaly)


def clear(shape: ForecastShape, rows: Rows, jump: NDArray[np.int64]) -> None:
    """Drops waiting forecasts and re-indexes the season where the stream jumped over `jump` [B] > 0 steps; in place."""
    rows["waiting"][jump > 0] = np.nan
    if shape.season:
        rows["season_phase"][...] = (rows["season_phase"] + jump % shape.season) % shape.season


def _settle(shape: ForecastShape, rows: Rows, scaled: Scaled) -> Floats:
    """Scores every forecast whose value is here, moves the trackers, and returns the anomaly score [B]."""
    M = shape.forecasters
    session = np.arange(len(scaled.observed))[:, None]
    horizons = np.arange(shape.horizon)
    made = (rows["forecast_steps"][:, None] - 1 - horizons) % shape.horizon
    waited = rows["waiting"][session, made, :, horizons]  # [B, H, M + 2, O]
    errors = scaled.observed[:, None, None, :] - waited
    settled = ~np.isnan(errors[:, :, 0])
    if not settled.any():
        return np.zeros(len(errors))
    rows["settled"] += settled
    weight = (1 / np.minimum(np.maximum(rows["settled"], 1), SCORE_MEMORY))[:, :, None]
    size = np.abs(errors[:, :, :M])
    _blend(rows["score_square"], size * size, weight, settled[:, :, None])
    _blend(rows["score_absolute"], size, weight, settled[:, :, None])
    outside = errors[:, :, M:] * SIDES > 0
    _score_bounds(rows, outside, waited[:, :, M:], errors[:, :, M])
    error = errors[:, :, 0] / scaled.residual_scale
    anomaly = _anomaly(rows, error[:, 0])
    tracked = np.minimum(np.maximum(error, -ERROR_LIMIT), ERROR_LIMIT)
    track_square(rows["error_count"], rows["error_square"], tracked, np.zeros_like(error), ERROR_MEMORY)
    tail = ((1 - rows["coverage_target"]) / 2)[:, None, None, None]
    moved = np.maximum(rows["reach"] + TRACK_RATE * (outside - tail), 0)
    np.copyto(rows["reach"], moved, where=~np.isnan(errors[:, :, M:]))
    return anomaly


def _blend(running: Floats, value: Floats, weight: Floats, seen: NDArray[np.bool_]) -> None:
    """Moves a running mean towards `value` by `weight` where `seen`, in place."""
    np.add(running, weight * (value - running), out=running, where=seen)


def _score_bounds(rows: Rows, outside: NDArray[np.bool_], bounds: Floats, error: Floats) -> None:
    """Coverage and width of the intervals that met their value (those of warm-up are NaN)."""
    seen = ~np.isnan(error)
    rows["bounded"] += seen
    weight = 1 / np.minimum(np.maximum(rows["bounded"], 1), SCORE_MEMORY)
    _blend(rows["score_coverage"], 1.0 - (outside[:, :, 0] | outside[:, :, 1]), weight, seen)
    _blend(rows["score_width"], bounds[:, :, 1] - bounds[:, :, 0], weight, seen)


def _anomaly(rows: Rows, error: Floats) -> Floats:
    """Largest one-step error over the targets, in units of ANOMALY_SIGMAS running RMS errors; 0 in warm-up. [B]."""
    ready = (rows["error_count"][:, 0] >= WARM_UP) & ~np.isnan(error)
    usual = ANOMALY_SIGMAS * np.sqrt(rows["error_square"][:, 0]) + FLOOR
    score: Floats = np.where(ready, np.abs(error) / usual, 0).max(axis=1)
    return score


def initial_reach(coverage: float) -> float:
    """Where the bounds of a new session begin: the quantile that Gaussian errors would have."""
    return NormalDist().inv_cdf((1 + coverage) / 2)


def _mean(scaled: Scaled, ys: Floats) -> Floats:
    """Anchor + scale · output, within CLAMP scales; the anchor while there is no scale, persistence if not finite."""
    outputs = ys.reshape(scaled.scale.shape)
    offset = np.minimum(np.maximum(outputs, -CLAMP), CLAMP) * scaled.scale
    np.copyto(offset, 0, where=np.isnan(offset))
    mean: Floats = scaled.anchor[:, None, :] + offset
    np.copyto(mean, scaled.last[:, None, :], where=~np.isfinite(outputs))
    return mean


def _remember_season(shape: ForecastShape, rows: Rows, scaled: Scaled) -> None:
    """Stores this step's values under their phase; where one is missing the season before stays, but no longer."""
    if shape.season:
        place, missing = (np.arange(len(scaled.observed)), rows["season_phase"]), np.isnan(scaled.observed)
        before = np.where(rows["season_stale"][place] == 1, np.nan, rows["season_values"][place])
        rows["season_values"][place] = np.where(missing, before, scaled.observed)
        rows["season_stale"][place] = missing
        rows["season_phase"][...] = (rows["season_phase"] + 1) % shape.season


def _wait(
    shape: ForecastShape, rows: Rows, scaled: Scaled, mean: Floats, bounds: Floats, event: NDArray[np.bool_]
) -> None:
    """Keeps the forecasts of this step until their values arrive; those of a missing step are kept as NaN."""
    session, now, M = np.arange(len(mean)), rows["forecast_steps"] % shape.horizon, shape.forecasters
    forecast = np.empty((len(mean), M + 2, *mean.shape[1:]))
    forecast[:, 0] = mean
    forecast[:, 1] = scaled.last[:, None, :]
    if shape.season:
        phase = (rows["season_phase"][:, None] + np.arange(shape.horizon)) % shape.season
        seasonal = rows["season_values"][session[:, None], phase]
        forecast[:, 2] = np.where(np.isnan(seasonal), forecast[:, 1], seasonal)
    forecast[:, M:] = bounds.transpose(0, 2, 1, 3)
    if not event.all():
        forecast[~event] = np.nan
    rows["waiting"][session, now] = forecast
    rows["forecast_steps"] += 1
