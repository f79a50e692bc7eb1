"""The three stages of the fold over the steps of sessions of one shape: scale → learners → forecasts.

No learner sees another's output and scaling sees none at all, so each stage can run over all steps of a call before the
next begins. The learners' stage is the only one that touches the backend's arrays: one copy in, one copy out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import forecasts, scaling, tbptt, timeline
from bptt_core.config import SessionConfig
from bptt_core.events import Outcomes, UpdateResult
from bptt_core.slab import Field, Rows, first
from bptt_core.timeline import Steps

UPDATE_COUNTERS: Final = {
    UpdateResult.APPLIED: "applied",
    UpdateResult.NO_TARGET: "no_target",
    UpdateResult.NON_FINITE: "non_finite",
    UpdateResult.LEARNING_OFF: "learning_off",
}

CHUNK_STEPS: Final = 256

OUTCOME_FIELDS: Final = (
    "latest_mean", "latest_lower", "latest_upper", "latest_anomaly_score",
    "latest_update_result", "latest_loss", "latest_gradient_norm", "latest_clip_scale",
)  # fmt: skip


def fields(shape: Shape) -> tuple[list[Field], list[Field]]:
    """Every field of a session: the backend's, and NumPy's."""
    H, O = shape.forecasts.horizon, shape.forecasts.targets
    host = [
        Field("last_sequence", (), np.int64),
        *timeline.fields(),
        *scaling.fields(shape.scaling),
        *tbptt.host_fields(),
        *forecasts.fields(shape.forecasts),
        *(Field(name, (), np.int64) for name in (*UPDATE_COUNTERS.values(), "clipped")),
        *(Field(name, (H, O), np.float64) for name in OUTCOME_FIELDS[:3]),
        Field("latest_anomaly_score", (), np.float64),
        Field("latest_update_result", (), np.int8),
        *(Field(name, (), np.float32) for name in OUTCOME_FIELDS[5:]),
    ]
    return tbptt.device_fields(shape.learner), host


@dataclass(frozen=True, slots=True)
class Shape:
    """What the sessions of one slab have in common; sessions of equal shape are stepped together."""

    scaling: scaling.ScalingShape
    learner: tbptt.LearnerShape
    forecasts: forecasts.ForecastShape

    @classmethod
    def of(cls, config: SessionConfig) -> Shape:
        """The shape of a validated configuration."""
        learner, targets = config.learner, config.target_indices
        assert learner.window is not None and learner.loss_span is not None
        scales = scaling.ScalingShape(len(config.features), targets, config.horizon, learner.anchor)
        network = tbptt.LearnerShape(
            cell=learner.cell,
            inputs=scales.inputs,
            hidden=learner.hidden,
            horizon=config.horizon,
            targets=len(targets),
            window=learner.window,
            stride=learner.stride,
            loss_span=learner.loss_span,
            loss=learner.loss,
            optimizer=learner.optimizer,
        )
        season = config.seasons[0] if config.seasons else 0
        return cls(scales, network, forecasts.ForecastShape(config.horizon, len(targets), season))

    @property
    def longest_gap(self) -> int:
        """Most missing steps that fill a gap, k2 + H."""
        return self.learner.window + self.learner.horizon


def run(xp: Any, shape: Shape, device: Rows, host: Rows, steps: list[Steps]) -> list[Outcomes]:
    """Takes each session's steps, in place on its rows of `device` and `host`; returns the outcomes of its events.

    Row k of every field belongs to `steps[k]`; no session may have fewer steps than a later one. The steps are taken in
    chunks: an event after a gap in time is many steps, and memory must not grow with them.
    """
    pieces: list[list[Outcomes]] = [[] for _ in steps]
    for start in range(0, len(steps[0].event), CHUNK_STEPS):
        chunk = [s.part(start, start + CHUNK_STEPS) for s in steps if len(s.event) > start]
        device_rows, host_rows = first(device, len(chunk)), first(host, len(chunk))
        for piece, outcomes in zip(pieces, _run_chunk(xp, shape, device_rows, host_rows, chunk), strict=False):
            piece.append(outcomes)
    return [Outcomes.joined(piece) for piece in pieces]


def _run_chunk(xp: Any, shape: Shape, device: Rows, host: Rows, steps: list[Steps]) -> list[Outcomes]:
    lengths = np.array([len(s.event) for s in steps])
    active = [int((lengths > s).sum()) for s in range(int(lengths[0]))]
    values, event, jump = (_by_step([getattr(s, name) for s in steps], active) for name in ("values", "event", "jump"))
    scaled = _scale(shape, host, active, values, jump)
    ys, reports = _learn(xp, shape, device, host, active, scaled, event, jump)
    served = _forecast(shape, host, active, scaled, ys, event, jump)
    columns = _columns(shape, lengths, active, served, reports)
    return [_outcomes(host, k, session, columns) for k, session in enumerate(steps)]


def _by_step(columns: list[NDArray[Any]], active: list[int]) -> list[NDArray[Any]]:
    """Per-session columns [S_k, …] turned into per-step rows [active sessions, …]."""
    return [np.array([columns[k][s] for k in range(count)]) for s, count in enumerate(active)]


def _prefixes(rows: Rows, active: list[int]) -> Iterator[Rows]:
    """For each step the rows of the sessions that have it: always the first ones, as views."""
    views, current = rows, active[0]
    for count in active:
        if count != current:
            views, current = first(rows, count), count
        yield views


def _scale(
    shape: Shape, host: Rows, active: list[int], values: list[NDArray[Any]], jump: list[NDArray[Any]]
) -> list[scaling.Scaled]:
    scaled = []
    for s, rows in enumerate(_prefixes(host, active)):
        if jump[s].any():
            scaling.clear(rows, jump[s] > 0)
        scaled.append(scaling.step(shape.scaling, rows, values[s]))
    return scaled


def _learn(
    xp: Any,
    shape: Shape,
    device: Rows,
    host: Rows,
    active: list[int],
    scaled: list[scaling.Scaled],
    event: list[NDArray[Any]],
    jump: list[NDArray[Any]],
) -> tuple[list[NDArray[Any]], list[tbptt.StepReport]]:
    """The learners' outputs [B, H·O] in units of the residual scale, and their reports, step by step."""
    dtype = device["params"].dtype
    xs = xp.asarray(np.concatenate([s.inputs for s in scaled]).astype(dtype))
    arrived = xp.asarray(np.concatenate([scaling.learner_targets(s) for s in scaled]).astype(dtype))
    ys, reports, start = [], [], 0
    for s, (mine, book) in enumerate(zip(_prefixes(device, active), _prefixes(host, active), strict=True)):
        if jump[s].any():
            tbptt.clear(xp, mine, book, jump[s] > 0)
        here = slice(start, start + active[s])
        y, report = tbptt.step(xp, shape.learner, mine, book, xs[here], arrived[here], event[s])
        ys.append(y)
        reports.append(report)
        start += active[s]
    flat = tbptt.to_host(xp.concatenate(ys)).astype(np.float64)
    return np.split(flat, np.cumsum(active)[:-1]), reports


def _forecast(
    shape: Shape,
    host: Rows,
    active: list[int],
    scaled: list[scaling.Scaled],
    ys: list[NDArray[Any]],
    event: list[NDArray[Any]],
    jump: list[NDArray[Any]],
) -> list[forecasts.Served]:
    served = []
    for s, rows in enumerate(_prefixes(host, active)):
        if jump[s].any():
            forecasts.clear(shape.forecasts, rows, jump[s])
        served.append(forecasts.step(shape.forecasts, rows, scaled[s], ys[s], event[s]))
    return served


def _columns(
    shape: Shape,
    lengths: NDArray[Any],
    active: list[int],
    served: list[forecasts.Served],
    reports: list[tbptt.StepReport],
) -> list[NDArray[Any]]:
    """The fields of an outcome as arrays [step, session, …], in the order of OUTCOME_FIELDS."""
    steps, sessions = len(active), len(lengths)
    forecast = (steps, sessions, shape.forecasts.horizon, shape.forecasts.targets)
    shapes = [forecast] * 3 + [(steps, sessions)] * 5
    types = [np.float64] * 4 + [np.int8] + [np.float32] * 3
    columns = [np.empty(shape, dtype) for shape, dtype in zip(shapes, types, strict=True)]
    for s, count in enumerate(active):
        for column, value in zip(columns, (*served[s], *reports[s]), strict=True):
            column[s, :count] = value
    return columns


def _outcomes(host: Rows, k: int, session: Steps, columns: list[NDArray[Any]]) -> Outcomes:
    """The outcomes of one session's events; keeps the last of them and the counters on its row."""
    steps = len(session.event)
    own = [column[:steps, k][session.event] for column in columns]
    outcomes = Outcomes(int(host["last_sequence"][k]) + 1, *own)
    if len(outcomes) == 0:
        return outcomes
    host["last_sequence"][k] += len(outcomes)
    for name, column in zip(OUTCOME_FIELDS, own, strict=True):
        host[name][k] = column[-1]
    counts = np.bincount(outcomes.update_result, minlength=len(UpdateResult) + 1)
    for result, counter in UPDATE_COUNTERS.items():
        host[counter][k] += counts[result]
    host["clipped"][k] += int((outcomes.clip_scale < 1).sum())
    return outcomes
