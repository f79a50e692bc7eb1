"""Stopping and starting: drain, restore to the bit, and everything that keeps a server from starting."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bptt.v1 import forecast_pb2, session_pb2
from server.services import NAMES
from server.store import pack, unpack

EVERY = 1
TURN = 8


def test_sessions_continue_to_the_same_bits_after_a_restart(
    start_server: Any, connect: Any, noise: Any, tmp_path: Path
) -> None:
    events, names = noise(300), ("gru/1", "lstm:2", "tanh", "several")
    events[100:110, 1] = np.nan

    def fold(rpc: Any, first: int, stop: int) -> bytes:
        found = b""
        for name in names:
            outs = rpc.ingest(name, first, events[first - 1 : stop], reply=EVERY).outcomes
            found += np.array([*outs.mean, *outs.lower, *outs.loss, *outs.anomaly_score]).tobytes()
        return found

    def create(rpc: Any) -> None:
        rpc.create(names[0], cell=2, horizon=2, tags={"site": "a"}, learning=True, stride=3)
        rpc.create(names[1], cell=3, anchor=2, limits=session_pb2.SessionLimits(credit_events=500))
        rpc.create(names[2], cell=1, optimizer=2)
        rpc.create(names[3], learners=[{"hidden": 3}, {"hidden": 4, "anchor": 4}, {"hidden": 3, "loss_span": 4}])

    straight = connect(start_server().target)
    create(straight)
    fold(straight, 1, 200)
    expected = fold(straight, 201, 300)

    data = tmp_path / "kept"
    first = start_server(data=data)
    rpc = connect(first.target)
    create(rpc)
    fold(rpc, 1, 200)
    before = [rpc.get(name) for name in names]
    forecasts = [rpc.forecast(name) for name in names]
    assert first.stop() == 0
    assert "4 of 4 sessions written" in first.log()

    again = start_server(data=data)
    rpc = connect(again.target)
    assert "4 sessions restored" in again.log()
    assert [rpc.get(name) for name in names] == before
    assert [rpc.forecast(name) for name in names] == forecasts
    create(rpc)
    repeated = rpc.ingest(names[0], 150, events[149:200])
    assert repeated.duplicates == 51
    assert repeated.outcomes == forecasts[0].outcome
    assert fold(rpc, 201, 300) == expected


def test_a_drain_answers_what_is_in_flight_and_says_where_to_resume(
    start_server: Any, connect: Any, noise: Any, refused: Any
) -> None:
    server = start_server()
    rpc = connect(server.target)
    rpc.create("s", hidden=32, window=32, horizon=4)
    watch = rpc.forecasts.Watch(forecast_pb2.WatchRequest(session_id="s"))
    next(watch)
    stream = rpc.stream()
    stream.open("s", channel=3)
    stream.next()
    for at in range(1, 601, 200):
        stream.send(at, noise(600)[at - 1 : at + 199], channel=3)
    while rpc.get("s").last_sequence == 0:
        time.sleep(0.005)
    assert server.process.poll() is None
    server.process.terminate()
    answers, code = stream.rest()
    assert code == "UNAVAILABLE"
    results, (last,) = answers[:-1], answers[-1:]
    assert [answer.result.last_sequence for answer in results] == [200, 400, 600][: len(results)]
    assert results
    assert isinstance(last, forecast_pb2.StreamDraining)
    assert [(p.channel, p.last_sequence) for p in last.resume_points] == [(3, 200 * len(results))]
    ended = refused(lambda: [*watch])
    assert (ended.code, ended.reason) == ("UNAVAILABLE", "DRAINING")
    assert {"ErrorInfo", "RetryInfo"} == ended.details
    assert server.stop() == 0
    assert "1 of 1 sessions written" in server.log()


def test_new_work_is_refused_while_draining(
    start_server: Any, connect: Any, noise: Any, refused: Any, fetch: Any, gate: Any, wait_for: Any
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
    assert fetch(server.http_url + "/readyz") == (503, "stopping\n")
    assert fetch(server.http_url + "/healthz") == (200, "alive\n")
    health = health_pb2_grpc.HealthStub(rpc.channel)
    for service in ("", *NAMES):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == 2
    for call in (
        lambda: rpc.create("t"),
        lambda: rpc.ingest("s", 101, [1, 2]),
        lambda: rpc.delete("s"),
        rpc.stream().next,
    ):
        error = refused(call)
        assert (error.code, error.reason, error.details) == ("UNAVAILABLE", "DRAINING", {"ErrorInfo", "RetryInfo"})
    gate.open()
    assert stream.next().result.last_sequence == 100
    assert server.stop() == 0


def test_what_is_not_folded_in_time_is_dropped_and_the_rest_is_saved_as_it_was_sent(
    start_server: Any, connect: Any, noise: Any, gate: Any, wait_for: Any, tmp_path: Path
) -> None:
    data = tmp_path / "kept"
    flags = "--drain-timeout-s", "0.1", "--turn-events", str(TURN)
    server = start_server(*flags, data=data, prelude=gate.prelude)
    rpc = connect(server.target)
    for name in "stu":
        rpc.create(name)
    stream = rpc.stream()
    stream.open("s")
    stream.next()
    stream.send(1, noise(100))
    stream.send(500, noise(1))
    wait_for(server, 'bptt_events_total{outcome="rejected"} 1.0')
    server.process.terminate()
    while "100 events are not folded in time" not in server.log():
        assert server.process.poll() is None
        time.sleep(0.005)
    gate.open()
    (*failed, draining), code = stream.rest()
    told = [(one.error.reason, one.first_sequence, one.last_sequence) for one in failed]
    assert told == [("DRAINING", 1, TURN), ("SEQUENCE_GAP", 500, TURN)]
    assert [point.last_sequence for point in draining.resume_points] == [TURN]
    assert code == "UNAVAILABLE"
    assert server.stop() == 0
    assert "3 of 3 sessions written" in server.log()
    rpc = connect(start_server(data=data).target)
    assert rpc.get("s").last_sequence == TURN
    again = rpc.ingest("s", TURN - 2, noise(100)[TURN - 3 :])
    assert (again.duplicates, again.last_sequence) == (3, 100)


def test_forecasts_change_nothing(start_server: Any, connect: Any, noise: Any) -> None:
    checkpoints = []
    for asked in (0, 50):
        server = start_server()
        rpc = connect(server.target)
        rpc.create("s", horizon=3)
        rpc.ingest("s", 1, noise(50))
        for _ in range(asked):
            rpc.forecast("s", horizon=2)
        rpc.ingest("s", 51, noise(50))
        assert server.stop() == 0
        (path,) = (server.data / "sessions").iterdir()
        checkpoints.append(unpack(path.read_bytes()).checkpoint)
    assert checkpoints[0] == checkpoints[1]


def test_a_crash_loses_what_came_after_the_last_stop_and_nothing_else(
    start_server: Any, connect: Any, noise: Any, tmp_path: Path
) -> None:
    data = tmp_path / "kept"
    first = start_server(data=data)
    rpc = connect(first.target)
    rpc.create("s")
    rpc.ingest("s", 1, noise(10))
    assert first.stop() == 0
    second = start_server(data=data)
    rpc = connect(second.target)
    rpc.ingest("s", 11, noise(10))
    second.kill()
    third = start_server(data=data)
    assert connect(third.target).get("s").last_sequence == 10
    assert "an acknowledgement means today" in third.log()


def test_a_deleted_session_does_not_come_back(start_server: Any, connect: Any, tmp_path: Path) -> None:
    data = tmp_path / "kept"
    first = start_server(data=data)
    rpc = connect(first.target)
    rpc.create("gone")
    rpc.create("stays")
    assert first.stop() == 0
    assert len(list((data / "sessions").glob("*.session"))) == 2
    second = start_server(data=data)
    rpc = connect(second.target)
    rpc.delete("gone")
    assert len(list((data / "sessions").glob("*.session"))) == 1
    second.kill()
    rpc = connect(start_server(data=data).target)
    listed = rpc.sessions.ListSessions(session_pb2.ListSessionsRequest()).sessions
    assert [session.session_id for session in listed] == ["stays"]


def test_a_damaged_session_stops_the_start_and_is_kept(start_server: Any, connect: Any, tmp_path: Path) -> None:
    data = tmp_path / "kept"
    first = start_server(data=data)
    connect(first.target).create("s")
    first.stop()
    (path,) = (data / "sessions").glob("*.session")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(RuntimeError, match="exit code 1") as caught:
        start_server(data=data)
    assert f"{path.name} is not usable: its checksum is wrong" in str(caught.value)
    assert path.read_bytes() == damaged


def test_a_second_server_on_the_same_directory_or_port_says_so(start_server: Any, tmp_path: Path) -> None:
    data = tmp_path / "kept"
    first = start_server(data=data)
    with pytest.raises(RuntimeError, match="another server uses the data directory"):
        start_server(data=data)
    port = first.target.rpartition(":")[2]
    with pytest.raises(RuntimeError, match="cannot listen for gRPC on 127.0.0.1:" + port):
        start_server("--port", port)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(RuntimeError, match="cannot listen for HTTP on 127.0.0.1:" + port):
            start_server("--http-port", port)


def test_a_broken_fold_ends_the_server_with_an_error_and_loses_nothing_acknowledged(
    start_server: Any, connect: Any, noise: Any, refused: Any, tmp_path: Path
) -> None:
    prelude = """
import bptt_core
step = bptt_core.Fold.step
def broken(self, work):
    if any((events.values == 666).any() for _, events in work):
        raise FloatingPointError("broken on purpose")
    return step(self, work)
bptt_core.Fold.step = broken
"""
    data = tmp_path / "kept"
    server = start_server(data=data, prelude=prelude)
    rpc = connect(server.target)
    for name in "st":
        rpc.create(name)
        rpc.ingest(name, 1, noise(10))
    error = refused(lambda: rpc.ingest("s", 11, [666, 2]))
    assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")
    assert server.process.wait(60) == 1
    assert "broken on purpose" in server.log()
    rpc = connect(start_server(data=data).target)
    assert [rpc.get(name).last_sequence for name in "st"] == [10, 10]
    again = rpc.ingest("s", 10, [noise(10)[9], [1, 2]])
    assert (again.duplicates, again.last_sequence) == (1, 11)


def test_a_disk_that_does_not_take_one_session_takes_the_others(start_server: Any, connect: Any) -> None:
    prelude = """
import server.store
save = server.store.Store.save
def full(self, stored):
    if stored.session_id == "b":
        raise OSError(28, "No space left on device")
    save(self, stored)
server.store.Store.save = full
"""
    server = start_server(prelude=prelude)
    rpc = connect(server.target)
    for name in "abc":
        rpc.create(name)
    assert server.stop() == 1
    assert "session 'b' is not written: [Errno 28] No space left on device" in server.log()
    assert "2 of 3 sessions written" in server.log()
    assert len([*(server.data / "sessions").glob("*.session")]) == 2


def test_sessions_are_written_several_at_a_time(start_server: Any, connect: Any) -> None:
    prelude = """
import threading, server.store
save, both = server.store.Store.save, threading.Barrier(2)
def together(self, stored):
    both.wait(30)
    save(self, stored)
server.store.Store.save = together
"""
    server = start_server(prelude=prelude)
    rpc = connect(server.target)
    for name in "ab":
        rpc.create(name)
    assert server.stop() == 0, server.log()


def test_a_header_that_does_not_fit_its_checkpoint_stops_the_start(
    start_server: Any, connect: Any, tmp_path: Path
) -> None:
    data = tmp_path / "kept"
    first = start_server(data=data)
    connect(first.target).create("s")
    first.stop()
    (path,) = (data / "sessions").glob("*.session")
    stored = unpack(path.read_bytes())
    other = replace(stored.created, config=replace(stored.created.config, horizon=2))
    path.write_bytes(pack(replace(stored, created=other)))
    with pytest.raises(RuntimeError, match="exit code 1") as caught:
        start_server(data=data)
    assert f"{path.name} is not usable: its header and its checkpoint have different config" in str(caught.value)


def test_a_ports_file_that_cannot_be_written_is_said_plainly(start_server: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 1") as caught:
        start_server("--ports-file", str(tmp_path / "missing" / "ports.json"))
    assert "cannot write --ports-file" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_ctrl_c_drains_too(start_server: Any, connect: Any) -> None:
    server = start_server()
    connect(server.target).create("s")
    assert server.stop(signal.SIGINT) == 0
    assert "1 of 1 sessions written" in server.log()


def test_the_health_command_is_an_exit_code(start_server: Any) -> None:
    server = start_server()
    command = [*server.command[:3], "--health", server.target]

    def check() -> subprocess.CompletedProcess[str]:
        from_here = server.data.parent
        return subprocess.run(command, cwd=from_here, env=server.env, capture_output=True, text=True, timeout=60)

    good = check()
    assert (good.returncode, good.stdout) == (0, f"{server.target} is SERVING\n")
    server.stop()
    bad = check()
    assert bad.returncode == 1
    assert "does not answer" in bad.stdout


def test_the_ports_file_is_written_whole_when_the_server_is_ready(start_server: Any) -> None:
    server = start_server()
    ports = json.loads((server.data.parent / "ports.json").read_text())
    assert set(ports) == {"grpc", "http"}
    assert [path.name for path in server.data.parent.glob("ports*")] == ["ports.json"]
    with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
