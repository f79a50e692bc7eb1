"""Bad input, row by row: the code, the reason, the details, a message that names what is wrong; and nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.rpc import status_pb2

from bptt.v1 import config_pb2, forecast_pb2, session_pb2
from server import details, translate
from server.errors import TABLE, Refusal

FIELD = {"ErrorInfo", "BadRequest"}
ABOUT = {"ErrorInfo", "ResourceInfo"}
NAN, INF = float("nan"), float("inf")
_S = 10**9


def _ingest(first: int, values: Any, **more: Any) -> Callable[[Any, str], Any]:
    return lambda rpc, session: rpc.ingest(session, first, values, **more)


# name: (call on a session of two features with three events at 1, 2, 3 s; reason; details; in the message)
EVENTS: dict[str, tuple[Callable[[Any, str], Any], str, set[str], str]] = {
    "odd number of values": (_ingest(4, [1, 2, 3], times=[4 * _S]), "INVALID_FIELD", FIELD, "multiple of the 2"),
    "no values": (_ingest(4, []), "INVALID_FIELD", FIELD, "multiple of the 2"),
    "infinity": (_ingest(4, [1, INF], times=[4 * _S]), "INVALID_FIELD", FIELD, "values[0][1] is inf"),
    "minus infinity": (_ingest(4, [[1, 2], [-INF, 1]], times=[4, 5]), "INVALID_FIELD", FIELD, "values[1][0] is -inf"),
    "too large": (_ingest(4, [1, 2e100], times=[4 * _S]), "INVALID_FIELD", FIELD, "±1e+100"),
    "time backwards": (_ingest(4, [1, 2], times=[2 * _S]), "INVALID_FIELD", FIELD, f"one before, {3 * _S}"),
    "time backwards inside": (_ingest(4, [1, 2, 3, 4], times=[5 * _S, 4 * _S]), "INVALID_FIELD", FIELD, "before"),
    "times in some only": (_ingest(4, [1, 2, 3, 4], times=[4 * _S]), "INVALID_FIELD", FIELD, "is 1 values"),
    "times missing": (_ingest(4, [1, 2]), "INVALID_FIELD", FIELD, "timestamps_ns is absent; allowed: one"),
    "sequence zero": (_ingest(0, [1, 2], times=[4 * _S]), "INVALID_FIELD", FIELD, "first_sequence is 0"),
    "gap": (_ingest(5, [1, 2], times=[4 * _S]), "SEQUENCE_GAP", ABOUT, "at most 4"),
    "other content": (_ingest(3, [1, 2], times=[3 * _S]), "SEQUENCE_CONFLICT", ABOUT, "two writers"),
    "other uid": (_ingest(4, [1, 2], times=[4 * _S], uid="0" * 32), "UID_MISMATCH", ABOUT, "session_uid"),
    "endless uid": (_ingest(4, [1, 2], times=[4 * _S], uid="ü" * 50_000), "UID_MISMATCH", ABOUT, "session_uid"),
    "time out of range": (_ingest(4, [1, 2], times=[2**62 + 1]), "INVALID_FIELD", FIELD, "-2^62..2^62"),
    "time far out of range": (_ingest(4, [1, 2], times=[-(2**63)]), "INVALID_FIELD", FIELD, "-2^62..2^62"),
    "unknown reply mode": (
        _ingest(4, [1, 2], times=[4 * _S], reply=9), "INVALID_FIELD", FIELD,
        "reply_mode is 9; allowed: REPLY_MODE_EVERY, REPLY_MODE_LAST, REPLY_MODE_NONE",
    ),
    "labels where there are none": (
        _ingest(4, [1, 2], times=[4 * _S], labels=[1]), "INVALID_FIELD", FIELD, "labels is 1 values; allowed: none"
    ),
    "an episode outside": (
        _ingest(4, [1, 2], times=[4 * _S], starts=[1]), "INVALID_FIELD", FIELD, "episode_starts is 1; allowed: 0..0"
    ),
    "episodes out of order": (
        _ingest(4, np.ones(6), times=[4 * _S] * 3, starts=[0, 2, 1]), "INVALID_FIELD", FIELD, "episode_starts is 1"
    ),
    "an episode twice": (
        _ingest(4, np.ones(6), times=[4 * _S] * 3, starts=[2, 2]), "INVALID_FIELD", FIELD, "episode_starts is 2"
    ),
    "other episode": (_ingest(3, [4, 5], times=[3 * _S], starts=[0]), "SEQUENCE_CONFLICT", ABOUT, "two writers"),
    "late labels where there are none": (
        lambda rpc, session: rpc.label(session, [1], [1.0]), "INVALID_FIELD", FIELD, "no labels"
    ),
    "a history too late": (
        lambda rpc, session: rpc.warm_start(session, np.ones(6)), "ALREADY_STARTED", ABOUT, "has had 3 events"
    ),
    "too many events": (_ingest(4, np.zeros(2 * 1025)), "INVALID_FIELD", FIELD, "at most 1024 events"),
    "horizon above": (lambda rpc, session: rpc.forecast(session, horizon=4), "INVALID_FIELD", FIELD, "1..3"),
    "horizon zero": (lambda rpc, session: rpc.forecast(session, horizon=0), "INVALID_FIELD", FIELD, "1..3"),
    "forecast of other uid": (
        lambda rpc, session: rpc.forecast(session, session_uid="abc"), "UID_MISMATCH", ABOUT, "session_uid"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EVENTS)
def test_a_bad_batch_is_refused_and_changes_nothing(name: str, rpc: Any, new_id: Any, refused: Any) -> None:
    call, reason, details, text = EVENTS[name]
    session = new_id()
    rpc.create(session, horizon=3)
    rpc.ingest(session, 1, [[1, 2], [NAN, 3], [4, 5]], times=[1 * _S, 2 * _S, 3 * _S])
    before = rpc.get(session), rpc.forecast(session)
    error = refused(lambda: call(rpc, session))
    assert (error.code, error.reason) == (TABLE[reason].code.name, reason)
    assert error.details == details
    assert text in error.message
    assert (rpc.get(session), rpc.forecast(session)) == before
    assert rpc.ingest(session, 4, [1, 2], times=[4 * _S]).last_sequence == 4


CREATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "k1 above k2": ({"window": 8, "stride": 9}, "config.learner.stride is 9; allowed: 1..8"),
    "k2 not above the horizon": ({"window": 8, "horizon": 8}, "learner.window is 8; allowed: 9..1024"),
    "no features": ({"features": ()}, "config.features is []; allowed: 1..64"),
    "equal features": ({"features": ("a", "a")}, "distinct names"),
    "unknown target": ({"targets": ["z"]}, "targets is 'z'; allowed: one of the features"),
    "hidden too large": ({"hidden": 513}, "learner.hidden is 513; allowed: 1..512"),
    "horizon too large": ({"horizon": 257}, "horizon is 257; allowed: 1..256"),
    "three seasons": ({"seasons": [24, 168, 7]}, "at most 2 distinct seasons"),
    "seasons of nothing": ({"seasons": [24], "seasonality": 1}, "config.seasonality is 'found'; allowed: given or off"),
    "unknown seasonality": ({"seasonality": 9}, "config.seasonality is 9; allowed: SEASONALITY_FOUND, "),
    "too many learners": ({"learners": [config_pb2.LearnerConfig(hidden=2)] * 17}, "config.learners is 17 learners"),
    "a cell of several": (
        {"learners": [{}, {"cell": 9}]}, "config.learners[1].cell is 9; allowed: CELL_TANH, CELL_GRU, CELL_LSTM"
    ),
    "a window of several": ({"learners": [{}, {"window": 1}]}, "config.learners[1].window is 1; allowed: 2..1024"),
    "a loss of several": (
        {"learners": [{"loss": 5}]}, "config.learners[0].loss is 'pinball'; allowed: squared, absolute, huber"
    ),
    "learners without scaling": ({"scaling": 2, "learners": [{}]}, "config.learners is 1 learners; allowed: none"),
    "coverage one": ({"coverage": 1.0}, "coverage is 1.0; allowed: 0.5..0.99"),
    "rate not a number": ({"learning_rate": NAN}, "learner.learning_rate is nan"),
    "unknown cell": ({"cell": 7}, "learner.cell is 7; allowed: CELL_TANH, CELL_GRU, CELL_LSTM, CELL_RELU"),
    "unknown task": ({"task": -1}, "config.task is -1; allowed: TASK_FORECAST, TASK_REGRESS, TASK_CLASSIFY"),
    "labels of a forecast": ({"labels": ["z"]}, "config.labels is ['z']; allowed: none"),
    "regression of nothing": ({"task": 2}, "config.labels is []; allowed: 1..64 names"),
    "one symbol": (
        {"categories": [config_pb2.Categorical(channel="x", symbols=["a"])]}, "categories[x].symbols is ['a']"
    ),
    "falling quantiles": ({"loss": 5, "quantiles": [0.9, 0.1]}, "learner.quantiles is [0.9, 0.1]"),
    "decay of everything": ({"learning_rate": 10.0, "weight_decay": 1.0}, "learning_rate is 10.0; allowed: less"),
    "scales without scaling": ({"means": [0.0, 0.0]}, "config.means is [0.0, 0.0]; allowed: none"),
    "credit too large": ({"limits": session_pb2.SessionLimits(credit_events=65537)}, "1..65536"),
    "credit zero": ({"limits": session_pb2.SessionLimits(credit_events=0)}, "1..65536"),
    "too many tags": ({"tags": {str(n): "" for n in range(33)}}, "at most 32"),
    "long tag": ({"tags": {"k": "v" * 257}}, "at most 256"),
    "empty tag key": ({"tags": {"": "v"}}, "keys of 1..64"),
    "state too large": (
        {"features": [str(n) for n in range(64)], "horizon": 256, "window": 1024, "hidden": 512}, "state values"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CREATIONS)
def test_a_bad_configuration_is_refused_and_makes_nothing(name: str, rpc: Any, new_id: Any, refused: Any) -> None:
    fields, text = CREATIONS[name]
    session = new_id()
    error = refused(lambda: rpc.create(session, **fields))
    assert (error.code, error.reason, error.details) == ("INVALID_ARGUMENT", "INVALID_FIELD", FIELD)
    assert text in error.message
    assert set(error.facts) == {"field", "value", "allowed"}
    assert error.message == "{field} is {value}; allowed: {allowed}".format(**error.facts)
    assert refused(lambda: rpc.get(session)).reason == "SESSION_NOT_FOUND"


@pytest.mark.parametrize("session_id", ["", "-a", "a" * 129, "a b", "ä", "a\n", "../a"])
def test_a_bad_id_is_refused(session_id: str, rpc: Any, refused: Any) -> None:
    for call in (rpc.create, rpc.get, rpc.delete, rpc.forecast, lambda name: rpc.ingest(name, 1, [1, 2])):
        error = refused(lambda call=call: call(session_id))
        assert (error.code, error.facts["field"]) == ("INVALID_ARGUMENT", "session_id")


def test_creating_needs_a_configuration(rpc: Any, new_id: Any, refused: Any) -> None:
    request = session_pb2.CreateSessionRequest(session_id=new_id())
    error = refused(lambda: rpc.sessions.CreateSession(request))
    assert error.facts["field"] == "config"
    assert error.message.startswith("config is absent; allowed: ")


def test_an_unknown_session_is_not_found_everywhere(rpc: Any, new_id: Any, refused: Any) -> None:
    session = new_id()
    watch = forecast_pb2.WatchRequest(session_id=session)
    update = session_pb2.UpdateSessionRequest(session_id=session)
    for call in (
        lambda: rpc.get(session),
        lambda: rpc.delete(session),
        lambda: rpc.forecast(session),
        lambda: rpc.ingest(session, 1, [1, 2]),
        lambda: next(rpc.forecasts.Watch(watch)),
        lambda: rpc.sessions.UpdateSession(update),
    ):
        error = refused(call)
        assert (error.code, error.reason, error.details) == ("NOT_FOUND", "SESSION_NOT_FOUND", ABOUT)
        assert error.facts["session_id"] == session


def test_a_forecast_needs_an_event(rpc: Any, new_id: Any, refused: Any) -> None:
    session = new_id()
    rpc.create(session)
    error = refused(lambda: rpc.forecast(session))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "NO_EVENTS")


def test_another_configuration_under_a_known_id_names_the_difference(rpc: Any, new_id: Any, refused: Any) -> None:
    session = new_id()
    rpc.create(session, horizon=3, tags={"site": "a"})
    error = refused(lambda: rpc.create(session, horizon=2, tags={"site": "b"}))
    assert (error.code, error.reason, error.details) == ("ALREADY_EXISTS", "SESSION_EXISTS", ABOUT)
    assert error.facts["differences"] == "config.horizon,tags"
    assert "config.horizon: asked 2, is 3" in error.message


def test_a_message_above_the_limit_is_refused_with_the_limit(rpc: Any, new_id: Any, refused: Any) -> None:
    session = new_id()
    rpc.create(session)
    error = refused(lambda: rpc.ingest(session, 1, np.zeros(600_000)))
    assert error.code == TABLE["MESSAGE_TOO_LARGE"].code.name
    assert "4194304" in error.message
    assert rpc.ingest(session, 1, [1, 2]).last_sequence == 1


def test_a_description_of_a_session_that_is_much_too_long_is_not_even_read(rpc: Any, refused: Any) -> None:
    tags = {str(n): "" for n in range(20_000)}
    for request, call in (
        (session_pb2.CreateSessionRequest(session_id="s", tags=tags), rpc.sessions.CreateSession),
        (session_pb2.ListSessionsRequest(tags=tags), rpc.sessions.ListSessions),
        (session_pb2.UpdateSessionRequest(changes={"tags": tags}), rpc.sessions.UpdateSession),
    ):
        error = refused(lambda request=request, call=call: call(request, timeout=60))
        assert (error.code, error.facts["field"]) == ("INVALID_ARGUMENT", "request")
        assert error.message == f"request is {request.ByteSize()} bytes; allowed: at most 131072 bytes"


def test_bytes_that_are_no_message_are_the_callers_mistake(rpc: Any, refused: Any) -> None:
    call = rpc.channel.unary_unary("/bptt.v1.SessionService/GetSession", request_serializer=bytes)
    error = refused(lambda: call(b"\xff\xff", timeout=60))
    assert (error.code, error.facts["field"]) == ("INVALID_ARGUMENT", "request")


def test_bytes_that_are_no_message_are_refused_by_reflection_too(rpc: Any, refused: Any) -> None:
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    call = rpc.channel.stream_stream(path, request_serializer=bytes)
    error = refused(lambda: [*call(iter([b"\xff\xff"]), timeout=60)])
    assert (error.code, error.facts["field"]) == ("INVALID_ARGUMENT", "request")


def test_an_unknown_method_is_unimplemented(rpc: Any, refused: Any) -> None:
    call = rpc.channel.unary_unary("/bptt.v1.SessionService/RenameSession")
    assert refused(lambda: call(b"", timeout=60)).code == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "?"}, "page_token"),
        ({"page_token": "YWJj"}, "page_token"),
    ],
)
def test_a_bad_page_is_refused(fields: dict[str, Any], name: str, rpc: Any, refused: Any) -> None:
    request = session_pb2.ListSessionsRequest(**fields)
    assert refused(lambda: rpc.sessions.ListSessions(request)).facts["field"] == name


@pytest.mark.parametrize(
    ("paths", "changes", "name"),
    [
        ([], {}, "update_mask"),
        (["config"], {}, "update_mask"),
        (["learning_rate"], {"learning_rate": 0.0}, "changes.learning_rate"),
        (["limits"], {"limits": session_pb2.SessionLimits(credit_events=0)}, "changes.limits.credit_events"),
        (["tags"], {"tags": {"k" * 65: ""}}, "changes.tags"),
    ],
)
def test_a_bad_update_is_refused(
    paths: list[str], changes: dict[str, Any], name: str, rpc: Any, new_id: Any, refused: Any
) -> None:
    session = new_id()
    rpc.create(session)
    before = rpc.get(session)
    request = session_pb2.UpdateSessionRequest(session_id=session, changes=session_pb2.SessionChanges(**changes))
    request.update_mask.paths.extend(paths)
    assert refused(lambda: rpc.sessions.UpdateSession(request)).facts["field"] == name
    assert rpc.get(session) == before


@pytest.mark.parametrize("reason", TABLE)
def test_every_row_has_a_wire_form_with_its_details(reason: str) -> None:
    row = TABLE[reason]
    facts = {"field": "f"} if reason == "INVALID_FIELD" else {"session_id": "s", "limit": 3}
    refusal = Refusal(reason, "a sentence", **facts)
    status = status_pb2.Status.FromString(dict(details.status(refusal).trailing_metadata)["grpc-status-details-bin"])
    names = {packed.type_url.rpartition(".")[2] for packed in status.details}
    expected = {"ErrorInfo", row.detail.value, "RetryInfo" if row.retry_s else "none"} - {"none"}
    assert (status.code, status.message, names) == (row.code.value[0], "a sentence", expected)
    inside = translate.error(refusal)
    assert (inside.code, inside.reason, inside.message) == (status.code, reason, "a sentence")
    assert inside.HasField("retry_delay") == (row.retry_s is not None)


def test_the_codes_of_the_contract() -> None:
    codes = {
        "SEQUENCE_CONFLICT": "ABORTED", "SEQUENCE_TOO_OLD": "OUT_OF_RANGE", "SEQUENCE_GAP": "OUT_OF_RANGE",
        "UID_MISMATCH": "FAILED_PRECONDITION", "NO_EVENTS": "FAILED_PRECONDITION", "SUPERSEDED": "ABORTED",
        "SESSION_EXISTS": "ALREADY_EXISTS", "OVERLOADED": "RESOURCE_EXHAUSTED", "CREDIT_EXCEEDED": "RESOURCE_EXHAUSTED",
        "SESSION_LIMIT": "RESOURCE_EXHAUSTED", "DRAINING": "UNAVAILABLE", "SESSION_NOT_FOUND": "NOT_FOUND",
        "INVALID_FIELD": "INVALID_ARGUMENT", "INTERNAL": "INTERNAL", "LABEL_CONFLICT": "ABORTED",
        "LABEL_TOO_OLD": "OUT_OF_RANGE", "LABEL_UNKNOWN_SEQUENCE": "OUT_OF_RANGE",
        "ALREADY_STARTED": "FAILED_PRECONDITION",
    }  # fmt: skip
    assert {reason: TABLE[reason].code.name for reason in codes} == codes
    closing = {reason for reason, row in TABLE.items() if row.closes_channel}
    assert closing == {"SESSION_NOT_FOUND", "UID_MISMATCH", "SUPERSEDED", "CHANNEL_UNKNOWN", "CHANNEL_LIMIT"}
