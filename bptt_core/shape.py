"""What sessions have in common that are stepped together: the shapes of all stages, made from a configuration.

A session's learners may differ in shape; those of one shape are a group. Knows the fields that hold a session's state,
and nothing of how it moves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType

import numpy as np

from bptt_core import forecasts, heads, symbols, tbptt, timeline
from bptt_core.config import SessionConfig
from bptt_core.experts import ExpertShape
from bptt_core.forecasts import ForecastShape
from bptt_core.learner_config import QUANTILE_LOSSES, SEASON_ANCHORS, LearnerConfig
from bptt_core.scales import ScalingShape
from bptt_core.scales import fields as scaling_fields
from bptt_core.seasons import SeasonShape
from bptt_core.slab import Field
from bptt_core.symbols import SymbolShape


@dataclass(frozen=True)
class Group:
    """The learners of a session that have one shape: they are stepped together, with those of other sessions."""

    learner: tbptt.LearnerShape
    members: tuple[int, ...]  # positions in the portfolio
    anchors: tuple[int, ...]  # of each, its anchor's position in the scaling's


@dataclass(frozen=True)
class Shape:
    """What the sessions of one slab have in common; sessions of equal shape are stepped together."""

    scaling: ScalingShape
    groups: tuple[Group, ...]
    served: ForecastShape | SymbolShape

    @classmethod
    def of(cls, config: SessionConfig) -> Shape:
        """The shape of a validated configuration."""
        predicted, numeric = config.predicted, config.task != "classify"
        slots = config.horizon if config.label_age is None else config.label_age + 1
        seasons = None
        if config.seasonality != "off":
            seasons = SeasonShape(len(predicted), config.horizon, config.seasons, config.seasonality == "found")
        scales = ScalingShape(
            features=len(config.features),
            symbols=tuple(len(config.symbols(name)) for name in config.features),
            targets=config.target_indices,
            labels=len(config.labels),
            horizon=config.horizon,
            anchors=_anchors(config),
            fixed=config.scaling == "fixed",
            numeric=numeric,
            slots=slots,
            seasons=seasons,
        )
        groups = _groups(config, scales)
        if not numeric:
            symbols_shape = SymbolShape(config.horizon, len(predicted), config.ahead, slots, groups[0].learner.symbols)
            return cls(scales, groups, symbols_shape)
        learner = config.portfolio[0]
        loss = str(learner.loss)
        served = ForecastShape(
            horizon=config.horizon,
            targets=len(predicted),
            season=config.seasons[0] if config.seasons and seasons is None else 0,
            ahead=config.ahead,
            slots=slots,
            per_pair=heads.per_pair(loss, learner.quantiles, 0),
            loss=loss,
            quantiles=learner.quantiles if learner.loss in QUANTILE_LOSSES else (),
            clamp=config.scaling == "online",
            anchor=groups[0].anchors[0] if config.learner else 0,
            portfolio=None if config.learner else _experts(config, groups, scales),
            seasonal=seasons is not None,
        )
        return cls(scales, groups, served)

    @property
    def learner(self) -> tbptt.LearnerShape:
        """Shape of the session's first learner."""
        return self.groups[0].learner

    @cached_property
    def learners(self) -> int:
        """M, learners of a session."""
        return sum(len(group.members) for group in self.groups)

    def learner_shape(self, position: int) -> tbptt.LearnerShape:
        """Shape of one of them."""
        return next(group.learner for group in self.groups if position in group.members)

    @property
    def longest_gap(self) -> int:
        """Most missing steps that fill a gap, k2 + H."""
        return max(group.learner.window for group in self.groups) + self.learner.horizon

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
        sensors = pairs[1] if isinstance(self.served, ForecastShape) and self.served.ahead else 0
        return [
            *(Field(f"latest_{name}", pairs, np.float64) for name in ("mean", "lower", "upper")),
            Field("latest_distribution", (*pairs, size), np.float64),
            Field("latest_anomaly_score", (), np.float64),
            Field("latest_target_anomaly_score", pairs[1:], np.float64),
            Field("latest_anomaly_likelihood", (), np.float64),
            Field("latest_sensor_state", (sensors,), np.int8),
            Field("latest_drift", (), np.bool_),
            Field("latest_warming_up", (), np.bool_),
            Field("latest_update_result", (), np.int8),
            *(Field(f"latest_{name}", (), np.float32) for name in numbers),
            Field("latest_norm_by_lag", (len(tbptt.lags(self.learner.window)),), np.float32),
            Field("latest_learner_reset", (self.learners,), np.int8),
        ]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Counted once: a shape is looked up several times for every call of the fold."""
        return hash((self.scaling, self.groups, self.served))

    @property
    def labels(self) -> int:
        """Labels of an event."""
        return self.scaling.labels

    @property
    def label_slots(self) -> int:
        """Events whose labels may still come, the newest included; 0 without labels."""
        return self.scaling.slots if self.labels else 0


def fields(shape: Shape) -> list[Field]:
    """Every field of a session but those of its learners, which are `tbptt.device_fields` and `tbptt.host_fields`."""
    host = [
        Field("last_sequence", (), np.int64),
        *timeline.fields(),
        *scaling_fields(shape.scaling),
        *shape.serving.fields(shape.served),
        *shape.outcome,
    ]
    if shape.label_slots:
        host += [Field("steps_taken", (), np.int64), Field("event_step", (shape.label_slots,), np.int64)]
    return host


def field_name(learner: int, name: str) -> str:
    """How a field of one of a session's learners is called beside those of the session."""
    return f"learner{learner}.{name}"


def _anchors(config: SessionConfig) -> tuple[str, ...]:
    """What residuals are taken to. With seasonality that is the last value and both seasons, whoever learns from it."""
    names = [] if config.learner and config.seasonality == "off" else ["last_value"]
    names += [] if config.seasonality == "off" else SEASON_ANCHORS
    return tuple(dict.fromkeys([*names, *(str(learner.anchor) for learner in config.portfolio)]))


def _groups(config: SessionConfig, scales: ScalingShape) -> tuple[Group, ...]:
    """The learners by shape, in the order of their first members."""
    found: dict[tbptt.LearnerShape, list[int]] = {}
    for k, learner in enumerate(config.portfolio):
        found.setdefault(_learner_shape(config, learner, scales.inputs), []).append(k)
    groups = []
    for shape, members in found.items():
        named = [config.portfolio[k] for k in members]
        longest = max(int(learner.loss_span or 1) for learner in named)
        anchors = tuple(scales.anchors.index(str(learner.anchor)) for learner in named)
        groups.append(Group(replace(shape, loss_span=longest), tuple(members), anchors))
    return tuple(groups)


def _learner_shape(config: SessionConfig, learner: LearnerConfig, inputs: int) -> tbptt.LearnerShape:
    """The shape of one learner, its loss span left open."""
    assert learner.window is not None and learner.loss is not None
    return tbptt.LearnerShape(
        cell=learner.cell,
        layers=learner.layers,
        inputs=inputs,
        hidden=learner.hidden,
        horizon=config.horizon,
        targets=len(config.predicted),
        ahead=config.ahead,
        symbols=len(config.symbols(config.predicted[0])) if learner.loss == "softmax" else 0,
        window=learner.window,
        stride=learner.stride,
        loss_span=0,
        loss=learner.loss,
        quantiles=learner.quantiles if learner.loss == "pinball" else (),
        optimizer=learner.optimizer,
        schedule=learner.schedule,
        clip=learner.clip,
        guard=learner.guard,
    )


def _experts(config: SessionConfig, groups: tuple[Group, ...], scales: ScalingShape) -> ExpertShape:
    """The portfolio's."""
    pairs = [pair for group in groups for pair in zip(group.members, group.anchors, strict=True)]
    anchors = tuple(anchor for _, anchor in sorted(pairs))
    seasonal = scales.seasons is not None
    return ExpertShape(config.horizon, scales.outputs, anchors, seasonal, scales.told)
