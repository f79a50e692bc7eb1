"""Blocks of vectors in compiled code: sums that stay in registers while matrices are multiplied.

A block is the columns of one row (4, 8 or 16 vectors), of four rows (64 columns of each, or up to 16), or partial sums
of 16 rows. Everything may lie at any address that is a multiple of 4. `…_first` functions and those of strips touch
only the first `count` columns, none if it is not positive, and see zeros in place of the others.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from bptt_core.backends.jit.lanes import (
    BLOCKS,
    F32,
    F32X16,
    I32,
    LANES,
    VECTOR,
    ZERO,
    among,
    filled,
    fused,
    operation,
    place,
    read,
    read_among,
    rows_from,
    same,
    vectors_of,
    write,
    write_among,
)

# ---- Columns of one row ----------------------------------------------------------------------------------------------


def _row(size: int) -> tuple[Any, Any, Any]:
    block = BLOCKS[size]

    @operation(block)
    def zeros(builder: Any) -> Any:
        return ir.Constant(ir.ArrayType(F32X16, size), [ZERO] * size)

    @operation(block, types.int64)
    def row(builder: Any, address: Any) -> Any:
        return filled(builder, [read(builder, place(builder, address, k)) for k in range(size)])

    @operation(block, types.int64, types.int64)
    def row_first(builder: Any, address: Any, count: Any) -> Any:
        vectors = [read_among(builder, place(builder, address, k), among(builder, count, k)) for k in range(size)]
        return filled(builder, vectors)

    return zeros, row, row_first


zeros4, row4, row4_first = _row(4)
zeros8, row8, _ = _row(8)
zeros16, row16, _ = _row(16)


@operation(None, None, types.float32, types.int64)
def along(builder: Any, block: Any, x: Any, address: Any) -> Any:
    """block + x · the row at an address."""
    factor = same(builder, x)
    sums = [
        fused(builder, factor, read(builder, place(builder, address, k)), v)
        for k, v in enumerate(vectors_of(builder, block))
    ]
    return filled(builder, sums)


@operation(None, None, types.float32, types.int64, types.int64)
def along_first(builder: Any, block: Any, x: Any, address: Any, count: Any) -> Any:
    factor, sums = same(builder, x), []
    for k, v in enumerate(vectors_of(builder, block)):
        read = read_among(builder, place(builder, address, k), among(builder, count, k))
        sums.append(fused(builder, factor, read, v))
    return filled(builder, sums)


@operation(types.void, types.int64, None)
def store_row(builder: Any, address: Any, block: Any) -> None:
    for k, v in enumerate(vectors_of(builder, block)):
        write(builder, place(builder, address, k), v)


@operation(types.void, types.int64, None, types.int64)
def store_row_first(builder: Any, address: Any, block: Any, count: Any) -> None:
    for k, v in enumerate(vectors_of(builder, block)):
        write_among(builder, place(builder, address, k), v, among(builder, count, k))


# ---- Four rows: of 64 columns (a block of 16), or of up to 16 (a block of 4) -----------------------------------------


@operation(BLOCKS[16], types.int64, types.int64)
def grid(builder: Any, address: Any, step: Any) -> Any:
    """The 64 columns at an address of 4 rows that lie `step` bytes apart."""
    return filled(
        builder,
        [read(builder, place(builder, row, k)) for row in rows_from(builder, address, step, 4) for k in range(4)],
    )


@operation(BLOCKS[16], BLOCKS[16], types.int64, types.int64, types.int64)
def grid_along(builder: Any, block: Any, factors: Any, step: Any, address: Any) -> Any:
    """Each row plus its factor times the 64 columns at an address; the 4 factors lie `step` bytes apart."""
    given = [same(builder, read(builder, factor, F32)) for factor in rows_from(builder, factors, step, 4)]
    columns = [read(builder, place(builder, address, k)) for k in range(4)]
    vectors = vectors_of(builder, block)
    return filled(builder, [fused(builder, given[k // 4], columns[k % 4], v) for k, v in enumerate(vectors)])


@operation(types.void, types.int64, types.int64, BLOCKS[16])
def store_grid(builder: Any, address: Any, step: Any, block: Any) -> None:
    rows, vectors = rows_from(builder, address, step, 4), vectors_of(builder, block)
    for k, v in enumerate(vectors):
        write(builder, place(builder, rows[k // 4], k % 4), v)


@operation(BLOCKS[4], types.int64, types.int64, types.int64)
def strip(builder: Any, address: Any, step: Any, count: Any) -> Any:
    """The first `count` of 16 columns of 4 rows."""
    mask = among(builder, count)
    return filled(builder, [read_among(builder, row, mask) for row in rows_from(builder, address, step, 4)])


@operation(BLOCKS[4], BLOCKS[4], types.int64, types.int64, types.int64, types.int64)
def strip_along(builder: Any, block: Any, factors: Any, step: Any, address: Any, count: Any) -> Any:
    columns, vectors = read_among(builder, address, among(builder, count)), vectors_of(builder, block)
    given = [same(builder, read(builder, factor, F32)) for factor in rows_from(builder, factors, step, 4)]
    return filled(builder, [fused(builder, x, columns, v) for x, v in zip(given, vectors, strict=True)])


@operation(types.void, types.int64, types.int64, BLOCKS[4], types.int64)
def store_strip(builder: Any, address: Any, step: Any, block: Any, count: Any) -> None:
    mask = among(builder, count)
    for row, v in zip(rows_from(builder, address, step, 4), vectors_of(builder, block), strict=True):
        write_among(builder, row, v, mask)


# ---- Products of 16 rows with one vector -----------------------------------------------------------------------------


@operation(BLOCKS[16], BLOCKS[16], VECTOR, types.int64, types.int64)
def across(builder: Any, block: Any, x: Any, address: Any, step: Any) -> Any:
    """Partial sums of each of 16 rows, `step` bytes apart, plus x times 16 columns of it."""
    rows = rows_from(builder, address, step, LANES)
    sums = [fused(builder, x, read(builder, row), v) for row, v in zip(rows, vectors_of(builder, block), strict=True)]
    return filled(builder, sums)


@operation(BLOCKS[16], BLOCKS[16], VECTOR, types.int64, types.int64, types.int64)
def across_first(builder: Any, block: Any, x: Any, address: Any, step: Any, count: Any) -> Any:
    rows, mask = rows_from(builder, address, step, LANES), among(builder, count)
    read = [read_among(builder, row, mask) for row in rows]
    return filled(builder, [fused(builder, x, r, v) for r, v in zip(read, vectors_of(builder, block), strict=True)])


@operation(VECTOR, BLOCKS[16])
def totals(builder: Any, block: Any) -> Any:
    """The sums of the 16 rows, by folding pairs of vectors into one four times."""
    vectors = vectors_of(builder, block)
    width = LANES // 2
    while width:
        half = len(vectors) // 2
        vectors = [_folded(builder, vectors[k], vectors[k + half], width) for k in range(half)]
        width //= 2
    return vectors[0]


def _folded(builder: Any, x: Any, y: Any, width: int) -> Any:
    """Lanes with bit `width` unset hold x, the others y, each summed over that bit."""
    own = [lane if not lane & width else LANES + lane for lane in range(LANES)]
    other = [lane ^ width for lane in own]
    kind = ir.VectorType(I32, LANES)
    return builder.fadd(*(builder.shuffle_vector(x, y, ir.Constant(kind, lanes)) for lanes in (own, other)))
