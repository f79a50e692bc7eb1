"""What may be changed of a session while it lives, or in a copy of it, and the rules such changes must pass.

Plain and synchronous, as in `sessions.py`: a rule either raises `Refusal` and has changed nothing, or returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bptt_core import FieldError, SessionConfig, Words, check_learning_rate
from server.errors import Refusal, invalid, invalid_field
from server.sessions import check_credit, check_tags

_CHANGEABLE: Final = ("learning", "learning_rate", "tags", "limits")


@dataclass(frozen=True, slots=True)
class Changes:
    """New values of a session's changeable fields; None: the default. Only those named by `mask` count."""

    mask: tuple[str, ...]
    learning: bool | None
    learning_rate: float | None
    tags: Mapping[str, str]
    credit_events: int | None

    def new_learning(self) -> bool | None:
        """Whether the session is to learn; None: as it did."""
        if "learning" not in self.mask:
            return None
        return True if self.learning is None else self.learning

    def new_rate(self, created: SessionConfig) -> float | None:
        """The rate that the single learner is to have; None: as it had."""
        if "learning_rate" not in self.mask or created.learner is None:
            return None
        return self.learning_rate or created.learner.learning_rate

    def new_tags(self, before: Mapping[str, str]) -> dict[str, str]:
        """The tags that the session is to have."""
        return dict(self.tags if "tags" in self.mask else before)

    def new_credit(self, before: int, default: int) -> int:
        """The credit that the session is to have."""
        return (self.credit_events or default) if "limits" in self.mask else before


def check_changes(changes: Changes, mask_field: str, created: SessionConfig) -> None:
    """Raises Refusal unless a session created so may be changed so. `mask_field`: where the mask came from."""
    for name in changes.mask:
        if name not in _CHANGEABLE:
            raise invalid_field(mask_field, name, ", ".join(_CHANGEABLE))
    check_tags(changes.tags, "changes.tags")
    check_credit(changes.credit_events, "changes.limits.credit_events")
    _check_rate(changes, created)


def no_changes(mask_field: str) -> Refusal:
    """The refusal of a mask that names nothing, where it must."""
    return invalid_field(mask_field, Words("empty"), "at least one of " + ", ".join(_CHANGEABLE))


def _check_rate(changes: Changes, created: SessionConfig) -> None:
    rate = changes.learning_rate
    if created.learner is None:
        if "learning_rate" in changes.mask:
            value = Words("absent") if rate is None else rate
            allowed = f"no change, as the session has {len(created.learners)} learners with rates of their own"
            raise invalid_field("changes.learning_rate", value, allowed)
    elif rate is not None:
        try:
            check_learning_rate(rate, created.learner.weight_decay or 0.0, "changes.learning_rate")
        except FieldError as error:
            raise invalid(error) from None
