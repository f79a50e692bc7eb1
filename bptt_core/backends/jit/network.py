"""A learner's stack of recurrent layers in compiled code: forward over a window, and backward through time.

One learner in float32, everything at addresses; what a forward leaves for its backward, the tape, lies in the scratch
memory of the thread that runs it. Results are those of `bptt_core/network.py`, whose legend holds. The equations are in
cells.py, and the readout and the losses are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.cells import (
    CODES,
    GRU,
    LSTM,
    RELU,
    RUNS,
    TANH,
    elman_backward,
    elman_forward,
    gru_backward,
    gru_forward,
    lstm_backward,
    lstm_forward,
    project,
    weight_gradients,
)
from bptt_core.backends.jit.lanes import LANES
from bptt_core.backends.jit.memory import fast
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.products import copy, copy_wide
from bptt_core.backends.jit.simd import (
    count_from,
    count_zeros,
    flush_denormals,
    fma,
    load,
    put,
    restore,
    splat,
)
from bptt_core.cells import CELLS, SATURATED
from bptt_core.learner import LearnerShape
from bptt_core.slab import Field

_TAPE: Final = (
    "net_gates", "net_hs", "net_cs", "net_inner", "net_dxs", "net_top", "net_dh", "net_dc", "net_dz", "net_one"
)  # fmt: skip
NAMES: Final[tuple[str, ...]] = (
    "net_cell",
    "net_layers",
    "net_inputs",
    "net_hidden",
    "net_wide",  # H, up to a multiple of 16
    "net_columns",  # G·H
    "net_carries",  # L·S
    "net_rows",  # T of the tape
    "net_parts",  # runs of gates that a product takes one by one, as pads lie between them; otherwise all in one
    "net_part",  # columns of one
    "net_part_wide",
    "net_step",  # bytes of a step's row of gates
    *_TAPE,
)

_MINUS, _ONE, _TWO, _LIMIT = np.float32(-1), np.float32(1), np.float32(2), np.float32(SATURATED)


def tape_fields(shape: LearnerShape) -> list[Field]:
    """Scratch memory for windows of up to `shape.rows` steps; it need not be cleared."""
    L, T, H = shape.layers, shape.rows, shape.hidden
    wide, lstm = _wide(H), shape.cell == "lstm"
    return [
        Field("net_gates", (L, T, _row(shape)), np.float32),
        Field("net_hs", (L, T + 1, wide), np.float32),
        Field("net_cs", (L, T + 1 if lstm else 0, wide), np.float32),
        Field("net_inner", (L, T if lstm else 0, wide), np.float32),
        Field("net_dxs", (2 if L > 1 else 0, T, H), np.float32),
        Field("net_top", (0 if wide == H else T + 1, H), np.float32),
        Field("net_dh", (wide,), np.float32),
        Field("net_dc", (wide,), np.float32),
        Field("net_dz", (_row(shape),), np.float32),
        Field("net_one", (LANES,), np.float32),
    ]


def fill(plan: Plan, shape: LearnerShape, at: Mapping[str, int]) -> None:
    """Sets the members in NAMES; `at` has the offsets of `tape_fields` in the scratch memory."""
    cell, H, wide = CELLS[shape.cell], shape.hidden, _wide(shape.hidden)
    parts = 1 if wide == H else cell.gates
    part = cell.gates * H // parts
    plan.set(
        net_cell=CODES[shape.cell],
        net_layers=shape.layers,
        net_inputs=shape.inputs,
        net_hidden=H,
        net_wide=wide,
        net_columns=cell.gates * H,
        net_carries=shape.carries,
        net_rows=shape.rows,
        net_parts=parts,
        net_part=part,
        net_part_wide=_wide(part),
        net_step=4 * _row(shape),
        **{name: at[name] for name in _TAPE},
    )


def _wide(numbers: int) -> int:
    return -(-numbers // LANES) * LANES


def _row(shape: LearnerShape) -> int:
    """Numbers of a step's row of gates, a cache line longer than needed: the same columns of many rows would fall into
    few of the cache's sets if rows were a power of two apart."""
    return RUNS[shape.cell] * _wide(shape.hidden) + LANES


@fast
def _weights(plan: Any, row: int, layer: int) -> tuple[int, int, int, int, int]:
    """Where the weights of a layer lie in a row of parameters or of their gradient: wx, wh, b, bh, and the inputs D."""
    H, columns = plan.net_hidden, plan.net_columns
    inner = H if plan.net_cell == GRU else 0
    D = H if layer else plan.net_inputs
    if layer:
        row += 4 * ((plan.net_inputs + H + 1) * columns + inner + (layer - 1) * ((2 * H + 1) * columns + inner))
    wh = row + 4 * D * columns
    b = wh + 4 * H * columns
    return row, wh, b, b + 4 * columns, D


@fast
def _layer(plan: Any, scratch: int, layer: int) -> tuple[int, int, int, int]:
    """The tape of a layer: gates, hs, cs, inner."""
    T, run = plan.net_rows, 4 * plan.net_wide
    return (
        scratch + plan.net_gates + layer * T * plan.net_step,
        scratch + plan.net_hs + layer * (T + 1) * run,
        scratch + plan.net_cs + layer * (T + 1) * run,
        scratch + plan.net_inner + layer * T * run,
    )


@fast
def net_forward(plan: Any, params: int, inputs: int, carry: int, T: int, scratch: int) -> None:
    """Runs T steps of `inputs` [T, D] from `carry` [L·S, H], which is only read; the tape is left in `scratch`."""
    H, wide, cell = plan.net_hidden, plan.net_wide, plan.net_cell
    mode = flush_denormals()
    xs, x_step = inputs, 4 * plan.net_inputs
    for layer in range(plan.net_layers):
        wx, wh, b, bh, D = _weights(plan, params, layer)
        gates, hs, cs, inner = _layer(plan, scratch, layer)
        project(plan, gates, xs, x_step, D, wx, b, T)
        if cell == LSTM:
            copy_wide(hs, carry + 8 * layer * H, H)
            copy_wide(cs, carry + 8 * layer * H + 4 * H, H)
            lstm_forward(plan, wh, gates, hs, cs, inner, T)
        else:
            copy_wide(hs, carry + 4 * layer * H, H)
            if cell == GRU:
                gru_forward(plan, wh, bh, gates, hs, T)
            else:
                elman_forward(plan, wh, gates, hs, T)
        xs, x_step = hs + 4 * wide, 4 * wide
    if wide != H:
        _, hs, _, _ = _layer(plan, scratch, plan.net_layers - 1)
        for t in range(T + 1):
            copy(scratch + plan.net_top + 4 * t * H, hs + 4 * t * wide, H)
    restore(mode)


@fast
def net_hs(plan: Any, scratch: int) -> int:
    """Where the top layer's hidden states [T+1, H] lie; the first is the incoming carry's."""
    _, top, _, _ = _layer(plan, scratch, plan.net_layers - 1)
    if plan.net_wide != plan.net_hidden:
        top = scratch + plan.net_top  # without the pads
    return top


@fast
def net_carry(plan: Any, scratch: int, t: int, out: int) -> None:
    """The carry entering step t (t = T: leaving the window), to `out` [L·S, H]."""
    H, run = plan.net_hidden, 4 * plan.net_wide
    for layer in range(plan.net_layers):
        _, hs, cs, _ = _layer(plan, scratch, layer)
        copy(out, hs + t * run, H)
        out += 4 * H
        if plan.net_cell == LSTM:
            copy(out, cs + t * run, H)
            out += 4 * H


@fast
def net_step(plan: Any, params: int, x: int, carry: int, scratch: int) -> None:
    """One step through `x` [D], in place on `carry` [L·S, H]. The tape in `scratch` is lost."""
    net_forward(plan, params, x, carry, 1, scratch)
    net_carry(plan, scratch, 1, carry)


@fast
def net_saturated(plan: Any, scratch: int, T: int) -> np.float32:
    """Share of the units of all layers and T steps that let little gradient through, float32. To be asked before the
    gradient of the weights, which takes the place of the gates."""
    H, wide, cell = plan.net_hidden, plan.net_wide, plan.net_cell
    count, run = 0, 4 * wide
    limit = splat(_LIMIT)
    for layer in range(plan.net_layers):
        gates, hs, _, inner = _layer(plan, scratch, layer)
        for t in range(T):
            row = gates + t * plan.net_step
            for j in range(0, run, 64):
                if cell == LSTM:
                    count += _tanh_saturated(row + j) + _tanh_saturated(row + run + j)
                    count += _tanh_saturated(row + 3 * run + j) + count_from(load(row + 2 * run + j), limit)
                    count += count_from(load(inner + t * run + j), limit)
                elif cell == GRU:
                    count += _tanh_saturated(row + j) + _tanh_saturated(row + run + j)
                    count += count_from(load(row + 3 * run + j), limit)
                elif cell == TANH:
                    count += count_from(load(hs + (t + 1) * run + j), limit)
                else:
                    count += count_zeros(load(hs + (t + 1) * run + j))
    if cell == RELU:
        count -= plan.net_layers * T * (wide - H)
    counted = 5 if cell == LSTM else 3 if cell == GRU else 1
    return np.float32(count / (plan.net_layers * T * counted * H))


@fast
def _tanh_saturated(address: int) -> int:
    """How many of 16 σ have a saturated tanh, 2σ − 1."""
    count: int = count_from(fma(splat(_TWO), load(address), splat(_MINUS)), splat(_LIMIT))
    return count


@fast
def net_backward(plan: Any, params: int, inputs: int, dhs: int, T: int, grad: int, scratch: int, trail: int) -> None:
    """Carries `dhs` [T, H], dL by the top layer's hidden states, back through the first T steps of the tape.

    Writes the gradients of the layers' weights to the row `grad` and dL by the carry that enters each step to `trail`
    [T, L·S, H], where they are not 0. With `grad` the tape's gates are destroyed: their gradients take their place.
    """
    H, wide, cell, layers = plan.net_hidden, plan.net_wide, plan.net_cell, plan.net_layers
    mode = flush_denormals()
    dh, dc, one = scratch + plan.net_dh, scratch + plan.net_dc, scratch + plan.net_one
    dz = 0 if grad else scratch + plan.net_dz
    put(one, _ONE)
    for layer in range(layers - 1, -1, -1):
        wx, wh, _, _, D = _weights(plan, params, layer)
        gates, hs, cs, inner = _layer(plan, scratch, layer)
        dxs = scratch + plan.net_dxs + 4 * (layer % 2) * plan.net_rows * H if layer else 0
        entered = trail + 4 * layer * (plan.net_carries // layers) * H if trail else 0
        if cell == LSTM:
            lstm_backward(plan, wh, wx, gates, cs, inner, dhs, dh, dc, dz, dxs, entered, T)
        elif cell == GRU:
            gru_backward(plan, wh, wx, gates, hs, dhs, dh, dz, dxs, entered, T)
        else:
            elman_backward(plan, wh, wx, gates, hs, dhs, dh, dz, dxs, entered, T)
        if grad:
            dwx, dwh, db, dbh, _ = _weights(plan, grad, layer)
            xs, x_step = inputs, 4 * plan.net_inputs
            if layer:
                _, below, _, _ = _layer(plan, scratch, layer - 1)
                xs, x_step = below + 4 * wide, 4 * wide
            weight_gradients(plan, dwx, dwh, db, dbh, gates, xs, x_step, D, hs, one, T)
        dhs = dxs
    restore(mode)
