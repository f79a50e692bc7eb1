"""Recurrent networks that learn from streams: the mathematics and the fold, without I/O or clock.

The public face is what is named here; everything else may change without notice.
"""

from bptt_core.backends import BACKENDS, Backend, select_backend
from bptt_core.checkpoint import CheckpointError
from bptt_core.checks import FieldError, Words
from bptt_core.config import MAX_STATE_VALUES, TASKS, Categorical, SessionConfig
from bptt_core.events import (
    Events,
    ExpertStatus,
    Labelled,
    Labels,
    ResetReason,
    Scores,
    SensorState,
    SessionStatus,
    SymbolScores,
    UpdateCounts,
    UpdateResult,
    WarmStart,
    check_events,
    check_labels,
)
from bptt_core.fold import Fold
from bptt_core.health import lags
from bptt_core.learner_config import (
    ANCHORS,
    CELLS,
    CLIPS,
    LOSSES,
    MAX_WINDOW,
    OPTIMIZERS,
    SCHEDULES,
    LearnerConfig,
    check_learning_rate,
)
from bptt_core.outcomes import Outcomes, weave
from bptt_core.parameters import ParameterLayout
from bptt_core.state import session_bytes, session_layout
from bptt_core.store import Slot
from bptt_core.torch_format import TorchNetwork, from_torch, to_torch
from bptt_core.warm_start import WarmUp

__all__ = [
    "ANCHORS",
    "BACKENDS",
    "CELLS",
    "CLIPS",
    "LOSSES",
    "MAX_STATE_VALUES",
    "MAX_WINDOW",
    "OPTIMIZERS",
    "SCHEDULES",
    "TASKS",
    "Backend",
    "Categorical",
    "CheckpointError",
    "Events",
    "ExpertStatus",
    "FieldError",
    "Fold",
    "Labelled",
    "Labels",
    "LearnerConfig",
    "Outcomes",
    "ParameterLayout",
    "ResetReason",
    "Scores",
    "SensorState",
    "SessionConfig",
    "SessionStatus",
    "Slot",
    "SymbolScores",
    "TorchNetwork",
    "UpdateCounts",
    "UpdateResult",
    "WarmStart",
    "WarmUp",
    "Words",
    "check_events",
    "check_labels",
    "check_learning_rate",
    "from_torch",
    "lags",
    "select_backend",
    "session_bytes",
    "session_layout",
    "to_torch",
    "weave",
]
