"""Where each weight lies in a learner's flat row of P numbers, and how the row is first filled.

Canonical order, the order of a checkpoint: wx [D, G·H], wh [H, G·H], b [G·H], bh [H] (GRU), wo [H, K], bo [K]. Against
PyTorch: weight_ih = wxᵀ, weight_hh = whᵀ, bias_ih + bias_hh = b (GRU: b_hn = bh), readout weight = woᵀ, bias = bo.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import CELLS, Array, CellWeights


class Weights(NamedTuple):
    """Views into rows [B, P]: the cell's weights and the readout's."""

    cell: CellWeights
    wo: Array  # [B, H, K]
    bo: Array  # [B, K]


@dataclass(frozen=True)
class ParameterLayout:
    """Shapes of one learner: `inputs` D, `hidden` H, `outputs` K = horizons · targets."""

    cell: str
    inputs: int
    hidden: int
    outputs: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape, in canonical order."""
        cell, H = CELLS[self.cell], self.hidden
        wide = cell.gates * H
        shapes: dict[str, tuple[int, ...]] = {"wx": (self.inputs, wide), "wh": (H, wide), "b": (wide,)}
        if cell.inner_bias:
            shapes["bh"] = (H,)
        return shapes | {"wo": (H, self.outputs), "bo": (self.outputs,)}

    @property
    def size(self) -> int:
        """P."""
        return self._places[-1][2]

    def split(self, rows: Array) -> Weights:
        """Views of rows [B, P] by name; writing to them writes to the rows."""
        views = {name: rows[:, start:stop].reshape(-1, *shape) for name, start, stop, shape in self._places}
        return Weights(CellWeights(views["wx"], views["wh"], views["b"], views.get("bh")), views["wo"], views["bo"])

    def readout(self, rows: Array) -> tuple[Array, Array]:
        """Views of the readout's weights alone: wo [B, H, K], bo [B, K]."""
        bias = self.size - self.outputs
        first = bias - self.hidden * self.outputs
        return rows[:, first:bias].reshape(-1, self.hidden, self.outputs), rows[:, bias:]

    @functools.cached_property
    def _places(self) -> list[tuple[str, int, int, tuple[int, ...]]]:
        """Name, first and past-the-last column and shape of every weight."""
        places, start = [], 0
        for name, shape in self.shapes().items():
            stop = start + math.prod(shape)
            places.append((name, start, stop, shape))
            start = stop
        return places


def initial_parameters(layout: ParameterLayout, seed: int, dtype: type = np.float32) -> NDArray[np.floating]:
    """The first row [P] of a learner: the same seed gives the same bits.

    Input weights uniform in ±1/√H, recurrent weights orthogonal per gate (Saxe et al. 2014), forget-gate bias 1
    (Jozefowicz et al. 2015), other biases 0, readout 0: the first forecast is exactly the anchor.
    """
    rng = np.random.default_rng(seed)
    row = np.zeros((1, layout.size))
    weights, H = layout.split(row).cell, layout.hidden
    weights.wx[...] = rng.uniform(-1, 1, weights.wx.shape) / math.sqrt(H)
    for gate in range(CELLS[layout.cell].gates):
        q, r = np.linalg.qr(rng.standard_normal((H, H)))
        weights.wh[0, :, gate * H : (gate + 1) * H] = q * np.sign(np.diag(r))
    if layout.cell == "lstm":
        weights.b[:, H : 2 * H] = 1
    parameters: NDArray[np.floating] = row[0].astype(dtype)
    return parameters
