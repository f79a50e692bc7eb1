"""Rows and times as people have them, turned into the columns that travel. Knows the feature names, nothing of
sessions.

A row is a mapping by feature name (a missing key or None is a missing value), a sequence in feature order, or a bare
number (or None) where there is one feature. A time is an aware `datetime` or an integer of nanoseconds since 1970.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any, SupportsIndex

Row = Mapping[str, float | None] | Sequence[float | None] | float
Time = datetime | SupportsIndex

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FURTHEST_NS = 2**62


def encode_row(row: Any, features: Sequence[str]) -> array[float]:
    """The values of one event in feature order, NaN where missing. Raises TypeError or ValueError naming the
    feature.
    """
    if isinstance(row, Mapping):
        return _from_mapping(row, features)
    if isinstance(row, str | bytes | bytearray | AbstractSet) or (row is None and len(features) > 1):
        without = ", which has no order" if isinstance(row, AbstractSet) else ""
        raise TypeError(f"a row is a mapping, a sequence of numbers or a number, not {type(row).__name__}{without}")
    values = _from_sequence(list(row), features) if isinstance(row, Iterable) else _numbers([row], features)
    if len(values) != len(features):
        names = ", ".join(features)
        raise ValueError(f"the row has {len(values)} values; allowed: {len(features)}, one per feature ({names})")
    return values


def _from_mapping(row: Mapping[Any, Any], features: Sequence[str]) -> array[float]:
    values = _numbers([row.get(name) for name in features], features)
    unknown = next((key for key in row if key not in features), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} is not a feature; features: {', '.join(features)}")
    return values


def _from_sequence(row: list[Any], features: Sequence[str]) -> array[float]:
    try:
        return array("d", row)
    except (TypeError, OverflowError):
        return _numbers(row, features)


def _numbers(row: Sequence[Any], features: Sequence[str]) -> array[float]:
    values = array("d")
    for i, value in enumerate(row):
        name = features[i] if i < len(features) else f"value {i}"
        try:
            values.append(math.nan if value is None else value)
        except TypeError:
            raise TypeError(f"{name} is {value!r}; allowed: a number, or None where it is missing") from None
        except OverflowError:
            raise ValueError(f"{name} is beyond 1e308; allowed: NaN (missing) or ±1e+100") from None
    return values


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
