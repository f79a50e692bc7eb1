"""The repository as a whole: tests that run, a documented contract, one version, nothing of the machine it grew on."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from pathlib import PurePosixPath

import pytest

LONGEST_MODULE, LONGEST_TEST = 400, 500  # lines; about 300 is the aim


def packages_in_tests(paths: list[str]) -> list[str]:
    """A package tests/server would shadow the package server."""
    return [path for path in paths if path.startswith("tests/") and path.endswith("__init__.py")]


def namesakes(paths: list[str]) -> list[str]:
    """Test files of one name in two folders."""
    names = [PurePosixPath(p).name for p in paths if p.startswith("tests/")]
    return [name for name, n in Counter(names).items() if n > 1 and re.fullmatch(r"test_.*\.py", name)]


def shadowed(path: str, source: str) -> list[str]:
    """Functions and classes that a later one of the same name in the same scope replaces: tests that never run."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    found = []
    for scope in ast.walk(ast.parse(source)):
        if isinstance(scope, ast.Module | ast.ClassDef):
            names = Counter(node.name for node in scope.body if isinstance(node, definitions))
            found += [f"{path}: {name} is defined {n} times" for name, n in names.items() if n > 1]
    return found


# Home folders and registries; written so that this file does not contain what it forbids.
PRIVATE = re.compile(
    "|".join(
        [
            r"(?<![\w.])/(?:home|root|Users)/\w",
            r"(?<![\w.])/" + "work/",
            "py" + r"pi\.org",
            "python" + r"hosted\.org",
            r"registry\.npm" + "js",
            "index" + "-url",
            "find" + "-links",
        ]
    )
)


def private(path: str, text: str) -> list[str]:
    return [
        f"{path}:{number}: {match.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        if (match := PRIVATE.search(line))
    ]


def missing_documents(path: str, text: str, paths: list[str]) -> list[str]:
    """Capitalised documents that are mentioned and are not in the repository."""
    known = {PurePosixPath(p).name for p in paths}
    return [f"{path}: {name}" for name in re.findall(r"\b[A-Z][A-Z_]+\.md\b", text) if name not in known]


def too_long(path: str, source: str) -> list[str]:
    length = len(source.splitlines())
    return (
        [f"{path}: {length} lines"] if length > (LONGEST_TEST if path.startswith("tests/") else LONGEST_MODULE) else []
    )


def uncommented(path: str, text: str) -> list[str]:
    """Fields, enum values, RPCs, enums and services of a .proto file without a comment directly above."""
    found, above = [], ""
    documented = re.compile(r"^\s*(?:rpc|enum|service) \w+|^\s*(?:[\w.<>, ]+ )?\w+ = \d+(?: \[.*\])?;")
    for number, line in enumerate(text.splitlines(), 1):
        if documented.match(line) and not above.strip().startswith("//"):
            found.append(f"{path}:{number}: {line.strip()}")
        above = line
    return found


def test_no_test_folder_is_a_package(tree: dict[str, str]) -> None:
    assert packages_in_tests(list(tree)) == []


def test_test_files_have_unique_names(tree: dict[str, str]) -> None:
    assert namesakes(list(tree)) == []


def test_nothing_is_shadowed(python_tree: dict[str, str]) -> None:
    assert [line for path, source in python_tree.items() for line in shadowed(path, source)] == []


def test_modules_can_be_read_in_one_sitting(python_tree: dict[str, str]) -> None:
    assert [line for path, source in python_tree.items() for line in too_long(path, source)] == []


def test_nothing_of_this_machine_is_in_the_tree(tree: dict[str, str]) -> None:
    assert [line for path, text in tree.items() for line in private(path, text)] == []


def test_documents_that_are_mentioned_exist(tree: dict[str, str]) -> None:
    assert [line for path, text in tree.items() for line in missing_documents(path, text, list(tree))] == []


def test_the_contract_is_documented(tree: dict[str, str]) -> None:
    protos = {path: text for path, text in tree.items() if path.endswith(".proto")}
    assert protos
    assert [line for path, text in protos.items() for line in uncommented(path, text)] == []


def test_the_distributions_are_one_release(tree: dict[str, str]) -> None:
    folders = ("", "proto/", "clients/python/")
    projects = [tomllib.loads(tree[folder + "pyproject.toml"])["project"] for folder in folders]
    (version,) = {project["version"] for project in projects}
    siblings = {project["name"] for project in projects}
    for project in projects:
        for requirement in project["dependencies"]:
            name, _, pin = requirement.partition("==")
            if name in siblings:
                assert pin == version
    assert len({tree[folder + "LICENSE"] for folder in folders}) == 1


def test_locks_pin_every_package(tree: dict[str, str]) -> None:
    locks = [path for path in tree if path.startswith("requirements/") and path.endswith(".txt")]
    lines = [line for path in locks for line in tree[path].splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", line)] == []


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (packages_in_tests(["tests/server/__init__.py", "server/__init__.py"]), "package among the tests"),
        (namesakes(["tests/core/test_a.py", "tests/server/test_a.py", "tests/core/conftest.py"]), "namesakes"),
        (shadowed("t.py", "def test_a(): ...\ndef test_b(): ...\ndef test_a(): ..."), "shadowed function"),
        (shadowed("t.py", "class T:\n  def a(self): ...\n  async def a(self): ..."), "shadowed method"),
        (private("a.md", "see /" + "home/someone/notes\n"), "home folder"),
        (private("a.txt", "--index" + "-url x"), "registry"),
        (missing_documents("a.py", "as PLAN" + ".md says, and README.md", ["README.md"]), "missing document"),
        (too_long("server/a.py", "x = 1\n" * 401), "long module"),
        (uncommented("a.proto", "message A {\n  // Yes.\n  string a = 1;\n  string b = 2;\n}"), "field"),
        (uncommented("a.proto", "  map<string, string> tags = 3;"), "map field"),
        (uncommented("a.proto", "// One.\nenum A {\n  A_UNSPECIFIED = 0;\n}"), "enum value"),
        (uncommented("a.proto", "\n  rpc Get(GetRequest) returns (GetResponse);"), "rpc"),
    ],
)
def test_each_rule_can_fail(found: list[str], rule: str) -> None:
    assert len(found) == 1, rule
