"""A linear expert: recursive least squares that learns all horizons of a target from its past, its seasons and the
other targets.

A forecast is the last value + scale · (w · u + θ · r). The regressors u of a step are the same for every horizon, so
one inverse of their fading second moments [q, q] per target serves them all: the gain of a step waits beside its
regressors until the value of each horizon arrives, so that every horizon's weights are exactly those of recursive least
squares (Plackett 1950; with forgetting Ljung & Söderström 1983), only later. What a season says of one horizon does not
fit into moments shared by all. By the theorem of Frisch & Waugh (1933) and Lovell (1963) it need not: the seasonal
naive forecasts are regressed on u as well, and the error of w · u on what that leaves of them, r, which has one
dimension for each season, so that θ is solved for in closed form.

Where nothing excites a regressor, forgetting would let the inverse grow without bound. So each step one regressor in
turn is given back the information that it loses in a whole turn at rest (Gunnarsson 1994): a long rest leads to the
ignorance of the start, never beyond. Nothing here knows other experts, or what its own forecast is used for.

Array legend: B sessions, O targets, H horizons, S seasons, q regressors, C of them from outside. All is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.running import Floats
from bptt_core.slab import Field, Rows

Flags = NDArray[np.bool_]

SEASONS: Final = 2  # S
LAGS: Final = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)  # the changes between these steps back are regressors
NEIGHBOURS: Final = 16  # targets up to which each sees the newest change of all others
MEMORY: Final = 3000  # steps after which a pair's weight has faded to 1/e
RIDGE: Final = 10.0  # pairs that a weight of 0 counts for at first
LIMIT: Final = 5.0  # regressors lie in ± this: one absurd value has little leverage
TARGET_LIMIT: Final = 10.0  # … targets in ± this, in units of the scale
ERROR_LIMIT: Final = 4.0  # a larger error moves the weights like this one (Huber 1964)

FADE: Final = 1 - 1 / MEMORY
ROOTS: Final = np.sqrt(np.diff(LAGS))  # the change within n steps is usually about √n times that of one


@dataclass(frozen=True)
class AutoregressionShape:
    """What sessions of one slab have in common here."""

    targets: int
    horizon: int
    context: int  # C

    @cached_property
    def neighbours(self) -> NDArray[np.int64]:
        """[O, O − 1]: the other targets of each; [O, 0] where there are too many."""
        everyone = range(self.targets if self.targets <= NEIGHBOURS else 0)
        others = [[k for k in everyone if k != o] for o in range(self.targets)]
        return np.array(others, np.int64).reshape(self.targets, -1)

    @property
    def regressors(self) -> int:
        """q: changes of the target, bias, level, newest changes of the others, and those from outside."""
        others: int = self.neighbours.shape[1]
        return len(LAGS) - 1 + 2 + others + self.context

    @cached_property
    def back(self) -> NDArray[np.int64]:
        """[H]: the horizons, 1..H."""
        return np.arange(1, self.horizon + 1)


def fields(shape: AutoregressionShape) -> list[Field]:
    """State of one session."""
    O, H, q = shape.targets, shape.horizon, shape.regressors
    return [
        Field("linear_steps", (), np.int64),
        Field("linear_past", (O, LAGS[-1] + 1), np.float64, np.nan),  # the last values as known at the last steps
        Field("linear_inverse", (O, q, q), np.float64),
        Field("linear_weights", (O, 1 + SEASONS, H, q), np.float64),  # of the value, and of the seasonal forecasts
        Field("linear_season_moments", (5, H, O), np.float64),  # means of r₁², r₂², r₁r₂, r₁ · error, r₂ · error
        Field("linear_ring", (H, O, 2 * q + 1), np.float64),  # u, gain, value; NaN: missing
        Field(
            "linear_pair_ring", (H, 1 + SEASONS, H, O), np.float64, np.nan
        ),  # scale, r; NaN: none yet, or no such pair
    ]


def step(
    shape: AutoregressionShape,
    rows: Rows,
    observed: Floats,
    last: Floats,
    level: Floats,
    scale: Floats,
    context: Floats,
    seasonal: Floats,
) -> Floats:
    """Takes the values `observed` [B, O] of one step (NaN: missing) and forecasts [B, H, O], in place on `rows`.

    `last` [B, O] are the last observed values, this step's included; `level` [B, O] is how far they are from their
    running mean, in deviations; `scale` [B, H, O] the running root mean square of the change within h steps, NaN while
    there is none; `context` [B, O, C] further regressors, of size about 1, 0 while unknown; `seasonal` [B, S, H, O] the
    seasonal naive forecasts made here, NaN or `last` while there are none. A step with a missing value is forecast from
    but not learned from. Where nothing can be said the forecast is `last`; it is NaN only where that is.
    """
    new = rows["linear_steps"] == 0
    if new.any():
        rows["linear_inverse"][new] = np.eye(shape.regressors) / RIDGE
    _settle(shape, rows, observed)
    u = _regressors(shape, rows, last, level, scale[:, 0], context)
    gain = _gain(shape, rows, u, observed == observed)
    left = (seasonal - last[:, None, None]) / scale[:, None]
    left[left != left] = 0
    _limited(left, LIMIT)

    weights = rows["linear_weights"]
    B, O, H = *last.shape, shape.horizon
    answer = np.matmul(weights.reshape(B, O, -1, shape.regressors), u[..., None])
    answer = answer.reshape(B, O, 1 + SEASONS, H).transpose(0, 2, 3, 1)  # [B, 1 + S, H, O]
    left -= answer[:, 1:]
    weights[:, :, 1:] += left.transpose(0, 3, 1, 2)[..., None] * gain[:, :, None, None]
    _remember(shape, rows, observed, scale, u, gain, left)

    left *= _season_weights(rows)
    ahead: Floats = answer[:, 0] + left[:, 0] + left[:, 1]
    ahead *= scale
    ahead += last[:, None]
    return np.where(ahead == ahead, ahead, last[:, None])


def clear(shape: AutoregressionShape, rows: Rows, which: Flags) -> None:
    """Forgets, in place, waiting pairs and past values where (`which` [B]) the stream does not go on from the step
    before. What was learned stays."""
    rows["linear_past"][which] = np.nan
    rows["linear_pair_ring"][which] = np.nan


def change_season(shape: AutoregressionShape, rows: Rows, changed: Flags) -> None:
    """Forgets, in place, what was learned of seasons that are other ones from the next step on (`changed` [B, S])."""
    for s in range(SEASONS):
        which = changed[:, s]
        rows["linear_weights"][which, :, 1 + s] = 0
        rows["linear_pair_ring"][which, :, 1 + s] = 0
        for k in (s, SEASONS, SEASONS + 1 + s):
            rows["linear_season_moments"][which, k] = 0


def _settle(shape: AutoregressionShape, rows: Rows, observed: Floats) -> None:
    """The pairs that end here move weights and season moments, in place; those without a value move nothing."""
    B, H, q = len(observed), shape.horizon, shape.regressors
    made = (rows["linear_steps"][:, None] - shape.back) % H + H * np.arange(B)[:, None]  # of all rings in a row
    pair = H * ((1 + SEASONS) * made[:, None] + np.arange(1 + SEASONS)[:, None]) + shape.back - 1
    waited = rows["linear_ring"].reshape(B * H, -1, 2 * q + 1).take(made, axis=0)  # [B, H, O, 2q + 1]
    waited_pair = rows["linear_pair_ring"].reshape(-1, shape.targets).take(pair, axis=0)  # [B, 1 + S, H, O]
    target = (observed[:, None] - waited[..., -1]) / waited_pair[:, 0]
    arrived = target == target
    if not arrived.any():
        return
    weights = rows["linear_weights"][:, :, 0].transpose(0, 2, 1, 3)
    forecast = np.multiply(weights, waited[..., :q], order="C").sum(axis=-1)
    error = _limited(_limited(target, TARGET_LIMIT) - forecast, ERROR_LIMIT)
    error[~arrived] = 0
    weights += waited[..., q:-1] * error[..., None]

    left = waited_pair[:, 1:]
    means = rows["linear_season_moments"]
    newest = np.empty_like(means)
    np.multiply(left, left, out=newest[:, :2])
    np.multiply(left[:, 0], left[:, 1], out=newest[:, 2])
    np.multiply(left, error[:, None], out=newest[:, 3:])
    newest -= means
    newest *= 1 - FADE
    np.add(means, newest, out=means, where=arrived[:, None])


def _season_weights(rows: Rows) -> Floats:
    """θ [B, S, H, O], ridge regression of the error of w · u on r: two equations for each pair."""
    means = rows["linear_season_moments"]
    square, product, with_error = means[:, :2] + (1 - FADE) * RIDGE, means[:, 2], means[:, 3:]
    determinant = square[:, 0] * square[:, 1] - product * product
    theta: Floats = square[:, ::-1] * with_error - product[:, None] * with_error[:, ::-1]
    theta /= determinant[:, None]
    return theta


def _regressors(
    shape: AutoregressionShape, rows: Rows, last: Floats, level: Floats, unit: Floats, context: Floats
) -> Floats:
    """u [B, O, q] of this step; moves the past, in place. `unit` [B, O] is the usual change of one step."""
    past, changes = rows["linear_past"], len(LAGS) - 1
    past[:, :, 1:] = past[:, :, :-1].copy()
    past[:, :, 0] = last
    known = past[:, :, LAGS]
    u = np.empty((*last.shape, shape.regressors))
    own = u[:, :, :changes]
    np.subtract(known[:, :, :-1], known[:, :, 1:], out=own)
    own /= unit[:, :, None] * ROOTS
    u[:, :, changes] = 1
    u[:, :, changes + 1] = level
    rest = changes + 2 + shape.neighbours.shape[1]
    u[:, :, changes + 2 : rest] = own[:, :, 0][:, shape.neighbours]
    u[:, :, rest:] = context
    u[u != u] = 0
    return _limited(u, LIMIT)


def _gain(shape: AutoregressionShape, rows: Rows, u: Floats, learned: Flags) -> Floats:
    """The gain [B, O, q] of regressors u; moves the inverse of their moments, in place, both where `learned` [B, O]."""
    inverse, session = rows["linear_inverse"], np.arange(len(u))
    turn = rows["linear_steps"] % shape.regressors
    given = (1 - FADE) * shape.regressors * RIDGE * learned
    column = inverse[session, :, turn]  # [B, O, q]
    column *= np.sqrt(given / (1 + given * inverse[session, :, turn, turn]))[:, :, None]
    inverse -= column[..., None] * column[:, :, None]  # a vector with itself: the inverse stays symmetric to the bit

    spread = np.matmul(inverse, u[..., None])[..., 0]
    fade = np.where(learned, FADE, 1)[:, :, None]
    whole = fade + (spread * u).sum(axis=-1, keepdims=True)
    gain: Floats = spread / whole * learned[:, :, None]
    spread *= np.sqrt(learned[:, :, None] / whole)
    inverse -= spread[..., None] * spread[:, :, None]
    inverse *= (1 / fade)[..., None]
    return gain


def _remember(
    shape: AutoregressionShape, rows: Rows, observed: Floats, scale: Floats, u: Floats, gain: Floats, left: Floats
) -> None:
    """Keeps what the pairs made here are settled with, in place."""
    session, now, q = np.arange(len(u)), rows["linear_steps"] % shape.horizon, shape.regressors
    ring, pair_ring = rows["linear_ring"], rows["linear_pair_ring"]
    ring[session, now, :, :q] = u
    ring[session, now, :, q:-1] = gain
    ring[session, now, :, -1] = observed
    pair_ring[session, now, 0] = scale
    pair_ring[session, now, 1:] = left
    rows["linear_steps"] += 1


def _limited(values: Floats, limit: float) -> Floats:
    """`values` within ± `limit`, in place; NaN stays."""
    np.minimum(values, limit, out=values)
    return np.maximum(values, -limit, out=values)
