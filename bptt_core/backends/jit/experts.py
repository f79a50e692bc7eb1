"""The experts of a portfolio for one session in compiled code: `bptt_core/experts.py`, number for number.

Who is to be believed is none of this module's business. Array legend: H horizons, O targets, A anchors, M learners, K
experts: the learners first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.autoregression import PAST, linear_change_season, linear_clear, linear_step
from bptt_core.backends.jit.memory import exact, f32_2, f64, f64_2, f64_3, i8, i64
from bptt_core.backends.jit.outputs import mean_of
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.running import fmax, fmin, maximum, minimum
from bptt_core.experts import RECENT
from bptt_core.forecasts import ForecastShape
from bptt_core.outputs import CLAMP
from bptt_core.scaling import FLOOR, TINY
from bptt_core.seasons import SLOTS
from bptt_core.slab import Field

_TAKEN: Final = (
    "observed", "last", "level", "deviation", "anchor", "scale", "context", "ys", "changed", "period", "naive",
)  # fmt: skip
_SCRATCH: Final = ("experts_level", "experts_linear")
NAMES: Final = (
    "H",
    "O",
    "A",
    "K",
    "learners",
    "learner_anchors",
    "clamp",
    "seasonal",
    *_SCRATCH,
    *(f"to_{n}" for n in _TAKEN),
)


def fill(plan: Plan, shape: ForecastShape, _at: Mapping[str, int], to: Mapping[str, int]) -> None:
    """What this module needs to know of a shape. `A` is not told by one."""
    plan.set(H=shape.horizon, O=shape.targets, K=0, clamp=int(shape.clamp), seasonal=int(shape.seasonal))
    plan.set(**{f"to_{name}": to[name] for name in _TAKEN})
    if shape.portfolio is not None:
        anchors = shape.portfolio.anchors
        plan.set(K=len(shape.portfolio.names), learners=len(anchors))
        plan.keep(learner_anchors=np.array(anchors, np.int64))


def scratch_fields(shape: ForecastShape) -> list[Field]:
    """What a step needs besides the state."""
    pairs = (shape.horizon, shape.targets)
    return [Field("experts_level", (shape.targets,), np.float64), Field("experts_linear", pairs, np.float64)]


@exact
def experts_step(plan: Any, row: int, step: int, forecasts: int, scratch: int) -> None:
    """Writes the forecasts [H, O, K] made at this step, in place on the session's row; NaN only for targets without any
    value yet."""
    _learners(plan, step, forecasts)
    _levels(plan, step, scratch)
    H, O, A, K, M = plan.H, plan.O, plan.A, plan.K, plan.learners
    changed = i8(step + plan.to_changed, SLOTS)
    for s in range(SLOTS if plan.seasonal else 0):
        if changed[s]:
            linear_change_season(plan, row, s)
    linear_step(
        plan,
        row,
        step + plan.to_observed,
        step + plan.to_last,
        scratch + plan.experts_level,
        step + plan.to_scale,
        A * O,
        step + plan.to_context,
        step + plan.to_naive,
        step + plan.to_period,
        scratch + plan.experts_linear,
        scratch,
    )
    table, scale = f64_2(forecasts, H * O, K), f64_3(step + plan.to_scale, H, A, O)
    lasts, levels, past = (
        f64(step + plan.to_last, O),
        f64(step + plan.to_level, O),
        f64_2(row + plan.linear_past, O, PAST),
    )
    naive, linear = f64_2(step + plan.to_naive, SLOTS, H * O), f64(scratch + plan.experts_linear, H * O)
    for o in range(O):
        last, least, most = lasts[o], past[o, 0], past[o, 0]
        for k in range(1, RECENT):  # one spike must not keep the others from where the stream was before
            least, most = fmin(least, past[o, k]), fmax(most, past[o, k])
        for h in range(H):
            p, unit = h * O + o, scale[h, 0, o]
            reach = CLAMP * unit if unit == unit else 0.0
            low, high = least - reach, most + reach
            table[p, M] = minimum(maximum(last, low), high)
            if plan.seasonal:
                for s in range(SLOTS):
                    table[p, M + 1 + s] = minimum(maximum(naive[s, p], low), high)
            table[p, K - 2] = minimum(maximum(levels[o], low), high)
            table[p, K - 1] = minimum(maximum(linear[p], last - reach), last + reach)


@exact
def experts_clear(plan: Any, row: int) -> None:
    """The stream does not go on from the step before; in place."""
    linear_clear(plan, row)


@exact
def _learners(plan: Any, step: int, forecasts: int) -> None:
    """Writes what the learners forecast."""
    H, O, A, K, M = plan.H, plan.O, plan.A, plan.K, plan.learners
    table, ys, last = f64_2(forecasts, H * O, K), f32_2(step + plan.to_ys, M, H * O), f64(step + plan.to_last, O)
    anchor, scale = f64_3(step + plan.to_anchor, H, A, O), f64_3(step + plan.to_scale, H, A, O)
    anchors, clamp = i64(plan.learner_anchors, M), plan.clamp != 0
    for h in range(H):
        for o in range(O):
            p = h * O + o
            for m in range(M):
                a = anchors[m]
                table[p, m] = mean_of(clamp, np.float64(ys[m, p]), anchor[h, a, o], scale[h, a, o], last[o])


@exact
def _levels(plan: Any, step: int, scratch: int) -> None:
    """Leaves in scratch how far the last values are from their running mean, in deviations."""
    O = plan.O
    last, mean, deviation = f64(step + plan.to_last, O), f64(step + plan.to_level, O), f64(step + plan.to_deviation, O)
    level = f64(scratch + plan.experts_level, O)
    for o in range(O):
        level[o] = (last[o] - mean[o]) / (deviation[o] + fmax(FLOOR * abs(last[o]), TINY))
