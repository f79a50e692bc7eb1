"""The clips of `bptt_core/clipping.py` for the gradient of one learner, in compiled code.

A clip by norm is a factor, which the optimiser applies as it reads the gradient; a clip by value changes the elements
first. The running quantile is taken of the same ring of past norms.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.memory import exact, f64, i64
from bptt_core.backends.jit.optimizers import clip_values, norm_square
from bptt_core.backends.jit.plan import Plan
from bptt_core.clipping import FEWEST, RING
from bptt_core.learner import LearnerShape
from bptt_core.learner_config import CLIPS
from bptt_core.slab import Field

NAMES: Final[tuple[str, ...]] = ("clip", "s_rising")

_NORM, _VALUE, _QUANTILE, _OFF = range(len(CLIPS))
_GAPS: Final = (57, 23, 10, 4, 1)  # Ciura (2001)
_BELOW_ONE: Final = np.nextafter(np.float32(1), np.float32(0))


def scratch_fields() -> list[Field]:
    return [Field("rising", (RING,), np.float64)]


def fill(plan: Plan, shape: LearnerShape) -> None:
    """Sets the code of the clip."""
    plan.set(clip=CLIPS.index(shape.clip))


@exact
def clip(plan: Any, host: int, grad: int, norm: float, scratch: int) -> tuple[float, float]:
    """Clips the gradient at `grad`, of this finite norm: by value in place; otherwise the caller multiplies by the
    factor returned first, a float32. The second number is the norm after ÷ before, as it is reported."""
    limit = f64(host + plan.clip_limit, 1)[0]
    if plan.clip == _OFF:
        return 1.0, 1.0
    if plan.clip == _VALUE:
        if clip_values(grad, plan.P, limit) == 0:
            return 1.0, 1.0
        share = np.float32(math.sqrt(norm_square(grad, plan.P)) / norm)
        return 1.0, np.float64(min(share, _BELOW_ONE))
    if plan.clip == _NORM:
        factor = limit / (norm + 1e-6)
    else:
        limit = _quantile_limit(plan, host, limit, norm, f64(scratch + plan.s_rising, RING))
        factor = limit / norm if norm > limit else 1.0
    factor = np.float64(np.float32(min(factor, 1.0)))
    return factor, factor


@exact
def _quantile_limit(plan: Any, host: int, quantile: float, norm: float, rising: Any) -> float:
    """The quantile of the norms remembered, infinite with fewer than FEWEST; then remembers this one."""
    ring, count = f64(host + plan.norm_ring, RING), i64(host + plan.norm_count, 1)
    known, limit = min(count[0], RING), np.inf
    if known >= FEWEST:
        for k in range(known):
            rising[k] = ring[k]
        _sort(rising, known)
        position = quantile * (known - 1)
        below = int(position)
        low, high = rising[below], rising[min(below + 1, known - 1)]
        limit = low + (high - low) * (position - below)
    ring[count[0] % RING] = norm
    count[0] += 1
    return limit


@exact
def _sort(values: Any, count: int) -> None:
    """Shell's sort (1959), in place on the first `count` values."""
    for gap in _GAPS:
        for k in range(gap, count):
            value, place = values[k], k
            while place >= gap and values[place - gap] > value:
                values[place] = values[place - gap]
                place -= gap
            values[place] = value
