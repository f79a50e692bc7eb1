"""Optimisers in compiled code: a learner's gradient, its norm, and the change of its parameters in one pass.

The rules, in float32, are those of `bptt_core/optimizers.py`, their scalars made in float64. Everything at addresses;
`P` numbers each. Sums over P are taken in float32 over stretches of 1,024 numbers and from there on in float64.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.memory import exact, f32, fast
from bptt_core.backends.jit.simd import (
    add,
    clamp,
    count_from,
    div,
    flush,
    flush_below,
    flush_denormals,
    fma,
    load,
    load_first,
    mul,
    restore,
    splat,
    sqrt,
    store,
    store_first,
    sub,
    total,
)
from bptt_core.optimizers import EPSILON, TINY

CODES: Final = {"sgd": 0, "momentum": 1, "nesterov": 2, "rmsprop": 3, "adam": 4, "adamw": 4}
SGD, MOMENTUM, NESTEROV, RMSPROP, ADAM = sorted(set(CODES.values()))

_ZERO, _EPSILON, _TINY = np.float32(0), np.float32(EPSILON), np.float32(TINY)
_STRETCH: Final = 1024


@fast
def _take(address: int, count: int) -> Any:
    """16 numbers, or the `count` that are left."""
    return load(address) if count >= 16 else load_first(address, count)


@fast
def _give(address: int, x: Any, count: int) -> None:
    if count >= 16:
        store(address, x)
    else:
        store_first(address, x, count)


@fast
def norm_square(grad: int, P: int) -> float:
    """Σ g², float64."""
    mode = flush_denormals()
    square = 0.0
    for first in range(0, P, _STRETCH):
        end = min(first + _STRETCH, P)
        x0, x1, x2, x3 = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
        j = first
        while j + 64 <= end:
            at = grad + 4 * j
            g0, g1, g2, g3 = load(at), load(at + 64), load(at + 128), load(at + 192)
            x0, x1, x2, x3 = fma(g0, g0, x0), fma(g1, g1, x1), fma(g2, g2, x2), fma(g3, g3, x3)
            j += 64
        while j < end:
            g = _take(grad + 4 * j, end - j)
            x0 = fma(g, g, x0)
            j += 16
        stretch = np.float64(total(add(add(x0, x1), add(x2, x3))))
        square += stretch if stretch < np.inf else _wide_square(grad + 4 * first, end - first)
    restore(mode)
    return square


@exact
def _wide_square(grad: int, count: int) -> float:
    """Σ g² of squares that are float32 numbers while their sum is none."""
    numbers, square = f32(grad, count), 0.0
    for k in range(count):
        square += np.float64(numbers[k] * numbers[k])
    return square


@fast
def clip_values(grad: int, P: int, limit: float) -> int:
    """Cuts every number to ±limit, in place; returns how many were larger."""
    bound = np.float32(limit)
    above = np.nextafter(bound, np.float32(np.inf))
    count = 0
    for j in range(0, P, 16):
        g = _take(grad + 4 * j, P - j)
        count += count_from(g, splat(above))
        _give(grad + 4 * j, clamp(g, splat(-bound), splat(bound)), P - j)
    return count


@fast
def apply(
    code: int,
    params: int,
    grad: int,
    moment0: int,
    moment1: int,
    P: int,
    factor: float,
    rate: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    steps: int,
    kept: int,
) -> tuple[float, float]:
    """One step by the rule `code`, in place on the parameters and moments (0 where the rule has none).

    The gradient is multiplied by `factor`, of the clip. The parameters before go to `kept`, unless that is 0. Returns
    (Σ of the squares of the change, Σ of those of the parameters before), float64.
    """
    mode = flush_denormals()
    scale, decay = splat(np.float32(factor)), splat(np.float32(1.0 - rate * weight_decay))
    b1, b2, rest2, step = np.float32(beta1), np.float32(beta2), np.float32(1.0 - beta2), np.float32(rate)
    rest1, v_scale = np.float32(1.0 - beta1), np.float32(1)
    if code == ADAM:
        step = np.float32(rate / (1.0 - math.pow(beta1, float(steps))))
        v_scale = np.float32(1.0 / (1.0 - math.pow(beta2, float(steps))))
    tiny, epsilon = splat(_TINY), splat(_EPSILON)
    changed, size = 0.0, 0.0
    for first in range(0, P, _STRETCH):
        changes, sizes = splat(_ZERO), splat(_ZERO)
        for j in range(first, min(first + _STRETCH, P), 16):
            at, left = 4 * j, P - j
            before, g = _take(params + at, left), mul(_take(grad + at, left), scale)
            w = mul(before, decay)
            if code == ADAM:
                m = flush(fma(splat(b1), _take(moment0 + at, left), mul(splat(rest1), g)), tiny)
                v = flush_below(fma(splat(b2), _take(moment1 + at, left), mul(splat(rest2), mul(g, g))), tiny)
                w = sub(w, div(mul(splat(step), m), add(sqrt(mul(v, splat(v_scale))), epsilon)))
                _give(moment0 + at, m, left)
                _give(moment1 + at, v, left)
            elif code == RMSPROP:
                v = flush_below(fma(splat(b2), _take(moment0 + at, left), mul(splat(rest2), mul(g, g))), tiny)
                w = sub(w, div(mul(splat(step), g), add(sqrt(v), epsilon)))
                _give(moment0 + at, v, left)
            else:
                if code != SGD:
                    m = flush(fma(splat(b1), _take(moment0 + at, left), g), tiny)
                    _give(moment0 + at, m, left)
                    g = fma(splat(b1), m, g) if code == NESTEROV else m
                w = sub(w, mul(splat(step), g))
            _give(params + at, w, left)
            if kept:
                _give(kept + at, before, left)
            change = sub(w, before)
            changes, sizes = fma(change, change, changes), fma(before, before, sizes)
        changed += np.float64(total(changes))
        size += np.float64(total(sizes))
    restore(mode)
    return changed, size
