"""Which learners the GPU engine computes, how their work is split among threads, and what that makes of their rows.

One thread block is one learner. Each thread has a tile of the recurrent weights, in registers and used forward and
backward, or read again at every step where registers cannot hold them (`streamed`). On the device the recurrent weights
lie tile by tile, thread after thread in pieces of 16 bytes, all other parameters in canonical order. Knows sizes and no
equations; tile.cuh has the other half. Array legend as in learner.py, and G gates.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import CELLS
from bptt_core.learner import LearnerShape, host_fields
from bptt_core.lessons import report_width
from bptt_core.slab import LINE, Field, Layout

REGISTERS: Final = 65_536  # of a multiprocessor
SHARED_LIMIT: Final = 232_448  # bytes of shared memory that a block may have on sm_90
MOST_INPUTS: Final = 64

# Rows and columns of a thread's tile by hidden units: of cells whose units have four numbers, and of Elman's.
_GATED: Final = {16: (8, 4), 32: (8, 8), 64: (8, 8), 96: (8, 12), 128: (8, 16)}
_ELMAN: Final = {16: (2, 4), 32: (4, 8), 64: (8, 8), 96: (8, 12), 128: (8, 16)}
_SMALL_TILE, _SMALL_THREAD = 64, 128  # weights of a tile, and registers of a thread that has no more of them
_STREAMED: Final = 512  # threads of a block that leave too few registers for the tile
_FIXED: Final = 448  # bytes of shared memory for what has one size in all shapes, and between parts


@dataclass(frozen=True)
class Variant:
    """How one learner's work is split among the threads of its block."""

    slots: int  # numbers of a unit: a GRU's n has an input part and a hidden part
    tile: tuple[int, int]  # rows, columns
    threads: int

    @property
    def streamed(self) -> bool:
        """The weights are read again at every step."""
        return self.threads >= _STREAMED

    @property
    def resident(self) -> int:
        """Blocks of a multiprocessor that the compiler is to leave registers for."""
        small = self.tile[0] * self.tile[1] <= _SMALL_TILE
        return max(1, REGISTERS // (self.threads * _SMALL_THREAD)) if small else 1


def variant(shape: LearnerShape) -> Variant | None:
    """The split of learners of this shape; None: there is none."""
    slots = 1 if CELLS[shape.cell].gates == 1 else 4
    tile = (_ELMAN if slots == 1 else _GATED).get(shape.hidden)
    if tile is None or shape.layers != 1 or shape.inputs > MOST_INPUTS:
        return None
    return Variant(slots, tile, slots * shape.hidden * shape.hidden // (tile[0] * tile[1]))


def supports(shape: LearnerShape, shared_limit: int = SHARED_LIMIT) -> bool:
    """Whether the engine computes learners of this shape where a block may have so many bytes of shared memory."""
    return variant(shape) is not None and shared_bytes(shape) <= shared_limit


def order(shape: LearnerShape) -> NDArray[np.int64] | None:
    """The canonical place of each number of a learner's parameters on the device, [P]; None: the same."""
    split = variant(shape)
    if split is None:
        return None
    H, G, (rows, columns) = shape.hidden, CELLS[shape.cell].gates, split.tile
    groups = H // columns
    with_weights = [r for r in range(rows) if r % split.slots < G]
    r, quad, thread, k = np.meshgrid(with_weights, range(columns // 4), range(split.threads), range(4), indexing="ij")
    row = thread // groups * rows + r
    unit, gate = row // split.slots, row % split.slots
    column = (quad * groups + thread % groups) * 4 + k
    places = np.arange(shape.layout.size)
    first = shape.inputs * G * H
    places[first : first + G * H * H] = (first + column * (G * H) + gate * H + unit).ravel()
    return places


def padded_inputs(shape: LearnerShape) -> int:
    """Inputs and the 1 of the bias, as many as are taken at once."""
    at_once = 4 if shape.inputs < 4 else 8
    return -(-(shape.inputs + 1) // at_once) * at_once


def active_rows(shape: LearnerShape) -> int:
    """A: rows of a window that may hold a pair an update trains."""
    if shape.ahead == 0:
        return shape.rows
    return min(shape.window, max(shape.loss_span, shape.stride) + shape.horizon)


def rest(shape: LearnerShape) -> int:
    """Parameters that are no recurrent weights."""
    return shape.layout.size - recurrent(shape)


def recurrent(shape: LearnerShape) -> int:
    """Recurrent weights."""
    return CELLS[shape.cell].gates * shape.hidden**2


def book_fields(shape: LearnerShape) -> list[Field]:
    """The beginning of a learner's row on the host: all its numbers, and the arrays that are as small."""
    offsets = Layout.of(host_fields(shape)).offsets
    return sorted((f for f in host_fields(shape) if f.bytes < LINE), key=lambda f: offsets[f.name])


def book_bytes(shape: LearnerShape) -> int:
    """Bytes of it."""
    last = book_fields(shape)[-1]
    return Layout.of(host_fields(shape)).offsets[last.name] + last.bytes


@functools.lru_cache(maxsize=1024)
def shared_bytes(shape: LearnerShape) -> int:
    """Shared memory of a block: `Shared` of block.cuh."""
    split = variant(shape)
    assert split is not None
    W, H, A, warps = shape.rows, shape.hidden, active_rows(shape), split.threads // 32
    floats = [
        W * split.slots * H,
        (W + 1) * H,
        (W + 1 if CELLS[shape.cell].carries > 1 else 1) * H,
        A * H,
        -(-W // 8) * 8 * padded_inputs(shape),
        A * shape.outputs,
        2 * warps * H,
        rest(shape),
        report_width(shape),
    ]
    numbers = sum(-(-count // 4) * 16 for count in floats)
    return numbers + 8 * warps + book_bytes(shape) + _FIXED
