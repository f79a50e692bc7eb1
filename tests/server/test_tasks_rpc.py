"""Symbols, quantiles, episodes and the gradient by lag over a real connection, held to a fold alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bptt.v1 import config_pb2, session_pb2
from bptt_core import Categorical, Events, Fold, LearnerConfig, SessionConfig, lags, select_backend

EVERY = 1
CLASSIFY = 3
NAN = float("nan")
LETTERS = ("a", "b", "c", "d")


def symbols(channel: str) -> config_pb2.Categorical:
    return config_pb2.Categorical(channel=channel, symbols=LETTERS)


def alone(events: Events, features: tuple[str, ...] = ("x", "y"), learner: Any = None, **config: Any) -> Any:
    """What a fold alone says of those events, and the session's status in it."""
    fold = Fold(select_backend("numpy"))
    learner = LearnerConfig(**{"hidden": 4, "window": 8, **(learner or {})})
    slot = fold.create(SessionConfig(features, learner=learner, **config))
    (outs,) = fold.step([(slot, events)])
    return outs, fold.status(slot)


def equal(served: Any, expected: Any) -> None:
    for name in ("mean", "lower", "upper", "distribution", "anomaly_score", "loss", "saturation", "update_ratio"):
        column = getattr(expected, name)
        assert np.array(getattr(served, name), column.dtype).tobytes() == column.tobytes(), name


def test_the_next_symbol_is_predicted_over_a_stream(rpc: Any, new_id: Any) -> None:
    session = new_id()
    rpc.create(session, features=["letter"], task=CLASSIFY, categories=[symbols("letter")], learning_rate=0.02)
    text = np.tile([0.0, 1, 2, 1, 3], 40)[:, None]
    text[17] = NAN
    stream = rpc.stream()
    stream.open(session, reply=EVERY)
    stream.next()
    stream.send(1, text)
    served = stream.next().result.outcomes
    config = {"task": "classify", "categories": (Categorical("letter", LETTERS),)}
    expected, status = alone(Events(text), ("letter",), {"learning_rate": 0.02}, **config)
    equal(served, expected)
    assert (served.horizon, served.targets, served.distribution_size) == (1, 1, 4)
    table = np.array(served.distribution).reshape(200, 4)
    assert table.sum(axis=1) == pytest.approx(1)
    assert list(served.mean) == table.argmax(axis=1).tolist()
    assert np.isnan(served.lower).all()
    assert list(served.mean)[-5:] == [1, 2, 1, 3, 0], "what it says comes next"
    scores = rpc.get(session).scores
    assert list(scores.count) == status.scores.count.ravel().tolist() == [198]
    assert list(scores.log_loss) == status.scores.log_loss.ravel().tolist()
    assert scores.log_loss[0] < scores.naive_log_loss[0] < math.log(4)
    assert scores.error_rate[0] < scores.naive_error_rate[0]
    for name in ("mse", "mae", "persistence_mse", "seasonal_mse", "coverage", "width"):
        assert not getattr(scores, name)
    latest = rpc.forecast(session).outcome
    assert list(latest.distribution) == table[-1].tolist()


def test_a_symbol_that_is_none_is_refused_by_name(rpc: Any, new_id: Any, refused: Any) -> None:
    session = new_id()
    rpc.create(session, features=["letter"], task=CLASSIFY, categories=[symbols("letter")])
    for value in (4, -1, 0.5):
        error = refused(lambda value=value: rpc.ingest(session, 1, [0, value]))
        assert error.facts["field"] == "values[1][0]"
        assert "0..3, a position in symbols" in error.message
    assert rpc.ingest(session, 1, [0, NAN, 3]).last_sequence == 3


def test_a_label_that_is_a_symbol_is_learned_and_told_late(rpc: Any, new_id: Any, refused: Any, noise: Any) -> None:
    session = new_id()
    rpc.create(session, task=CLASSIFY, labels=["state"], categories=[symbols("state")])
    outs = rpc.ingest(session, 1, noise(5), labels=[0, 1, NAN, 3, NAN], reply=EVERY).outcomes
    assert (outs.count, outs.distribution_size, len(outs.distribution)) == (5, 4, 20)
    assert rpc.label(session, [3, 5], [2, 0]).accepted == 2
    assert refused(lambda: rpc.label(session, [4], [4])).facts["field"] == "labels[0][0]"
    assert list(rpc.get(session).scores.count) == [5]


@pytest.mark.parametrize(("loss", "name"), [(5, "pinball"), (6, "gaussian")])
def test_quantiles_are_served_and_cut_to_the_horizons_asked_for(
    loss: int, name: str, rpc: Any, new_id: Any, noise: Any
) -> None:
    session, levels = new_id(), (0.1, 0.5, 0.9)
    rpc.create(session, horizon=3, loss=loss, quantiles=levels)
    served = rpc.ingest(session, 1, noise(30), reply=EVERY).outcomes
    expected, _ = alone(Events(noise(30)), horizon=3, learner={"loss": name, "quantiles": levels})
    equal(served, expected)
    assert served.distribution_size == 3
    cut = rpc.forecast(session, horizon=2).outcome
    assert list(cut.distribution) == expected.distribution[-1, :2].ravel().tolist()


def test_an_episode_forgets_what_came_before(rpc: Any, new_id: Any, noise: Any) -> None:
    session, events = new_id(), noise(40)
    rpc.create(session)
    stream = rpc.stream()
    stream.open(session, reply=EVERY)
    stream.next()
    parts = []
    for first, stop, starts in ((1, 10, [0, 3]), (11, 25, []), (26, 40, [9])):
        stream.send(first, events[first - 1 : stop], starts=starts)
        parts.append(stream.next().result.outcomes)
    begins = np.isin(np.arange(40), [0, 3, 34])
    expected, _ = alone(Events(events, episode_start=begins))
    assert np.concatenate([part.mean for part in parts]).tobytes() == expected.mean.ravel().tobytes()
    plain, _ = alone(Events(events))
    assert expected.mean[3:].tobytes() != plain.mean[3:].tobytes()
    again = rpc.ingest(session, 26, events[25:], starts=[9])
    assert (again.duplicates, again.last_sequence) == (15, 40)


def test_the_gradient_by_lag_comes_with_every_64th_update_and_no_other(rpc: Any, new_id: Any, noise: Any) -> None:
    session, window = new_id(), 20
    rpc.create(session, window=window)
    served = rpc.ingest(session, 1, noise(200), reply=EVERY).outcomes
    expected, status = alone(Events(noise(200)), learner={"window": window})
    measured = np.flatnonzero(~np.isnan(expected.norm_by_lag).all(axis=1))
    assert len(measured) == status.updates.applied // 64 == 3
    assert [one.sequence for one in served.gradient_by_lag] == (measured + 1).tolist()
    for one, row in zip(served.gradient_by_lag, measured, strict=True):
        assert tuple(one.lag) == lags(window) == (0, 1, 2, 4, 8, 16, 20)
        assert np.array(one.norm, np.float32).tobytes() == expected.norm_by_lag[row].tobytes()
    last = rpc.ingest(session, int(measured[-1]) + 1, noise(200)[measured[-1] :]).outcomes
    assert len(last.gradient_by_lag) == (1 if measured[-1] == 199 else 0)


def test_a_configuration_comes_back_as_it_was_asked_for(rpc: Any, new_id: Any) -> None:
    """Every field of the contract away from its default, enums included."""
    learner = config_pb2.LearnerConfig(
        cell=2, hidden=5, window=9, stride=2, loss_span=3, loss=4, huber_delta=2.0, anchor=2, optimizer=6,
        learning_rate=2e-3, clip_norm=2.0, seed=7, layers=2, student_dof=5.0, quantiles=[0.25, 0.75], beta1=0.8,
        beta2=0.98, weight_decay=0.1, schedule=2, warmup_updates=3, decay_updates=50, rate_floor=0.2, clip=3,
        clip_value=3.0, clip_quantile=0.8, input_init=2, recurrent_init=5, recurrent_gain=0.5, bias_init=2,
        forget_bias=2.0, guard=False,
    )  # fmt: skip
    config = config_pb2.SessionConfig(
        features=["x", "mode"], horizon=1, coverage=0.8, learner=learner, task=2, labels=["load"],
        categories=[symbols("mode")], label_age=3, scaling=2, means=[1, 0, 2], deviations=[3, 1, 4], period_ns=5,
        seasonality=3,
    )  # fmt: skip
    for message in (learner, config):
        absent = {f.name for f in message.DESCRIPTOR.fields} - {f.name for f, _ in message.ListFields()}
        assert absent <= {"targets", "seasons", "learners"}, "not with labels"
    request = session_pb2.CreateSessionRequest(session_id=new_id(), config=config)
    made = rpc.sessions.CreateSession(request, timeout=60)
    assert made.session.config == config
    assert not rpc.sessions.CreateSession(request, timeout=60).created


def test_creating_again_with_other_symbols_names_the_difference(rpc: Any, new_id: Any, refused: Any) -> None:
    session = new_id()
    rpc.create(session, features=["letter"], task=CLASSIFY, categories=[symbols("letter")])
    assert not rpc.create(session, features=["letter"], task=CLASSIFY, categories=[symbols("letter")]).created
    other = config_pb2.Categorical(channel="letter", symbols=LETTERS[::-1])
    error = refused(lambda: rpc.create(session, features=["letter"], task=CLASSIFY, categories=[other]))
    assert (error.reason, error.facts["differences"]) == ("SESSION_EXISTS", "config.categories")
    error = refused(lambda: rpc.create(session, features=["letter"], task=2, labels=["load"]))
    assert error.facts["differences"] == "config.labels,config.task"


def test_a_page_of_sessions_with_many_symbols_keeps_the_message_limit(start_server: Any, connect: Any) -> None:
    rpc = connect(start_server("--max-message-bytes", str(2**18)).target)
    many = config_pb2.Categorical(channel="x", symbols=[f"{n:03}" + "ä" * 61 for n in range(256)])
    for number in range(8):
        rpc.create(f"s{number}", categories=[many], targets=["y"])
    found, token = [], ""
    while True:
        page = rpc.sessions.ListSessions(session_pb2.ListSessionsRequest(page_token=token), timeout=60)
        assert 1 <= len(page.sessions) < 8
        found += [session.session_id for session in page.sessions]
        token = page.next_page_token
        if not token:
            break
    assert found == [f"s{number}" for number in range(8)]
