"""Optimisers: a clipped gradient becomes a change of parameters. Plain functions over rows [B, P].

`steps` is the number of this update for each learner, from 1; bias corrections are made from it in float64 on the host.
Moments smaller than 1e-30 become zero: denormal numbers would slow every later update.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import Array

BETA1: Final = 0.9
BETA2: Final = 0.999
EPSILON: Final = 1e-8
TINY: Final = 1e-30

MOMENTS: Final = {"adam": 2, "sgd": 0}


def sgd(
    xp: Any, params: Array, grad: Array, moments: list[Array], rate: NDArray[np.float64], steps: NDArray[np.int64]
) -> None:
    """w ← w − rate·g, in place."""
    params -= xp.asarray(rate.astype(params.dtype))[:, None] * grad


def adam(
    xp: Any, params: Array, grad: Array, moments: list[Array], rate: NDArray[np.float64], steps: NDArray[np.int64]
) -> None:
    """Adam (Kingma & Ba 2015), ε outside the square root and after bias correction, in place on params and moments."""
    m, v = moments
    corrections = [(r / (1 - BETA1**t), 1 / (1 - BETA2**t)) for r, t in zip(rate.tolist(), steps.tolist(), strict=True)]
    step_size, v_scale = xp.asarray(np.array(corrections, params.dtype).T)[:, :, None]
    m *= BETA1
    m += (1 - BETA1) * grad
    v *= BETA2
    v += (1 - BETA2) * (grad * grad)
    m[abs(m) < TINY] = 0
    v[v < TINY] = 0
    params -= step_size * m / (xp.sqrt(v * v_scale) + EPSILON)


OPTIMIZERS: Final = {"adam": adam, "sgd": sgd}
