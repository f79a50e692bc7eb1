"""A stack of recurrent layers over a window: each layer takes the hidden states of the one below as its inputs.

Knows the order of the layers and nothing else: the equations are in cells.py, whose array legend holds here. With L
layers a carry is [B, L·S, H], and carry[:, l·S : (l + 1)·S] belongs to layer l, counted from the inputs.
"""

from __future__ import annotations

from typing import Any

from bptt_core.cells import CELLS, Array, CellWeights, Tape

Layers = tuple[CellWeights, ...]


def forward(xp: Any, cell_name: str, layers: Layers, xs: Array, carry: Array) -> tuple[Tape, ...]:
    """xs [T, B, D] and the incoming carry [B, L·S, H] → one tape per layer; the last one's `hs` are read out."""
    cell, tapes = CELLS[cell_name], []
    for l, weights in enumerate(layers):
        tapes.append(cell.forward(xp, weights, xs, carry[:, l * cell.carries : (l + 1) * cell.carries]))
        xs = tapes[l].hs[1:]
    return tuple(tapes)


def backward(
    xp: Any,
    cell_name: str,
    layers: Layers,
    tapes: tuple[Tape, ...],
    dhs: Array,
    grads: Layers | None,
    inputs: bool = False,
    trail: Array | None = None,
) -> tuple[Array, Array | None]:
    """Carries `dhs` [T, B, H], from outside by the top layer's hidden states, back through time and down the stack.

    Writes the gradients of the weights into `grads` and dL by the carry that enters each step into `trail`
    [T, B, L·S, H], unless they are None. Returns (dcarry [B, L·S, H], dxs [T, B, D] or None).
    """
    cell, dcarries = CELLS[cell_name], []
    for l in range(len(layers) - 1, -1, -1):
        grad = None if grads is None else grads[l]
        part = None if trail is None else trail[:, :, l * cell.carries : (l + 1) * cell.carries]
        dcarry, dhs = cell.backward(xp, layers[l], tapes[l], dhs, grad, inputs or l > 0, part)
        dcarries.append(dcarry)
    return _stacked(xp, dcarries[::-1]), dhs


def head(tapes: tuple[Tape, ...], steps: int) -> tuple[Tape, ...]:
    """The tapes of the first `steps` steps (views)."""
    return tuple(tape.head(steps) for tape in tapes)


def carry_at(xp: Any, tapes: tuple[Tape, ...], step: int) -> Array:
    """The carry entering step `step` (`step = T`: leaving the window), [B, L·S, H], a copy."""
    return _stacked(xp, [tape.carry(xp, step) for tape in tapes])


def saturation(xp: Any, cell_name: str, tapes: tuple[Tape, ...]) -> Array:
    """Share of the units of all layers and steps that let little gradient through, [B]."""
    shares = [CELLS[cell_name].saturated(xp, tape) for tape in tapes]
    return sum(shares[1:], start=shares[0]) / len(shares)


def _stacked(xp: Any, carries: list[Array]) -> Array:
    return carries[0] if len(carries) == 1 else xp.concatenate(carries, axis=1)
