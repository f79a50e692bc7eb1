"""Speed of the core and of the service on this machine: `make bench`.

Every figure is the median of rounds that visit all rows in turn, so that a slow moment of the machine hits all of them.
Ratios are taken within one run. Times are process CPU and wall clock of completed work; nothing is extrapolated.

    python benchmarks/run.py [--rounds 5] [--events 600] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from bptt_client import Client
from bptt_core import Events, Fold, LearnerConfig, SessionConfig, Slot, select_backend

FEATURES = 7
BATCH = 64
Row = tuple[str, Callable[[], float]]  # what it is, and a function that does one round and returns events per second


def stream(events: int, seed: int = 0) -> NDArray[np.float64]:
    """Seven random walks with a daily cycle: the shape of the hourly transformer sets."""
    rng = np.random.default_rng(seed)
    cycle = np.sin(np.arange(events)[:, None] * 2 * np.pi / 24 + np.arange(FEATURES))
    return cycle + 0.1 * np.cumsum(rng.standard_normal((events, FEATURES)), axis=0)


def single(horizon: int = 1, **learner: object) -> SessionConfig:
    """A session over the stream, with a single learner."""
    return replace(portfolio(horizon), learner=LearnerConfig(**learner))  # type: ignore[arg-type]


def portfolio(horizon: int = 1) -> SessionConfig:
    """A session over the stream as it is where no learner is named."""
    return SessionConfig(tuple(f"c{k}" for k in range(FEATURES)), horizon=horizon)


def core_row(label: str, sessions: int, events: int, session: SessionConfig) -> Row:
    """Events per second over all of `sessions` equal sessions, stepped together."""
    fold = Fold(select_backend("numpy"))
    slots: list[Slot] = [fold.create(session) for _ in range(sessions)]
    warm = Events(stream(64))
    fold.step([(slot, warm) for slot in slots])
    count = max(BATCH, events // sessions)
    values = stream(count, seed=1)

    def work() -> float:
        start = time.perf_counter()
        for first in range(0, count, BATCH):
            fold.step([(slot, Events(values[first : first + BATCH])) for slot in slots])
        return sessions * count / (time.perf_counter() - start)

    return label, work


@contextmanager
def running_server() -> Iterator[str]:
    """A server of this environment on free ports; yields its address."""
    with tempfile.TemporaryDirectory() as folder:
        ports = Path(folder, "ports.json")
        flags = ["--port", "0", "--http-port", "0", "--data", f"{folder}/data", "--ports-file", str(ports)]
        command = [sys.executable, "-m", "server", "--backend", "numpy", *flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not ports.exists():
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with code {process.returncode}: {' '.join(command)}")
                time.sleep(0.05)
            yield f"127.0.0.1:{json.loads(ports.read_text())['grpc']}"
        finally:
            process.terminate()
            process.wait()


def service_row(label: str, client: Client, batch: int, events: int, learner: Mapping[str, Any] | None) -> Row:
    """Events per second of one session through SDK, gRPC and engine, every event answered; None is a portfolio."""
    names = [f"c{k}" for k in range(FEATURES)]
    kind = "portfolio" if learner is None else "single"
    session = client.create_session(f"bench/{kind}/{batch}", features=names, horizon=1, learner=learner)
    rows = stream(events, seed=1).tolist()
    session.learn_many(rows[:64], batch=batch)

    def work() -> float:
        start = time.perf_counter()
        session.learn_many(rows, batch=batch, reply="every")
        return len(rows) / (time.perf_counter() - start)

    return label, work


def measure(rows: list[Row], rounds: int) -> dict[str, float]:
    """Median events per second of every row, rounds interleaved."""
    found: dict[str, list[float]] = {label: [] for label, _ in rows}
    for _ in range(rounds):
        for label, work in rows:
            found[label].append(work())
    return {label: statistics.median(values) for label, values in found.items()}


def machine() -> str:
    """What the figures were taken on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        model = next((value.strip() for name, _, value in lines if name.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}"


def table(title: str, found: dict[str, float], bases: Sequence[str]) -> None:
    """Prints events per second, microseconds per event, and how fast a row is beside the last of `bases` so far."""
    print(f"\n{title:44}{'events/s':>12}{'µs/event':>12}{'÷ base':>10}")
    base = bases[0]
    for label, rate in found.items():
        base = label if label in bases else base
        print(f"{label:44}{rate:12,.0f}{1e6 / rate:12,.0f}{rate / found[base]:10.2f}")


def portfolio_rows(events: int) -> tuple[list[Row], list[str]]:
    """Pairs of equally many sessions with a single learner and with a portfolio, and the labels of the former."""
    rows, bases = [], []
    for sessions, horizon in ((1, 1), (1, 24), (4, 1), (16, 1), (64, 1)):
        where = ("one session" if sessions == 1 else f"{sessions} together") + f", horizon {horizon}"
        bases.append(f"single, {where}")
        rows.append(core_row(bases[-1], sessions, events, single(horizon)))
        rows.append(core_row(f"portfolio, {where}", sessions, events, portfolio(horizon)))
    return rows, bases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (default 5)")
    parser.add_argument("--events", type=int, default=600, help="events per row and round (default 600)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    print(f"{machine()}\n{FEATURES} features and targets, an update per event; median of {args.rounds} rounds")
    base = "LSTM, 32 units, horizon 1"
    learners = [(base, single()), ("LSTM, 16 units", single(hidden=16)), ("LSTM, 64 units", single(hidden=64))]
    learners += [("GRU, 32 units", single(cell="gru")), ("tanh, 32 units", single(cell="tanh"))]
    learners += [("LSTM, 32 units, horizon 24", single(horizon=24))]
    core = measure([core_row(label, 1, args.events, session) for label, session in learners], args.rounds)
    table("core, one session, a single learner", core, [base])
    pairs, bases = portfolio_rows(args.events)
    together = measure(pairs, args.rounds)
    table("core, sessions stepped together, in total", together, bases)
    with running_server() as address, Client(address) as client:
        bases = ["single, core", "portfolio, core"]
        rows = [core_row(bases[0], 1, args.events, single())]
        rows += [service_row(f"single, service, batches of {n}", client, n, args.events, {}) for n in (1, 64)]
        rows += [core_row(bases[1], 1, args.events, portfolio())]
        rows += [service_row("portfolio, service, batches of 64", client, 64, args.events, None)]
        service = measure(rows, args.rounds)
    table("service over loopback, one session", service, bases)
    if args.json:
        found = {"machine": machine(), "core": core, "together": together, "service": service}
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
