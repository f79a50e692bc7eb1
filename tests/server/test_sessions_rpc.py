"""Making, finding, listing and limiting sessions; health and reflection."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from bptt.v1 import config_pb2, forecast_pb2, session_pb2
from server.services import NAMES

EVERY, NONE = 1, 3


def test_a_new_session_has_every_field_filled_in(rpc: Any, new_id: Any) -> None:
    name = new_id()
    config = config_pb2.SessionConfig(features=["x"], learner=config_pb2.LearnerConfig())
    request = session_pb2.CreateSessionRequest(session_id=name, config=config)
    response = rpc.sessions.CreateSession(request)
    session = response.session
    assert response.created
    assert (session.session_id, len(session.uid), session.learning, session.last_sequence) == (name, 32, True, 0)
    assert (list(session.config.targets), session.config.horizon, session.config.coverage) == (["x"], 1, 0.9)
    assert (session.config.task, session.config.scaling) == (1, 1)
    assert session.config.learner == config_pb2.LearnerConfig(
        cell=3, hidden=32, layers=1, window=32, stride=1, loss_span=1, loss=1, huber_delta=1.0, student_dof=4.0,
        anchor=1, optimizer=1, learning_rate=1e-3, beta1=0.9, beta2=0.999, weight_decay=0.0, schedule=1,
        warmup_updates=0, decay_updates=10_000, rate_floor=0.1, clip=1, clip_norm=1.0, clip_value=1.0,
        clip_quantile=0.9, input_init=1, recurrent_init=4, recurrent_gain=1.0, bias_init=1, forget_bias=1.0, seed=0,
        guard=True,
    )  # fmt: skip
    assert session.limits.credit_events == 1024
    assert not session.HasField("last_timestamp_ns")
    assert session.backend == "numpy"
    assert session.parameters > 0
    assert session.create_time.seconds > 0
    assert len(session.scores.mse) == len(session.scores.count) == 1
    assert not session.scores.seasonal_mse


def test_creating_again_finds_the_session_if_what_is_stated_agrees(rpc: Any, new_id: Any, noise: Any) -> None:
    name = new_id()
    first = rpc.create(name, horizon=2, tags={"a": "b"}, seed=5)
    rpc.ingest(name, 1, noise(3))
    again = rpc.create(name, horizon=2, tags={"a": "b"}, seed=5)
    assert (first.created, again.created) == (True, False)
    assert again.session.uid == first.session.uid
    assert again.session.last_sequence == 3
    bare = session_pb2.CreateSessionRequest(session_id=name, config=config_pb2.SessionConfig(features=["x", "y"]))
    assert not rpc.sessions.CreateSession(bare).created
    # A default stated outright is the same as the default taken.
    assert not rpc.create(name, horizon=2, coverage=0.9, cell=3, learning=True, targets=["x", "y"]).created


def test_what_was_changed_later_does_not_count_against_creating_again(rpc: Any, new_id: Any) -> None:
    name = new_id()
    rpc.create(name, learning_rate=0.01)
    request = session_pb2.UpdateSessionRequest(session_id=name)
    request.changes.learning_rate = 0.5
    request.update_mask.paths.append("learning_rate")
    rpc.sessions.UpdateSession(request)
    assert not rpc.create(name, learning_rate=0.01).created


def test_many_callers_create_one_session(rpc: Any, new_id: Any) -> None:
    name = new_id()
    with ThreadPoolExecutor(8) as pool:
        responses = [*pool.map(lambda _: rpc.create(name), range(16))]
    assert sum(response.created for response in responses) == 1
    assert len({response.session.uid for response in responses}) == 1


def test_sessions_are_listed_in_order_by_page_and_tag(start_server: Any, connect: Any) -> None:
    rpc = connect(start_server().target)
    names = [f"{letter}{n}" for letter in "bac" for n in range(7)]
    for name in names:
        rpc.create(name, tags={"letter": name[0], "all": "yes"})

    def pages(size: int, **tags: str) -> list[list[str]]:
        found, token = [], ""
        while True:
            request = session_pb2.ListSessionsRequest(page_size=size, page_token=token, tags=tags)
            response = rpc.sessions.ListSessions(request)
            found.append([session.session_id for session in response.sessions])
            assert not any(session.HasField("scores") for session in response.sessions)
            token = response.next_page_token
            if not token:
                return found

    assert pages(0) == [sorted(names)]
    for size in (1, 5, 7, 21, 1000):
        listed = pages(size)
        assert [*itertools.chain(*listed)] == sorted(names)
        assert all(len(page) == size for page in listed[:-1])
        assert len(listed) == -(-21 // size)
    assert pages(4, letter="b", all="yes") == [["b0", "b1", "b2", "b3"], ["b4", "b5", "b6"]]
    assert pages(10, letter="z") == [[]]


def test_a_page_ends_early_where_the_message_limit_is(start_server: Any, connect: Any) -> None:
    rpc = connect(start_server("--max-message-bytes", str(2**18)).target)
    features = [f"{n:02}" + "ä" * 126 for n in range(64)]
    for n in range(20):
        rpc.create(f"s{n:02}", features=features)
    found, token = [], ""
    for _ in range(20):
        response = rpc.sessions.ListSessions(session_pb2.ListSessionsRequest(page_token=token))
        assert 1 <= len(response.sessions) < 20
        assert response.ByteSize() <= 2**18
        found += [session.session_id for session in response.sessions]
        token = response.next_page_token
        if not token:
            break
    assert found == [f"s{n:02}" for n in range(20)]


def test_limits_hold_at_the_limit(start_server: Any, connect: Any, noise: Any, refused: Any) -> None:
    server = start_server(
        "--max-sessions", "2", "--max-pending-events", "300", "--max-channels", "1", "--max-watchers", "1",
        "--stream-memory-mib", "40",
    )  # fmt: skip
    rpc = connect(server.target)
    for name in ("a", "b"):
        rpc.create(name, hidden=32, window=32, horizon=4)
    error = refused(lambda: rpc.create("c"))
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "SESSION_LIMIT")
    assert error.details == {"ErrorInfo", "QuotaFailure"}
    assert not rpc.create("a", hidden=32, window=32, horizon=4).created
    rpc.delete("b")
    rpc.create("b")

    streams = [rpc.stream(), rpc.stream()]
    for stream, name in zip(streams, "ab", strict=True):
        stream.open(name)
        stream.next()
    error = refused(rpc.stream().next)
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "STREAM_LIMIT")
    assert error.details == {"ErrorInfo", "QuotaFailure", "RetryInfo"}
    streams[0].open("b", channel=2)
    opened = streams[0].next()
    assert (opened.error.reason, opened.closed) == ("CHANNEL_LIMIT", True)

    watch = rpc.forecasts.Watch(forecast_pb2.WatchRequest(session_id="a"))
    next(watch)
    error = refused(lambda: next(rpc.forecasts.Watch(forecast_pb2.WatchRequest(session_id="a"))))
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "WATCHER_LIMIT")

    error = refused(lambda: rpc.ingest("b", 1, noise(301)))
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    assert error.details == {"ErrorInfo", "QuotaFailure", "RetryInfo"}
    assert rpc.ingest("b", 1, noise(300), reply=NONE).last_sequence == 300


def test_sessions_keep_within_their_memory(start_server: Any, connect: Any, refused: Any, tmp_path: Path) -> None:
    def large(rpc: Any, name: str) -> Any:
        return rpc.create(name, features=["x"], hidden=84, window=64)  # 478 kB

    data = tmp_path / "kept"
    first = start_server("--session-memory-mib", "1", data=data)
    rpc = connect(first.target)
    large(rpc, "a")
    large(rpc, "b")
    error = refused(lambda: large(rpc, "c"))
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "SESSION_LIMIT")
    assert error.facts["limit"] == "session-memory-mib"
    assert 2**19 > int(error.facts["session_bytes"]) > int(error.facts["free_bytes"]) >= 0
    assert not large(rpc, "a").created
    rpc.delete("b")
    large(rpc, "c")
    assert first.stop() == 0
    second = start_server("--session-memory-mib", "1", data=data)
    rpc = connect(second.target)
    assert refused(lambda: large(rpc, "b")).reason == "SESSION_LIMIT"
    rpc.delete("a")
    for n in range(2):
        rpc.create(f"small{n}")
    rpc.delete("small0")
    large(rpc, "a")


def test_sessions_on_disk_that_exceed_their_memory_stop_the_start(
    start_server: Any, connect: Any, tmp_path: Path
) -> None:
    data = tmp_path / "kept"
    first = start_server(data=data)
    rpc = connect(first.target)
    for name in "abc":
        rpc.create(name, features=["x"], hidden=84, window=64)
    assert first.stop() == 0
    with pytest.raises(RuntimeError, match="exit code 1") as caught:
        start_server("--session-memory-mib", "1", data=data)
    assert "the sessions on disk need more than --session-memory-mib 1" in str(caught.value)
    assert len([*(data / "sessions").iterdir()]) == 3


def test_credit_exceeded_is_said_in_the_stream_and_can_be_resent(
    start_server: Any, connect: Any, noise: Any, gate: Any, wait_for: Any
) -> None:
    server = start_server(prelude=gate.prelude)
    rpc = connect(server.target)
    rpc.create("s", limits=session_pb2.SessionLimits(credit_events=100))
    stream = rpc.stream()
    stream.open("s")
    opened = stream.next()
    assert (opened.credit_events, opened.max_batch_events) == (100, 100)
    events = noise(300)
    stream.send(1, events[:100])
    stream.send(101, events[100:200])
    wait_for(server, 'bptt_events_total{outcome="rejected"} 100.0')
    gate.open()
    assert stream.next().result.last_sequence == 100
    error = stream.next()
    assert (error.error.reason, error.last_sequence, error.error.code) == ("CREDIT_EXCEEDED", 100, 8)
    assert error.error.HasField("retry_delay")
    stream.send(101, events[100:200])
    assert stream.next().result.last_sequence == 200


def test_ingest_calls_in_flight_keep_within_their_memory(
    start_server: Any, connect: Any, gate: Any, wait_for: Any, refused: Any
) -> None:
    server = start_server("--ingest-memory-mib", "1", "--max-sessions", "3", prelude=gate.prelude)
    rpc = connect(server.target)
    for name in "abc":
        rpc.create(name, features=["x"], horizon=256, window=300, learning=False)
    with ThreadPoolExecutor(2) as pool:
        # Each reply may have 100 · 256 · 3 doubles, 614 kB.
        first = pool.submit(rpc.ingest, "a", 1, np.zeros(100), reply=EVERY)
        wait_for(server, "bptt_queue_events 100.0")
        error = refused(lambda: rpc.ingest("b", 1, np.zeros(100), reply=EVERY))
        assert (error.code, error.reason, error.facts["limit"]) == (
            "RESOURCE_EXHAUSTED",
            "OVERLOADED",
            "ingest-memory-mib",
        )
        second = pool.submit(rpc.ingest, "c", 1, np.zeros(100), reply=NONE)
        wait_for(server, "bptt_queue_events 200.0")
        gate.open()
        assert first.result(60).last_sequence == second.result(60).last_sequence == 100
    assert rpc.ingest("b", 1, np.zeros(100), reply=EVERY).outcomes.count == 100


def test_a_reader_that_never_reads_stops_the_server_from_reading(start_server: Any, connect: Any) -> None:
    """Replies of 100 KB for requests of 50 bytes: without back-pressure the server would hold gigabytes."""
    server = start_server("--max-message-bytes", str(2**20))
    rpc = connect(server.target)
    rpc.create("s", features=["x"], horizon=256, window=300, hidden=1, stride=300, loss_span=300, learning=False)
    stream = rpc.stream()
    stream.open("s", reply=EVERY)
    most = stream.next().max_batch_events
    for at in range(0, 2000, 20):
        stream.send(at + 1, np.zeros(20))
    assert 20 <= most < 1024
    watcher = connect(server.target)
    last, same = 0, 0
    while same < 20:
        now = watcher.get("s").last_sequence
        last, same = now, same + 1 if now == last else 0
    assert 0 < last < 2000
    answers = [stream.next() for _ in range(100)]
    assert answers[-1].result.last_sequence == 2000


def test_health_is_served_for_the_server_and_both_services(rpc: Any) -> None:
    stub = health_pb2_grpc.HealthStub(rpc.channel)
    for service in ("", *NAMES):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == 1
    with pytest.raises(grpc.RpcError):
        stub.Check(health_pb2.HealthCheckRequest(service="other"))


def test_reflection_knows_the_services_and_their_messages(rpc: Any) -> None:
    database = ProtoReflectionDescriptorDatabase(rpc.channel)
    assert {*NAMES, "grpc.health.v1.Health"} <= set(database.get_services())
    described = database.FindFileContainingSymbol("bptt.v1.ForecastService")
    methods = ["Stream", "Ingest", "Label", "WarmStart", "Forecast", "Watch"]
    assert [method.name for method in described.service[0].method] == methods
