"""What a session is: frozen values, validated in one place.

A configuration holds plain numbers and strings only. `SessionConfig.validated()` fills in every default that depends on
another field and raises `FieldError` naming the field, the value and the allowed range. The defaults are the project's
one answer for every stream; `benchmarks/README.md` names the experiment behind each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from bptt_core.checks import (
    MAX_FEATURES,
    FieldError,
    Words,
    check_integer,
    check_names,
    check_number,
    check_one_of,
    check_text,
    shorten,
)
from bptt_core.learner_config import LearnerConfig
from bptt_core.portfolio import LARGEST, default_portfolio

TASKS: Final = ("forecast", "regress", "classify")
SCALINGS: Final = ("online", "fixed")
SEASONALITIES: Final = ("found", "given", "off")

MAX_SYMBOLS: Final = 256
MAX_SYMBOL_CHARS: Final = 64
MAX_HORIZON: Final = 256
MAX_SEASON: Final = 10_080
MAX_SEASONS: Final = 2
MAX_LABEL_AGE: Final = 65_536
MAX_STATE_VALUES: Final = 2**24
ANCHORS: Final = 3  # what residuals are taken to
MAX_CONTEXT: Final = 64  # inputs that tell of seasons and calendar
NAIVE_EXPERTS: Final = 5
WEIGHTED_LOSSES: Final = ("squared", "absolute", "huber", "student_t")  # of a portfolio: one output per pair


@dataclass(frozen=True, slots=True)
class Categorical:
    """A feature or label whose values are positions in `symbols`."""

    channel: str
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What a session predicts and how. See `proto/bptt/v1/config.proto`; the names are the same."""

    features: tuple[str, ...]
    targets: tuple[str, ...] = ()
    horizon: int = 1
    seasons: tuple[int, ...] = ()
    period_ns: int | None = None
    coverage: float = 0.9
    learner: LearnerConfig | None = None
    task: str = "forecast"
    labels: tuple[str, ...] = ()
    categories: tuple[Categorical, ...] = ()
    label_age: int | None = None
    scaling: str = "online"
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    learners: tuple[LearnerConfig, ...] = ()
    seasonality: str | None = None

    def validated(self) -> SessionConfig:
        """This configuration with every default filled in. Raises FieldError."""
        check_one_of("task", self.task, TASKS)
        check_names("features", self.features)
        if self.labels:
            check_names("labels", self.labels)
        self._check_labels()
        self._check_categories()
        config = replace(self, targets=self._targets())
        check_integer("horizon", self.horizon, 1, MAX_HORIZON)
        if self.labels and self.horizon > 1:
            raise FieldError("horizon", self.horizon, "1, as there are labels")
        config._check_time()
        check_number("coverage", self.coverage, 0.5, 0.99)
        means, deviations = config._scales()
        config = replace(config, means=means, deviations=deviations)
        config = config._with_learners()
        age = None if not self.labels else config.portfolio[0].window if self.label_age is None else self.label_age
        if age is not None:
            check_integer("label_age", age, 0, MAX_LABEL_AGE)
        config = replace(config, label_age=age)
        _bounded_state(config)
        return config

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> SessionConfig:
        """The inverse of `dataclasses.asdict`, lists in place of tuples allowed; not validated. Raises TypeError,
        KeyError or AttributeError if it is none."""
        given = _with_tuples(values)
        for name in ("features", "targets", "seasons", "labels", "categories", "means", "deviations", "learners"):
            if not isinstance(given[name], tuple):
                raise TypeError(f"{name} is no list")
        categories = tuple(Categorical(c["channel"], tuple(c["symbols"])) for c in given["categories"])
        single = None if given["learner"] is None else LearnerConfig(**_with_tuples(given["learner"]))
        several = tuple(LearnerConfig(**_with_tuples(learner)) for learner in given["learners"])
        return cls(**{**given, "learner": single, "learners": several, "categories": categories})

    @property
    def portfolio(self) -> tuple[LearnerConfig, ...]:
        """The learners of a validated configuration: those of `learners`, or the single one."""
        return self.learners if self.learner is None else (self.learner,)

    @property
    def ahead(self) -> int:
        """How many events after the one it is made at the first predicted value lies: 1, or 0 with labels."""
        return 0 if self.labels else 1

    @property
    def predicted(self) -> tuple[str, ...]:
        """Names of what is predicted: the labels, or the targets."""
        return self.labels or self.targets

    def symbols(self, name: str) -> tuple[str, ...]:
        """Symbols of a feature or label; none if it is numeric."""
        return next((c.symbols for c in self.categories if c.channel == name), ())

    @property
    def target_indices(self) -> tuple[int, ...]:
        """Position of each target among the features; none with labels."""
        return tuple(self.features.index(name) for name in self.targets)

    def _check_labels(self) -> None:
        if self.task == "forecast" and self.labels:
            raise FieldError("labels", list(self.labels), "none, with task forecast")
        if self.task == "regress" and not self.labels:
            raise FieldError("labels", [], f"1..{MAX_FEATURES} names, with task regress")
        for name in self.labels:
            if name in self.features:
                raise FieldError("labels", name, "names that are no features")

    def _check_categories(self) -> None:
        channels = [c.channel for c in self.categories]
        if len(set(channels)) != len(channels):
            raise FieldError("categories", channels, "one entry per feature or label")
        for entry in self.categories:
            if entry.channel not in (*self.features, *self.labels):
                raise FieldError("categories", entry.channel, "features and labels")
            if entry.channel in self.labels and self.task == "regress":
                raise FieldError("categories", entry.channel, "features, with task regress")
            where = f"categories[{entry.channel}].symbols"
            if not 2 <= len(entry.symbols) <= MAX_SYMBOLS or len(set(entry.symbols)) != len(entry.symbols):
                raise FieldError(where, list(entry.symbols), f"2..{MAX_SYMBOLS} distinct symbols")
            for symbol in entry.symbols:
                check_text(where, symbol, MAX_SYMBOL_CHARS, "texts")

    def _targets(self) -> tuple[str, ...]:
        if self.labels:
            if self.targets:
                raise FieldError("targets", list(self.targets), "none, as there are labels")
            return ()
        numeric = tuple(name for name in self.features if not self.symbols(name))
        categorical = tuple(name for name in self.features if self.symbols(name))
        targets = tuple(self.targets) or (categorical if self.task == "classify" else numeric)
        if not targets:
            kind = "a categorical feature, or labels" if self.task == "classify" else "a numeric feature"
            raise FieldError("targets", [], f"at least {kind}")
        check_names("targets", targets)
        for name in targets:
            if name not in self.features:
                raise FieldError("targets", name, f"one of the features {shorten(list(self.features))}")
            if self.task == "forecast" and name in categorical:
                raise FieldError("targets", name, f"numeric features {shorten(list(numeric))}, with task forecast")
        return targets

    def _with_learners(self) -> SessionConfig:
        """With its learners and its seasonality filled in: a portfolio where it can be one and none is named."""
        weighted = self.task == "forecast" and self.scaling == "online"
        if self.learners and self.learner is not None:
            raise FieldError("learners", Words(f"{len(self.learners)} learners"), "none, as there is a single learner")
        if self.learners and not weighted:
            allowed = "none, unless the task is forecast and scaling is online"
            raise FieldError("learners", Words(f"{len(self.learners)} learners"), allowed)
        if len(self.learners) > LARGEST:
            raise FieldError("learners", Words(f"{len(self.learners)} learners"), f"1..{LARGEST} learners")
        single = self.learner if weighted or self.learner else LearnerConfig()
        config = replace(self, seasonality=self._seasonality(weighted, single is not None))
        if single is not None:
            return replace(config, learner=single.validated(config))
        named = self.learners or default_portfolio(self.horizon, config.seasonality != "off")
        return replace(config, learners=tuple(_validated(learner, k, config) for k, learner in enumerate(named)))

    def _seasonality(self, weighted: bool, single: bool) -> str:
        default = "off" if single or not weighted else "given" if self.seasons else "found"
        seasonality = default if self.seasonality is None else self.seasonality
        check_one_of("seasonality", seasonality, SEASONALITIES)
        if seasonality != "off" and not weighted:
            raise FieldError("seasonality", seasonality, "off, unless the task is forecast and scaling is online")
        if seasonality == "found" and self.seasons:
            raise FieldError("seasonality", seasonality, "given or off, as there are seasons")
        if seasonality == "given" and not self.seasons:
            raise FieldError("seasonality", seasonality, "found or off, as there are no seasons")
        return seasonality

    def _check_time(self) -> None:
        if len(self.seasons) > MAX_SEASONS or len(set(self.seasons)) != len(self.seasons):
            raise FieldError("seasons", list(self.seasons), f"at most {MAX_SEASONS} distinct seasons")
        if self.seasons and self.task != "forecast":
            raise FieldError("seasons", list(self.seasons), "none, unless the task is forecast")
        for season in self.seasons:
            check_integer("seasons", season, 2, MAX_SEASON)
        if self.period_ns is not None:
            check_integer("period_ns", self.period_ns, 1, 2**62)

    def _scales(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        check_one_of("scaling", self.scaling, SCALINGS)
        channels = len(self.features) + len(self.labels)
        filled = []
        for name, default, low, high in (("means", 0.0, -1e100, 1e100), ("deviations", 1.0, 1e-100, 1e100)):
            values: tuple[float, ...] = self.means if name == "means" else self.deviations
            if values and self.scaling != "fixed":
                raise FieldError(name, list(values), "none, unless scaling is fixed")
            if values and len(values) != channels:
                raise FieldError(name, Words(f"{len(values)} values"), f"{channels}, one per feature and label")
            for value in values:
                check_number(name, value, low, high)
            filled.append(values or ((default,) * channels if self.scaling == "fixed" else ()))
        return filled[0], filled[1]


def _validated(learner: LearnerConfig, position: int, config: SessionConfig) -> LearnerConfig:
    """One of several learners. Raises FieldError."""
    try:
        filled = learner.validated(config)
        check_one_of("learner.loss", str(filled.loss), WEIGHTED_LOSSES)
    except FieldError as error:
        where = error.field.replace("learner.", f"learners[{position}].", 1)
        raise FieldError(where, Words(error.value), error.allowed) from None
    return filled


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _bounded_state(config: SessionConfig) -> None:
    """Every field may be in range and the session still too large for a server to hold."""
    horizon, O = config.horizon, len(config.predicted)
    symbols = sum(len(config.symbols(name)) for name in config.features)
    inputs = 3 * len(config.features) + symbols + (0 if config.seasonality == "off" else MAX_CONTEXT)
    slots = horizon if config.label_age is None else config.label_age + 1
    season = 0 if config.seasonality == "off" else max(2048, 2 * max(config.seasons, default=0))
    experts = 5 if config.learner else 2 * (len(config.learners) + NAIVE_EXPERTS) + 5
    total = 0
    for learner in config.portfolio:
        assert learner.window is not None
        sizes = {"gaussian": 2, "pinball": len(learner.quantiles), "softmax": len(config.symbols(config.predicted[0]))}
        per_pair = sizes.get(str(learner.loss), 1)
        outputs = horizon * O * per_pair
        layers = learner.hidden * 4 * ((2 * learner.layers - 1) * learner.hidden + inputs)
        total += 4 * (layers + learner.hidden * outputs) + learner.window * (horizon * O + inputs)
        total += slots * (outputs + O * per_pair) if config.learner else 0
    total += (slots * (experts + 2 * ANCHORS) * horizon + season) * O
    if total > MAX_STATE_VALUES:
        raise FieldError(
            "horizon × targets × (window + horizon), learners, hidden, layers, symbols",
            total,
            f"at most {MAX_STATE_VALUES} state values per session; lower one of these",
        )
