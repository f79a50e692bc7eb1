"""Session checkpoints in the data directory: one file per session, named by its uid.

A file is whole or not there: it is written beside its place, synced, renamed, and the directory is synced. It carries
its own checksum; a file that does not verify stops the start and is named, never skipped or deleted. A lock keeps a
second server out. It knows nothing of what a checkpoint means.

Layout of a file: MAGIC, 8-byte little-endian header length, JSON header, digests (uint64 each), labels (float64, the
rows of the last events), checkpoint of the fold, 32-byte BLAKE2b of everything before.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from bptt_core import SessionConfig
from server.sessions import Terms

_T = TypeVar("_T")
_KIND: Final = b"BPTTSES"
_VERSION: Final = b"3"
MAGIC: Final = _KIND + _VERSION
# A configuration and tags come in a request of 128 KiB, and JSON writes a character of two bytes as six.
MAX_HEADER_BYTES: Final = 2**20
_UID: Final = re.compile(r"[0-9a-f]{32}")
_SUM_BYTES: Final = 32


class StoreError(Exception):
    """The data directory cannot be used as it is; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A session as it lies on disk."""

    uid: str
    session_id: str
    created: Terms
    create_time_ns: int
    tags: Mapping[str, str]
    credit_events: int
    digests: NDArray[np.uint64]
    labels: NDArray[np.float64]  # [n, O] of the last events, NaN: not known; n = 0 without labels
    warm_started: bool
    checkpoint: bytes


class Store:
    """The data directory, locked for this process from construction until `close`."""

    def __init__(self, directory: Path) -> None:
        self._sessions = directory / "sessions"
        try:
            self._sessions.mkdir(parents=True, exist_ok=True)
            self._lock: IO[bytes] = (directory / "lock").open("wb")
        except OSError as error:
            raise StoreError(f"cannot use the data directory {directory}: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StoreError(f"another server uses the data directory {directory}; give --data another one") from error
        try:
            for left_over in self._sessions.glob("*.tmp"):
                if _UID.fullmatch(left_over.stem):
                    left_over.unlink()
        except OSError as error:
            self._lock.close()
            raise StoreError(f"cannot tidy the data directory {directory}: {error}") from error

    def close(self) -> None:
        """Lets another server in."""
        self._lock.close()

    def load(self) -> Iterator[Stored]:
        """The sessions on disk, in order of uid. Raises StoreError for the first file that does not verify."""
        for path in sorted(self._sessions.glob("*.session")):
            try:
                stored = unpack(path.read_bytes())
            except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
                raise self.refused(path.stem, str(error)) from error
            if stored.uid != path.stem or not _UID.fullmatch(stored.uid):
                raise self.refused(path.stem, f"it holds the session with uid {stored.uid!r}")
            yield stored

    def refused(self, uid: str, why: str) -> StoreError:
        """What to tell the operator about a file that cannot be taken up."""
        path = self._path(uid)
        return StoreError(f"{path} is not usable: {why}. Put back a good copy, or move it away to start without it.")

    def save(self, stored: Stored) -> None:
        """Writes one session; `sync` makes the names durable."""
        path = self._path(stored.uid)
        beside = path.with_suffix(".tmp")
        with beside.open("wb") as file:
            file.write(pack(stored))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)

    def remove(self, uid: str) -> None:
        """Removes a session's file, if there is one."""
        self._path(uid).unlink(missing_ok=True)
        self.sync()

    def sync(self) -> None:
        """Makes the names written or removed so far durable."""
        descriptor = os.open(self._sessions, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, uid: str) -> Path:
        return self._sessions / f"{uid}.session"


def pack(stored: Stored) -> bytes:
    """A session as bytes."""
    created = stored.created
    header: dict[str, Any] = {
        "uid": stored.uid,
        "session_id": stored.session_id,
        "create_time_ns": stored.create_time_ns,
        "tags": dict(stored.tags),
        "credit_events": stored.credit_events,
        "created": {
            "config": asdict(created.config),
            "tags": dict(created.tags),
            "learning": created.learning,
            "credit_events": created.credit_events,
        },
        "digests": len(stored.digests),
        "labels": len(stored.labels),
        "warm_started": stored.warm_started,
    }
    text = json.dumps(header, sort_keys=True).encode()
    remembered = stored.digests.astype("<u8").tobytes() + stored.labels.astype("<f8").tobytes()
    body = MAGIC + struct.pack("<Q", len(text)) + text + remembered + stored.checkpoint
    return body + blake2b(body, digest_size=_SUM_BYTES).digest()


def unpack(data: bytes) -> Stored:
    """The inverse of `pack`. Raises ValueError if the bytes are not what was written."""
    body, checksum = data[:-_SUM_BYTES], data[-_SUM_BYTES:]
    if body[: len(MAGIC)] != MAGIC:
        kind, version = body[: len(_KIND)], body[len(_KIND) : len(MAGIC)]
        if kind == _KIND and version.isdigit():
            raise ValueError(f"it has version {version.decode()}; this server reads version {_VERSION.decode()}")
        raise ValueError("it is not a session file")
    if blake2b(body, digest_size=_SUM_BYTES).digest() != checksum:
        raise ValueError("its checksum is wrong, it is damaged or cut short")
    at = len(MAGIC) + 8
    (size,) = struct.unpack_from("<Q", body, len(MAGIC))
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {size} bytes, more than {MAX_HEADER_BYTES}")
    header = json.loads(body[at : at + size])
    at += size
    created = header["created"]
    config = SessionConfig.from_plain(created["config"]).validated()
    labels, width = _a(int, header["labels"]), len(config.labels)
    between = at + 8 * _a(int, header["digests"])
    after = between + 8 * labels * width
    return Stored(
        uid=_a(str, header["uid"]),
        session_id=_a(str, header["session_id"]),
        created=Terms(
            config,
            _tags(created["tags"]),
            _a(bool, created["learning"]),
            _a(int, created["credit_events"]),
        ),
        create_time_ns=_a(int, header["create_time_ns"]),
        tags=_tags(header["tags"]),
        credit_events=_a(int, header["credit_events"]),
        digests=np.frombuffer(body[at:between], dtype="<u8").astype(np.uint64),
        labels=np.frombuffer(body[between:after], dtype="<f8").astype(np.float64).reshape(labels, width),
        warm_started=_a(bool, header["warm_started"]),
        checkpoint=body[after:],
    )


def _a(kind: type[_T], value: Any) -> _T:
    if type(value) is not kind:
        raise ValueError(f"{value!r} is in the place of a value of type {kind.__name__}")
    return value


def _tags(values: Any) -> dict[str, str]:
    return {key: _a(str, value) for key, value in _a(dict, values).items()}
