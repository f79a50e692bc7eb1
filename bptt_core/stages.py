"""The three stages of the fold over the steps of sessions of one shape: scale → learners → forecasts.

No learner sees another's output and scaling sees none at all, so each stage can run over all steps of a call before the
next begins. The learners' stage is the only one that touches the backend's arrays: one copy in, one copy out. What is
served and scored is numbers (`forecasts.py`) or symbols (`symbols.py`); both have the same face.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import forecasts, heads, scaling, symbols, tbptt, timeline
from bptt_core.config import QUANTILE_LOSSES, SessionConfig
from bptt_core.events import Outcomes, UpdateResult
from bptt_core.forecasts import ForecastShape, Served
from bptt_core.slab import Field, Rows, first
from bptt_core.symbols import SymbolShape
from bptt_core.timeline import Steps

UPDATE_COUNTERS: Final = {
    UpdateResult.APPLIED: "applied",
    UpdateResult.NO_TARGET: "no_target",
    UpdateResult.NON_FINITE: "non_finite",
    UpdateResult.LEARNING_OFF: "learning_off",
}

CHUNK_STEPS: Final = 256


@dataclass(frozen=True)
class Shape:
    """What the sessions of one slab have in common; sessions of equal shape are stepped together."""

    scaling: scaling.ScalingShape
    learner: tbptt.LearnerShape
    served: ForecastShape | SymbolShape

    @classmethod
    def of(cls, config: SessionConfig) -> Shape:
        """The shape of a validated configuration."""
        learner, predicted, numeric = config.learner, config.predicted, config.task != "classify"
        assert learner.window is not None and learner.loss_span is not None
        assert learner.loss is not None and learner.anchor is not None
        slots = config.horizon if config.label_age is None else config.label_age + 1
        scales = scaling.ScalingShape(
            features=len(config.features),
            symbols=tuple(len(config.symbols(name)) for name in config.features),
            targets=config.target_indices,
            labels=len(config.labels),
            horizon=config.horizon,
            anchor=learner.anchor,
            fixed=config.scaling == "fixed",
            numeric=numeric,
            slots=slots,
        )
        count = len(config.symbols(predicted[0])) if learner.loss == "softmax" else 0
        network = tbptt.LearnerShape(
            cell=learner.cell,
            layers=learner.layers,
            inputs=scales.inputs,
            hidden=learner.hidden,
            horizon=config.horizon,
            targets=len(predicted),
            ahead=config.ahead,
            symbols=count,
            window=learner.window,
            stride=learner.stride,
            loss_span=learner.loss_span,
            loss=learner.loss,
            quantiles=learner.quantiles if learner.loss == "pinball" else (),
            optimizer=learner.optimizer,
            schedule=learner.schedule,
            clip=learner.clip,
        )
        if not numeric:
            return cls(scales, network, SymbolShape(config.horizon, len(predicted), config.ahead, slots, count))
        season = config.seasons[0] if config.seasons else 0
        served = ForecastShape(
            horizon=config.horizon,
            targets=len(predicted),
            season=season,
            ahead=config.ahead,
            slots=slots,
            per_pair=heads.per_pair(learner.loss, learner.quantiles, count),
            loss=learner.loss,
            quantiles=learner.quantiles if learner.loss in QUANTILE_LOSSES else (),
            clamp=config.scaling == "online",
        )
        return cls(scales, network, served)

    @property
    def longest_gap(self) -> int:
        """Most missing steps that fill a gap, k2 + H."""
        return self.learner.window + self.learner.horizon

    @property
    def serving(self) -> ModuleType:
        """The module that turns outputs of such learners into what is served: `forecasts` or `symbols`."""
        return forecasts if isinstance(self.served, ForecastShape) else symbols

    @cached_property
    def outcome(self) -> list[Field]:
        """The columns of an outcome as they are kept on a session's row, in the order of `Outcomes`."""
        pairs = (self.learner.horizon, self.learner.targets)
        numbers = ("loss", "gradient_norm", "clip_scale", "saturation", "update_ratio")
        size = len(self.served.quantiles) if isinstance(self.served, ForecastShape) else self.served.symbols
        return [
            *(Field(f"latest_{name}", pairs, np.float64) for name in ("mean", "lower", "upper")),
            Field("latest_distribution", (*pairs, size), np.float64),
            Field("latest_anomaly_score", (), np.float64),
            Field("latest_update_result", (), np.int8),
            *(Field(f"latest_{name}", (), np.float32) for name in numbers),
            Field("latest_norm_by_lag", (len(tbptt.lags(self.learner.window)),), np.float32),
        ]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Counted once: a shape is looked up several times for every call of the fold."""
        return hash((self.scaling, self.learner, self.served))

    @property
    def labels(self) -> int:
        """Labels of an event."""
        return self.scaling.labels

    @property
    def label_slots(self) -> int:
        """Events whose labels may still come, the newest included; 0 without labels."""
        return self.scaling.slots if self.labels else 0


def fields(shape: Shape) -> tuple[list[Field], list[Field]]:
    """Every field of a session: the backend's, and NumPy's."""
    host = [
        Field("last_sequence", (), np.int64),
        *timeline.fields(),
        *scaling.fields(shape.scaling),
        *tbptt.host_fields(shape.learner),
        *shape.serving.fields(shape.served),
        *(Field(name, (), np.int64) for name in (*UPDATE_COUNTERS.values(), "clipped")),
        *shape.outcome,
    ]
    if shape.label_slots:
        host += [Field("steps_taken", (), np.int64), Field("event_step", (shape.label_slots,), np.int64)]
    return tbptt.device_fields(shape.learner), host


def run(xp: Any, shape: Shape, device: Rows, host: Rows, steps: list[Steps]) -> list[Outcomes]:
    """Takes each session's steps, in place on its rows of `device` and `host`; returns the outcomes of its events.

    Row k of every field belongs to `steps[k]`; no session may have fewer steps than a later one. The steps are taken in
    chunks: an event after a gap in time is many steps, and memory must not grow with them.
    """
    pieces: list[list[Outcomes]] = [[] for _ in steps]
    for start in range(0, len(steps[0]), CHUNK_STEPS):
        chunk = [s.part(start, start + CHUNK_STEPS) for s in steps if len(s) > start]
        device_rows, host_rows = first(device, len(chunk)), first(host, len(chunk))
        for piece, outcomes in zip(pieces, _run_chunk(xp, shape, device_rows, host_rows, chunk), strict=False):
            piece.append(outcomes)
    return [Outcomes.joined(piece) for piece in pieces]


@dataclass(frozen=True, slots=True)
class Batch:
    """Steps of several sessions turned round: per step the rows of the sessions that have it, always the first ones."""

    active: list[int]  # sessions that have the step
    values: list[NDArray[Any]]  # [active, D]
    labels: list[NDArray[Any]]  # [active, O]
    event: list[NDArray[Any]]  # [active]
    clear: list[NDArray[Any]]
    jump: list[NDArray[Any]]

    @classmethod
    def of(cls, steps: list[Steps]) -> Batch:
        """The steps of sessions, longest first."""
        lengths = np.array([len(s) for s in steps])
        active = [int((lengths > s).sum()) for s in range(int(lengths[0]))]
        names = ("values", "labels", "event", "clear", "jump")
        return cls(active, *(_by_step([getattr(s, name) for s in steps], active) for name in names))

    def prefixes(self, rows: Rows) -> Iterator[Rows]:
        """For each step the rows of the sessions that have it, as views."""
        views, current = rows, self.active[0]
        for count in self.active:
            if count != current:
                views, current = first(rows, count), count
            yield views


def scale(shape: Shape, host: Rows, batch: Batch) -> list[scaling.Scaled]:
    """First stage, in place on `host`: what the learners see and what came of the steps before."""
    scaled = []
    for s, rows in enumerate(batch.prefixes(host)):
        if batch.clear[s].any():
            scaling.clear(shape.scaling, rows, batch.clear[s])
        scaled.append(scaling.step(shape.scaling, rows, batch.values[s], batch.labels[s], batch.event[s]))
    return scaled


def serve(shape: Shape, host: Rows, batch: Batch, scaled: list[scaling.Scaled], ys: list[NDArray[Any]]) -> list[Served]:
    """Third stage, in place on `host`: the learners' outputs become forecasts, and forecasts meet their values."""
    serving, served = shape.serving, []
    for s, rows in enumerate(batch.prefixes(host)):
        if batch.clear[s].any():
            serving.clear(shape.served, rows, batch.clear[s])
            serving.skip(shape.served, rows, batch.jump[s])
        served.append(serving.step(shape.served, rows, scaled[s], ys[s], batch.event[s]))
    return served


def _run_chunk(xp: Any, shape: Shape, device: Rows, host: Rows, steps: list[Steps]) -> list[Outcomes]:
    batch = Batch.of(steps)
    scaled = scale(shape, host, batch)
    ys, reports = _learn(xp, shape, device, host, batch, scaled)
    served = serve(shape, host, batch, scaled, ys)
    columns = _columns(shape, len(steps), batch.active, served, reports)
    return [_outcomes(shape, host, k, session, columns) for k, session in enumerate(steps)]


def _by_step(columns: list[NDArray[Any]], active: list[int]) -> list[NDArray[Any]]:
    """Per-session columns [S_k, …] turned into per-step rows [active sessions, …]."""
    return [np.array([columns[k][s] for k in range(count)]) for s, count in enumerate(active)]


def _learn(
    xp: Any, shape: Shape, device: Rows, host: Rows, batch: Batch, scaled: list[scaling.Scaled]
) -> tuple[list[NDArray[Any]], list[tbptt.StepReport]]:
    """The learners' outputs [B, K] in units of the residual scale, and their reports, step by step."""
    dtype = device["params"].dtype
    # Row by row: columns picked from a table lie the other way round, and a product would sum in another order.
    xs = xp.asarray(np.concatenate([s.inputs for s in scaled]).astype(dtype, order="C"))
    arrived = xp.asarray(np.concatenate([scaling.learner_targets(shape.scaling, s) for s in scaled]).astype(dtype))
    ys, reports, start = [], [], 0
    rows = zip(batch.prefixes(device), batch.prefixes(host), strict=True)
    for s, (mine, book) in enumerate(rows):
        breaks = batch.clear[s].any()
        ended = tbptt.begin_anew(xp, shape.learner, mine, book, batch.clear[s]) if breaks else None
        here = slice(start, start + batch.active[s])
        y, report = tbptt.step(xp, shape.learner, mine, book, xs[here], arrived[here], batch.event[s])
        report = report if ended is None else _reported(book, ended, report)
        ys.append(y)
        reports.append(report)
        start += batch.active[s]
    flat = tbptt.to_host(xp.concatenate(ys)).astype(np.float64)
    return np.split(flat, np.cumsum(batch.active)[:-1]), reports


def _reported(book: Rows, ended: tbptt.StepReport, report: tbptt.StepReport) -> tbptt.StepReport:
    """One report of what may be two updates at one event; one that goes unreported is counted here."""
    reported = tbptt.both(ended, report)
    unseen = (ended.result != UpdateResult.NOT_DUE) & (reported.result == report.result)
    for result, counter in UPDATE_COUNTERS.items():
        book[counter] += unseen & (ended.result == result)
    book["clipped"] += unseen & (ended.clip_scale < 1)
    return reported


def _columns(
    shape: Shape, sessions: int, active: list[int], served: list[Served], reports: list[tbptt.StepReport]
) -> list[NDArray[Any]]:
    """The columns of an outcome as arrays [step, session, …], in the order of `Shape.outcome`."""
    columns: list[NDArray[Any]] = [np.empty((len(active), sessions, *f.shape), f.dtype) for f in shape.outcome]
    for s, count in enumerate(active):
        for column, value in zip(columns, (*served[s], *reports[s]), strict=True):
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
    counts = np.bincount(outcomes.update_result, minlength=len(UpdateResult) + 1).tolist()
    for result, counter in UPDATE_COUNTERS.items():
        host[counter][k] += counts[result]
    host["clipped"][k] += int((outcomes.clip_scale < 1).sum())
    return outcomes


def _remember_steps(shape: Shape, host: Rows, k: int, first_sequence: int, session: Steps) -> None:
    """Notes which step each event was, for the labels that come late."""
    step = host["steps_taken"][k] + np.flatnonzero(session.event)
    slot = (first_sequence - 1 + np.arange(len(step))) % shape.label_slots
    host["event_step"][k][slot] = step  # of several in one slot the last one stays
    host["steps_taken"][k] += len(session)
