"""Before the server is ready, and on the backend that is chosen where nobody chooses one."""

from __future__ import annotations

import socket
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SLOW_TO_WARM_UP = (
    "import pathlib, time, bptt_core.backends as b; "
    "b.Backend.warm_up = lambda self: [time.sleep(0.01) for _ in iter(lambda: pathlib.Path({go!r}).exists(), True)]"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(fetch: Any, url: str, expected: tuple[int, str]) -> None:
    deadline, found = time.monotonic() + 60, None
    while found != expected:
        assert time.monotonic() < deadline, found
        try:
            found = fetch(url)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)


def test_a_server_that_compiles_is_alive_and_not_ready(start_server: Any, fetch: Any, tmp_path: Path) -> None:
    go, port = tmp_path / "go", free_port()
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start_server, "--http-port", str(port), prelude=SLOW_TO_WARM_UP.format(go=str(go)))
        try:
            until(fetch, f"http://127.0.0.1:{port}/healthz", (200, "alive\n"))
            assert fetch(f"http://127.0.0.1:{port}/readyz") == (503, "starting\n")
            assert "bptt_sessions 0.0" in fetch(f"http://127.0.0.1:{port}/metrics")[1]
            assert not starting.done()
        finally:
            go.touch()
        server = starting.result()
        assert fetch(f"{server.http_url}/readyz") == (200, "ready\n")
        assert server.stop() == 0


def test_sessions_on_the_compiled_engine_go_on_to_the_bit(start_server: Any, connect: Any, tmp_path: Path) -> None:
    """Through the network, a drain and another start, beside a session that nothing interrupts."""
    pytest.importorskip("numba", reason="the engine needs the extra jit")
    values = np.sin(np.arange(240) / 5)[:, None] + np.random.default_rng(0).normal(size=(240, 1)) / 10
    found: dict[bool, list[bytes]] = {}
    for interrupted in (False, True):
        data = tmp_path / f"data-{interrupted}"
        server = start_server("--backend", "auto", data=data)
        rpc, told = connect(server.target), []
        rpc.create("s", ["x"], learners=[{"hidden": 8}, {"hidden": 4}])
        assert rpc.get("s").backend == "numba"
        for first in range(0, len(values), 40):
            if interrupted and first == 120:
                assert server.stop() == 0
                server = start_server("--backend", "auto", data=data)
                rpc = connect(server.target)
                assert rpc.get("s").last_sequence == 120
            told.append(rpc.ingest("s", first + 1, values[first : first + 40], reply=1).outcomes.SerializeToString())
        found[interrupted] = told
        assert server.stop() == 0
    assert found[True] == found[False]
