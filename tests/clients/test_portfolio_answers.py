"""Portfolios, seasons, sensors and forks without a server: what a request says, what an answer becomes."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from google.rpc import code_pb2

import bptt_client
from bptt.v1 import config_pb2, forecast_pb2, session_pb2
from bptt_client import LearnerReset, answers, calls
from bptt_client.answers import Known
from bptt_client.cli import fork, sessions
from bptt_client.cli.problems import Problem

CONFIG = config_pb2.SessionConfig(features=["temp", "load"], targets=["temp", "load"], horizon=1)


def described(**facts):
    return answers.read_session(session_pb2.Session(session_id="s", config=CONFIG, **facts))


# Answers to events.


@pytest.fixture
def replies():
    """Two events: the second has a stuck sensor, a surprise, a drift and two resets."""
    pairs = {name: [1.0, 2.0, 3.0, 4.0] for name in ("mean", "lower", "upper", "target_anomaly_score")}
    columns = {name: [0.5, 4.0] for name in ("anomaly_score", "loss", "gradient_norm", "clip_scale")}
    columns |= {name: [0.25, 0.75] for name in ("saturation", "update_ratio", "anomaly_likelihood")}
    resets = [
        forecast_pb2.LearnerReset(sequence=8, learner=3, reason="RESET_REASON_DIVERGED"),
        forecast_pb2.LearnerReset(sequence=8, learner=0, reason="RESET_REASON_SEASON"),
    ]
    message = forecast_pb2.Outcomes(
        first_sequence=7, count=2, horizon=1, targets=2, update_results=[2, 2], drift=[False, True],
        warming_up=[True, False], sensor_states=[1, 2, 1, 3], learner_resets=resets, **columns, **pairs,
    )  # fmt: skip
    outcomes = answers.read_outcomes(message, Known.of(described()))
    assert len(outcomes) == 2
    return outcomes


def test_what_is_odd_about_an_event_has_the_names_of_its_targets(replies):
    calm, odd = replies
    assert calm.target_anomaly_score == {"temp": 1.0, "load": 2.0}
    assert odd.target_anomaly_score["load"] == odd.anomaly_score == 4.0
    assert calm.sensor_states == {"temp": "ok", "load": "missing"}
    assert odd.sensor_states == {"temp": "ok", "load": "stuck"}
    assert [(r.drift, r.warming_up, r.anomaly_likelihood) for r in (calm, odd)] == [
        (False, True, 0.25),
        (True, False, 0.75),
    ]
    assert (calm.learner_resets, odd.learner_resets) == ((), (LearnerReset(3, "diverged"), LearnerReset(0, "season")))


def test_what_is_odd_about_an_event_is_said_in_its_line(replies):
    line = sessions._line(replies[1], "next")
    for words in ("anomaly 4.00 (temp, load)", "load stuck", "drift", "learner 3 reset: diverged"):
        assert f"  {words}" in line
    json.dumps(sessions._finite({"sensors": replies[1].sensor_states}))


def test_a_session_without_sensors_has_no_states():
    message = forecast_pb2.Outcomes(
        first_sequence=1, count=1, horizon=1, targets=2, update_results=[1], drift=[False], warming_up=[False],
        **{name: [0.0] for name in answers._BY_EVENT},
        **{name: [0.0, 0.0] for name in ("mean", "lower", "upper", "target_anomaly_score")},
    )  # fmt: skip
    assert answers.read_outcomes(message, Known.of(described()))[0].sensor_states == {}


def test_a_word_that_a_newer_server_knows_does_not_stop_a_client():
    assert answers._word(("ok", "missing"), 99) == "ok"


# Sessions.


def test_experts_have_their_weights_and_learners_their_updates():
    counts = session_pb2.UpdateCounts(applied=9, reset_diverged=2, reset_season=1)
    experts = [
        session_pb2.Expert(name="learner 0", weight=0.75, relative_error=0.5, updates=counts, rate_factor=0.25),
        session_pb2.Expert(name="mean", weight=0.25, relative_error=math.nan),
    ]
    session = described(experts=experts, seasons=[24, 0], drifts=4, updates=counts)
    learner, mean = session.experts
    assert (learner.name, learner.weight, learner.relative_error, learner.rate_factor) == ("learner 0", 0.75, 0.5, 0.25)
    assert (learner.updates.applied, learner.updates.reset_diverged, learner.updates.resets) == (9, 2, 3)
    assert (mean.updates, mean.rate_factor, math.isnan(mean.relative_error)) == (None, None, True)
    assert (session.seasons, session.drifts, session.updates.resets) == ((24, 0), 4, 3)


def test_learners_are_those_of_a_portfolio_or_the_single_one():
    config = config_pb2.SessionConfig(features=["a"], targets=["a"], horizon=1)
    config.learner.hidden = 7
    assert answers.read_session(session_pb2.Session(config=config)).learners == ({"hidden": 7},)
    config.ClearField("learner")
    for hidden in (3, 5):
        config.learners.add(hidden=hidden)
    assert answers.read_session(session_pb2.Session(config=config)).learners == ({"hidden": 3}, {"hidden": 5})


def test_skill_is_what_was_saved_of_the_naive_error():
    scores = session_pb2.Scores(
        count=[5, 5], mse=[1.0, 3.0], persistence_mse=[4.0, 0.0], mae=[1.0, 1.0], persistence_mae=[1.0, 1.0],
        coverage=[0.9, 0.9], width=[2.0, 2.0], interval_score=[2.5, 7.0],
    )  # fmt: skip
    session = described(scores=scores)
    assert session.scores.interval_score == [[2.5, 7.0]]
    ((temp, load),) = session.scores.skill
    assert (temp, math.isnan(load)) == (0.75, True)
    assert sessions._skill(session) == "75.0 %"
    classified = described(scores=session_pb2.Scores(count=[1, 1], log_loss=[0.5, 0.5]))
    assert classified.scores.skill is None
    assert sessions._skill(classified) == sessions._skill(described()) == "-"
    assert "skill 75.0 %, drifts 0" in sessions._state(session)


def test_what_was_not_scored_yet_is_no_number_and_null_in_json():
    """A session one event old: the first step ahead has met a value, the second has not, no interval has."""
    errors, bounds = ("mse", "mae", "persistence_mse", "persistence_mae"), ("coverage", "width", "interval_score")
    none = {name: [math.nan] * 4 for name in (*errors, *bounds)}
    known = {name: [2.0, 4.0, math.nan, math.nan] for name in errors}
    session = described(scores=session_pb2.Scores(count=[1, 1, 0, 0], **{**none, **known}))
    assert session.scores.count == [[1, 1], [0, 0]]
    assert session.scores.skill[0] == [0.0, 0.0]
    assert all(map(math.isnan, session.scores.skill[1]))
    assert sessions._skill(session) == "0.0 %"
    made = json.loads(json.dumps(sessions._finite(dataclasses.asdict(session)), default=str, allow_nan=False))
    assert made["scores"]["mse"] == [[2.0, 4.0], [None, None]]
    assert made["scores"]["coverage"] == [[None, None], [None, None]]
    fresh = described(scores=session_pb2.Scores(count=[0] * 4, **none))
    assert sessions._skill(fresh) == "-"
    assert "skill -, drifts 0" in sessions._state(fresh)


def test_equal_learners_are_counted_in_a_list():
    config = config_pb2.SessionConfig(features=["a"], targets=["a"], horizon=1)
    for hidden, layers in ((32, 1), (32, 1), (16, 2)):
        config.learners.add(cell="CELL_LSTM", hidden=hidden, layers=layers)
    assert "2 of lstm 32, lstm 16 × 2" in sessions._row(answers.read_session(session_pb2.Session(config=config)))


# Forks.


def test_a_fork_says_what_is_to_be_different(fake, connect):
    session = connect(fake.target).create_session("s", features=["a"])
    session.learn_many([[1.0], [2.0]])
    copy = session.fork("t", learning_rate=0.01, learning=False, tags={"kind": "what-if"}, credit_events=None)
    (request,) = fake.asked
    assert (request.session_id, request.session_uid, request.fork_id) == ("s", session.uid, "t")
    assert list(request.fork_mask.paths) == ["learning_rate", "learning", "tags", "limits"]
    changes = request.changes
    assert (changes.learning_rate, changes.learning, dict(changes.tags)) == (0.01, False, {"kind": "what-if"})
    assert not changes.HasField("limits")
    assert (copy.session_id, copy.last_sequence, copy.uid != session.uid) == ("t", 2, True)
    assert copy.learn_one([3.0]).sequence == 3
    assert len(fake.sessions["s"].events) == 2
    assert not calls.fork_session("s", "", "t", {}).request.HasField("changes")
    with pytest.raises(ValueError, match="'hidden' cannot change; allowed: learning, learning_rate"):
        session.fork("u", hidden=3)


def test_a_fork_is_not_made_twice(fake, connect):
    client = connect(fake.target)
    client.create_session("s", features=["a"])
    fake.refuse_next(code_pb2.UNAVAILABLE, "DRAINING")
    with pytest.raises(bptt_client.ServerDraining):
        client.fork_session("s", "t")
    fake.refuse_next(code_pb2.ALREADY_EXISTS, "SESSION_EXISTS")
    with pytest.raises(bptt_client.SessionExists):
        client.fork_session("s", "t")
    assert len(fake.asked) == 2


SINGLE = {"features": ["a"], "learner": {"hidden": 8, "cell": "gru"}, "seasonality": "off", "seasons": [24]}
SEVERAL = {"features": ["a"], "learners": [{"hidden": 8}, {}], "seasonality": "found"}


@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        (SINGLE, {"learner": {"hidden": 9}}, {**SINGLE, "learner": {"hidden": 9, "cell": "gru"}}),
        (SEVERAL, {"learner": {"hidden": 9}}, {"features": ["a"], "learner": {"hidden": 9}}),
        (SINGLE | {"seasonality": "given"}, {"learner": {}}, SINGLE | {"seasonality": "given"}),
        (SEVERAL, {"learner": {}, "seasonality": "off"}, {"features": ["a"], "learner": {}, "seasonality": "off"}),
        (SEVERAL, {"seasons": [7]}, {"features": ["a"], "learners": [{"hidden": 8}, {}], "seasons": [7]}),
        (SINGLE, {"learners": [{}]}, {"features": ["a"], "seasonality": "off", "seasons": [24], "learners": [{}]}),
        (SINGLE, {"seasonality": "found"}, {"features": ["a"], "learner": SINGLE["learner"], "seasonality": "found"}),
        (SEVERAL, {"seasonality": "off"}, {**SEVERAL, "seasonality": "off"}),
    ],
)
def test_settings_push_out_what_does_not_go_with_them(base, given, expected):
    before = json.dumps(base)
    assert fork.laid_over(base, given) == expected
    assert json.dumps(base) == before


def test_only_learning_can_be_forked():
    single, several = (described_with(learners) for learners in (0, 2))
    for texts, of_single, of_several in [
        (["learning=off"], {"learning": False}, {"learning": False}),
        (["learning=true", "learning_rate=0.1"], {"learning": True, "learning_rate": 0.1}, None),
        (["learning_rate=0.1", "hidden=3"], None, None),
        (["seasonality=off"], None, None),
    ]:
        wanted = fork._wanted(texts)
        assert (wanted.changes(single), wanted.changes(several)) == (of_single, of_several), texts


def described_with(learners):
    config = config_pb2.SessionConfig(features=["a"], targets=["a"], horizon=1)
    for _ in range(learners):
        config.learners.add()
    if not learners:
        config.learner.SetInParent()
    return answers.read_session(session_pb2.Session(config=config))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "--set is missing"),
        (["learning=maybe"], "--set learning is 'maybe'; allowed: on, off, true, false"),
        (["horizon=2"], "--set horizon; allowed: settings of how the challenger learns"),
        (["hiden=2"], "'hiden' is not a setting"),
    ],
)
def test_a_challenger_that_cannot_be_is_refused(texts, words):
    with pytest.raises(Problem, match=words):
        fork._wanted(texts)
