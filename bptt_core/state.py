"""What a session's state consists of: its own fields, those of its learners, and what its configuration sets in them.

Names and sizes only; who holds the arrays is fold.py's business.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bptt_core import intervals, tbptt
from bptt_core.config import SessionConfig
from bptt_core.learner_config import LearnerConfig
from bptt_core.parameters import ParameterLayout
from bptt_core.shape import Shape, field_name
from bptt_core.shape import fields as session_fields
from bptt_core.slab import Field


def session_bytes(config: SessionConfig) -> int:
    """Bytes that the state of one such session takes in a Fold (which reserves for up to twice its sessions)."""
    shape = Shape.of(config.validated())
    own = sum(f.bytes for f in session_fields(shape))
    return own + sum(len(g.members) * f.bytes for g in shape.groups for f in learner_fields(g.learner))


def session_layout(config: SessionConfig) -> ParameterLayout:
    """Shapes of the network of a session with this validated configuration and a single learner."""
    return Shape.of(config).learner.layout


def learner_fields(shape: tbptt.LearnerShape) -> list[Field]:
    return [*tbptt.device_fields(shape), *tbptt.host_fields(shape)]


def all_fields(shape: Shape) -> list[Field]:
    """Every field of a session and of its learners, these by `field_name`."""
    learners = [
        replace(f, name=field_name(k, f.name))
        for k in range(shape.learners)
        for f in learner_fields(shape.learner_shape(k))
    ]
    return [*session_fields(shape), *learners]


def settings(config: SessionConfig, learning: bool) -> dict[str, Any]:
    """Fields that a configuration sets, where the session's shape has them."""
    found: dict[str, Any] = {
        "given_mean": config.means,
        "given_deviation": config.deviations,
        "coverage_target": config.coverage,
        "interval_reach": intervals.initial_reach(config.coverage),
    }
    for k, learner in enumerate(config.portfolio):
        found |= {field_name(k, name): value for name, value in _learner_settings(learner, learning).items()}
    return found


def _learner_settings(learner: LearnerConfig, learning: bool) -> dict[str, Any]:
    limits = {"norm": learner.clip_norm, "value": learner.clip_value, "quantile": learner.clip_quantile, "off": 0.0}
    return {
        "learning": learning,
        "learning_rate": learner.learning_rate,
        "span": learner.loss_span,
        "beta1": learner.beta1,
        "beta2": learner.beta2,
        "weight_decay": learner.weight_decay,
        "warmup_updates": learner.warmup_updates,
        "decay_updates": learner.decay_updates,
        "rate_floor": learner.rate_floor,
        "clip_limit": limits[learner.clip],
        "loss_parameter": learner.student_dof if learner.loss == "student_t" else learner.huber_delta,
    }
