"""What a learner is: the shape that learners of one slab share, and the fields that hold the state of one.

Knows nothing of how a learner moves; that is tbptt.py (a stream) and full_bptt.py (whole sequences).

A *pair* is (step, horizon, target): a value predicted at a step. Its target lies `ahead` steps or more after the step:
at 1 the targets are future values of the stream itself; at 0 they are labels of the step's own, which may come late,
and there is one horizon. Array legend as in cells.py, and N = horizon · targets pairs of a step, W rows of the window,
K outputs of the readout (horizon-major, then target, then the numbers of one pair).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np

from bptt_core import guard
from bptt_core.cells import CELLS
from bptt_core.clipping import RING
from bptt_core.heads import per_pair
from bptt_core.optimizers import MOMENTS
from bptt_core.parameters import ParameterLayout
from bptt_core.slab import Field

COUNTERS: Final = ("applied", "clipped", "no_target", "non_finite", "learning_off")  # of updates, and what came of them


@dataclass(frozen=True)
class LearnerShape:
    """What learners of one slab have in common."""

    cell: str
    layers: int  # L
    inputs: int  # D
    hidden: int  # H
    horizon: int
    targets: int
    ahead: int  # 0 or 1
    symbols: int  # of the softmax loss
    window: int  # k2
    stride: int  # k1
    loss_span: int  # pairs that arrived in so many last events may be trained; a learner's own span is at most this
    loss: str
    quantiles: tuple[float, ...]  # of the pinball loss
    optimizer: str
    schedule: str
    clip: str
    guard: bool = False

    @property
    def pairs(self) -> int:
        """N, pairs of one step."""
        return self.horizon * self.targets

    @functools.cached_property
    def outputs(self) -> int:
        """K, outputs of the readout: N times the numbers that describe one pair."""
        return self.pairs * per_pair(self.loss, self.quantiles, self.symbols)

    @property
    def per_pair(self) -> int:
        """R, outputs of one pair."""
        return self.outputs // self.pairs

    @property
    def rows(self) -> int:
        """W: the k2 steps that a gradient may reach, and the newest step where its own pairs lie in the future."""
        return self.window + self.ahead

    @property
    def carries(self) -> int:
        """Carry arrays of all layers, L·S."""
        return self.layers * CELLS[self.cell].carries

    @functools.cached_property
    def layout(self) -> ParameterLayout:
        return ParameterLayout(self.cell, self.inputs, self.hidden, self.layers, self.outputs)


def device_fields(shape: LearnerShape, dtype: type = np.float32) -> list[Field]:
    """State that the backend computes with."""
    P, W = shape.layout.size, shape.rows
    return [
        Field("params", (P,), dtype),
        *(Field(f"moment{k}", (P,), dtype) for k in range(MOMENTS[shape.optimizer])),
        Field("carry", (shape.carries, shape.hidden), dtype),
        Field("boundary", (shape.carries, shape.hidden), dtype),
        Field("inputs", (W, shape.inputs), dtype),
        Field("targets", (W, shape.pairs), dtype, np.nan),
        *([Field("good", (P,), dtype)] if shape.guard else []),
    ]


def host_fields(shape: LearnerShape) -> list[Field]:
    """Bookkeeping, and the settings that may differ between learners of one slab."""
    fields = [
        *(Field(name, (), np.int64) for name in (*COUNTERS, *guard.RESETS.values())),
        Field("span", (), np.int64, shape.loss_span),
        Field("length", (), np.int64),
        Field("since_update", (), np.int64),
        Field("optimizer_steps", (), np.int64),
        Field("carry_resets", (), np.int64),
        Field("learning", (), np.int8, 1),
        Field("learning_rate", (), np.float64),
        Field("rate_factor", (), np.float64, 1),
        Field("beta1", (), np.float64, 0.9),
        Field("beta2", (), np.float64, 0.999),
        Field("weight_decay", (), np.float64),
        Field("warmup_updates", (), np.float64),
        Field("decay_updates", (), np.float64, 10_000),
        Field("rate_floor", (), np.float64, 0.1),
        Field("clip_limit", (), np.float64, 1),  # a norm, the size of an element or a quantile, as `clip` reads it
        Field("loss_parameter", (), np.float64, 1),  # Huber's δ or Student's ν
    ]
    if shape.clip == "quantile":
        fields += [Field("norm_ring", (RING,), np.float64, np.nan), Field("norm_count", (), np.int64)]
    if shape.guard:
        fields += guard.fields()
    if shape.ahead == 0:
        fields += [Field("event_count", (), np.int64), Field("arrived_event", (shape.rows, shape.pairs), np.int64)]
    return fields
