"""Sessions of several learners over the wire: what they are, what is told of them, what only a single one can do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt.v1 import config_pb2, session_pb2
from bptt_core import Events, Fold, LearnerConfig, SessionConfig, select_backend

EVERY, SAFETENSORS = 1, 2
FOUND, GIVEN, OFF = 1, 2, 3
LEARNERS = [{"hidden": 3, "window": 6}, {"hidden": 2, "window": 8, "anchor": 3, "learning_rate": 0.01}]


def made(rpc: Any, session_id: str, **config: Any) -> Any:
    """The session of exactly such a configuration."""
    config = {"features": ["x"], **config}
    request = session_pb2.CreateSessionRequest(session_id=session_id, config=config_pb2.SessionConfig(**config))
    return rpc.sessions.CreateSession(request, timeout=60)


def updated(rpc: Any, session_id: str, *mask: str, **changes: Any) -> Any:
    request = session_pb2.UpdateSessionRequest(session_id=session_id, changes=changes)
    request.update_mask.paths.extend(mask)
    return rpc.sessions.UpdateSession(request, timeout=60).session


def test_a_session_that_names_no_learner_has_the_projects_portfolio(rpc: Any, new_id: Any) -> None:
    name = new_id()
    session = made(rpc, name, horizon=3).session
    assert not session.config.HasField("learner")
    assert len(session.config.learners) > 1
    assert all(learner.hidden and learner.window and learner.guard for learner in session.config.learners)
    assert session.config.seasonality == FOUND
    assert list(session.seasons) == [0, 0]
    naive = [expert for expert in session.experts if not expert.HasField("updates")]
    assert [expert.name for expert in naive[:1]] == ["persistence"]
    assert [expert.name for expert in session.experts if expert.HasField("updates")] == [
        f"learner {k}" for k in range(len(session.config.learners))
    ]
    assert not made(rpc, name, horizon=3).created
    assert not made(rpc, name, learners=session.config.learners, seasonality=FOUND).created


@pytest.mark.parametrize(
    ("config", "seasonality"),
    [
        ({"learner": {}}, OFF),
        ({"learner": {"hidden": 3}, "seasonality": FOUND}, FOUND),
        ({"task": 3, "targets": ["x"]}, OFF),
        ({"scaling": 2}, OFF),
    ],
)
def test_a_single_learner_is_one_by_name_or_where_there_is_no_portfolio(
    config: dict[str, Any], seasonality: int, rpc: Any, new_id: Any
) -> None:
    session = made(rpc, new_id(), **config).session
    assert session.config.HasField("learner")
    assert not session.config.learners
    assert session.config.seasonality == seasonality
    assert not session.experts


def test_experts_and_updates_are_told_and_add_up(rpc: Any, new_id: Any, noise: Any) -> None:
    name = new_id()
    rpc.create(name, learners=LEARNERS, seasons=[5], horizon=2, tags={"of": name})
    rpc.ingest(name, 1, noise(60))
    session = rpc.get(name)
    assert (session.config.seasonality, list(session.seasons)[:1]) == (GIVEN, [5])
    assert sum(expert.weight for expert in session.experts) == pytest.approx(1)
    counts = [expert.updates for expert in session.experts if expert.HasField("updates")]
    assert [count.applied > 40 for count in counts] == [True, True]
    for field in session_pb2.UpdateCounts.DESCRIPTOR.fields:
        assert getattr(session.updates, field.name) == sum(getattr(count, field.name) for count in counts)
    assert [expert.rate_factor for expert in session.experts[:2]] == [1, 1]
    assert all(expert.relative_error > 0 for expert in session.experts if expert.name != "season")
    request = session_pb2.ListSessionsRequest(tags={"of": name})
    (listed,) = rpc.sessions.ListSessions(request, timeout=60).sessions
    assert not listed.experts
    assert listed.updates == session.updates


def test_every_column_is_served_as_the_fold_made_it(rpc: Any, new_id: Any, noise: Any) -> None:
    name, events = new_id(), noise(150)
    events[90:, 1] = np.nan
    events[100:140, 0] = 7.0
    rpc.create(name, learners=LEARNERS, horizon=2)
    fold = Fold(select_backend("numpy"))
    learners = (
        LearnerConfig(hidden=3, window=6),
        LearnerConfig(hidden=2, window=8, anchor="season", learning_rate=0.01),
    )
    (outs,) = fold.step([(fold.create(SessionConfig(("x", "y"), learners=learners, horizon=2)), Events(events))])
    served = rpc.ingest(name, 1, events, reply=EVERY).outcomes
    columns = {
        "mean": outs.mean, "lower": outs.lower, "upper": outs.upper, "anomaly_score": outs.anomaly_score,
        "target_anomaly_score": outs.target_anomaly_score, "anomaly_likelihood": outs.anomaly_likelihood,
        "sensor_states": outs.sensor_state, "drift": outs.drift, "warming_up": outs.warming_up,
    }  # fmt: skip
    for column, table in columns.items():
        assert np.array(getattr(served, column), table.dtype).tobytes() == table.tobytes(), column
    states = np.reshape(served.sensor_states, (150, 2))
    assert (states[90:, 1] == 2).all()
    assert (states[:90] == 1).all()
    assert (states[125:140, 0] == 3).all()
    last = rpc.forecast(name, horizon=1).outcome
    assert list(last.mean) == list(served.mean[-4:-2])
    assert list(last.sensor_states) == list(served.sensor_states[-2:])


DIFFERENCES: dict[str, tuple[dict[str, Any], str, str]] = {
    "another number": ({"learners": LEARNERS[:1]}, "config.learners", "config.learners: asked 1 learners, is 2"),
    "another value": (
        {"learners": [LEARNERS[0], {**LEARNERS[1], "hidden": 9}]}, "config.learners",
        "config.learners[1].hidden: asked 9, is 2",
    ),
    "a default": ({"learners": [LEARNERS[0], {}]}, "config.learners", "config.learners[1].hidden: asked 32, is 2"),
    "a single one": ({"learner": {"hidden": 3}}, "config.learner", "config.learner: asked present, is absent"),
    "no seasonality": (
        {"learners": [LEARNERS[0], {**LEARNERS[1], "anchor": 1}], "seasonality": OFF},
        "config.learners,config.seasonality",
        "config.seasonality: asked 'off', is 'found'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_other_learners_under_a_known_id_are_told(name: str, rpc: Any, new_id: Any, refused: Any) -> None:
    asked, path, text = DIFFERENCES[name]
    session = new_id()
    made(rpc, session, learners=LEARNERS)
    error = refused(lambda: made(rpc, session, **asked))
    assert (error.code, error.reason) == ("ALREADY_EXISTS", "SESSION_EXISTS")
    assert error.facts["differences"] == path
    assert text in error.message
    assert not made(rpc, session, learners=LEARNERS).created


def test_several_learners_are_not_what_a_single_one_is(rpc: Any, new_id: Any, refused: Any) -> None:
    session = new_id()
    rpc.create(session, hidden=4)
    error = refused(lambda: made(rpc, session, features=["x", "y"], learners=LEARNERS))
    assert error.facts["differences"] == "config.learners"
    assert "asked 2 learners, is 0" in error.message


def test_learning_is_stopped_for_all_learners_and_a_rate_is_nobodys(rpc: Any, new_id: Any, refused: Any) -> None:
    session = new_id()
    rpc.create(session, learners=LEARNERS)
    before = rpc.get(session)
    for call in (
        lambda: updated(rpc, session, "learning_rate", learning_rate=0.1),
        lambda: updated(rpc, session, "learning_rate"),
        lambda: rpc.fork(session, new_id(), learning_rate=0.1),
    ):
        error = refused(call)
        assert (error.reason, error.facts["field"]) == ("INVALID_FIELD", "changes.learning_rate")
        assert "the session has 2 learners" in error.facts["allowed"]
    assert rpc.get(session) == before
    assert not updated(rpc, session, "learning", learning=False).learning
    rpc.ingest(session, 1, np.arange(20.0))
    counts = rpc.get(session).updates
    assert (counts.applied, counts.learning_off > 0) == (0, True)


def test_a_file_of_one_network_is_neither_made_of_several_learners_nor_taken_in_for_them(
    rpc: Any, new_id: Any, refused: Any
) -> None:
    several, single = new_id(), new_id()
    rpc.create(several, learners=LEARNERS)
    rpc.create(single, scaling=2)

    def export(session: str) -> bytes:
        request = session_pb2.ExportSessionRequest(session_id=session, format=SAFETENSORS)
        return b"".join(response.data for response in rpc.sessions.ExportSession(request, timeout=60))

    def take_in(session: str, data: bytes, **config: Any) -> Any:
        terms = session_pb2.ImportTerms(
            session_id=session, format=SAFETENSORS, config={"features": ["x", "y"], "scaling": 2, **config}
        )
        requests = [session_pb2.ImportSessionRequest(terms=terms), session_pb2.ImportSessionRequest(data=data)]
        return rpc.sessions.ImportSession(iter(requests), timeout=60).session

    error = refused(lambda: export(several))
    assert (error.code, error.reason, error.facts["field"]) == ("INVALID_ARGUMENT", "INVALID_FIELD", "format")
    assert "EXPORT_FORMAT_CHECKPOINT, as the session has 2 learners" in error.message
    data, copy = export(single), new_id()
    error = refused(lambda: take_in(copy, data, learners=[{}, {}]))
    assert (error.reason, error.facts["field"]) == ("INVALID_FIELD", "config.learners")
    assert refused(lambda: rpc.get(copy)).reason == "SESSION_NOT_FOUND"
    assert take_in(copy, data).config.learner.hidden == 4
