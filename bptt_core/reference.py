"""The reference gives a lesson: the learners of `tbptt.py`, many at once, over whatever steps each of them has.

This is what compiled code and a GPU are held to, and what computes the learners that they do not. Knows learners and
their steps; sessions, scales and forecasts are elsewhere. Array legend as in `lessons.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt_core import guard, tbptt
from bptt_core.events import ResetReason
from bptt_core.learner import LearnerShape
from bptt_core.lessons import CHANGED, CLEAR, EVENT, Learned, Lesson, report_width
from bptt_core.slab import Rows, first


def learn(xp: Any, shape: LearnerShape, device: Rows, host: Rows, lesson: Lesson) -> Learned:
    """Takes all steps of the n learners of a lesson, in place on their rows `device` and `host`."""
    order = np.argsort(-lesson.count, kind="stable")
    if (order == np.arange(len(order))).all():
        return _longest_first(xp, shape, device, host, lesson, order)
    where = xp.asarray(order)
    mine, book = {k: v[where] for k, v in device.items()}, {k: v[order] for k, v in host.items()}
    learned = _longest_first(xp, shape, mine, book, lesson, order)
    for name, row in mine.items():
        device[name][where] = row
    for name, row in book.items():
        host[name][order] = row
    return learned


def _longest_first(
    xp: Any, shape: LearnerShape, device: Rows, host: Rows, lesson: Lesson, order: NDArray[np.int64]
) -> Learned:
    """The same of rows in this order, in which no learner has fewer steps than a later one."""
    total, count = int(lesson.count.sum()), lesson.count[order]
    learned = Learned(np.empty((total, shape.outputs), np.float32), np.empty((total, report_width(shape)), np.float32))
    if total == 0:
        return learned
    active = [int((count > s).sum()) for s in range(int(count[0]))]
    start, anchor, out = lesson.start[order], lesson.anchor[order], lesson.first_output[order]
    at = np.concatenate([start[:k] + s for s, k in enumerate(active)])
    whose = np.concatenate([anchor[:k] for k in active])
    dtype = device["params"].dtype
    xs, arrived = (xp.asarray(a.astype(dtype)) for a in (lesson.inputs[at], lesson.arrived[at, whose]))
    ys, place = [], 0
    for s, k in enumerate(active):
        here = slice(place, place + k)
        flags, season = lesson.flags[at[here]], lesson.season[order[:k]]
        y, report = _step(xp, shape, first(device, k), first(host, k), xs[here], arrived[here], flags, season)
        learned.reports[out[:k] + s] = _columns(report)
        ys.append(y)
        place += k
    learned.ys[np.concatenate([out[:k] + s for s, k in enumerate(active)])] = tbptt.to_host(xp.concatenate(ys))
    return learned


def _step(
    xp: Any,
    shape: LearnerShape,
    device: Rows,
    host: Rows,
    xs: Any,
    arrived: Any,
    flags: NDArray[np.int8],
    season: NDArray[np.int64],
) -> tuple[Any, tbptt.StepReport]:
    """One step of learners that all have it; `flags` and `season` are theirs."""
    clear = flags & CLEAR != 0
    ended = tbptt.begin_anew(xp, shape, device, host, clear) if clear.any() else None
    changed = np.flatnonzero((season >= 0) & (flags & np.array(CHANGED)[season] != 0))
    if len(changed):
        guard.change_season(xp, shape.layout, device, host, changed)
    ys, report = tbptt.step(xp, shape, device, host, xs, arrived, flags & EVENT != 0)
    report.reset[changed] = ResetReason.SEASON
    return ys, report if ended is None else tbptt.both(ended, report)


def _columns(report: tbptt.StepReport) -> NDArray[np.float32]:
    """A report as the columns of `lessons.py`."""
    numbers = (report.loss, report.gradient_norm, report.clip_scale, report.saturation, report.update_ratio)
    first_columns = np.stack([report.result, report.reset, *numbers], axis=1).astype(np.float32)
    return np.concatenate([first_columns, report.norm_by_lag], axis=1)
