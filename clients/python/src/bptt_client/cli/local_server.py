"""A server of one's own for one run: the installed one, on free ports, in a temporary directory, gone afterwards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bptt_client.cli.problems import Problem

START_TIMEOUT_S = 180.0  # the first start on a machine compiles
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class LocalServer:
    """Where the server listens."""

    target: str
    http_url: str


@contextmanager
def local_server() -> Iterator[LocalServer]:
    """Runs the installed server while the block lasts. Raises Problem if there is none or it does not start."""
    if find_spec("server") is None or find_spec("bptt_core") is None:
        raise Problem("no server is installed here: name one with --server HOST:PORT, or  pip install bptt-server")
    with tempfile.TemporaryDirectory(prefix="bptt-") as folder:
        ports, log = Path(folder, "ports.json"), Path(folder, "server.log")
        command = [sys.executable, "-m", "server", "--data", f"{folder}/data", "--port", "0", "--http-port", "0"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--ports-file", str(ports)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us; we stop the server ourselves
            )
        try:
            with _terminated_as_an_exception():
                yield _wait_for(process, ports, log)
        finally:
            _stop(process)


@contextmanager
def _terminated_as_an_exception() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that the server we started does not outlive us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for(process: subprocess.Popen[bytes], ports: Path, log: Path) -> LocalServer:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ports.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            what = "did not start in time" if process.poll() is None else f"ended with code {process.returncode}"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise Problem(f"the server {what}; its last words:\n{tail}")
        time.sleep(0.02)
    found = json.loads(ports.read_text())
    return LocalServer(f"127.0.0.1:{found['grpc']}", f"http://127.0.0.1:{found['http']}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
