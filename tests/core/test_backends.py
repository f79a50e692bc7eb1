"""Who computes: CuPy after one real allocation on a GPU, compiled code where it is installed, NumPy otherwise, and
always with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest
from folds import COMPILED, FASTEST, backend_called, needs_compiled

from bptt_core import FieldError, Fold, LearnerConfig, SessionConfig, select_backend


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
    rest = select_backend(FASTEST)  # of a session all but its learners
    for name in ("auto", "cupy"):
        backend = select_backend(name)
        assert (backend.name, backend.xp) == ("cupy", module)
        assert backend.detail.startswith("Fake GPU; ")
        assert backend.fingerprint == f"cupy/14.0.0/cuda13000/Fake GPU/{rest.fingerprint}"
        assert (backend.engine is not None) == COMPILED


def test_another_name_is_refused() -> None:
    with pytest.raises(FieldError, match="auto, numpy, numba, cupy"):
        select_backend("torch")


def in_a_process_of_its_own(script: str) -> list[str]:
    """What it prints, line by line; it imports what this one does."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@needs_compiled
def test_compiled_code_where_no_gpu_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import llvmlite.binding
    import numba

    monkeypatch.setitem(sys.modules, "cupy", None)
    for name, reason in (("auto", "no GPU answers: cupy cannot be imported"), ("numba", "asked for")):
        backend = select_backend(name, threads=3)
        assert (backend.name, backend.xp) == ("numba", np)
        assert backend.detail.startswith(reason)
        assert backend.detail.endswith("; 3 threads")
        parts = backend.fingerprint.split("/", 3)
        assert parts[:3] == ["numba", numba.__version__, llvmlite.binding.get_host_cpu_name()]
        assert parts[3] == select_backend("numpy").fingerprint
        assert backend.fingerprint == select_backend(name, threads=1).fingerprint, "threads change no bit"


def test_numpy_without_numba() -> None:
    script = (
        "import sys; sys.modules['numba'] = sys.modules['cupy'] = None\n"
        "import warnings; warnings.simplefilter('error')\n"
        "from bptt_core import FieldError, Fold, SessionConfig, select_backend\n"
        "backend = select_backend('auto', 2); print(backend.name); print(backend.detail)\n"
        "fold = Fold(backend); print(fold.backend_of(fold.create(SessionConfig(('x',)))))\n"
        "try: select_backend('numba')\n"
        "except FieldError as error: print(error)"
    )
    name, detail, stepped_by, error = in_a_process_of_its_own(script)
    assert (name, stepped_by) == ("numpy", "numpy")
    assert "no GPU answers" in detail
    assert "no compiled code: " in detail
    assert "numba" in detail
    assert error.startswith("backend is 'numba'; allowed: auto or numpy without Numba (")


@needs_compiled
def test_what_was_compiled_is_read_by_the_next_process() -> None:
    """Whatever that one does: sessions stepped whole, and learners of others."""
    backend_called("numba").warm_up()
    script = (
        "import numpy as np\n"
        "from bptt_core import Events, Fold, LearnerConfig, SessionConfig, select_backend\n"
        "backend = select_backend('numba'); backend.warm_up(); fold = Fold(backend)\n"
        "small = LearnerConfig(hidden=2, window=4)\n"
        "labelled = fold.create(SessionConfig(('x',), task='regress', labels=('u',), learner=small))\n"
        "slots = [fold.create(SessionConfig(('x', 'y'))), fold.create(SessionConfig(('x',), learner=small))]\n"
        "values = np.arange(20.0).reshape(10, 2)\n"
        "fold.step([(slots[0], Events(values, 10**9 * np.arange(10))), (slots[1], Events(values[:, :1])),\n"
        "           (labelled, Events(values[:, :1], None, values[:, 1:]))])\n"
        "run = backend.engine._run\n"
        "print(sum(run.stats.cache_hits.values()), sum(run.stats.cache_misses.values()), len(run.signatures))"
    )
    assert in_a_process_of_its_own(script) == ["1 0 1"]


@needs_compiled
def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither beside the source nor in the user's own folder."""
    from bptt_core.backends.jit import driver

    assert driver.compiled(1)._cache.cache_path  # type: ignore[attr-defined]
    monkeypatch.setattr("numba.core.caching.CompileResultCacheImpl._locator_classes", [])
    run: Any = driver.compiled(1)
    assert run._cache.cache_path is None
    assert run.py_func.__name__ == "run"


@needs_compiled
@pytest.mark.parametrize(("threads", "used"), [(0, 1), (1, 1), (5, 5)])
def test_the_engine_has_as_many_threads_as_it_is_given(threads: int, used: int) -> None:
    engine: Any = select_backend("numba", threads).engine
    assert engine.threads == used


@needs_compiled
def test_who_steps_a_session_is_told() -> None:
    fold, small = Fold(backend_called("numba")), LearnerConfig(hidden=2)
    whole = fold.create(SessionConfig(("x",), learner=small))
    staged = fold.create(SessionConfig(("x",), task="regress", labels=("u",), learner=small))
    assert [fold.backend_of(slot) for slot in (whole, staged)] == ["numba", "numba+numpy"]


def test_importing_the_core_imports_no_gpu_library_and_does_no_io() -> None:
    script = (
        "import sys; before = set(sys.modules); import bptt_core; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'cupy', 'numba', 'grpc', 'google', 'prometheus_client', 'asyncio'}))"
    )
    assert in_a_process_of_its_own(script) == ["[]"]
