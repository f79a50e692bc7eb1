"""Which step each row of a file is: the server forecasts steps of equal length, and where a file has a gap its rows are
further apart. The same rule as the server's, stated a second time because a client does not know the server's code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DIFFERENCES = 16


def steps_of(times_ns: list[int] | None, rows: int, period_ns: int | None) -> NDArray[np.int64]:
    """The step of each row, from 0; without times every row is one step.

    The period is `period_ns`, or from then on the median of the first 16 differences that are not 0. With a period,
    rows lie on a grid that begins at the first of them and follows them within half a period.
    """
    if times_ns is None:
        return np.arange(rows)
    steps = np.zeros(rows, np.int64)
    period, grid, differences = period_ns, times_ns[0], list[int]()
    for i in range(1, rows):
        now, ahead = times_ns[i], 1
        if period is not None:
            ahead = max(1, (now - grid + period // 2) // period)
            grid = min(max(grid + ahead * period, now - period // 2), now + period // 2)
        elif now > times_ns[i - 1]:
            differences.append(now - times_ns[i - 1])
            if len(differences) == DIFFERENCES:
                period, grid = sorted(differences)[DIFFERENCES // 2], now
        steps[i] = steps[i - 1] + ahead
    return steps
