"""How compiled code sees memory: functions compiled without the interpreter, and arrays at addresses.

State lies in rows of bytes (`slab.py`); compiled code is given a row's address and the offsets of its fields, and looks
at each field as an array. Nothing here knows what is in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

from bptt_core.backends.jit.ingredients import Ingredient, once_for_all

_F = TypeVar("_F", bound=Callable[..., Any])

# `fastmath` as a whole would delete the checks for NaN; these four leave them be.
FAST: Final = {"reassoc", "contract", "nsz", "arcp"}
# Of what is called from compiled code only. The interpreter calls functions of `entry`.
_HOW: Final = {"nogil": True, "error_model": "numpy"}
_PART: Final = _HOW | {"pipeline_class": Ingredient, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def entry(function: _F, cache: bool = False) -> _F:
    """Compiled to what the interpreter calls: the arithmetic is that of `exact`."""
    return cast("_F", njit(**_HOW, cache=cache)(function))


def exact(function: _F) -> _F:
    """Compiled to the arithmetic that is written, in the order that it is written in."""
    return cast("_F", once_for_all(njit(**_PART)(function)))


def fast(function: _F) -> _F:
    """Compiled with sums in any fixed order and fused multiply-adds, for sums that are vectorised."""
    return cast("_F", once_for_all(njit(**_PART, fastmath=FAST)(function)))


@intrinsic
def _pointer(_context: Any, _address: Any) -> Any:
    def generate(_target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], _target.get_value_type(signature.return_type))

    return types.voidptr(types.int64), generate


@exact
def f64(address: int, count: int) -> Any:
    """The float64 array [count] at an address."""
    return carray(_pointer(address), (count,), np.float64)


@exact
def f64_2(address: int, rows: int, columns: int) -> Any:
    """The float64 array [rows, columns] at an address."""
    return carray(_pointer(address), (rows, columns), np.float64)


@exact
def f64_3(address: int, blocks: int, rows: int, columns: int) -> Any:
    """The float64 array [blocks, rows, columns] at an address."""
    return carray(_pointer(address), (blocks, rows, columns), np.float64)


@exact
def f64_4(address: int, groups: int, blocks: int, rows: int, columns: int) -> Any:
    """The float64 array [groups, blocks, rows, columns] at an address."""
    return carray(_pointer(address), (groups, blocks, rows, columns), np.float64)


@exact
def f32(address: int, count: int) -> Any:
    """The float32 array [count] at an address."""
    return carray(_pointer(address), (count,), np.float32)


@exact
def f32_2(address: int, rows: int, columns: int) -> Any:
    """The float32 array [rows, columns] at an address."""
    return carray(_pointer(address), (rows, columns), np.float32)


@exact
def i64(address: int, count: int) -> Any:
    """The int64 array [count] at an address."""
    return carray(_pointer(address), (count,), np.int64)


@exact
def i64_2(address: int, rows: int, columns: int) -> Any:
    """The int64 array [rows, columns] at an address."""
    return carray(_pointer(address), (rows, columns), np.int64)


@exact
def i64_3(address: int, blocks: int, rows: int, columns: int) -> Any:
    """The int64 array [blocks, rows, columns] at an address."""
    return carray(_pointer(address), (blocks, rows, columns), np.int64)


@exact
def i8(address: int, count: int) -> Any:
    """The int8 array [count] at an address; booleans are 0 and 1."""
    return carray(_pointer(address), (count,), np.int8)
