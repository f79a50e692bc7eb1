"""Where each weight lies in a learner's flat row of P numbers. Knows shapes and their order, not what is in them.

Canonical order, the order of a checkpoint: for every layer l from the inputs up wx{l} [D, G·H] (above the first layer
[H, G·H]), wh{l} [H, G·H], b{l} [G·H], bh{l} [H] (GRU); then wo [H, K], bo [K]. Against PyTorch: weight_ih = wxᵀ,
weight_hh = whᵀ, bias_ih + bias_hh = b (GRU: b_hn = bh), readout weight = woᵀ, bias = bo.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

from bptt_core.cells import CELLS, Array, CellWeights


class Weights(NamedTuple):
    """Views into rows [B, P]: the weights of each layer and the readout's."""

    layers: tuple[CellWeights, ...]
    wo: Array  # [B, H, K]
    bo: Array  # [B, K]


@dataclass(frozen=True)
class ParameterLayout:
    """Shapes of one learner: `inputs` D, `hidden` H, `layers` L, `outputs` K."""

    cell: str
    inputs: int
    hidden: int
    layers: int
    outputs: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape, in canonical order."""
        cell, H = CELLS[self.cell], self.hidden
        wide = cell.gates * H
        shapes: dict[str, tuple[int, ...]] = {}
        for l in range(self.layers):
            shapes |= {f"wx{l}": (H if l else self.inputs, wide), f"wh{l}": (H, wide), f"b{l}": (wide,)}
            if cell.inner_bias:
                shapes[f"bh{l}"] = (H,)
        return shapes | {"wo": (H, self.outputs), "bo": (self.outputs,)}

    @property
    def size(self) -> int:
        """P."""
        return self._places[-1][1]

    def split(self, rows: Array) -> Weights:
        """Views of rows [B, P]; writing to them writes to the rows."""
        *views, wo, bo = [rows[:, start:stop].reshape(shape) for start, stop, shape in self._places]
        per_layer = len(views) // self.layers
        layers = [CellWeights(*views[k : k + per_layer]) for k in range(0, len(views), per_layer)]
        return Weights(tuple(layers), wo, bo)

    def readout(self, rows: Array) -> tuple[Array, Array]:
        """Views of the readout's weights alone: wo [B, H, K], bo [B, K]."""
        bias = self.size - self.outputs
        first = bias - self.hidden * self.outputs
        return rows[:, first:bias].reshape(-1, self.hidden, self.outputs), rows[:, bias:]

    @functools.cached_property
    def _places(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """First and past-the-last column of every weight, and the shape of many learners' [-1, …]."""
        places, start = [], 0
        for shape in self.shapes().values():
            stop = start + math.prod(shape)
            places.append((start, stop, (-1, *shape)))
            start = stop
        return places
