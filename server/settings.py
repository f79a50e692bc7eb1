"""Every setting and limit of the server, from the command line or the environment.

The only module that reads arguments or environment variables. A setting is one field below: its default, range and
sentence of help are written once and become the flag `--like-this` and the variable `BPTT_LIKE_THIS`. It knows nothing
of what the settings are used for, and imports nothing heavy: the number of compute threads must be fixed before NumPy
is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

_ONE_THREAD: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def _setting(
    default: Any, text: str, low: float = 0, high: float = 0, choices: tuple[str, ...] = (), meta: str = ""
) -> Any:
    return field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices, "meta": meta})


def _cores() -> int:
    """Cores that this process may use, as far as they are worth a thread."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # a container may have a part of the machine's time only
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        usable = min(usable, max(1, int(quota) // int(period)))
    return min(16, usable)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the server was told. Ranges were checked by `parse`."""

    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0: all networks, unencrypted", meta="ADDR")
    port: int = _setting(50051, "gRPC port; 0 takes any free one", 0, 65535)
    http_port: int = _setting(9464, "port of /metrics, /healthz and /readyz; 0 takes any free one", 0, 65535)
    data: Path = _setting(Path("bptt-data"), "directory for session checkpoints; made if missing", meta="DIR")
    ports_file: Path | None = _setting(
        None, 'file written when the server is ready: {"grpc": N, "http": N}', meta="FILE"
    )
    backend: str = _setting(
        "auto",
        "where sessions compute; auto takes cupy if a GPU works, else numba if it is installed",
        choices=("auto", "numpy", "numba", "cupy"),
    )
    threads: int = _setting(_cores(), "most threads that compute; by default all cores, up to 16", 1, 256)
    log_level: str = _setting("info", "least important log line shown", choices=("debug", "info", "warning", "error"))

    max_sessions: int = _setting(10_000, "most sessions", 1, 10_000_000)
    session_memory_mib: int = _setting(8192, "memory for the state of sessions; up to twice that is reserved", 1, 2**24)
    max_message_bytes: int = _setting(4 * 2**20, "largest gRPC message, either way", 2**18, 2**28)
    credit_events: int = _setting(1024, "events a session may have queued unless it asks for another number", 1, 65536)
    max_pending_events: int = _setting(262_144, "most events queued over all sessions", 1, 2**31)
    stream_memory_mib: int = _setting(2048, "memory for streams; with the message limit it sets how many", 1, 2**20)
    ingest_memory_mib: int = _setting(512, "memory for Ingest, Label and WarmStart calls in flight", 1, 2**20)
    transfer_memory_mib: int = _setting(512, "memory for the files of sessions being exported and imported", 1, 2**20)
    max_channels: int = _setting(4096, "most sessions open on one stream", 1, 2**20)
    stream_idle_timeout_s: float = _setting(
        60.0, "longest a stream may be without an open channel, or a file without a next piece", 0.1, 86400
    )
    max_watchers: int = _setting(64, "most watches at a time, each holding up to a message of outcomes", 1, 65536)
    micro_batch_events: int = _setting(4096, "most events in one micro-batch, which takes a few ms", 1, 2**20)
    turn_events: int = _setting(256, "most events of one session in one micro-batch", 1, 65536)
    drain_timeout_s: float = _setting(20.0, "longest wait for streams and queued events on shut-down", 0, 3600)
    heartbeat_timeout_s: float = _setting(
        60.0, "silence of the network loop or the engine after which /healthz fails", 1, 86400
    )

    @property
    def stream_bytes(self) -> int:
        """Most memory one stream holds: a message gRPC has read ahead, one being sent, one held for the engine, and
        one request with its reply that may go over that before reading pauses."""
        return 5 * self.max_message_bytes

    @property
    def max_streams(self) -> int:
        """How many streams fit the memory budget, at least 1."""
        return max(1, self.stream_memory_mib * 2**20 // self.stream_bytes)

    def lines(self) -> list[str]:
        """The settings in force, one per line, for the start-up log."""
        return [f"{_flag(f)} {getattr(self, f.name)}" for f in fields(self)] + [f"(max streams {self.max_streams})"]


@dataclass(frozen=True, slots=True)
class Command:
    """What was asked for: to serve with `settings`, or to check the health of the server at `health`."""

    settings: Settings
    health: str | None


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Command:
    """Reads the command line (`None`: this process's) over the environment. Exits with code 2 on a bad value."""
    environ = os.environ if environ is None else environ
    parser = argparse.ArgumentParser(
        prog="bptt-server",
        description="Learns streams online by truncated backpropagation through time and forecasts them, over gRPC.",
        epilog="Every flag has an environment variable: --http-port is BPTT_HTTP_PORT. Flags win.",
    )
    parser.add_argument(
        "--health", metavar="HOST:PORT", help="do not serve; ask that server for its health and exit 0 or 1"
    )
    for entry in fields(Settings):
        _add(parser, entry)
    given = parser.parse_args(argv)
    values: dict[str, Any] = {}
    for entry in fields(Settings):
        text, name = getattr(given, entry.name), _flag(entry)
        variable = f"BPTT_{entry.name.upper()}"
        if text is None and environ.get(variable):
            text, name = environ[variable], variable
        if text is not None:
            try:
                values[entry.name] = _value(entry, text)
            except ValueError as error:
                parser.error(f"{name} is {text!r}; allowed: {error}")
    return Command(Settings(**values), given.health)


def one_compute_thread() -> None:
    """Keeps BLAS to one thread, so that results do not depend on the machine's load. Call before importing NumPy."""
    for name in _ONE_THREAD:
        os.environ[name] = "1"


def _flag(entry: Field[Any]) -> str:
    return "--" + entry.name.replace("_", "-")


def _add(parser: argparse.ArgumentParser, entry: Field[Any]) -> None:
    facts = entry.metadata
    meta = "{" + ",".join(facts["choices"]) + "}" if facts["choices"] else facts["meta"] or "N"
    default = "none" if entry.default is None else entry.default
    allowed = f"; {facts['low']}..{facts['high']}" if facts["high"] else ""
    parser.add_argument(_flag(entry), metavar=meta, help=f"{facts['help']} (default {default}{allowed})")


def _value(entry: Field[Any], text: str) -> Any:
    """The setting that `text` means. Raises ValueError naming what is allowed."""
    facts = entry.metadata
    if facts["choices"]:
        if text not in facts["choices"]:
            raise ValueError(", ".join(facts["choices"]))
        return text
    if facts["high"]:
        low, high = facts["low"], facts["high"]
        pattern = r"\d+" if isinstance(entry.default, int) else r"\d+(\.\d+)?"
        kind: Any = type(entry.default)
        number = kind(text) if re.fullmatch(pattern, text, re.ASCII) else None
        if number is None or not low <= number <= high:
            raise ValueError(f"{low}..{high}")
        return number
    if not text:
        raise ValueError("not empty")
    return text if isinstance(entry.default, str) else Path(text)
