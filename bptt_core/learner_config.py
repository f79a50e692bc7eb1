"""What one learner is: its frozen settings, validated in one place.

A field that is None takes a default that depends on the others or on the session. Every check raises `FieldError`, with
paths that begin with "learner."; a portfolio of several renames them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bptt_core.checks import FieldError, check_integer, check_number, check_one_of, shorten

if TYPE_CHECKING:
    from bptt_core.config import SessionConfig

CELLS: Final = ("tanh", "relu", "gru", "lstm")
ANCHORS: Final = ("last_value", "none", "season", "second_season")
SEASON_ANCHORS: Final = ("season", "second_season")
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

MAX_HIDDEN: Final = 512
MAX_LAYERS: Final = 4
MAX_WINDOW: Final = 1024
MAX_QUANTILES: Final = 9


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
    guard: bool = True

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
        if self.anchor in SEASON_ANCHORS and session.seasonality == "off":
            raise FieldError("learner.anchor", self.anchor, "last_value or none, with seasonality off")
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
        if not isinstance(self.guard, bool):
            raise FieldError("learner.guard", self.guard, "true or false")


def check_learning_rate(value: float, weight_decay: float = 0.0, name: str = "learner.learning_rate") -> None:
    """Raises FieldError unless `value` is a usable step size beside this weight decay."""
    check_number(name, value, 1e-8, 10.0)
    if value * weight_decay >= 1:
        raise FieldError(name, value, f"less than 1 / weight_decay, {1 / weight_decay:g}")
