"""What a learner's outputs stand for, for one session in compiled code: `bptt_core/outputs.py`, number for number.

Knows nothing of where they come from. Array legend: H horizons, O targets, P = H · O pairs, target by target within a
horizon, R outputs per pair, Q quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.memory import exact, f32_2, f64, f64_2, f64_3
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.running import limited
from bptt_core.forecasts import ForecastShape
from bptt_core.heads import LOG_VARIANCE_LIMIT
from bptt_core.outputs import CLAMP
from bptt_core.scales import INPUT_LIMIT

_TAKEN: Final = ("ys", "anchor", "scale", "last", "distribution")
NAMES: Final = (
    "H", "O", "A", "position", "per_pair", "quantiles", "central", "gaussian", "clamp", "sigmas",
    *(f"to_{name}" for name in _TAKEN),
)  # fmt: skip


def fill(plan: Plan, shape: ForecastShape, _at: Mapping[str, int], to: Mapping[str, int]) -> None:
    """What this module needs to know of a shape. `A` is not told by one."""
    gaussian, levels = shape.loss == "gaussian", np.array(shape.quantiles)
    plan.set(
        H=shape.horizon,
        O=shape.targets,
        position=shape.anchor,
        per_pair=shape.per_pair,
        quantiles=len(levels),
        central=0 if gaussian or not len(levels) else int(np.abs(levels - 0.5).argmin()),
        gaussian=int(gaussian),
        clamp=int(shape.clamp),
    )
    plan.set(**{f"to_{name}": to[name] for name in _TAKEN})
    plan.keep(sigmas=np.array([NormalDist().inv_cdf(level) for level in shape.quantiles]))


@exact
def outputs_of(plan: Any, step: int, mean: int, spread: int) -> None:
    """What a single learner's outputs stand for: writes their `mean` [P], to the row of the step their distribution
    [P, Q], and the unit `spread` [P] that errors are measured in, unless that is 0.

    If one of a pair's outputs is not finite, or the central one is beyond belief as in `mean_of`, persistence stands
    for all that is served of the pair.
    """
    H, O, A, R, Q = plan.H, plan.O, plan.A, plan.per_pair, plan.quantiles
    anchors, scales = f64_3(step + plan.to_anchor, H, A, O), f64_3(step + plan.to_scale, H, A, O)
    last, means, spreads = f64(step + plan.to_last, O), f64(mean, H * O), f64(spread, H * O)
    ys, sigmas = f32_2(step + plan.to_ys, H * O, R), f64(plan.sigmas, Q)
    distribution = f64_2(step + plan.to_distribution, H * O, Q)
    clamp, gaussian, told = plan.clamp != 0, plan.gaussian != 0, spread != 0
    for h in range(H):
        for o in range(O):
            p, anchor, scale = h * O + o, anchors[h, plan.position, o], scales[h, plan.position, o]
            central = _central(ys[p], distribution[p], plan.central, gaussian)
            if clamp and not abs(central) <= INPUT_LIMIT:
                central = np.nan
            means[p] = mean_of(clamp, central, anchor, scale, last[o])
            unit, start = scale, anchor
            if gaussian:
                unit, start = math.exp(0.5 * limited(np.float64(ys[p, 1]), LOG_VARIANCE_LIMIT)) * scale, means[p]
            if told:
                spreads[p] = unit
            for q in range(Q):
                output = sigmas[q] if gaussian else limited(distribution[p, q], INPUT_LIMIT if clamp else np.inf)
                offset = output * unit
                distribution[p, q] = start + (offset if offset == offset else 0.0)
                if central != central:
                    distribution[p, q] = means[p]


@exact
def _central(outputs: Any, ranked: Any, central: int, gaussian: bool) -> Any:
    """The central one of a pair's outputs [R], which are ranked [Q] unless Gaussian; NaN if one is not finite."""
    for r in range(len(outputs)):
        if not np.isfinite(outputs[r]):
            return np.nan
    if gaussian or len(ranked) == 0:
        return np.float64(outputs[0])
    for r in range(len(ranked)):
        place = r
        while place > 0 and ranked[place - 1] > outputs[r]:
            ranked[place] = ranked[place - 1]
            place -= 1
        ranked[place] = outputs[r]
    return ranked[central]


@exact
def mean_of(clamp: bool, output: float, anchor: float, scale: float, last: float) -> float:
    """Anchor + scale · output, within CLAMP scales; the anchor while there is no scale; persistence if the output is
    not finite, or beyond what any target it was trained on can have been."""
    if not np.isfinite(output) or (clamp and abs(output) > INPUT_LIMIT):
        return last
    offset = (limited(output, CLAMP) if clamp else output) * scale
    return anchor + (offset if offset == offset else 0.0)
