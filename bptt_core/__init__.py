"""Recurrent networks that learn from streams: the mathematics and the fold, without I/O, clock or threads.

The public face is what is named here; everything else may change without notice.
"""

from bptt_core.backends import BACKENDS, Backend, select_backend
from bptt_core.checkpoint import CheckpointError
from bptt_core.config import (
    ANCHORS,
    CELLS,
    LOSSES,
    OPTIMIZERS,
    FieldError,
    LearnerConfig,
    SessionConfig,
    Words,
    check_learning_rate,
)
from bptt_core.events import Events, Outcomes, Scores, SessionStatus, UpdateResult, check_events
from bptt_core.fold import Fold, Slot, session_bytes

__all__ = [
    "ANCHORS",
    "BACKENDS",
    "CELLS",
    "LOSSES",
    "OPTIMIZERS",
    "Backend",
    "CheckpointError",
    "Events",
    "FieldError",
    "Fold",
    "LearnerConfig",
    "Outcomes",
    "Scores",
    "SessionConfig",
    "SessionStatus",
    "Slot",
    "UpdateResult",
    "Words",
    "check_events",
    "check_learning_rate",
    "select_backend",
    "session_bytes",
]
