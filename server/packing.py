"""Outcomes as the bytes of `bptt.v1.Outcomes`, and answers that carry them, written by column.

A packed column of a message is its numbers as they lie in memory, so a reply costs a few copies, not an object for
every number. It knows the numbers of these fields and nothing of who asks; what `translate.py` reads and writes by the
generated classes is the same. Numbers are taken as they lie, so the machine's order of bytes must be little-endian.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import Outcomes, lags, weave

assert sys.byteorder == "little"

_LENGTH_DELIMITED: Final = 2
_SHAPES: Final = 4096  # of replies, whose heads are remembered
_NAN: Final = np.array(np.nan, np.float32).tobytes()


def packed(outs: Outcomes, window: int) -> bytes:
    """A message `Outcomes`, of a session with that window."""
    heads = _heads(len(outs), *outs.sizes)
    return _message_of([outs], outs.woven(heads), outs.pieces(len(heads)), window)


def packed_run(parts: list[Outcomes], window: int) -> bytes:
    """The same of consecutive outcomes, as of one table."""
    if len(parts) == 1:
        return packed(parts[0], window)
    heads = _heads(sum(map(len, parts)), *parts[0].sizes)
    columns = [b"".join(pieces) for pieces in zip(*(outs.pieces() for outs in parts), strict=True)]
    return _message_of(parts, weave(heads, columns), columns[len(heads) :], window)


def _message_of(parts: list[Outcomes], columns: bytes, rare: list[bytes], window: int) -> bytes:
    """The message of consecutive outcomes from the columns that stand in it as they are, and those of which little is
    told."""
    by_lag, resets = rare
    message = b"\x08" + varint(parts[0].first_sequence) + columns
    if _measured(by_lag):
        message += b"".join(_gradient_by_lag(outs, window) for outs in parts)
    if resets.strip(b"\0"):
        message += b"".join(map(_learner_resets, parts))
    return message


def _measured(by_lag: bytes) -> bool:
    """Whether there may be a gradient by lag; it is measured at few events, and this is quick to say so."""
    return by_lag != _NAN * (len(by_lag) // len(_NAN))


def stream_result(channel: int, first: int, last: int, duplicates: int, outcomes: bytes | None) -> bytes:
    """A message `StreamResponse` with the result of a batch."""
    told = b"" if outcomes is None else b"\x22" + varint(len(outcomes)) + outcomes
    batch = b"\x08%b\x10%b\x18%b%b" % (varint(first), varint(last), varint(duplicates), told)
    result = b"\x08%b\x12%b%b" % (varint(channel), varint(len(batch)), batch)
    return b"\x12%b%b" % (varint(len(result)), result)


def varint(number: int) -> bytes:
    """A number from 0 as protobuf writes it: seven bits per byte, the lowest first."""
    if number < 0x80:
        return _ONE_BYTE[number]
    groups = []
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


_ONE_BYTE: Final = tuple(bytes([number]) for number in range(0x80))


@lru_cache(_SHAPES)
def _heads(count: int, horizon: int, targets: int, distribution: int, sensors: int) -> tuple[bytes, ...]:
    """What stands before each column of such outcomes but the last two, which are written otherwise; the numbers that
    tell their shape stand where they belong."""
    pairs = 8 * count * horizon * targets
    shape = b"".join(bytes([number << 3]) + varint(size) for number, size in ((2, count), (3, horizon), (4, targets)))
    quantiles = b"\x70" + varint(distribution) if distribution else b""
    return (
        shape + _head(5, pairs),  # mean
        _head(6, pairs),  # lower
        _head(7, pairs),  # upper
        quantiles + _head(13, pairs * distribution),  # distribution
        _head(8, 8 * count),  # anomaly score
        _head(18, 8 * count * targets),  # the targets'
        _head(19, 8 * count),  # likelihood
        _head(20, count * sensors),  # sensor state
        _head(21, count),  # drift
        _head(22, count),  # warming up
        _head(9, count),  # result of the update
        _head(10, 4 * count),  # loss
        _head(11, 4 * count),  # norm
        _head(12, 4 * count),  # clip scale
        _head(15, 4 * count),  # saturation
        _head(16, 4 * count),  # update ratio
    )


def _head(number: int, size: int) -> bytes:
    """What stands before a field of so many bytes; nothing before one that is not there."""
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(size) if size else b""


def _message(number: int, *fields: bytes) -> bytes:
    body = b"".join(fields)
    return _head(number, len(body)) + body


def _gradient_by_lag(outs: Outcomes, window: int) -> bytes:
    """One message for each event at whose update it was measured."""
    rows: list[int] = np.flatnonzero(~np.isnan(outs.norm_by_lag).all(axis=1)).tolist()
    lag = _lag(window)
    return b"".join(
        _message(17, b"\x08", varint(outs.first_sequence + row), lag, _floats(3, outs.norm_by_lag[row])) for row in rows
    )


@lru_cache(_SHAPES)
def _lag(window: int) -> bytes:
    """The lags of sessions with that window."""
    numbers = b"".join(map(varint, lags(window)))
    return _head(2, len(numbers)) + numbers


def _floats(number: int, row: NDArray[Any]) -> bytes:
    return _head(number, row.nbytes) + row.tobytes()


def _learner_resets(outs: Outcomes) -> bytes:
    """One message for each learner at each event that lost what it had learned."""
    rows, learners = (places.tolist() for places in np.nonzero(outs.learner_reset))
    return b"".join(
        _message(
            23,
            b"\x08",
            varint(outs.first_sequence + row),
            b"\x10",
            varint(learner),
            b"\x18",
            varint(int(outs.learner_reset[row, learner])),
        )
        for row, learner in zip(rows, learners, strict=True)
    )
