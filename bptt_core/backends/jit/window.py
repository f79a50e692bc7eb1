"""One learner's window in compiled code, as in `bptt_core/window.py`: its rows, its carries, which pairs have arrived.

`device` and `host` are the addresses of the learner's rows, whose fields are those of `learner.py`. Array legend there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bptt_core.backends.jit.memory import exact, f32, i8, i64
from bptt_core.backends.jit.network import net_step
from bptt_core.backends.jit.products import copy, fill_zeros


@exact
def forget(target: int, count: int) -> None:
    """Float32 NaN."""
    numbers = f32(target, count)
    for k in range(count):
        numbers[k] = np.float32(np.nan)


@exact
def append(plan: Any, device: int, host: int, x: int, event: int, scratch: int) -> None:
    """Puts the newest row, inputs at `x` [D], into the window; no target of it is known."""
    length, D, N = i64(host + plan.length, 1), plan.D, plan.N
    if length[0] == plan.W:
        advance(plan, device, host, device + plan.inputs, device + plan.boundary, scratch)
        pass_rows(plan, device, host, 1)
    newest = length[0]
    copy(device + plan.inputs + 4 * D * newest, x, D)
    forget(device + plan.targets + 4 * N * newest, N)
    length[0] = newest + 1
    if plan.ahead == 0:
        i64(host + plan.event_count, 1)[0] += event


@exact
def arrive(plan: Any, device: int, host: int, arrived: int) -> None:
    """Puts the targets at `arrived` [N] beside the rows they belong to, NaN where none came with the newest row."""
    H, O, N = plan.horizon, plan.O, plan.N
    newest = i64(host + plan.length, 1)[0] - 1
    targets, values = f32(device + plan.targets, plan.W * N), f32(arrived, N)
    for h in range(min(H, newest - plan.ahead + 1)):
        row = newest - plan.ahead - h
        for k in range(h * O, h * O + O):
            targets[row * N + k] = values[k]
    if plan.ahead == 0:
        when, now = i64(host + plan.arrived_event, plan.W * N), i64(host + plan.event_count, 1)[0]
        for k in range(newest * N, newest * N + N):
            when[k] = now


@exact
def mark_active(plan: Any, device: int, host: int, span: int, active: int) -> tuple[int, int, int]:
    """Marks which pairs an update trains: known, and arrived in the last `span` events.

    Writes the mask int8 [W, N] at `active`, whole rows from the first row to the newest that has such a pair; returns
    their number, that first row and that newest.
    """
    N, O, ahead, length = plan.N, plan.O, plan.ahead, i64(host + plan.length, 1)[0]
    oldest = 0 if ahead == 0 else max(0, length - span - plan.horizon)
    mask, targets = i8(active, plan.W * N), f32(device + plan.targets, plan.W * N)
    when = i64(host + max(plan.arrived_event, 0), plan.W * N)  # with labels
    now = i64(host + max(plan.event_count, 0), 1)[0]
    count, first, newest = 0, length, -1
    for row in range(oldest, length - ahead):
        for n in range(N):
            k = row * N + n
            if ahead == 0:
                recent = now - when[k] < span
            else:
                since = length - 2 - row - n // O
                recent = 0 <= since < span
            mask[k] = recent and targets[k] == targets[k]
            if mask[k]:
                count += 1
                first, newest = min(first, row), row
    return count, first, newest


@exact
def advance(plan: Any, device: int, host: int, x: int, carry: int, scratch: int) -> None:
    """One step of a carry through `x` [D], with the weights of today; one that is not finite then becomes zero and is
    counted."""
    net_step(plan, device + plan.params, x, carry, scratch)
    numbers = f32(carry, plan.carried)
    for k in range(plan.carried):
        if not math.isfinite(numbers[k]):
            fill_zeros(carry, plan.carried)
            i64(host + plan.carry_resets, 1)[0] += 1
            return


@exact
def pass_rows(plan: Any, device: int, host: int, count: int) -> None:
    """Gives up the oldest `count` rows; the boundary carry is the caller's."""
    D, N, length = plan.D, plan.N, i64(host + plan.length, 1)
    left = length[0] - count
    copy(device + plan.inputs, device + plan.inputs + 4 * D * count, D * left)  # forwards, so they may overlap
    copy(device + plan.targets, device + plan.targets + 4 * N * count, N * left)
    if plan.ahead == 0:
        when = i64(host + plan.arrived_event, plan.W * N)
        for k in range(N * left):
            when[k] = when[k + N * count]
    length[0] = left


@exact
def clear_window(plan: Any, device: int, host: int) -> None:
    """Forgets window and carries."""
    clear_carries(plan, device)
    i64(host + plan.length, 1)[0] = 0


@exact
def clear_carries(plan: Any, device: int) -> None:
    fill_zeros(device + plan.carry, plan.carried)
    fill_zeros(device + plan.boundary, plan.carried)
