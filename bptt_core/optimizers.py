"""Optimisers and learning rates: a clipped gradient becomes a change of parameters.

Plain functions over rows [B, P], one row per learner, each learner with settings of its own. The formulas are
PyTorch's: SGD; momentum (Polyak 1964) and Nesterov's (Sutskever et al. 2013), both without dampening; RMSprop (Tieleman
& Hinton 2012); Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), which is Adam with another default of the
decoupled weight decay that every rule here has. Scalars (bias corrections, rates) are made in float64 on the host.
Moments smaller than 1e-30 become zero: denormal numbers would slow every later update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import Array

EPSILON: Final = 1e-8
TINY: Final = 1e-30

MOMENTS: Final = {"sgd": 0, "momentum": 1, "nesterov": 1, "rmsprop": 1, "adam": 2, "adamw": 2}


class Settings(NamedTuple):
    """What one update needs to know of each learner."""

    rate: NDArray[np.float64]  # [B] as scheduled for this update
    beta1: NDArray[np.float64]  # [B]
    beta2: NDArray[np.float64]  # [B]
    weight_decay: NDArray[np.float64]  # [B]
    steps: NDArray[np.int64]  # [B] number of this update, from 1


def apply(xp: Any, name: str, params: Array, grad: Array, moments: list[Array], settings: Settings) -> None:
    """Changes `params` [B, P] and `moments` (MOMENTS[name] arrays [B, P]) in place, by the rule `name`.

    Weight decay is decoupled from the gradient: w ← w·(1 − rate·weight_decay) comes before the rule.
    """
    if settings.weight_decay.any():
        params *= _column(xp, 1 - settings.rate * settings.weight_decay, params)
    _RULES[name](xp, params, grad, moments, settings)


def scheduled_rate(
    schedule: str,
    rate: NDArray[np.float64],
    warmup: NDArray[np.float64],
    decay: NDArray[np.float64],
    floor: NDArray[np.float64],
    steps: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The rate of update number `steps` (from 1), [B].

    With t = steps − 1: rate · max(floor, decayed(t)) · min(1, steps / warmup), where decayed(t) is 1 ("constant"),
    (1 + t/decay)^−½ ("inverse_sqrt", Robbins & Monro's slowest) or (1 + t/decay)^−1 ("inverse"). The floor keeps an
    endless stream learning; no warm-up where `warmup` is 0.
    """
    if schedule != "constant":
        slowed = 1 + (steps - 1) / decay
        rate = rate * np.maximum(floor, 1 / (np.sqrt(slowed) if schedule == "inverse_sqrt" else slowed))
    if warmup.any():
        rate = rate * np.minimum(1.0, steps / np.maximum(warmup, 1))
    return rate


def _column(xp: Any, values: NDArray[np.float64], like: Array) -> Array:
    """One number per learner, as a column [B, 1] beside rows like `like`."""
    return xp.asarray(values.astype(like.dtype))[:, None]


def _flush(xp: Any, moment: Array) -> None:
    moment[abs(moment) < TINY] = 0


def _sgd(xp: Any, params: Array, grad: Array, moments: list[Array], settings: Settings) -> None:
    """w ← w − rate·g."""
    params -= _column(xp, settings.rate, params) * grad


def _accumulate(xp: Any, grad: Array, moments: list[Array], settings: Settings) -> tuple[Array, Array]:
    """v ← β₁·v + g, so that the first v is g; returns v and β₁."""
    (velocity,) = moments
    beta = _column(xp, settings.beta1, grad)
    velocity *= beta
    velocity += grad
    _flush(xp, velocity)
    return velocity, beta


def _momentum(xp: Any, params: Array, grad: Array, moments: list[Array], settings: Settings) -> None:
    """v ← β₁·v + g, w ← w − rate·v."""
    velocity, _ = _accumulate(xp, grad, moments, settings)
    params -= _column(xp, settings.rate, params) * velocity


def _nesterov(xp: Any, params: Array, grad: Array, moments: list[Array], settings: Settings) -> None:
    """v ← β₁·v + g, w ← w − rate·(g + β₁·v): the gradient as if taken where the momentum leads."""
    velocity, beta = _accumulate(xp, grad, moments, settings)
    params -= _column(xp, settings.rate, params) * (grad + beta * velocity)


def _rmsprop(xp: Any, params: Array, grad: Array, moments: list[Array], settings: Settings) -> None:
    """v ← β₂·v + (1 − β₂)·g², w ← w − rate·g / (√v + ε); not centred."""
    (v,) = moments
    v *= _column(xp, settings.beta2, grad)
    v += _column(xp, 1 - settings.beta2, grad) * (grad * grad)
    v[v < TINY] = 0
    params -= _column(xp, settings.rate, params) * grad / (xp.sqrt(v) + EPSILON)


def _adam(xp: Any, params: Array, grad: Array, moments: list[Array], settings: Settings) -> None:
    """m ← β₁·m + (1 − β₁)·g, v ← β₂·v + (1 − β₂)·g², w ← w − rate·m̂ / (√v̂ + ε), hats divided by 1 − βᵗ."""
    m, v = moments
    numbers = zip(*(column.tolist() for column in settings), strict=True)
    scalars = [(b1, 1 - b1, b2, 1 - b2, r / (1 - b1**t), 1 / (1 - b2**t)) for r, b1, b2, _, t in numbers]
    columns = xp.asarray(np.array(scalars, params.dtype).T)[:, :, None]
    beta1, rest1, beta2, rest2, step_size, v_scale = columns
    m *= beta1
    m += rest1 * grad
    v *= beta2
    v += rest2 * (grad * grad)
    _flush(xp, m)
    v[v < TINY] = 0
    params -= step_size * m / (xp.sqrt(v * v_scale) + EPSILON)


_RULES: Final[dict[str, Callable[[Any, Array, Array, list[Array], Settings], None]]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adam,
}
