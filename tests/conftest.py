"""A real server in a process of its own, on free ports and a temporary data directory, for tests of every part."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (ROOT, ROOT / "proto", ROOT / "clients" / "python" / "src")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


class RunningServer:
    """One `python -m server`. `target` is its gRPC address, `http_url` where /metrics is."""

    def __init__(self, directory: Path, data: Path, flags: tuple[str, ...], prelude: str) -> None:
        self.data = data
        self._log = directory / "server.log"
        self._ports = directory / "ports.json"
        self.command = [
            sys.executable, *_module(prelude), "--port", "0", "--http-port", "0",
            "--data", str(data), "--ports-file", str(self._ports), "--backend", "numpy", *flags,
        ]  # fmt: skip
        self.env = environment()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, cwd=directory, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_until_ready(self) -> None:
        """Blocks until the ports are known; raises with the log if the server ended instead."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._ports.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server is not ready, exit code {self.process.poll()}:\n{self.log()}")
            time.sleep(0.02)
        ports = json.loads(self._ports.read_text())
        self.target = f"127.0.0.1:{ports['grpc']}"
        self.http_url = f"http://127.0.0.1:{ports['http']}"

    def log(self) -> str:
        """What the server has logged so far."""
        return self._log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Asks the server to drain, as an operator would, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """Ends the server as a crash would."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)


def _module(prelude: str) -> list[str]:
    if not prelude:
        return ["-m", "server"]
    return ["-c", f"{prelude}\nimport sys\nfrom server.__main__ import main\nsys.exit(main())"]


def environment() -> dict[str, str]:
    """This process's environment with the checkout importable and no settings of the server in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BPTT_")}
    path = os.pathsep.join([*map(str, SOURCES), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error"}


@contextlib.contextmanager
def running(directory: Path, *flags: str, data: Path | None = None, prelude: str = "") -> Iterator[RunningServer]:
    """A server for the length of a `with` block; killed at its end if it still runs.

    `prelude` is Python that runs in the server's process first, to break what cannot be made to break from outside.
    """
    directory.mkdir(parents=True, exist_ok=True)
    server = RunningServer(directory, data or directory / "data", flags, prelude)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests of a process that leave it as they found it; they use `new_id` for their sessions."""
    with running(tmp_path_factory.mktemp("server")) as one:
        yield one
        assert one.stop() == 0, one.log()
        assert "Traceback" not in one.log(), one.log()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """`start_server(*flags, data=None, prelude="")`: servers of a test's own."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str, data: Path | None = None, prelude: str = "") -> RunningServer:
            directory = tmp_path / f"server-{next(_NUMBERS)}"
            return stack.enter_context(running(directory, *flags, data=data, prelude=prelude))

        yield start


@pytest.fixture
def new_id(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Session ids that no other test uses."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:80]
    return lambda: f"t-{name}-{next(_NUMBERS)}"


_NUMBERS = itertools.count(1)
