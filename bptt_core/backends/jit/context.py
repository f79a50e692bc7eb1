"""What seasons and calendar tell a learner, in compiled code: `bptt_core/context.py` for one session and one step.

Array legend: O targets, H horizons, A anchors, C numbers that tell of one target.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.memory import exact, f32, f64, f64_2, f64_3, i64
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.running import limited
from bptt_core.context import CALENDAR, LIMIT, ContextShape
from bptt_core.seasons import SLOTS

# `followed` horizons are told of, whose table is `horizons`; a learner sees the first `blocks` of what is told.
NAMES: Final = ("blocks", "followed", "horizons")


def fill(plan: Plan, shape: ContextShape) -> None:
    """Sets the members of a plan."""
    plan.set(blocks=shape.blocks, followed=len(shape.followed))
    plan.keep(horizons=np.array(shape.followed, np.int64))


@exact
def context_told(plan: Any, step: int, ago: int) -> None:
    """Writes what is told of each target, given `ago` [SLOTS, O]; the calendar is there already, of the first one."""
    H, A, O, F = plan.H, plan.A, plan.O, plan.followed
    told = f64_2(step + plan.to_context, O, SLOTS * (1 + F) + CALENDAR)
    scale, naive = f64_3(step + plan.to_scale, H, A, O), f64_3(step + plan.to_naive, SLOTS, H, O)
    last, before, horizons = f64(step + plan.to_last, O), f64_2(ago, SLOTS, O), i64(plan.horizons, F)
    period = i64(step + plan.to_period, SLOTS)
    for slot in range(SLOTS):
        filled = period[slot] > 0
        for o in range(O):
            told[o, slot] = _told(filled, last[o] - before[slot, o], scale[0, 1 + slot, o])
            for k in range(F):
                h = horizons[k] - 1
                change = naive[slot, h, o] - before[slot, o]
                told[o, SLOTS * (1 + k) + slot] = _told(filled, change, scale[h, 0, o])
    for o in range(1, O):
        for k in range(SLOTS * (1 + F), SLOTS * (1 + F) + CALENDAR):
            told[o, k] = told[0, k]


@exact
def _told(filled: bool, change: float, unit: float) -> float:
    """A change in its unit; 0 where there is no season, or it cannot be told."""
    ratio = change / unit
    return limited(ratio, LIMIT) if filled and ratio == ratio else 0.0


@exact
def context_inputs(plan: Any, step: int, inputs: int) -> None:
    """Writes the inputs of the learners, block by block, from what was told."""
    O, C, blocks = plan.O, SLOTS * (1 + plan.followed) + CALENDAR, plan.blocks
    told, seen = f64_2(step + plan.to_context, O, C), f32(inputs, blocks * O + CALENDAR)
    weaker = math.sqrt(O)
    for block in range(blocks):
        for o in range(O):
            seen[block * O + o] = told[o, block] / weaker
    for k in range(CALENDAR):
        seen[blocks * O + k] = told[0, C - CALENDAR + k]
