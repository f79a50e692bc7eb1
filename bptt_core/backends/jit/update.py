"""One update of one learner in compiled code: forward, loss, backward, clip, optimiser, and what the guard makes of it.

This is `_update` of `bptt_core/tbptt.py` with what that calls; the order of its steps is the reference's. `device` and
`host` are the addresses of the learner's rows, `scratch` a block of `learner.scratch_fields`, `report` float32 columns
of `lessons.py`. Array legend as in `bptt_core/learner.py`.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from bptt_core import health
from bptt_core.backends.jit.clipping import clip
from bptt_core.backends.jit.guard import fail, judge, take_back
from bptt_core.backends.jit.heads import masked_loss, naive_loss
from bptt_core.backends.jit.memory import exact, f32, f64, i8, i64
from bptt_core.backends.jit.network import net_backward, net_carry, net_forward, net_hs, net_saturated
from bptt_core.backends.jit.optimizers import apply, norm_square
from bptt_core.backends.jit.products import copy, fill_zeros
from bptt_core.backends.jit.readout import read_out_backward, read_outs
from bptt_core.backends.jit.window import mark_active, pass_rows
from bptt_core.events import UpdateResult
from bptt_core.learner_config import SCHEDULES
from bptt_core.lessons import BY_LAG, CLIP_SCALE, GRADIENT_NORM, LOSS, RESET, RESULT, SATURATION, UPDATE_RATIO

NOT_DUE: Final = int(UpdateResult.NOT_DUE)
APPLIED: Final = int(UpdateResult.APPLIED)
NO_TARGET: Final = int(UpdateResult.NO_TARGET)
NON_FINITE: Final = int(UpdateResult.NON_FINITE)
LEARNING_OFF: Final = int(UpdateResult.LEARNING_OFF)

_CONSTANT, _INVERSE_SQRT, _INVERSE = range(len(SCHEDULES))
_EVERY: Final = health.EVERY


@exact
def blank(plan: Any, report: int) -> None:
    """The report of a step without an update."""
    columns = f32(report, plan.report_width)
    for k in range(plan.report_width):
        columns[k] = np.float32(np.nan)
    columns[RESULT], columns[RESET] = np.float32(NOT_DUE), np.float32(0)


@exact
def update(plan: Any, device: int, host: int, span: int, scratch: int, report: int) -> int:
    """An update that is due, by the pairs that arrived in the last `span` events; fills the blank `report` and returns
    the result."""
    result = LEARNING_OFF
    if i8(host + plan.learning, 1)[0] == 1:
        result = NO_TARGET
        count, first, newest = mark_active(plan, device, host, span, scratch + plan.s_active)
        if count > 0:
            result = _train(plan, device, host, count, first, newest, scratch, report)
    f32(report, plan.report_width)[RESULT] = np.float32(result)
    return result


@exact
def _train(plan: Any, device: int, host: int, count: int, first: int, newest: int, scratch: int, report: int) -> int:
    """One step of the optimiser by the `count` active pairs of rows `first` … `newest`. Where loss or norm are not
    finite nothing changes, unless that happens again and again."""
    told = f32(report, plan.report_width)
    loss, naive = _forward(plan, device, host, count, first, newest, scratch)
    saturation = net_saturated(plan, scratch, i64(host + plan.length, 1)[0])  # before the tape's gates are used up
    steps = i64(host + plan.optimizer_steps, 1)
    measured = (steps[0] + 1) % _EVERY == 0
    if measured:
        _measure_lags(plan, device, first, newest, scratch)
    norm = _backward(plan, device, host, first, newest, scratch)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        i64(host + plan.non_finite, 1)[0] += 1
        if plan.guarded:
            told[RESET] = np.float32(fail(plan, device, host))
        return NON_FINITE
    scale, ratio = _take_step(plan, device, host, norm, scratch)
    i64(host + plan.applied, 1)[0] += 1
    i64(host + plan.clipped, 1)[0] += scale < 1.0
    told[LOSS], told[GRADIENT_NORM], told[CLIP_SCALE] = np.float32(loss), np.float32(norm), np.float32(scale)
    told[SATURATION], told[UPDATE_RATIO] = np.float32(saturation), np.float32(ratio)
    if measured:
        copy(report + 4 * BY_LAG, scratch + plan.s_lags, plan.lag_count)
    reset = 0
    if plan.guarded:
        reset = take_back(plan, device, host, scratch + plan.s_before, ratio)
    _move_on(plan, device, host, scratch)
    if plan.guarded:
        reset = max(reset, judge(plan, device, host, loss, naive))
    told[RESET] = np.float32(reset)
    return APPLIED


@exact
def _forward(
    plan: Any, device: int, host: int, count: int, first: int, newest: int, scratch: int
) -> tuple[float, float]:
    """Forward over the whole window; the loss of the active pairs, its slopes in scratch, and the naive loss, both as
    float32 numbers."""
    length, H, K, N = i64(host + plan.length, 1)[0], plan.H, plan.K, plan.N
    params, rows = device + plan.params, newest - first + 1
    net_forward(plan, params, device + plan.inputs, device + plan.boundary, length, scratch)
    ys, dys = scratch + plan.s_ys, scratch + plan.s_dys
    wo = params + 4 * plan.readout
    read_outs(net_hs(plan, scratch) + 4 * H * (first + 1), wo, wo + 4 * H * K, rows, H, K, ys)
    parameter = f64(host + plan.loss_parameter, 1)[0]
    targets, active = device + plan.targets + 4 * N * first, scratch + plan.s_active + N * first
    loss = masked_loss(plan, parameter, ys, targets, active, rows, count, dys)
    naive = loss
    if plan.guarded:
        naive = naive_loss(plan, parameter, targets, active, rows, count, scratch + plan.s_pair)
    return np.float64(np.float32(loss)), np.float64(np.float32(naive))


@exact
def _backward(plan: Any, device: int, host: int, first: int, newest: int, scratch: int) -> float:
    """The gradient by all parameters, in scratch; returns its norm."""
    H, K, reached = plan.H, plan.K, i64(host + plan.length, 1)[0] - plan.ahead
    params, grad, dhs = device + plan.params, scratch + plan.s_grad, scratch + plan.s_dhs
    fill_zeros(dhs, H * first)
    fill_zeros(dhs + 4 * H * (newest + 1), H * (reached - newest - 1))
    readout, hs = 4 * plan.readout, net_hs(plan, scratch) + 4 * H * (first + 1)
    dwo, there = grad + readout, dhs + 4 * H * first
    read_out_backward(scratch + plan.s_dys, hs, params + readout, dwo, dwo + 4 * H * K, there, newest - first + 1, H, K)
    net_backward(plan, params, device + plan.inputs, dhs, reached, grad, scratch, 0)
    return math.sqrt(norm_square(grad, plan.P))


@exact
def _measure_lags(plan: Any, device: int, first: int, newest: int, scratch: int) -> None:
    """Norms of the gradient of the loss of row `newest` alone by what lies before it, as `health.norm_by_lag`."""
    H, K, T, measured = plan.H, plan.K, newest + 1, f32(scratch + plan.s_lags, plan.lag_count)
    params, dhs, trail = device + plan.params, scratch + plan.s_dhs, scratch + plan.s_trail
    lags = i64(plan.lags, plan.lag_count)
    fill_zeros(dhs, H * newest)
    dh, slope, row = dhs + 4 * H * newest, scratch + plan.s_dys + 4 * K * (newest - first), 4 * plan.readout
    hs = net_hs(plan, scratch) + 4 * H * T
    read_out_backward(slope, hs, params + row, 0, 0, dh, 1, H, K)
    net_backward(plan, params, device + plan.inputs, dhs, T, 0, scratch, trail)
    measured[0] = np.float32(math.sqrt(norm_square(dh, H)))
    for k in range(1, plan.lag_count):
        entered = newest - lags[k] + 1
        measured[k] = np.float32(np.nan)
        if entered >= 0:
            measured[k] = np.float32(math.sqrt(norm_square(trail + 4 * plan.carried * entered, plan.carried)))


@exact
def _take_step(plan: Any, device: int, host: int, norm: float, scratch: int) -> tuple[float, float]:
    """Clips the gradient and takes one step of the optimiser; returns the clip's scale and the update ratio."""
    grad, params, P = scratch + plan.s_grad, device + plan.params, plan.P
    factor, scale = clip(plan, host, grad, norm, scratch)
    steps = i64(host + plan.optimizer_steps, 1)
    steps[0] += 1
    change, size = apply(
        plan.optimizer,
        params,
        grad,
        device + plan.moment0,
        device + plan.moment1,
        P,
        factor,
        _scheduled_rate(plan, host, steps[0]),
        f64(host + plan.beta1, 1)[0],
        f64(host + plan.beta2, 1)[0],
        f64(host + plan.weight_decay, 1)[0],
        steps[0],
        scratch + plan.s_before if plan.guarded else 0,
    )
    return scale, np.float64(np.float32(math.sqrt(change / size))) if size != 0.0 else 0.0


@exact
def _scheduled_rate(plan: Any, host: int, steps: int) -> float:
    """The rate of update number `steps`, as `optimizers.scheduled_rate`, times the factor of the guard."""
    rate: float = f64(host + plan.learning_rate, 1)[0] * f64(host + plan.rate_factor, 1)[0]
    if plan.schedule != _CONSTANT:
        slowed = 1.0 + (steps - 1) / f64(host + plan.decay_updates, 1)[0]
        if plan.schedule == _INVERSE_SQRT:
            slowed = math.sqrt(slowed)
        rate *= max(f64(host + plan.rate_floor, 1)[0], 1.0 / slowed)
    warmup = f64(host + plan.warmup_updates, 1)[0]
    if warmup != 0.0:
        rate *= min(1.0, steps / max(warmup, 1.0))
    return rate


@exact
def _move_on(plan: Any, device: int, host: int, scratch: int) -> None:
    """Carry and boundary carry move along the update's forward; rows that the next will not reach are given up."""
    length = i64(host + plan.length, 1)[0]
    net_carry(plan, scratch, length, device + plan.carry)
    passed = max(0, length + plan.stride - plan.W)
    if passed > 0:
        net_carry(plan, scratch, passed, device + plan.boundary)
        pass_rows(plan, device, host, passed)
