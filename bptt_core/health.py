"""Gradient health: does the gradient fade or grow on its way back through time?

An update trains pairs at many steps, so its gradient reaches every lag from close by and cannot show vanishing
(Hochreiter 1991; Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013). So now and then the slope of the
newest trained step alone is carried back, without weight gradients, and its norm is read off at some lags. Array legend
as in learner.py.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import network
from bptt_core.arrays import to_host
from bptt_core.cells import Array, Tape
from bptt_core.clipping import global_norm
from bptt_core.learner import LearnerShape

EVERY: Final = 64  # updates between two measurements


@functools.lru_cache(maxsize=1024)
def lags(window: int) -> tuple[int, ...]:
    """The lags that are measured: 0, 1, 2, 4, … and the window."""
    powers = (1 << k for k in range(window.bit_length()))
    return (0, *(lag for lag in powers if lag < window), window)


def norm_by_lag(
    xp: Any,
    shape: LearnerShape,
    params: Array,
    tapes: tuple[Tape, ...],
    dys: Array,
    first_row: int,
    newest: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Norms [B, lags] of the gradient of the loss of each learner's row `newest` [B] alone, by what lies before it.

    `tapes` are those of the update's forward and `dys` [rows, B, K] its slopes, from row `first_row` to the newest that
    can have one. Lag 0 is the top layer's hidden state at that row; lag k ≥ 1 is the carry, of all layers, that enters
    the step k − 1 before it. NaN where the window has no such step.
    """
    learners = np.arange(len(newest))
    learner = xp.asarray(learners)
    weights = shape.layout.split(params)
    slope = dys[xp.asarray(newest - first_row), learner]
    dh = xp.matmul(slope[:, None, :], weights.wo.transpose(0, 2, 1))[:, 0]
    steps = first_row + len(dys)
    dhs = _by_learner(xp, steps, dh.shape, dh.dtype)
    dhs[...] = 0
    dhs[xp.asarray(newest), learner] = dh
    trail = _by_learner(xp, steps, (len(newest), shape.carries, shape.hidden), dh.dtype)
    network.backward(xp, shape.cell, weights.layers, network.head(tapes, steps), dhs, None, trail=trail)
    measured = lags(shape.window)
    entered = newest[:, None] - np.array(measured[1:]) + 1  # [B, lags − 1] the step whose carry it is
    picked = trail[xp.asarray(np.maximum(entered, 0)), xp.asarray(learners[:, None])]
    norms = np.empty((len(newest), len(measured)), np.float32)
    norms[:, 0] = to_host(global_norm(xp, dh))
    norms[:, 1:] = to_host(global_norm(xp, picked.reshape(entered.size, -1))).reshape(entered.shape)
    norms[:, 1:][entered < 0] = np.nan
    return norms


def update_ratio(xp: Any, before: Array, after: Array) -> Array:
    """Norm of the change of the parameters [B, P] over their norm before it, [B]; 0 where that is 0.

    In the type of the parameters: it is read by people, and sums in float64 would cost three times as much."""
    size = _square(xp, before)
    return xp.sqrt(_square(xp, after - before) / (size + (size == 0))) * (size > 0)


def of_learners(xp: Any, tapes: tuple[Tape, ...], index: NDArray[np.int64]) -> tuple[Tape, ...]:
    """The tapes of the learners in `index` alone, stored learner by learner as the others are."""
    where = xp.asarray(index)
    return tuple(
        Tape(*(None if array is None else array.swapaxes(0, 1)[where].swapaxes(0, 1) for array in tape))
        for tape in tapes
    )


def _by_learner(xp: Any, steps: int, per_step: tuple[int, ...], dtype: Any) -> Array:
    """[T, B, …] stored learner by learner, so that no learner's sums depend on its neighbours."""
    return xp.empty((per_step[0], steps, *per_step[1:]), dtype).swapaxes(0, 1)


def _square(xp: Any, rows: Array) -> Array:
    """Squared Euclidean norm of each row of [B, P], by one product."""
    return xp.matmul(rows[:, None, :], rows[:, :, None])[:, 0, 0]
