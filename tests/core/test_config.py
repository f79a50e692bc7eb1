"""Every bad configuration is refused with the field, the value and the allowed range; good ones get their defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bptt_core import FieldError, Fold, LearnerConfig, SessionConfig, check_learning_rate

LEARNER = LearnerConfig()
SESSION = SessionConfig(features=("a", "b"))

BAD = [
    # field, allowed, changes of the session, changes of the learner
    ("features", "1..64 names", {"features": ()}, {}),
    ("features", "1..64 names", {"features": tuple(map(str, range(65)))}, {}),
    ("features", "1..128 characters", {"features": ("a", "")}, {}),
    ("features", "1..128 characters", {"features": ("a" * 129,)}, {}),
    ("features", "1..128 characters", {"features": (3,)}, {}),
    ("features", "distinct names", {"features": ("a", "a")}, {}),
    ("targets", "one of the features", {"targets": ("c",)}, {}),
    ("targets", "distinct names", {"targets": ("a", "a")}, {}),
    ("horizon", "1..256", {"horizon": 0}, {}),
    ("horizon", "1..256", {"horizon": 257}, {}),
    ("horizon", "1..256", {"horizon": 2.0}, {}),
    ("horizon", "1..256", {"horizon": True}, {}),
    ("seasons", "2..10080", {"seasons": (1,)}, {}),
    ("seasons", "2..10080", {"seasons": (10081,)}, {}),
    ("seasons", "at most 1", {"seasons": (24, 168)}, {}),
    ("period_ns", "1..", {"period_ns": 0}, {}),
    ("period_ns", f"..{2**62}", {"period_ns": 2**62 + 1}, {}),
    ("coverage", "0.5..0.99", {"coverage": 0.49}, {}),
    ("coverage", "0.5..0.99", {"coverage": 1.0}, {}),
    ("coverage", "0.5..0.99", {"coverage": float("nan")}, {}),
    ("coverage", "0.5..0.99", {"coverage": "0.9"}, {}),
    ("learner.cell", "tanh, gru, lstm", {}, {"cell": "LSTM"}),
    ("learner.hidden", "1..512", {}, {"hidden": 0}),
    ("learner.hidden", "1..512", {}, {"hidden": 513}),
    ("learner.window", "2..1024", {}, {"window": 1}),  # k2 ≤ H
    ("learner.window", "6..1024", {"horizon": 5}, {"window": 5}),
    ("learner.window", "2..1024", {}, {"window": 1025}),
    ("learner.stride", "1..32", {}, {"stride": 33}),  # k1 > k2
    ("learner.stride", "1..8", {}, {"window": 8, "stride": 9}),
    ("learner.stride", "1..32", {}, {"stride": 0}),
    ("learner.loss_span", "1..32", {}, {"loss_span": 0}),
    ("learner.loss_span", "1..32", {}, {"loss_span": 33}),
    ("learner.loss_span", "4..32", {}, {"stride": 4, "loss_span": 3}),
    ("learner.loss", "squared, huber", {}, {"loss": "mse"}),
    ("learner.huber_delta", "0.001..1000", {}, {"huber_delta": 0}),
    ("learner.anchor", "last_value, none", {}, {"anchor": ""}),
    ("learner.optimizer", "adam, sgd", {}, {"optimizer": "rmsprop"}),
    ("learner.learning_rate", "1e-08..10", {}, {"learning_rate": 0.0}),
    ("learner.learning_rate", "1e-08..10", {}, {"learning_rate": 11}),
    ("learner.learning_rate", "1e-08..10", {}, {"learning_rate": float("inf")}),
    ("learner.learning_rate", "1e-08..10", {}, {"learning_rate": -(10**400)}),
    ("learner.clip_norm", "1e-06..1e+06", {}, {"clip_norm": 0.0}),
    ("learner.seed", "0..", {}, {"seed": -1}),
    ("learner.seed", "0..", {}, {"seed": 2**63}),
    ("learner.seed", "0..", {}, {"seed": None}),
]


@pytest.mark.parametrize(
    ("field", "allowed", "session", "learner"), BAD, ids=lambda value: str(value)[:40] if value else "-"
)
def test_a_bad_value_is_named(
    field: str, allowed: str, session: dict[str, Any], learner: dict[str, Any], fold: Fold
) -> None:
    config = replace(SESSION, learner=replace(LEARNER, **learner), **session)
    with pytest.raises(FieldError) as caught:
        fold.create(config)
    assert caught.value.field == field
    assert allowed in caught.value.allowed
    assert str(caught.value) == f"{field} is {caught.value.value}; allowed: {caught.value.allowed}"
    assert len(str(caught.value)) < 300
    assert not fold._slabs, "something was made"


def test_sizes_that_are_allowed_alone_may_be_too_much_together(fold: Fold) -> None:
    features = tuple(f"a rather long name of a sensor, number {k}" for k in range(64))
    config = SessionConfig(features, horizon=256, learner=LearnerConfig(hidden=512, window=1024))
    with pytest.raises(FieldError, match="at most 16777216 state values per session") as caught:
        fold.create(config)
    assert "horizon" in caught.value.field
    assert not fold._slabs


def test_a_long_value_is_shortened() -> None:
    with pytest.raises(FieldError) as caught:
        SessionConfig(features=("x" * 5000,)).validated()
    assert len(caught.value.value) == 80


def test_defaults_that_depend_on_other_fields() -> None:
    config = SESSION.validated()
    assert config.targets == ("a", "b")
    assert (config.learner.window, config.learner.stride, config.learner.loss_span) == (32, 1, 1)
    assert replace(SESSION, horizon=24).validated().learner.window == 40
    assert replace(SESSION, learner=LearnerConfig(stride=5)).validated().learner.loss_span >= 5
    assert config.validated() == config, "validating twice changes nothing"


def test_targets_keep_their_order() -> None:
    assert SessionConfig(("a", "b", "c"), targets=("c", "a")).validated().target_indices == (2, 0)


def test_limits_are_allowed() -> None:
    SessionConfig(
        tuple("x" * 127 + chr(65 + k) for k in range(26)), targets=("x" * 127 + "A",), seasons=(10_080,),
        period_ns=2**62, coverage=0.99, learner=LearnerConfig(seed=2**63 - 1, learning_rate=1e-8, clip_norm=1e6),
    ).validated()  # fmt: skip
    SessionConfig(("a",), coverage=0.5, learner=LearnerConfig(window=2, stride=2, loss_span=2)).validated()
    check_learning_rate(10)


def test_a_refused_setting_changes_nothing(fold: Fold) -> None:
    slot = fold.create(SESSION)
    before = fold.checkpoint(slot)
    with pytest.raises(FieldError, match=r"learner\.learning_rate"):
        fold.configure(slot, learning=False, learning_rate=float("nan"))
    assert fold.checkpoint(slot) == before
