"""Who may import whom, read from the imports themselves. Knows nothing of what the modules do."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pytest

# What the mathematics must not touch: time, chance, disk, network, processes, threads, and code disguised as data.
NOT_IN_CORE = {
    "_thread", "asyncio", "concurrent", "ctypes", "datetime", "glob", "http", "logging", "marshal", "mmap",
    "multiprocessing", "os", "pathlib", "pickle", "queue", "random", "secrets", "select", "selectors", "shelve",
    "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip
STDLIB = frozenset(sys.stdlib_module_names)


@dataclass(frozen=True)
class Import:
    """One imported module by its full dotted name."""

    module: str
    line: int
    names: tuple[str, ...] = ()  # of `from module import names`
    lazy: bool = False  # inside a function

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def package_of(path: str) -> str:
    """Dotted name of the package that the file lies in."""
    parts = PurePosixPath(path).parent.parts
    if parts[:3] == ("clients", "python", "src"):
        parts = parts[3:]
    return ".".join(parts)


def imports(path: str, source: str) -> Iterator[Import]:
    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, lazy=lazy)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                if child.level:
                    base = package_of(path).split(".")
                    base = base[: len(base) - child.level + 1]
                    module = ".".join([*base, module] if module else base)
                yield Import(module, child.lineno, tuple(alias.name for alias in child.names), lazy)
            else:
                yield from visit(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    yield from visit(ast.parse(source), False)


def core(path: str, found: Import) -> str | None:
    if found.top == "cupy":
        if not PurePosixPath(path).match("bptt_core/backends/cupy*.py"):
            return "cupy belongs to its backend module"
        return None if found.lazy else "cupy is imported inside functions only"
    if found.top in {"concurrent", "llvmlite", "numba"} and path.startswith("bptt_core/backends/jit/"):
        return None  # compiled code, and the threads it runs on
    if found.top in NOT_IN_CORE or found.top not in STDLIB | {"numpy", "bptt_core"}:
        return "bptt_core uses numpy and the pure part of the standard library"
    return None


def server(path: str, found: Import) -> str | None:
    if found.top == "bptt_core" and found.module != "bptt_core":
        return "server uses bptt_core through its public face: from bptt_core import ..."
    if found.top == "bptt_core" and not found.names:
        return "server uses bptt_core through its public face: from bptt_core import ..."
    if found.top in {"bptt_client", "cupy", "matplotlib", "numba", "rich"}:
        return "server knows no client, no device library and no terminal"
    return None


SDK = STDLIB | {"bptt", "bptt_client", "google", "grpc", "grpc_status"}


def sdk(path: str, found: Import) -> str | None:
    names = [found.module, *(f"{found.module}.{name}" for name in found.names)]
    if any(f"{name}.".startswith("bptt_client.cli.") for name in names):
        return "the SDK does not know its command line"
    return None if found.top in SDK else "the SDK needs grpcio, protobuf and grpcio-status only"


def command_line(path: str, found: Import) -> str | None:
    allowed = SDK | {"matplotlib", "numpy", "rich"}
    return None if found.top in allowed else "the command line uses the SDK, numpy, rich and matplotlib only"


# The first prefix that fits a path decides.
RULES: list[tuple[str, Callable[[str, Import], str | None]]] = [
    ("bptt_core/", core),
    ("server/", server),
    ("clients/python/src/bptt_client/cli/", command_line),
    ("clients/python/src/bptt_client/", sdk),
]


def violations(path: str, source: str) -> list[str]:
    for prefix, rule in RULES:
        if path.startswith(prefix):
            reasons = [(found, rule(path, found)) for found in imports(path, source)]
            return [f"{path}:{found.line}: {found.module}: {reason}" for found, reason in reasons if reason]
    return []


def test_imports_follow_the_rules(python_tree: dict[str, str]) -> None:
    assert [line for path, source in python_tree.items() for line in violations(path, source)] == []


def test_each_rule_has_files_to_judge(python_tree: dict[str, str]) -> None:
    for prefix, _ in RULES:
        assert any(path.startswith(prefix) for path in python_tree), prefix


SDK_FILE = "clients/python/src/bptt_client/calls.py"
CLI_FILE = "clients/python/src/bptt_client/cli/replay.py"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bptt_core/fold.py", "import time"),
        ("bptt_core/fold.py", "def f():\n    from os import path"),
        ("bptt_core/fold.py", "import numpy.random, random"),
        ("bptt_core/fold.py", "import grpc"),
        ("bptt_core/fold.py", "from google.protobuf import message"),
        ("bptt_core/fold.py", "from server import settings"),
        ("bptt_core/fold.py", "def f():\n    import cupy"),
        ("bptt_core/backends/cupy_arrays.py", "import cupy"),
        ("bptt_core/backends/cupy_arrays.py", "if True:\n    from cupy import cuda"),
        ("bptt_core/backends/numpy_arrays.py", "def f():\n    import cupy"),
        ("server/engine.py", "from bptt_core.fold import Fold"),
        ("server/engine.py", "import bptt_core.fold"),
        ("server/engine.py", "import bptt_core"),
        ("server/engine.py", "import bptt_client"),
        ("server/engine.py", "def f():\n    import cupy"),
        (SDK_FILE, "import numpy as np"),
        (SDK_FILE, "from server.settings import Settings"),
        (SDK_FILE, "from bptt_core import Fold"),
        (SDK_FILE, "from .cli import main"),
        (SDK_FILE, "from . import cli"),
        (SDK_FILE, "from bptt_client.cli.replay import main"),
        (CLI_FILE, "from server import app"),
        (CLI_FILE, "async def f():\n    import bptt_core"),
    ],
)
def test_a_forbidden_import_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bptt_core/fold.py", "import math, numpy as np\nfrom . import cells\nfrom bptt_core.cells import lstm"),
        ("bptt_core/backends/cupy_arrays.py", "def f():\n    import cupy"),
        ("bptt_core/backends/cupy_arrays.py", "from ..events import Events"),
        ("server/engine.py", "import os, threading\nfrom bptt_core import Fold\nfrom . import settings"),
        (SDK_FILE, "import queue, grpc\nfrom bptt.v1 import session_pb2\nfrom .client import Client"),
        (CLI_FILE, "import numpy\nfrom rich.table import Table\nfrom .. import Client"),
    ],
)
def test_an_allowed_import_is_not(path: str, source: str) -> None:
    assert violations(path, source) == []
