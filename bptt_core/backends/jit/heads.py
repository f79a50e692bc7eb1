"""The losses of `bptt_core/heads.py` for the pairs of one learner, in compiled code.

Outputs, targets and slopes are float32 as in the rows; a pair's loss and the mean over the active pairs are float64 and
rounded once, by the caller. Knows nothing of windows: which pairs are active is said by a mask. Array legend as in
`heads.py`; rows are steps, each with N pairs of R outputs.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from bptt_core import heads
from bptt_core.backends.jit.memory import exact, f32, f64, i8
from bptt_core.backends.jit.plan import Plan
from bptt_core.learner import LearnerShape

NAMES: Final[tuple[str, ...]] = ("loss", "R", "levels")

_CODES: Final = {name: code for code, name in enumerate(heads.LOSSES)}
_SQUARED, _ABSOLUTE = _CODES["squared"], _CODES["absolute"]
_HUBER, _STUDENT_T = _CODES["huber"], _CODES["student_t"]
_PINBALL, _GAUSSIAN = _CODES["pinball"], _CODES["gaussian"]
_SOFTMAX = _CODES["softmax"]
_LIMIT: Final = heads.LOG_VARIANCE_LIMIT


def fill(plan: Plan, shape: LearnerShape) -> None:
    """Sets the members `NAMES`."""
    plan.set(loss=_CODES[shape.loss], R=shape.per_pair)
    plan.keep(levels=np.array(shape.quantiles or (0.5,), np.float64))


@exact
def masked_loss(
    plan: Any, parameter: float, ys: int, targets: int, active: int, rows: int, count: int, dys: int
) -> float:
    """The mean loss over the `count` active pairs of `rows` rows; writes its slopes by all outputs into `dys`.

    `ys` and `dys` are float32 [rows, K], `targets` [rows, N] and the mask `active` int8 [rows, N].
    """
    R, pairs = plan.R, rows * plan.N
    of_pair, values, slopes = i8(active, pairs), f32(targets, pairs), f32(dys, pairs * R)
    total = 0.0
    for n in range(pairs):
        if of_pair[n]:
            total += _pair(plan, parameter, ys + 4 * R * n, values[n], dys + 4 * R * n)
            for r in range(R * n, R * n + R):
                slopes[r] = np.float32(slopes[r] / np.float64(count))
        else:
            for r in range(R * n, R * n + R):
                slopes[r] = np.float32(0)
    return total / count


@exact
def naive_loss(plan: Any, parameter: float, targets: int, active: int, rows: int, count: int, scratch: int) -> float:
    """The mean loss that outputs of 0 would have on the same pairs; `scratch` holds 2 · R float32."""
    R, pairs = plan.R, rows * plan.N
    of_pair, values, zeros = i8(active, pairs), f32(targets, pairs), f32(scratch, R)
    for r in range(R):
        zeros[r] = np.float32(0)
    total = 0.0
    for n in range(pairs):
        if of_pair[n]:
            total += _pair(plan, parameter, scratch, values[n], scratch + 4 * R)
    return total / count


@exact
def _pair(plan: Any, parameter: float, y: int, target: float, slope: int) -> float:
    """The loss of one pair of outputs `y` [R]; writes its slopes [R]."""
    code, R = plan.loss, plan.R
    if code == _SOFTMAX:
        return _softmax(f32(y, R), target, f32(slope, R))
    if code == _PINBALL:
        return _pinball(f32(y, R), target, f64(plan.levels, R), f32(slope, R))
    outputs, slopes = f32(y, 2), f32(slope, 2)
    if code == _GAUSSIAN:
        return _gaussian(outputs, target, slopes)
    output = np.float64(outputs[0])
    error = output - target
    if code == _SQUARED:
        slopes[0] = np.float32(2.0 * error)
        return error * error
    if code == _ABSOLUTE:
        slopes[0] = np.float32(1.0 if error > 0.0 else (-1.0 if error < 0.0 else error))
        return abs(error)
    if code == _HUBER:
        size = abs(error)
        within = parameter if error > parameter else (-parameter if error < -parameter else error)
        slopes[0] = np.float32(within)
        return 0.5 * error * error if size <= parameter else parameter * (size - 0.5 * parameter)
    if code == _STUDENT_T:
        square = error * error
        slopes[0] = np.float32((parameter + 1.0) * error / (parameter + square))
        return 0.5 * (parameter + 1.0) * math.log1p(square / parameter)
    slopes[0] = np.float32(0.5 * math.tanh(0.5 * output) + 0.5 - target)
    softplus = (0.0 if output < 0.0 else output) + math.log1p(math.exp(-abs(output)))
    return softplus - target * output


@exact
def _gaussian(outputs: Any, target: float, slopes: Any) -> float:
    error, raw = np.float64(outputs[0]) - target, np.float64(outputs[1])
    s = _LIMIT if raw > _LIMIT else (-_LIMIT if raw < -_LIMIT else raw)
    scaled = error * math.exp(-s)
    slope = 0.5 * (1.0 - error * scaled)
    outwards = (raw >= _LIMIT and slope < 0.0) or (raw <= -_LIMIT and slope > 0.0)
    slopes[0], slopes[1] = np.float32(scaled), np.float32(0.0 if outwards else slope)
    return 0.5 * (s + error * scaled)


@exact
def _pinball(outputs: Any, target: float, levels: Any, slopes: Any) -> float:
    R, total = len(outputs), 0.0
    for r in range(R):
        level, d = levels[r], target - np.float64(outputs[r])
        slope = -level if d > 0.0 else (1.0 - level if d < 0.0 else 0.0)
        slopes[r] = np.float32(slope / R)
        above, below = level * d, (level - 1.0) * d
        total += above if above > below else below
    return total / R


@exact
def _softmax(outputs: Any, target: float, slopes: Any) -> float:
    R = len(outputs)
    largest = np.float64(outputs[0])
    for r in range(R):
        if outputs[r] > largest:
            largest = np.float64(outputs[r])
    total, of_target = 0.0, 0.0
    for r in range(R):
        shifted = np.float64(outputs[r]) - largest
        weight = math.exp(shifted)
        slopes[r] = np.float32(weight)
        total += weight
        if r == target:
            of_target = shifted
    for r in range(R):
        slopes[r] = np.float32(slopes[r] / total - (1.0 if r == target else 0.0))
    return math.log(total) - of_target
