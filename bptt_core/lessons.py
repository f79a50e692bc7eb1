"""A lesson: what learners of one shape are given in one call, step by step, and what they give back.

This is the seam between the fold and whoever computes its learners: the reference, compiled code or a GPU. Learners of
one session share its inputs; each has the targets of its own anchor. Array legend: n learners, R steps of all sessions
of the call, A anchors, D inputs, N pairs of a step, K outputs; a learner's steps are consecutive rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bptt_core.health import lags
from bptt_core.learner import LearnerShape

EVENT, CLEAR = 1, 2  # flags of a step: it is an event, no filler of a gap; the stream does not go on from before it …
FIRST_CHANGED, SECOND_CHANGED = CHANGED = 4, 8  # … and the season of this slot is another one from this step on

# Columns of a report; the gradient by lag follows. NaN: there was no update, or it was not measured.
RESULT, RESET, LOSS, GRADIENT_NORM, CLIP_SCALE, SATURATION, UPDATE_RATIO, BY_LAG = range(8)


def report_width(shape: LearnerShape) -> int:
    """Columns of a report."""
    return BY_LAG + len(lags(shape.window))


@dataclass(frozen=True, slots=True)
class Lesson:
    """The steps of n learners of one shape."""

    start: NDArray[np.int64]  # [n] row of a learner's first step
    count: NDArray[np.int64]  # [n] its steps
    anchor: NDArray[np.int64]  # [n] which of the targets are its own
    season: NDArray[np.int64]  # [n] the season slot that its anchor is taken from; -1: none
    inputs: NDArray[np.float32]  # [R, D] scaled
    arrived: NDArray[np.float32]  # [R, A, N] scaled targets that became known; NaN: none
    flags: NDArray[np.int8]  # [R]

    @property
    def first_output(self) -> NDArray[np.int64]:
        """[n] row of a learner's first step in what it gives back: learner after learner."""
        first: NDArray[np.int64] = np.cumsum(self.count) - self.count
        return first


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of a lesson: a row for every step of every learner, learner after learner."""

    ys: NDArray[np.float32]  # [Σ count, K]
    reports: NDArray[np.float32]  # [Σ count, columns] of `report_width`; results and resets as numbers
