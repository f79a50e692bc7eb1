"""Who steps the sessions of a test: the reference, compiled code on one thread or on several, whichever are here.

Tests of what every backend owes are run over all of them; tests of behaviour over thousands of events over whichever
is the fastest. Nothing here knows what they compute.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Final

import pytest

from bptt_core import Backend, select_backend

COMPILED: Final = importlib.util.find_spec("numba") is not None
FASTEST: Final = "numba" if COMPILED else "numpy"  # of those that every machine can have
THREADS: Final = 3

needs_compiled = pytest.mark.skipif(not COMPILED, reason="compiled code needs the extra jit")

EVERY: Final = (
    pytest.param(("numpy", 1), id="numpy"),
    pytest.param(("numba", 1), id="numba", marks=needs_compiled),
    pytest.param(("numba", THREADS), id=f"numba on {THREADS} threads", marks=needs_compiled),
)


@functools.cache
def backend_called(name: str, threads: int = 1) -> Backend:
    """One for all tests of a process: engines keep what they have planned."""
    return select_backend(name, threads)


def use_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little there is to do."""
    monkeypatch.setattr("bptt_core.backends.jit.engine.WORTH_A_THREAD", 1.0)
