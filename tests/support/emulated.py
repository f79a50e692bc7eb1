"""The GPU engine without a GPU: its launch code with a stand-in for CuPy whose kernels are the CUDA source compiled by
g++ and run by emulation/emulation.h. What the array module does is NumPy's.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from bptt_core.arrays import to_host
from bptt_core.backends.cuda import shapes
from bptt_core.backends.cuda.launch import CudaLearning
from bptt_core.learner import LearnerShape, device_fields, host_fields
from bptt_core.lessons import Learned, Lesson
from bptt_core.slab import Rows, Slab

HEADERS = Path(__file__).parent / "emulation"
COMPILE = ("g++", "-std=c++17", "-Og", "-w", "-fPIC")


class Run:
    """In which order threads take their turns, which barrier is left out, and what happened."""

    seed = 0
    without = 0  # a line of the source
    happened: ClassVar[list[str]] = []


@functools.cache
def folder() -> Path:
    """Where compiled kernels lie until the process ends, beside a compiled header."""
    held = tempfile.TemporaryDirectory(prefix="emulated")
    folder.held = held  # type: ignore[attr-defined]
    header = Path(held.name) / "emulation.h"
    shutil.copy(HEADERS / "emulation.h", header)
    subprocess.run([*COMPILE, "-x", "c++-header", "-o", f"{header}.gch", str(header)], check=True)
    return header.parent


@functools.cache
def compiled(code: str) -> Any:
    """The kernel as a library. Skips where there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("the CUDA source is emulated with g++, which is not here")
    name = folder() / hashlib.sha256(code.encode()).hexdigest()[:16]
    text = name.with_suffix(".cpp")
    # The source begins on the first line, so that a barrier's line is its line there.
    text.write_text(f"{code}\n#include <run.h>\n", encoding="utf-8")
    library = name.with_suffix(".so")
    includes = (f"-I{folder()}", f"-I{HEADERS}", "-include", "emulation.h")
    subprocess.run([*COMPILE, "-shared", *includes, "-o", str(library), str(text)], check=True)
    return ctypes.CDLL(str(library))


def barriers_met(code: str) -> list[int]:
    """Lines of the source whose barriers some thread has come to so far."""
    lines = (ctypes.c_int * 1000)()
    count = compiled(code).barriers_met(lines, len(lines))
    return lines[:count]


class Array(np.ndarray):
    """Memory of the device: copied to and from as CuPy's is."""

    def set(self, array: np.ndarray, stream: Any) -> None:
        Run.happened.append("set")
        self[...] = array

    def get(self, stream: Any = None, out: np.ndarray | None = None, blocking: bool = True) -> np.ndarray:
        Run.happened.append("get")
        if out is None:
            return np.array(self)
        out[...] = self
        return out


class Kernel:
    """A function of a `RawModule`."""

    local_size_bytes = 0
    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, code: str) -> None:
        self._library = compiled(code)

    def __call__(self, grid: tuple[int], threads: tuple[int], arguments: tuple[Any, ...], shared_mem: int) -> None:
        Run.happened.append("launch")
        assert self._library.shared_bytes() <= shared_mem <= self.max_dynamic_shared_size_bytes
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in arguments]
        stuck = self._library.emulate(grid[0], threads[0], ctypes.c_ulonglong(Run.seed), Run.without, *pointers)
        if stuck:
            raise RuntimeError("threads wait for each other for ever, or read where nothing is")


class Stream:
    """Does all at once."""

    def __init__(self, non_blocking: bool = False) -> None:
        assert non_blocking

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...

    def wait_event(self, event: object) -> None: ...

    def synchronize(self) -> None: ...


class StandIn(ModuleType):
    """NumPy, but for the arrays it makes and what CuPy has besides."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def empty(shape: int | tuple[int, ...], dtype: type = np.float64) -> Any:
    """Device memory full of NaN."""
    Run.happened.append("allocation")
    return (
        np.full(math.prod(np.atleast_1d(shape)) * np.dtype(dtype).itemsize, 0xFF, np.uint8)
        .view(dtype)
        .reshape(shape)
        .view(Array)
    )


def pinned(size: int) -> bytearray:
    Run.happened.append("allocation")
    return bytearray(size)


def stand_in(multiprocessors: int = 1) -> Any:
    """CuPy, as far as the core and `CudaLearning` use it. A device with so many multiprocessors."""
    attributes = {"MaxSharedMemoryPerBlockOptin": shapes.SHARED_LIMIT, "MultiProcessorCount": multiprocessors}
    cuda = SimpleNamespace(
        Stream=Stream,
        Device=lambda: SimpleNamespace(attributes=attributes, id=0, synchronize=lambda: None),
        runtime=SimpleNamespace(getDeviceProperties=lambda _: {"name": b"CPU"}, runtimeGetVersion=lambda: 13000),
        alloc_pinned_memory=pinned,
        get_current_stream=lambda: SimpleNamespace(record=lambda: None),
    )

    def module(code: str, options: tuple[str, ...]) -> Any:
        return SimpleNamespace(get_function=lambda name: Kernel(code))

    cupy: Any = StandIn("cupy")
    cupy.cuda, cupy.RawModule, cupy.empty, cupy.__version__ = cuda, module, empty, "0"
    return cupy


def slabs_of(xp: Any, shape: LearnerShape, count: int) -> tuple[Slab, Slab]:
    """Slabs of learners at their start, in slots 0 … count − 1."""
    slabs = Slab(xp, device_fields(shape)), Slab(np, host_fields(shape))
    for slab in slabs:
        assert sorted(slab.allocate() for _ in range(count)) == list(range(count))
    return slabs


@functools.cache
def _learning() -> tuple[CudaLearning, Any]:
    cupy = stand_in()
    return CudaLearning(cupy), cupy


def emulated_learn(shape: LearnerShape, device: Rows, host: Rows, lesson: Lesson) -> Learned:
    """The lesson by the emulated kernel."""
    return learn_on(*_learning(), shape, device, host, lesson)


def learn_on(learning: CudaLearning, xp: Any, shape: LearnerShape, device: Rows, host: Rows, lesson: Lesson) -> Learned:
    """A lesson for learners whose rows are NumPy's, on slabs whose other slots nobody may touch."""
    n = len(host["length"])
    slabs = slabs_of(xp, shape, 2 * n)
    own, beside = np.arange(2 * n)[::2], np.arange(2 * n)[1::2]
    places = device_order(shape)
    for name, row in device.items():
        slabs[0].put(own, {name: xp.asarray(row[:, places] if is_permuted(name) else row)})
    slabs[1].put(own, host)
    others = [slab.xp.asarray(beside) for slab in slabs]
    untouched = [to_host(slab.rows[k]).tobytes() for slab, k in zip(slabs, others, strict=True)]
    learned = learning.learn(shape, *slabs, own, lesson)
    assert [to_host(slab.rows[k]).tobytes() for slab, k in zip(slabs, others, strict=True)] == untouched
    for name, row in slabs[0].take(own).items():
        device[name][..., places if is_permuted(name) else slice(None)] = to_host(row)
    for name, row in slabs[1].take(own).items():
        host[name][...] = row
    return learned


def is_permuted(name: str) -> bool:
    """Whether a field of a learner is in the order of its parameters."""
    return name in ("params", "good") or name.startswith("moment")


def device_order(shape: LearnerShape) -> np.ndarray:
    places = shapes.order(shape)
    assert places is not None
    return places


def nearest_shape(shape: LearnerShape) -> LearnerShape:
    """The shape with a number of units that there is a kernel for."""
    return replace(shape, hidden=max(16, shape.hidden // 16 * 16))
