"""The three stages of the fold over the steps of sessions of one shape: scale → learners → forecasts.

No learner sees another's output and scaling sees none at all, so each stage can run over all steps of a call before the
next begins. The learners' stage is the only one that touches the backend's arrays: one copy in, one copy out. What is
served and scored is numbers (`forecasts.py`) or symbols (`symbols.py`); both have the same face.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import reports, scaling, tbptt, timeline
from bptt_core.learner_config import SEASON_ANCHORS
from bptt_core.lessons import (
    BY_LAG,
    CHANGED,
    CLEAR,
    CLIP_SCALE,
    EVENT,
    GRADIENT_NORM,
    LOSS,
    RESET,
    RESULT,
    SATURATION,
    UPDATE_RATIO,
    Learned,
    Lesson,
)
from bptt_core.outcomes import Outcomes
from bptt_core.scales import Scaled, ScalingShape
from bptt_core.serving import Served
from bptt_core.shape import Group, Shape
from bptt_core.slab import Rows, first
from bptt_core.timeline import Steps

CHUNK_STEPS: Final = 256

Learn = Callable[[Lesson], Learned]  # gives learners of one shape a lesson


def run(shape: Shape, host: Rows, learn: list[Learn], steps: list[Steps]) -> list[Outcomes]:
    """Takes each session's steps, in place on its rows of `host`; returns the outcomes of its events. `learn` gives a
    lesson to the learners of each group of the shape, session by session.

    Row k of every field belongs to `steps[k]`; no session may have fewer steps than a later one. The steps are taken in
    chunks: an event after a gap in time is many steps, and memory must not grow with them.
    """
    pieces: list[list[Outcomes]] = [[] for _ in steps]
    for start in range(0, len(steps[0]), CHUNK_STEPS):
        chunk = [s.part(start, start + CHUNK_STEPS) for s in steps if len(s) > start]
        outcomes = _run_chunk(shape, first(host, len(chunk)), learn, chunk, len(steps))
        for piece, part in zip(pieces, outcomes, strict=False):
            piece.append(part)
    return [Outcomes.joined(piece) for piece in pieces]


@dataclass(frozen=True)
class Batch:
    """Steps of several sessions turned round: per step the rows of the sessions that have it, always the first ones."""

    active: list[int]  # sessions that have the step
    values: list[NDArray[Any]]  # [active, D]
    labels: list[NDArray[Any]]  # [active, O]
    event: list[NDArray[Any]]  # [active]
    clear: list[NDArray[Any]]
    jump: list[NDArray[Any]]
    clock: list[NDArray[Any]]  # [active, 3]

    @classmethod
    def of(cls, steps: list[Steps]) -> Batch:
        """The steps of sessions, longest first."""
        lengths = np.array([len(s) for s in steps])
        active = [int((lengths > s).sum()) for s in range(int(lengths[0]))]
        return cls(active, *(_by_step([getattr(s, name) for s in steps], active) for name in timeline.COLUMNS))

    def prefixes(self, rows: Rows) -> Iterator[Rows]:
        """For each step the rows of the sessions that have it, as views."""
        views, current = rows, self.active[0]
        for count in self.active:
            if count != current:
                views, current = first(rows, count), count
            yield views

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Steps of each session."""
        return np.array([sum(count > k for count in self.active) for k in range(self.active[0])])

    @cached_property
    def by_session(self) -> NDArray[np.int64]:
        """Of the rows of all steps one after another, session by session the places of its own."""
        before = np.cumsum(self.active) - self.active
        return np.concatenate([before[:count] + k for k, count in enumerate(self.steps)])


def scale(shape: Shape, host: Rows, batch: Batch) -> list[Scaled]:
    """First stage, in place on `host`: what the learners see and what came of the steps before."""
    scaled = []
    for s, rows in enumerate(batch.prefixes(host)):
        if batch.clear[s].any():
            scaling.clear(shape.scaling, rows, batch.clear[s])
            scaling.skip(shape.scaling, rows, batch.jump[s], batch.clear[s])
        arrived = batch.values[s], batch.labels[s], batch.event[s], batch.clock[s]
        scaled.append(scaling.step(shape.scaling, rows, *arrived))
    return scaled


def serve(shape: Shape, host: Rows, batch: Batch, scaled: list[Scaled], ys: list[NDArray[Any]]) -> list[Served]:
    """Third stage, in place on `host`: the learners' outputs become forecasts, and forecasts meet their values."""
    serving, served = shape.serving, []
    for s, rows in enumerate(batch.prefixes(host)):
        if batch.clear[s].any():
            serving.clear(shape.served, rows, batch.clear[s])
            serving.skip(shape.served, rows, batch.jump[s], batch.clear[s])
        served.append(serving.step(shape.served, rows, scaled[s], ys[s], batch.event[s]))
    return served


def _run_chunk(shape: Shape, host: Rows, learn: list[Learn], steps: list[Steps], sessions: int) -> list[Outcomes]:
    batch = Batch.of(steps)
    scaled = scale(shape, host, batch)
    ys, told = [], []
    for group, give in zip(shape.groups, learn, strict=True):
        learned = give(_lesson(shape.scaling, group, batch, scaled, sessions))
        outputs, reported = _by_steps(group, batch, learned)
        ys.append(outputs)
        told.append(reported)
    served = serve(shape, host, batch, scaled, _assembled(shape, ys))
    members = [group.members for group in shape.groups]
    session_reports = [reports.of_sessions(members, step) for step in zip(*told, strict=True)]
    columns = _columns(shape, len(steps), batch.active, served, session_reports)
    return [_outcomes(shape, host, k, session, columns) for k, session in enumerate(steps)]


def _assembled(shape: Shape, ys: list[list[NDArray[Any]]]) -> list[NDArray[Any]]:
    """The outputs of all groups' learners by step, in the order of the portfolio: [active sessions, M, K]."""
    if len(ys) == 1:
        M = shape.learners
        return [y.reshape(len(y) // M, M, -1) for y in ys[0]]
    steps = []
    for parts in zip(*ys, strict=True):
        sessions = len(parts[0]) // len(shape.groups[0].members)
        y = np.empty((sessions, shape.learners, shape.learner.outputs))
        for group, part in zip(shape.groups, parts, strict=True):
            y[:, list(group.members)] = part.reshape(sessions, len(group.members), -1)
        steps.append(y)
    return steps


def _by_step(columns: list[NDArray[Any]], active: list[int]) -> list[NDArray[Any]]:
    """Per-session columns [S_k, …] turned into per-step rows [active sessions, …]."""
    return [np.array([columns[k][s] for k in range(count)]) for s, count in enumerate(active)]


def _lesson(scales: ScalingShape, group: Group, batch: Batch, scaled: list[Scaled], sessions: int) -> Lesson:
    """What the learners of a group are given in a chunk; those of sessions without steps in it, nothing."""
    members, order = len(group.members), batch.by_session
    count = np.zeros(sessions, np.int64)
    count[: len(batch.steps)] = batch.steps
    start = np.cumsum(count) - count
    flags = np.concatenate([_flags(batch, s, step) for s, step in enumerate(scaled)])
    # Row by row: columns picked from a table lie the other way round, and a product would sum in another order.
    inputs = np.concatenate([step.inputs for step in scaled]).astype(np.float32, order="C")
    anchors = range(len(scales.anchors)) if scales.numeric else range(1)
    targets = [scaling.learner_targets(scales, step, tuple(anchors)) for step in scaled]
    arrived = np.concatenate(targets).astype(np.float32).reshape(len(inputs), len(anchors), -1)
    names = [scales.anchors[a] if scales.numeric else "" for a in group.anchors]
    season = np.array([SEASON_ANCHORS.index(name) if name in SEASON_ANCHORS else -1 for name in names])
    return Lesson(
        start=np.repeat(start, members),
        count=np.repeat(count, members),
        anchor=np.tile(np.array(group.anchors), sessions),
        season=np.tile(season, sessions),
        inputs=inputs[order],
        arrived=arrived[order],
        flags=flags[order],
    )


def _flags(batch: Batch, s: int, scaled: Scaled) -> NDArray[np.int8]:
    """Of step `s`, for each session that has it."""
    flags: NDArray[np.int8] = (EVENT * batch.event[s] + CLEAR * batch.clear[s]).astype(np.int8)
    if scaled.seasonal is not None:
        flags += (scaled.seasonal.changed @ np.array(CHANGED)).astype(np.int8)
    return flags


def _by_steps(group: Group, batch: Batch, learned: Learned) -> tuple[list[NDArray[Any]], list[tbptt.StepReport]]:
    """What a group's learners gave back, step by step: outputs [active · members, K] in units of the residual scale,
    and reports."""
    members = len(group.members)
    first = np.cumsum(np.repeat(batch.steps, members)) - np.repeat(batch.steps, members)
    ys, told = [], []
    for s, count in enumerate(batch.active):
        rows = first[: count * members] + s
        table = learned.reports[rows]
        ys.append(learned.ys[rows].astype(np.float64))
        told.append(
            tbptt.StepReport(
                result=table[:, RESULT].astype(np.int8),
                loss=table[:, LOSS],
                gradient_norm=table[:, GRADIENT_NORM],
                clip_scale=table[:, CLIP_SCALE],
                saturation=table[:, SATURATION],
                update_ratio=table[:, UPDATE_RATIO],
                norm_by_lag=table[:, BY_LAG:],
                reset=table[:, RESET].astype(np.int8),
            )
        )
    return ys, told


def _columns(
    shape: Shape, sessions: int, active: list[int], served: list[Served], told: list[tbptt.StepReport]
) -> list[NDArray[Any]]:
    """The columns of an outcome as arrays [step, session, …], in the order of `Shape.outcome`."""
    columns: list[NDArray[Any]] = [np.empty((len(active), sessions, *f.shape), f.dtype) for f in shape.outcome]
    for s, count in enumerate(active):
        for column, value in zip(columns, (*served[s], *told[s]), strict=True):
            column[s, :count] = value
    return columns


def _outcomes(shape: Shape, host: Rows, k: int, session: Steps, columns: list[NDArray[Any]]) -> Outcomes:
    """The outcomes of one session's events; keeps the last of them and the counters on its row."""
    steps = len(session)
    all_events = session.event.all()
    own = [column[:steps, k].copy() if all_events else column[:steps, k][session.event] for column in columns]
    outcomes = Outcomes(int(host["last_sequence"][k]) + 1, *own)
    if shape.label_slots:
        _remember_steps(shape, host, k, outcomes.first_sequence, session)
    if len(outcomes) == 0:
        return outcomes
    host["last_sequence"][k] += len(outcomes)
    for f, column in zip(shape.outcome, own, strict=True):
        host[f.name][k] = column[-1]
    return outcomes


def _remember_steps(shape: Shape, host: Rows, k: int, first_sequence: int, session: Steps) -> None:
    """Notes which step each event was, for the labels that come late."""
    step = host["steps_taken"][k] + np.flatnonzero(session.event)
    slot = (first_sequence - 1 + np.arange(len(step))) % shape.label_slots
    host["event_step"][k][slot] = step  # of several in one slot the last one stays
    host["steps_taken"][k] += len(session)
