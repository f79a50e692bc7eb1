"""The portfolio of a session that names no learners: one constant, the same for every stream.

Its learners are of one shape, so that they are stepped as one batch, and complement each other: in how far back an
update trains (`loss_span`), in learning rate, and in the naive value they start from. `benchmarks/README.md` names the
experiment that chose them.
"""

from __future__ import annotations

from typing import Final

from bptt_core.learner_config import MAX_WINDOW, LearnerConfig

LARGEST: Final = 16  # learners of a session
HIDDEN: Final = 16


def default_portfolio(horizon: int, seasonal: bool) -> tuple[LearnerConfig, ...]:
    """The learners of a session that forecasts so many events ahead, with or without seasons; not validated."""
    window = min(MAX_WINDOW, max(32, horizon + 16))
    season, second_season = ("season", "second_season") if seasonal else ("last_value", "last_value")
    return (
        LearnerConfig(hidden=HIDDEN, loss_span=1, learning_rate=1e-3, seed=0),
        LearnerConfig(hidden=HIDDEN, loss_span=window, learning_rate=1e-3, seed=1),
        LearnerConfig(hidden=HIDDEN, loss_span=4, learning_rate=3e-3, seed=2),
        LearnerConfig(hidden=HIDDEN, loss_span=4, learning_rate=3e-4, seed=3),
        LearnerConfig(hidden=HIDDEN, loss_span=window, learning_rate=1e-3, anchor=season, seed=4),
        LearnerConfig(hidden=HIDDEN, loss_span=1, learning_rate=1e-3, anchor=second_season, seed=5),
    )
