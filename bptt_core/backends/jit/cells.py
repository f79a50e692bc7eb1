"""One layer's steps in compiled code: Elman (tanh, ReLU), GRU and LSTM, each forward directly above its backward.

The equations are those of `bptt_core/cells.py`, whose legend holds, for one learner in float32. What a forward leaves
lies in scratch memory, where a run of H numbers is padded with zeros to `wide`, a multiple of 16, so that the lines
between the products need no ends; pads stay zero throughout. A step's row of `gates` has the cell's gates in runs, for
GRU r, z, the hidden part of the candidate and n. A backward puts the gradients of the pre-activations in their place,
or, where no weights' gradient is asked for, into the one row `dz`.

`plan` is a network's (`network.NAMES`), addresses are those of the layer's arrays, T its steps. Sums over the weights
are in products.py, the order of layers in network.py.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.activations import sigmoid, tanh
from bptt_core.backends.jit.memory import fast
from bptt_core.backends.jit.products import copy, copy_wide, dots, fill_zeros, product, row_product
from bptt_core.backends.jit.simd import add, fma, load, load_first, mul, rectify, splat, store, sub, where_positive
from bptt_core.learner_config import CELLS

CODES: Final = {name: code for code, name in enumerate(CELLS)}
TANH, RELU, GRU, LSTM = CODES.values()
RUNS: Final = {"tanh": 1, "relu": 1, "gru": 4, "lstm": 4}  # of H numbers in a row of gates

_ZERO, _ONE = np.float32(0), np.float32(1)


@fast
def recur(plan: Any, row: int, h: int, wh: int, t: int) -> None:
    """row += h·wh: the recurrent part of the gates of step t.

    Every other step goes through the weights backwards: what is still in the nearest cache of them is at that end."""
    H, wide, h_step, wh_step = plan.net_hidden, plan.net_wide, 4, 4 * plan.net_columns
    if t % 2:
        h, wh = h + (H - 1) * h_step, wh + (H - 1) * wh_step
        h_step, wh_step = -h_step, -wh_step
    for p in range(plan.net_parts):
        at = row + 4 * p * wide
        row_product(at, at, h, h_step, wh + 4 * p * H, wh_step, H, plan.net_part, plan.net_part_wide)


@fast
def recur_back(plan: Any, dh: int, start: int, dz: int, wh: int, t: int) -> None:
    """dh = start + dz·whᵀ of step t, every other step from the other end as in `recur`."""
    H, parts, part = plan.net_hidden, plan.net_parts, plan.net_part
    dots(dh, start, dz, 4 * plan.net_wide, wh, 4 * plan.net_columns, H, parts, part, t % 2)


@fast
def project(plan: Any, gates: int, xs: int, x_step: int, D: int, wx: int, b: int, T: int) -> None:
    """gates = xs·wx + b for the whole window: the part that needs no recurrence. GRU's n goes to its own run."""
    H, wide, columns, step, part = plan.net_hidden, plan.net_wide, plan.net_columns, plan.net_step, plan.net_part
    if plan.net_cell == GRU:
        for p in range(3):
            at = gates + 4 * wide * (3 if p == 2 else p)
            product(at, step, b + 4 * p * H, xs, x_step, 4, wx + 4 * p * H, 4 * columns, T, D, H, wide)
    else:
        for p in range(plan.net_parts):
            at, first = gates + 4 * p * wide, 4 * p * H
            product(at, step, b + first, xs, x_step, 4, wx + first, 4 * columns, T, D, part, plan.net_part_wide)


@fast
def project_back(plan: Any, dx: int, dz: int, wx: int) -> None:
    """dx = dz·wxᵀ of one step, for a layer whose inputs are H hidden states."""
    H, wide, columns = plan.net_hidden, plan.net_wide, plan.net_columns
    if plan.net_cell == GRU:
        dots(dx, 0, dz, 4 * wide, wx, 4 * columns, H, 2, H, 0)
        dots(dx, dx, dz + 12 * wide, 4 * wide, wx + 8 * H, 4 * columns, H, 1, H, 0)
    else:
        dots(dx, 0, dz, 4 * wide, wx, 4 * columns, H, plan.net_parts, plan.net_part, 0)


@fast
def weight_gradients(
    plan: Any, dwx: int, dwh: int, db: int, dbh: int, dz: int, xs: int, x_step: int, D: int, hs: int, one: int, T: int
) -> None:
    """The gradients of all weights of a layer, each a product over time; `one` is the address of a 1."""
    H, wide, columns, step, part = plan.net_hidden, plan.net_wide, plan.net_columns, plan.net_step, plan.net_part
    for p in range(plan.net_parts):
        at, first = dz + 4 * p * wide, 4 * p * H
        product(dwh + first, 4 * columns, 0, hs, 4, 4 * wide, at, step, H, T, part, part)
        if plan.net_cell != GRU:
            product(dwx + first, 4 * columns, 0, xs, 4, x_step, at, step, D, T, part, part)
            row_product(db + first, 0, one, 0, at, step, T, part, part)
    if plan.net_cell == GRU:
        for p in range(3):
            at, first = dz + 4 * wide * (3 if p == 2 else p), 4 * p * H
            product(dwx + first, 4 * columns, 0, xs, 4, x_step, at, step, D, T, H, H)
            row_product(db + first, 0, one, 0, at, step, T, H, H)
        row_product(dbh, 0, one, 0, dz + 8 * wide, step, T, H, H)


# ---- Elman: h' = φ(z) ------------------------------------------------------------------------------------------------


@fast
def elman_forward(plan: Any, wh: int, gates: int, hs: int, T: int) -> None:
    wide, step = plan.net_wide, plan.net_step
    for t in range(T):
        row, h = gates + t * step, hs + 4 * t * wide
        recur(plan, row, h, wh, t)
        for j in range(0, 4 * wide, 64):
            z = load(row + j)
            store(h + 4 * wide + j, tanh(z) if plan.net_cell == TANH else rectify(z))


@fast
def elman_backward(
    plan: Any, wh: int, wx: int, gates: int, hs: int, dhs: int, dh: int, dz: int, dxs: int, trail: int, T: int
) -> None:
    H, wide, step = plan.net_hidden, plan.net_wide, plan.net_step
    one = splat(_ONE)
    fill_zeros(dh, wide)
    for t in range(T - 1, -1, -1):
        row = dz if dz else gates + t * step
        for j in range(0, 4 * wide, 64):
            h = load(hs + 4 * (t + 1) * wide + j)
            d = add(load(dh + j), load_first(dhs + 4 * t * H + j, H - j // 4))
            store(row + j, mul(d, sub(one, mul(h, h))) if plan.net_cell == TANH else where_positive(h, d))
        recur_back(plan, dh, 0, row, wh, t)
        if dxs:
            project_back(plan, dxs + 4 * t * H, row, wx)
        if trail:
            copy(trail + 4 * t * plan.net_carries * H, dh, H)


# ---- GRU: n = tanh(n + r∘inner)   h' = n + z∘(h − n) -----------------------------------------------------------------


@fast
def gru_forward(plan: Any, wh: int, bh: int, gates: int, hs: int, T: int) -> None:
    wide, step = plan.net_wide, plan.net_step
    run = 4 * wide
    for t in range(T):
        row, h = gates + t * step, hs + t * run
        copy_wide(row + 2 * run, bh, plan.net_hidden)
        recur(plan, row, h, wh, t)
        for j in range(0, run, 64):
            at = row + j
            r, z = sigmoid(load(at)), sigmoid(load(at + run))
            n = tanh(fma(r, load(at + 2 * run), load(at + 3 * run)))
            store(at, r)
            store(at + run, z)
            store(at + 3 * run, n)
            store(h + run + j, fma(z, sub(load(h + j), n), n))


@fast
def gru_backward(
    plan: Any, wh: int, wx: int, gates: int, hs: int, dhs: int, dh: int, dz: int, dxs: int, trail: int, T: int
) -> None:
    H, wide, step = plan.net_hidden, plan.net_wide, plan.net_step
    run = 4 * wide
    one = splat(_ONE)
    fill_zeros(dh, wide)
    for t in range(T - 1, -1, -1):
        row = dz if dz else gates + t * step
        for j in range(0, run, 64):
            at, to = gates + t * step + j, row + j
            r, z, inner, n = load(at), load(at + run), load(at + 2 * run), load(at + 3 * run)
            d = add(load(dh + j), load_first(dhs + 4 * t * H + j, H - j // 4))
            dn = mul(mul(d, sub(one, z)), sub(one, mul(n, n)))
            store(to, mul(mul(dn, inner), mul(r, sub(one, r))))
            store(to + run, mul(mul(d, sub(load(hs + t * run + j), n)), mul(z, sub(one, z))))
            store(to + 2 * run, mul(dn, r))
            store(to + 3 * run, dn)
            store(dh + j, mul(d, z))
        recur_back(plan, dh, dh, row, wh, t)
        if dxs:
            project_back(plan, dxs + 4 * t * H, row, wx)
        if trail:
            copy(trail + 4 * t * plan.net_carries * H, dh, H)


# ---- LSTM: c' = f∘c + i∘g   h' = o∘tanh(c') --------------------------------------------------------------------------


@fast
def lstm_forward(plan: Any, wh: int, gates: int, hs: int, cs: int, inner: int, T: int) -> None:
    """`inner` is tanh(c')."""
    wide, step = plan.net_wide, plan.net_step
    run = 4 * wide
    for t in range(T):
        row, h, c = gates + t * step, hs + t * run, cs + t * run
        recur(plan, row, h, wh, t)
        for j in range(0, run, 64):
            at = row + j
            i, f, o = sigmoid(load(at)), sigmoid(load(at + run)), sigmoid(load(at + 3 * run))
            g = tanh(load(at + 2 * run))
            next_c = fma(f, load(c + j), mul(i, g))
            tanh_c = tanh(next_c)
            store(at, i)
            store(at + run, f)
            store(at + 2 * run, g)
            store(at + 3 * run, o)
            store(c + run + j, next_c)
            store(inner + t * run + j, tanh_c)
            store(h + run + j, mul(o, tanh_c))


@fast
def lstm_backward(
    plan: Any,
    wh: int,
    wx: int,
    gates: int,
    cs: int,
    inner: int,
    dhs: int,
    dh: int,
    dc: int,
    dz: int,
    dxs: int,
    trail: int,
    T: int,
) -> None:
    H, wide, step = plan.net_hidden, plan.net_wide, plan.net_step
    run = 4 * wide
    one = splat(_ONE)
    fill_zeros(dh, wide)
    fill_zeros(dc, wide)
    for t in range(T - 1, -1, -1):
        row = dz if dz else gates + t * step
        for j in range(0, run, 64):
            at, to = gates + t * step + j, row + j
            i, f, g, o = load(at), load(at + run), load(at + 2 * run), load(at + 3 * run)
            tanh_c = load(inner + t * run + j)
            d = add(load(dh + j), load_first(dhs + 4 * t * H + j, H - j // 4))
            c = fma(mul(d, o), sub(one, mul(tanh_c, tanh_c)), load(dc + j))
            store(to, mul(mul(c, g), mul(i, sub(one, i))))
            store(to + run, mul(mul(c, load(cs + t * run + j)), mul(f, sub(one, f))))
            store(to + 2 * run, mul(mul(c, i), sub(one, mul(g, g))))
            store(to + 3 * run, mul(mul(d, tanh_c), mul(o, sub(one, o))))
            store(dc + j, mul(c, f))
        recur_back(plan, dh, 0, row, wh, t)
        if dxs:
            project_back(plan, dxs + 4 * t * H, row, wx)
        if trail:
            entered = trail + 4 * t * plan.net_carries * H
            copy(entered, dh, H)
            copy(entered + 4 * H, dc, H)
