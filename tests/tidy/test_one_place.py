"""One place for each worry: a search for the word finds it in the files that own it and nowhere else."""

from __future__ import annotations

import io
import re
import tokenize
from dataclasses import dataclass

import pytest

CLIENT = "clients/python/src/bptt_client/"


@dataclass(frozen=True)
class Worry:
    """A pattern that may occur only in `owners` among the files under `within`. Prefixes of paths, all of them."""

    name: str
    pattern: str
    within: tuple[str, ...]
    owners: tuple[str, ...] = ()


EVERYWHERE = ("",)
PLANTED = ("tests/core/test_gradients.py",)  # runs sources with an error planted in them
WIRE = ("server/translate.py", "server/translate_config.py", "server/services.py")
WORRIES = [
    Worry("environment", r"\benviron\b|\bgetenv\b", ("server/", "bptt_core/"), ("server/settings.py",)),
    Worry("environment", r"\benviron\b|\bgetenv\b", (CLIENT,), (CLIENT + "cli/",)),
    Worry("arguments", r"\bargparse\b|\bargv\b", ("server/", "bptt_core/"), ("server/settings.py",)),
    Worry("arguments", r"\bargparse\b|\bargv\b", (CLIENT,), (CLIENT + "cli/",)),
    Worry("metric", r"\b(Histogram|Counter|Gauge|Summary|Info|Enum)\(", ("server/",), ("server/metrics.py",)),
    Worry("status code", r"\bStatusCode\s*\.", ("server/",), ("server/errors.py",)),
    Worry("wire types", r"\b(config|error|forecast|session)_pb2", ("server/",), WIRE),
    Worry("safetensors", r"^\s*(from|import) safetensors\b", ("server/", "bptt_core/"), ("server/exports.py",)),
    Worry("input and output", r"(?<![\w.])(open|print|input)\(", ("bptt_core/",)),
    Worry("code as data", r"\b(pickle|cPickle|cloudpickle|dill|marshal|shelve)\b", EVERYWHERE),
    Worry("code as data", r"(?<![\w.])(eval|exec)\(", EVERYWHERE, PLANTED),
    Worry("code as data", r"\ballow_pickle\s*=\s*True\b", EVERYWHERE),
]


def code_only(source: str) -> list[str]:
    """Lines with strings and comments blanked, so that prose may speak of what code may not do."""
    lines = source.splitlines()
    blank = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in blank:
            (first, start), (last, end) = token.start, token.end
            for number in range(first, last + 1):
                line = lines[number - 1]
                left = start if number == first else 0
                right = end if number == last else len(line)
                lines[number - 1] = line[:left] + " " * (right - left) + line[right:]
    return lines


def violations(path: str, source: str) -> list[str]:
    concerning = [w for w in WORRIES if path.startswith(w.within) and not (w.owners and path.startswith(w.owners))]
    return [
        f"{path}:{number}: {worry.name} belongs to {', '.join(worry.owners) or 'nobody'}"
        for number, line in enumerate(code_only(source), 1)
        for worry in concerning
        if re.search(worry.pattern, line)
    ]


def test_each_worry_has_one_place(python_tree: dict[str, str]) -> None:
    assert [line for path, source in python_tree.items() for line in violations(path, source)] == []


def test_the_owners_exist(python_tree: dict[str, str]) -> None:
    for worry in WORRIES:
        for owner in worry.owners:
            assert any(path.startswith(owner) for path in python_tree), f"{owner} owns {worry.name}"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("server/app.py", "level = os.environ['LEVEL']"),
        ("server/app.py", "from os import getenv"),
        (CLIENT + "client.py", "os.environ.get('TARGET')"),
        ("server/app.py", "import argparse"),
        (CLIENT + "aio.py", "sys.argv[1]"),
        ("server/engine.py", "depth = Gauge('depth', 'Events waiting.')"),
        ("server/http.py", "prometheus_client.Histogram('x', 'y')"),
        ("server/streams.py", "code = grpc.StatusCode.ABORTED"),
        ("server/engine.py", "from bptt.v1 import session_pb2"),
        ("server/engine.py", "from bptt.v1 import session_pb2_grpc"),
        ("server/book.py", "from safetensors.numpy import load"),
        ("bptt_core/fold.py", "print(loss)"),
        ("bptt_core/fold.py", "with open(name) as file: pass"),
        ("benchmarks/run.py", "import pickle"),
        ("tests/core/test_x.py", "eval('1 + 1')"),
        (CLIENT + "cli/replay.py", "exec('pass')"),
        ("bptt_core/checkpoint.py", "np.load(file, allow_pickle=True)"),
    ],
)
def test_a_second_place_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("server/settings.py", "os.environ['LEVEL']; import argparse"),
        ("server/app.py", '"""Never reads os.environ."""  # nor argparse'),
        ("server/app.py", "x = 'StatusCode.OK'"),
        ("bptt_core/fold.py", "self.open(1); reopen(2)"),
        ("tests/core/test_x.py", "model.eval()"),
    ],
)
def test_the_one_place_is_not(path: str, source: str) -> None:
    assert violations(path, source) == []
