"""What a machine with a GPU says of the GPU engine: whether it is right, and how near to the machine's limit.

    PYTHONPATH=. python benchmarks/gpu_check.py [--out FILE] [--quick]

Runs the test bodies of conformance on CuPy, with or without pytest; a learner among thousands against itself alone, to
the bit; then updates per second of one to 65,536 LSTM learners beside the floor of the bytes that an update must move
(parameters and two moments read and written once) and beside PyTorch on the same card. A table, and one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = (16, 32, 64, 96, 128)
LEARNERS = (1, 8, 64, 512, 4096, 16_384, 65_536)
WINDOW, INPUTS = 32, 8
BYTES_PER_PARAMETER = 24  # float32, read and written: itself and two moments
SECONDS = 0.4  # of one measurement
MEMORY_SHARE = 0.8  # of what is free, that learners may take


class Skipped(Exception):
    """A test that does not concern this backend."""


def stand_in_for_pytest() -> ModuleType:
    """As much of pytest as the bodies need where it is not installed."""

    def marking(name: str) -> Callable[..., Any]:
        def mark(*args: Any, **kwargs: Any) -> Callable[..., Any]:
            def decorate(function: Any) -> Any:
                marks = [*getattr(function, "pytestmark", []), SimpleNamespace(name=name, args=args)]
                function.pytestmark = marks
                return function

            return decorate

        return mark

    def skip(reason: str) -> None:
        raise Skipped(reason)

    def fixture(*args: Any, **kwargs: Any) -> Any:
        return args[0] if args else lambda function: function

    pytest: Any = ModuleType("pytest")
    pytest.mark, pytest.fixture, pytest.FixtureRequest = (
        SimpleNamespace(parametrize=marking("parametrize"), gpu=marking("gpu")),
        fixture,
        Any,
    )
    pytest.param = lambda value, marks: value
    pytest.skip, pytest.importorskip = skip, lambda name, reason="": importlib.import_module(name)
    pytest.skip.Exception = Skipped
    return pytest


def cases(function: Any) -> Iterator[dict[str, Any]]:
    """The arguments of a test body but for its backend, as its marks name them."""
    tables = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            names = (
                [name.strip() for name in mark.args[0].split(",")] if isinstance(mark.args[0], str) else mark.args[0]
            )
            rows = mark.args[1] if len(names) > 1 else [(value,) for value in mark.args[1]]
            tables.append([dict(zip(names, row, strict=True)) for row in rows])
    for chosen in itertools.product(*tables):
        yield {name: value for row in chosen for name, value in row.items()}


def conformance(learning: Any, xp: Any) -> dict[str, int]:
    """Runs every body of test_conformance.py on this device; raises at the first that fails."""
    import emulated
    import lessons
    import pytest
    import test_conformance

    def learn(shape: Any, device: Any, host: Any, lesson: Any) -> Any:
        return emulated.learn_on(learning, xp, shape, device, host, lesson)

    backend = lessons.Backend("cupy", learn, learning.can_teach, emulated.nearest_shape)
    passed = skipped = 0
    for name, function in inspect.getmembers(test_conformance, inspect.isfunction):
        if not name.startswith("test_") or "backend" not in inspect.signature(function).parameters:
            continue
        for given in cases(function):
            try:
                function(backend=backend, **given)
                passed += 1
            except pytest.skip.Exception:
                skipped += 1
            except BaseException:
                print(f"FAILED {name} {given}", file=sys.stderr)
                raise
    return {"passed": passed, "skipped": skipped}


class Crowd(NamedTuple):
    """Learners of one shape on the device: all alike, each its own rows; what a launch needs of slabs."""

    shape: Any
    device: Any
    host: Any

    @classmethod
    def of(cls, xp: Any, order: np.ndarray, hidden: int, count: int) -> Crowd:
        import emulated
        import lessons

        from bptt_core.learner import device_fields, host_fields
        from bptt_core.slab import Layout, Slab

        shape = lessons.shape_with(hidden=hidden, window=WINDOW, inputs=INPUTS, guard=False)
        rows = lessons.random_state(shape, 1, seed=hidden)
        one = Slab(np, device_fields(shape)), Slab(np, host_fields(shape))
        for slab, row in zip(one, rows, strict=True):
            named = {k: v[:, order] if emulated.is_permuted(k) else v for k, v in row.items()}
            slot = slab.allocate()
            slab.rows[...] = 0  # between the fields as well: rows are compared as bytes
            slab.put(np.array([slot]), named)
        table = xp.empty((count, one[0].rows.shape[1]), np.float32)
        table[...] = xp.asarray(one[0].rows[0])
        layout = Layout.of(host_fields(shape))
        book = np.repeat(one[1].rows[:1], count, axis=0)
        return cls(shape, SimpleNamespace(rows=table), SimpleNamespace(rows=book, layout=layout))


def lesson_for(shape: Any, learners: int, steps: int) -> Any:
    """Events for each learner of its own, so that each has an update at every one."""
    from bptt_core.lessons import EVENT, Lesson

    rows = min(learners, 64) * steps  # some learners share a stream
    start = np.arange(learners) % min(learners, 64) * steps
    zeros = np.zeros(learners, np.int64)
    inputs, arrived = (
        np.random.default_rng(seed).standard_normal((rows, *size)).astype(np.float32)
        for seed, size in enumerate([(INPUTS,), (1, shape.pairs)])
    )
    return Lesson(start, zeros + steps, zeros, zeros - 1, inputs, arrived, np.full(rows, EVENT, np.int8))


def independent(learning: Any, xp: Any, hidden: int, count: int) -> None:
    """A learner among many gives the bits that it gives alone."""
    shape = Crowd.of(xp, order_of(learning, hidden), hidden, 1).shape
    found = []
    for learners, own in ((count, count // 3), (1, 0)):
        crowd = Crowd.of(xp, order_of(learning, hidden), hidden, learners)
        lesson = lesson_for(shape, learners, 3)
        lesson.start[own] = 0
        learned = learning.learn(shape, crowd.device, crowd.host, np.arange(learners), lesson)
        row = xp.asarray(crowd.device.rows[own])
        found.append(
            (getattr(row, "get", lambda row=row: row)().tobytes(), learned.ys[3 * own : 3 * own + 3].tobytes())
        )
    assert found[0] == found[1], f"hidden {hidden}: the company changes bits"


def order_of(learning: Any, hidden: int) -> np.ndarray:
    import lessons

    order: np.ndarray = learning.order(lessons.shape_with(hidden=hidden, window=WINDOW, inputs=INPUTS, guard=False))
    return order


def copy_bandwidth(xp: Any) -> float:
    """Bytes per second of a copy on the device, read and written."""
    source = xp.zeros(1 << 28, np.float32)
    target = xp.empty_like(source)
    target[...] = source
    xp.cuda.Device().synchronize()
    best = 0.0
    for _ in range(5):
        begin = time.perf_counter()
        target[...] = source
        xp.cuda.Device().synchronize()
        best = max(best, 2 * source.nbytes / (time.perf_counter() - begin))
    return best


def updates_per_second(learning: Any, xp: Any, hidden: int, learners: int) -> float:
    """Through `learn`, copies included; one to 64 steps a call."""
    crowd = Crowd.of(xp, order_of(learning, hidden), hidden, learners)
    steps = max(1, min(64, 65_536 // learners))
    lesson, slots = lesson_for(crowd.shape, learners, steps), np.arange(learners)

    def call() -> None:
        learning.learn(crowd.shape, crowd.device, crowd.host, slots, lesson)

    return learners * steps * rate(call)


def rate(call: Callable[[], None]) -> float:
    """Calls per second, the first two left out."""
    call(), call()
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        call()
        count += 1
    return count / (time.perf_counter() - begin)


def free_memory(xp: Any) -> int:
    xp.get_default_memory_pool().free_all_blocks()
    return int(xp.cuda.runtime.memGetInfo()[0])


def measure(learning: Any, xp: Any, learner_counts: tuple[int, ...]) -> dict[str, Any]:
    """Updates per second by hidden units and learners, and what the bytes allow."""
    bandwidth, table = copy_bandwidth(xp), {}
    for hidden in HIDDEN:
        row = Crowd.of(xp, order_of(learning, hidden), hidden, 1)
        floor = bandwidth / (BYTES_PER_PARAMETER * row.shape.layout.size)
        speeds = {
            n: updates_per_second(learning, xp, hidden, n)
            for n in learner_counts
            if n * row.device.rows.nbytes < MEMORY_SHARE * free_memory(xp)
        }
        table[hidden] = {"floor": floor, "updates_per_second": speeds, "of_floor": max(speeds.values()) / floor}
        table[hidden]["spilled_bytes"] = learning.spilled_bytes(row.shape)
        print(f"H={hidden}: " + ", ".join(f"{n:,}: {v:,.0f}/s" for n, v in speeds.items()), flush=True)
    return {"bandwidth": bandwidth, "by_hidden": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="file for the JSON, in place of the last line of the output")
    parser.add_argument("--quick", action="store_true", help="no more than 512 learners and no baselines")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("benchmarks", "tests/support", "tests/core"))]
    if importlib.util.find_spec("pytest") is None:
        sys.modules["pytest"] = stand_in_for_pytest()

    from bptt_core import FieldError, select_backend

    try:
        backend = select_backend("cupy")
    except FieldError as error:
        raise SystemExit(f"There is no GPU to check: {error}") from None
    learning, xp = backend.learning, backend.xp
    print(f"{backend.detail}, {backend.fingerprint}", flush=True)
    result: dict[str, Any] = {"device": backend.detail, "fingerprint": backend.fingerprint}
    result["conformance"] = conformance(learning, xp)
    print(f"conformance: {result['conformance']}", flush=True)
    for hidden in HIDDEN:
        independent(learning, xp, hidden, 64 if options.quick else 2048)
    print("a learner's bits do not depend on its company", flush=True)
    result |= measure(learning, xp, tuple(n for n in LEARNERS if n <= 512) if options.quick else LEARNERS)
    if not options.quick:
        result["baselines"] = baselines(result["by_hidden"])
    print(table_of(result))
    text = json.dumps(result)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


def baselines(table: dict[int, Any]) -> dict[str, Any]:
    """PyTorch's updates per second, and how many times as many are made here; nothing without PyTorch."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: no baselines")
        return {}
    import gpu_baselines

    found: dict[str, Any] = {}
    for hidden in HIDDEN:
        best = max(table[hidden]["updates_per_second"].values())
        speeds = gpu_baselines.speeds(torch, "cuda", hidden, INPUTS, WINDOW, SECONDS)
        found[str(hidden)] = {name: {"updates_per_second": v, "ratio": best / v} for name, v in speeds.items()}
    return found


def table_of(result: dict[str, Any]) -> str:
    """What a reader wants to see first."""
    lines = [f"copy {result['bandwidth'] / 1e12:.2f} TB/s; LSTM, window {WINDOW}, {INPUTS} inputs, updates per second"]
    for hidden, row in result["by_hidden"].items():
        best = max(row["updates_per_second"].values())
        line = f"H={hidden:<4} best {best:>12,.0f}   of the bytes' floor {row['of_floor']:.2f}"
        line += f"   spilled {row['spilled_bytes']}"
        for name, other in result.get("baselines", {}).get(str(hidden), {}).items():
            line += f"   {other['ratio']:,.1f} × {name}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
