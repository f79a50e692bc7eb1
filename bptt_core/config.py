"""What a session and its learner are: frozen values, validated in one place.

A configuration holds plain numbers and strings only. `SessionConfig.validated()` fills in every default that depends on
another field and raises `FieldError` naming the field, the value and the allowed range. The defaults are the project's
one answer for every stream; `benchmarks/README.md` names the experiment behind each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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

TASKS: Final = ("forecast", "regress", "classify")
SCALINGS: Final = ("online", "fixed")
CELLS: Final = ("tanh", "relu", "gru", "lstm")
ANCHORS: Final = ("last_value", "none")
NUMERIC_LOSSES: Final = ("squared", "absolute", "huber", "student_t", "pinball", "gaussian")
SYMBOL_LOSSES: Final = ("softmax", "sigmoid")
LOSSES: Final = NUMERIC_LOSSES + SYMBOL_LOSSES
QUANTILE_LOSSES: Final = ("pinball", "gaussian")
OPTIMIZERS: Final = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw")
SCHEDULES: Final = ("constant", "inverse_sqrt", "inverse")
CLIPS: Final = ("norm", "value", "quantile", "off")
INPUT_INITS: Final = ("uniform", "glorot", "he", "orthogonal")
RECURRENT_INITS: Final = (*INPUT_INITS, "identity")
BIAS_INITS: Final = ("forget", "chrono")

MAX_SYMBOLS: Final = 256
MAX_SYMBOL_CHARS: Final = 64
MAX_HORIZON: Final = 256
MAX_HIDDEN: Final = 512
MAX_LAYERS: Final = 4
MAX_WINDOW: Final = 1024
MAX_SEASON: Final = 10_080
MAX_LABEL_AGE: Final = 65_536
MAX_QUANTILES: Final = 9
MAX_STATE_VALUES: Final = 2**24


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """One recurrent network trained by TBPTT(k1 = stride, k2 = window). A field that is None takes its default.

    See `proto/bptt/v1/config.proto` for the meaning and range of every field; the names are the same.
    """

    cell: str = "lstm"
    hidden: int = 32
    layers: int = 1
    window: int | None = None
    stride: int = 1
    loss_span: int | None = None
    loss: str | None = None
    huber_delta: float = 1.0
    student_dof: float = 4.0
    quantiles: tuple[float, ...] = ()
    anchor: str | None = None
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float | None = None
    weight_decay: float | None = None
    schedule: str = "constant"
    warmup_updates: int = 0
    decay_updates: int = 10_000
    rate_floor: float = 0.1
    clip: str = "norm"
    clip_norm: float = 1.0
    clip_value: float = 1.0
    clip_quantile: float = 0.9
    input_init: str = "uniform"
    recurrent_init: str = "orthogonal"
    recurrent_gain: float = 1.0
    bias_init: str = "forget"
    forget_bias: float = 1.0
    seed: int = 0

    def validated(self, session: SessionConfig) -> LearnerConfig:
        """This configuration with every default filled in, for `session`, whose own fields are. Raises FieldError."""
        check_one_of("learner.cell", self.cell, CELLS)
        check_integer("learner.hidden", self.hidden, 1, MAX_HIDDEN)
        check_integer("learner.layers", self.layers, 1, MAX_LAYERS)
        window = max(32, session.horizon + 16) if self.window is None else self.window
        check_integer("learner.window", window, session.horizon + session.ahead, MAX_WINDOW)
        check_integer("learner.stride", self.stride, 1, window)
        span = self.stride if self.loss_span is None else self.loss_span
        check_integer("learner.loss_span", span, self.stride, window)
        loss = self._loss(session)
        filled = replace(
            self,
            window=window,
            loss_span=span,
            loss=loss,
            quantiles=self._quantiles(loss),
            anchor=self._anchor(session),
            beta2=(0.99 if self.optimizer == "rmsprop" else 0.999) if self.beta2 is None else self.beta2,
            weight_decay=(0.01 if self.optimizer == "adamw" else 0.0)
            if self.weight_decay is None
            else self.weight_decay,
        )
        filled._check_training()
        filled._check_start()
        return filled

    def _loss(self, session: SessionConfig) -> str:
        allowed = SYMBOL_LOSSES if session.task == "classify" else NUMERIC_LOSSES
        symbols = [name for name in session.predicted if session.symbols(name)]
        if symbols and len(session.predicted) > 1:
            field, kind = ("labels", "label") if session.labels else ("targets", "feature")
            raise FieldError(field, list(session.predicted), f"one categorical {kind}, or numeric ones in 0..1")
        default = "squared" if session.task != "classify" else "softmax" if symbols else "sigmoid"
        loss = default if self.loss is None else self.loss
        check_one_of("learner.loss", loss, allowed)
        if loss == "softmax" and not symbols:
            raise FieldError("learner.loss", loss, "sigmoid, or softmax with one categorical target or label")
        if loss == "sigmoid" and symbols:
            raise FieldError("learner.loss", loss, f"softmax, as {shorten(symbols[0])} is categorical")
        return loss

    def _quantiles(self, loss: str) -> tuple[float, ...]:
        if not self.quantiles:
            return (0.05, 0.5, 0.95) if loss in QUANTILE_LOSSES else ()
        for level in self.quantiles:
            check_number("learner.quantiles", level, 0.001, 0.999)
        rising = list(self.quantiles) == sorted(set(self.quantiles))
        if len(self.quantiles) > MAX_QUANTILES or not rising:
            raise FieldError("learner.quantiles", list(self.quantiles), f"1..{MAX_QUANTILES} levels, rising")
        return self.quantiles

    def _anchor(self, session: SessionConfig) -> str:
        if session.task == "classify":
            return "none"
        if self.anchor is None:
            return "last_value" if session.task == "forecast" and session.scaling == "online" else "none"
        check_one_of("learner.anchor", self.anchor, ANCHORS)
        return self.anchor

    def _check_training(self) -> None:
        check_number("learner.huber_delta", self.huber_delta, 1e-3, 1e3)
        check_number("learner.student_dof", self.student_dof, 1, 1e3)
        check_one_of("learner.optimizer", self.optimizer, OPTIMIZERS)
        check_number("learner.beta1", self.beta1, 0, 0.9999)
        check_number("learner.beta2", self.beta2, 0, 0.99999)
        check_number("learner.weight_decay", self.weight_decay, 0, 10)
        assert self.weight_decay is not None
        check_learning_rate(self.learning_rate, self.weight_decay)
        check_one_of("learner.schedule", self.schedule, SCHEDULES)
        check_integer("learner.warmup_updates", self.warmup_updates, 0, 10**6)
        check_integer("learner.decay_updates", self.decay_updates, 1, 10**9)
        check_number("learner.rate_floor", self.rate_floor, 0, 1)
        check_one_of("learner.clip", self.clip, CLIPS)
        check_number("learner.clip_norm", self.clip_norm, 1e-6, 1e6)
        check_number("learner.clip_value", self.clip_value, 1e-6, 1e6)
        check_number("learner.clip_quantile", self.clip_quantile, 0.01, 1)

    def _check_start(self) -> None:
        check_one_of("learner.input_init", self.input_init, INPUT_INITS)
        check_one_of("learner.recurrent_init", self.recurrent_init, RECURRENT_INITS)
        check_number("learner.recurrent_gain", self.recurrent_gain, 0.01, 10)
        check_one_of("learner.bias_init", self.bias_init, BIAS_INITS)
        if self.bias_init == "chrono" and self.cell not in ("gru", "lstm"):
            raise FieldError("learner.bias_init", self.bias_init, f"forget, as {self.cell} has no gates")
        check_number("learner.forget_bias", self.forget_bias, -10, 10)
        check_integer("learner.seed", self.seed, 0, 2**63 - 1)


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
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    task: str = "forecast"
    labels: tuple[str, ...] = ()
    categories: tuple[Categorical, ...] = ()
    label_age: int | None = None
    scaling: str = "online"
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()

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
        learner = self.learner.validated(config)
        age = None if not self.labels else learner.window if self.label_age is None else self.label_age
        if age is not None:
            check_integer("label_age", age, 0, MAX_LABEL_AGE)
        config = replace(config, learner=learner, label_age=age)
        _bounded_state(config)
        return config

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> SessionConfig:
        """The inverse of `dataclasses.asdict`, lists in place of tuples allowed; not validated. Raises TypeError,
        KeyError or AttributeError if it is none."""
        given, learner = _with_tuples(values), _with_tuples(values["learner"])
        for name in ("features", "targets", "seasons", "labels", "categories", "means", "deviations"):
            if not isinstance(given[name], tuple):
                raise TypeError(f"{name} is no list")
        categories = tuple(Categorical(c["channel"], tuple(c["symbols"])) for c in given["categories"])
        return cls(**{**given, "learner": LearnerConfig(**learner), "categories": categories})

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

    def _check_time(self) -> None:
        if len(self.seasons) > 1:
            raise FieldError("seasons", list(self.seasons), "at most 1 season")
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


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def check_learning_rate(value: float, weight_decay: float = 0.0, name: str = "learner.learning_rate") -> None:
    """Raises FieldError unless `value` is a usable step size beside this weight decay."""
    check_number(name, value, 1e-8, 10.0)
    if value * weight_decay >= 1:
        raise FieldError(name, value, f"less than 1 / weight_decay, {1 / weight_decay:g}")


def _bounded_state(config: SessionConfig) -> None:
    """Every field may be in range and the session still too large for a server to hold."""
    learner, O = config.learner, len(config.predicted)
    assert learner.window is not None
    symbols = sum(len(config.symbols(name)) for name in config.features)
    inputs = 3 * len(config.features) + symbols
    sizes = {"gaussian": 2, "pinball": len(learner.quantiles), "softmax": len(config.symbols(config.predicted[0]))}
    per_pair = sizes.get(str(learner.loss), 1)
    outputs = config.horizon * O * per_pair
    slots = config.horizon if config.label_age is None else config.label_age + 1
    pending = slots * (outputs + O * per_pair + 5 * config.horizon * O)
    layers = learner.hidden * 4 * ((2 * learner.layers - 1) * learner.hidden + inputs)
    parameters = layers + learner.hidden * outputs
    total = learner.window * (config.horizon * O + inputs) + pending + 3 * parameters
    if total > MAX_STATE_VALUES:
        raise FieldError(
            "horizon × targets × (window + horizon), hidden, layers, symbols",
            total,
            f"at most {MAX_STATE_VALUES} state values per session; lower one of these",
        )
