"""The CuPy side of the seam: imports CuPy when asked, and believes in a GPU only after one allocation on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bptt_core.backends import Backend


class UnavailableError(RuntimeError):
    """CuPy is not installed, or no GPU answers."""


def open_backend() -> Backend:
    """The CuPy backend. Raises UnavailableError saying what is missing."""
    from bptt_core.backends import Backend
    from bptt_core.backends.cuda.launch import CudaLearning

    try:
        import cupy
    except ImportError as error:
        raise UnavailableError(f"cupy cannot be imported ({error})") from error
    try:
        probe = cupy.zeros(1)
        probe += 1
        cupy.cuda.Device().synchronize()
        device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        runtime = cupy.cuda.runtime.runtimeGetVersion()
    except Exception as error:  # every CUDA library has exceptions of its own
        raise UnavailableError(f"no GPU can be used ({type(error).__name__}: {error})") from error
    model = device["name"].decode()
    fingerprint = f"cupy/{cupy.__version__}/cuda{runtime}/{model}"
    return Backend("cupy", cupy, fingerprint, model, learning=CudaLearning(cupy))
