"""From learners' outputs to served forecasts, and what became of them: settling, intervals, anomaly score, scores.

A forecast made at step s for s + h waits until step s + h brings its value, and meets exactly that value then, with
all it was issued with: the experts' forecasts, persistence (the last observed value), the seasonal naive forecast,
bounds and unit. A prediction of an event's own label waits for the label, which comes with the event or later;
persistence is the last label known when it was made. Forecasts of missing steps are served to nobody and meet
nobody's value.

A session with a portfolio serves the weighted mean of its experts (`experts.py`, `aggregation.py`); one with a single
learner serves what that says (`outputs.py`). Intervals are those of `intervals.py` around either.

Array legend: B sessions, H horizons, O targets, M learners, K experts, W numbers that wait with a pair; rings hold what
waits: step t in row t mod H, or with labels event t in row t mod slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core import aggregation, anomaly, drift, experts, intervals, scores, seasons
from bptt_core.aggregation import AggregationShape
from bptt_core.anomaly import AnomalyShape
from bptt_core.drift import DriftShape
from bptt_core.events import ExpertStatus, Scores, SensorState
from bptt_core.experts import ExpertShape
from bptt_core.intervals import IntervalShape
from bptt_core.outputs import outputs_of
from bptt_core.running import Floats
from bptt_core.scales import Scaled
from bptt_core.seasons import Seasonal, SeasonShape
from bptt_core.serving import Served
from bptt_core.slab import Field, Rows

Flags = NDArray[np.bool_]

MEAN, LOWER, UPPER, UNIT, PERSISTENCE, SEASONAL, EXPERTS = range(7)  # what waits with a pair; experts from there on
FAR_BELOW: Final = 1e-3  # of the usual change: errors so small are those of a stream that stands still
TRUST: Final = 0.25  # weight of persistence at the start, when nothing speaks for the others yet


@dataclass(frozen=True)
class ForecastShape:
    """What sessions of one slab have in common here."""

    horizon: int
    targets: int
    ahead: int  # 0: labels of the event itself are predicted
    slots: int  # rows of the ring: the horizon, or with labels the oldest age of a late one + 1
    per_pair: int  # R of a single learner
    loss: str  # of a single learner
    quantiles: tuple[float, ...]  # levels, rising; only where they are served
    clamp: bool
    anchor: int = 0  # position of a single learner's among the scaling's
    season: int = 0  # scored as a naive forecast where the learners know no seasons; 0: none
    portfolio: ExpertShape | None = None  # None: a single learner
    seasonal: bool = False  # whether the learners know seasons

    @cached_property
    def memory(self) -> SeasonShape | None:
        """Of the season that is scored only."""
        return SeasonShape(self.targets, self.horizon, (self.season,), False) if self.season else None

    @cached_property
    def weighting(self) -> AggregationShape:
        """Of a portfolio."""
        assert self.portfolio is not None
        count, place = len(self.portfolio.names), self.portfolio.persistence
        others = (1 - TRUST) / (count - 1)
        prior = tuple(TRUST if k == place else others for k in range(count))
        return AggregationShape(self.horizon, self.targets, count, prior)

    @cached_property
    def bounds(self) -> IntervalShape:
        return IntervalShape(self.horizon, self.targets)

    @cached_property
    def oddness(self) -> AnomalyShape:
        return AnomalyShape(self.targets)

    @cached_property
    def change(self) -> DriftShape:
        return DriftShape(self.targets)

    @property
    def waiting(self) -> int:
        """W."""
        return EXPERTS + (self.spread if self.portfolio is None else len(self.portfolio.names))

    @property
    def spread(self) -> bool:
        """Whether a single learner tells the deviation of its error; it waits where the experts do elsewhere."""
        return self.portfolio is None and self.loss == "gaussian"


class _Judged(NamedTuple):
    """What is said of the values that met their forecasts."""

    odd: anomaly.Anomaly
    drift: Flags  # [B]


def fields(shape: ForecastShape) -> list[Field]:
    """State of one session."""
    state = [
        Field("forecast_steps", (), np.int64),  # with labels: events
        Field("waiting", (shape.slots, shape.horizon, shape.targets, shape.waiting), np.float64, np.nan),
        *intervals.fields(shape.bounds),
        *anomaly.fields(shape.oddness),
        *drift.fields(shape.change),
    ]
    if shape.memory is not None:
        state += seasons.fields(shape.memory)
    if shape.portfolio is not None:
        state += experts.fields(shape.portfolio)
        state += aggregation.fields(shape.weighting)
    count = 0 if shape.portfolio is None else len(shape.portfolio.names)
    return state + scores.fields(shape.horizon, shape.targets, count)


def step(shape: ForecastShape, rows: Rows, scaled: Scaled, ys: Floats, event: Flags) -> Served:
    """Settles what waited for this step's values, and forecasts, in place on `rows`.

    `ys` [B, M, K] are the learners' outputs in units of their scales; `event` [B] is False for missing steps. With
    labels the event's own are settled after they were predicted.
    """
    judged = _settle(shape, rows, _due(shape, rows), scaled.observed) if shape.ahead else None
    made, distribution = _forecast(shape, rows, scaled, ys)
    _wait(shape, rows, made, event)
    if judged is None:
        judged = _settle(shape, rows, np.where(event[:, None, None, None], made, np.nan), scaled.observed)
    bounds = made[..., LOWER], made[..., UPPER]
    warming_up = np.logical_or.reduce(np.isnan(bounds[0]).reshape(len(made), -1), axis=-1)
    state = judged.odd.state if shape.ahead else judged.odd.state[:, :0]
    odd = judged.odd
    return Served(
        made[..., MEAN],
        *bounds,
        distribution,
        odd.score,
        odd.target_score,
        odd.likelihood,
        state,
        judged.drift,
        warming_up,
    )


def late(shape: ForecastShape, rows: Rows, slots: NDArray[np.int64], observed: Floats) -> None:
    """Settles labels `observed` [n, O] of earlier events, in order and in place on the `rows` of one session.

    `slots` [n] are the events' numbers, counted from 0, modulo `shape.slots`; NaN: no label.
    """
    for k, slot in enumerate(slots.tolist()):
        _settle(shape, rows, rows["waiting"][:, slot], observed[k : k + 1])


def clear(shape: ForecastShape, rows: Rows, which: Flags) -> None:
    """Drops the forecasts that wait for values of the stream, in place; predictions of labels stay."""
    if shape.ahead:
        rows["waiting"][which] = np.nan
    if shape.portfolio is not None:
        experts.clear(shape.portfolio, rows, which)


def skip(shape: ForecastShape, rows: Rows, jump: NDArray[np.int64], which: Flags) -> None:
    """Re-indexes the season where the streams in `which` [B] jumped over `jump` [B] steps, in place."""
    if shape.memory is not None:
        seasons.skip(shape.memory, rows, jump, which)


def read_scores(shape: ForecastShape, row: dict[str, Any]) -> Scores:
    """The scores of one session, whose fields (without a slot axis) are `row`."""
    return scores.read(row, shape.seasonal or shape.season > 0)


def read_experts(shape: ForecastShape, row: dict[str, Any]) -> list[ExpertStatus]:
    """The experts of one session, whose fields (without a slot axis) are `row`; none with a single learner."""
    if shape.portfolio is None:
        return []
    rows = {name: np.asarray(value)[None] for name, value in row.items() if name.startswith("aggregate_")}
    weight = aggregation.weights(shape.weighting, rows)[0].mean(axis=(0, 1))
    square = row["expert_square"]
    naive = square[shape.portfolio.persistence]
    ratio = square / naive if row["expert_count"] and naive > 0 else np.full(len(square), np.nan)
    return [ExpertStatus(*facts) for facts in zip(shape.portfolio.names, weight.tolist(), ratio.tolist(), strict=True)]


def _due(shape: ForecastShape, rows: Rows) -> Floats:
    """What waited for this step's values, [B, H, O, W]."""
    horizons = np.arange(shape.horizon)
    made = (rows["forecast_steps"][:, None] - 1 - horizons) % shape.slots
    due: Floats = rows["waiting"][np.arange(len(made))[:, None], made, horizons]
    return due


def _settle(shape: ForecastShape, rows: Rows, waited: Floats, observed: Floats) -> _Judged:
    """What `waited` [B, H, O, W] meets `observed` [B, O], in place."""
    mean, lower, upper, unit = (waited[..., k] for k in (MEAN, LOWER, UPPER, UNIT))
    odd = anomaly.step(shape.oddness, rows, observed, mean[:, 0], lower[:, 0], upper[:, 0], FAR_BELOW * unit[:, 0])
    drifted = drift.step(shape.change, rows, (observed - mean[:, 0]) / unit[:, 0])
    if np.isnan(observed).all():  # nobody's value came: nothing below would change anything
        return _Judged(odd, drifted)
    scores.settle(rows, (mean, waited[..., PERSISTENCE], waited[..., SEASONAL]), observed)
    scores.settle_bounds(rows, lower, upper, observed)
    spread = waited[..., EXPERTS] if shape.spread else None
    # A stuck sensor's errors are next to nothing and say nothing of those to come.
    alive = np.where(odd.state == SensorState.STUCK, np.nan, observed) if shape.ahead else observed
    intervals.settle(shape.bounds, rows, mean, lower, upper, unit, alive, spread)
    if shape.portfolio is not None:
        forecasts = waited[..., EXPERTS:]
        scores.settle_experts(rows, forecasts, observed, unit)
        aggregation.settle(shape.weighting, rows, forecasts, mean, observed, unit)
    return _Judged(odd, drifted)


def _forecast(shape: ForecastShape, rows: Rows, scaled: Scaled, ys: Floats) -> tuple[Floats, Floats]:
    """What is issued at this step [B, H, O, W], and the distribution [B, H, O, Q] a single learner tells."""
    last, scale = scaled.last, scaled.scale[:, :, shape.anchor]
    made = np.empty((*scale.shape, shape.waiting))
    spread = None
    if shape.portfolio is None:
        kind = shape.per_pair, shape.loss, shape.quantiles, shape.clamp
        mean, distribution, told = outputs_of(*kind, ys[:, 0], scaled.anchor[:, :, shape.anchor], scale, last)
        if shape.spread:
            spread = made[..., EXPERTS] = told
    else:
        forecasts = experts.step(shape.portfolio, rows, scaled, ys)
        mean = aggregation.mix(aggregation.weights(shape.weighting, rows), forecasts)
        distribution = np.empty((*scale.shape, 0))
        made[..., EXPERTS:] = forecasts
    seasonal = scaled.seasonal
    if shape.memory is not None:
        seasonal = seasons.step(shape.memory, rows, scaled.observed, last)
    made[..., MEAN] = mean
    made[..., LOWER], made[..., UPPER] = intervals.bounds(shape.bounds, rows, mean, spread)
    made[..., UNIT] = scale
    made[..., PERSISTENCE] = last[:, None]
    made[..., SEASONAL] = last[:, None] if seasonal is None else _longest(seasonal)
    return made, distribution


def _longest(seasonal: Seasonal) -> Floats:
    """The naive forecast [B, H, O] by the longest season in force; while there is none that is the last value."""
    naive: Floats = seasonal.naive[np.arange(len(seasonal.period)), seasonal.period.argmax(axis=-1)]
    return naive


def _wait(shape: ForecastShape, rows: Rows, made: Floats, event: Flags) -> None:
    """Keeps what was issued, `made` [B, H, O, W], until its values arrive; of a missing step there is nothing to keep,
    and with labels it takes no row."""
    session, now = np.arange(len(made)), rows["forecast_steps"] % shape.slots
    if shape.ahead:
        rows["waiting"][session, now] = made if event.all() else np.where(event[:, None, None, None], made, np.nan)
        rows["forecast_steps"] += 1
    else:
        rows["waiting"][session[event], now[event]] = made[event]
        rows["forecast_steps"] += event
