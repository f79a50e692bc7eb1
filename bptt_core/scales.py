"""What the scale stage keeps and gives: the shape that sessions share, the fields of one session, and one scaled step.

Knows nothing of how scales move; that is scaling.py, whose array legend this is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core import seasons
from bptt_core.context import ContextShape
from bptt_core.running import Floats
from bptt_core.seasons import Seasonal, SeasonShape
from bptt_core.slab import Field

INPUT_LIMIT: Final = 10.0  # inputs and targets scaled online lie in ± this
FIXED_LIMIT: Final = 1e6  # … scaled by given numbers in ± this


@dataclass(frozen=True)
class ScalingShape:
    """What sessions of one slab have in common here."""

    features: int
    symbols: tuple[int, ...]  # of each feature: how many there are, 0 if it is numeric
    targets: tuple[int, ...]  # positions of the predicted features; none with labels
    labels: int
    horizon: int
    anchors: tuple[str, ...]  # what residuals are taken to; the learners' are among them
    fixed: bool  # scaled by given means and deviations
    numeric: bool  # False: what is predicted are codes or probabilities
    slots: int  # rows of the rings: the horizon, or with labels the oldest age of a late one + 1
    seasons: SeasonShape | None = None  # None: learners see neither seasons nor calendar

    @property
    def ahead(self) -> int:
        """How many events after the one it is made at the first predicted value lies; 0 with labels."""
        return 0 if self.labels else 1

    @property
    def outputs(self) -> int:
        """O."""
        return self.labels or len(self.targets)

    @property
    def differences(self) -> bool:
        """Whether a learner sees first differences: it does if it forecasts a change, from the last value on."""
        return "last_value" in self.anchors and not self.fixed

    @property
    def inputs(self) -> int:
        """Width of a learner's input: blocks of level, difference and missing flag of the numeric features (fixed: the
        level alone), then what tells of seasons and calendar, then the symbols of the categorical ones."""
        blocks = 1 if self.fixed else 3 if self.differences else 2
        return blocks * len(self.numbers) + self.context + sum(self.symbols)

    @cached_property
    def context(self) -> int:
        """Inputs that tell of seasons and calendar."""
        return 0 if self.seasons is None else self.context_shape.width

    @property
    def told(self) -> int:
        """C, numbers that tell of one target."""
        return 0 if self.seasons is None else self.context_shape.per_target

    @cached_property
    def context_shape(self) -> ContextShape:
        """What seasons and calendar are told by."""
        return ContextShape(self.horizon, self.outputs, 3 * len(self.numbers) + sum(self.symbols))

    @property
    def limit(self) -> float:
        """Scaled targets lie in ± this; codes are as they are."""
        return math.inf if not self.numeric else FIXED_LIMIT if self.fixed else INPUT_LIMIT

    @cached_property
    def numbers(self) -> list[int]:
        """Positions of the numeric features."""
        return [k for k, count in enumerate(self.symbols) if count == 0]

    @cached_property
    def places(self) -> list[int]:
        """Position of each target among the numeric features."""
        return [self.numbers.index(target) for target in self.targets]

    @cached_property
    def one_hot(self) -> tuple[list[int], Floats]:
        """For each input that stands for a symbol the feature and the code it is 1 for."""
        pairs = [(k, code) for k, count in enumerate(self.symbols) for code in range(count)]
        return [k for k, _ in pairs], np.array([code for _, code in pairs], np.float64)

    @cached_property
    def back(self) -> NDArray[np.int64]:
        """[H]: the horizons, 1..H."""
        return np.arange(1, self.horizon + 1)


class Scaled(NamedTuple):
    """One step after scaling. Where symbols are predicted anchors are 0 and scales 1."""

    inputs: Floats  # [B, inputs]
    observed: Floats  # [B, O] values of the targets or labels, NaN: missing
    residual: Floats  # [B, H, A, O] (value − anchor) of the pairs that end here, original units; NaN: no such pair
    residual_scale: Floats  # [B, H, A, O] the scale known when the pair was made; NaN: none yet
    anchor: Floats  # [B, H, A, O] for the forecasts made here; NaN: nothing seen yet to take it from
    scale: Floats  # [B, H, A, O] for the forecasts made here; NaN: none yet
    last: Floats  # [B, O] last value known when the forecasts were made; NaN: never one
    level: Floats  # [B, O] running mean of what is predicted
    deviation: Floats  # [B, O] … and how far values usually are from it
    seasonal: Seasonal | None
    context: Floats  # [B, O, C] what seasons and calendar say of each target; C = 0 without them


def fields(shape: ScalingShape) -> list[Field]:
    """State of one session."""
    N, L, O, H, A = len(shape.numbers), shape.labels, shape.outputs, shape.horizon, len(shape.anchors)
    state = [Field("last_value", (N,), np.float64, np.nan)]
    if shape.fixed:
        state += [Field(name, (shape.features + L,), np.float64) for name in ("given_mean", "given_deviation")]
    else:
        state += _level_fields("level", N)
    if shape.differences:
        state += [
            Field("difference_count", (N,), np.int64),
            Field("difference_square", (N,), np.float64),
            Field("difference_recent", (N,), np.float64),
            Field("difference_from", (N,), np.float64, np.nan),  # NaN: nothing to form a difference from
        ]
    if not shape.numeric:
        return [*state, Field("steps_since_break", (), np.int64)]
    state += [
        Field("label_events" if L else "steps", (), np.int64),
        Field("anchor_ring", (shape.slots, H, A, O), np.float64, np.nan),
    ]
    if L:
        state += [Field("last_label", (L,), np.float64, np.nan)]
    if L and not shape.fixed:
        state += _level_fields("label", L)
    if not shape.fixed:
        state += [
            Field("residual_count", (H, A, O), np.int64),
            Field("residual_square", (H, A, O), np.float64),
            Field("residual_recent", (H, A, O), np.float64),
            Field("scale_ring", (shape.slots, H, A, O), np.float64, np.nan),
        ]
    if shape.seasons is not None:
        state += seasons.fields(shape.seasons)
    return state


def _level_fields(name: str, width: int) -> list[Field]:
    return [
        Field(f"{name}_count", (width,), np.int64),
        Field(f"{name}_mean", (width,), np.float64),
        Field(f"{name}_square", (width,), np.float64),
    ]
