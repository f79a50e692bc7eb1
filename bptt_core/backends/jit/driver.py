"""The fold of many sessions in one call of compiled code: scale → learn → serve, step by step, session by session.

The stages are those of the reference, each compiled for one session and one step; this puts them in order: gaps in time
become missing steps or a jump, every learner of a session takes the step, and of an event the outcome is written into
the columns of a table. Where learners are taught elsewhere, what comes before them and what comes after are calls of
their own. Nothing here allocates, waits or knows threads: callers give each call sessions, scratch and
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
from bptt_core.backends.jit.timeline import PERIOD, TIMED, periods_missed
from bptt_core.backends.jit.timeline import SIZE as TIMELINE
from bptt_core.events import UpdateResult
from bptt_core.lessons import (
    BY_LAG,
    CLEAR,
    EVENT,
    FIRST_CHANGED,
    LOSS,
    RESET,
    RESULT,
    SECOND_CHANGED,
    UPDATE_RATIO,
)
from bptt_core.outcomes import COLUMNS
from bptt_core.reports import RANK

# What of the fold a call does: all of it; or its steps are counted, scaled, learned from elsewhere, and served; or
# learners are given a lesson.
WHOLE, COUNT, SCALE, SERVE, LESSON = range(5)
# Addresses of the columns of events; 0: there is none.
VALUES, TIMES, STARTS = range(3)
# … of those of a lesson and of what comes of it; and sizes: inputs, anchors, pairs and outputs of a step, columns.
INPUTS, ARRIVED, FLAGS, YS, REPORTS = LESSON_ARRAYS = tuple(range(5))
WIDTH, ANCHORS, PAIRS, OUTPUTS, REPORT_WIDTH = range(5, 10)
# Columns of the table of sessions: address of the row, first event, events, row of the first outcome, first step and
# steps; and, filled in here, the last sequence before.
ROW, FIRST, EVENTS, OUT, FIRST_STEP, STEPS, BEFORE = range(7)
# … of that of members: group, position of the anchor, slot of the season it is taken from or −1.
GROUP, ANCHOR, SEASON = range(3)
# … of that of outcomes: address, bytes of a row, offset in the step's row, offset of the latest in the session's.
ADDRESS, BYTES, FROM, LATEST = range(4)
SERVED: Final = COLUMNS.index("update_result")  # columns that come from serving; those of the update's report follow
NUMBERS: Final = UPDATE_RATIO - LOSS + 1

STEP: Final = "inputs", "arrived", "changed", "ys", "reports", "flags", "jump"  # what of its row is looked at here
NAMES: Final = (
    "features", "members", "pairs", "outputs", "report_width", "lag_count", "longest_gap", "last_sequence", "timeline",
    "seasonal", "step_bytes", "missing_bytes", *(f"to_{name}" for name in STEP),
)  # fmt: skip

_RANK: Final = tuple(RANK.tolist())
_APPLIED: Final = int(UpdateResult.APPLIED)


@exact
def _copy(source: int, target: int, count: int) -> None:
    """Bytes."""
    if (count | source | target) % 8 == 0:
        numbers, there = i64(source, count // 8), i64(target, count // 8)
        for k in range(count // 8):
            there[k] = numbers[k]
        return
    bytes_, places = i8(source, count), i8(target, count)
    for k in range(count):
        places[k] = bytes_[k]


@exact
def _gap(plan: Any, timeline: int, times: int, starts: int, e: int) -> Any:
    """What lies in time before an event: missing steps to fill in, or a jump over more than these; and its time. The
    timeline moves on."""
    fresh = starts != 0 and i8(starts + e, 1)[0] != 0
    if times == 0:
        i64(timeline, TIMED + 1)[TIMED] = 0
        return fresh, 0, 0, 0
    now = i64(times + 8 * e, 1)[0]
    missed = periods_missed(timeline, now, fresh)
    filled = missed if missed <= plan.longest_gap and not fresh else 0
    return fresh, filled, missed - filled, now


@exact
def _scale(
    plan: Any,
    scale_plan: Any,
    row: int,
    step: int,
    values: int,
    event: bool,
    clear: bool,
    jump: int,
    timed: bool,
    now: int,
    period: int,
    scratch: int,
) -> None:
    """The first stage of one step, and what the others must know of it."""
    if clear:
        scale_clear(scale_plan, row, jump)
    scale_step(scale_plan, row, step, values, timed, now, period, scratch)
    flags = EVENT * event + CLEAR * clear
    if plan.seasonal:
        changed = i8(step + plan.to_changed, 2)
        flags += FIRST_CHANGED * int(changed[0]) + SECOND_CHANGED * int(changed[1])
    i8(step + plan.to_flags, 1)[0] = np.int8(flags)
    i64(step + plan.to_jump, 1)[0] = jump


@exact
def _learn(plan: Any, learn_plans: Any, members: Any, learners: Any, session: int, step: int, scratch: int) -> None:
    """All learners of a session take a step."""
    flags = int(i8(step + plan.to_flags, 1)[0])
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
def _serve(plan: Any, serve_plan: Any, row: int, step: int, outcomes: Any, out: int, scratch: int) -> int:
    """The last stage of one step; of an event the outcome is written to row `out`. The row of the next one."""
    flags = int(i8(step + plan.to_flags, 1)[0])
    event = flags & EVENT != 0
    if flags & CLEAR:
        serve_clear(serve_plan, row, i64(step + plan.to_jump, 1)[0])
    serve_step(serve_plan, row, step, event, scratch)
    if not event:
        return out
    for c in range(SERVED):
        size = outcomes[c, BYTES]
        _copy(step + outcomes[c, FROM], outcomes[c, ADDRESS] + size * out, size)
    _report(plan, step, outcomes, out)
    return out + 1


@exact
def _close(plan: Any, sessions: Any, session: int, outcomes: Any) -> None:
    """Notes how far a session has come, and the last outcome as its latest."""
    row, count = sessions[session, ROW], sessions[session, EVENTS]
    if count == 0:
        return
    last = i64(row + plan.last_sequence, 1)
    sessions[session, BEFORE] = last[0]
    last[0] += count
    for c in range(len(outcomes)):
        size = outcomes[c, BYTES]
        _copy(outcomes[c, ADDRESS] + size * (sessions[session, OUT] + count - 1), row + outcomes[c, LATEST], size)


@exact
def _count(plan: Any, sessions: Any, session: int, events: Any, scratch: int) -> None:
    """The steps that the events of one session become. Changes nothing."""
    row, first, count = sessions[session, ROW], sessions[session, FIRST], sessions[session, EVENTS]
    _copy(row + plan.timeline, scratch, 8 * TIMELINE)
    steps = count
    for e in range(first, first + count):
        steps += _gap(plan, scratch, events[TIMES], events[STARTS], e)[1]
    sessions[session, STEPS] = steps


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
    events: Any,
    session: int,
    only_scale: bool,
    step: int,
    scratch: int,
) -> None:
    """All events of one session: all stages, with one row for every step; or the first stage, each step with a row of
    its own."""
    row, first, count, out = (
        sessions[session, ROW], sessions[session, FIRST], sessions[session, EVENTS], sessions[session, OUT],
    )  # fmt: skip
    missing = scratch  # the values of a missing step; the stages' own scratch lies behind
    nothing = f64(missing, plan.features)
    for k in range(plan.features):
        nothing[k] = np.nan
    scratch += plan.missing_bytes
    timed, timeline = events[TIMES] != 0, i64(row + plan.timeline, PERIOD + 1)
    step += plan.step_bytes * sessions[session, FIRST_STEP] * only_scale
    for e in range(first, first + count):
        fresh, filled, jump, now = _gap(plan, row + plan.timeline, events[TIMES], events[STARTS], e)
        period = timeline[PERIOD] if timed else 0
        for f in range(filled + 1):
            event = f == filled
            clear = event and (fresh or jump > 0)
            here = events[VALUES] + 8 * plan.features * e if event else missing
            then = now - (filled - f) * period
            _scale(plan, scale_plan, row, step, here, event, clear, jump, timed, then, period, scratch)
            if only_scale:
                step += plan.step_bytes
                continue
            _learn(plan, learn_plans, members, learners, session, step, scratch)
            out = _serve(plan, serve_plan, row, step, outcomes, out, scratch)
    if not only_scale:
        _close(plan, sessions, session, outcomes)


@exact
def _serve_session(
    plan: Any, serve_plan: Any, sessions: Any, outcomes: Any, session: int, step: int, scratch: int
) -> None:
    """The last stage of one session, of steps that were scaled and learned from."""
    out = sessions[session, OUT]
    step += plan.step_bytes * sessions[session, FIRST_STEP]
    for _ in range(sessions[session, STEPS]):
        out = _serve(plan, serve_plan, sessions[session, ROW], step, outcomes, out, scratch)
        step += plan.step_bytes
    _close(plan, sessions, session, outcomes)


@exact
def _lesson(learn_plan: Any, lesson: Any, tables: Any, learners: Any, k: int, scratch: int) -> None:
    """All steps of one learner of a lesson; `lesson` [n, 5] has start, count, anchor, season and first output."""
    start, count, anchor, season, out = lesson[k, 0], lesson[k, 1], lesson[k, 2], lesson[k, 3], lesson[k, 4]
    for s in range(count):
        at = start + s
        learn_step(
            learn_plan,
            learners[k, 0, 0],
            learners[k, 0, 1],
            tables[INPUTS] + 4 * tables[WIDTH] * at,
            tables[ARRIVED] + 4 * tables[PAIRS] * (tables[ANCHORS] * at + anchor),
            int(i8(tables[FLAGS] + at, 1)[0]),
            season,
            scratch,
            tables[YS] + 4 * tables[OUTPUTS] * (out + s),
            tables[REPORTS] + 4 * tables[REPORT_WIDTH] * (out + s),
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
        part: int,
        step: int,
        scratch: int,
    ) -> None:
        """That part of the fold for the sessions `chosen` of a call, or of its learners if it is a lesson."""
        if digest == 0:  # read, so that it is part of what the cache looks at
            return
        for n in range(len(chosen)):
            k = chosen[n]
            if part == LESSON:
                _lesson(learn_plans[0], lesson, events, learners, k, scratch)
            elif part == COUNT:
                _count(plans[0], sessions, k, events, scratch)
            elif part == SERVE:
                _serve_session(plans[0], serve_plans[0], sessions, outcomes, k, step, scratch)
            else:
                _session(
                    plans[0], scale_plans[0], learn_plans, serve_plans[0], sessions, members, learners, outcomes,
                    events, k, part == SCALE, step, scratch,
                )  # fmt: skip

    try:
        return entry(run, cache=True)
    except RuntimeError:  # nowhere to keep it
        return entry(run)
