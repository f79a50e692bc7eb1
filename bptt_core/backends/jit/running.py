"""The running statistics of `bptt_core/running.py` for one number at a time, in compiled code.

A statistic is element `k` of arrays that hold many, moved in place. NumPy's minima and maxima are here too: of two
numbers, one of them NaN, a processor's own choose as they like.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bptt_core.backends.jit.memory import exact
from bptt_core.running import CAP, CAP_FROM, RECENT

_CAP_SQUARE = CAP * CAP


@exact
def minimum(a: float, b: float) -> float:
    """The smaller one; NaN if either is."""
    return a if a < b or a != a else b


@exact
def maximum(a: float, b: float) -> float:
    """The larger one; NaN if either is."""
    return a if a > b or a != a else b


@exact
def fmin(a: float, b: float) -> float:
    """The smaller one, or the one that is not NaN."""
    return a if a <= b or b != b else b


@exact
def fmax(a: float, b: float) -> float:
    """The larger one, or the one that is not NaN."""
    return a if a >= b or b != b else b


@exact
def limited(value: float, limit: float) -> float:
    """`value` within ± `limit`; NaN stays."""
    return maximum(minimum(value, limit), -limit)


@exact
def newest_weight(count: int, memory: int) -> float:
    """What the newest of `count` values weighs in a running mean; inf while there is none."""
    return 1.0 / min(count, memory)


@exact
def blend(running: float, value: float, weight: float) -> float:
    """A running mean moved towards `value` by `weight`."""
    return running + weight * (value - running)


@exact
def track_level(count: Any, mean: Any, square: Any, k: int, value: float, floor: float, memory: int) -> None:
    """Moves running mean and mean square deviation towards `value`, in place on the first three; NaN moves nothing."""
    if value != value:
        return
    count[k] += 1
    weight = newest_weight(count[k], memory)
    deviation = value - mean[k]
    cap = CAP * np.sqrt(square[k])
    if count[k] > CAP_FROM and cap > CAP * floor:
        deviation = limited(deviation, cap)
    mean[k] += weight * deviation
    square[k] += weight * ((1.0 - weight) * (deviation * deviation) - square[k])


@exact
def track_square(count: Any, square: Any, k: int, value: float, floor: float, memory: int) -> float:
    """Moves a running mean square towards `value`², in place on the first two; NaN moves nothing.

    Returns what it was moved towards, no further away than it may be.
    """
    newest = value * value
    if value == value:
        count[k] += 1
        if count[k] > CAP_FROM and square[k] > floor * floor:
            newest = minimum(newest, _CAP_SQUARE * square[k])
        square[k] += newest_weight(count[k], memory) * (newest - square[k])
    return newest


@exact
def track_square_and_recent(
    count: Any, square: Any, recent: Any, k: int, value: float, floor: float, memory: int
) -> None:
    """As `track_square`, and comes down again in time by the mean square `recent` of the latest values other than 0."""
    newest = track_square(count, square, k, value, floor, memory)
    if value == value and newest > 0:
        capped = minimum(newest, _CAP_SQUARE * recent[k]) if count[k] > CAP_FROM else newest
        recent[k] = blend(recent[k], capped, newest_weight(max(count[k], 1), RECENT))
        if count[k] > RECENT and _CAP_SQUARE * recent[k] < square[k]:
            count[k] = RECENT
