"""From a learner's outputs to served forecasts, and what became of them: settling, intervals, anomaly score, scores.

A forecast made at step s for s + h waits until step s + h brings its value, and is scored then against exactly that
value, beside the naive forecasts issued at the same moment: persistence (the last observed value) and, if there is a
season P, the seasonal naive x[s + h − P⌈h/P⌉]; where that is missing one season earlier, then the last observed value.
A prediction of an event's own label waits for the label, which comes with the event or later; persistence is the last
label known when it was made. Forecasts of missing steps are served to nobody and scored for nobody.

The intervals are online quantile trackers per horizon, target and side (conformal quantile tracking, Angelopoulos,
Candès & Tibshirani 2023, without the integrator), in units of the running error: a bound that was crossed moves out,
one that was not moves in by a step so much smaller that it is crossed with probability (1 − coverage) / 2. Where the
learner also tells a standard deviation, errors are measured in it, and the intervals are as wide as it says. Quantiles
that a learner tells itself are sorted, which never makes them worse (Chernozhukov, Fernández-Val & Galichon 2010).

Array legend: B sessions, H horizons, O targets, R outputs per pair, Q quantiles, M forecasters (model, persistence,
seasonal); ring buffers hold what waits: step t in row t mod H, or with labels event t in row t mod slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core.events import Scores
from bptt_core.heads import LOG_VARIANCE_LIMIT
from bptt_core.running import (
    ANOMALY_SIGMAS,
    ERROR_MEMORY,
    SCORE_MEMORY,
    WARM_UP,
    Floats,
    blend,
    newest_weight,
    track_square,
)
from bptt_core.scaling import FLOOR, INPUT_LIMIT, Scaled
from bptt_core.slab import Field, Rows

Flags = NDArray[np.bool_]

CLAMP: Final = 4.0  # a forecast stays within this many residual scales of its anchor
ERROR_LIMIT: Final = (
    10.0  # a larger error, in residual scales, is tracked as this: the scale may have been next to zero
)
TRACK_RATE: Final = 0.05  # how far a crossed bound moves, in running errors
SIDES: Final = np.array([[-1.0], [1.0]])  # below, above


@dataclass(frozen=True, slots=True)
class ForecastShape:
    """What sessions of one slab have in common here."""

    horizon: int
    targets: int
    season: int  # 0: none
    ahead: int  # 0: labels of the event itself are predicted
    slots: int  # rows of the ring: the horizon, or with labels the oldest age of a late one + 1
    per_pair: int  # R
    loss: str
    quantiles: tuple[float, ...]  # levels, rising; only where they are served
    clamp: bool

    @property
    def forecasters(self) -> int:
        """M."""
        return 3 if self.season else 2

    @property
    def spread(self) -> bool:
        """Whether the learner tells the standard deviation of its error."""
        return self.loss == "gaussian"

    @property
    def waiting(self) -> int:
        """What is kept of each pair: the forecasters', the bounds below and above, the deviation if it is told."""
        return self.forecasters + 2 + self.spread


class Served(NamedTuple):
    """What one step serves, float64."""

    mean: Floats  # [B, H, O]
    lower: Floats  # [B, H, O]
    upper: Floats  # [B, H, O]
    distribution: Floats  # [B, H, O, Q]
    anomaly_score: Floats  # [B] of the step's own values


class _Outputs(NamedTuple):
    """A learner's outputs in original units."""

    mean: Floats  # [B, H, O]
    distribution: Floats  # [B, H, O, Q]
    spread: Floats  # [B, H, O] the unit that errors are measured in


def fields(shape: ForecastShape) -> list[Field]:
    """State of one session."""
    H, O, M = shape.horizon, shape.targets, shape.forecasters
    return [
        Field("forecast_steps", (), np.int64),  # with labels: events
        Field("coverage_target", (), np.float64),
        Field("waiting", (shape.slots, shape.waiting, H, O), np.float64, np.nan),
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
        Field("error_square", (H, O), np.float64),  # in residual scales, or in the deviations that the learner tells
        Field("reach", (H, 2, O), np.float64),  # distance of the bounds from the mean, in running errors
    ]


def step(shape: ForecastShape, rows: Rows, scaled: Scaled, ys: Floats, event: Flags) -> Served:
    """Settles what waited for this step's values, and forecasts, in place on `rows`.

    `ys` [B, H·O·R] are the learner's outputs in units of `scaled.scale`; `event` [B] is False for missing steps. With
    labels the event's own are settled after they were predicted.
    """
    anomaly = _settle_ahead(shape, rows, scaled) if shape.ahead else None
    outputs = _outputs(shape, scaled, ys)
    mean = outputs.mean
    unit = np.where(rows["error_count"] >= WARM_UP, np.sqrt(rows["error_square"]) * outputs.spread, np.nan)
    bounds = mean[:, :, None] + SIDES * rows["reach"] * unit[:, :, None]
    _remember_season(shape, rows, scaled)
    made = _wait(shape, rows, scaled, outputs, bounds, event)
    if anomaly is None:
        anomaly = _settle(shape, rows, made.transpose(0, 2, 1, 3), scaled.observed, scaled.residual_scale)
    return Served(mean, bounds[:, :, 0], bounds[:, :, 1], outputs.distribution, anomaly)


def late(shape: ForecastShape, rows: Rows, slots: NDArray[np.int64], observed: Floats, residual_scale: Floats) -> None:
    """Settles labels `observed` [n, O] of earlier events, in order and in place on the `rows` of one session.

    `slots` [n] are the events' numbers, counted from 0, modulo `shape.slots`; NaN: no label. `residual_scale` [n, O]
    are the scales known at the events.
    """
    for k, slot in enumerate(slots.tolist()):
        waited = rows["waiting"][:, slot].transpose(0, 2, 1, 3)
        _settle(shape, rows, waited, observed[k : k + 1], residual_scale[None, k : k + 1])


def clear(shape: ForecastShape, rows: Rows, which: Flags) -> None:
    """Drops the forecasts that wait for values of the stream, in place; predictions of labels stay."""
    if shape.ahead:
        rows["waiting"][which] = np.nan


def skip(shape: ForecastShape, rows: Rows, jump: NDArray[np.int64]) -> None:
    """Re-indexes the season where the stream jumped over `jump` [B] steps, in place."""
    if shape.season:
        rows["season_phase"][...] = (rows["season_phase"] + jump % shape.season) % shape.season


def scores(shape: ForecastShape, row: dict[str, Any]) -> Scores:
    """The scores of one session, whose fields (without a slot axis) are `row`."""
    square, absolute = row["score_square"].copy(), row["score_absolute"].copy()
    return Scores(
        count=row["settled"].copy(),
        mse=square[:, 0],
        mae=absolute[:, 0],
        persistence_mse=square[:, 1],
        persistence_mae=absolute[:, 1],
        seasonal_mse=square[:, 2] if shape.season else None,
        seasonal_mae=absolute[:, 2] if shape.season else None,
        coverage=row["score_coverage"].copy(),
        width=row["score_width"].copy(),
    )


def _settle_ahead(shape: ForecastShape, rows: Rows, scaled: Scaled) -> Floats:
    """Settles the forecasts made for this step; returns the anomaly score [B]."""
    session = np.arange(len(scaled.observed))[:, None]
    horizons = np.arange(shape.horizon)
    made = (rows["forecast_steps"][:, None] - 1 - horizons) % shape.slots
    waited = rows["waiting"][session, made, :, horizons]
    return _settle(shape, rows, waited, scaled.observed, scaled.residual_scale)


def _settle(shape: ForecastShape, rows: Rows, waited: Floats, observed: Floats, residual_scale: Floats) -> Floats:
    """Scores what `waited` [B, H, waiting, O] for `observed` [B, O], moves the trackers, returns the anomaly score [B].

    A pair is scored if persistence was defined, too: all forecasters are compared on the same pairs.
    """
    M = shape.forecasters
    errors = observed[:, None, None, :] - waited[:, :, : M + 2]  # [B, H, M + 2, O]
    settled = ~np.isnan(errors[:, :, 1])
    if settled.any():
        rows["settled"] += settled
        weight = newest_weight(rows["settled"], SCORE_MEMORY)[:, :, None]
        size = np.abs(errors[:, :, :M])
        blend(rows["score_square"], size * size, weight, settled[:, :, None])
        blend(rows["score_absolute"], size, weight, settled[:, :, None])
    elif np.isnan(errors[:, :, 0]).all():
        return np.zeros(len(errors))
    outside = errors[:, :, M:] * SIDES > 0
    _score_bounds(rows, outside, waited[:, :, M : M + 2], errors[:, :, M])
    error = errors[:, :, 0] / (waited[:, :, M + 2] if shape.spread else residual_scale)
    anomaly = _anomaly(rows, error[:, 0])
    tracked = np.minimum(np.maximum(error, -ERROR_LIMIT), ERROR_LIMIT)
    track_square(rows["error_count"], rows["error_square"], tracked, np.zeros_like(error), ERROR_MEMORY)
    tail = ((1 - rows["coverage_target"]) / 2)[:, None, None, None]
    moved = np.maximum(rows["reach"] + TRACK_RATE * (outside - tail), 0)
    np.copyto(rows["reach"], moved, where=~np.isnan(errors[:, :, M:]))
    return anomaly


def _score_bounds(rows: Rows, outside: Flags, bounds: Floats, error: Floats) -> None:
    """Coverage and width of the intervals that met their value (those of warm-up are NaN)."""
    seen = ~np.isnan(error)
    rows["bounded"] += seen
    weight = newest_weight(rows["bounded"], SCORE_MEMORY)
    blend(rows["score_coverage"], 1.0 - (outside[:, :, 0] | outside[:, :, 1]), weight, seen)
    blend(rows["score_width"], bounds[:, :, 1] - bounds[:, :, 0], weight, seen)


def _anomaly(rows: Rows, error: Floats) -> Floats:
    """Largest one-step error over the targets, in units of ANOMALY_SIGMAS running RMS errors; 0 in warm-up. [B]."""
    ready = (rows["error_count"][:, 0] >= WARM_UP) & ~np.isnan(error)
    usual = ANOMALY_SIGMAS * np.sqrt(rows["error_square"][:, 0]) + FLOOR
    score: Floats = np.where(ready, np.abs(error) / usual, 0).max(axis=1)
    return score


def initial_reach(coverage: float) -> float:
    """Where the bounds of a new session begin: the quantile that Gaussian errors would have."""
    return NormalDist().inv_cdf((1 + coverage) / 2)


def _outputs(shape: ForecastShape, scaled: Scaled, ys: Floats) -> _Outputs:
    """Mean, quantiles and spread that the outputs `ys` [B, H·O·R] stand for.

    If one of a pair's outputs is not finite, persistence stands for all that is served of the pair.
    """
    pairs = scaled.scale.shape
    if shape.per_pair == 1 and not shape.quantiles:
        return _Outputs(_mean(shape, scaled, ys.reshape(pairs)), np.empty((*pairs, 0)), scaled.scale)
    outputs = ys.reshape(*pairs, shape.per_pair)
    broken = ~np.logical_and.reduce(np.isfinite(outputs), axis=-1)
    if shape.spread:
        log_variance = np.minimum(np.maximum(outputs[..., 1], -LOG_VARIANCE_LIMIT), LOG_VARIANCE_LIMIT)
        central, spread = outputs[..., 0], np.exp(0.5 * log_variance) * scaled.scale
    else:
        outputs = np.sort(outputs, axis=-1)
        levels = np.abs(np.array(shape.quantiles) - 0.5)
        central, spread = outputs[..., int(levels.argmin())], scaled.scale
    mean = _mean(shape, scaled, np.where(broken, np.nan, central))
    if shape.spread:
        sigmas = np.array([NormalDist().inv_cdf(level) for level in shape.quantiles])
        offset, start = spread[..., None] * sigmas, mean[..., None]
    else:
        limit = INPUT_LIMIT if shape.clamp else np.inf  # that of the targets they were learned from
        offset = np.minimum(np.maximum(outputs, -limit), limit) * scaled.scale[..., None]
        start = scaled.anchor[:, None, :, None]
    distribution = start + np.where(np.isnan(offset), 0, offset)
    np.copyto(distribution, mean[..., None], where=broken[..., None])
    return _Outputs(mean, distribution, spread)


def _mean(shape: ForecastShape, scaled: Scaled, outputs: Floats) -> Floats:
    """Anchor + scale · output, within CLAMP scales; the anchor while there is no scale, persistence if not finite."""
    limited = np.minimum(np.maximum(outputs, -CLAMP), CLAMP) if shape.clamp else outputs
    offset = limited * scaled.scale
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


def _wait(shape: ForecastShape, rows: Rows, scaled: Scaled, outputs: _Outputs, bounds: Floats, event: Flags) -> Floats:
    """Keeps the forecasts of this step until their values arrive, and returns them [B, waiting, H, O]; those of a
    missing step are NaN, and with labels they take no row."""
    mean, session, M = outputs.mean, np.arange(len(outputs.mean)), shape.forecasters
    now = rows["forecast_steps"] % shape.slots
    forecast = np.empty((len(mean), shape.waiting, *mean.shape[1:]))
    forecast[:, 0] = mean
    forecast[:, 1] = scaled.last[:, None, :]
    if shape.season:
        phase = (rows["season_phase"][:, None] + np.arange(shape.horizon)) % shape.season
        seasonal = rows["season_values"][session[:, None], phase]
        forecast[:, 2] = np.where(np.isnan(seasonal), forecast[:, 1], seasonal)
    forecast[:, M : M + 2] = bounds.transpose(0, 2, 1, 3)
    if shape.spread:
        forecast[:, M + 2] = outputs.spread
    if not event.all():
        forecast[~event] = np.nan
    if shape.ahead:
        rows["waiting"][session, now] = forecast
        rows["forecast_steps"] += 1
    else:
        rows["waiting"][session[event], now[event]] = forecast[event]
        rows["forecast_steps"] += event
    return forecast
