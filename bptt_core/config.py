"""What a session and its learner are: frozen values, validated in one place.

A configuration holds plain numbers and strings only. `SessionConfig.validated()` fills in every default that depends on
another field and raises `FieldError` naming the field, the value and the allowed range. The defaults are the project's
one answer for every stream; `benchmarks/README.md` names the experiment behind each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

CELLS: Final = ("tanh", "gru", "lstm")
ANCHORS: Final = ("last_value", "none")
LOSSES: Final = ("squared", "huber")
OPTIMIZERS: Final = ("adam", "sgd")

MAX_FEATURES: Final = 64
MAX_NAME_CHARS: Final = 128
MAX_HORIZON: Final = 256
MAX_HIDDEN: Final = 512
MAX_WINDOW: Final = 1024
MAX_SEASON: Final = 10_080
MAX_STATE_VALUES: Final = 2**24


class Words(str):
    """Says what there is where showing it would not help, e.g. "3 values" or "absent". Printed without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class FieldError(ValueError):
    """A value outside its allowed range. `field`, `value` and `allowed` are meant for programs, `str()` for people."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} is {_shorten(value)}; allowed: {allowed}")
        self.field, self.value, self.allowed = field, _shorten(value), allowed


def _shorten(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """One recurrent network trained by TBPTT(k1 = stride, k2 = window). A field that is None takes its default.

    See `proto/bptt/v1/config.proto` for the meaning and range of every field; the names are the same.
    """

    cell: str = "lstm"
    hidden: int = 32
    window: int | None = None
    stride: int = 1
    loss_span: int | None = None
    loss: str = "squared"
    huber_delta: float = 1.0
    anchor: str = "last_value"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    clip_norm: float = 1.0
    seed: int = 0

    def validated(self, horizon: int) -> LearnerConfig:
        """This configuration with every default filled in. Raises FieldError."""
        _one_of("learner.cell", self.cell, CELLS)
        _integer("learner.hidden", self.hidden, 1, MAX_HIDDEN)
        window = max(32, horizon + 16) if self.window is None else self.window
        _integer("learner.window", window, horizon + 1, MAX_WINDOW)
        _integer("learner.stride", self.stride, 1, window)
        span = self.stride if self.loss_span is None else self.loss_span
        _integer("learner.loss_span", span, self.stride, window)
        _one_of("learner.loss", self.loss, LOSSES)
        _number("learner.huber_delta", self.huber_delta, 1e-3, 1e3)
        _one_of("learner.anchor", self.anchor, ANCHORS)
        _one_of("learner.optimizer", self.optimizer, OPTIMIZERS)
        check_learning_rate(self.learning_rate)
        _number("learner.clip_norm", self.clip_norm, 1e-6, 1e6)
        _integer("learner.seed", self.seed, 0, 2**63 - 1)
        return replace(self, window=window, loss_span=span)


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What a session forecasts and how. See `proto/bptt/v1/config.proto`; the names are the same."""

    features: tuple[str, ...]
    targets: tuple[str, ...] = ()
    horizon: int = 1
    seasons: tuple[int, ...] = ()
    period_ns: int | None = None
    coverage: float = 0.9
    learner: LearnerConfig = field(default_factory=LearnerConfig)

    def validated(self) -> SessionConfig:
        """This configuration with every default filled in. Raises FieldError."""
        _names("features", self.features)
        targets = self.targets or self.features
        _names("targets", targets)
        for name in targets:
            if name not in self.features:
                raise FieldError("targets", name, f"one of the features {_shorten(list(self.features))}")
        _integer("horizon", self.horizon, 1, MAX_HORIZON)
        if len(self.seasons) > 1:
            raise FieldError("seasons", list(self.seasons), "at most 1 season")
        for season in self.seasons:
            _integer("seasons", season, 2, MAX_SEASON)
        if self.period_ns is not None:
            _integer("period_ns", self.period_ns, 1, 2**62)
        _number("coverage", self.coverage, 0.5, 0.99)
        learner = self.learner.validated(self.horizon)
        config = replace(self, targets=tuple(targets), learner=learner)
        _bounded_state(config)
        return config

    @property
    def target_indices(self) -> tuple[int, ...]:
        """Position of each target among the features."""
        return tuple(self.features.index(name) for name in self.targets)


def check_learning_rate(value: float, name: str = "learner.learning_rate") -> None:
    """Raises FieldError unless `value` is a usable step size."""
    _number(name, value, 1e-8, 10.0)


def _bounded_state(config: SessionConfig) -> None:
    """Every field may be in range and the session still too large for a server to hold."""
    learner, outputs = config.learner, config.horizon * len(config.targets)
    assert learner.window is not None
    pairs = learner.window * outputs
    pending = config.horizon * outputs
    parameters = learner.hidden * (4 * (learner.hidden + 3 * len(config.features)) + outputs)
    total = pairs + 4 * pending + 3 * parameters
    if total > MAX_STATE_VALUES:
        raise FieldError(
            "horizon × targets × (window + horizon), hidden",
            total,
            f"at most {MAX_STATE_VALUES} state values per session; lower horizon, targets, window or hidden",
        )


def _names(name: str, values: Iterable[object]) -> None:
    values = tuple(values)
    if not 1 <= len(values) <= MAX_FEATURES:
        raise FieldError(name, list(values), f"1..{MAX_FEATURES} names")
    for value in values:
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARS:
            raise FieldError(name, value, f"names of 1..{MAX_NAME_CHARS} characters")
    if len(set(values)) != len(values):
        raise FieldError(name, list(values), "distinct names")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise FieldError(name, value, ", ".join(allowed))


def _integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FieldError(name, value, f"{low}..{high}")


def _number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise FieldError(name, value, f"{low:g}..{high:g}")
