"""The third stage for one session in compiled code: `bptt_core/forecasts.py`, number for number.

What was issued for the step's values is laid out afresh, number by number, before it meets them, and so is what is
issued now before it is kept: the ring of a session's row has all numbers of a pair side by side. Sessions with labels
are not compiled. Knows neither learners' insides nor clocks. Array legend: H horizons, O targets, P = H · O pairs,
target by target within a horizon, W numbers that wait with a pair, E of them its experts' forecasts (or what a single
learner tells of its error), K experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bptt_core.backends.jit import aggregation, anomaly, autoregression, drift, experts, intervals, outputs, scores
from bptt_core.backends.jit.aggregation import aggregation_mix, aggregation_settle, aggregation_weights
from bptt_core.backends.jit.anomaly import STUCK, anomaly_step
from bptt_core.backends.jit.drift import drift_step
from bptt_core.backends.jit.experts import experts_clear, experts_step
from bptt_core.backends.jit.intervals import interval_bounds, interval_settle
from bptt_core.backends.jit.memory import exact, f64, f64_2, i8, i64
from bptt_core.backends.jit.outputs import outputs_of
from bptt_core.backends.jit.plan import Plan
from bptt_core.backends.jit.scores import scores_settle, scores_settle_bounds, scores_settle_experts
from bptt_core.backends.jit.seasons import seasons_skip, seasons_step
from bptt_core.forecasts import EXPERTS, LOWER, MEAN, PERSISTENCE, SEASONAL, UNIT, UPPER, ForecastShape
from bptt_core.seasons import SLOTS
from bptt_core.shape import Shape
from bptt_core.slab import Field, Layout

_SEASON: Final = ("season_steps", "season_place", "season_period", "season_ring")
_TAKEN: Final = ("observed", "last", "scale", "period", "naive")
_TOLD: Final = ("mean", "lower", "upper", "drift", "warming_up")
_SCRATCH: Final = ("waited", "waited_experts", "issued", "issued_experts", "weights", "alive", "sums", "ago")
_MODULES: Final = (anomaly, drift, intervals, scores, experts, autoregression, aggregation, outputs)

# A name that several modules have means the same in all of them.
NAMES: Final = tuple(
    dict.fromkeys(
        (
            *("H", "O", "A", "K", "numbers", "portfolio", "spread", "seasonal", "position", "memory", "given"),
            *("forecast_steps", "waiting", *_SEASON, *_SCRATCH),
            *(f"to_{name}" for name in (*_TAKEN, *_TOLD)),
            *(name for module in _MODULES for name in module.NAMES),
        )
    )
)


def supports(shape: Shape) -> bool:
    """Whether this stage of such sessions is compiled."""
    return isinstance(shape.served, ForecastShape) and shape.served.ahead == 1


def scratch_fields(shape: ForecastShape) -> list[Field]:
    """What a step needs besides the state."""
    pairs, told = shape.horizon * shape.targets, shape.waiting - EXPERTS
    return [
        Field("waited", (EXPERTS, pairs), np.float64),
        Field("waited_experts", (pairs, told), np.float64),
        Field("issued", (EXPERTS, pairs), np.float64),
        Field("issued_experts", (pairs, told), np.float64),
        Field("weights", (pairs, told), np.float64),
        Field("alive", (shape.targets,), np.float64),
        Field("sums", (told,), np.float64),
        Field("ago", (SLOTS, shape.targets), np.float64),
    ]


def serve_plan(shape: Shape, at: Mapping[str, int], to: Mapping[str, int]) -> tuple[Plan, int]:
    """The plan of the stage, and how many bytes of scratch it needs; `at` and `to` are where the fields of the session
    and of the step lie in their rows."""
    served = shape.served
    assert isinstance(served, ForecastShape)
    plan = Plan(NAMES)
    fields = scratch_fields(served)
    for module in _MODULES:
        module.fill(plan, served, at, to)
        fields += getattr(module, "scratch_fields", lambda _: [])(served)
    scratch = Layout.of(fields)
    plan.set(
        H=served.horizon,
        O=served.targets,
        A=len(shape.scaling.anchors),
        K=0 if served.portfolio is None else len(served.portfolio.names),
        numbers=served.waiting,
        portfolio=int(served.portfolio is not None),
        spread=int(served.spread),
        seasonal=int(served.seasonal),
        position=served.anchor,
        forecast_steps=at["forecast_steps"],
        waiting=at["waiting"],
        **{f"to_{name}": to[name] for name in (*_TAKEN, *_TOLD)},
        **scratch.offsets,
    )
    if served.memory is not None:
        plan.set(memory=served.memory.length, **{name: at[name] for name in _SEASON})
        plan.keep(given=served.memory.slots)
    else:
        plan.set(memory=0)
    return plan, scratch.bytes


@exact
def serve_step(plan: Any, row: int, step: int, event: bool, scratch: int) -> None:
    """Settles what waited for this step's values, and forecasts, in place on the session's row.

    `event` is false for missing steps. What is served is told in the row of the step.
    """
    P = plan.H * plan.O
    now = i64(row + plan.forecast_steps, 1)[0] % plan.H
    _lay_out(plan, row, now, scratch)
    _settle(plan, row, step, scratch)
    _forecast(plan, row, step, scratch)
    _wait(plan, row, now, event, scratch)
    issued = f64_2(scratch + plan.issued, EXPERTS, P)
    mean, lower, upper = f64(step + plan.to_mean, P), f64(step + plan.to_lower, P), f64(step + plan.to_upper, P)
    for p in range(P):
        mean[p], lower[p], upper[p] = issued[MEAN, p], issued[LOWER, p], issued[UPPER, p]


@exact
def serve_clear(plan: Any, row: int, jump: int) -> None:
    """The stream does not go on from the step before, which was `jump` steps and one earlier, in place on the session's
    row: drops the forecasts that wait for its values."""
    H, O, W = plan.H, plan.O, plan.numbers
    waiting = f64(row + plan.waiting, H * H * O * W)
    for k in range(H * H * O * W):
        waiting[k] = np.nan
    if plan.portfolio:
        experts_clear(plan, row)
    if plan.memory:
        place, period, ring = row + plan.season_place, row + plan.season_period, row + plan.season_ring
        seasons_skip(place, period, ring, plan.memory, O, jump)


@exact
def _lay_out(plan: Any, row: int, now: int, scratch: int) -> None:
    """Turns what waited for this step's values round, from pair by pair to number by number."""
    H, O, W = plan.H, plan.O, plan.numbers
    P, E = H * O, W - EXPERTS
    waiting = f64_2(row + plan.waiting, H * P, W)
    waited, told = f64_2(scratch + plan.waited, EXPERTS, P), f64_2(scratch + plan.waited_experts, P, E)
    for h in range(H):
        made = now - 1 - h
        if made < 0:
            made += H
        for o in range(O):
            p = h * O + o
            pair = made * P + p
            for k in range(EXPERTS):
                waited[k, p] = waiting[pair, k]
            for k in range(E):
                told[p, k] = waiting[pair, EXPERTS + k]


@exact
def _settle(plan: Any, row: int, step: int, scratch: int) -> None:
    """What waited meets the step's values, in place on the session's row."""
    O, P = plan.O, plan.H * plan.O
    observed, waited = step + plan.to_observed, scratch + plan.waited
    mean, lower, upper, unit = (
        waited + 8 * P * MEAN, waited + 8 * P * LOWER, waited + 8 * P * UPPER, waited + 8 * P * UNIT,
    )  # fmt: skip
    anomaly_step(plan, row, step, mean, lower, upper, unit)
    i8(step + plan.to_drift, 1)[0] = drift_step(plan, row, observed, mean, unit)
    scores_settle(plan, row, mean, waited + 8 * P * PERSISTENCE, waited + 8 * P * SEASONAL, observed)
    scores_settle_bounds(plan, row, lower, upper, observed)
    values, state, alive = f64(observed, O), i8(step + plan.to_sensor_state, O), f64(scratch + plan.alive, O)
    for o in range(O):  # a stuck sensor's errors are next to nothing and say nothing of those to come
        alive[o] = np.nan if state[o] == STUCK else values[o]
    told = scratch + plan.waited_experts
    interval_settle(plan, row, mean, lower, upper, unit, told if plan.spread else 0, scratch + plan.alive)
    if plan.portfolio:
        scores_settle_experts(plan, row, told, observed, unit, scratch + plan.sums)
        aggregation_settle(plan, row, told, mean, observed, unit)


@exact
def _forecast(plan: Any, row: int, step: int, scratch: int) -> None:
    """What is issued at this step, for all of its pairs, is written to scratch."""
    H, O = plan.H, plan.O
    P = H * O
    issued, told = scratch + plan.issued, scratch + plan.issued_experts
    mean = issued + 8 * P * MEAN
    if plan.portfolio:
        experts_step(plan, row, step, told, scratch)
        aggregation_weights(plan, row, scratch + plan.weights)
        aggregation_mix(plan, scratch + plan.weights, told, mean)
    else:
        outputs_of(plan, step, mean, told if plan.spread else 0)
    spread = told if plan.spread else 0
    warming_up = interval_bounds(plan, row, mean, spread, issued + 8 * P * LOWER, issued + 8 * P * UPPER)
    i8(step + plan.to_warming_up, 1)[0] = warming_up
    A, naive = plan.A, _naive(plan, row, step, scratch)
    last, scale, seasonal = f64(step + plan.to_last, O), f64(step + plan.to_scale, H * A * O), f64(naive, P)
    numbers = f64_2(issued, EXPERTS, P)
    for h in range(H):
        for o in range(O):
            p = h * O + o
            numbers[UNIT, p] = scale[(h * A + plan.position) * O + o]
            numbers[PERSISTENCE, p] = last[o]
            numbers[SEASONAL, p] = last[o] if naive == 0 else seasonal[p]


@exact
def _naive(plan: Any, row: int, step: int, scratch: int) -> int:
    """The address of the naive forecasts [P] by the longest season in force; 0 where there are no seasons."""
    naive: int = step + plan.to_naive
    if plan.memory:
        seasons_step(
            row + plan.season_steps,
            row + plan.season_place,
            row + plan.season_period,
            row + plan.season_ring,
            plan.memory,
            plan.O,
            plan.H,
            plan.given,
            step + plan.to_observed,
            step + plan.to_last,
            naive,
            scratch + plan.ago,
        )
        return naive
    if not plan.seasonal:
        return 0
    period = i64(step + plan.to_period, SLOTS)
    if period[1] > period[0]:
        naive += 8 * plan.H * plan.O
    return naive


@exact
def _wait(plan: Any, row: int, now: int, event: bool, scratch: int) -> None:
    """Keeps what was issued until its values arrive; of a missing step nothing."""
    W, P = plan.numbers, plan.H * plan.O
    E = W - EXPERTS
    waiting = f64_2(row + plan.waiting + 8 * now * P * W, P, W)
    issued, told = f64_2(scratch + plan.issued, EXPERTS, P), f64_2(scratch + plan.issued_experts, P, E)
    for p in range(P):
        for k in range(EXPERTS):
            waiting[p, k] = issued[k, p] if event else np.nan
        for k in range(E):
            waiting[p, EXPERTS + k] = told[p, k] if event else np.nan
    i64(row + plan.forecast_steps, 1)[0] += 1
