"""What seasons and calendar tell a learner: how far a target is from where it was one season ago, and what followed.

For each of the two season slots and each target: the newest value less the one a season ago, in units of the usual
size of that difference; and, for up to three horizons, what the value a season ago was followed by, less that value,
in units of the usual change until then. An empty slot tells nothing: its inputs are 0, so that a learner's shape
never changes. The calendar adds time of day and of week as sine and cosine. Nothing here is remembered from step to
step.

Array legend: B sessions, O targets, H horizons, A anchors, C numbers that tell of one target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from bptt_core.running import Floats
from bptt_core.seasons import SLOTS, Seasonal

MOST_INPUTS: Final = 64  # of a learner, unless it has more without what is told here
CALENDAR: Final = 4
LIMIT: Final = 10.0


@dataclass(frozen=True)
class ContextShape:
    """What sessions of one slab have in common here."""

    horizon: int
    targets: int
    others: int  # inputs of a learner that tell of something else

    @cached_property
    def followed(self) -> tuple[int, ...]:
        """Horizons for which it is told what followed, the most important first."""
        return tuple(dict.fromkeys((self.horizon, 1, (1 + self.horizon) // 2)))

    @property
    def per_target(self) -> int:
        """C: the calendar is told with every target."""
        return SLOTS * (1 + len(self.followed)) + CALENDAR

    @cached_property
    def blocks(self) -> int:
        """How many of the numbers of each target a learner sees, in their order: as many as there is room for."""
        room = MOST_INPUTS - self.others - CALENDAR
        return min(max(0, room // self.targets), self.per_target - CALENDAR)

    @property
    def width(self) -> int:
        """Inputs of a learner that come from here."""
        return self.blocks * self.targets + CALENDAR


def of_targets(shape: ContextShape, last: Floats, seasonal: Seasonal, scale: Floats, calendar: Floats) -> Floats:
    """What is told of each target, [B, O, C]: differences by slot, what followed by horizon and slot, the calendar.

    `last` [B, O] are the newest values known, `scale` [B, H, A, O] the units of residuals to the anchors: the last
    value first, then one season ago for each slot. `calendar` is [B, 4].
    """
    B, O = last.shape
    told = np.zeros((B, O, shape.per_target))
    for slot in range(SLOTS):
        filled = seasonal.period[:, slot, None] > 0
        ago = seasonal.ago[:, slot]
        told[..., slot] = np.where(filled, (last - ago) / scale[:, 0, 1 + slot], 0)
        for k, h in enumerate(shape.followed):
            change = (seasonal.naive[:, slot, h - 1] - ago) / scale[:, h - 1, 0]
            told[..., SLOTS * (1 + k) + slot] = np.where(filled, change, 0)
    told[np.isnan(told)] = 0
    np.minimum(np.maximum(told, -LIMIT, out=told), LIMIT, out=told)
    told[..., -CALENDAR:] = calendar[:, None]
    return told


def inputs(shape: ContextShape, told: Floats) -> Floats:
    """The inputs [B, width] of a learner, block by block. What comes of many targets enters weaker, so that together
    they drive a unit as one would."""
    blocks = told[..., : shape.blocks].transpose(0, 2, 1) / math.sqrt(shape.targets)
    return np.concatenate([blocks.reshape(len(told), -1), told[:, 0, -CALENDAR:]], axis=1)
