"""What the service says of a session, as plain values: configuration, counters, running scores, experts.

Knows no wire format. What it answers to events is in `replies.py`; lists are nested [horizon][target] as there, and a
value that does not exist is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class UpdateCounts:
    """How often an update was due and what came of it; `clipped` ones are among the `applied`. Learners that lost what
    they had learned last are counted by the reason of a `LearnerReset`.
    """

    applied: int
    clipped: int
    no_target: int
    non_finite: int
    learning_off: int
    reset_non_finite: int
    reset_diverged: int
    reset_restarted: int
    reset_season: int

    @property
    def skipped(self) -> int:
        """Updates that were due and did not happen."""
        return self.no_target + self.non_finite + self.learning_off

    @property
    def resets(self) -> int:
        """Learners that lost what they had learned last, for whatever reason."""
        return self.reset_non_finite + self.reset_diverged + self.reset_restarted + self.reset_season


@dataclass(frozen=True, slots=True)
class Expert:
    """One forecaster of a portfolio: a learner, or a naive one (`updates` and `rate_factor` are None).

    `weight` is its share in the forecast that is served, `relative_error` its squared error over persistence's.
    `rate_factor`, 1 or less after resets, multiplies the configured learning rate.
    """

    name: str
    weight: float
    relative_error: float
    updates: UpdateCounts | None
    rate_factor: float | None


@dataclass(frozen=True, slots=True)
class Scores:
    """Running means of the session, lists [horizon][target], in original units or nats. None is what does not apply:
    errors of values where symbols are classified, log losses and error rates elsewhere, seasonal ones without a season.
    NaN is what was not scored yet.
    `interval_score` is the width plus what values outside cost, lower is better (Gneiting and Raftery 2007).
    """

    count: list[list[int]]
    mse: list[list[float]] | None
    mae: list[list[float]] | None
    persistence_mse: list[list[float]] | None
    persistence_mae: list[list[float]] | None
    seasonal_mse: list[list[float]] | None
    seasonal_mae: list[list[float]] | None
    coverage: list[list[float]] | None
    width: list[list[float]] | None
    log_loss: list[list[float]] | None
    naive_log_loss: list[list[float]] | None
    error_rate: list[list[float]] | None
    naive_error_rate: list[list[float]] | None
    interval_score: list[list[float]] | None

    @property
    def skill(self) -> list[list[float]] | None:
        """1 - mse / persistence_mse: above 0 better than repeating the last value, 1 without error; NaN where that
        makes none.
        """
        if self.mse is None or self.persistence_mse is None:
            return None
        rows = zip(self.mse, self.persistence_mse, strict=True)
        return [[1.0 - a / b if b else math.nan for a, b in zip(*row, strict=True)] for row in rows]


@dataclass(frozen=True, slots=True)
class Session:
    """One session as the server described it. `create_session(id, **session.config)` makes another like it.

    `experts` are those of a portfolio, with their weights (none from `list_sessions`); `seasons` are in force, given or
    found, in events (0: not found yet); `drifts` counts the changes that were detected.
    """

    session_id: str
    uid: str
    config: Mapping[str, Any]
    tags: Mapping[str, str]
    learning: bool
    credit_events: int
    create_time: datetime
    last_sequence: int
    last_timestamp_ns: int | None
    period_ns: int | None
    updates: UpdateCounts
    scores: Scores | None
    backend: str
    parameters: int
    experts: tuple[Expert, ...]
    seasons: tuple[int, ...]
    drifts: int

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the values of an event, in order."""
        return tuple(self.config["features"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of an event's labels, in order; none where the targets are features."""
        return tuple(self.config.get("labels", ()))

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of what is predicted, in the order of every reply: the labels, or the features to forecast."""
        return self.labels or tuple(self.config["targets"])

    @property
    def horizon(self) -> int:
        """How many events ahead a forecast reaches; with labels 1, and it is the event's own."""
        return int(self.config["horizon"])

    @property
    def learners(self) -> tuple[Mapping[str, Any], ...]:
        """Configurations of its learners: of a portfolio, or of the single one."""
        return tuple(self.config["learners"]) if "learners" in self.config else (self.config["learner"],)
