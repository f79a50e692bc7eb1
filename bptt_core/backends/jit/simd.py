"""Functions of one vector of 16 float32 numbers in compiled code, and the mode in which the machine computes.

Everything may lie at any address that is a multiple of 4. `…_first` functions touch only the first `count` numbers,
none if it is not positive, and see zeros in place of the others. Nothing here knows of networks.
"""

from __future__ import annotations

import platform
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bptt_core.backends.jit.lanes import (
    F32,
    F32X16,
    I32,
    I64,
    LANES,
    VECTOR,
    ZERO,
    among,
    call,
    fused,
    operation,
    read,
    read_among,
    same,
    write,
    write_among,
)


@operation(VECTOR, types.int64)
def load(builder: Any, address: Any) -> Any:
    return read(builder, address)


@operation(VECTOR, types.int64, types.int64)
def load_first(builder: Any, address: Any, count: Any) -> Any:
    return read_among(builder, address, among(builder, count))


@operation(types.void, types.int64, VECTOR)
def store(builder: Any, address: Any, x: Any) -> None:
    write(builder, address, x)


@operation(types.void, types.int64, VECTOR, types.int64)
def store_first(builder: Any, address: Any, x: Any, count: Any) -> None:
    write_among(builder, address, x, among(builder, count))


@operation(types.float32, types.int64)
def number(builder: Any, address: Any) -> Any:
    """The number at an address."""
    return read(builder, address, F32)


@operation(types.void, types.int64, types.float32)
def put(builder: Any, address: Any, x: Any) -> None:
    write(builder, address, x)


@operation(VECTOR, types.float32)
def splat(builder: Any, x: Any) -> Any:
    """16 times the same number."""
    return same(builder, x)


@operation(VECTOR, VECTOR, VECTOR)
def add(builder: Any, x: Any, y: Any) -> Any:
    return builder.fadd(x, y)


@operation(VECTOR, VECTOR, VECTOR)
def sub(builder: Any, x: Any, y: Any) -> Any:
    return builder.fsub(x, y)


@operation(VECTOR, VECTOR, VECTOR)
def mul(builder: Any, x: Any, y: Any) -> Any:
    return builder.fmul(x, y)


@operation(VECTOR, VECTOR, VECTOR)
def div(builder: Any, x: Any, y: Any) -> Any:
    return builder.fdiv(x, y)


@operation(VECTOR, VECTOR, VECTOR, VECTOR)
def fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x·y + z, rounded once."""
    return fused(builder, x, y, z)


@operation(VECTOR, VECTOR)
def sqrt(builder: Any, x: Any) -> Any:
    return call(builder, "llvm.sqrt.v16f32", F32X16, x)


@operation(VECTOR, VECTOR, VECTOR, VECTOR)
def clamp(builder: Any, x: Any, low: Any, high: Any) -> Any:
    """x between its bounds; NaN stays NaN."""
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    return builder.select(builder.fcmp_ordered(">", x, high), high, x)


@operation(VECTOR, VECTOR)
def rectify(builder: Any, x: Any) -> Any:
    """max(0, x); NaN stays NaN."""
    return builder.select(builder.fcmp_ordered("<", x, ZERO), ZERO, x)


@operation(VECTOR, VECTOR, VECTOR)
def where_positive(builder: Any, x: Any, y: Any) -> Any:
    """y where x > 0, else 0."""
    return builder.select(builder.fcmp_ordered(">", x, ZERO), y, ZERO)


@operation(VECTOR, VECTOR, VECTOR)
def flush(builder: Any, x: Any, tiny: Any) -> Any:
    """x, or 0 where |x| < tiny."""
    size = call(builder, "llvm.fabs.v16f32", F32X16, x)
    return builder.select(builder.fcmp_ordered("<", size, tiny), ZERO, x)


@operation(VECTOR, VECTOR, VECTOR)
def flush_below(builder: Any, x: Any, tiny: Any) -> Any:
    """x, or 0 where x < tiny."""
    return builder.select(builder.fcmp_ordered("<", x, tiny), ZERO, x)


@operation(types.int64, VECTOR, VECTOR)
def count_from(builder: Any, x: Any, limit: Any) -> Any:
    """How many have |x| ≥ limit."""
    return _count(builder, builder.fcmp_ordered(">=", call(builder, "llvm.fabs.v16f32", F32X16, x), limit))


@operation(types.int64, VECTOR)
def count_zeros(builder: Any, x: Any) -> Any:
    return _count(builder, builder.fcmp_ordered("==", x, ZERO))


def _count(builder: Any, mask: Any) -> Any:
    bits = builder.zext(builder.bitcast(mask, ir.IntType(LANES)), I64)
    return call(builder, "llvm.ctpop.i64", I64, bits)


@operation(types.float32, VECTOR)
def total(builder: Any, x: Any) -> Any:
    """The sum of the 16, halves first."""
    width = LANES
    while width > 1:
        width //= 2
        low, high = (
            builder.shuffle_vector(x, x, ir.Constant(ir.VectorType(I32, width), list(range(at, at + width))))
            for at in (0, width)
        )
        x = builder.fadd(low, high)
    return builder.extract_element(x, I32(0))


# ---- The machine's mode ----------------------------------------------------------------------------------------------

_X86: Final = platform.machine().lower() in ("x86_64", "amd64")
_FLUSH: Final = 0x8040  # results and operands


@operation(types.uint32)
def flush_denormals(builder: Any) -> Any:
    """From here on denormal results and operands count as 0, where the machine has such a mode; returns what was.

    Decaying numbers would make every step of a learner that stands still many times slower.
    """
    if not _X86:
        return I32(0)
    slot = cgutils.alloca_once(builder, I32)
    _mode(builder, "stmxcsr", slot)
    before = builder.load(slot)
    builder.store(builder.or_(before, I32(_FLUSH)), slot)
    _mode(builder, "ldmxcsr", slot)
    return before


@operation(types.void, types.uint32)
def restore(builder: Any, before: Any) -> None:
    """The mode that was before `flush_denormals`."""
    if _X86:
        slot = cgutils.alloca_once_value(builder, before)
        _mode(builder, "ldmxcsr", slot)


def _mode(builder: Any, instruction: str, slot: Any) -> None:
    address = builder.bitcast(slot, ir.IntType(8).as_pointer())
    call(builder, f"llvm.x86.sse.{instruction}", ir.VoidType(), address)
