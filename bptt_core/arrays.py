"""The one thing that the arrays of a device need and NumPy's do not."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from bptt_core.cells import Array


def to_host(array: Array) -> NDArray[Any]:
    """The array as NumPy's: a copy from the device, or itself."""
    on_host: NDArray[Any] = array.get() if hasattr(array, "get") else array
    return on_host
