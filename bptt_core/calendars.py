"""The calendar as inputs: where a step lies in its day and in its week, from its time alone.

It knows neither the stream nor where on earth it comes from: days are those of UTC, and a learner finds out which hour
of them is the morning. Phases are taken in integers, so that they do not lose a digit however late it is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.running import Floats

DAY_NS: Final = 86_400 * 10**9
CYCLES_NS: Final = np.array([DAY_NS, 7 * DAY_NS])
EPOCH_NS: Final = np.array([0, 3 * DAY_NS])  # 1970 began on a Thursday, weeks begin on Monday
WIDTH: Final = 2 * len(CYCLES_NS)
FEWEST: Final = 4  # steps of a season


def calendar(time_ns: NDArray[np.int64], timed: NDArray[np.bool_], period_ns: NDArray[np.int64]) -> Floats:
    """Sine and cosine of the time of day and of the time of week, [B, 4].

    `time_ns` [B] are nanoseconds since 1970 (UTC) and `period_ns` [B] those from step to step. All are 0 where a
    session is not `timed` [B]; those of a cycle are, where a step takes the whole of it.
    """
    # Each cycle's phase by itself first: no sum of a time and an epoch can overflow.
    phase = (time_ns[:, None] % CYCLES_NS + EPOCH_NS) % CYCLES_NS
    angle = phase * (2 * np.pi / CYCLES_NS)
    shown = timed[:, None] & (period_ns[:, None] < CYCLES_NS)
    inputs = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return np.where(shown[..., None], inputs, 0.0).reshape(len(time_ns), WIDTH)


def usual_seasons(timed: NDArray[np.bool_], period_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """A day and a week in steps of `period_ns` [B], the shorter first, [B, 2]; 0: not whole steps, or too few of them.

    A measured period is never exact: a cycle may miss whole steps by an eighth of one.
    """
    period = np.where(timed & (period_ns > 0), period_ns, 2 * CYCLES_NS[1])[:, None]
    steps = (CYCLES_NS + period // 2) // period
    off = np.abs(CYCLES_NS - steps * period)
    steps = np.where((off <= period // 8) & (steps >= FEWEST), steps, 0)
    shifted = steps[:, 0] == 0
    steps[shifted] = steps[shifted][:, ::-1]
    return steps
