"""The linear readout and the losses: what turns a hidden state into outputs, and outputs into a gradient.

A pair (step, horizon, target) has R outputs: one for most losses, mean and log variance for the Gaussian, one per
quantile or per symbol. The mean runs over the *active* pairs, which are selected and never multiplied by a mask: a
missing target is NaN, and 0 · NaN is NaN. Where a loss has a kink, its slope there is 0.

Legend: n pairs of one learner, N pairs per step; the rest as in cells.py. Losses are in nats where they are logarithms
of probabilities, in squared or plain units of the targets otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from bptt_core.cells import Array, sigmoid

LOG_VARIANCE_LIMIT: Final = 12.0

# (xp, ys [B, n, R], targets [B, n], parameter [B, 1], quantiles) → (value [B, n], slope by ys [B, n, R])
Loss = Callable[[Any, Array, Array, Array, Sequence[float]], tuple[Array, Array]]


def readout(xp: Any, wo: Array, bo: Array, hs: Array) -> Array:
    """hs·wo + bo: hs [T, B, H], wo [B, H, K], bo [B, K] → [T, B, K]."""
    return xp.matmul(hs.transpose(1, 0, 2), wo).transpose(1, 0, 2) + bo


def readout_backward(xp: Any, wo: Array, hs: Array, dys: Array, dwo: Array, dbo: Array) -> Array:
    """Writes `dwo` [B, H, K] and `dbo` [B, K]; returns dL/dhs [T, B, H] for dys [T, B, K]."""
    by_learner = dys.transpose(1, 0, 2)
    xp.matmul(hs.transpose(1, 2, 0), by_learner, out=dwo)
    dbo[...] = by_learner.sum(axis=1)
    return xp.matmul(by_learner, wo.transpose(0, 2, 1)).transpose(1, 0, 2)


def masked_loss(
    xp: Any,
    loss: str,
    ys: Array,
    targets: Array,
    active: Array,
    parameter: Array,
    quantiles: Sequence[float] = (),
) -> tuple[Array, Array]:
    """Mean loss over each learner's active pairs, and its gradient by `ys`.

    `ys` is [T, B, N·R], `targets` and `active` are [T, B, N], `parameter` [B, 1] is Huber's δ or Student's ν. Returns
    (loss [B], dys [T, B, N·R]); a learner without an active pair has loss 0 and gradient 0.
    """
    T, B, N = targets.shape
    outputs, of_pairs = _by_learner(xp, ys).reshape(B, T * N, -1), _by_learner(xp, active)
    value, slope = LOSSES[loss](xp, outputs, _by_learner(xp, targets), parameter, quantiles)
    count = xp.maximum(of_pairs.sum(axis=1), 1).astype(ys.dtype)[:, None]
    dys = xp.where(of_pairs[:, :, None], slope / count[:, :, None], 0).reshape(B, T, -1)
    return xp.where(of_pairs, value, 0).sum(axis=1) / count[:, 0], dys.transpose(1, 0, 2)


def zero_loss(
    xp: Any, loss: str, targets: Array, active: Array, parameter: Array, quantiles: Sequence[float], ys: Array
) -> Array:
    """The mean loss [B] over the active pairs that outputs of 0 would have: that of the naive forecast a learner starts
    from. `ys` [T, B, N·R] gives the width of the outputs; the rest as in `masked_loss`."""
    T, B, N = targets.shape
    of_pairs = _by_learner(xp, active)
    of_targets = _by_learner(xp, targets)
    if loss == "squared":  # the usual one, without the slope
        value = of_targets * of_targets
    else:
        outputs = xp.zeros((B, T * N, ys.shape[2] // N), ys.dtype)
        value, _ = LOSSES[loss](xp, outputs, of_targets, parameter, quantiles)
    count = xp.maximum(of_pairs.sum(axis=1), 1).astype(ys.dtype)
    return xp.where(of_pairs, value, 0).sum(axis=1) / count


def _by_learner(xp: Any, array: Array) -> Array:
    """[T, B, k] as [B, T·k], stored learner by learner: the order of a sum must not depend on the company."""
    return xp.ascontiguousarray(array.transpose(1, 0, 2)).reshape(array.shape[1], -1)


def per_pair(loss: str, quantiles: Sequence[float] = (), symbols: int = 0) -> int:
    """R, the outputs of one pair."""
    return {"gaussian": 2, "pinball": len(quantiles), "softmax": symbols}.get(loss, 1)


# ---- One output, the prediction itself; e = y − target ---------------------------------------------------------------


def _squared(xp: Any, ys: Array, targets: Array, parameter: Array, quantiles: Sequence[float]) -> tuple[Array, Array]:
    """e²."""
    error = ys[:, :, 0] - targets
    return error * error, (2 * error)[:, :, None]


def _absolute(xp: Any, ys: Array, targets: Array, parameter: Array, quantiles: Sequence[float]) -> tuple[Array, Array]:
    """|e|."""
    error = ys[:, :, 0] - targets
    return abs(error), xp.sign(error)[:, :, None]


def _huber(xp: Any, ys: Array, targets: Array, delta: Array, quantiles: Sequence[float]) -> tuple[Array, Array]:
    """½e² up to |e| = δ, then the tangent, δ(|e| − ½δ): Huber (1964)."""
    error = ys[:, :, 0] - targets
    size = abs(error)
    value = xp.where(size <= delta, 0.5 * error * error, delta * (size - 0.5 * delta))
    return value, xp.clip(error, -delta, delta)[:, :, None]


def _student_t(xp: Any, ys: Array, targets: Array, dof: Array, quantiles: Sequence[float]) -> tuple[Array, Array]:
    """½(ν + 1)·log(1 + e²/ν): Student's t of scale 1. The slope falls again for outliers."""
    error = ys[:, :, 0] - targets
    square = error * error
    return 0.5 * (dof + 1) * xp.log1p(square / dof), ((dof + 1) * error / (dof + square))[:, :, None]


# ---- Several outputs per pair: a distribution ------------------------------------------------------------------------


def _pinball(xp: Any, ys: Array, targets: Array, parameter: Array, quantiles: Sequence[float]) -> tuple[Array, Array]:
    """Mean over the levels τ of max(τd, (τ − 1)d), d = target − y_τ: Koenker & Bassett (1978). Least at τ-quantiles."""
    levels = xp.asarray(quantiles, dtype=ys.dtype)
    d = targets[:, :, None] - ys
    slope = xp.where(d > 0, -levels, xp.where(d < 0, 1 - levels, 0)) / len(quantiles)
    return xp.maximum(levels * d, (levels - 1) * d).sum(axis=2) / len(quantiles), slope


def _gaussian(xp: Any, ys: Array, targets: Array, parameter: Array, quantiles: Sequence[float]) -> tuple[Array, Array]:
    """½(s + e²·exp(−s)), outputs mean and log variance s: Nix & Weigend (1994). s is used within ±12, and its slope is
    0 where it would push s further out; where it leads back inside it is kept."""
    error, raw = ys[:, :, 0] - targets, ys[:, :, 1]
    s = xp.clip(raw, -LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
    precision = xp.exp(-s)
    scaled = error * precision
    slope = 0.5 * (1 - error * scaled)
    outwards = ((raw >= LOG_VARIANCE_LIMIT) & (slope < 0)) | ((raw <= -LOG_VARIANCE_LIMIT) & (slope > 0))
    return 0.5 * (s + error * scaled), xp.stack([scaled, xp.where(outwards, 0, slope)], axis=2)


# ---- Logits: symbols -------------------------------------------------------------------------------------------------


def _softmax(xp: Any, ys: Array, targets: Array, parameter: Array, quantiles: Sequence[float]) -> tuple[Array, Array]:
    """Cross-entropy log Σ exp(y) − y_target; the target is the symbol's position as a float."""
    shifted = ys - ys.max(axis=2)[:, :, None]  # the largest is 0: nothing overflows
    weights = xp.exp(shifted)
    total = weights.sum(axis=2)
    is_target = xp.arange(ys.shape[2]) == targets[:, :, None]
    value = xp.log(total) - xp.where(is_target, shifted, 0).sum(axis=2)
    return value, weights / total[:, :, None] - is_target


def _sigmoid(xp: Any, ys: Array, targets: Array, parameter: Array, quantiles: Sequence[float]) -> tuple[Array, Array]:
    """Cross-entropy log(1 + exp(y)) − t·y, t in 0..1."""
    y = ys[:, :, 0]
    softplus = xp.maximum(y, 0) + xp.log1p(xp.exp(-abs(y)))
    return softplus - targets * y, (sigmoid(xp, y) - targets)[:, :, None]


LOSSES: Final[dict[str, Loss]] = {
    "squared": _squared,
    "absolute": _absolute,
    "huber": _huber,
    "student_t": _student_t,
    "pinball": _pinball,
    "gaussian": _gaussian,
    "softmax": _softmax,
    "sigmoid": _sigmoid,
}
