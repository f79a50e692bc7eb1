"""What is told of the updates of a session's learners at one step: one report out of many.

The result is the best of the learners', the numbers are means over those whose update was applied, the gradient by lag
is the first learner's, and what became of each learner is kept. Array legend: B sessions, M learners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.events import UpdateResult
from bptt_core.tbptt import StepReport

_ORDER: Final = (
    UpdateResult.NOT_DUE,
    UpdateResult.LEARNING_OFF,
    UpdateResult.NO_TARGET,
    UpdateResult.NON_FINITE,
    UpdateResult.APPLIED,
)
_BY_RANK: Final = np.array(_ORDER, np.int8)
RANK: Final = np.array([0, *(_ORDER.index(result) for result in UpdateResult)])
_NUMBERS: Final = ("loss", "gradient_norm", "clip_scale", "saturation", "update_ratio")


def of_sessions(members: Sequence[tuple[int, ...]], groups: Sequence[StepReport]) -> StepReport:
    """The reports of the groups' learners, session by session, as one row per session; `reset` becomes [B, M].

    `members` are the positions of each group's learners in the portfolio; the first has position 0.
    """
    M = sum(len(places) for places in members)
    if M == 1:
        return groups[0]._replace(reset=groups[0].reset[:, None])
    result = _together(members, [report.result for report in groups])
    applied = result == UpdateResult.APPLIED
    count = applied.sum(axis=-1)
    numbers = (_together(members, [getattr(report, name) for report in groups]) for name in _NUMBERS)
    loss, norm, scale, saturation, ratio = (
        (np.where(applied, table, 0).sum(axis=-1) / count).astype(np.float32) for table in numbers
    )
    best = _BY_RANK[RANK[result].max(axis=-1)]
    norm_by_lag = groups[0].norm_by_lag[:: len(members[0])]
    reset = _together(members, [report.reset for report in groups])
    return StepReport(best, loss, norm, scale, saturation, ratio, norm_by_lag, reset)


def _together(members: Sequence[tuple[int, ...]], columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Columns of all groups [B · members] as a table [B, M] in the order of the portfolio."""
    if len(columns) == 1:
        return columns[0].reshape(-1, len(members[0]))
    sessions = len(columns[0]) // len(members[0])
    table = np.empty((sessions, sum(len(places) for places in members)), columns[0].dtype)
    for places, column in zip(members, columns, strict=True):
        table[:, list(places)] = column.reshape(sessions, len(places))
    return table
