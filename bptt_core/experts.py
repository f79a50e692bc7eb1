"""The experts of a portfolio: every learner, and the naive forecasters beside them.

Each forecasts every pair at every step, and always something finite: a learner its anchor plus its output,
persistence the last value, a season what came one season ago, the mean the running mean, the autoregression what
`autoregression.py` says. A learner stays within a few residual scales of its anchor, the others of one of the last
values. Who is to be believed is none of this module's business. Array legend: B sessions, H horizons, O targets, A
anchors, M learners, K experts: the learners first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from bptt_core import autoregression
from bptt_core.autoregression import AutoregressionShape
from bptt_core.outputs import CLAMP, mean_of
from bptt_core.running import Floats
from bptt_core.scales import Scaled
from bptt_core.scaling import FLOOR, TINY
from bptt_core.seasons import SLOTS
from bptt_core.slab import Field, Rows

RECENT: Final = 2  # last values that naive forecasts stay near to: a lone spike does not move them, a step soon does


@dataclass(frozen=True)
class ExpertShape:
    """What sessions of one slab have in common here."""

    horizon: int
    targets: int
    anchors: tuple[int, ...]  # of each learner its anchor's position; the last value has position 0
    seasonal: bool  # whether there are seasons
    context: int  # C, numbers that tell of one target

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the K experts."""
        learners = (f"learner {k}" for k in range(len(self.anchors)))
        seasons = ("season", "second season") if self.seasonal else ()
        return (*learners, "persistence", *seasons, "mean", "autoregression")

    @property
    def persistence(self) -> int:
        """Position of persistence among the experts."""
        return len(self.anchors)

    @cached_property
    def linear(self) -> AutoregressionShape:
        """Of the autoregression."""
        return AutoregressionShape(self.targets, self.horizon, self.context)


def fields(shape: ExpertShape) -> list[Field]:
    """State of one session."""
    return autoregression.fields(shape.linear)


def step(shape: ExpertShape, rows: Rows, scaled: Scaled, ys: Floats) -> Floats:
    """The forecasts [B, H, O, K] made at this step, in place on `rows`; NaN only for targets without any value yet.

    `ys` [B, M, H·O] are the learners' outputs in units of their anchors' scales.
    """
    B, last, learners = len(scaled.last), scaled.last, len(shape.anchors)
    forecasts = np.empty((B, shape.horizon, shape.targets, len(shape.names)))
    outputs = ys.reshape(B, learners, shape.horizon, shape.targets)
    for k, a in enumerate(shape.anchors):
        forecasts[..., k] = mean_of(True, outputs[:, k], scaled.anchor[:, :, a], scaled.scale[:, :, a], last)
    if scaled.seasonal is None:
        seasonal = np.full((B, SLOTS, shape.horizon, shape.targets), np.nan)
    else:
        seasonal = np.where(scaled.seasonal.period[:, :, None, None] > 0, scaled.seasonal.naive, np.nan)
    naive = [last[:, None]]
    if scaled.seasonal is not None:
        naive += [scaled.seasonal.naive[:, slot] for slot in range(SLOTS)]
        if scaled.seasonal.changed.any():
            autoregression.change_season(shape.linear, rows, scaled.seasonal.changed)
    scale = scaled.scale[:, :, 0]
    level = (last - scaled.level) / (scaled.deviation + np.fmax(FLOOR * np.abs(last), TINY))
    linear = autoregression.step(shape.linear, rows, scaled.observed, last, level, scale, scaled.context, seasonal)
    naive += [scaled.level[:, None]]
    reach = CLAMP * np.where(np.isnan(scale), 0, scale)
    recent = rows["linear_past"][:, :, :RECENT]  # one spike must not keep the others from where the stream was before
    low, high = np.fmin.reduce(recent, axis=-1)[:, None] - reach, np.fmax.reduce(recent, axis=-1)[:, None] + reach
    for k, forecast in enumerate(naive):
        forecasts[..., learners + k] = np.minimum(np.maximum(forecast, low), high)
    low, high = last[:, None] - reach, last[:, None] + reach
    forecasts[..., -1] = np.minimum(np.maximum(linear, low), high)
    return forecasts


def clear(shape: ExpertShape, rows: Rows, which: np.ndarray) -> None:
    """The streams in `which` [B] do not go on from the step before; in place."""
    autoregression.clear(shape.linear, rows, which)
