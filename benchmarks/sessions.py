"""What sessions cost, in time and in memory: `python benchmarks/sessions.py [--rounds 7] [--most 10000] [--json FILE]`.

* Events per second through the core, of a session alone and of many on two threads, by a default portfolio and by a
  single default learner. Every event is forecast, settled and learned from.
* What an update costs where there are 100, 1,000 and 10,000 sessions of one LSTM learner (32 units, 32 steps). Each
  takes an event in turn, 100 of them in a call, so that what differs is how long ago a session was last touched.
* Bytes of such a session, and of a default one: by how much a fresh process grows, and what slabs hold for it, ÷ what
  it could not do without: parameters, the copy that a learner is led back to, moments, window, carries, pending
  forecasts, slots of seasons.

All rates and costs take turns in one process, and medians count. Sessions compute on two threads.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from findings import Finding, finding, lines

from bptt_core import Backend, Events, Fold, LearnerConfig, SessionConfig, select_backend
from bptt_core.learner import device_fields, host_fields
from bptt_core.shape import Shape
from bptt_core.shape import fields as session_fields
from bptt_core.slab import Field, Layout
from bptt_core.state import all_fields

THREADS: Final = 2
CALL_SESSIONS: Final = 100
TURN_S: Final = 0.15  # of a row in one round, about
PORTFOLIO: Final = SessionConfig(("x",))
SINGLE: Final = SessionConfig(("x",), learner=LearnerConfig(cell="lstm", hidden=32, window=32))
NEEDED: Final = {"params", "good", "inputs", "targets", "carry", "boundary", "waiting", "season_ring"}  # and moments


class Group:
    """Equal sessions, each a little further along the same stream than the one before."""

    def __init__(self, backend: Backend, config: SessionConfig, sessions: int, events: int) -> None:
        """`events` of each in a call."""
        self.fold, self.events, self.turn = Fold(backend), events, 0
        self.slots = [self.fold.create(config) for _ in range(sessions)]
        rng, n = np.random.default_rng(0), 64 * max(events, 16)
        values = np.sin(np.arange(n) * 2 * np.pi / 24) + 0.1 * rng.standard_normal(n).cumsum()
        self.parts = [Events(values[k : k + events, None]) for k in range(0, n, events)]

    def step(self, calls: int, together: int | None = None) -> float:
        """Seconds that so many calls took, each of so many sessions, which are the next in turn; None: all of them."""
        together, n = together or len(self.slots), len(self.slots)
        work = []
        for _ in range(calls):
            chosen = [(self.turn + k) % n for k in range(together)]
            round_ = self.turn // n
            work.append([(self.slots[k], self.parts[(k + round_) % len(self.parts)]) for k in chosen])
            self.turn += together
        start = time.perf_counter()
        for call in work:
            self.fold.step(call)
        return time.perf_counter() - start

    @property
    def updates(self) -> int:
        """Of the last session."""
        return self.fold.status(self.slots[-1], scores=False).updates.applied


def rates(rounds: int, backend: Backend) -> list[Finding]:
    """Events per second of sessions in the core."""
    numpy = select_backend("numpy")
    asked = [
        (numpy, PORTFOLIO, 1, 64, None),
        (backend, SINGLE, 1, 64, None),
        (backend, SINGLE, 1, 1, None),
        (backend, PORTFOLIO, 1, 64, "≥ 3000"),
        (backend, PORTFOLIO, 1, 1, "≥ 3000"),
        (backend, SINGLE, 256, 64, None),
        (backend, SINGLE, 256, 1, None),
        (backend, PORTFOLIO, 256, 64, "≥ 6000"),
        (backend, PORTFOLIO, 256, 1, "≥ 6000"),
    ]
    rows, work = [], []
    for chosen, config, sessions, events, goal in asked:
        group = Group(chosen, config, sessions, events)
        group.step(-(-64 // events))
        calls = max(1, round(TURN_S / group.step(1)))
        where = "one session" if sessions == 1 else f"{sessions} sessions"
        kind = "portfolio" if config is PORTFOLIO else "single learner"
        what = f"{chosen.name}: {kind}, {where}, {events} event{'s' * (events > 1)} of each in a call"
        work.append((partial(group.step, calls), calls * sessions * events))
        rows.append((what, goal))
    seconds = medians([step for step, _ in work], rounds)
    return [
        finding(what, count / took, "events/s", goal)
        for (what, goal), (_, count), took in zip(rows, work, seconds, strict=True)
    ]


def medians(work: list[Callable[[], float]], rounds: int) -> list[float]:
    """Of what each returns, rounds interleaved."""
    found: list[list[float]] = [[] for _ in work]
    for _ in range(rounds):
        for values, one in zip(found, work, strict=True):
            values.append(one())
    return [statistics.median(values) for values in found]


@dataclass(frozen=True)
class Size:
    """Bytes of a session."""

    needed: int
    slabs: int

    @classmethod
    def of(cls, config: SessionConfig) -> Size:
        """From the fields that the session's shape declares."""
        shape = Shape.of(config.validated())
        own = [(f, f.name.rpartition(".")[2]) for f in all_fields(shape)]
        needed = sum(f.bytes for f, name in own if name in NEEDED or name.startswith("moment"))
        rows: list[list[Field]] = [session_fields(shape)]
        for group in shape.groups:
            rows += [device_fields(group.learner), host_fields(group.learner)] * len(group.members)
        return cls(needed, sum(Layout.of(fields).bytes for fields in rows))


def grown(backend: str, config: SessionConfig, sessions: int) -> float:
    """By how many bytes for each of so many sessions this process grows, which should be a fresh one."""
    chosen = select_backend(backend, THREADS)
    learned(chosen, config, 1)  # plans and scratch belong to nobody
    gc.collect()
    before = resident_bytes()
    group = learned(chosen, config, sessions)
    gc.collect()
    return (resident_bytes() - before) / len(group.slots)


def resident_bytes() -> int:
    """Of this process."""
    found = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in found if line.startswith("VmRSS"))


def learned(backend: Backend, config: SessionConfig, sessions: int) -> Group:
    """Sessions whose windows are full, one event of each in a call from now on."""
    group = Group(backend, config, sessions, 1)
    for first in range(0, sessions, CALL_SESSIONS):
        slots = group.slots[first : first + CALL_SESSIONS]
        values = group.parts[: 2 * 32 + 1]
        events = Events(np.concatenate([part.values for part in values]))
        group.fold.step([(slot, events) for slot in slots])
    return group


def costs(rounds: int, backend: Backend, most: int) -> list[Finding]:
    """Of an update, by the number of sessions."""
    counts = [n for n in (100, 1_000, 10_000) if n <= most]
    groups, calls = [learned(backend, SINGLE, n) for n in counts], most // CALL_SESSIONS
    before = [group.updates for group in groups]
    seconds = medians([partial(group.step, calls, CALL_SESSIONS) for group in groups], rounds)
    for group, n, earlier in zip(groups, counts, before, strict=True):
        assert group.updates - earlier == rounds * most // n, "not every event brought an update"
    found = [finding(f"{n:,} sessions: an update", 1e6 * s / most, "µs") for n, s in zip(counts, seconds, strict=True)]
    return [*found, finding(f"{counts[-1]:,} sessions ÷ 100: an update", seconds[-1] / seconds[0], goal="≤ 1.5")]


def sizes(which: str, backend: str, config: SessionConfig, sessions: int) -> list[Finding]:
    """Bytes of one of so many sessions: what it could not do without, what slabs hold, and what memory does."""
    size, which = Size.of(config), f"one of {sessions:,} {which}"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        bytes_each = pool.submit(grown, backend, config, sessions).result()
    return [
        finding(f"{which}: what it needs", size.needed, "bytes"),
        finding(f"{which}: in slabs", size.slabs, "bytes"),
        finding(f"{which}: in memory", bytes_each, "bytes"),
        finding(f"{which}: in memory ÷ needed", bytes_each / size.needed, goal="≤ 1.3"),
    ]


def measure(rounds: int = 7, most: int = 10_000, backend: str = "auto") -> list[Finding]:
    """All of it."""
    chosen = select_backend(backend, THREADS)
    chosen.warm_up()
    return [
        *rates(rounds, chosen),
        *costs(rounds, chosen, most),
        *sizes("single learners", backend, SINGLE, most),
        *sizes("portfolios", backend, PORTFOLIO, most // 10),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds, of which the median counts (default 7)")
    parser.add_argument("--most", type=int, default=10_000, help="sessions at once (default 10000)")
    parser.add_argument("--backend", default="auto", help="where sessions compute (default auto)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    found = measure(args.rounds, args.most, args.backend)
    print("\n".join(lines(found)))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
