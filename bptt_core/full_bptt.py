"""Full backpropagation through time: one gradient through all steps of a finite sequence (Werbos 1990).

This is what truncation approximates, and how a learner is trained on sequences that are complete before its stream
begins: forward over all T steps from a zero carry, the loss of all pairs whose target is known, backward to the first
step; one clipped optimiser step at the end of each sequence, or one per pass over all of them. Knows nothing of where
sequences come from. Array legend as in learner.py; a sequence is inputs [T, D] and targets [T, N], NaN: not known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bptt_core import network
from bptt_core.arrays import to_host
from bptt_core.cells import Array, Tape
from bptt_core.clipping import global_norm
from bptt_core.heads import masked_loss, readout, readout_backward
from bptt_core.learner import LearnerShape
from bptt_core.slab import Rows
from bptt_core.tbptt import loss_parameter, take_update
from bptt_core.window import finite_carry

EVERYONE = slice(None)


class SequenceGradient(NamedTuple):
    """One forward and backward over a whole sequence."""

    loss: Array  # [1] mean over the pairs with a target
    pairs: int  # how many those are; without any, loss and gradient are 0
    rows: Array  # [1, P] gradient of that mean
    tapes: tuple[Tape, ...]


def sequence_targets(shape: LearnerShape, arrived: Array) -> Array:
    """Targets [T, N] at the step they belong to, from those `arrived` [T, N] with each step; NaN: not in the sequence.

    Column h·O + o arrives h + ahead steps after its step.
    """
    targets = arrived.copy()
    targets[...] = np.nan
    for h in range(shape.horizon):
        columns, later = slice(h * shape.targets, (h + 1) * shape.targets), h + shape.ahead
        targets[: max(0, len(arrived) - later), columns] = arrived[later:, columns]
    return targets


def gradient(
    xp: Any, shape: LearnerShape, params: Array, xs: Array, targets: Array, parameter: Array
) -> SequenceGradient:
    """Loss and gradient of one sequence: `params` [1, P], `xs` [T, 1, D], `targets` [T, 1, N], `parameter` [1, 1]."""
    weights = shape.layout.split(params)
    carry = xp.zeros((1, shape.carries, shape.hidden), params.dtype)
    tapes = network.forward(xp, shape.cell, weights.layers, xs, carry)
    hs = tapes[-1].hs[1:]
    known = ~xp.isnan(targets)
    ys = readout(xp, weights.wo, weights.bo, hs)
    loss, dys = masked_loss(xp, shape.loss, ys, targets, known, parameter, shape.quantiles)
    rows = xp.empty_like(params)
    grad = shape.layout.split(rows)
    dhs = readout_backward(xp, weights.wo, hs, dys, grad.wo, grad.bo)
    network.backward(xp, shape.cell, weights.layers, tapes, dhs, grad.layers)
    return SequenceGradient(loss, int(to_host(known.sum())), rows, tapes)


def train_pass(
    xp: Any,
    shape: LearnerShape,
    device: Rows,
    host: Rows,
    sequences: list[tuple[Array, Array]],
    per_pass: bool = False,
) -> tuple[float, int]:
    """Trains ONE learner (rows of B = 1) on all sequences once, in place; returns (mean loss, updates applied).

    One update at the end of each sequence; or, `per_pass`, one at the end of the pass by the gradient of the mean over
    all pairs, accumulated over the sequences. The loss is the mean over all pairs as each was found, before the update
    that it led to; NaN without any. A sequence whose loss or gradient is not finite is skipped and not counted.
    """
    parameter = loss_parameter(xp, host, EVERYONE, device["params"].dtype)
    total, pairs, applied = 0.0, 0, 0
    accumulated = xp.zeros(device["params"].shape, np.float64)
    for xs, targets in sequences:
        found = gradient(xp, shape, device["params"], xs[:, None], targets[:, None], parameter)
        norm = to_host(global_norm(xp, found.rows))
        loss = float(to_host(found.loss)[0])
        if found.pairs == 0 or not np.isfinite([loss, norm[0]]).all():
            continue
        total, pairs = total + found.pairs * loss, pairs + found.pairs
        if per_pass:
            accumulated += found.rows.astype(np.float64) * found.pairs
        else:
            take_update(xp, shape, device, found.rows, norm, host, EVERYONE)
            applied += 1
    if per_pass and pairs:
        rows = (accumulated / pairs).astype(device["params"].dtype)
        take_update(xp, shape, device, rows, to_host(global_norm(xp, rows)), host, EVERYONE)
        applied = 1
    return total / pairs if pairs else float("nan"), applied


def enter_stream(xp: Any, shape: LearnerShape, device: Rows, host: Rows, xs: Array, targets: Array) -> None:
    """Runs ONE learner (rows of B = 1) over a sequence from a zero carry, so that its stream goes on where that ends.

    In place: carry, boundary carry, and a window of the sequence's last rows, as many as a full one keeps after an
    update; pairs whose target has not arrived yet wait for it. The parameters stay as they are.
    """
    steps = len(xs)
    kept = min(steps, shape.rows - shape.stride)
    carry = xp.zeros((1, shape.carries, shape.hidden), device["params"].dtype)
    layers = shape.layout.split(device["params"]).layers
    tapes = network.forward(xp, shape.cell, layers, xs[:, None], carry)
    device["boundary"][...] = finite_carry(xp, network.carry_at(xp, tapes, steps - kept), host, EVERYONE)
    device["carry"][...] = finite_carry(xp, network.carry_at(xp, tapes, steps), host, EVERYONE)
    device["inputs"][0, :kept], device["targets"][0, :kept] = xs[steps - kept :], targets[steps - kept :]
    host["length"][...], host["since_update"][...] = kept, 0
    if shape.ahead == 0:
        host["event_count"] += steps
        host["arrived_event"][0, :kept] = host["event_count"] - kept + 1 + np.arange(kept)[:, None]
