"""The linear readout and the losses: what turns a carry into a forecast, and a forecast into a gradient.

A loss is a pair of functions (value, derivative) of the error, elementwise. The mean runs over the *active* elements,
which are selected and never multiplied by a mask: a missing target is NaN, and 0 · NaN is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bptt_core.cells import Array

Elementwise = Callable[[Any, Array, Array], Array]


def readout(xp: Any, wo: Array, bo: Array, hs: Array) -> Array:
    """hs·wo + bo: hs [T, B, H], wo [B, H, K], bo [B, K] → [T, B, K]."""
    return xp.matmul(hs.transpose(1, 0, 2), wo).transpose(1, 0, 2) + bo


def readout_backward(xp: Any, wo: Array, hs: Array, dys: Array, dwo: Array, dbo: Array) -> Array:
    """Writes `dwo` [B, H, K] and `dbo` [B, K]; returns dL/dhs [T, B, H] for dys [T, B, K]."""
    by_learner = dys.transpose(1, 0, 2)
    xp.matmul(hs.transpose(1, 2, 0), by_learner, out=dwo)
    dbo[...] = by_learner.sum(axis=1)
    return xp.matmul(by_learner, wo.transpose(0, 2, 1)).transpose(1, 0, 2)


def _squared(xp: Any, error: Array, delta: Array) -> Array:
    return error * error


def _squared_slope(xp: Any, error: Array, delta: Array) -> Array:
    return 2 * error


def _huber(xp: Any, error: Array, delta: Array) -> Array:
    size = abs(error)
    return xp.where(size <= delta, 0.5 * error * error, delta * (size - 0.5 * delta))


def _huber_slope(xp: Any, error: Array, delta: Array) -> Array:
    return xp.clip(error, -delta, delta)


LOSSES: Final[dict[str, tuple[Elementwise, Elementwise]]] = {
    "squared": (_squared, _squared_slope),
    "huber": (_huber, _huber_slope),
}


def masked_loss(xp: Any, loss: str, ys: Array, targets: Array, active: Array, delta: Array) -> tuple[Array, Array]:
    """Mean loss over each learner's active elements, and its gradient by `ys`.

    `ys`, `targets` and `active` are [T, B, K], `delta` (Huber) is [B, 1]. Returns (loss [B], dys [T, B, K]); a learner
    without an active element has loss 0 and gradient 0.
    """
    value, slope = LOSSES[loss]
    error = xp.empty((ys.shape[1], ys.shape[0], ys.shape[2]), ys.dtype)  # learner by learner, as cells.py stores
    error[...] = xp.where(active, ys - targets, 0).transpose(1, 0, 2)
    error = error.reshape(len(error), -1)
    count = xp.maximum(active.sum(axis=(0, 2)), 1).astype(ys.dtype)[:, None]
    dys = (slope(xp, error, delta) / count).reshape(ys.shape[1], ys.shape[0], ys.shape[2])
    return value(xp, error, delta).sum(axis=1) / count[:, 0], dys.transpose(1, 0, 2)
