"""The three stages of the fold over the steps of sessions of one shape: scale → learners → forecasts.

No learner sees another's output and scaling sees none at all, so each stage can run over all steps of a call before the
next begins. The learners' stage is the only one that touches the backend's arrays: one copy in, one copy out. What is
served and scored is numbers (`forecasts.py`) or symbols (`symbols.py`); both have the same face.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import guard, reports, scaling, tbptt, timeline
from bptt_core.events import Outcomes, ResetReason
from bptt_core.learner_config import SEASON_ANCHORS
from bptt_core.scales import Scaled, ScalingShape
from bptt_core.serving import Served
from bptt_core.shape import Group, Shape
from bptt_core.slab import Rows, first
from bptt_core.timeline import Steps

CHUNK_STEPS: Final = 256


@dataclass(frozen=True)
class Team:
    """The rows of one group's learners of several sessions, session by session."""

    device: Rows
    book: Rows


def run(xp: Any, shape: Shape, host: Rows, teams: list[Team], steps: list[Steps]) -> list[Outcomes]:
    """Takes each session's steps, in place on its rows of `host` and of `teams`, one for each group of the shape;
    returns the outcomes of its events.

    Row k of every field belongs to `steps[k]`; no session may have fewer steps than a later one. The steps are taken in
    chunks: an event after a gap in time is many steps, and memory must not grow with them.
    """
    pieces: list[list[Outcomes]] = [[] for _ in steps]
    for start in range(0, len(steps[0]), CHUNK_STEPS):
        chunk = [s.part(start, start + CHUNK_STEPS) for s in steps if len(s) > start]
        members = [_of_first(shape, team, g, len(chunk)) for g, team in enumerate(teams)]
        for piece, outcomes in zip(
            pieces, _run_chunk(xp, shape, first(host, len(chunk)), members, chunk), strict=False
        ):
            piece.append(outcomes)
    return [Outcomes.joined(piece) for piece in pieces]


def _of_first(shape: Shape, team: Team, group: int, sessions: int) -> Team:
    """The learners of the first sessions, as views."""
    count = sessions * len(shape.groups[group].members)
    return Team(first(team.device, count), first(team.book, count))


@dataclass(frozen=True, slots=True)
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

    def prefixes(self, rows: Rows, per_session: int = 1) -> Iterator[Rows]:
        """For each step the rows of the sessions that have it, so many of each, as views."""
        views, current = rows, self.active[0]
        for count in self.active:
            if count != current:
                views, current = first(rows, count * per_session), count
            yield views


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


def _run_chunk(xp: Any, shape: Shape, host: Rows, teams: list[Team], steps: list[Steps]) -> list[Outcomes]:
    batch = Batch.of(steps)
    scaled = scale(shape, host, batch)
    ys, told = [], []
    for group, team in zip(shape.groups, teams, strict=True):
        outputs, reported = _learn(xp, shape.scaling, group, team, batch, scaled)
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


def _learn(
    xp: Any, scales: ScalingShape, group: Group, team: Team, batch: Batch, scaled: list[Scaled]
) -> tuple[list[NDArray[Any]], list[tbptt.StepReport]]:
    """The outputs [active · members, K] of a group's learners in units of the residual scale, and their reports, step
    by step."""
    dtype, members, shape = team.device["params"].dtype, len(group.members), group.learner
    # Row by row: columns picked from a table lie the other way round, and a product would sum in another order.
    inputs = np.concatenate([s.inputs for s in scaled]).astype(dtype, order="C")
    xs = xp.asarray(inputs if members == 1 else np.repeat(inputs, members, axis=0))
    targets = [scaling.learner_targets(scales, s, group.anchors) for s in scaled]
    arrived = xp.asarray(np.concatenate(targets).astype(dtype))
    ys, told, start = [], [], 0
    rows = zip(batch.prefixes(team.device, members), batch.prefixes(team.book, members), strict=True)
    for s, (mine, book) in enumerate(rows):
        clear, event = (np.repeat(column[s], members) for column in (batch.clear, batch.event))
        ended = tbptt.begin_anew(xp, shape, mine, book, clear) if clear.any() else None
        changed = _season_changes(scales, group, scaled[s])
        if len(changed):
            guard.change_season(xp, shape.layout, mine, book, changed)
        here = slice(start, start + batch.active[s] * members)
        y, report = tbptt.step(xp, shape, mine, book, xs[here], arrived[here], event)
        report.reset[changed] = ResetReason.SEASON
        ys.append(y)
        told.append(report if ended is None else tbptt.both(ended, report))
        start = here.stop
    flat = tbptt.to_host(xp.concatenate(ys)).astype(np.float64)
    return np.split(flat, np.cumsum(batch.active)[:-1] * members), told


def _season_changes(scales: ScalingShape, group: Group, scaled: Scaled) -> NDArray[np.int64]:
    """Which of a group's learners are anchored to a season that is another one from this step on."""
    if scaled.seasonal is None or not scaled.seasonal.changed.any():
        return np.empty(0, np.int64)
    names = [scales.anchors[a] for a in group.anchors]
    none = np.zeros(len(scaled.last), bool)
    changed = [scaled.seasonal.changed[:, SEASON_ANCHORS.index(n)] if n in SEASON_ANCHORS else none for n in names]
    return np.flatnonzero(np.stack(changed, axis=1))


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
