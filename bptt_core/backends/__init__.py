"""The compute seam: which array module the learners run on, and how to name the machine that their bits belong to."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from bptt_core.checks import FieldError

BACKENDS = ("auto", "numpy", "cupy")


@dataclass(frozen=True, slots=True)
class Backend:
    """An array module and its identity. Bits are the same wherever `fingerprint` is the same."""

    name: str
    xp: Any
    fingerprint: str
    detail: str


def select_backend(name: str = "auto") -> Backend:
    """The backend of that name. "auto" takes CuPy if one real allocation on a GPU succeeds, and NumPy otherwise.

    Raises FieldError for a name that does not exist or a backend that does not work here.
    """
    if name not in BACKENDS:
        raise FieldError("backend", name, ", ".join(BACKENDS))
    if name == "numpy":
        return _numpy("asked for")
    from bptt_core.backends import cupy_backend

    try:
        return cupy_backend.open_backend()
    except cupy_backend.UnavailableError as error:
        if name == "cupy":
            raise FieldError("backend", name, f"auto or numpy on this machine ({error})") from error
        return _numpy(f"no GPU answers: {error}")


def _numpy(detail: str) -> Backend:
    features = getattr(getattr(np, "_core", None), "_multiarray_umath", None)
    simd = "+".join(name for name, has in getattr(features, "__cpu_features__", {}).items() if has)
    fingerprint = (
        f"numpy/{np.__version__}/{platform.machine()}/{simd}/python{sys.version_info[0]}.{sys.version_info[1]}"
    )
    return Backend("numpy", np, fingerprint, detail)
