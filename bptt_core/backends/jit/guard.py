"""The guard of `bptt_core/guard.py` for one learner, in compiled code: what leads it back when it goes astray.

`device` and `host` are the addresses of the learner's rows. Functions return what became of the learner, a
ResetReason, or 0.
"""

from __future__ import annotations

import math
from typing import Any, Final

from bptt_core import guard
from bptt_core.backends.jit.memory import exact, f64, i64
from bptt_core.backends.jit.products import copy, fill_zeros
from bptt_core.backends.jit.window import clear_carries, forget
from bptt_core.events import ResetReason

NON_FINITE: Final = int(ResetReason.NON_FINITE)
DIVERGED: Final = int(ResetReason.DIVERGED)
RESTARTED: Final = int(ResetReason.RESTARTED)
SEASON: Final = int(ResetReason.SEASON)

_MEMORY, _FEWEST, _FAR_ABOVE, _SLACK = guard.MEMORY, guard.FEWEST, guard.FAR_ABOVE, guard.SLACK
_LEAP, _STEP, _SLOWER, _MUCH_SLOWER = guard.LEAP, guard.STEP, guard.SLOWER, guard.MUCH_SLOWER
_FAILURES, _STRIKES, _LEAST_FACTOR = guard.FAILURES, guard.STRIKES, guard.LEAST_FACTOR
_KEEP_EVERY, _RECOVERY = guard.KEEP_EVERY, guard.RECOVERY


@exact
def fail(plan: Any, device: int, host: int) -> int:
    """Counts an update that was not finite; too many in a row lead the learner back."""
    failures = i64(host + plan.failures, 1)
    failures[0] += 1
    return lead_back(plan, device, host, NON_FINITE) if failures[0] >= _FAILURES else 0


@exact
def judge(plan: Any, device: int, host: int, loss: float, naive: float) -> int:
    """Takes the finite loss of an update, and the naive one; leads the learner back, or keeps its parameters as good
    ones, or neither."""
    usual, usual_naive = f64(host + plan.guard_loss, 1), f64(host + plan.guard_naive, 1)
    count, healthy = i64(host + plan.guard_count, 1), i64(host + plan.healthy, 1)
    i64(host + plan.failures, 1)[0] = 0
    count[0] += 1
    weight = 1.0 / min(count[0], _MEMORY)
    usual[0] += weight * (loss - usual[0])
    usual_naive[0] += weight * (naive - usual_naive[0])
    healthy[0] += 1
    i64(host + plan.steady, 1)[0] += 1
    if count[0] >= _FEWEST and usual[0] > _FAR_ABOVE * usual_naive[0] + _SLACK:
        return lead_back(plan, device, host, DIVERGED)
    if healthy[0] >= _KEEP_EVERY and usual[0] <= usual_naive[0] + _SLACK:
        _keep(plan, device, host)
    return 0


@exact
def take_back(plan: Any, device: int, host: int, before: int, ratio: float) -> int:
    """Undoes an update that made the parameters leap: they were those at `before`, and `ratio` is the norm of the
    change over theirs. Lowers the rate to where it would have been a small step."""
    if ratio <= _LEAP:
        return 0
    copy(device + plan.params, before, plan.P)
    factor = _MUCH_SLOWER
    if math.isfinite(ratio):
        factor = min(_STEP / ratio, _MUCH_SLOWER)
    else:  # moments that no update could be taken with
        _forget_moments(plan, device, host)
    _slow_down(plan, host, factor)
    i64(host + plan.reset_diverged, 1)[0] += 1
    return DIVERGED


@exact
def lead_back(plan: Any, device: int, host: int, reason: int) -> int:
    """Back to the good parameters, or to a new readout if that has happened too often."""
    strikes = i64(host + plan.strikes, 1)
    strikes[0] += 1
    anew = strikes[0] > _STRIKES
    copy(device + plan.params, device + plan.good, plan.P)
    if anew:
        _begin_readout_anew(plan, device)
        strikes[0] = 0
    _forget(plan, device, host)
    if reason != NON_FINITE:
        _forget_moments(plan, device, host)
    _slow_down(plan, host, _SLOWER)
    if anew:
        i64(host + plan.reset_restarted, 1)[0] += 1
        return RESTARTED
    i64(host + (plan.reset_diverged if reason == DIVERGED else plan.reset_non_finite), 1)[0] += 1
    return reason


@exact
def change_season(plan: Any, device: int, host: int) -> None:
    """What the learner starts from is another value now: its readout begins anew, and what it was to learn is
    forgotten."""
    _begin_readout_anew(plan, device)
    _forget(plan, device, host)
    _forget_moments(plan, device, host)
    forget(device + plan.targets, plan.W * plan.N)
    i64(host + plan.reset_season, 1)[0] += 1


@exact
def _keep(plan: Any, device: int, host: int) -> None:
    """The parameters are good ones; a learner that does so well for long gets its rate back step by step."""
    copy(device + plan.good, device + plan.params, plan.P)
    i64(host + plan.healthy, 1)[0] = 0
    i64(host + plan.strikes, 1)[0] = 0
    steady, factor = i64(host + plan.steady, 1), f64(host + plan.rate_factor, 1)
    if steady[0] >= _RECOVERY:
        factor[0] = min(1.0, 2.0 * factor[0])
        steady[0] = 0


@exact
def _slow_down(plan: Any, host: int, by: float) -> None:
    factor = f64(host + plan.rate_factor, 1)
    factor[0] = max(_LEAST_FACTOR, by * factor[0])
    i64(host + plan.healthy, 1)[0] = 0
    i64(host + plan.steady, 1)[0] = 0


@exact
def _begin_readout_anew(plan: Any, device: int) -> None:
    fill_zeros(device + plan.params + 4 * plan.readout, plan.P - plan.readout)
    if plan.guarded:
        copy(device + plan.good, device + plan.params, plan.P)


@exact
def _forget(plan: Any, device: int, host: int) -> None:
    """Carries and the losses so far."""
    clear_carries(plan, device)
    if plan.guarded:
        for field in (plan.guard_count, plan.healthy, plan.steady, plan.failures):
            i64(host + field, 1)[0] = 0


@exact
def _forget_moments(plan: Any, device: int, host: int) -> None:
    if plan.moments > 0:
        fill_zeros(device + plan.moment0, plan.P)
    if plan.moments > 1:
        fill_zeros(device + plan.moment1, plan.P)
    i64(host + plan.optimizer_steps, 1)[0] = 0
