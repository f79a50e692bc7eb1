"""The command `bptt`. Needs the extra `cli`; without it, it says how to install it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

EXTRA = ("numpy", "rich", "matplotlib")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 failed, 2 asked for wrongly, 130 interrupted."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        print(
            f"The command line needs {', '.join(missing)}. Install it with:  pip install 'bptt-client[cli]'",
            file=sys.stderr,
        )
        return 2
    from bptt_client.cli.commands import run

    return run(argv)
