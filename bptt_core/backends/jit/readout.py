"""The linear readout of one learner in compiled code, float32 at addresses: y = h·wo + bo. Knows no losses."""

from __future__ import annotations

import numpy as np

from bptt_core.backends.jit.memory import fast
from bptt_core.backends.jit.products import dots, product, row_product
from bptt_core.backends.jit.simd import number, put

_ZERO = np.float32(0)


@fast
def read_out(h: int, wo: int, bo: int, H: int, K: int, y: int) -> None:
    """y [K] of one hidden state [H]."""
    read_outs(h, wo, bo, 1, H, K, y)


@fast
def read_outs(hs: int, wo: int, bo: int, n: int, H: int, K: int, ys: int) -> None:
    """ys [n, K] of hidden states [n, H]; wo [H, K], bo [K]."""
    if K == 1:
        for t in range(n):
            dots(ys + 4 * t, bo, hs + 4 * t * H, 0, wo, 0, 1, 1, H, 0)
    else:
        product(ys, 4 * K, bo, hs, 4 * H, 4, wo, 4 * K, n, H, K, K)


@fast
def read_out_backward(dys: int, hs: int, wo: int, dwo: int, dbo: int, dhs: int, n: int, H: int, K: int) -> None:
    """Writes `dwo` [H, K], `dbo` [K] and `dhs` [n, H] for dys [n, K]; `dwo` and `dbo` may be 0: not asked for."""
    if K == 1:
        product(dhs, 4 * H, 0, dys, 4, 4, wo, 4, n, 1, H, H)
    else:
        for t in range(n):
            dots(dhs + 4 * t * H, 0, dys + 4 * t * K, 0, wo, 4 * K, H, 1, K, 0)
    if dwo == 0:
        return
    if K == 1:
        row_product(dwo, 0, dys, 4, hs, 4 * H, n, H, H)
    else:
        product(dwo, 4 * K, 0, hs, 4, 4 * H, dys, 4 * K, H, n, K, K)
    for k in range(K):
        s = _ZERO
        for t in range(n):
            s += number(dys + 4 * (t * K + k))
        put(dbo + 4 * k, s)
