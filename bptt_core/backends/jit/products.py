"""Products of small matrices in compiled code: what a learner spends its time on.

Every matrix is float32 at an address, its rows so many bytes (`…_step`) apart, its columns side by side. Each number of
a result is one sum in a fixed order, whichever tile it falls into. Sums are held in registers: a tile is 4 rows by 64
columns, one row by up to 256, or the products of 16 rows with one vector. Knows nothing of networks.
"""

from __future__ import annotations

import numpy as np

from bptt_core.backends.jit import simd, tiles
from bptt_core.backends.jit.memory import fast
from bptt_core.backends.jit.simd import number

_ZERO = np.float32(0)


@fast
def row_product(out: int, start: int, a: int, a_step: int, v: int, v_step: int, K: int, N: int, written: int) -> None:
    """out[:N] = start + Σ_k a[k]·v[k, :N]: `a` has numbers `a_step` bytes apart; start 0 is none.

    `written` ≥ N numbers are written to `out`, those from N on as zeros; fewer than 16 more.
    """
    j = 0
    while j + 256 <= N:
        wide = tiles.row16(start + 4 * j) if start else tiles.zeros16()
        for k in range(K):
            wide = tiles.along(wide, number(a + k * a_step), v + k * v_step + 4 * j)
        tiles.store_row(out + 4 * j, wide)
        j += 256
    while j + 128 <= N:
        half = tiles.row8(start + 4 * j) if start else tiles.zeros8()
        for k in range(K):
            half = tiles.along(half, number(a + k * a_step), v + k * v_step + 4 * j)
        tiles.store_row(out + 4 * j, half)
        j += 128
    while j + 64 <= N:
        block = tiles.row4(start + 4 * j) if start else tiles.zeros4()
        for k in range(K):
            block = tiles.along(block, number(a + k * a_step), v + k * v_step + 4 * j)
        tiles.store_row(out + 4 * j, block)
        j += 64
    if j < N:
        rest = tiles.row4_first(start + 4 * j, N - j) if start else tiles.zeros4()
        for k in range(K):
            rest = tiles.along_first(rest, number(a + k * a_step), v + k * v_step + 4 * j, N - j)
        tiles.store_row_first(out + 4 * j, rest, written - j)


@fast
def product(
    out: int,
    out_step: int,
    start: int,
    a: int,
    a_row: int,
    a_step: int,
    v: int,
    v_step: int,
    R: int,
    K: int,
    N: int,
    written: int,
) -> None:
    """out[r, :N] = start + Σ_k a[r, k]·v[k, :N] for R rows.

    `a` at row r and place k lies at `a + r·a_row + k·a_step`, so that it may be read transposed. `start` [N] is the
    same for all rows, 0 is none; `written` as in `row_product`.
    """
    fours = R - R % 4
    if fours:
        j = 0
        while j + 64 <= N:
            for r in range(0, fours, 4):
                block = tiles.grid(start + 4 * j, 0) if start else tiles.zeros16()
                for k in range(K):
                    block = tiles.grid_along(block, a + r * a_row + k * a_step, a_row, v + k * v_step + 4 * j)
                tiles.store_grid(out + r * out_step + 4 * j, out_step, block)
            j += 64
        while j < N:
            for r in range(0, fours, 4):
                strip = tiles.strip(start + 4 * j, 0, N - j) if start else tiles.zeros4()
                for k in range(K):
                    strip = tiles.strip_along(strip, a + r * a_row + k * a_step, a_row, v + k * v_step + 4 * j, N - j)
                tiles.store_strip(out + r * out_step + 4 * j, out_step, strip, written - j)
            j += 16
    for r in range(fours, R):
        row_product(out + r * out_step, start, a + r * a_row, a_step, v, v_step, K, N, written)


@fast
def dots(
    out: int, start: int, x: int, x_step: int, w: int, w_step: int, R: int, parts: int, N: int, backwards: int
) -> None:
    """out[r] = start[r] + Σ_p Σ_j x[p, j]·w[r, p·N + j] for R rows of `w`; start 0 is none.

    A row of `w` is `parts` runs of N columns side by side; those of `x` are `x_step` bytes apart. The rows are taken in
    the other order if `backwards`, which changes no result.
    """
    sixteens = R - R % 16
    whole = N - N % 16
    for first in range(0, sixteens, 16):
        r = sixteens - 16 - first if backwards else first
        block = tiles.zeros16()
        for p in range(parts):
            xs, ws = x + p * x_step, w + r * w_step + 4 * p * N
            for j in range(0, whole, 16):
                block = tiles.across(block, simd.load(xs + 4 * j), ws + 4 * j, w_step)
            if whole < N:
                last = simd.load_first(xs + 4 * whole, N - whole)
                block = tiles.across_first(block, last, ws + 4 * whole, w_step, N - whole)
        sums = tiles.totals(block)
        simd.store(out + 4 * r, simd.add(sums, simd.load(start + 4 * r)) if start else sums)
    for r in range(sixteens, R):
        row = simd.splat(_ZERO)
        for p in range(parts):
            xs, ws = x + p * x_step, w + r * w_step + 4 * p * N
            for j in range(0, N, 16):
                row = simd.fma(simd.load_first(xs + 4 * j, N - j), simd.load_first(ws + 4 * j, N - j), row)
        sum_of_row = simd.total(row)
        simd.put(out + 4 * r, sum_of_row + number(start + 4 * r) if start else sum_of_row)


@fast
def copy(out: int, a: int, count: int) -> None:
    """out[:count] = a[:count]."""
    for j in range(0, count, 16):
        simd.store_first(out + 4 * j, simd.load_first(a + 4 * j, count - j), count - j)


@fast
def fill_zeros(out: int, count: int) -> None:
    """out[:count] = 0."""
    for j in range(0, count, 16):
        simd.store_first(out + 4 * j, simd.splat(_ZERO), count - j)


@fast
def copy_wide(out: int, a: int, count: int) -> None:
    """out[:count] = a[:count], and zeros up to the next multiple of 16."""
    for j in range(0, count, 16):
        simd.store(out + 4 * j, simd.load_first(a + 4 * j, count - j))
