"""How fast a learner is updated, beside PyTorch, plain C and what the arithmetic alone would take.

    python benchmarks/kernels.py [--rounds 9] [--hidden 16 32 64 128] [--cells lstm gru] [--json out.json]

An update is forward over 32 steps of 8 inputs, mean squared error, backward, clip by global norm and Adam, of a learner
with one output. All contestants of a row do the same work, which is checked first, and take turns in one process: a
figure is the median of rounds. Ours is all of a step of a learner's stream, of which the update is nearly everything.
With one learner there is one thread; with 256 there are two.

PyTorch's are nn.LSTM or nn.GRU, one learner after the other, and a cell of stacked weights in batched products with
gradients by autograd, on one thread or two, whichever is faster; both with its fused Adam. Plain C is kernels.c by the
compiler that is here. The floor is the update's multiplications and additions at the rate of this machine's matrix
products (float32, 1024³, one thread).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from contestants import (
    Contestant,
    Floats,
    Ours,
    PlainC,
    Task,
    TorchModule,
    TorchStacked,
    compiled_c,
    optional_torch,
)
from findings import Finding, finding, lines

from bptt_core.backends import select_backend

Row = dict[str, Any]

HIDDEN: Final = (16, 32, 64, 128)
CELLS: Final = ("lstm", "gru")
MANY: Final = 256
THREADS: Final = 2  # for many learners
SLICE_S: Final = 0.03  # what a contestant's turn takes, about
PAUSE_S: Final = 0.03  # between two turns: PyTorch's idle threads spin for a while, on the cores of whose turn is next
AGREES: Final = (1e-5, 2e-3)  # moments and changes of parameters, relative; these are large for the smallest gradients
FASTER: Final = {1: {16: 80, 32: 45, 64: 13, 128: 5}, MANY: {16: 10, 32: 15, 64: 12}}  # LSTM: goals, PyTorch ÷ ours
AS_C: Final = "≤ 1.4"
PYTORCH: Final = "PyTorch"
TIMES: Final = ("ours", "plain C", "floor", PYTORCH)


def matrix_product_rate(repeats: int = 7) -> float:
    """Operations per second of a float32 product of 1024³ on one thread."""
    a, b = np.random.default_rng(0).standard_normal((2, 1024, 1024)).astype(np.float32)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / statistics.median(times[1:])


def check(contestants: dict[str, Contestant], first: Floats) -> None:
    """One update of each, which must change first moments and parameters alike."""
    changes = {}
    for name, contestant in contestants.items():
        contestant.run(1)
        moments, parameters = contestant.state()
        changes[name] = moments, parameters - first
    for name, found in changes.items():
        for change, wanted, tolerance in zip(found, changes["ours"], AGREES, strict=True):
            error = float(np.linalg.norm(change - wanted) / np.linalg.norm(wanted))
            if not error < tolerance:
                raise SystemExit(f"{name} is not the same update as ours: {error:.1e} off")


def take_turns(contestants: dict[str, Contestant], learners: int, rounds: int) -> dict[str, float]:
    """Median seconds per update of one learner."""

    def seconds(contestant: Contestant, updates: int) -> float:
        start = time.perf_counter()
        contestant.run(updates)
        return (time.perf_counter() - start) / updates

    counts = {}
    for name, contestant in contestants.items():
        seconds(contestant, 2)
        counts[name] = min(1024, max(1, round(SLICE_S / seconds(contestant, 4 if learners == 1 else 1))))
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            time.sleep(PAUSE_S)
            found[name].append(seconds(contestant, counts[name]) / learners)
    return {name: statistics.median(times) for name, times in found.items()}


def measure(
    rounds: int = 9, hidden: tuple[int, ...] = HIDDEN, cells: tuple[str, ...] = CELLS, backend: str = "numba"
) -> Iterator[Row]:
    """A row for every cell, H and number of learners: µs per update of one learner, by contestant."""
    torch = optional_torch()
    learning = {threads: select_backend(backend, threads).learning for threads in (1, THREADS)}
    rate = matrix_product_rate()
    for learners, cell, H in ((n, cell, H) for n in (1, MANY) for cell in cells for H in hidden):
        task, threads = Task.of(cell, H, learners), 1 if learners == 1 else THREADS
        one, library = learning[threads], compiled_c(cell, H)
        assert one is not None, f"{backend} teaches no learners"
        contestants: dict[str, Contestant] = {"ours": Ours(task, one)}
        if library is not None:
            contestants["plain C"] = PlainC(task, library, threads)
        if torch is not None and learners == 1:
            contestants[PYTORCH] = TorchModule(task, torch)
        elif torch is not None:
            contestants |= {f"{PYTORCH}, {n}": TorchStacked(task, torch, n) for n in (1, THREADS)}
        check(contestants, task.parameters[0])
        found = {name: 1e6 * s for name, s in take_turns(contestants, learners, rounds).items()}
        if torch is not None:
            found[PYTORCH] = min(us for name, us in found.items() if name.startswith(PYTORCH))
        floor = 1e6 * task.operations / rate / threads
        yield {"cell": cell, "H": H, "learners": learners, "floor": floor, **found}


def heading() -> str:
    """Of the table."""
    names = (*TIMES, "PyTorch ÷ ours", "ours ÷ C", "floor ÷ ours")
    return f"{'µs per update of one learner':30}" + "".join(f"{name:>{len(name) + 4}}" for name in names)


def line(row: Row) -> str:
    """Of the table."""
    ours, c, floor, torch = (row.get(name, math.nan) for name in TIMES)
    times = f"{called(row):30}{ours:8.1f}{c:11.1f}{floor:9.1f}{torch:11.1f}"
    return f"{times}{torch / ours:17.1f}×{ours / c:12.2f}{floor / ours:16.2f}"


def called(row: Row) -> str:
    """What a row is about."""
    return f"{row['cell'].upper()}, H {row['H']}, " + ("one" if row["learners"] == 1 else str(row["learners"]))


def against_goals(rows: list[Row]) -> Iterator[Finding]:
    """The rows that have goals, as far as there was somebody to compare with."""
    for row in rows:
        goal = FASTER[row["learners"]].get(row["H"]) if row["cell"] == "lstm" else None
        if goal is not None and PYTORCH in row:
            yield finding(f"{called(row)}: PyTorch ÷ ours", row[PYTORCH] / row["ours"], goal=f"≥ {goal}")
        if "plain C" in row:
            yield finding(f"{called(row)}: ours ÷ plain C", row["ours"] / row["plain C"], goal=AS_C)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="of which the median counts (default 9)")
    parser.add_argument("--hidden", type=int, nargs="+", default=HIDDEN, help="default 16 32 64 128")
    parser.add_argument("--cells", nargs="+", default=CELLS, help="default lstm gru")
    parser.add_argument("--backend", default="numba", help="whose learners ours are (default numba)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    if shutil.which("gcc") is None:
        print("There is no gcc here: no plain C.")
    if optional_torch() is None:
        print("PyTorch is not installed: nothing to compare with it.")
    print(heading(), flush=True)
    rows = []
    for row in measure(args.rounds, tuple(args.hidden), tuple(args.cells), args.backend):
        rows.append(row)
        print(line(row), flush=True)
    found = list(against_goals(rows))
    print("", *lines(found), sep="\n")
    if args.json:
        args.json.write_text(json.dumps({"updates": rows, "findings": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
