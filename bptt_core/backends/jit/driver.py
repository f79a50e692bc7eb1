"""The fold of many sessions in one call of compiled code: scale → learn → serve, step by step, session by session.

The stages are those of the reference, each compiled for one session and one step; this puts them in order: gaps in time
become missing steps or a jump, every learner of a session takes the step, and of an event the outcome is written into
the columns of a table. Nothing here allocates, waits or knows threads: callers give each call sessions, scratch and
rows of its own, so what comes of a session depends on nothing else. Array legend as in `steps.py`; S sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit.forecasts import serve_clear, serve_step
from bptt_core.backends.jit.learner import learn_step
from bptt_core.backends.jit.memory import entry, exact, f32, f64, i8, i64
from bptt_core.backends.jit.scaling import scale_clear, scale_step
from bptt_core.backends.jit.timeline import periods_missed
from bptt_core.events import UpdateResult
from bptt_core.lessons import (
    BY_LAG,
    CHANGED,
    CLEAR,
    EVENT,
    LOSS,
    RESET,
    RESULT,
    UPDATE_RATIO,
)

# Columns of the table of sessions: address of the row, first event, events, row of the first outcome, and, filled in
# here, the last sequence before.
ROW, FIRST, EVENTS, OUT, BEFORE = range(5)
# … of that of members: group, position of the anchor, slot of the season it is taken from or −1.
GROUP, ANCHOR, SEASON = range(3)
# … of that of outcomes: address, bytes of a row, offset in the step's row, offset of the latest in the session's.
ADDRESS, BYTES, FROM, LATEST = range(4)
SERVED: Final = 10  # outcome columns that come from serving; those of the update's report follow
NUMBERS: Final = UPDATE_RATIO - LOSS + 1

NAMES: Final = (
    "features", "members", "pairs", "outputs", "report_width", "lag_count", "longest_gap", "last_sequence", "timeline",
    "seasonal", "to_inputs", "to_arrived", "to_changed", "to_ys", "to_reports",
)  # fmt: skip

# From the least to the best of what became of several learners' updates.
_RANK: Final = tuple(
    (UpdateResult.NOT_DUE, UpdateResult.LEARNING_OFF, UpdateResult.NO_TARGET, UpdateResult.NON_FINITE,
     UpdateResult.APPLIED).index(result) for result in UpdateResult
)  # fmt: skip
_APPLIED: Final = int(UpdateResult.APPLIED)
_FIRST_SLOT, _SECOND_SLOT = CHANGED
_PERIOD: Final = 3  # of the timeline


@exact
def _copy(source: int, target: int, count: int) -> None:
    """Bytes."""
    if count % 8 == 0:
        numbers, there = i64(source, count // 8), i64(target, count // 8)
        for k in range(count // 8):
            there[k] = numbers[k]
        return
    bytes_, places = i8(source, count), i8(target, count)
    for k in range(count):
        places[k] = bytes_[k]


@exact
def _learn(
    plan: Any, learn_plans: Any, members: Any, learners: Any, session: int, step: int, flags: int, scratch: int
) -> None:
    """All learners of a session take a step."""
    if plan.seasonal:
        changed = i8(step + plan.to_changed, 2)
        flags += _FIRST_SLOT * int(changed[0]) + _SECOND_SLOT * int(changed[1])
    for m in range(plan.members):
        learn_step(
            learn_plans[members[m, GROUP]],
            learners[session, m, 0],
            learners[session, m, 1],
            step + plan.to_inputs,
            step + plan.to_arrived + 4 * plan.pairs * members[m, ANCHOR],
            flags,
            members[m, SEASON],
            scratch,
            step + plan.to_ys + 4 * plan.outputs * m,
            step + plan.to_reports + 4 * plan.report_width * m,
        )


@exact
def _report(plan: Any, step: int, outcomes: Any, row: int) -> None:
    """Writes what is told of the updates of a session's learners at an event: one report out of many."""
    M, width = plan.members, plan.report_width
    reports = f32(step + plan.to_reports, M * width)
    best, applied = 0, 0
    reset = i8(outcomes[SERVED + 2 + NUMBERS, ADDRESS] + row * M, M)
    for m in range(M):
        result = int(reports[m * width + RESULT])
        if m == 0 or _RANK[result] > _RANK[best]:
            best = result
        applied += result == _APPLIED
        reset[m] = np.int8(reports[m * width + RESET])
    i8(outcomes[SERVED, ADDRESS] + row, 1)[0] = np.int8(best)
    for k in range(NUMBERS):
        value = f32(outcomes[SERVED + 1 + k, ADDRESS] + 4 * row, 1)
        if M == 1:
            value[0] = reports[LOSS + k]
            continue
        total = np.float32(0)
        for m in range(M):
            if int(reports[m * width + RESULT]) == _APPLIED:
                total += reports[m * width + LOSS + k]
        value[0] = np.float32(total / np.float64(applied))
    by_lag = f32(outcomes[SERVED + 1 + NUMBERS, ADDRESS] + 4 * plan.lag_count * row, plan.lag_count)
    for k in range(plan.lag_count):
        by_lag[k] = reports[BY_LAG + k]


@exact
def _session(
    plan: Any,
    scale_plan: Any,
    learn_plans: Any,
    serve_plan: Any,
    sessions: Any,
    members: Any,
    learners: Any,
    outcomes: Any,
    session: int,
    values: int,
    times: int,
    starts: int,
    step: int,
    scratch: int,
) -> None:
    """All events of one session."""
    row, first, count, out = (
        sessions[session, ROW], sessions[session, FIRST], sessions[session, EVENTS], sessions[session, OUT],
    )  # fmt: skip
    missing = scratch  # the values of a missing step; the stages' own scratch lies behind
    nothing = f64(missing, plan.features)
    for k in range(plan.features):
        nothing[k] = np.nan
    scratch += (8 * plan.features + 63) // 64 * 64
    timeline = i64(row + plan.timeline, _PERIOD + 1)
    for e in range(first, first + count):
        fresh = starts != 0 and i8(starts + e, 1)[0] != 0
        filled, jump, now, period = 0, 0, 0, 0
        if times == 0:
            timeline[0] = 0
        else:
            now = i64(times + 8 * e, 1)[0]
            missed = periods_missed(row + plan.timeline, now, fresh)
            period = timeline[_PERIOD]
            filled = missed if missed <= plan.longest_gap and not fresh else 0
            jump = missed - filled
        timed = times != 0
        for f in range(filled + 1):
            event = f == filled
            clear = event and (fresh or jump > 0)
            if clear:
                scale_clear(scale_plan, row, jump)
                serve_clear(serve_plan, row, jump)
            here = values + 8 * plan.features * e if event else missing
            scale_step(scale_plan, row, step, here, timed, now - (filled - f) * period, period, scratch)
            _learn(plan, learn_plans, members, learners, session, step, EVENT * event + CLEAR * clear, scratch)
            serve_step(serve_plan, row, step, event, scratch)
        for c in range(SERVED):
            size = outcomes[c, BYTES]
            _copy(step + outcomes[c, FROM], outcomes[c, ADDRESS] + size * out, size)
        _report(plan, step, outcomes, out)
        out += 1
    last = i64(row + plan.last_sequence, 1)
    sessions[session, BEFORE] = last[0]
    last[0] += count
    for c in range(len(outcomes)):
        size = outcomes[c, BYTES]
        _copy(outcomes[c, ADDRESS] + size * (out - 1), row + outcomes[c, LATEST], size)


@exact
def _lesson(learn_plan: Any, lesson: Any, tables: Any, learners: Any, k: int, scratch: int) -> None:
    """All steps of one learner of a lesson; `lesson` [n, 5] has start, count, anchor, season and first output."""
    start, count, anchor, season, out = lesson[k, 0], lesson[k, 1], lesson[k, 2], lesson[k, 3], lesson[k, 4]
    inputs, arrived, flags, ys, reports = tables[0], tables[1], tables[2], tables[3], tables[4]
    width, anchors, pairs, outputs, report = tables[5], tables[6], tables[7], tables[8], tables[9]
    for s in range(count):
        at = start + s
        learn_step(
            learn_plan,
            learners[k, 0, 0],
            learners[k, 0, 1],
            inputs + 4 * width * at,
            arrived + 4 * pairs * (anchors * at + anchor),
            int(i8(flags + at, 1)[0]),
            season,
            scratch,
            ys + 4 * outputs * (out + s),
            reports + 4 * report * (out + s),
        )


def compiled(digest: int) -> Callable[..., None]:
    """The entry, compiled at its first call, or read from where an earlier process kept it for the same `digest` of
    the sources: the cache itself looks at this file alone."""

    def run(
        chosen: Any,
        plans: Any,
        scale_plans: Any,
        learn_plans: Any,
        serve_plans: Any,
        sessions: Any,
        members: Any,
        learners: Any,
        outcomes: Any,
        events: Any,
        lesson: Any,
        step: int,
        scratch: int,
    ) -> None:
        """The sessions `chosen` of a call; or, where there is a `lesson`, its learners `chosen`."""
        if digest == 0:  # read, so that it is part of what the cache looks at
            return
        for n in range(len(chosen)):
            if len(lesson) > 0:
                _lesson(learn_plans[0], lesson, events, learners, chosen[n], scratch)
            else:
                _session(
                    plans[0], scale_plans[0], learn_plans, serve_plans[0], sessions, members, learners, outcomes,
                    chosen[n], events[0], events[1], events[2], step, scratch,
                )  # fmt: skip

    try:
        return entry(run, cache=True)
    except RuntimeError:  # nowhere to keep it
        return entry(run)
