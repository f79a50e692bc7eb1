"""From a learner's outputs to served probabilities, and what became of them: settling, surprise, scores.

The face is that of `forecasts.py`, for symbols in place of numbers: softmax over the symbols of one target, or for each
of several targets the probability of 1. A forecast is scored by its cross-entropy in nats and by whether the most
probable symbol came, beside the naive forecaster: the frequencies of the symbols as they were known when the forecast
was made, half a count added to each (Krichevsky & Trofimov 1981). Forecasts of missing steps are scored for nobody.

Array legend: B sessions, H horizons, O targets, C symbols; axis 2 of scores holds model and naive forecaster. What
waits does so in a ring: step t in row t mod H, or with labels event t in row t mod slots. Softmax (O = 1) keeps the
logarithms of all probabilities, last axis C; sigmoid the logits, last axis O.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.events import ExpertStatus, SymbolScores
from bptt_core.running import (
    SCORE_MEMORY,
    WARM_UP,
    Floats,
    blend,
    newest_weight,
    track_square,
)
from bptt_core.scales import Scaled
from bptt_core.serving import Served
from bptt_core.slab import Field, Rows

Flags = NDArray[np.bool_]

FREQUENCY_MEMORY: Final = 10_000
SURPRISE_MEMORY: Final = 256  # of the usual surprise
ANOMALY_SIGMAS: Final = 4.0  # a surprise of this many usual ones is an anomaly, score 1
LEAST_SURPRISE: Final = math.log(2)  # what was at least as probable as not is never an anomaly


@dataclass(frozen=True, slots=True)
class SymbolShape:
    """What sessions of one slab have in common here."""

    horizon: int
    targets: int
    ahead: int  # 0: labels of the event itself are predicted
    slots: int  # rows of the ring: the horizon, or with labels the oldest age of a late one + 1
    symbols: int  # C of the one target; 0: every target has a probability of its own

    @property
    def width(self) -> int:
        """Numbers that describe the forecast of one horizon."""
        return self.symbols or self.targets


def fields(shape: SymbolShape) -> list[Field]:
    """State of one session."""
    H, O, W = shape.horizon, shape.targets, shape.width
    return [
        Field("forecast_steps", (), np.int64),  # with labels: events
        Field("waiting", (shape.slots, H, W), np.float64, np.nan),
        Field("waiting_naive", (shape.slots, W), np.float64, np.nan),
        Field("seen", (O,), np.int64),
        Field("tally", (W,), np.float64),  # how often each symbol came, or the sum of the values
        Field("settled", (H, O), np.int64),
        Field("score_loss", (H, 2, O), np.float64),
        Field("score_error", (H, 2, O), np.float64),
        Field("surprise_count", (O,), np.int64),
        Field("surprise_square", (O,), np.float64),
    ]


def step(shape: SymbolShape, rows: Rows, scaled: Scaled, ys: Floats, event: Flags) -> Served:
    """Settles what waited for this step's symbols, and forecasts, in place on `rows`.

    `ys` [B, 1, H·O·max(C, 1)] are the learner's outputs, `scaled.observed` [B, O] codes (or values in 0..1), NaN:
    missing; `event` [B] is False for missing steps. With labels the event's own are settled after they were predicted.
    """
    session, observed = np.arange(len(ys)), scaled.observed
    if shape.ahead:
        horizons = np.arange(shape.horizon)
        made = (rows["forecast_steps"][:, None] - 1 - horizons) % shape.slots
        waited = rows["waiting"][session[:, None], made, horizons]
        anomaly = _settle(shape, rows, waited, rows["waiting_naive"][session[:, None], made], observed)
    naive = _naive(shape, rows)
    model = _outputs(shape, ys, naive)
    here = session if shape.ahead else np.flatnonzero(event)
    now = rows["forecast_steps"][here] % shape.slots
    rows["waiting"][here, now] = np.where(event[:, None, None], model, np.nan)[here]
    rows["waiting_naive"][here, now] = naive[here]
    rows["forecast_steps"] += 1 if shape.ahead else event
    if not shape.ahead:
        anomaly = _settle(shape, rows, model, naive[:, None], observed)
    return _served(shape, model, anomaly)


def late(shape: SymbolShape, rows: Rows, slots: NDArray[np.int64], observed: Floats) -> None:
    """Settles labels `observed` [n, O] of earlier events, in order and in place on the `rows` of one session.

    `slots` [n] are the events' numbers, counted from 0, modulo `shape.slots`; NaN: no label.
    """
    for k, slot in enumerate(slots.tolist()):
        _settle(shape, rows, rows["waiting"][:, slot], rows["waiting_naive"][:, slot, None], observed[k : k + 1])


def clear(shape: SymbolShape, rows: Rows, which: Flags) -> None:
    """Drops the forecasts that wait for symbols of the stream, in place; predictions of labels stay."""
    if shape.ahead:
        rows["waiting"][which] = np.nan


def skip(shape: SymbolShape, rows: Rows, jump: NDArray[np.int64], which: Flags) -> None:
    """Nothing here depends on how far the stream jumped."""


def read_scores(shape: SymbolShape, row: dict[str, Any]) -> SymbolScores:
    """The scores of one session, whose fields (without a slot axis) are `row`; NaN where nothing was scored yet."""
    none = row["settled"][:, None] == 0
    loss, error = (np.where(none, np.nan, row[f"score_{kind}"]) for kind in ("loss", "error"))
    return SymbolScores(
        count=row["settled"].copy(),
        log_loss=loss[:, 0],
        naive_log_loss=loss[:, 1],
        error_rate=error[:, 0],
        naive_error_rate=error[:, 1],
    )


def read_experts(shape: SymbolShape, row: dict[str, Any]) -> list[ExpertStatus]:
    """None: symbols are predicted by a single learner."""
    return []


def _settle(shape: SymbolShape, rows: Rows, model: Floats, naive: Floats, observed: Floats) -> Floats:
    """Scores the forecasts `model` [B, H, W] and `naive` [B, H, W] by `observed` [B, O], in place; moves surprise and
    frequencies; returns the anomaly score of each target [B, O]."""
    forecasts = np.stack(np.broadcast_arrays(model, naive), axis=2)  # [B, H, 2, W]
    loss, wrong = _losses(shape, forecasts, observed)
    settled = ~np.isnan(loss[:, :, 0])
    rows["settled"] += settled
    weight = newest_weight(rows["settled"], SCORE_MEMORY)[:, :, None]
    blend(rows["score_loss"], loss, weight, settled[:, :, None])
    blend(rows["score_error"], wrong, weight, settled[:, :, None])
    anomaly = _anomaly(rows, loss[:, 0, 0])
    _count(shape, rows, observed)
    return anomaly


def _losses(shape: SymbolShape, forecasts: Floats, observed: Floats) -> tuple[Floats, Floats]:
    """Cross-entropy [B, H, 2, O], NaN where nothing ends, and whether the guess was wrong, of `forecasts`
    [B, H, 2, W]."""
    if shape.symbols == 0:
        came = observed[:, None, None, :]
        wrong = (forecasts > 0) != (came > 0.5)
        return np.logaddexp(0, forecasts) - came * forecasts, wrong.astype(np.float64)
    missing = np.isnan(observed[:, 0])
    code = np.where(missing[:, None], 0, observed).astype(np.int64)[:, None, None, :]  # [B, 1, 1, 1]
    loss = -np.take_along_axis(forecasts, code, axis=-1)
    loss[missing] = np.nan
    return loss, (forecasts.argmax(axis=-1, keepdims=True) != code).astype(np.float64)


def _anomaly(rows: Rows, surprise: Floats) -> Floats:
    """The `surprise` [B, O] of each target in units of ANOMALY_SIGMAS running RMS surprises, and of LEAST_SURPRISE at
    least; 0 in warm-up. [B, O]. Moves the running RMS, in place."""
    count, square = rows["surprise_count"], rows["surprise_square"]
    ready = (count >= WARM_UP) & ~np.isnan(surprise)
    usual = np.maximum(ANOMALY_SIGMAS * np.sqrt(square), LEAST_SURPRISE)
    score: Floats = np.where(ready, surprise / usual, 0)
    track_square(count, square, surprise, np.zeros_like(surprise), SURPRISE_MEMORY)
    return score


def _count(shape: SymbolShape, rows: Rows, observed: Floats) -> None:
    """Adds `observed` [B, O] to the counts, in place: exact ones first, fading from FREQUENCY_MEMORY on."""
    seen = ~np.isnan(observed)
    came = observed == np.arange(shape.symbols) if shape.symbols else observed
    tally = rows["tally"]
    faded = np.where(rows["seen"] < FREQUENCY_MEMORY, tally, tally - tally / FREQUENCY_MEMORY)
    np.add(faded, came, out=tally, where=seen)
    rows["seen"] += seen


def _naive(shape: SymbolShape, rows: Rows) -> Floats:
    """What the counts forecast, as logarithms or logits [B, W]."""
    seen, tally = np.minimum(rows["seen"], FREQUENCY_MEMORY), rows["tally"]
    naive: Floats = np.log((tally + 0.5) / (seen + 0.5 * shape.symbols if shape.symbols else seen - tally + 0.5))
    return naive


def _outputs(shape: SymbolShape, ys: Floats, naive: Floats) -> Floats:
    """Logarithms of probabilities, or logits [B, H, W]; the naive ones for a pair whose outputs are not all finite."""
    outputs = ys.reshape(len(ys), shape.horizon, shape.width)
    finite: Flags = np.isfinite(outputs)
    if shape.symbols:
        finite = np.logical_and.reduce(finite, axis=-1, keepdims=True)
        outputs = outputs - outputs.max(axis=-1, keepdims=True)
        outputs -= np.log(np.exp(outputs).sum(axis=-1, keepdims=True))
    return np.where(finite, outputs, naive[:, None])


def _probability(logits: Floats) -> Floats:
    """1 / (1 + exp(−logit)), without overflow."""
    probability: Floats = 0.5 * np.tanh(0.5 * logits) + 0.5
    return probability


def _served(shape: SymbolShape, model: Floats, anomaly: Floats) -> Served:
    """What is served of `model` [B, H, W] and the anomaly scores [B, O] of what came."""
    if shape.symbols:
        mean = model.argmax(axis=-1)[:, :, None].astype(np.float64)
        distribution = np.exp(model)[:, :, None]
    else:
        mean = _probability(model)
        distribution = np.empty((*mean.shape, 0))
    nothing, never = np.full_like(mean, np.nan), np.zeros(len(mean), bool)
    largest = np.maximum.reduce(anomaly, axis=-1)
    likelihood, states = np.zeros(len(mean)), np.empty((len(mean), 0), np.int8)
    return Served(mean, nothing, nothing, distribution, largest, anomaly, likelihood, states, never, never)
