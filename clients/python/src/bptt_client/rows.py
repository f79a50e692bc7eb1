"""Rows and times as people have them, turned into the columns that travel. Knows the names of the channels and the
symbols of the categorical ones, nothing of sessions.

A row is a mapping by channel name (a missing key or None is a missing value), a sequence in channel order, or a bare
value (or None) where there is one channel. The value of a categorical channel is its symbol or the symbol's position.
A time is an aware `datetime` or an integer of nanoseconds since 1970.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, SupportsIndex

Value = float | str | None
Row = Mapping[str, Value] | Sequence[Value] | float
Time = datetime | SupportsIndex

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FURTHEST_NS = 2**62
_MOST_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Channels:
    """What the values of a row are, in order: features or (`word`) labels. `positions` has the categorical ones: for
    each of their symbols its position.
    """

    names: tuple[str, ...]
    positions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    word: str = "feature"


def encode_row(row: Any, channels: Channels) -> array[float]:
    """The values of one row in channel order, NaN where missing. Raises TypeError or ValueError naming the channel."""
    names = channels.names
    if isinstance(row, Mapping):
        return _from_mapping(row, channels)
    if isinstance(row, str) and len(names) == 1 and names[0] in channels.positions:
        return _numbers([row], channels)
    if isinstance(row, str | bytes | bytearray | AbstractSet) or (row is None and len(names) > 1):
        without = ", which has no order" if isinstance(row, AbstractSet) else ""
        kinds = f"a mapping, a sequence of numbers or a number, not {type(row).__name__}{without}"
        raise TypeError(f"a row of {channels.word}s is {kinds}")
    values = _from_sequence(list(row), channels) if isinstance(row, Iterable) else _numbers([row], channels)
    if len(values) != len(names):
        allowed = f"{len(names)}, one per {channels.word} ({', '.join(names)})"
        raise ValueError(f"the row has {len(values)} values; allowed: {allowed}")
    return values


def _from_mapping(row: Mapping[Any, Any], channels: Channels) -> array[float]:
    values = _numbers([row.get(name) for name in channels.names], channels)
    unknown = next((key for key in row if key not in channels.names), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} is not a {channels.word}; {channels.word}s: {', '.join(channels.names)}")
    return values


def _from_sequence(row: list[Any], channels: Channels) -> array[float]:
    try:
        return array("d", row)
    except (TypeError, OverflowError):
        return _numbers(row, channels)


def _numbers(row: Sequence[Any], channels: Channels) -> array[float]:
    values = array("d")
    for i, value in enumerate(row):
        name = channels.names[i] if i < len(channels.names) else f"value {i}"
        try:
            values.append(math.nan if value is None else _position(name, value, channels))
        except TypeError:
            raise TypeError(f"{name} is {value!r}; allowed: a number, or None where it is missing") from None
        except OverflowError:
            raise ValueError(f"{name} is beyond 1e308; allowed: NaN (missing) or ±1e+100") from None
    return values


def _position(name: str, value: Any, channels: Channels) -> Any:
    """Of a symbol its position; anything else as it is."""
    if not isinstance(value, str) or name not in channels.positions:
        return value
    positions = channels.positions[name]
    if value not in positions:
        symbols = list(map(repr, positions))
        shown = ", ".join(symbols[:_MOST_SHOWN]) + (f", … ({len(symbols)})" if len(symbols) > _MOST_SHOWN else "")
        raise ValueError(f"{name} is {value!r}; allowed: {shown}, or None where it is missing")
    return positions[value]


def encode_time(time: Time | None) -> int | None:
    """Nanoseconds since 1970. Raises TypeError for a float or text, ValueError for a datetime without a time zone or
    a time out of range.
    """
    if time is None:
        return None
    if isinstance(time, datetime):
        if time.tzinfo is None or time.utcoffset() is None:
            raise ValueError(f"{time.isoformat()} has no time zone; allowed: an aware datetime, e.g. tzinfo=UTC")
        since = time - _EPOCH
        number = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
    elif isinstance(time, bool) or not isinstance(time, SupportsIndex):
        allowed = "an aware datetime or an integer of nanoseconds since 1970"
        raise TypeError(f"the timestamp is {time!r}; allowed: {allowed} (a float cannot hold nanoseconds)")
    else:
        number = operator.index(time)
    if abs(number) > _FURTHEST_NS:
        allowed = "1823-11-12T00:06:22Z..2116-02-20T23:53:38Z, which is ±2^62 nanoseconds around 1970"
        raise ValueError(f"the timestamp is {time}; allowed: {allowed}")
    return number
