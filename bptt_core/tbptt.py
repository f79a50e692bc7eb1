"""Truncated backpropagation through time for many learners of one shape, one step of their streams at a time.

TBPTT(k1, k2) after Williams & Peng (1990): every k1 events the network is run forward over its window from the boundary
carry, the loss of the pairs that have arrived is carried back at most k2 steps, and the optimiser takes one step. The
window holds the k2 steps the gradient may reach and the newest step, whose pairs lie in the future.

    step s:       oldest ─────────────── k2 steps ─────────────── newest
    boundary carry → [ row 0 | row 1 | … | row n−2 ] [ row n−1 ] → carry → forecast
                       └────── gradient ──────────┘

An update runs on rows 0..n−1 and then gives up the rows that the next update will not reach; the boundary carry moves
on along that same forward. Where no update runs, a full window gives up one row per step and the boundary carry
advances through it with the weights of today.

Where targets are labels of the step's own (ahead = 0) the newest row has its pair and is one of the k2 steps: the carry
advances, the outputs are read out, only then is the label looked at, and the gradient starts at row n−1.

Knows nothing of sensors: it takes scaled inputs and scaled targets and returns scaled outputs. Array legend as in
learner.py. Bookkeeping (lengths, counters) is NumPy on the host, everything else belongs to the backend's array module.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core import clipping, guard, health, network, window
from bptt_core.arrays import to_host
from bptt_core.cells import Array, Tape
from bptt_core.events import ResetReason, UpdateResult
from bptt_core.heads import masked_loss, readout, readout_backward, zero_loss
from bptt_core.health import lags
from bptt_core.learner import LearnerShape, device_fields, host_fields
from bptt_core.optimizers import MOMENTS, Settings, apply, scheduled_rate
from bptt_core.slab import Rows
from bptt_core.window import Part, active_pairs, active_rows, late_labels

__all__ = [
    "Gradient",
    "LearnerShape",
    "StepReport",
    "active_pairs",
    "active_rows",
    "begin_anew",
    "both",
    "device_fields",
    "host_fields",
    "lags",
    "late_labels",
    "loss_parameter",
    "step",
    "take_update",
    "to_host",
    "window_gradient",
]

APPLIED: Final = np.int8(UpdateResult.APPLIED)
_SKIPS: Final = {UpdateResult.NO_TARGET: "no_target", UpdateResult.LEARNING_OFF: "learning_off"}


class StepReport(NamedTuple):
    """What became of the update at this step, per learner: UpdateResult, and numbers that are NaN without one."""

    result: NDArray[np.int8]  # [B]
    loss: NDArray[np.float32]  # [B] mean over the active pairs
    gradient_norm: NDArray[np.float32]  # [B] before the clip
    clip_scale: NDArray[np.float32]  # [B] norm after the clip over norm before
    saturation: NDArray[np.float32]  # [B] share of saturated units in the update's forward
    update_ratio: NDArray[np.float32]  # [B] norm of the change of the parameters over theirs before
    norm_by_lag: NDArray[np.float32]  # [B, lags] at every 64th update of a learner, else NaN
    reset: NDArray[np.int8]  # [B] ResetReason, or 0


class Gradient(NamedTuple):
    """One forward and backward over a window."""

    loss: Array  # [B] mean over the active pairs
    rows: Array  # [B, P]
    dys: Array  # [rows, B, K] by the outputs of `active_rows`
    tapes: tuple[Tape, ...]
    naive_loss: Array  # [B] the loss that outputs of 0 have on the same pairs; of a guarded learner
    dcarry: Array  # [B, L·S, H] by the boundary carry
    dxs: Array | None  # [length − ahead, B, D] by the inputs, if asked for


def step(
    xp: Any, shape: LearnerShape, device: Rows, host: Rows, xs: Array, arrived: Array, event: NDArray[np.bool_]
) -> tuple[Array, StepReport]:
    """Takes one step of every learner's stream, in place on `device` and `host`; returns (ys [B, K], report).

    `xs` [B, D] is the newest scaled input. `arrived` [B, N] holds the scaled targets that became known with it, NaN for
    those that did not: column h·O + o belongs to the step h + ahead back. `event` [B] is False for the steps that fill
    a gap in time: they advance the window but are never followed by an update.
    """
    window.append(xp, shape, device, host, xs, event)
    if shape.ahead == 0:
        window.advance_carry(xp, shape, device, host, np.arange(len(event)), xs)
        ys = _read_out(xp, shape, device)
        window.arrive(xp, shape, device, host, arrived)
        return ys, _update_where_due(xp, shape, device, host, event)
    window.arrive(xp, shape, device, host, arrived)
    report = _update_where_due(xp, shape, device, host, event)
    updated = report.result == APPLIED
    if not updated.all():  # an update's forward has brought the carry to the newest step already
        window.advance_carry(xp, shape, device, host, np.flatnonzero(~updated), xs)
    return _read_out(xp, shape, device), report


def begin_anew(xp: Any, shape: LearnerShape, device: Rows, host: Rows, which: NDArray[np.bool_]) -> StepReport:
    """The streams of the learners in `which` [B] do not go on from the step before: what arrived since their last
    update, late labels included, is learned from now or never; then window and carries are forgotten. In place; reports
    the updates that came of it."""
    report = _blank_report(shape, len(which))
    for since in set(host["since_update"][which].tolist()):
        if since > 0 or shape.ahead == 0:
            last = which & (host["since_update"] == since)
            wide = _spanning(shape, since)
            report = both(report, _update(xp, wide, device, host, last, np.full(len(which), since)))
    report.result[~_tried(report)] = UpdateResult.NOT_DUE
    host["since_update"][which] = 0
    window.clear(xp, device, host, which)
    return report


@functools.lru_cache(maxsize=1024)
def _spanning(shape: LearnerShape, events: int) -> LearnerShape:
    """The shape of learners that may train what arrived in so many last events."""
    return replace(shape, loss_span=max(shape.loss_span, events))


def _tried(report: StepReport) -> NDArray[np.bool_]:
    """Which learners tried an update, [B]."""
    tried: NDArray[np.bool_] = (report.result == APPLIED) | (report.result == UpdateResult.NON_FINITE)
    return tried


def both(first: StepReport, second: StepReport) -> StepReport:
    """What is reported where two updates may fall on one event: the second if it was tried, or the first was not."""
    later = _tried(second) | ~_tried(first)
    columns: list[tuple[NDArray[Any], NDArray[Any]]] = list(zip(first, second, strict=True))
    chosen = StepReport(*(np.where(later if a.ndim == 1 else later[:, None], b, a) for a, b in columns))
    return chosen._replace(reset=np.maximum(first.reset, second.reset))


def window_gradient(
    xp: Any, shape: LearnerShape, device: Rows, length: int, active: Array, parameter: Array, inputs: bool = False
) -> Gradient:
    """Forward over rows 0..length−1 from the boundary carry, loss over the active pairs, backward. Changes nothing.

    `active` as from `active_pairs`, `parameter` [B, 1] of the loss; `inputs` asks for dL/dxs as well.
    """
    weights = shape.layout.split(device["params"])
    xs = device["inputs"][:, :length].transpose(1, 0, 2)
    tapes = network.forward(xp, shape.cell, weights.layers, xs, device["boundary"])
    rows = active_rows(shape, length)
    hs = tapes[-1].hs[1:][rows]
    ys = readout(xp, weights.wo, weights.bo, hs)
    targets = device["targets"][:, rows].transpose(1, 0, 2)
    loss, dys = masked_loss(xp, shape.loss, ys, targets, active, parameter, shape.quantiles)
    naive = zero_loss(xp, shape.loss, targets, active, parameter, shape.quantiles, ys) if shape.guard else loss
    gradient = xp.empty_like(device["params"])
    grad = shape.layout.split(gradient)
    reached = length - shape.ahead
    dhs = readout_backward(xp, weights.wo, hs, dys, grad.wo, grad.bo)  # the steps before have no pair to train
    before = network.head(tapes, reached)
    dcarry, dxs = network.backward(xp, shape.cell, weights.layers, before, dhs, grad.layers, inputs)
    return Gradient(loss, gradient, dys, tapes, naive, dcarry, dxs)


def take_update(
    xp: Any, shape: LearnerShape, rows: Rows, gradient: Array, norm: NDArray[np.float64], host: Rows, part: Part
) -> NDArray[np.float32]:
    """Clips `gradient` [B, P] of this finite `norm` and takes one step of the optimiser; returns the clip's scale [B].

    In place on `gradient`, the parameters and moments in `rows` and the counters in `host`, whose learners are `part`.
    """
    limit = host["clip_limit"][part]
    if shape.clip == "quantile":
        ring, count = host["norm_ring"][part], host["norm_count"][part]
        limit = clipping.quantile_limit(ring, count, limit)
        clipping.remember(ring, count, norm)
        host["norm_ring"][part], host["norm_count"][part] = ring, count
    scale = clipping.clip(xp, shape.clip, gradient, norm, limit)
    host["optimizer_steps"][part] += 1
    settings = _settings(shape, host, part)
    moments = [rows[f"moment{k}"] for k in range(MOMENTS[shape.optimizer])]
    apply(xp, shape.optimizer, rows["params"], gradient, moments, settings)
    return scale


def _settings(shape: LearnerShape, host: Rows, part: Part) -> Settings:
    """Of the update that `optimizer_steps` has just counted."""
    steps = host["optimizer_steps"][part]
    rate = scheduled_rate(
        shape.schedule,
        host["learning_rate"][part],
        host["warmup_updates"][part],
        host["decay_updates"][part],
        host["rate_floor"][part],
        steps,
    )
    return Settings(
        rate * host["rate_factor"][part], host["beta1"][part], host["beta2"][part], host["weight_decay"][part], steps
    )


def loss_parameter(xp: Any, host: Rows, part: Part, dtype: Any) -> Array:
    """Huber's δ or Student's ν of the learners in `part`, [B, 1]."""
    return xp.asarray(host["loss_parameter"][part].astype(dtype))[:, None]


def _read_out(xp: Any, shape: LearnerShape, device: Rows) -> Array:
    """Outputs [B, K] of the carry: of its top layer's hidden state, the first array of that layer."""
    wo, bo = shape.layout.readout(device["params"])
    top = shape.carries - shape.carries // shape.layers
    return readout(xp, wo, bo, device["carry"][None, :, top])[0]


def _update_where_due(xp: Any, shape: LearnerShape, device: Rows, host: Rows, event: NDArray[np.bool_]) -> StepReport:
    """An update of every learner whose k1-th event since the last this is, in place."""
    host["since_update"] += event
    due = event & (host["since_update"] >= shape.stride)
    host["since_update"][due] = 0
    report = _update(xp, shape, device, host, due, host["span"])
    for result, counter in _SKIPS.items():
        host[counter] += report.result == result
    return report


def _update(
    xp: Any, shape: LearnerShape, device: Rows, host: Rows, due: NDArray[np.bool_], span: NDArray[np.int64]
) -> StepReport:
    """An update of the learners in `due` [B], each by the pairs of its last `span` [B] events; in place."""
    report = _blank_report(shape, len(due))
    report.result[due] = UpdateResult.LEARNING_OFF
    ready = due & (host["learning"] == 1)
    report.result[ready] = UpdateResult.NO_TARGET
    lengths = host["length"].copy()
    for length in set(lengths[ready].tolist()):
        if length > shape.ahead:
            _train(xp, shape, device, host, length, np.flatnonzero(ready & (lengths == length)), span, report)
    return report


def _blank_report(shape: LearnerShape, learners: int) -> StepReport:
    result, numbers = np.empty(learners, np.int8), np.empty((5 + len(lags(shape.window)), learners), np.float32)
    result.fill(UpdateResult.NOT_DUE)
    numbers.fill(np.nan)
    loss, norm, scale, saturation, ratio = numbers[:5]
    return StepReport(result, loss, norm, scale, saturation, ratio, numbers[5:].T, np.zeros(learners, np.int8))


def _train(
    xp: Any,
    shape: LearnerShape,
    device: Rows,
    host: Rows,
    length: int,
    index: NDArray[np.int64],
    span: NDArray[np.int64],
    report: StepReport,
) -> None:
    """One optimiser step for the learners in `index`, whose windows all hold `length` rows; in place.

    Learners without an active pair, or with a non-finite loss or norm, are left as they are and the others start again:
    a learner's bits must not depend on such a neighbour.
    """
    if len(index) == 0:
        return
    part = window.part_of(host, index)
    rows = {name: array[part] for name, array in device.items()}
    age = window.label_age(shape, host, part, length)
    active = active_pairs(xp, shape, rows["targets"], length, age, span[part])
    has_pair = to_host(active.any(axis=(0, 2)))
    if not has_pair.all():
        return _train(xp, shape, device, host, length, index[has_pair], span, report)
    parameter = loss_parameter(xp, host, part, rows["params"].dtype)
    gradient = window_gradient(xp, shape, rows, length, active, parameter)
    loss, norm = to_host(gradient.loss), to_host(clipping.global_norm(xp, gradient.rows))
    finite = np.isfinite(loss) & np.isfinite(norm)
    if not finite.all():
        _refuse(xp, shape, device, host, index[~finite], report)
        return _train(xp, shape, device, host, length, index[finite], span, report)
    _measure_lags(xp, shape, rows["params"], gradient, active, length, host["optimizer_steps"][part], index, report)
    before = rows["params"].copy()
    scale = take_update(xp, shape, rows, gradient.rows, norm, host, part)
    report.result[index] = UpdateResult.APPLIED
    host["applied"][index] += 1
    host["clipped"][index] += scale < 1
    report.loss[index], report.gradient_norm[index], report.clip_scale[index] = loss, norm, scale
    report.saturation[index] = to_host(network.saturation(xp, shape.cell, gradient.tapes))
    ratio = report.update_ratio[index] = to_host(health.update_ratio(xp, before, rows["params"]))
    if shape.guard:
        report.reset[index] = guard.take_back(xp, rows, before, ratio, host, index)
    _move_on(xp, shape, rows, gradient.tapes, length, host, part)
    window.write_back(device, part, rows)
    if shape.guard:
        astray, good = guard.judge(host, index, loss, to_host(gradient.naive_loss))
        if len(astray):
            report.reset[astray] = guard.lead_back(xp, shape.layout, device, host, astray, ResetReason.DIVERGED)
        if len(good):
            guard.keep(xp, device, host, good)


def _refuse(
    xp: Any, shape: LearnerShape, device: Rows, host: Rows, index: NDArray[np.int64], report: StepReport
) -> None:
    """An update of the learners in `index` was not finite: nothing changes, unless that happens again and again."""
    report.result[index] = UpdateResult.NON_FINITE
    host["non_finite"][index] += 1
    if shape.guard:
        lost = guard.failed(host, index)
        if len(lost):
            report.reset[lost] = guard.lead_back(xp, shape.layout, device, host, lost, ResetReason.NON_FINITE)


def _measure_lags(
    xp: Any,
    shape: LearnerShape,
    params: Array,
    gradient: Gradient,
    active: Array,
    length: int,
    updates: NDArray[np.int64],
    index: NDArray[np.int64],
    report: StepReport,
) -> None:
    """Reports gradient by lag for the learners in `index` whose next update is a 64th; `updates` they had so far."""
    sixty_fourth = (updates + 1) % health.EVERY == 0
    if not sixty_fourth.any():
        return
    due = np.flatnonzero(sixty_fourth)
    tapes, dys = gradient.tapes, gradient.dys
    if len(due) < len(index):
        where = xp.asarray(due)
        tapes, params, dys, active = health.of_learners(xp, tapes, due), params[where], dys[:, where], active[:, where]
    first_row = active_rows(shape, length).start
    trained = to_host(active.any(axis=2))  # [rows, B]
    newest = first_row + len(trained) - 1 - trained[::-1].argmax(axis=0)
    report.norm_by_lag[index[due]] = health.norm_by_lag(xp, shape, params, tapes, dys, first_row, newest)


def _move_on(
    xp: Any, shape: LearnerShape, rows: Rows, tapes: tuple[Tape, ...], length: int, host: Rows, part: Part
) -> None:
    """Carry and boundary carry move along the update's forward; rows that the next will not reach are given up."""
    rows["carry"][...] = network.carry_at(xp, tapes, length)
    passed = max(0, length + shape.stride - shape.rows)
    if passed:
        rows["boundary"][...] = network.carry_at(xp, tapes, passed)
        window.pass_rows(shape, rows, host, part, passed)
