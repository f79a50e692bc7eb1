"""`bptt export` and `bptt import`: a session, or its network alone, as a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from bptt_client import Client
from bptt_client.calls import ExportFormat
from bptt_client.cli.outputs import check_writable
from bptt_client.cli.problems import Problem
from bptt_client.cli.settings import settings


def run_export(arguments: argparse.Namespace) -> None:
    """Writes the file. Raises Problem if it cannot be written."""
    check_writable(arguments.file)
    with Client(arguments.server) as client:
        data = client.export_session(arguments.session, _format(arguments))
    arguments.file.write_bytes(data)
    _say(f"{arguments.session} written to {arguments.file}: {_format(arguments)}, {len(data):,} bytes")


def run_import(arguments: argparse.Namespace) -> None:
    """Makes a session of the file. Raises Problem if it cannot be read, or the flags do not fit its format."""
    configuration = settings(arguments.settings, ("features",) if arguments.features else ())
    if arguments.features:
        configuration["features"] = [name.strip() for name in arguments.features.split(",")]
    kind = _format(arguments)
    if kind == "checkpoint" and configuration:
        raise Problem("--features or --set with a checkpoint; allowed: neither, as it has a configuration of its own")
    if kind == "safetensors" and not configuration.get("features"):
        raise Problem("safetensors without --features; allowed: --features A,B, the inputs of the network in order")
    try:
        data = arguments.file.read_bytes()
    except OSError as error:
        raise Problem(f"{arguments.file}: {error.strerror or error}") from error
    with Client(arguments.server) as client:
        client.import_session(data, arguments.session, kind, **configuration)
        session = client.get_session(arguments.session)
    _say(f"{session.session_id}: {session.parameters:,} parameters, at sequence {session.last_sequence:,}")


def _format(arguments: argparse.Namespace) -> ExportFormat:
    path: Path = arguments.file
    guessed: ExportFormat = "safetensors" if path.suffix == ".safetensors" else "checkpoint"
    given: ExportFormat | None = arguments.format
    return given or guessed


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, soft_wrap=True, markup=False)
