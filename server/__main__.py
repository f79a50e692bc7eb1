"""Entry point of `bptt-server` and `python -m server`."""

from __future__ import annotations

import sys

from server import settings


def main() -> int:
    """Serves until told to stop, or checks another server's health. Returns the exit code."""
    command = settings.parse()
    settings.one_compute_thread()
    # Without this a busy compute thread holds up the network loop by 5 ms at a time.
    sys.setswitchinterval(0.0005)
    if command.health is not None:
        from server.health import check

        healthy, text = check(command.health)
        sys.stdout.write(text + "\n")
        return 0 if healthy else 1
    from server.app import run

    return run(command.settings)


if __name__ == "__main__":
    sys.exit(main())
