"""Every bad configuration is refused with the field, the value and the allowed range; good ones get their defaults."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from bptt_core import Categorical, FieldError, Fold, LearnerConfig, SessionConfig, check_learning_rate

LEARNER = LearnerConfig()
SESSION = SessionConfig(features=("a", "b"))

STATE = Categorical("b", ("on", "off"))
NEXT_STATE: dict[str, Any] = {"task": "classify", "categories": (STATE,)}
REGRESS: dict[str, Any] = {"task": "regress", "labels": ("y",)}

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
    ("seasons", "at most 2 distinct", {"seasons": (24, 168, 336)}, {}),
    ("seasons", "at most 2 distinct", {"seasons": (24, 24)}, {}),
    ("seasonality", "found, given, off", {"seasonality": "auto"}, {}),
    ("seasonality", "given or off, as there are seasons", {"seasonality": "found", "seasons": (7,)}, {}),
    ("seasonality", "found or off, as there are no seasons", {"seasonality": "given"}, {}),
    ("seasonality", "off, unless the task is forecast and scaling is online", {"seasonality": "found", **REGRESS}, {}),
    ("seasonality", "off, unless", {"seasonality": "found", "scaling": "fixed"}, {}),
    ("seasonality", "off, unless", {"seasonality": "found", **NEXT_STATE}, {}),
    ("learners", "none, as there is a single learner", {"learners": (LEARNER,)}, {}),
    ("learner.anchor", "last_value or none, with seasonality off", {}, {"anchor": "season"}),
    ("learner.anchor", "last_value or none, with seasonality off", {"seasons": (7,)}, {"anchor": "second_season"}),
    ("learner.guard", "true or false", {}, {"guard": 1}),
    ("learner.guard", "true or false", {}, {"guard": None}),
    ("period_ns", "1..", {"period_ns": 0}, {}),
    ("period_ns", f"..{2**62}", {"period_ns": 2**62 + 1}, {}),
    ("coverage", "0.5..0.99", {"coverage": 0.49}, {}),
    ("coverage", "0.5..0.99", {"coverage": 1.0}, {}),
    ("coverage", "0.5..0.99", {"coverage": float("nan")}, {}),
    ("coverage", "0.5..0.99", {"coverage": "0.9"}, {}),
    ("learner.cell", "tanh, relu, gru, lstm", {}, {"cell": "LSTM"}),
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
    ("learner.loss", "squared, absolute, huber, student_t, pinball, gaussian", {}, {"loss": "mse"}),
    ("learner.huber_delta", "0.001..1000", {}, {"huber_delta": 0}),
    ("learner.anchor", "last_value, none", {}, {"anchor": ""}),
    ("learner.optimizer", "sgd, momentum, nesterov, rmsprop, adam, adamw", {}, {"optimizer": "lion"}),
    ("learner.learning_rate", "1e-08..10", {}, {"learning_rate": 0.0}),
    ("learner.learning_rate", "1e-08..10", {}, {"learning_rate": 11}),
    ("learner.learning_rate", "1e-08..10", {}, {"learning_rate": float("inf")}),
    ("learner.learning_rate", "1e-08..10", {}, {"learning_rate": -(10**400)}),
    ("learner.clip_norm", "1e-06..1e+06", {}, {"clip_norm": 0.0}),
    ("learner.seed", "0..", {}, {"seed": -1}),
    ("learner.seed", "0..", {}, {"seed": 2**63}),
    ("learner.seed", "0..", {}, {"seed": None}),
    ("learner.layers", "1..4", {}, {"layers": 0}),
    ("learner.layers", "1..4", {}, {"layers": 5}),
    ("learner.window", "1..1024", REGRESS, {"window": 0}),  # with labels nothing must lie ahead
    ("learner.student_dof", "1..1000", {}, {"student_dof": 0.9}),
    ("learner.quantiles", "0.001..0.999", {}, {"quantiles": (0.0, 0.5)}),
    ("learner.quantiles", "0.001..0.999", {}, {"quantiles": (0.5, float("nan"))}),
    ("learner.quantiles", "0.001..0.999", {}, {"quantiles": ("median",)}),
    ("learner.quantiles", "1..9 levels, rising", {}, {"quantiles": (0.5, 0.1)}),
    ("learner.quantiles", "1..9 levels, rising", {}, {"quantiles": (0.5, 0.5)}),
    ("learner.quantiles", "1..9 levels, rising", {}, {"quantiles": tuple(k / 20 for k in range(1, 11))}),
    ("learner.beta1", "0..0.9999", {}, {"beta1": 1.0}),
    ("learner.beta1", "0..0.9999", {}, {"beta1": -0.1}),
    ("learner.beta2", "0..0.99999", {}, {"beta2": 1.0}),
    ("learner.weight_decay", "0..10", {}, {"weight_decay": -1e-9}),
    ("learner.weight_decay", "0..10", {}, {"weight_decay": 10.1}),
    ("learner.learning_rate", "less than 1 / weight_decay, 0.5", {}, {"learning_rate": 0.5, "weight_decay": 2.0}),
    ("learner.schedule", "constant, inverse_sqrt, inverse", {}, {"schedule": "cosine"}),
    ("learner.warmup_updates", "0..1000000", {}, {"warmup_updates": -1}),
    ("learner.warmup_updates", "0..1000000", {}, {"warmup_updates": 10**6 + 1}),
    ("learner.decay_updates", "1..1000000000", {}, {"decay_updates": 0}),
    ("learner.decay_updates", "1..1000000000", {}, {"decay_updates": 1.5}),
    ("learner.rate_floor", "0..1", {}, {"rate_floor": 1.01}),
    ("learner.clip", "norm, value, quantile, off", {}, {"clip": "none"}),
    ("learner.clip_value", "1e-06..1e+06", {}, {"clip_value": 0}),
    ("learner.clip_quantile", "0.01..1", {}, {"clip_quantile": 0.001}),
    ("learner.input_init", "uniform, glorot, he, orthogonal", {}, {"input_init": "identity"}),
    ("learner.recurrent_init", "orthogonal, identity", {}, {"recurrent_init": "xavier"}),
    ("learner.recurrent_gain", "0.01..10", {}, {"recurrent_gain": 0}),
    ("learner.bias_init", "forget, chrono", {}, {"bias_init": "zero"}),
    ("learner.bias_init", "forget, as relu has no gates", {}, {"cell": "relu", "bias_init": "chrono"}),
    ("learner.forget_bias", "-10..10", {}, {"forget_bias": 11}),
    ("task", "forecast, regress, classify", {"task": "predict"}, {}),
    ("labels", "none, with task forecast", {"labels": ("y",)}, {}),
    ("labels", "1..64 names, with task regress", {"task": "regress"}, {}),
    ("labels", "names that are no features", {"task": "regress", "labels": ("y", "a")}, {}),
    ("labels", "distinct names", {"task": "regress", "labels": ("y", "y")}, {}),
    ("targets", "none, as there are labels", REGRESS | {"targets": ("a",)}, {}),
    ("targets", "at least a numeric feature", {"categories": (STATE, replace(STATE, channel="a"))}, {}),
    ("targets", "a categorical feature, or labels", {"task": "classify"}, {}),
    ("targets", "numeric features ['a'], with task forecast", {"categories": (STATE,), "targets": ("b",)}, {}),
    ("targets", "one categorical feature, or numeric ones in 0..1", NEXT_STATE | {"targets": ("a", "b")}, {}),
    (
        "labels",
        "one categorical label, or numeric ones in 0..1",
        {"task": "classify", "labels": ("y", "z"), "categories": (replace(STATE, channel="z"),)},
        {},
    ),
    ("horizon", "1, as there are labels", REGRESS | {"horizon": 2}, {}),
    ("seasons", "none, unless the task is forecast", REGRESS | {"seasons": (7,)}, {}),
    ("categories", "one entry per feature or label", {"categories": (STATE, STATE)}, {}),
    ("categories", "features and labels", {"categories": (replace(STATE, channel="y"),)}, {}),
    ("categories", "features, with task regress", REGRESS | {"categories": (replace(STATE, channel="y"),)}, {}),
    ("categories[b].symbols", "2..256 distinct", {"categories": (replace(STATE, symbols=("on",)),)}, {}),
    ("categories[b].symbols", "2..256 distinct", {"categories": (replace(STATE, symbols=("on", "on")),)}, {}),
    ("categories[b].symbols", "2..256", {"categories": (replace(STATE, symbols=tuple(map(str, range(257)))),)}, {}),
    ("categories[b].symbols", "1..64 characters", {"categories": (replace(STATE, symbols=("on", "")),)}, {}),
    ("categories[b].symbols", "1..64 characters", {"categories": (replace(STATE, symbols=("on", "x" * 65)),)}, {}),
    ("categories[b].symbols", "1..64 characters", {"categories": (replace(STATE, symbols=("on", 0)),)}, {}),
    ("label_age", "0..65536", REGRESS | {"label_age": -1}, {}),
    ("label_age", "0..65536", REGRESS | {"label_age": 65_537}, {}),
    ("scaling", "online, fixed", {"scaling": "robust"}, {}),
    ("means", "none, unless scaling is fixed", {"means": (0.0, 0.0)}, {}),
    ("means", "3, one per feature and label", REGRESS | {"scaling": "fixed", "means": (0.0, 0.0)}, {}),
    ("means", "-1e+100..1e+100", {"scaling": "fixed", "means": (0.0, float("nan"))}, {}),
    ("deviations", "none, unless scaling is fixed", {"deviations": (1.0, 1.0)}, {}),
    ("deviations", "1e-100..1e+100", {"scaling": "fixed", "deviations": (1.0, 0.0)}, {}),
    ("learner.loss", "squared, absolute, huber, student_t, pinball, gaussian", {}, {"loss": "softmax"}),
    ("learner.loss", "softmax, sigmoid", NEXT_STATE, {"loss": "squared"}),
    ("learner.loss", "softmax, as 'b' is categorical", NEXT_STATE, {"loss": "sigmoid"}),
    ("learner.loss", "one categorical target or label", {"task": "classify", "labels": ("y",)}, {"loss": "softmax"}),
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
    assert not fold._store.slabs, "something was made"


@pytest.mark.parametrize(
    ("field", "allowed", "session"),
    [
        ("learners[1].hidden", "1..512", {"learners": (LEARNER, replace(LEARNER, hidden=0))}),
        ("learners[0].window", "6..1024", {"learners": (replace(LEARNER, window=5), LEARNER), "horizon": 5}),
        ("learners[0].loss", "squared, absolute, huber, student_t", {"learners": (replace(LEARNER, loss="pinball"),)}),
        ("learners[1].loss", "squared, absolute", {"learners": (LEARNER, replace(LEARNER, loss="gaussian"))}),
        ("learners[0].anchor", "off", {"learners": (replace(LEARNER, anchor="season"),), "seasonality": "off"}),
        ("learners", "1..16 learners", {"learners": (LEARNER,) * 17}),
        ("learners", "none, unless the task is forecast and scaling is online", {"learners": (LEARNER,), **REGRESS}),
        ("learners", "none, unless", {"learners": (LEARNER,), **NEXT_STATE}),
        ("learners", "none, unless", {"learners": (LEARNER,), "scaling": "fixed"}),
    ],
)
def test_a_bad_value_of_a_portfolio_is_named(field: str, allowed: str, session: dict[str, Any], fold: Fold) -> None:
    with pytest.raises(FieldError) as caught:
        fold.create(replace(SESSION, **session))
    assert caught.value.field == field
    assert allowed in caught.value.allowed
    assert len(str(caught.value)) < 300
    assert not fold._store.slabs, "something was made"


def test_every_field_is_checked() -> None:
    named = {field.split("[")[0] for field, *_ in BAD}
    assert {f"learner.{f.name}" for f in fields(LearnerConfig)} <= named
    assert {f.name for f in fields(SessionConfig)} - {"learner"} <= named


def test_sizes_that_are_allowed_alone_may_be_too_much_together(fold: Fold) -> None:
    features = tuple(f"a rather long name of a sensor, number {k}" for k in range(64))
    config = SessionConfig(features, horizon=256, learner=LearnerConfig(hidden=512, window=1024))
    with pytest.raises(FieldError, match="at most 16777216 state values per session") as caught:
        fold.create(config)
    assert "horizon" in caught.value.field
    assert not fold._store.slabs


@pytest.mark.parametrize(
    ("session", "learner"),
    [
        (REGRESS | {"labels": tuple(map(str, range(64))), "label_age": 65_536}, {"hidden": 1}),
        (
            {"horizon": 256},
            {"hidden": 512, "window": 257, "loss": "pinball", "quantiles": tuple(k / 10 for k in range(1, 10))},
        ),
    ],
    ids=["labels that are waited for", "readout"],
)
def test_what_waits_and_what_is_read_out_counts_towards_the_size(session: dict[str, Any], learner: Any) -> None:
    given = {"features": tuple("abcdefgh")} | session
    with pytest.raises(FieldError, match="at most 16777216 state values per session"):
        SessionConfig(**given, learner=LearnerConfig(**learner)).validated()


def test_a_long_value_is_shortened() -> None:
    with pytest.raises(FieldError) as caught:
        SessionConfig(features=("x" * 5000,)).validated()
    assert len(caught.value.value) == 80


def test_defaults_that_depend_on_other_fields() -> None:
    single = replace(SESSION, learner=LEARNER)
    config = single.validated()
    assert config.targets == ("a", "b")
    assert (config.learner.window, config.learner.stride, config.learner.loss_span) == (32, 1, 1)
    assert replace(single, horizon=24).validated().learner.window == 40
    assert replace(SESSION, learner=LearnerConfig(stride=5)).validated().learner.loss_span >= 5
    assert config.validated() == config, "validating twice changes nothing"


def test_a_session_that_names_no_learner_has_a_portfolio() -> None:
    """Several learners that differ, with found seasons; of a shape that fits the horizon."""
    for horizon in (1, 24, 256):
        config = replace(SESSION, horizon=horizon).validated()
        assert config.learner is None
        assert config.portfolio == config.learners
        assert 1 < len(set(config.learners)) == len(config.learners) <= 16
        assert {learner.window for learner in config.learners} == {max(32, horizon + 16)}
        assert {learner.loss for learner in config.learners} == {"squared"}
        assert {learner.guard for learner in config.learners} == {True}
        assert {learner.anchor for learner in config.learners} >= {"last_value", "season"}
        assert config.validated() == config, "validating twice changes nothing"
        assert SessionConfig.from_plain(asdict(config)) == config
    without = replace(SESSION, seasonality="off").validated()
    assert {learner.anchor for learner in without.learners} == {"last_value"}


def test_a_session_may_name_its_portfolio() -> None:
    named = (LearnerConfig(hidden=3, window=8), LearnerConfig(cell="gru", anchor="second_season", loss="huber"))
    config = replace(SESSION, learners=named).validated()
    assert [(k.cell, k.hidden, k.window, k.anchor, k.loss) for k in config.portfolio] == [
        ("lstm", 3, 8, "last_value", "squared"),
        ("gru", 32, 32, "second_season", "huber"),
    ]
    assert SessionConfig.from_plain(asdict(config)).validated() == config
    alone = replace(SESSION, learners=named[:1]).validated()
    assert (alone.learner, len(alone.learners)) == (None, 1), "a portfolio of one learner has naive experts beside it"


def test_where_seasons_come_from() -> None:
    """By default found for a portfolio, given if there are some, and off for a single learner: it only scores them."""
    single = replace(SESSION, learner=LEARNER)
    for config, expected in [
        (SESSION, "found"),
        (replace(SESSION, seasons=(24, 168)), "given"),
        (replace(SESSION, seasons=(24,), seasonality="off"), "off"),
        (single, "off"),
        (replace(single, seasons=(24,)), "off"),
        (replace(single, seasonality="found"), "found"),
        (replace(single, seasons=(24,), seasonality="given"), "given"),
        (replace(SESSION, scaling="fixed"), "off"),
        (replace(SESSION, **REGRESS), "off"),
        (replace(SESSION, **NEXT_STATE), "off"),
    ]:
        assert config.validated().seasonality == expected
    seasonal = replace(single, seasonality="found", learner=LearnerConfig(anchor="season"))
    assert seasonal.validated().learner.anchor == "season"


def test_defaults_of_the_tasks() -> None:
    forecast = replace(SESSION, learner=LEARNER).validated()
    assert (forecast.learner.loss, forecast.learner.anchor, forecast.ahead) == ("squared", "last_value", 1)
    assert (forecast.means, forecast.deviations, forecast.label_age) == ((), (), None)
    assert replace(SESSION, categories=(STATE,)).validated().targets == ("a",), "symbols are not forecast as numbers"

    regress = replace(SESSION, **REGRESS).validated()
    assert (regress.targets, regress.predicted, regress.ahead, regress.target_indices) == ((), ("y",), 0, ())
    assert (regress.learner.loss, regress.learner.anchor, regress.label_age) == ("squared", "none", 32)
    assert replace(SESSION, **REGRESS, learner=LearnerConfig(anchor="last_value", window=1)).validated().label_age == 1

    following = replace(SESSION, **NEXT_STATE).validated()
    assert (following.targets, following.learner.loss, following.learner.anchor) == (("b",), "softmax", "none")
    binary = SessionConfig(("a", "b"), task="classify", labels=("y", "z")).validated()
    assert (binary.learner.loss, binary.learner.anchor) == ("sigmoid", "none")
    numeric = replace(SESSION, task="classify", targets=("a", "b")).validated()
    assert numeric.learner.loss == "sigmoid"
    state = SessionConfig(("a",), task="classify", labels=("b",), categories=(STATE,)).validated()
    assert (state.learner.loss, state.symbols("b"), state.symbols("a")) == ("softmax", ("on", "off"), ())
    for config in (forecast, regress, following, binary, numeric, state):
        assert config.validated() == config, "validating twice changes nothing"
        assert SessionConfig.from_plain(asdict(config)) == config


def test_defaults_of_the_learner() -> None:
    for optimizer, beta2, decay in (("adam", 0.999, 0.0), ("rmsprop", 0.99, 0.0), ("adamw", 0.999, 0.01)):
        learner = replace(SESSION, learner=LearnerConfig(optimizer=optimizer)).validated().learner
        assert (learner.beta2, learner.weight_decay) == (beta2, decay)
    for loss, quantiles in (("squared", ()), ("pinball", (0.05, 0.5, 0.95)), ("gaussian", (0.05, 0.5, 0.95))):
        assert replace(SESSION, learner=LearnerConfig(loss=loss)).validated().learner.quantiles == quantiles


def test_fixed_scaling_has_a_number_for_every_feature_and_label() -> None:
    config = replace(SESSION, **REGRESS, scaling="fixed").validated()
    assert (config.means, config.deviations) == ((0.0,) * 3, (1.0,) * 3)
    given = replace(config, means=(1.0, 2.0, 3.0)).validated()
    assert (given.means, given.deviations) == ((1.0, 2.0, 3.0), (1.0,) * 3)
    assert replace(SESSION, scaling="fixed").validated().learner.anchor == "none"


def test_targets_keep_their_order() -> None:
    assert SessionConfig(("a", "b", "c"), targets=("c", "a")).validated().target_indices == (2, 0)


def test_limits_are_allowed() -> None:
    SessionConfig(
        tuple("x" * 127 + chr(65 + k) for k in range(26)), targets=("x" * 127 + "A",), seasons=(10_080, 2),
        period_ns=2**62, coverage=0.99, learner=LearnerConfig(seed=2**63 - 1, learning_rate=1e-8, clip_norm=1e6),
    ).validated()  # fmt: skip
    SessionConfig(("a",), coverage=0.5, learner=LearnerConfig(window=2, stride=2, loss_span=2)).validated()
    SessionConfig(("a",), learners=(LearnerConfig(hidden=1, window=2),) * 16).validated()
    check_learning_rate(10)


def test_a_refused_setting_changes_nothing(fold: Fold) -> None:
    single, several = fold.create(replace(SESSION, learner=LEARNER)), fold.create(SESSION)
    for slot, rate, why in ((single, float("nan"), r"learner\.learning_rate"), (several, 0.1, "portfolio of learners")):
        before = fold.checkpoint(slot)
        with pytest.raises(FieldError, match=why):
            fold.configure(slot, learning=False, learning_rate=rate)
        assert fold.checkpoint(slot) == before
