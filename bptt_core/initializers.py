"""The first parameters of a learner, drawn from its seed: equal configurations start from equal bits.

Weights by Glorot & Bengio (2010), He et al. (2015), Saxe et al. (2014, orthogonal), Le et al. (2015, identity) or
uniformly as PyTorch does; biases by Jozefowicz et al. (2015, forget gate) or Tallec & Ollivier (2018, chrono). The
readout is 0: the first forecast is exactly the anchor. Knows nothing of training.

A matrix [rows, G·H] is one of [rows, H] per gate, each drawn by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import CELLS
from bptt_core.learner_config import LearnerConfig
from bptt_core.parameters import ParameterLayout

Matrix = NDArray[np.float64]


def initial_parameters(
    layout: ParameterLayout, learner: LearnerConfig, dtype: type[np.floating[Any]] = np.float32
) -> NDArray[np.floating[Any]]:
    """The first row [P] of a learner; `learner` is validated. Drawn in float64, layer by layer from the inputs up, so
    that a layer's bits do not depend on the layers above it."""
    rng = np.random.default_rng(learner.seed)
    row = np.zeros((1, layout.size))
    gates, H = CELLS[layout.cell].gates, layout.hidden
    for weights in layout.split(row).layers:
        weights.wx[0] = INITIALIZERS[learner.input_init](rng, weights.wx.shape[1], H, gates)
        weights.wh[0] = INITIALIZERS[learner.recurrent_init](rng, H, H, gates) * learner.recurrent_gain
        _fill_bias(rng, layout.cell, weights.b[0].reshape(gates, H), learner)
    parameters: NDArray[np.floating[Any]] = row[0].astype(dtype)
    return parameters


def _uniform(rng: np.random.Generator, rows: int, hidden: int, gates: int) -> Matrix:
    return rng.uniform(-1, 1, (rows, gates * hidden)) / math.sqrt(hidden)


def _glorot(rng: np.random.Generator, rows: int, hidden: int, gates: int) -> Matrix:
    """Variance 2/(in + out): a compromise that keeps activations forward and gradients backward."""
    return rng.uniform(-1, 1, (rows, gates * hidden)) * math.sqrt(6 / (rows + hidden))


def _he(rng: np.random.Generator, rows: int, hidden: int, gates: int) -> Matrix:
    """Variance 2/in: half the rectified units are off."""
    return rng.standard_normal((rows, gates * hidden)) * math.sqrt(2 / rows)


def _orthogonal(rng: np.random.Generator, rows: int, hidden: int, gates: int) -> Matrix:
    """Per gate orthonormal columns, or rows where there are fewer of them: the Q of a random matrix, uniformly
    distributed thanks to the signs (Mezzadri 2007)."""
    parts = []
    for _ in range(gates):
        q, r = np.linalg.qr(rng.standard_normal((max(rows, hidden), min(rows, hidden))))
        q = q * np.sign(np.diag(r))
        parts.append(q if rows >= hidden else q.T)
    return np.concatenate(parts, axis=1)


def _identity(rng: np.random.Generator, rows: int, hidden: int, gates: int) -> Matrix:
    return np.tile(np.eye(rows, hidden), gates)


INITIALIZERS: Final[dict[str, Callable[[np.random.Generator, int, int, int], Matrix]]] = {
    "uniform": _uniform,
    "glorot": _glorot,
    "he": _he,
    "orthogonal": _orthogonal,
    "identity": _identity,
}


def _fill_bias(rng: np.random.Generator, cell: str, bias: Matrix, learner: LearnerConfig) -> None:
    """Writes the biases [G, H] of the gates that decide how long a unit remembers; the others stay as they are."""
    if learner.bias_init == "chrono":
        # A gate at T/(T + 1) forgets in about T steps: its bias is log T, for times T spread over the window.
        assert learner.window is not None
        bias[1] = np.log(rng.uniform(1, max(1, learner.window - 1), bias.shape[1]))  # LSTM's f, GRU's z
        if cell == "lstm":
            bias[0] = -bias[1]
    elif cell == "lstm":
        bias[1] = learner.forget_bias
