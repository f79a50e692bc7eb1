"""What every refused value is told by: its field, itself and what is allowed; and the checks that say so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MAX_FEATURES: Final = 64
MAX_NAME_CHARS: Final = 128


class Words(str):
    """Says what there is where showing it would not help, e.g. "3 values" or "absent". Printed without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class FieldError(ValueError):
    """A value outside its allowed range. `field`, `value` and `allowed` are meant for programs, `str()` for people."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} is {shorten(value)}; allowed: {allowed}")
        self.field, self.value, self.allowed = field, shorten(value), allowed


def shorten(value: object, limit: int = 80) -> str:
    """How a value is shown."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def check_names(name: str, values: Iterable[object]) -> None:
    """Raises FieldError unless `values` are distinct names of channels, as many as may be."""
    values = tuple(values)
    if not 1 <= len(values) <= MAX_FEATURES:
        raise FieldError(name, list(values), f"1..{MAX_FEATURES} names")
    for value in values:
        check_text(name, value, MAX_NAME_CHARS, "names")
    if len(set(values)) != len(values):
        raise FieldError(name, list(values), "distinct names")


def check_text(name: str, value: object, most: int, what: str) -> None:
    """Raises FieldError unless `value` is a text of 1..`most` characters; `what` says of what kind."""
    if not isinstance(value, str) or not 1 <= len(value) <= most:
        raise FieldError(name, value, f"{what} of 1..{most} characters")


def check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises FieldError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise FieldError(name, value, ", ".join(allowed))


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raises FieldError unless `value` is a whole number in `low`..`high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FieldError(name, value, f"{low}..{high}")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Raises FieldError unless `value` is a number in `low`..`high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise FieldError(name, value, f"{low:g}..{high:g}")
