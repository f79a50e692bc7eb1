"""Running errors of what is served, of the naive forecasters beside it, and of every expert.

All forecasters are compared on the same pairs: a pair is scored if persistence was defined when it was made. Running
means are plain at first and fade later. Array legend: B sessions, H horizons, O targets, K experts.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from bptt_core.aggregation import ERROR_LIMIT
from bptt_core.events import Scores
from bptt_core.running import SCORE_MEMORY, Floats, blend, newest_weight
from bptt_core.slab import Field, Rows

MODEL, PERSISTENCE, SEASONAL = 0, 1, 2
_FORECASTERS: Final = 3


def fields(horizon: int, targets: int, experts: int) -> list[Field]:
    """State of one session."""
    pairs = (horizon, targets)
    state = [
        Field("settled", pairs, np.int64),
        Field("score_square", (_FORECASTERS, *pairs), np.float64),
        Field("score_absolute", (_FORECASTERS, *pairs), np.float64),
        Field("bounded", pairs, np.int64),
        Field("score_coverage", pairs, np.float64),
        Field("score_width", pairs, np.float64),
        Field("score_interval", pairs, np.float64),
    ]
    if experts:
        state += [Field("expert_count", (), np.int64), Field("expert_square", (experts,), np.float64)]
    return state


def settle(rows: Rows, forecasts: tuple[Floats, Floats, Floats], observed: Floats) -> None:
    """Scores the forecasts of model, persistence and season, each [B, H, O], by `observed` [B, O]; in place."""
    value = observed[:, None]
    seen = ~np.isnan(value - forecasts[PERSISTENCE])
    rows["settled"] += seen
    weight = newest_weight(rows["settled"], SCORE_MEMORY)
    for k, forecast in enumerate(forecasts):
        error = np.abs(value - forecast)
        blend(rows["score_square"][:, k], error * error, weight, seen)
        blend(rows["score_absolute"][:, k], error, weight, seen)


def settle_bounds(rows: Rows, lower: Floats, upper: Floats, observed: Floats) -> None:
    """Scores the bounds [B, H, O] by `observed` [B, O], in place; those of warm-up are NaN and are not counted."""
    below, above = lower - observed[:, None], observed[:, None] - upper
    seen = ~np.isnan(below + above)
    if not seen.any():
        return
    rows["bounded"] += seen
    weight = newest_weight(rows["bounded"], SCORE_MEMORY)
    outside = np.maximum(np.maximum(below, above), 0)
    width = upper - lower
    penalty = 2 / (1 - rows["coverage_target"])[:, None, None]
    blend(rows["score_coverage"], 1.0 - (outside > 0), weight, seen)
    blend(rows["score_width"], width, weight, seen)
    blend(rows["score_interval"], width + penalty * outside, weight, seen)


def settle_experts(rows: Rows, forecasts: Floats, observed: Floats, unit: Floats) -> None:
    """Scores the experts' forecasts [B, H, O, K] in units [B, H, O], pooled over the pairs that end now; in place."""
    error = np.abs(forecasts - observed[:, None, :, None]) / unit[..., None]
    error = np.minimum(error, ERROR_LIMIT, out=error)  # the first units may be next to nothing
    square = (error * error).reshape(len(error), -1, error.shape[-1]).transpose(0, 2, 1)
    square = np.ascontiguousarray(square)  # [B, K, H·O]
    known = ~np.isnan(square[:, :1])
    pairs = known.sum(axis=-1)
    mean = np.where(known, square, 0).sum(axis=-1) / np.maximum(pairs, 1)
    rows["expert_count"] += pairs[:, 0] > 0
    weight = newest_weight(rows["expert_count"], SCORE_MEMORY)[:, None]
    blend(rows["expert_square"], mean, weight, pairs > 0)


def read(row: dict[str, Any], seasonal: bool) -> Scores:
    """The scores of one session, whose fields (without a slot axis) are `row`; NaN where nothing was scored yet."""
    none, unbounded = row["settled"] == 0, row["bounded"] == 0
    square, absolute = (np.where(none, np.nan, row[f"score_{kind}"]) for kind in ("square", "absolute"))
    coverage, width, interval = (
        np.where(unbounded, np.nan, row[f"score_{kind}"]) for kind in ("coverage", "width", "interval")
    )
    return Scores(
        count=row["settled"].copy(),
        mse=square[MODEL],
        mae=absolute[MODEL],
        persistence_mse=square[PERSISTENCE],
        persistence_mae=absolute[PERSISTENCE],
        seasonal_mse=square[SEASONAL] if seasonal else None,
        seasonal_mae=absolute[SEASONAL] if seasonal else None,
        coverage=coverage,
        width=width,
        interval_score=interval,
    )


def skill(square: Floats) -> Floats:
    """1 − mean squared error over persistence's, mean over the pairs, of sessions whose `score_square` [n, 3, H, O] are
    given: 0 is as good as persistence, 1 is perfect. NaN: persistence makes no error."""
    model, persistence = square[:, MODEL].reshape(len(square), -1), square[:, PERSISTENCE].reshape(len(square), -1)
    usable = persistence > 0
    ratio = np.where(usable, model / np.where(usable, persistence, 1), 0).sum(axis=-1)
    count = usable.sum(axis=-1)
    value: Floats = np.where(count > 0, 1 - ratio / np.maximum(count, 1), np.nan)
    return value
