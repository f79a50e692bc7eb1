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

Knows nothing of sensors: it takes scaled inputs and scaled targets and returns scaled outputs. Array legend as in
cells.py; W = k2 + 1 rows, K = horizons · targets. Bookkeeping (lengths, counters) is NumPy on the host, everything else
belongs to the backend's array module.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import CELLS, Array, Tape
from bptt_core.clipping import clip_scale, global_norm
from bptt_core.events import UpdateResult
from bptt_core.heads import masked_loss, readout, readout_backward
from bptt_core.optimizers import MOMENTS, OPTIMIZERS
from bptt_core.parameters import ParameterLayout
from bptt_core.slab import Field, Rows


@dataclass(frozen=True)
class LearnerShape:
    """What learners of one slab have in common."""

    cell: str
    inputs: int  # D
    hidden: int  # H
    horizon: int
    targets: int
    window: int  # k2
    stride: int  # k1
    loss_span: int  # L
    loss: str
    optimizer: str

    @property
    def outputs(self) -> int:
        """K, horizons · targets."""
        return self.horizon * self.targets

    @functools.cached_property
    def layout(self) -> ParameterLayout:
        return ParameterLayout(self.cell, self.inputs, self.hidden, self.outputs)


APPLIED: Final = np.int8(UpdateResult.APPLIED)


class StepReport(NamedTuple):
    """What became of the update at this step, per learner: UpdateResult, and three numbers that are NaN without one."""

    result: NDArray[np.int8]  # [B]
    loss: NDArray[np.float32]  # [B] mean over the active pairs
    gradient_norm: NDArray[np.float32]  # [B] before the clip
    clip_scale: NDArray[np.float32]  # [B]


class Gradient(NamedTuple):
    """One forward and backward over a window."""

    loss: Array  # [B] mean over the active pairs
    rows: Array  # [B, P]
    tape: Tape
    dcarry: Array  # [B, S, H] by the boundary carry
    dxs: Array | None  # [length − 1, B, D] by the inputs, if asked for


def device_fields(shape: LearnerShape, dtype: type = np.float32) -> list[Field]:
    """State that the backend computes with."""
    cell, P, W = CELLS[shape.cell], shape.layout.size, shape.window + 1
    fields = [Field("params", (P,), dtype)]
    fields += [Field(f"moment{k}", (P,), dtype) for k in range(MOMENTS[shape.optimizer])]
    return [
        *fields,
        Field("carry", (cell.carries, shape.hidden), dtype),
        Field("boundary", (cell.carries, shape.hidden), dtype),
        Field("inputs", (W, shape.inputs), dtype),
        Field("targets", (W, shape.outputs), dtype, np.nan),
    ]


def host_fields() -> list[Field]:
    """Bookkeeping, and the settings that may differ between learners of one slab."""
    return [
        Field("length", (), np.int64),
        Field("since_update", (), np.int64),
        Field("optimizer_steps", (), np.int64),
        Field("carry_resets", (), np.int64),
        Field("learning", (), np.int8, 1),
        Field("learning_rate", (), np.float64),
        Field("clip_norm", (), np.float64),
        Field("huber_delta", (), np.float64),
    ]


def active_rows(shape: LearnerShape, length: int) -> slice:
    """The rows of a window of `length` that hold a pair which arrived in the last L steps."""
    return slice(max(0, length - shape.loss_span - shape.horizon), length - 1)


def active_pairs(xp: Any, shape: LearnerShape, targets: Array, length: int) -> Array:
    """Which pairs of `active_rows` an update trains: arrived (not NaN) in the last L steps. [rows, B, K] bool.

    `targets` is [B, W, K]. Row r's pair at horizon h arrived when row r + h did; the newest row is length − 1.
    """
    part = targets[:, active_rows(shape, length)].transpose(1, 0, 2)
    return ~xp.isnan(part) & xp.asarray(_recent_pairs(shape, length))


@functools.lru_cache(maxsize=1024)
def _recent_pairs(shape: LearnerShape, length: int) -> NDArray[np.bool_]:
    """Which pairs of `active_rows` arrive in the last L steps, [rows, 1, K]."""
    rows = active_rows(shape, length)
    age = (length - 1) - (np.arange(rows.start, rows.stop)[:, None] + np.arange(1, shape.horizon + 1))
    return np.repeat((age >= 0) & (age < shape.loss_span), shape.targets, axis=1)[:, None, :]


def window_gradient(
    xp: Any, shape: LearnerShape, device: Rows, length: int, active: Array, delta: Array, inputs: bool = False
) -> Gradient:
    """Forward over rows 0..length−1 from the boundary carry, loss over the active pairs, backward. Changes nothing.

    `active` as from `active_pairs`, `delta` [B, 1] for the Huber loss; `inputs` asks for dL/dxs as well.
    """
    weights = shape.layout.split(device["params"])
    cell = CELLS[shape.cell]
    tape = cell.forward(xp, weights.cell, device["inputs"][:, :length].transpose(1, 0, 2), device["boundary"])
    rows = active_rows(shape, length)
    hs = tape.hs[1:][rows]
    ys = readout(xp, weights.wo, weights.bo, hs)
    loss, dys = masked_loss(xp, shape.loss, ys, device["targets"][:, rows].transpose(1, 0, 2), active, delta)
    gradient = xp.empty_like(device["params"])
    grad = shape.layout.split(gradient)
    dhs = xp.zeros((length - 1, *hs.shape[1:]), hs.dtype)
    dhs[rows] = readout_backward(xp, weights.wo, hs, dys, grad.wo, grad.bo)
    dcarry, dxs = cell.backward(xp, weights.cell, tape.head(length - 1), dhs, grad.cell, inputs)
    return Gradient(loss, gradient, tape, dcarry, dxs)


def step(
    xp: Any, shape: LearnerShape, device: Rows, host: Rows, xs: Array, arrived: Array, event: NDArray[np.bool_]
) -> tuple[Array, StepReport]:
    """Takes one step of every learner's stream, in place on `device` and `host`; returns (ys [B, K], report).

    `xs` [B, D] is the newest scaled input. `arrived` [B, K] holds the scaled targets that became known with it, NaN for
    those that did not: column h·O + o belongs to the step h + 1 back. `event` [B] is False for the steps that fill a
    gap in time: they advance the window but are never followed by an update.
    """
    _append(xp, shape, device, host, xs, arrived)
    host["since_update"] += event
    report = _blank_report(len(event))
    due = event & (host["since_update"] >= shape.stride)
    host["since_update"][due] = 0
    report.result[due] = UpdateResult.LEARNING_OFF
    ready = due & (host["learning"] == 1)
    report.result[ready] = UpdateResult.NO_TARGET
    lengths = host["length"].copy()
    for length in set(lengths[ready].tolist()) - {1}:
        _train(xp, shape, device, host, length, np.flatnonzero(ready & (lengths == length)), report)
    updated = report.result == APPLIED
    if not updated.all():
        _advance_carry(xp, shape, device, host, np.flatnonzero(~updated), xs)
    wo, bo = shape.layout.readout(device["params"])
    return readout(xp, wo, bo, device["carry"][None, :, 0])[0], report


def clear(xp: Any, device: Rows, host: Rows, which: NDArray[np.bool_]) -> None:
    """Forgets window and carries of the learners in `which`, in place: their stream has jumped."""
    for name in ("carry", "boundary"):
        device[name][xp.asarray(which)] = 0
    host["length"][which] = 0


def _blank_report(learners: int) -> StepReport:
    result, numbers = np.empty(learners, np.int8), np.empty((3, learners), np.float32)
    result.fill(UpdateResult.NOT_DUE)
    numbers.fill(np.nan)
    return StepReport(result, numbers[0], numbers[1], numbers[2])


def _append(xp: Any, shape: LearnerShape, device: Rows, host: Rows, xs: Array, arrived: Array) -> None:
    """Puts the newest row into every window, and the targets that arrived with it beside the rows they belong to."""
    full = host["length"] > shape.window
    if full.any():
        _evict(xp, shape, device, host, np.flatnonzero(full))
    learners, newest = len(xs), host["length"]
    learner = np.arange(learners)
    device["inputs"][xp.asarray(learner), xp.asarray(newest)] = xs
    device["targets"][xp.asarray(learner), xp.asarray(newest)] = np.nan
    horizon = np.arange(shape.horizon)
    row = newest[:, None] - 1 - horizon
    b, k = np.nonzero(row >= 0)
    by_horizon = device["targets"].reshape(learners, shape.window + 1, shape.horizon, shape.targets)
    values = arrived.reshape(learners, shape.horizon, shape.targets)
    by_horizon[xp.asarray(b), xp.asarray(row[b, k]), xp.asarray(k)] = values[xp.asarray(b), xp.asarray(k)]
    host["length"] += 1


def _evict(xp: Any, shape: LearnerShape, device: Rows, host: Rows, index: NDArray[np.int64]) -> None:
    """Gives up the oldest row of the full windows in `index`; their boundary carry advances through it."""
    part: Any = slice(None) if len(index) == len(host["length"]) else index
    rows = {name: array[part] for name, array in device.items() if name in ("params", "boundary", "inputs", "targets")}
    rows["boundary"][...] = _next_carry(xp, shape, rows["params"], rows["inputs"][:, 0], rows["boundary"], host, part)
    _drop_rows(rows, 1)
    host["length"][part] -= 1
    _write_back(device, part, rows)


def _advance_carry(xp: Any, shape: LearnerShape, device: Rows, host: Rows, index: NDArray[np.int64], xs: Array) -> None:
    """Carries that no update's forward has brought to the newest step get there by one step of today's weights."""
    part: Any = slice(None) if len(index) == len(host["length"]) else index
    params, carry = device["params"][part], device["carry"][part]
    device["carry"][part] = _next_carry(xp, shape, params, xs[part], carry, host, part)


def _next_carry(xp: Any, shape: LearnerShape, params: Array, xs: Array, carry: Array, host: Rows, part: Any) -> Array:
    """The carry after one step; a non-finite one becomes zero and is counted."""
    tape = CELLS[shape.cell].forward(xp, shape.layout.split(params).cell, xs[None], carry)
    after = tape.carry(xp, 1)
    finite = to_host(xp.isfinite(after).all(axis=(1, 2)))
    if finite.all():
        return after
    host["carry_resets"][part] += ~finite
    return xp.where(xp.asarray(finite)[:, None, None], after, 0)


def _train(
    xp: Any, shape: LearnerShape, device: Rows, host: Rows, length: int, index: NDArray[np.int64], report: StepReport
) -> None:
    """One optimiser step for the learners in `index`, whose windows all hold `length` rows; in place.

    Learners without an active pair, or with a non-finite loss or norm, are left as they are and the others start again:
    a learner's bits must not depend on such a neighbour.
    """
    if len(index) == 0:
        return
    part: Any = slice(None) if len(index) == len(host["length"]) else index
    rows = {name: array[part] for name, array in device.items()}
    active = active_pairs(xp, shape, rows["targets"], length)
    has_pair = to_host(active.any(axis=(0, 2)))
    if not has_pair.all():
        return _train(xp, shape, device, host, length, index[has_pair], report)
    delta = xp.asarray(host["huber_delta"][part].astype(rows["params"].dtype))[:, None]
    gradient = window_gradient(xp, shape, rows, length, active, delta)
    loss, norm = to_host(gradient.loss), to_host(global_norm(xp, gradient.rows))
    finite = np.isfinite(loss) & np.isfinite(norm)
    if not finite.all():
        report.result[index[~finite]] = UpdateResult.NON_FINITE
        return _train(xp, shape, device, host, length, index[finite], report)
    scale = clip_scale(norm, host["clip_norm"][part])
    report.result[index] = UpdateResult.APPLIED
    report.loss[index], report.gradient_norm[index], report.clip_scale[index] = loss, norm, scale
    _apply(xp, shape, rows, gradient, scale, host, part)
    rows["carry"][...] = gradient.tape.carry(xp, length)
    passed = max(0, length + shape.stride - (shape.window + 1))  # rows that the next update will not reach
    if passed:
        rows["boundary"][...] = gradient.tape.carry(xp, passed)
        host["length"][part] -= passed
        _drop_rows(rows, passed)
    _write_back(device, part, rows)


def _apply(
    xp: Any, shape: LearnerShape, rows: Rows, gradient: Gradient, scale: NDArray[np.float64], host: Rows, part: Any
) -> None:
    """Clips the gradient and takes the optimiser's step, in place on `rows` and `host["optimizer_steps"]`."""
    if (scale < 1).any():
        gradient.rows[...] *= xp.asarray(scale.astype(gradient.rows.dtype))[:, None]
    host["optimizer_steps"][part] += 1
    moments = [rows[f"moment{k}"] for k in range(MOMENTS[shape.optimizer])]
    rate, steps = host["learning_rate"][part], host["optimizer_steps"][part]
    OPTIMIZERS[shape.optimizer](xp, rows["params"], gradient.rows, moments, rate, steps)


def _drop_rows(rows: Rows, count: int) -> None:
    """Moves every window `count` rows towards the past, in place."""
    for name in ("inputs", "targets"):
        rows[name][:, :-count] = rows[name][:, count:].copy()


def _write_back(device: Rows, part: Any, rows: Rows) -> None:
    """Stores `rows` where they were taken from, unless they are views of it already."""
    if not isinstance(part, slice):
        for name, row in rows.items():
            device[name][part] = row


def to_host(array: Array) -> NDArray[Any]:
    """The array as NumPy's: a copy from the device, or itself."""
    on_host: NDArray[Any] = array.get() if hasattr(array, "get") else array
    return on_host
