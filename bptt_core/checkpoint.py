"""Checkpoints: a session's whole state as bytes and back, without pickle.

    magic "BPTTCKPT" · version uint32 · header length uint32 · header (JSON) · arrays, little-endian, in order · SHA-256

The header holds the configuration, the fingerprint of the backend that wrote it and name, type and shape of every
array. Parameters are in the canonical order of `parameters.py`. The digest covers everything before it.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.config import SessionConfig
from bptt_core.slab import Field

MAGIC: Final = b"BPTTCKPT"
VERSION: Final = 3
MAX_HEADER_BYTES: Final = 2**20  # parsed, a longer one could take any amount of memory
_PREFIX: Final = struct.Struct("<8sII")
_DIGEST_BYTES: Final = 32


class CheckpointError(ValueError):
    """Bytes that are no checkpoint of this version, or a damaged one."""


def dump(config: SessionConfig, fingerprint: str, arrays: dict[str, NDArray[Any]]) -> bytes:
    """One session as bytes."""
    stored = {name: np.asarray(array, np.asarray(array).dtype.newbyteorder("<")) for name, array in arrays.items()}
    table = [[name, array.dtype.str, list(array.shape)] for name, array in stored.items()]
    header = json.dumps({"config": asdict(config), "fingerprint": fingerprint, "arrays": table}).encode()
    parts = [_PREFIX.pack(MAGIC, VERSION, len(header)), header, *(array.tobytes() for array in stored.values())]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def load(data: bytes) -> tuple[SessionConfig, dict[str, NDArray[Any]]]:
    """Configuration and arrays of `dump`'s bytes. Raises CheckpointError."""
    header, offset = _verified_header(data)
    try:
        config = SessionConfig.from_plain(header["config"])
        table = [(str(name), np.dtype(str(kind)), tuple(map(int, shape))) for name, kind, shape in header["arrays"]]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"its header is not understood: {error}") from error
    arrays = {}
    for name, dtype, shape in table:
        count = math.prod(shape)
        end = offset + count * dtype.itemsize
        numbers = dtype.kind in "iufb" and all(0 <= size <= len(data) for size in shape)
        if not numbers or end > len(data) - _DIGEST_BYTES:
            raise CheckpointError(f"its array {name} does not fit into its {len(data)} bytes")
        flat = np.frombuffer(data, np.uint8 if dtype.kind == "b" else dtype, count, offset)
        arrays[name] = (flat != 0 if dtype.kind == "b" else flat).reshape(shape)
        offset = end
    return config, arrays


def check_arrays(arrays: dict[str, NDArray[Any]], fields: list[Field]) -> None:
    """Raises CheckpointError unless `arrays` are exactly these fields."""
    expected = {f.name: (f.shape, np.dtype(f.dtype)) for f in fields}
    found = {name: (array.shape, array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise CheckpointError(f"its arrays differ from those of this version: {', '.join(wrong)}")


def _verified_header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header and where the arrays begin."""
    if len(data) < _PREFIX.size + _DIGEST_BYTES:
        raise CheckpointError(f"{len(data)} bytes are too few for a checkpoint")
    magic, version, length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise CheckpointError("it does not begin like a checkpoint")
    if version != VERSION:
        raise CheckpointError(f"it has version {version}; this program reads version {VERSION}")
    if hashlib.sha256(data[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
        raise CheckpointError("its checksum does not match: it is damaged or cut short")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"its header has {length} bytes, more than {MAX_HEADER_BYTES}")
    start = _PREFIX.size + length
    try:
        header = json.loads(data[_PREFIX.size : start])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError("its header is not an object")
    return header, start
