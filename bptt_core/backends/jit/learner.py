"""One learner's step in compiled code: what `bptt_core/tbptt.py` does for many learners, for one of them.

Its state lies in two rows of bytes, those of `learner.device_fields` and of `learner.host_fields`; the network, the
window, the update and the guard are in modules of their own. Here is the order of a step, and the plan: what compiled
code must know of a shape. Knows nothing of sessions and threads. Array legend as in `bptt_core/learner.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit import clipping, heads, network, optimizers
from bptt_core.backends.jit.guard import SEASON, change_season
from bptt_core.backends.jit.memory import exact, f32, i64
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.products import copy
from bptt_core.backends.jit.readout import read_out
from bptt_core.backends.jit.update import (
    APPLIED,
    LEARNING_OFF,
    NO_TARGET,
    NON_FINITE,
    NOT_DUE,
    blank,
    update,
)
from bptt_core.backends.jit.window import advance, append, arrive, clear_window
from bptt_core.health import lags
from bptt_core.learner import LearnerShape, device_fields, host_fields
from bptt_core.learner_config import SCHEDULES
from bptt_core.lessons import CLEAR, EVENT, FIRST_CHANGED, RESET, RESULT, SECOND_CHANGED, report_width
from bptt_core.optimizers import MOMENTS
from bptt_core.slab import Field, Layout


@exact
def learn_step(
    plan: Any,
    device: int,
    host: int,
    x: int,
    arrived: int,
    flags: int,
    season: int,
    scratch: int,
    ys: int,
    report: int,
) -> None:
    """Takes one step of a learner's stream, in place on its rows; writes outputs `ys` [K] and `report`, float32.

    `x` [D] and `arrived` [N] are float32, `flags` those of `lessons.py`; `season` is the slot that the learner's anchor
    is taken from, or −1.
    """
    own = report
    blank(plan, report)
    if flags & CLEAR:
        _begin_anew(plan, device, host, scratch, report)
        own = scratch + plan.s_report
        blank(plan, own)
    changed = (season == 0 and flags & FIRST_CHANGED) or (season == 1 and flags & SECOND_CHANGED)
    if changed:
        change_season(plan, device, host)
    _take_step(plan, device, host, x, arrived, flags & EVENT, scratch, ys, own)
    if own != report:
        _merge(plan, own, report)
    if changed:
        f32(report, plan.report_width)[RESET] = np.float32(SEASON)


@exact
def _take_step(
    plan: Any, device: int, host: int, x: int, arrived: int, event: int, scratch: int, ys: int, report: int
) -> None:
    append(plan, device, host, x, event, scratch)
    if plan.ahead == 0:
        advance(plan, device, host, x, device + plan.carry, scratch)
        _read_out(plan, device, ys)
        arrive(plan, device, host, arrived)
        _update_where_due(plan, device, host, event, scratch, report)
        return
    arrive(plan, device, host, arrived)
    if _update_where_due(plan, device, host, event, scratch, report) != APPLIED:
        advance(plan, device, host, x, device + plan.carry, scratch)
    _read_out(plan, device, ys)  # an update's forward has brought the carry to the newest step already


@exact
def _update_where_due(plan: Any, device: int, host: int, event: int, scratch: int, report: int) -> int:
    """An update if this is the k1-th event since the last."""
    since = i64(host + plan.since_update, 1)
    since[0] += event
    if event == 0 or since[0] < plan.stride:
        return NOT_DUE
    since[0] = 0
    result = update(plan, device, host, i64(host + plan.span, 1)[0], scratch, report)
    if result == NO_TARGET:
        i64(host + plan.no_target, 1)[0] += 1
    elif result == LEARNING_OFF:
        i64(host + plan.learning_off, 1)[0] += 1
    return result


@exact
def _begin_anew(plan: Any, device: int, host: int, scratch: int, report: int) -> None:
    """The stream does not go on from the step before: what arrived since the last update is learned from now or never;
    then window and carries are forgotten."""
    since = i64(host + plan.since_update, 1)
    if since[0] > 0 or plan.ahead == 0:
        update(plan, device, host, since[0], scratch, report)
    if not _tried(report):
        f32(report, 1)[RESULT] = np.float32(NOT_DUE)
    since[0] = 0
    clear_window(plan, device, host)


@exact
def _tried(report: int) -> bool:
    result = int(f32(report, 1)[RESULT])
    return result in (APPLIED, NON_FINITE)


@exact
def _merge(plan: Any, second: int, first: int) -> None:
    """What is reported where two updates may fall on one event: the second if it was tried, or the first was not. In
    place on the first."""
    reset = max(f32(first, plan.report_width)[RESET], f32(second, plan.report_width)[RESET])
    if _tried(second) or not _tried(first):
        copy(first, second, plan.report_width)
    f32(first, plan.report_width)[RESET] = reset


@exact
def _read_out(plan: Any, device: int, ys: int) -> None:
    """The outputs of the carry: of its top layer's hidden state."""
    wo = device + plan.params + 4 * plan.readout
    read_out(device + plan.carry + 4 * plan.top, wo, wo + 4 * plan.H * plan.K, plan.H, plan.K, ys)


# ---- The plan --------------------------------------------------------------------------------------------------------

_SIZES: Final = (
    "D", "H", "K", "N", "O", "P", "W", "ahead", "carried", "guarded", "horizon", "lag_count", "lags", "moments",
    "optimizer", "readout", "report_width", "schedule", "stride", "top",
)  # fmt: skip
_SCRATCH: Final = ("active", "before", "dhs", "dys", "grad", "lags", "pair", "report", "trail", "ys")
_WIDEST: Final = LearnerShape(
    cell="lstm", layers=1, inputs=1, hidden=1, horizon=1, targets=1, ahead=0, symbols=0, window=1, stride=1,
    loss_span=1, loss="squared", quantiles=(), optimizer="adam", schedule="constant", clip="quantile", guard=True,
)  # fmt: skip
FIELDS: Final = tuple(f.name for f in [*device_fields(_WIDEST), *host_fields(_WIDEST)])  # all that a learner can have

NAMES: Final = (
    *_SIZES, *FIELDS, *(f"s_{name}" for name in _SCRATCH), *heads.NAMES, *clipping.NAMES, *network.NAMES,
)  # fmt: skip


def scratch_fields(shape: LearnerShape) -> list[Field]:
    """What an update needs beside the learner's rows."""
    W, K, P, H = shape.rows, shape.outputs, shape.layout.size, shape.hidden
    return [
        Field("active", (W, shape.pairs), np.int8),
        Field("before", (P,), np.float32),
        Field("dhs", (W, H), np.float32),
        Field("dys", (W, K), np.float32),
        Field("grad", (P,), np.float32),
        Field("lags", (len(lags(shape.window)),), np.float32),
        Field("pair", (2, shape.per_pair), np.float32),
        Field("report", (report_width(shape),), np.float32),
        Field("trail", (W, shape.carries, H), np.float32),
        Field("ys", (W, K), np.float32),
        *clipping.scratch_fields(),
        *network.tape_fields(shape),
    ]


def learner_plan(shape: LearnerShape, device: Mapping[str, int], host: Mapping[str, int]) -> tuple[Plan, int]:
    """What compiled code must know of a shape, given the offsets of the fields of its learners' two rows; and the bytes
    of scratch that a step needs."""
    plan, scratch = Plan(NAMES), Layout.of(scratch_fields(shape))
    measured = np.array(lags(shape.window), np.int64)
    H, K = shape.hidden, shape.outputs
    plan.set(
        **{name: at[name] for at in (device, host) for name in at},
        **{f"s_{name}": scratch.offsets[name] for name in (*_SCRATCH, "rising")},
        D=shape.inputs,
        H=H,
        K=K,
        N=shape.pairs,
        O=shape.targets,
        P=shape.layout.size,
        W=shape.rows,
        ahead=shape.ahead,
        carried=shape.carries * H,
        guarded=int(shape.guard),
        horizon=shape.horizon,
        lag_count=len(measured),
        moments=MOMENTS[shape.optimizer],
        optimizer=optimizers.CODES[shape.optimizer],
        readout=shape.layout.size - K * (H + 1),
        report_width=report_width(shape),
        schedule=SCHEDULES.index(shape.schedule),
        stride=shape.stride,
        top=H * (shape.carries - shape.carries // shape.layers),
    )
    plan.keep(lags=measured)
    heads.fill(plan, shape)
    clipping.fill(plan, shape)
    network.fill(plan, shape, scratch.offsets)
    return plan, scratch.bytes
