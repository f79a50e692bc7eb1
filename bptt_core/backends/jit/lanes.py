"""How vectors of 16 float32 numbers get into compiled code: their types, and what functions of them are made of.

The compiler's own vectors are half as wide as the machine's and come only where it can prove enough; with these, what
is written is what runs. `Vector` is one, a `Block` several that are held in registers together. On a machine with
narrower registers the compiler splits them. Here are the pieces that generate code; what kernels call is in simd.py
(one vector) and tiles.py (blocks).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES: Final = 16
BYTES: Final = 4 * LANES

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
F32X16 = ir.VectorType(F32, LANES)
ZERO = ir.Constant(F32X16, [0.0] * LANES)


class Vector(types.Type):
    """16 numbers."""

    def __init__(self) -> None:
        super().__init__(name="Vector")


class Block(types.Type):
    """Several vectors."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(name=f"Block{size}")


VECTOR: Final = Vector()
BLOCKS: Final = {size: Block(size) for size in (4, 8, 16)}


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, F32X16)


@register_model(Block)
class _BlockModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.ArrayType(F32X16, kind.size))


def operation(result: Any, *given: Any) -> Callable[[Callable[..., Any]], Any]:
    """Makes `generate(builder, *values)` a function of compiled code from `given` types to `result`; a type given as
    None is any block, and a result of None is that block's type."""

    def decorate(generate: Callable[..., Any]) -> Any:
        def typed(_context: Any, *arguments: Any) -> Any:
            blocks = [a for a, g in zip(arguments, given, strict=True) if g is None]
            kind = blocks[0] if result is None else result

            def code(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
                made = generate(builder, *values)
                return context.get_dummy_value() if made is None else made

            return kind(*(a if g is None else g for a, g in zip(arguments, given, strict=True))), code

        typed.__name__ = typed.__qualname__ = generate.__name__
        # Numba reads an intrinsic's arguments off its signature.
        typed.__signature__ = inspect.signature(generate)  # type: ignore[attr-defined]
        return intrinsic(typed)

    return decorate


# ---- What functions of vectors are made of ---------------------------------------------------------------------------


def pointer(builder: Any, address: Any, to: ir.Type = F32X16) -> Any:
    return builder.inttoptr(address, to.as_pointer())


def place(builder: Any, address: Any, vector: int) -> Any:
    """The address of the vector so many places on."""
    return builder.add(address, ir.Constant(I64, BYTES * vector)) if vector else address


def rows_from(builder: Any, address: Any, step: Any, count: int) -> list[Any]:
    """The addresses of so many rows."""
    return [builder.add(address, builder.mul(step, ir.Constant(I64, row))) for row in range(count)]


def read(builder: Any, address: Any, kind: ir.Type = F32X16) -> Any:
    """The number or vector at an address, which need not be aligned."""
    value = builder.load(pointer(builder, address, kind))
    value.align = 4
    return value


def write(builder: Any, address: Any, value: Any) -> None:
    builder.store(value, pointer(builder, address, value.type)).align = 4


def same(builder: Any, value: Any) -> Any:
    """A vector of one number, or of one integer."""
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, LANES), None))


def among(builder: Any, count: Any, vector: int = 0) -> Any:
    """The mask of those of the vector's numbers that are among the first `count` of the block."""
    places = [LANES * vector + lane for lane in range(LANES)]
    return builder.icmp_signed("<", ir.Constant(ir.VectorType(I64, LANES), places), same(builder, count))


def call(builder: Any, name: str, result: ir.Type, *values: Any) -> Any:
    """One of the compiler's intrinsic functions."""
    kind = ir.FunctionType(result, [v.type for v in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def read_among(builder: Any, address: Any, mask: Any) -> Any:
    """Zeros outside the mask, where nothing is touched."""
    return call(builder, "llvm.masked.load.v16f32.p0", F32X16, pointer(builder, address), I32(4), mask, ZERO)


def write_among(builder: Any, address: Any, value: Any, mask: Any) -> None:
    call(builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), value, pointer(builder, address), I32(4), mask)


def fused(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x·y + z, rounded once."""
    return call(builder, "llvm.fma.v16f32", F32X16, x, y, z)


def filled(builder: Any, vectors: list[Any]) -> Any:
    """A block of these vectors."""
    block = ir.Constant(ir.ArrayType(F32X16, len(vectors)), ir.Undefined)
    for k, vector in enumerate(vectors):
        block = builder.insert_value(block, vector, k)
    return block


def vectors_of(builder: Any, block: Any) -> list[Any]:
    return [builder.extract_value(block, k) for k in range(block.type.count)]
