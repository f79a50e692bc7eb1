"""The guard of a learner: one that goes astray is led back before it harms anything, by its own errors alone.

An update that makes the parameters leap is taken back at once, and the learning rate is lowered to where it would
have been a small step. Now and then the parameters of a learner that does well are kept. A learner whose loss or
gradient is not finite several times in a row, or whose loss stays far above that of the naive forecast (an output of
0 on the same pairs), goes back to them with empty moments, empty carries and half its learning rate; if that happens
again and again, its readout begins anew, and with it the naive forecast. Doing well for a while doubles the rate
again, up to the configured one. What the session serves is not looked at. Array legend as in learner.py.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import Array
from bptt_core.events import ResetReason
from bptt_core.parameters import ParameterLayout
from bptt_core.slab import Field, Rows

MEMORY: Final = 64  # updates over which losses are averaged
FEWEST: Final = 32  # updates before a learner is judged
FAR_ABOVE: Final = 4.0  # times the naive loss is too much …
SLACK: Final = 0.05  # … beside this, in units of the scaled target: a stream that stands still has a naive loss of 0
LEAP: Final = 0.5  # an update that changes the parameters by this much of their norm is no step of learning
FAILURES: Final = 2  # updates in a row that are not finite
KEEP_EVERY: Final = 128  # updates of a learner that does well between two keepings of its parameters
RECOVERY: Final = 1024  # updates of a learner that does well until its rate is doubled again
STEP: Final = 0.005  # what the update of one that leapt would have changed at the rate it gets
SLOWER, MUCH_SLOWER = 0.5, 0.25  # factors on the rate of one that went back, and at most of one that leapt
STRIKES: Final = 3  # times a learner goes back to the same parameters before it begins anew
LEAST_FACTOR: Final = 2.0**-20
RESETS: Final = {reason: f"reset_{reason.name.lower()}" for reason in ResetReason}


def fields() -> list[Field]:
    """State of one guarded learner on the host; its `good` parameters are the backend's."""
    return [
        Field("guard_loss", (), np.float64),
        Field("guard_naive", (), np.float64),
        Field("guard_count", (), np.int64),  # updates since the learner was last led back
        Field("healthy", (), np.int64),  # updates since the parameters were kept
        Field("steady", (), np.int64),  # … and since the rate was changed
        Field("failures", (), np.int64),
        Field("strikes", (), np.int64),
    ]


def failed(host: Rows, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts an update of the learners in `index` that was not finite; returns those that must go back. In place."""
    host["failures"][index] += 1
    lost: NDArray[np.int64] = index[host["failures"][index] >= FAILURES]
    return lost


def judge(
    host: Rows,
    index: NDArray[np.int64],
    loss: NDArray[np.floating[Any]],
    naive: NDArray[np.floating[Any]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Takes the finite losses [n] of an update of the learners in `index` [n], in place on `host`.

    Returns those that must go back, and those whose parameters are good ones to keep.
    """
    host["failures"][index] = 0
    count = host["guard_count"][index] + 1
    weight = 1 / np.minimum(count, MEMORY)
    loss, naive = loss.astype(np.float64), naive.astype(np.float64)
    usual, usual_naive = host["guard_loss"][index], host["guard_naive"][index]
    usual += weight * (loss - usual)
    usual_naive += weight * (naive - usual_naive)
    host["guard_loss"][index], host["guard_naive"][index], host["guard_count"][index] = usual, usual_naive, count
    astray = (count >= FEWEST) & (usual > FAR_ABOVE * usual_naive + SLACK)
    host["healthy"][index] += 1
    host["steady"][index] += 1
    keep = (host["healthy"][index] >= KEEP_EVERY) & (usual <= usual_naive + SLACK)
    return index[astray], index[keep & ~astray]


def take_back(
    xp: Any, rows: Rows, before: Array, ratio: NDArray[np.floating[Any]], host: Rows, index: NDArray[np.int64]
) -> NDArray[np.int8]:
    """Undoes the update of those learners in `index` [n] that it made leap, before anything is forecast with what came
    of it, and lowers their rates to where it would have been a small step; in place on their `rows`, whose parameters
    were `before` [n, P], and on `host`.

    `ratio` [n] is the norm of the change over that of the parameters. Returns a ResetReason or 0 for each.
    """
    leapt = ~(ratio <= LEAP)
    became: NDArray[np.int8] = np.where(leapt, ResetReason.DIVERGED, 0).astype(np.int8)
    if leapt.any():
        at = xp.asarray(np.flatnonzero(leapt))
        rows["params"][at] = before[at]
        lost = np.flatnonzero(~np.isfinite(ratio))  # moments that no update could be taken with
        _forget_moments(xp, rows, host, lost, index[lost])
        ratio = ratio[leapt].astype(np.float64)
        _slow_down(host, index[leapt], np.where(ratio < np.inf, np.minimum(STEP / ratio, MUCH_SLOWER), MUCH_SLOWER))
        _count(host, index, became)
    return became


def keep(xp: Any, device: Rows, host: Rows, index: NDArray[np.int64]) -> None:
    """Keeps the parameters of the learners in `index` as good ones, in place."""
    at = xp.asarray(index)
    device["good"][at] = device["params"][at]
    host["healthy"][index], host["strikes"][index] = 0, 0
    steady = index[host["steady"][index] >= RECOVERY]
    host["rate_factor"][steady] = np.minimum(1, 2 * host["rate_factor"][steady])
    host["steady"][steady] = 0


def lead_back(
    xp: Any, layout: ParameterLayout, device: Rows, host: Rows, index: NDArray[np.int64], reason: ResetReason
) -> NDArray[np.int8]:
    """The learners in `index` go back to their good parameters, or begin anew if they have done so too often; in place.

    Returns what became of each, a ResetReason [n].
    """
    host["strikes"][index] += 1
    anew = host["strikes"][index] > STRIKES
    at = xp.asarray(index)
    device["params"][at] = device["good"][at]
    _begin_readout_anew(xp, layout, device, index[anew])
    # An update that is not finite is not taken, so the moments are those of good ones, and worth keeping.
    _forget(xp, device, host, index, moments=reason != ResetReason.NON_FINITE)
    host["strikes"][index[anew]] = 0
    _slow_down(host, index, SLOWER)
    became: NDArray[np.int8] = np.where(anew, ResetReason.RESTARTED, reason).astype(np.int8)
    _count(host, index, became)
    return became


def change_season(xp: Any, layout: ParameterLayout, device: Rows, host: Rows, index: NDArray[np.int64]) -> None:
    """What the learners in `index` start from is another value now: their readout begins anew, in place, and what they
    were to learn is forgotten. The rest of the network stays as it is."""
    _begin_readout_anew(xp, layout, device, index)
    _forget(xp, device, host, index)
    device["targets"][xp.asarray(index)] = np.nan
    _count(host, index, np.full(len(index), ResetReason.SEASON, np.int8))


def _slow_down(host: Rows, index: NDArray[np.int64], factor: float | NDArray[np.float64]) -> None:
    host["rate_factor"][index] = np.maximum(LEAST_FACTOR, factor * host["rate_factor"][index])
    host["healthy"][index], host["steady"][index] = 0, 0


def _begin_readout_anew(xp: Any, layout: ParameterLayout, device: Rows, index: NDArray[np.int64]) -> None:
    """An output of 0: the naive forecast."""
    if len(index):
        at = xp.asarray(index)
        rows = device["params"][at]
        for part in layout.readout(rows):
            part[...] = 0
        device["params"][at] = rows
        if "good" in device:
            device["good"][at] = rows


def _forget(xp: Any, device: Rows, host: Rows, index: NDArray[np.int64], moments: bool = True) -> None:
    """Carries, the losses so far and, with `moments`, those of the optimiser."""
    at = xp.asarray(index)
    for name in ("carry", "boundary"):
        device[name][at] = 0
    for name in ("guard_count", "healthy", "steady", "failures"):
        if name in host:
            host[name][index] = 0
    if moments:
        _forget_moments(xp, device, host, index, index)


def _forget_moments(xp: Any, rows: Rows, host: Rows, which: NDArray[np.int64], index: NDArray[np.int64]) -> None:
    """The optimiser begins anew for the learners `which` of `rows`, which are `index` of `host`."""
    at = xp.asarray(which)
    for name in (name for name in rows if name.startswith("moment")):
        rows[name][at] = 0
    host["optimizer_steps"][index] = 0


def _count(host: Rows, index: NDArray[np.int64], reasons: NDArray[np.int8]) -> None:
    for reason, name in RESETS.items():
        host[name][index] += reasons == reason
