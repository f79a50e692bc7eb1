"""What the service answers to events, as plain values. Knows no wire format and does no arithmetic. What
it says of a session as a whole is in `session.py`.

Lists are nested [horizon][target]; horizon 0 of a list is one event ahead. A value that does not exist (a target never
seen, an interval in warm-up, the loss of an update that did not happen) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

UpdateName = Literal["not_due", "applied", "no_target", "non_finite", "learning_off"]
UPDATE_NAMES: tuple[UpdateName, ...] = ("not_due", "applied", "no_target", "non_finite", "learning_off")
SensorName = Literal["ok", "missing", "stuck"]
SENSOR_NAMES: tuple[SensorName, ...] = ("ok", "missing", "stuck")
ResetName = Literal["non_finite", "diverged", "restarted", "season"]
RESET_NAMES: tuple[ResetName, ...] = ("non_finite", "diverged", "restarted", "season")


@dataclass(frozen=True, slots=True)
class TargetForecast:
    """Forecast of one target, lists [horizon], in the target's own units. `distribution` is [horizon][numbers]: what
    `probabilities` or `quantiles` give by name; None where the loss learns none.
    """

    name: str
    mean: list[float]
    lower: list[float]
    upper: list[float]
    distribution: list[list[float]] | None = None
    symbols: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()

    @property
    def symbol(self) -> list[str | None]:
        """The most probable symbol [horizon], None before there is one; empty where the target is no symbol."""
        return [None if math.isnan(place) else self.symbols[int(place)] for place in self.mean] if self.symbols else []

    @property
    def probabilities(self) -> list[dict[str, float]]:
        """Symbol → probability [horizon]; empty where the target is no symbol."""
        made = self.distribution if self.symbols else None
        return [dict(zip(self.symbols, numbers, strict=True)) for numbers in made or ()]

    @property
    def quantiles(self) -> dict[float, list[float]]:
        """Level → that quantile [horizon]; empty where the loss learns none."""
        made = self.distribution if self.levels else None
        columns = zip(*made, strict=True) if made else ()
        return {level: list(column) for level, column in zip(self.levels, columns, strict=False)}


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecast made at event `sequence`, lists [horizon][target], in the targets' own units; in a session with labels
    the prediction of the event's own (horizon 1), made before they were looked at.

    `distribution` is [horizon][target][numbers]: the probabilities of `symbols`, or the quantiles at `levels`; None
    where the loss learns none. Of a categorical target `mean` is the position of the most probable symbol.
    """

    sequence: int
    targets: tuple[str, ...]
    mean: list[list[float]]
    lower: list[list[float]]
    upper: list[list[float]]
    timestamp_ns: int | None = None
    distribution: list[list[list[float]]] | None = None
    symbols: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()

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
        distribution = None if self.distribution is None else [row[i] for row in self.distribution]
        return TargetForecast(target, mean, lower, upper, distribution, self.symbols, self.levels)


@dataclass(frozen=True, slots=True)
class Update:
    """What became of the update that was due at one event. `clip_scale` is the gradient's norm after the clip over
    that before it, `saturation` the share of saturated units, `update_ratio` the change of the parameters over their
    norm; `gradient_by_lag`, at every 64th update, the norm of the newest loss's gradient so many steps back (0 is the
    hidden state that was read out), else None.
    """

    result: UpdateName
    loss: float
    gradient_norm: float
    clip_scale: float
    saturation: float
    update_ratio: float
    gradient_by_lag: Mapping[int, float] | None = None

    @property
    def applied(self) -> bool:
        """Whether parameters were changed."""
        return self.result == "applied"


@dataclass(frozen=True, slots=True)
class LearnerReset:
    """A learner, by its position in the session's `learners`, lost what it had learned last: it went back to its last
    good parameters ("non_finite", "diverged"), began anew ("restarted"), or its readout did ("season": the season it is
    anchored to is another one).
    """

    learner: int
    reason: ResetName


@dataclass(frozen=True, slots=True)
class Reply:
    """What the session answered to one event.

    `anomaly_score` is the largest of `target_anomaly_score` (by target): above 1 the value is anomalous.
    `anomaly_likelihood`, 0..1, is near 1 when the errors are no longer what they were, `drift` true at the event where
    that was detected. `sensor_states` (by target; empty in a session with labels or symbols to predict) tells missing
    and stuck sensors from surprising values. While `warming_up`, there are no intervals yet.
    """

    sequence: int
    forecast: Forecast
    update: Update | None
    anomaly_score: float
    target_anomaly_score: Mapping[str, float]
    anomaly_likelihood: float
    sensor_states: Mapping[str, SensorName]
    drift: bool
    warming_up: bool
    learner_resets: tuple[LearnerReset, ...]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Replies to consecutive events by column: flat row-major sequences of `len` events; iterate for `Reply` views.
    `gradient_by_lag` and `learner_resets` are by sequence, where there were any; `sensor_states` may be empty.
    """

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
    saturation: Sequence[float] = field(repr=False)
    update_ratio: Sequence[float] = field(repr=False)
    gradient_by_lag: Mapping[int, Mapping[int, float]] = field(repr=False)
    distribution: Sequence[float] = field(repr=False)
    target_anomaly_score: Sequence[float] = field(repr=False)
    anomaly_likelihood: Sequence[float] = field(repr=False)
    sensor_states: Sequence[SensorName] = field(repr=False)
    drift: Sequence[bool] = field(repr=False)
    warming_up: Sequence[bool] = field(repr=False)
    learner_resets: Mapping[int, tuple[LearnerReset, ...]] = field(repr=False)
    distribution_size: int = 0
    symbols: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.anomaly_score)

    def __iter__(self) -> Iterator[Reply]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Reply:
        """Reply to the event at `index`, counted from 0 (or from the end if negative)."""
        i = range(len(self))[index]
        sequence = self.first_sequence + i
        mean, lower, upper = (self._nested(column, i) for column in (self.mean, self.lower, self.upper))
        distribution = self._distribution(i) if self.distribution_size else None
        forecast = Forecast(sequence, self.targets, mean, lower, upper, None, distribution, self.symbols, self.levels)
        own = slice(i * len(self.targets), (i + 1) * len(self.targets))
        return Reply(
            sequence,
            forecast,
            self._update(i),
            self.anomaly_score[i],
            dict(zip(self.targets, self.target_anomaly_score[own], strict=True)),
            self.anomaly_likelihood[i],
            dict(zip(self.targets, self.sensor_states[own], strict=False)),
            self.drift[i],
            self.warming_up[i],
            self.learner_resets.get(sequence, ()),
        )

    def _update(self, i: int) -> Update | None:
        if self.update_results[i] == "not_due":
            return None
        return Update(
            self.update_results[i],
            self.loss[i],
            self.gradient_norm[i],
            self.clip_scale[i],
            self.saturation[i],
            self.update_ratio[i],
            self.gradient_by_lag.get(self.first_sequence + i),
        )

    def _distribution(self, index: int) -> list[list[list[float]]]:
        size, width = self.distribution_size, len(self.targets)
        pairs = range(index * self.horizon * width, (index + 1) * self.horizon * width)
        numbers = [list(self.distribution[pair * size : (pair + 1) * size]) for pair in pairs]
        return [numbers[h * width : (h + 1) * width] for h in range(self.horizon)]

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
class LabelResult:
    """What became of late labels: `accepted` ones were new (`trainable` of them in time to be learned from),
    `duplicates` had been known.
    """

    accepted: int
    duplicates: int
    trainable: int


@dataclass(frozen=True, slots=True)
class WarmStartResult:
    """What a warm start did: mean loss of each pass, before its updates (NaN: nothing to train from), and updates
    `applied`.
    """

    loss: list[float]
    applied: int
