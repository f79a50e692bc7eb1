"""What the service answers, as plain values. Knows no wire format and does no arithmetic.

Lists are nested [horizon][target]; horizon 0 of a list is one event ahead. A value that does not exist (a target never
seen, an interval in warm-up, the loss of an update that did not happen) is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

UpdateName = Literal["not_due", "applied", "no_target", "non_finite", "learning_off"]
UPDATE_NAMES: tuple[UpdateName, ...] = ("not_due", "applied", "no_target", "non_finite", "learning_off")


@dataclass(frozen=True, slots=True)
class TargetForecast:
    """Forecast of one target, lists [horizon], in the target's own units."""

    name: str
    mean: list[float]
    lower: list[float]
    upper: list[float]


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecast made at event `sequence`, lists [horizon][target], in the targets' own units."""

    sequence: int
    targets: tuple[str, ...]
    mean: list[list[float]]
    lower: list[list[float]]
    upper: list[list[float]]
    timestamp_ns: int | None = None

    @property
    def horizon(self) -> int:
        """How many events ahead it reaches."""
        return len(self.mean)

    def __getitem__(self, target: str) -> TargetForecast:
        """The forecast of one target. KeyError names the targets there are."""
        if target not in self.targets:
            raise KeyError(f"{target!r} is not a target; targets: {', '.join(self.targets)}")
        i = self.targets.index(target)
        mean, lower, upper = ([row[i] for row in rows] for rows in (self.mean, self.lower, self.upper))
        return TargetForecast(target, mean, lower, upper)


@dataclass(frozen=True, slots=True)
class Update:
    """What became of the update that was due at one event."""

    result: UpdateName
    loss: float
    gradient_norm: float
    clip_scale: float

    @property
    def applied(self) -> bool:
        """Whether parameters were changed."""
        return self.result == "applied"


@dataclass(frozen=True, slots=True)
class Reply:
    """What the session answered to one event."""

    sequence: int
    forecast: Forecast
    update: Update | None
    anomaly_score: float


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Replies to consecutive events by column: flat row-major sequences of `len` events; iterate for `Reply` views."""

    first_sequence: int
    targets: tuple[str, ...]
    horizon: int
    mean: Sequence[float] = field(repr=False)
    lower: Sequence[float] = field(repr=False)
    upper: Sequence[float] = field(repr=False)
    anomaly_score: Sequence[float] = field(repr=False)
    update_results: Sequence[UpdateName] = field(repr=False)
    loss: Sequence[float] = field(repr=False)
    gradient_norm: Sequence[float] = field(repr=False)
    clip_scale: Sequence[float] = field(repr=False)

    def __len__(self) -> int:
        return len(self.anomaly_score)

    def __iter__(self) -> Iterator[Reply]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Reply:
        """Reply to the event at `index`, counted from 0 (or from the end if negative)."""
        i = range(len(self))[index]
        sequence = self.first_sequence + i
        mean, lower, upper = (self._nested(column, i) for column in (self.mean, self.lower, self.upper))
        result = self.update_results[i]
        update = None
        if result != "not_due":
            update = Update(result, self.loss[i], self.gradient_norm[i], self.clip_scale[i])
        forecast = Forecast(sequence, self.targets, mean, lower, upper)
        return Reply(sequence, forecast, update, self.anomaly_score[i])

    def _nested(self, column: Sequence[float], index: int) -> list[list[float]]:
        width = len(self.targets)
        start = index * self.horizon * width
        return [list(column[j : j + width]) for j in range(start, start + self.horizon * width, width)]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """One batch was acknowledged: events `first_sequence`..`last_sequence`, `duplicates` of them not for the first
    time.

    `outcomes` is what the reply mode asked for, None if nothing; `round_trip_s` the time from sending to its answer.
    """

    first_sequence: int
    last_sequence: int
    duplicates: int
    outcomes: Outcomes | None
    round_trip_s: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What `learn_many` did: events acknowledged (`duplicates` of them had been before), the last reply,
    reconnections.
    """

    events: int
    duplicates: int
    last_sequence: int
    last_reply: Reply | None
    reconnects: int


@dataclass(frozen=True, slots=True)
class UpdateCounts:
    """How often an update was due and what came of it; `clipped` ones are among the `applied`."""

    applied: int
    clipped: int
    no_target: int
    non_finite: int
    learning_off: int

    @property
    def skipped(self) -> int:
        """Updates that were due and did not happen."""
        return self.no_target + self.non_finite + self.learning_off


@dataclass(frozen=True, slots=True)
class Scores:
    """Running means of the session, lists [horizon][target] in original units; seasonal ones None without a season."""

    count: list[list[int]]
    mse: list[list[float]]
    mae: list[list[float]]
    persistence_mse: list[list[float]]
    persistence_mae: list[list[float]]
    seasonal_mse: list[list[float]] | None
    seasonal_mae: list[list[float]] | None
    coverage: list[list[float]]
    width: list[list[float]]


@dataclass(frozen=True, slots=True)
class Session:
    """One session as the server described it. `create_session(id, **session.config)` makes another like it."""

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

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the values of an event, in order."""
        return tuple(self.config["features"])

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the forecast features, in the order of every reply."""
        return tuple(self.config["targets"])

    @property
    def horizon(self) -> int:
        """How many events ahead a forecast reaches."""
        return int(self.config["horizon"])
