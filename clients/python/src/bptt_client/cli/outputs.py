"""Files that a command writes at its end: found out at its beginning whether it can."""

from __future__ import annotations

from pathlib import Path

from bptt_client.cli.problems import Problem


def check_writable(path: Path | None) -> None:
    """Raises Problem unless the file can be written (None: there is none). Changes nothing."""
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise Problem(f"{path}: its directory does not exist")
    new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror or error}") from error
    if new:
        path.unlink()
