"""Training a session on a history before its stream begins: full backpropagation through time over whole sequences.

The history passes the scale stage once, as a stream would, so that every target is scaled by what was known when its
forecast would have been made. Then each pass goes over all sequences (an episode is one sequence) with the rules of
`full_bptt.py`. At the end the trained network runs over the last sequence once, and the live stream goes on from there
with carry, window, scales, seasons and time; nothing of the history is served, counted or scored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import full_bptt, scaling, stages, timeline
from bptt_core.checks import FieldError
from bptt_core.events import Events, WarmStart
from bptt_core.learner import LearnerShape
from bptt_core.scales import Scaled
from bptt_core.shape import Shape
from bptt_core.slab import Rows
from bptt_core.stages import Batch
from bptt_core.timeline import Timeline

MAX_TAPE_VALUES: Final = 2**24  # of the longest sequence; numbers that its forward leaves for its backward
MAX_READ_VALUES: Final = 2**23  # of all inputs and targets; while they are scaled they take several times as much
MAX_PASS: Final = 2**34  # steps × parameters of one pass: some seconds, for which others wait
MAX_STEPS: Final = 20_000  # of the whole history, those that fill gaps in time included


@dataclass(frozen=True, slots=True)
class Pupil:
    """One of the session's learners: its shape, its anchor's position, and copies of its rows (B = 1)."""

    shape: LearnerShape
    anchor: int
    device: Rows
    book: Rows


class WarmUp:
    """One warm start in progress, on copies of one session's rows: `pieces` times `read_piece`, then passes, then the
    end. Each of these is short enough for others to be served in between."""

    pieces: ClassVar[int] = 10

    def __init__(
        self,
        xp: Any,
        shape: Shape,
        host: Rows,
        pupils: list[Pupil],
        history: Events,
        per_pass: bool,
        store: Callable[[], None],
    ) -> None:
        self._xp, self._shape, self._host, self._pupils = xp, shape, host, pupils
        self._per_pass, self._store = per_pass, store
        self._loss: list[float] = []
        self._applied = 0
        clock, self._steps = timeline.steps_of(
            Timeline.of_row(host["timeline"][0]), history, shape.longest_gap, shape.labels, MAX_STEPS
        )
        starts = np.flatnonzero(self._steps.clear).tolist()
        self._bounds = [0, *(start for start in starts if start), len(self._steps)]
        self._check_length(len(self._steps), max(np.diff(self._bounds).tolist()))
        host["timeline"][0] = clock.row()
        self._read: list[
            tuple[NDArray[Any], list[NDArray[Any]]]
        ] = []  # of each step its inputs and what arrived with it
        self._sequences: list[list[tuple[Any, Any]]] = []  # of each pupil

    def read_piece(self) -> None:
        """Takes in the next of `pieces` parts of the history, if there is one left."""
        if self._sequences:
            return
        shape, read = self._shape, len(self._read)
        piece = self._steps.part(read, read + math.ceil(len(self._steps) / self.pieces))
        with np.errstate(all="ignore"):
            batch = Batch.of([piece])
            scaled = stages.scale(shape, self._host, batch)
            quiet = [np.zeros_like(event) for event in batch.event]  # forecasts of no event: served and scored nowhere
            blank = [np.zeros((1, shape.learners, shape.learner.outputs)) for _ in scaled]
            stages.serve(shape, self._host, replace(batch, event=quiet), scaled, blank)
        self._read += map(self._learned, scaled)
        if len(self._read) == len(self._steps):
            self._sequences = [
                [self._sequence(k, self._read[a:b]) for a, b in itertools.pairwise(self._bounds)]
                for k in range(len(self._pupils))
            ]
            self._read = []

    def run_pass(self) -> float:
        """Goes over the history once with every learner; returns the mean loss before the updates of this pass, mean
        over the learners, NaN without a target."""
        self._read_all()
        losses = []
        with np.errstate(all="ignore"):
            for pupil, sequences in zip(self._pupils, self._sequences, strict=True):
                loss, applied = full_bptt.train_pass(
                    self._xp, pupil.shape, pupil.device, pupil.book, sequences, self._per_pass
                )
                losses.append(loss)
                self._applied += applied
        self._loss.append(sum(losses) / len(losses))
        return self._loss[-1]

    def finish(self) -> WarmStart:
        """Leaves the session where the history ended."""
        self._read_all()
        with np.errstate(all="ignore"):
            for pupil, sequences in zip(self._pupils, self._sequences, strict=True):
                full_bptt.enter_stream(self._xp, pupil.shape, pupil.device, pupil.book, *sequences[-1])
        if "label_events" in self._host:
            self._host["label_events"][...] = 0  # the first live event takes the first row of the rings
        self._store()
        return WarmStart(np.array(self._loss), self._applied)

    def _read_all(self) -> None:
        while not self._sequences:
            self.read_piece()

    def _learned(self, scaled: Scaled) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """What a step is learned from, inputs [1, D] and for each learner targets that arrived with it [1, N]; the rest
        is let go of."""
        dtype = self._pupils[0].device["params"].dtype
        anchors = tuple(pupil.anchor for pupil in self._pupils)
        targets = scaling.learner_targets(self._shape.scaling, scaled, anchors).astype(dtype)
        return scaled.inputs.astype(dtype), [targets[k : k + 1] for k in range(len(anchors))]

    def _sequence(self, k: int, steps: list[tuple[NDArray[Any], list[NDArray[Any]]]]) -> tuple[Any, Any]:
        """Inputs [T, D] and targets [T, N] of one sequence for one learner, on the backend's side."""
        xs, arrived = (np.concatenate(column) for column in ([x for x, _ in steps], [y[k] for _, y in steps]))
        targets: NDArray[Any] = full_bptt.sequence_targets(self._pupils[k].shape, arrived)
        return self._xp.asarray(xs), self._xp.asarray(targets)

    def _check_length(self, total: int, steps: int) -> None:
        shapes = [pupil.shape for pupil in self._pupils]
        width = sum(shape.inputs + shape.outputs for shape in shapes)
        if total * width > MAX_READ_VALUES:
            raise FieldError("history", total, f"at most {MAX_READ_VALUES // width} steps with inputs of this width")
        per_step = max(8 * shape.hidden * shape.layers + shape.inputs + 2 * shape.outputs for shape in shapes)
        if steps * per_step > MAX_TAPE_VALUES:
            most = MAX_TAPE_VALUES // per_step
            raise FieldError("history", steps, f"at most {most} steps per sequence for a network of this size")
        size = sum(shape.layout.size for shape in shapes)
        if total * size > MAX_PASS:
            most = MAX_PASS // size
            raise FieldError("history", total, f"at most {most} steps for networks of this size")
