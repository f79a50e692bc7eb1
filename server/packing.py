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

from bptt_core import Outcomes, lags

assert sys.byteorder == "little"

_LENGTH_DELIMITED: Final = 2
_SHAPES: Final = 4096  # of replies, whose heads are remembered
_NAN: Final = np.array(np.nan, np.float32).tobytes()


def packed(outs: Outcomes, window: int) -> bytes:
    """A message `Outcomes`, of a session with that window."""
    (
        mean, lower, upper, distribution, score, target_score, likelihood, sensor_state, drift, warming_up,
        result, loss, norm, clip_scale, saturation, ratio, by_lag, resets,
    ) = outs.pieces()  # fmt: skip
    heads = _heads(len(outs), *outs.sizes)
    pieces = (
        b"\x08",
        varint(outs.first_sequence),
        heads[0],
        mean,
        heads[1],
        lower,
        heads[2],
        upper,
        heads[3],
        score,
        heads[4],
        result,
        heads[5],
        loss,
        heads[6],
        norm,
        heads[7],
        clip_scale,
        heads[8],
        distribution,
        heads[9],
        saturation,
        heads[10],
        ratio,
        _gradient_by_lag(outs, window) if _measured(by_lag) else b"",
        heads[11],
        target_score,
        heads[12],
        likelihood,
        heads[13],
        sensor_state,
        heads[14],
        drift,
        heads[15],
        warming_up,
        _learner_resets(outs) if resets.strip(b"\0") else b"",
    )
    return b"".join(pieces)


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
    """What stands before each column of such outcomes; the numbers that tell their shape stand where they belong."""
    pairs = 8 * count * horizon * targets
    shape = b"".join(bytes([number << 3]) + varint(size) for number, size in ((2, count), (3, horizon), (4, targets)))
    quantiles = b"\x70" + varint(distribution) if distribution else b""
    return (
        shape + _head(5, pairs),
        _head(6, pairs),
        _head(7, pairs),
        _head(8, 8 * count),
        _head(9, count),
        _head(10, 4 * count),
        _head(11, 4 * count),
        _head(12, 4 * count),
        _head(13, pairs * distribution),
        quantiles + _head(15, 4 * count),
        _head(16, 4 * count),
        _head(18, 8 * count * targets),
        _head(19, 8 * count),
        _head(20, count * sensors),
        _head(21, count),
        _head(22, count),
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
