"""Clipping: how a gradient is kept within bounds, and what that did to it.

By global norm over all parameters of a learner (Pascanu, Mikolov & Bengio 2013), by value (each element cut to a fixed
range; this alone changes the direction), by a running quantile of past norms (a limit that needs no unit: compare
Seetharaman et al. 2020), or not at all. Norms are float64 on the host, gradients are rows [B, P] of the backend.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.arrays import to_host
from bptt_core.cells import Array

RING: Final = 128  # past norms that the quantile is taken of
FEWEST: Final = 8  # past norms below which nothing is clipped by them

_BELOW_ONE: Final = np.nextafter(np.float32(1), np.float32(0))


def global_norm(xp: Any, rows: Array) -> Array:
    """Euclidean norm of each row of [B, P], summed in float64 → [B]."""
    return xp.sqrt((rows * rows).sum(axis=1, dtype=np.float64))


def clip(xp: Any, kind: str, grad: Array, norm: NDArray[np.float64], limit: NDArray[np.float64]) -> NDArray[np.float32]:
    """Clips `grad` [B, P] in place; returns its norm after ÷ its `norm` before, [B].

    That is exactly 1 for a learner whose gradient was left alone and less than 1 for every other. `limit` [B] is the
    largest norm for the kinds "norm" and "quantile" (see `quantile_limit`) and the largest size of an element for
    "value"; "off" does not read it. By norm the factor is min(1, limit / (norm + 1e-6)), as PyTorch.
    """
    if kind == "value":
        return _clip_elements(xp, grad, norm, limit)
    if kind == "off":
        return np.ones(len(norm), np.float32)
    if kind == "norm":
        factor = np.minimum(1.0, limit / (norm + 1e-6))
    else:
        factor = np.where(norm > limit, limit / np.where(norm > 0, norm, 1), 1.0)
    factor = factor.astype(grad.dtype)
    changed = factor < 1
    if changed.any():
        grad *= xp.asarray(factor)[:, None]
    return factor if factor.dtype == np.float32 else _share(factor, changed)


def _clip_elements(xp: Any, grad: Array, norm: NDArray[np.float64], limit: NDArray[np.float64]) -> NDArray[np.float32]:
    bound = xp.asarray(limit.astype(grad.dtype))[:, None]
    changed = to_host((abs(grad) > bound).any(axis=1))
    if not changed.any():
        return np.ones(len(norm), np.float32)
    grad[...] = xp.clip(grad, -bound, bound)
    return _share(to_host(global_norm(xp, grad)) / np.where(changed, norm, 1), changed)


def _share(left: NDArray[Any], changed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """`left` as it is reported: rounding to float32 must not make a change look like none."""
    share: NDArray[np.float32] = np.where(changed, np.minimum(left.astype(np.float32), _BELOW_ONE), np.float32(1))
    return share


def quantile_limit(
    ring: NDArray[np.float64], count: NDArray[np.int64], quantile: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The `quantile` [B] of the norms in `ring` [B, RING], interpolated linearly; infinite with fewer than FEWEST.

    `count` [B] is the number of norms ever remembered; places not yet used are NaN.
    """
    known = np.minimum(count, RING)
    rising = np.sort(ring, axis=1)  # NaN last
    position = quantile * np.maximum(known - 1, 0)
    below = np.floor(position).astype(np.int64)
    learner = np.arange(len(ring))
    low, high = rising[learner, below], rising[learner, np.minimum(below + 1, np.maximum(known - 1, 0))]
    return np.where(known < FEWEST, np.inf, low + (high - low) * (position - below))


def remember(ring: NDArray[np.float64], count: NDArray[np.int64], norm: NDArray[np.float64]) -> None:
    """Puts the newest norms [B] in the place of the oldest, in place on `ring` [B, RING] and `count` [B]."""
    ring[np.arange(len(norm)), count % RING] = norm
    count += 1
