"""The window: the newest steps of a stream, row by row, and the carries at its two ends.

Row r of `inputs` and `targets` is one step; `length` rows are in use, the newest is row length − 1. The boundary carry
enters row 0, the carry leaves the newest row. Knows which pairs have arrived and when, and nothing of learning from
them. Array legend as in learner.py; all functions work in place on rows of learners of one shape.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt_core import network
from bptt_core.arrays import to_host
from bptt_core.cells import Array
from bptt_core.learner import LearnerShape
from bptt_core.slab import Rows

Part = Any  # which learners: a NumPy index, or the slice of all of them, which gives views


def append(xp: Any, shape: LearnerShape, device: Rows, host: Rows, xs: Array, event: NDArray[np.bool_]) -> None:
    """Puts the newest row, inputs `xs` [B, D], into every window; no target of it is known. `event` [B] is False for
    missing steps, in which no label ages: it would be too old for the update at the next event."""
    full = host["length"] == shape.rows
    if full.any():
        _evict(xp, shape, device, host, np.flatnonzero(full))
    newest = np.arange(len(xs)), host["length"]
    at = xp.asarray(newest[0]), xp.asarray(newest[1])
    device["inputs"][at] = xs
    device["targets"][at] = np.nan
    host["length"] += 1
    if shape.ahead == 0:
        host["event_count"] += event


def arrive(xp: Any, shape: LearnerShape, device: Rows, host: Rows, arrived: Array) -> None:
    """Puts the targets `arrived` [B, N] that came with the newest row beside the rows they belong to, NaN where none
    did: column h·O + o belongs to the step h + ahead back."""
    learners = np.arange(len(arrived))[:, None]
    horizons = np.arange(shape.horizon)
    # A step before the window has a negative row: the end of the array, where no row is in use, as W ≥ horizon + ahead.
    row = host["length"][:, None] - 1 - shape.ahead - horizons
    by_horizon = device["targets"].reshape(len(arrived), shape.rows, shape.horizon, shape.targets)
    by_horizon[xp.asarray(learners), xp.asarray(row), xp.asarray(horizons)] = arrived.reshape(
        len(arrived), shape.horizon, shape.targets
    )
    if shape.ahead == 0:
        host["arrived_event"][learners, row] = host["event_count"][:, None, None]


def late_labels(
    shape: LearnerShape, device: Rows, host: Rows, back: NDArray[np.int64], values: Array
) -> NDArray[np.bool_]:
    """Puts labels that come after their step into the window of ONE learner (rows of B = 1), in place.

    Row k of `values` [n, N] (scaled, NaN: not known) belongs to the step `back[k]` before the newest. They count as
    arriving with the next event; a label that is there already stays. Returns for which rows the window will still hold
    the step when the next update is due, [n].
    """
    length = int(host["length"][0])
    row = length - 1 - back
    for k in np.flatnonzero((row >= 0) & (row < length)).tolist():
        old = device["targets"][0, row[k]]
        new = np.flatnonzero(to_host((old != old) & (values[k] == values[k])))  # NaN is not equal to itself
        host["arrived_event"][0, row[k], new] = host["event_count"][0] + 1
        old[new] = values[k][new]
    until_update = shape.stride - host["since_update"][0]
    reached: NDArray[np.bool_] = (row < length) & (row >= max(0, length + until_update - shape.rows))
    return reached


def active_rows(shape: LearnerShape, length: int) -> slice:
    """The rows of a window of `length` that may hold a pair which arrived in the last `loss_span` steps.

    With labels that is any row, as a label may be late."""
    if shape.ahead == 0:
        return slice(0, length)
    return slice(max(0, length - shape.loss_span - shape.horizon), length - 1)


def active_pairs(
    xp: Any,
    shape: LearnerShape,
    targets: Array,
    length: int,
    age: NDArray[np.int64] | None = None,
    span: NDArray[np.int64] | None = None,
) -> Array:
    """Which pairs of `active_rows` an update trains: known, and arrived in the last `span` steps. [rows, B, N].

    `targets` is [B, W, N]. `age` [B, length, N], from `label_age`, says how many events ago each label arrived; without
    it every pair arrived when it was due: row r's at horizon h with row r + h. `span` [B] may differ between learners,
    up to the shape's `loss_span`, which all have without it.
    """
    part = targets[:, active_rows(shape, length)].transpose(1, 0, 2)
    longest = np.array([shape.loss_span]) if span is None else span
    if age is None:
        steps = _steps_since_due(shape, length)
        recent = (steps >= 0) & (steps < longest[:, None])
    else:
        recent = (age < longest[:, None, None]).transpose(1, 0, 2)
    return ~xp.isnan(part) & xp.asarray(recent)


@functools.lru_cache(maxsize=1024)
def _steps_since_due(shape: LearnerShape, length: int) -> NDArray[np.int64]:
    """How many steps before the newest the pairs of `active_rows` were due, [rows, 1, N]; negative: in the future."""
    rows, horizons = active_rows(shape, length), shape.ahead + np.arange(shape.horizon)
    since = (length - 1) - (np.arange(rows.start, rows.stop)[:, None] + horizons)
    return np.repeat(since, shape.targets, axis=1)[:, None, :]


def label_age(shape: LearnerShape, host: Rows, part: Part, length: int) -> NDArray[np.int64] | None:
    """Events since the labels of rows 0..length−1 arrived, [B, length, N]; None where targets come when due."""
    if shape.ahead == 1:
        return None
    age: NDArray[np.int64] = host["event_count"][part][:, None, None] - host["arrived_event"][part][:, :length]
    return age


def part_of(host: Rows, index: NDArray[np.int64]) -> Part:
    """The learners in `index`, rising, as an index into rows."""
    return slice(None) if len(index) == len(host["length"]) else index


def advance_carry(xp: Any, shape: LearnerShape, device: Rows, host: Rows, index: NDArray[np.int64], xs: Array) -> None:
    """The carries of the learners in `index` take one step through `xs` [B, D] with the weights of today."""
    part = part_of(host, index)
    params, carry = device["params"][part], device["carry"][part]
    device["carry"][part] = _next_carry(xp, shape, params, xs[part], carry, host, part)


def pass_rows(shape: LearnerShape, rows: Rows, host: Rows, part: Part, count: int) -> None:
    """Gives up the oldest `count` rows of every window in `rows`, in place; the boundary carry is the caller's."""
    for name in ("inputs", "targets"):
        rows[name][:, :-count] = rows[name][:, count:].copy()
    if shape.ahead == 0:
        host["arrived_event"][part] = np.roll(host["arrived_event"][part], -count, axis=1)
    host["length"][part] -= count


def clear(xp: Any, device: Rows, host: Rows, which: NDArray[np.bool_]) -> None:
    """Forgets window and carries of the learners in `which`, in place: their stream has jumped, or begins anew."""
    for name in ("carry", "boundary"):
        device[name][xp.asarray(which)] = 0
    host["length"][which] = 0


def finite_carry(xp: Any, carry: Array, host: Rows, part: Part) -> Array:
    """`carry` [B, L·S, H], or zero for a learner where it is not finite, which is counted."""
    finite = to_host(xp.isfinite(carry).all(axis=(1, 2)))
    if finite.all():
        return carry
    host["carry_resets"][part] += ~finite
    return xp.where(xp.asarray(finite)[:, None, None], carry, 0)


def _evict(xp: Any, shape: LearnerShape, device: Rows, host: Rows, index: NDArray[np.int64]) -> None:
    """Gives up the oldest row of the full windows in `index`; their boundary carry advances through it."""
    part = part_of(host, index)
    rows = {name: array[part] for name, array in device.items() if name in ("params", "boundary", "inputs", "targets")}
    rows["boundary"][...] = _next_carry(xp, shape, rows["params"], rows["inputs"][:, 0], rows["boundary"], host, part)
    pass_rows(shape, rows, host, part, 1)
    write_back(device, part, rows)


def write_back(device: Rows, part: Part, rows: Rows) -> None:
    """Stores `rows` where they were taken from, unless they are views of it already."""
    if not isinstance(part, slice):
        for name, row in rows.items():
            device[name][part] = row


def _next_carry(xp: Any, shape: LearnerShape, params: Array, xs: Array, carry: Array, host: Rows, part: Part) -> Array:
    """The carry after one step; a non-finite one becomes zero and is counted."""
    tapes = network.forward(xp, shape.cell, shape.layout.split(params).layers, xs[None], carry)
    return finite_carry(xp, network.carry_at(xp, tapes, 1), host, part)
