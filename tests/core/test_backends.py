"""Which array module is taken: CuPy after one real allocation on a GPU, NumPy otherwise, and always with a reason."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest

from bptt_core import FieldError, Fold, select_backend


class NoDevice(Exception):
    pass


def fake_cupy(allocates: bool) -> types.ModuleType:
    """A module that imports well; whether a GPU answers shows at the first allocation."""
    module: Any = types.ModuleType("cupy")

    def zeros(*args: Any) -> np.ndarray:
        if not allocates:
            raise NoDevice("cudaErrorNoDevice: no CUDA-capable device is detected")
        return np.zeros(*args)

    device = types.SimpleNamespace(id=0, synchronize=lambda: None)
    runtime = types.SimpleNamespace(
        getDeviceProperties=lambda _: {"name": b"Fake GPU"}, runtimeGetVersion=lambda: 13000
    )
    module.zeros, module.__version__ = zeros, "14.0.0"
    module.cuda = types.SimpleNamespace(Device=lambda: device, runtime=runtime)
    return module


def test_numpy_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(allocates=True))
    backend = select_backend("numpy")
    assert (backend.name, backend.xp, backend.detail) == ("numpy", np, "asked for")
    assert backend.fingerprint.startswith(f"numpy/{np.__version__}/")
    assert backend.fingerprint == select_backend("numpy").fingerprint


def test_numpy_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    backend = select_backend()
    assert backend.xp is np
    assert "cupy cannot be imported" in backend.detail
    with pytest.raises(FieldError, match=r"backend is 'cupy'.*cupy cannot be imported"):
        select_backend("cupy")


def test_numpy_when_no_gpu_answers(monkeypatch: pytest.MonkeyPatch, make_config: Any) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(allocates=False))
    backend = select_backend("auto")
    assert backend.xp is np
    assert "NoDevice: cudaErrorNoDevice" in backend.detail
    Fold(backend).create(make_config())
    with pytest.raises(FieldError, match="no CUDA-capable device"):
        select_backend("cupy")


def test_cupy_when_a_gpu_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_cupy(allocates=True)
    monkeypatch.setitem(sys.modules, "cupy", module)
    for name in ("auto", "cupy"):
        backend = select_backend(name)
        assert (backend.name, backend.xp, backend.detail) == ("cupy", module, "Fake GPU")
        assert backend.fingerprint == "cupy/14.0.0/cuda13000/Fake GPU"


def test_another_name_is_refused() -> None:
    with pytest.raises(FieldError, match="auto, numpy, numba, cupy"):
        select_backend("torch")


def test_importing_the_core_imports_no_gpu_library_and_does_no_io() -> None:
    script = (
        "import sys; before = set(sys.modules); import bptt_core; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'cupy', 'numba', 'grpc', 'google', 'prometheus_client', 'asyncio'}))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
