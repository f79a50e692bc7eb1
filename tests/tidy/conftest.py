"""Hands the tidy tests the repository as text: every file that is, or would be, committed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT_BEHIND = {".git", ".venv", ".venv-proto", ".venv-lock", "build", "dist", "__pycache__", "bptt-data"}


def committed_paths() -> list[str]:
    """Paths as git sees them; in a copy without git, everything but what the tools leave behind."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode == 0:
        return [path for path in listing.stdout.splitlines() if (ROOT / path).is_file()]
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [n for n in folders if n not in LEFT_BEHIND and not n.endswith((".egg-info", "_cache"))]
        found += [str((Path(folder) / name).relative_to(ROOT)) for name in names]
    return sorted(found)


@pytest.fixture(scope="session")
def paths() -> set[str]:
    """Every committed file."""
    return set(committed_paths())


@pytest.fixture(scope="session")
def tree() -> dict[str, str]:
    """Path to text of every committed file that is text."""
    texts = {}
    for path in committed_paths():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            texts[path] = content.decode()
    return texts


@pytest.fixture(scope="session")
def python_tree(tree: dict[str, str]) -> dict[str, str]:
    """The Python files that people wrote: the tree without generated stubs."""
    return {
        path: text
        for path, text in tree.items()
        if path.endswith(".py") and not path.endswith(("_pb2.py", "_pb2_grpc.py"))
    }
