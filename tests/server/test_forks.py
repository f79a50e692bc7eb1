"""A fork is its source after what was queued, to the bit; goes its own way when changed; leaves the source alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from copies import check_labels_are_remembered

from bptt.v1 import session_pb2

EVERY, NONE = 1, 3
SECONDS = 10**9
FIELD = {"ErrorInfo", "BadRequest"}
FORKS = 'grpc_method="ForkSession",grpc_service="bptt.v1.SessionService",grpc_type="unary"'
LEARNERS = [{"hidden": 3, "window": 6}, {"hidden": 3, "window": 6, "learning_rate": 0.01, "anchor": 3}]


def times(first: int, stop: int) -> list[int]:
    return [n * SECONDS for n in range(first, stop + 1)]


def code_of(answer: Any) -> str:
    try:
        answer()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@pytest.mark.parametrize(
    "config",
    [
        {"horizon": 2, "stride": 3, "tags": {"site": "a"}, "limits": {"credit_events": 700}},
        {"horizon": 2, "learners": LEARNERS, "seasons": [5]},
    ],
    ids=["one learner", "several learners"],
)
def test_source_and_fork_go_on_to_the_same_bits_until_one_is_changed(
    config: dict[str, Any], rpc: Any, new_id: Any, noise: Any
) -> None:
    name, fork, events = new_id(), new_id(), noise(200)
    events[50:60, 1] = np.nan
    rpc.create(name, **config)
    rpc.ingest(name, 1, events[:80], times=times(1, 80))
    before = rpc.get(name), rpc.forecast(name)
    made = rpc.fork(name, fork)
    assert (rpc.get(name), rpc.forecast(name)) == before
    assert rpc.get(fork) == made
    assert rpc.plain(made) == rpc.plain(before[0])
    assert made.uid != before[0].uid
    assert rpc.forecast(fork).outcome == before[1].outcome
    assert rpc.forecast(fork).timestamp_ns == before[1].timestamp_ns
    repeated = rpc.ingest(fork, 70, events[69:80], times=times(70, 80))
    assert (repeated.duplicates, repeated.outcomes) == (11, before[1].outcome)

    def feed(session: str, first: int, stop: int) -> bytes:
        result = rpc.ingest(session, first, events[first - 1 : stop], times=times(first, stop), reply=EVERY)
        return bytes(result.SerializeToString(deterministic=True))

    assert feed(name, 81, 120) == feed(fork, 81, 120)
    assert rpc.plain(rpc.get(fork)) == rpc.plain(rpc.get(name))
    stop = session_pb2.UpdateSessionRequest(session_id=fork, changes={"learning": False})
    stop.update_mask.paths.append("learning")
    rpc.sessions.UpdateSession(stop)
    assert feed(name, 121, 160) != feed(fork, 121, 160)
    assert rpc.get(name).learning


def test_a_fork_is_made_after_the_events_queued_before_it_and_before_those_behind(
    start_server: Any, connect: Any, noise: Any, gate: Any, wait_for: Any
) -> None:
    server, events = start_server(prelude=gate.prelude), noise(60)
    rpc = connect(server.target)
    rpc.create("s")
    with ThreadPoolExecutor(3) as pool:
        queued = pool.submit(rpc.ingest, "s", 1, events[:40])
        wait_for(server, "bptt_queue_events 40.0")
        forked = pool.submit(rpc.fork, "s", "f", tags={"who": "challenger"})
        wait_for(server, f"grpc_server_msg_received_total{{{FORKS}}} 1.0")
        assert code_of(lambda: rpc.fork("s", "f")) == "ALREADY_EXISTS"  # it is being made
        assert code_of(lambda: rpc.get("f")) == "NOT_FOUND"
        behind = pool.submit(rpc.ingest, "s", 41, events[40:], EVERY)
        wait_for(server, "bptt_queue_events 60.0")
        gate.open()
        assert queued.result(60).last_sequence == 40
        assert (forked.result(60).last_sequence, dict(forked.result(60).tags)) == (40, {"who": "challenger"})
        assert rpc.ingest("f", 41, events[40:], reply=EVERY) == behind.result(60)
    assert rpc.ingest("f", 30, events[29:]).duplicates == 31


def test_what_is_masked_is_different_in_the_fork_and_nothing_in_the_source(
    rpc: Any, new_id: Any, noise: Any, refused: Any
) -> None:
    name, fork, other = new_id(), new_id(), new_id()
    rpc.create(name, tags={"site": "a"}, learning_rate=0.01, limits={"credit_events": 50})
    rpc.ingest(name, 1, noise(20))
    before = rpc.get(name)
    changes = {"learning": False, "learning_rate": 0.5, "tags": {"who": "b"}, "limits": {"credit_events": 70}}
    made = rpc.fork(name, fork, **changes)
    assert (made.learning, made.config.learner.learning_rate) == (False, 0.5)
    assert (dict(made.tags), made.limits.credit_events) == ({"who": "b"}, 70)
    assert made.scores == before.scores
    assert made.last_sequence == 20
    assert rpc.ingest(fork, 21, noise(70), reply=NONE).last_sequence == 90
    assert rpc.get(name) == before
    # A mask without values means the defaults: those of creation for the rate, the server's for the limits.
    bare = rpc.fork(fork, other, mask=["learning", "learning_rate", "tags", "limits"])
    assert (bare.learning, bare.config.learner.learning_rate) == (True, 0.01)
    assert (dict(bare.tags), bare.limits.credit_events) == ({}, 1024)
    assert not rpc.create(fork, tags={"who": "b"}, learning_rate=0.01, learning=False).created
    assert refused(lambda: rpc.create(fork, tags={"site": "a"})).facts["differences"] == "tags"


def test_labels_and_a_warm_start_are_remembered_in_the_fork(rpc: Any, new_id: Any, noise: Any, refused: Any) -> None:
    name, fork, events = new_id(), new_id(), noise(40)
    labels = np.where(np.arange(40) % 3, events.sum(axis=1), np.nan)
    rpc.create(name, task=2, labels=["z"], label_age=12)
    rpc.warm_start(name, noise(10, seed=5), labels=np.ones(10))
    early = new_id()
    rpc.fork(name, early)
    assert refused(lambda: rpc.warm_start(early, noise(10), labels=np.ones(10))).reason == "ALREADY_STARTED"
    rpc.ingest(name, 1, events[:30], labels=labels[:30])
    rpc.label(name, [22, 25], events.sum(axis=1)[[21, 24]])
    rpc.fork(name, fork)
    check_labels_are_remembered(rpc, refused, name, fork, events, EVERY)


def test_a_fork_outlives_a_restart_and_a_deleted_source(
    start_server: Any, connect: Any, noise: Any, tmp_path: Path
) -> None:
    data, events = tmp_path / "kept", noise(90)
    first = start_server(data=data)
    rpc = connect(first.target)
    rpc.create("s", horizon=2)
    rpc.ingest("s", 1, events[:40])
    rpc.fork("s", "f", learning_rate=0.02)
    rpc.fork("s", "g")
    for name in ("f", "g"):
        rpc.ingest(name, 41, events[40:60])
    rpc.delete("s")
    before = [rpc.get(name) for name in ("f", "g")]
    assert first.stop() == 0
    assert "2 of 2 sessions written" in first.log()
    rpc = connect(start_server(data=data).target)
    assert [rpc.get(name) for name in ("f", "g")] == before
    assert rpc.ingest("f", 30, events[29:60]).duplicates == 31
    results = [rpc.ingest(name, 61, events[60:], reply=EVERY) for name in ("f", "g")]
    straight = connect(start_server().target)
    straight.create("g", horizon=2)
    straight.ingest("g", 1, events[:60])
    assert straight.ingest("g", 61, events[60:], reply=EVERY) == results[1] != results[0]


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"fork_id": ""}, "fork_id"),
    "a bad id": ({"fork_id": "a b"}, "fork_id"),
    "another field": ({"mask": ["config"]}, "fork_mask"),
    "a rate of zero": ({"learning_rate": 0.0}, "changes.learning_rate"),
    "no credit": ({"limits": {"credit_events": 0}}, "changes.limits.credit_events"),
    "a long tag": ({"tags": {"k" * 65: ""}}, "changes.tags"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_bad_fork_is_refused_and_makes_nothing(name: str, rpc: Any, new_id: Any, refused: Any) -> None:
    given, field = REFUSALS[name]
    session, fork = new_id(), new_id()
    rpc.create(session)
    before = rpc.get(session)
    error = refused(lambda: rpc.fork(session, **{"fork_id": fork, **given}))
    assert (error.code, error.reason, error.details) == ("INVALID_ARGUMENT", "INVALID_FIELD", FIELD)
    assert error.facts["field"] == field
    assert rpc.get(session) == before
    assert refused(lambda: rpc.get(fork)).reason == "SESSION_NOT_FOUND"


def test_a_fork_needs_a_source_that_is_meant_and_an_id_that_is_free(rpc: Any, new_id: Any, refused: Any) -> None:
    name, fork = new_id(), new_id()
    assert refused(lambda: rpc.fork(name, fork)).reason == "SESSION_NOT_FOUND"
    rpc.create(name)
    assert refused(lambda: rpc.fork(name, fork, uid="0" * 32)).reason == "UID_MISMATCH"
    for taken in (name, rpc.fork(name, fork, uid=rpc.get(name).uid).session_id):
        error = refused(lambda taken=taken: rpc.fork(name, taken))
        assert (error.code, error.reason, error.facts["session_id"]) == ("ALREADY_EXISTS", "SESSION_EXISTS", taken)
    copy = new_id()
    with ThreadPoolExecutor(8) as pool:
        codes = [*pool.map(lambda _: code_of(lambda: rpc.fork(name, copy)), range(16))]
    assert sorted(codes) == ["ALREADY_EXISTS"] * 15 + ["OK"]


def test_forks_keep_the_limits_even_while_they_are_made(
    start_server: Any, connect: Any, noise: Any, refused: Any, gate: Any, wait_for: Any
) -> None:
    server = start_server("--max-sessions", "3", "--session-memory-mib", "1", prelude=gate.prelude)
    rpc = connect(server.target)
    rpc.create("small")
    rpc.create("large", features=["x"], hidden=84, window=64)  # 478 kB
    with ThreadPoolExecutor(2) as pool:
        queued = pool.submit(rpc.ingest, "large", 1, noise(5, d=1))
        wait_for(server, "bptt_queue_events 5.0")
        forked = pool.submit(rpc.fork, "large", "f")
        wait_for(server, f"grpc_server_msg_received_total{{{FORKS}}} 1.0")
        full = [refused(lambda: rpc.create("g")), refused(lambda: rpc.fork("small", "g"))]
        gate.open()
        assert queued.result(60).last_sequence == forked.result(60).last_sequence == 5
    full += [refused(lambda: rpc.fork("small", "g"))]
    assert {(error.code, error.reason, error.facts["limit"]) for error in full} == {
        ("RESOURCE_EXHAUSTED", "SESSION_LIMIT", "3")
    }
    rpc.delete("small")
    error = refused(lambda: rpc.fork("large", "g"))
    assert (error.reason, error.facts["limit"]) == ("SESSION_LIMIT", "session-memory-mib")
    rpc.delete("f")
    assert rpc.fork("large", "g").last_sequence == 5


def test_a_source_deleted_meanwhile_is_not_found_and_leaves_the_id_free(
    start_server: Any, connect: Any, noise: Any, gate: Any, wait_for: Any, refused: Any
) -> None:
    server = start_server("--max-sessions", "3", prelude=gate.prelude)
    rpc = connect(server.target)
    for name in ("s", "t"):
        rpc.create(name)
    with ThreadPoolExecutor(3) as pool:
        pool.submit(code_of, lambda: rpc.ingest("s", 1, noise(200)))
        wait_for(server, "bptt_queue_events 200.0")
        forked = pool.submit(refused, lambda: rpc.fork("s", "f"))
        wait_for(server, f"grpc_server_msg_received_total{{{FORKS}}} 1.0")
        deleted = pool.submit(rpc.delete, "s")
        wait_for(server, "bptt_sessions 1.0")
        gate.open()
        deleted.result(60)
        error = forked.result(60)
    assert (error.code, error.reason) == ("NOT_FOUND", "SESSION_NOT_FOUND")
    assert rpc.fork("t", "f").session_id == "f"
    rpc.create("u")  # the third of three: nothing is kept for the fork that was not made


def test_no_fork_is_made_while_draining(
    start_server: Any, connect: Any, noise: Any, refused: Any, gate: Any, wait_for: Any
) -> None:
    server = start_server(prelude=gate.prelude)
    rpc = connect(server.target)
    rpc.create("s")
    stream = rpc.stream()
    stream.open("s")
    stream.next()
    stream.send(1, noise(100))
    wait_for(server, "bptt_queue_events 100.0")
    server.process.terminate()
    wait_for(server, "bptt_draining 1.0")
    error = refused(lambda: rpc.fork("s", "f"))
    assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")
    gate.open()
    stream.rest()
    assert server.stop() == 0
    assert "1 of 1 sessions written" in server.log()
