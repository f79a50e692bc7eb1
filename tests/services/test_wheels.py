"""The distributions as a user gets them: built, installed into an environment of their own, and run as the image does.

Covers what the Dockerfile's stages do, by its own commands, without a container engine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60
PACKAGES = {"bptt_client": {"bptt_client"}, "bptt_proto": {"bptt"}, "bptt_server": {"bptt_core", "server"}}

SESSION = """
import sys
from bptt_client import Client

with Client(sys.argv[1]) as client:
    session = client.create_session("clean", features=["level"])
    for step in range(40):
        reply = session.learn_one({"level": float(step % 7)})
    assert reply.sequence == 40, reply
    assert len(reply.forecast["level"].mean) == 1, reply
    assert client.get_session("clean").last_sequence == 40
print("forty events learned")
"""


def build(folder: Path) -> list[Path]:
    """Wheels of the three distributions, built from a copy of their sources."""
    source, wheels = folder / "source", folder / "wheels"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", ".*")
    source.mkdir()
    for name in ("proto", "clients", "bptt_core", "server"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(wheels)]
    projects = [str(source / name) for name in ("proto", "clients/python", ".")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, *projects], check=True)
    return sorted(wheels.glob("*.whl"))


def outside() -> dict[str, str]:
    """This process's environment without what would make the checkout importable or configure the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BPTT_"))}


def install(folder: Path, wheels: list[Path]) -> Path:
    """The bin folder of a new environment that holds the wheels and the pinned packages they ask for."""
    venv.create(folder / "env", with_pip=False, symlinks=True)
    bin_folder = folder / "env" / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(bin_folder / "python"), "--disable-pip-version-check"]
    constraints = ["--constraint", str(ROOT / "requirements" / "dev.txt")]
    subprocess.run([*pip, "install", "--quiet", *constraints, *map(str, wheels)], check=True, env=outside())
    return bin_folder


def docker_command(instruction: str) -> list[str]:
    """The exec-form command of the Dockerfile's CMD, or of its HEALTHCHECK."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    pattern = r"^CMD (\[.*\])$" if instruction == "CMD" else rf"^{instruction} .*CMD (\[.*\])$"
    (command,) = re.findall(pattern, text, re.MULTILINE)
    return [str(word) for word in json.loads(command)]


def check_contents(wheels: list[Path]) -> None:
    names = {wheel.name.partition("-")[0]: set(zipfile.ZipFile(wheel).namelist()) for wheel in wheels}
    assert set(names) == set(PACKAGES)
    for content in names.values():
        assert any(name.endswith("licenses/LICENSE") for name in content)
    protos = {path.name for path in (ROOT / "proto" / "bptt" / "v1").iterdir() if path.is_file()}
    assert {f"bptt/v1/{name}" for name in protos} <= names["bptt_proto"]
    assert "bptt/__init__.py" not in names["bptt_proto"]
    assert "bptt_client/py.typed" in names["bptt_client"]
    kernels = {str(path.relative_to(ROOT)) for path in (ROOT / "bptt_core").rglob("*.cu*")}
    assert kernels
    assert kernels <= names["bptt_server"]
    for name, content in names.items():
        found = {path.partition("/")[0] for path in content}
        assert {top for top in found if not top.endswith(".dist-info")} == PACKAGES[name]


@pytest.mark.wheel
def test_the_wheels_run_the_way_the_image_runs_them(tmp_path: Path) -> None:
    wheels = build(tmp_path)
    check_contents(wheels)
    bin_folder = install(tmp_path, wheels)
    environment = outside()
    environment["PATH"] = f"{bin_folder}:{environment['PATH']}"

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    ports_file, data = tmp_path / "ports.json", tmp_path / "data"
    command = docker_command("CMD")
    assert "0.0.0.0" in command, "a container listens beyond loopback by an explicit flag"
    command = [{"0.0.0.0": "127.0.0.1", "/data": str(data)}.get(word, word) for word in command]
    command += ["--port", "0", "--http-port", "0", "--ports-file", str(ports_file)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not ports_file.exists() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ports_file.exists(), (tmp_path / "server.log").read_text()
        target = f"127.0.0.1:{json.loads(ports_file.read_text())['grpc']}"
        health = [word.replace("127.0.0.1:50051", target) for word in docker_command("HEALTHCHECK")]
        assert target in health

        healthy = run(*health)
        assert healthy.returncode == 0, healthy.stdout
        learned = run("python", "-c", SESSION, target)
        assert "forty events learned" in learned.stdout, learned.stdout
        bare = run("bptt", "--help")
        assert "pip install 'bptt-client[cli]'" in bare.stdout, "the command line names the extra that it needs"
        assert "Traceback" not in bare.stdout

        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 0, (tmp_path / "server.log").read_text()
        assert run(*health).returncode == 1
        assert any(data.iterdir()), "the session was written at the drain"
    finally:
        server.kill()
        server.wait()
