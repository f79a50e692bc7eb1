"""The Dockerfile and the files in deploy/ say what the service needs of them. Nothing here runs a container."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str, str]]:
    """(stage, instruction, arguments) of the Dockerfile in order, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found, stage = [], ""
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.split()[-1]
        found.append((stage, word, rest.strip()))
    return found


def lineage(stage: str) -> list[str]:
    """The stage and those it is made from, itself first."""
    bases = {name: rest.split()[0] for name, word, rest in instructions() if word == "FROM"}
    chain = [stage]
    while bases[chain[-1]] in bases:
        chain.append(bases[chain[-1]])
    return chain


def test_the_default_target_is_cpu() -> None:
    assert instructions()[-1][0] == "cpu"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_targets_run_as_nobody_with_a_health_check_and_without_build_tools(target: str) -> None:
    chain = lineage(target)
    assert "build" not in chain
    own = [(word, rest) for stage, word, rest in instructions() if stage in chain]
    users = [rest for word, rest in own if word == "USER"]
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)
    assert [word for word, _ in own].count("HEALTHCHECK") == 1
    assert not [rest for word, rest in own if word == "RUN" and re.search(r"apt|pip install|gcc", rest)]
    assert ("VOLUME", "/data") in own
    # What is compiled at the first start is found again at the next.
    (environment,) = (rest for word, rest in own if word == "ENV" and "PATH=" in rest)
    (compiled,) = re.findall(r"NUMBA_CACHE_DIR=(\S+)", environment)
    assert ("VOLUME", compiled) in own
    assert f":{compiled}" in (ROOT / "deploy" / "compose.yaml").read_text()


def test_copied_sources_are_let_through_to_the_build() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [rest.split()[:-1] for _, word, rest in instructions() if word == "COPY" and "--from" not in rest]
    for source in [name for names in copied for name in names]:
        assert source in allowed
        assert (ROOT / source).exists()


def test_prometheus_accepts_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: the package prometheus)")
    checked = subprocess.run(
        [promtool, "check", "config", str(ROOT / "deploy" / "prometheus.yml")], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


def test_prometheus_scrapes_the_port_that_the_server_publishes() -> None:
    (target,) = re.findall(r'targets: \["(\w+:\d+)"\]', (ROOT / "deploy" / "prometheus.yml").read_text())
    service, _, port = target.partition(":")
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    assert re.search(rf"^  {service}:$", compose, re.MULTILINE)
    assert f":{port}" in compose
    assert any(port in rest.split() for _, word, rest in instructions() if word == "EXPOSE")
