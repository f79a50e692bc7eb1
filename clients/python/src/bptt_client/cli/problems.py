"""The one way a command says that it was asked for wrongly."""

from __future__ import annotations


class Problem(Exception):
    """Something the user can put right: one sentence naming the place, the value and what is allowed. Exit code 2."""
