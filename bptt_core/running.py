"""Running statistics that neither grow nor forget too fast: means, variances and mean squares of an endless stream.

All are updated in place, element by element, and know nothing of what they measure. The newest value weighs 1/n, never
less than 1/memory: a plain mean at first, an exponentially fading one later. Statistics that become a unit of scale are
moved by one value by at most `CAP` of their own units, so that a spike cannot blind them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]

CAP: Final = 5.0  # a value moves a scale by at most this many of its units
CAP_FROM: Final = 8  # … once it has seen this many
RECENT: Final = 32  # values that tell whether a scale has become far too large
SCORE_MEMORY: Final = 10_000  # of what is reported
WARM_UP: Final = 32  # pairs to settle before a usual error is known


def newest_weight(count: Counts, memory: int) -> Floats:
    """What the newest of `count` values weighs in a running mean; inf, for nobody to use, while there is none."""
    weight: Floats = 1 / np.minimum(count, memory)
    return weight


def blend(running: Floats, value: Floats, weight: Floats, seen: NDArray[np.bool_]) -> None:
    """Moves a running mean towards `value` by `weight` where `seen`, in place."""
    np.add(running, weight * (value - running), out=running, where=seen)


def track_level(count: Counts, mean: Floats, square: Floats, values: Floats, floor: Floats, memory: int) -> None:
    """Moves running mean and mean square deviation towards `values`, in place on the first three; NaN moves nothing."""
    seen = values == values
    count += seen
    weight = newest_weight(count, memory)
    deviation = values - mean
    cap = CAP * np.sqrt(square)
    capped = (count > CAP_FROM) & (cap > CAP * floor)
    np.minimum(deviation, cap, out=deviation, where=capped)
    np.maximum(deviation, -cap, out=deviation, where=capped)
    np.add(mean, weight * deviation, out=mean, where=seen)
    np.add(square, weight * ((1 - weight) * (deviation * deviation) - square), out=square, where=seen)


def track_square(
    count: Counts, square: Floats, values: Floats, floor: Floats, memory: int, recent: Floats | None = None
) -> None:
    """Moves a running mean square towards `values`², in place on the first two; NaN moves nothing.

    With `recent`, moved in place too, it also comes down again in time: that is the mean square of the latest values
    other than 0, and where it is CAP² times smaller, the older ones count no more than the latest.
    """
    seen = values == values
    count += seen
    weight = newest_weight(count, memory)
    newest = values * values
    np.minimum(newest, CAP * CAP * square, out=newest, where=(count > CAP_FROM) & (square > floor * floor))
    np.add(square, weight * (newest - square), out=square, where=seen)
    if recent is not None:
        told = seen & (newest > 0)
        capped = np.where(count > CAP_FROM, np.minimum(newest, CAP * CAP * recent), newest)
        blend(recent, capped, newest_weight(np.maximum(count, 1), RECENT), told)
        np.copyto(count, RECENT, where=told & (count > RECENT) & (CAP * CAP * recent < square))
