"""Gradient clipping by global norm over all parameters of a learner (Pascanu, Mikolov & Bengio 2013)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import Array


def global_norm(xp: Any, grad: Array) -> Array:
    """Euclidean norm of each row of `grad` [B, P], summed in float64 → [B]."""
    return xp.sqrt((grad * grad).sum(axis=1, dtype=np.float64))


def clip_scale(norm: NDArray[np.float64], limit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factor min(1, limit / (norm + 1e-6)) that brings a gradient of this norm within its limit, as PyTorch; [B]."""
    return np.minimum(1.0, limit / (norm + 1e-6))
