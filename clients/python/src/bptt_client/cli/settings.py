"""What `--set KEY=VALUE` asks for, together: the fields of a configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bptt_client import config
from bptt_client.cli.problems import Problem


def settings(texts: Sequence[str], flags: Collection[str] = ()) -> dict[str, Any]:
    """The settings as a mapping for a session's configuration; those of `flags` have a flag of their own. Raises
    Problem.
    """
    try:
        entries = [config.setting(text) for text in texts]
        for entry in entries:
            for name in entry.keys() & flags:
                raise ValueError(f"{name} is set by --{name}; allowed with --set: every other setting")
        made = config.merged({}, entries)
        config.session_config(made)
    except (TypeError, ValueError) as error:
        raise Problem(f"--set {error}") from error
    return made


def symbols(made: Mapping[str, Any]) -> dict[str, list[str]]:
    """The symbols that settings give to channels, as lists."""
    message = config.session_config({"categories": made.get("categories")})
    listed: dict[str, list[str]] = config.as_mapping(message).get("categories", {})
    return listed
