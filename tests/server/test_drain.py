"""Stopping and starting: drain, restore to the bit, and everything that keeps a server from starting."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bptt.v1 import forecast_pb2, session_pb2
from server.services import NAMES
from server.store import unpack

EVERY = 1


def test_sessions_continue_to_the_same_bits_after_a_restart(
    start_server: Any, connect: Any, noise: Any, tmp_path: Path
) -> None:
    events, names = noise(300), ("gru/1", "lstm:2", "tanh")
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
    assert "3 sessions written" in first.log()

    again = start_server(data=data)
    rpc = connect(again.target)
    assert "3 sessions restored" in again.log()
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
    assert "1 sessions written" in server.log()


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


def test_a_fold_that_does_not_finish_in_time_is_said_and_still_saved(
    start_server: Any, connect: Any, noise: Any, gate: Any, wait_for: Any
) -> None:
    server = start_server("--drain-timeout-s", "0.1", prelude=gate.prelude)
    rpc = connect(server.target)
    rpc.create("s")
    stream = rpc.stream()
    stream.open("s")
    stream.next()
    stream.send(1, noise(100))
    wait_for(server, "bptt_queue_events 100.0")
    server.process.terminate()
    while "did not take their answers in time" not in server.log():
        time.sleep(0.005)
    gate.open()
    assert server.stop() == 0
    assert "1 sessions written" in server.log()


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


def test_a_broken_fold_ends_the_server_with_an_error(start_server: Any, connect: Any, refused: Any) -> None:
    prelude = """
import bptt_core
def broken(self, work):
    raise FloatingPointError("broken on purpose")
bptt_core.Fold.step = broken
"""
    server = start_server(prelude=prelude)
    rpc = connect(server.target)
    rpc.create("s")
    assert refused(lambda: rpc.ingest("s", 1, [1, 2])).code in ("UNAVAILABLE", "CANCELLED")
    assert server.process.wait(60) == 1
    assert "broken on purpose" in server.log()
    assert not [*(server.data / "sessions").iterdir()]


def test_a_disk_that_takes_nothing_is_an_error_at_the_end(start_server: Any, connect: Any) -> None:
    prelude = """
import server.store
def full(self, stored):
    raise OSError(28, "No space left on device")
server.store.Store.save = full
"""
    server = start_server(prelude=prelude)
    connect(server.target).create("s")
    assert server.stop() == 1
    assert "No space left on device" in server.log()


def test_ctrl_c_drains_too(start_server: Any, connect: Any) -> None:
    server = start_server()
    connect(server.target).create("s")
    assert server.stop(signal.SIGINT) == 0
    assert "1 sessions written" in server.log()


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
