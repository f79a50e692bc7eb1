"""How a lesson reaches the GPU and comes back: one copy in, one launch, one copy out, on a stream of its own.

A call's buffer is one piece of memory: its head, a table of the learners, what they are given, their rows of the host,
and what they give back. It is laid out in pinned memory, copied to the device as far as it is given, and copied back
from the rows of the host on. Nothing is allocated once a buffer is large enough. The array module is given from
outside. Knows no equations: they are in the source that it compiles, a module for each shape.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.backends.cuda import shapes
from bptt_core.backends.cuda.source import KERNEL, source
from bptt_core.cells import Array
from bptt_core.learner import LearnerShape
from bptt_core.lessons import Learned, Lesson, report_width
from bptt_core.slab import LINE, Slab

OPTIONS: Final = ("--std=c++17",)
_HEAD: Final = 9  # numbers of `Call` in learn.cu


@dataclass(frozen=True)
class _Kernel:
    """The compiled code of one shape."""

    function: Any
    split: shapes.Variant
    shared_bytes: int
    spare: int  # numbers of device memory that a block needs besides its learner's


@dataclass(frozen=True)
class _Parts:
    """Where the parts of a call's buffer begin, in bytes; `books` divides what is given from what is only returned."""

    table: int
    flags: int
    inputs: int
    arrived: int
    books: int
    ys: int
    reports: int
    end: int

    @classmethod
    def of(cls, *sizes: int) -> _Parts:
        """Of parts of these sizes, which follow the head."""
        begins = [LINE * -(-_HEAD * 8 // LINE)]
        for size in sizes:
            begins.append(begins[-1] + LINE * -(-size // LINE))
        return cls(*begins)


class CudaLearning:
    """The learners of one device, which is asked nothing before the first of them. Belongs to one thread."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._kernels: dict[LearnerShape, _Kernel] = {}
        self._on_device: Array = None
        self._pinned: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._spare: Array = None

    def can_teach(self, shape: LearnerShape) -> bool:
        """Whether there is a kernel for learners of that shape, on this device."""
        return shapes.supports(shape, self._attributes["MaxSharedMemoryPerBlockOptin"])

    def order(self, shape: LearnerShape) -> NDArray[np.int64] | None:
        """The canonical index [P] of each parameter as it lies on the device."""
        return shapes.order(shape)

    def spilled_bytes(self, shape: LearnerShape) -> int:
        """Bytes that a thread of the kernel for that shape keeps outside of registers, as compiled on this machine."""
        return int(self._kernel(shape).function.local_size_bytes)

    def learn(self, shape: LearnerShape, device: Slab, host: Slab, slots: NDArray[np.int64], lesson: Lesson) -> Learned:
        """Takes all steps of the learners in `slots` [n], in place on both slabs; on the device their parameters lie in
        `shapes.order`. Raises ValueError if a learner comes twice, which would be two blocks on one row."""
        if len(np.unique(slots)) < len(slots):
            raise ValueError("a learner comes twice in one lesson")
        kernel = self._kernel(shape)
        parts = self._fill(shape, host, slots, lesson)
        if len(slots):
            self._launch(kernel, device, self._blocks(kernel, len(slots)), parts)
        host.rows[slots] = self._part(parts.books, np.uint8, (len(slots), host.layout.bytes))
        total = int(lesson.count.sum())
        return Learned(
            self._part(parts.ys, np.float32, (total, shape.outputs)).copy(),
            self._part(parts.reports, np.float32, (total, report_width(shape))).copy(),
        )

    @functools.cached_property
    def _attributes(self) -> dict[str, int]:
        """Of the device."""
        return {name: int(value) for name, value in self._xp.cuda.Device().attributes.items()}

    @functools.cached_property
    def _stream(self) -> Any:
        return self._xp.cuda.Stream(non_blocking=True)

    def _blocks(self, kernel: _Kernel, learners: int) -> int:
        """One for each learner; no more than can run at once where they need memory besides."""
        most = self._attributes["MultiProcessorCount"] * kernel.split.resident
        blocks = min(learners, most) if kernel.split.streamed else learners
        spare = blocks * kernel.spare if kernel.split.streamed else 1
        if self._spare is None or len(self._spare) < spare:
            self._spare = self._xp.empty(spare, np.float32)
        return blocks

    def _launch(self, kernel: _Kernel, device: Slab, blocks: int, parts: _Parts) -> None:
        """Copy, kernel, copy; returns when all is done. What others have done to the slab before is done by then."""
        stream, given, returned = self._stream, slice(0, parts.ys), slice(parts.books, parts.end)
        stream.wait_event(self._xp.cuda.get_current_stream().record())
        with stream:
            self._on_device[given].set(self._pinned[given], stream=stream)
            arguments = (device.rows, self._on_device, self._spare)
            kernel.function((blocks,), (kernel.split.threads,), arguments, shared_mem=kernel.shared_bytes)
            self._on_device[returned].get(stream=stream, out=self._pinned[returned], blocking=False)
        stream.synchronize()

    def _fill(self, shape: LearnerShape, host: Slab, slots: NDArray[np.int64], lesson: Lesson) -> _Parts:
        """Lays out what the learners are given, and where they are to put what they give back."""
        n, total = len(slots), int(lesson.count.sum())
        given: tuple[NDArray[Any], ...] = (lesson.flags, lesson.inputs, lesson.arrived)
        table = np.stack(
            [slots, lesson.start, lesson.count, lesson.first_output, lesson.anchor, lesson.season], axis=1
        ).astype(np.int64)
        books = n * host.layout.bytes
        returned = (4 * total * shape.outputs, 4 * total * report_width(shape))
        parts = _Parts.of(table.nbytes, *(array.nbytes for array in given), books, *returned)
        self._make_room(parts.end)
        head = (n, lesson.arrived.shape[1], parts.table, parts.flags, parts.inputs, parts.arrived, parts.books)
        self._part(0, np.int64, (_HEAD,))[...] = (*head, parts.ys, parts.reports)
        begins = (parts.table, parts.flags, parts.inputs, parts.arrived)
        for begin, array in zip(begins, (table, *given), strict=True):
            self._part(begin, array.dtype, array.shape)[...] = array
        self._part(parts.books, np.uint8, (n, host.layout.bytes))[...] = host.rows[slots]
        return parts

    def _part(self, begin: int, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """A view of the pinned memory."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        part: NDArray[Any] = self._pinned[begin : begin + size].view(dtype).reshape(shape)
        return part

    def _make_room(self, size: int) -> None:
        if size > len(self._pinned):
            room = 1 << (size - 1).bit_length()
            self._pinned = np.frombuffer(self._xp.cuda.alloc_pinned_memory(room), np.uint8, room)
            self._on_device = self._xp.empty(room, np.uint8)

    def _kernel(self, shape: LearnerShape) -> _Kernel:
        """Compiled when it is first asked for. Raises ValueError for a shape there is none for."""
        if shape not in self._kernels:
            split = shapes.variant(shape)
            if split is None or not self.can_teach(shape):
                raise ValueError(f"no kernel for {shape}")
            function = self._xp.RawModule(code=source(shape), options=OPTIONS).get_function(KERNEL)
            shared = shapes.shared_bytes(shape)
            function.max_dynamic_shared_size_bytes = shared
            self._kernels[shape] = _Kernel(function, split, shared, shapes.recurrent(shape))
        return self._kernels[shape]
