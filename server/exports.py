"""Sessions as files: what leaves by ExportSession and what comes in by ImportSession.

A file is either a whole session, the bytes that the store keeps, or its network alone, as safetensors with the names
of PyTorch's modules. Bytes that come in are a stranger's: their number is bounded before they are held, and they are
read in a thread beside the others', by a fold of its own, so that neither the engine nor any session has seen them
until they are known to be good. It knows neither the wire nor what a checkpoint holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from bptt_core import (
    MAX_STATE_VALUES,
    FieldError,
    Fold,
    LearnerConfig,
    Outcomes,
    ParameterLayout,
    SessionConfig,
    SessionStatus,
    TorchNetwork,
    Words,
    from_torch,
    select_backend,
    session_bytes,
    session_layout,
    to_torch,
)
from server.book import Book, View
from server.errors import Refusal, invalid, invalid_field
from server.sessions import Record, Terms
from server.store import MAX_HEADER_BYTES, Stored, pack, unpack

_T = TypeVar("_T")
PIECE_BYTES: Final = 64 * 1024
_HEADER_BYTES: Final = 2 * MAX_HEADER_BYTES  # of the session and of its checkpoint
# A session's state, and what is remembered of its labels beside it.
MAX_FILE_BYTES: Final = 12 * MAX_STATE_VALUES + _HEADER_BYTES
_MARK: Final = "bptt"  # in the metadata of our safetensors, with the version of the rest of it
_MAX_CHARS: Final = 200
_TAKEN_FROM_FILE: Final = ("cell", "layers", "hidden")


class Format(enum.Enum):
    """Kinds of files."""

    CHECKPOINT = "checkpoint"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an imported session is to be. None, and no tags: as in the file, or the default. `stated`: paths of the
    fields that the configuration sets."""

    session_id: str
    format: Format
    config: SessionConfig | None
    stated: frozenset[str]
    tags: Mapping[str, str]
    learning: bool | None
    credit_events: int | None


Read = Callable[[], Awaitable[Wanted | bytes | None]]


class Exports:
    """All files on their way in or out. Methods run on the network's thread only."""

    def __init__(self, book: Book, memory_mib: int, idle_timeout_s: float) -> None:
        self._book, self._memory_mib, self._idle_timeout_s = book, memory_mib, idle_timeout_s
        self._held_bytes = 0
        self._reading = asyncio.Lock()  # one at a time, as a session's memory is taken twice over meanwhile

    async def send(self, session_id: str, uid: str, kind: Format, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Writes a session's file piece by piece. Raises Refusal."""
        record = self._book.get(session_id, uid)
        if kind is Format.SAFETENSORS and record.created.config.learner is None:
            allowed = f"EXPORT_FORMAT_CHECKPOINT, as the session has {len(record.created.config.learners)} learners"
            raise invalid_field("format", Words("EXPORT_FORMAT_SAFETENSORS"), allowed)
        with self._room() as hold:
            hold(session_bytes(record.created.config))
            data = await self._file(record, kind)
            for at in range(0, len(data), PIECE_BYTES):
                await self._in_time(write(data[at : at + PIECE_BYTES]))

    async def receive(self, read: Read) -> View:
        """Makes a session of the terms and the pieces that `read` gives until it gives None. Raises Refusal, and then
        nothing has changed."""
        wanted = await self._in_time(read())
        if not isinstance(wanted, Wanted):
            raise invalid_field("terms", Words("absent"), "the first message")
        self._book.check_free(wanted.session_id)
        if wanted.format is Format.CHECKPOINT and wanted.config is not None:
            raise invalid_field("config", Words("set"), "absent with a checkpoint, as it has one")
        if wanted.format is Format.SAFETENSORS and wanted.config is None:
            raise invalid_field("config", Words("absent"), "a configuration with at least one feature")
        with self._room() as hold:
            data = await self._gathered(read, hold)
            if wanted.format is Format.CHECKPOINT:
                return await self._session(wanted, data)
            return await self._network(wanted, data)

    async def _file(self, record: Record, kind: Format) -> bytes:
        if kind is Format.CHECKPOINT:
            return await asyncio.to_thread(pack, await self._book.export(record))
        return await asyncio.to_thread(_network_file, record.created.config, await self._book.parameters(record))

    async def _gathered(self, read: Read, hold: Callable[[int], None]) -> bytes:
        """All pieces in one."""
        data = bytearray()
        while (piece := await self._in_time(read())) is not None:
            if isinstance(piece, Wanted):
                raise invalid_field("terms", Words("sent again"), "the first message only")
            if len(piece) > PIECE_BYTES:
                raise invalid_field("data", Words(f"a piece of {len(piece)} bytes"), f"at most {PIECE_BYTES}")
            total, free = len(data) + len(piece), self._book.free_bytes()
            if total > MAX_FILE_BYTES:
                raise invalid_field("data", Words("longer than any session"), f"at most {MAX_FILE_BYTES} bytes")
            if total > free + _HEADER_BYTES:
                message = f"the file is longer than the {free} bytes of state that are left"
                raise Refusal("SESSION_LIMIT", message, limit="session-memory-mib", free_bytes=free)
            hold(len(piece))
            data += piece
        return bytes(data)

    async def _session(self, wanted: Wanted, data: bytes) -> View:
        async with self._reading:
            stored, status, latest = await asyncio.to_thread(_read_session, data)
        terms = Terms(
            stored.created.config,
            wanted.tags or stored.tags,
            status.learning if wanted.learning is None else wanted.learning,
            stored.credit_events if wanted.credit_events is None else wanted.credit_events,
        )
        return await self._book.adopt(replace(stored, session_id=wanted.session_id, created=terms), status, latest)

    async def _network(self, wanted: Wanted, data: bytes) -> View:
        assert wanted.config is not None
        async with self._reading:
            config, parameters = await asyncio.to_thread(_read_network, data, wanted.config, wanted.stated)
        learning = True if wanted.learning is None else wanted.learning
        terms = Terms(config, wanted.tags, learning, wanted.credit_events)
        return await self._book.create_with(wanted.session_id, terms, parameters)

    @contextlib.contextmanager
    def _room(self) -> Iterator[Callable[[int], None]]:
        """Counts what one call holds, against the memory for all of them; a call that is alone may go over it."""
        mine = 0

        def hold(size: int) -> None:
            nonlocal mine
            if self._held_bytes > mine and self._held_bytes + size > self._memory_mib * 2**20:
                raise Refusal("OVERLOADED", "files in flight fill the memory for them", limit="transfer-memory-mib")
            mine += size
            self._held_bytes += size

        try:
            yield hold
        finally:
            self._held_bytes -= mine

    async def _in_time(self, step: Awaitable[_T]) -> _T:
        """The result of a read or write. One that takes too long is left alone: a cancelled one leaks in gRPC."""
        task = asyncio.ensure_future(step)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({task}, timeout=self._idle_timeout_s)
        if not task.done():
            limit_s = self._idle_timeout_s
            raise Refusal("STREAM_IDLE", f"nothing moved for {limit_s:g} s", timeout_s=limit_s)
        return task.result()


class _Read(NamedTuple):
    """A session that came in, and what a fold says of it."""

    stored: Stored
    status: SessionStatus
    latest: Outcomes | None


def _read_session(data: bytes) -> _Read:
    """The session of a checkpoint file. Raises Refusal if anything is wrong with it."""
    try:
        stored = unpack(data)
        fold = Fold(select_backend("numpy"))
        slot = fold.restore(stored.checkpoint)
        if slot.config != stored.created.config:
            raise ValueError("its header and its checkpoint have different configurations")
        status = fold.status(slot, scores=False)
        if max(len(stored.digests), len(stored.labels)) > status.last_sequence:
            raise ValueError("it remembers more events than there were")
        # Text that cannot be sent on cannot be served: JSON may hold halves of characters.
        json.dumps([asdict(slot.config), dict(stored.tags)], ensure_ascii=False).encode()
        return _Read(stored, status, fold.latest(slot))
    except Exception as error:  # whatever a stranger's bytes bring about is their fault
        raise _unusable(error, "a checkpoint that this version exported") from error


def _read_network(
    data: bytes, config: SessionConfig, stated: frozenset[str]
) -> tuple[SessionConfig, NDArray[np.float32]]:
    """The configuration, its network's shape taken from the file where it is not stated, and the row of parameters.
    Raises Refusal."""
    learner = LearnerConfig() if config.learner is None else config.learner
    asked = {name: getattr(learner, name) for name in _TAKEN_FROM_FILE if f"config.learner.{name}" in stated}
    try:
        tensors, cell = _tensors(data)
        network = from_torch(tensors, asked.get("cell", cell))
    except FieldError as error:
        if error.field == "cell" and "cell" in asked:
            raise invalid(error, "config.learner.") from None
        raise _invalid(f"data[{error.field}]", error.value, error.allowed) from error
    except Exception as error:  # as above
        raise _unusable(error, "a safetensors file") from error
    if network.cell in ("tanh", "relu") and asked.get("cell", cell) is None:
        raise invalid_field("config.learner.cell", Words("absent"), "tanh or relu, as the weights do not tell which")
    found = {name: getattr(network, name) for name in _TAKEN_FROM_FILE}
    for name, value in asked.items():
        if value != found[name]:
            raise invalid_field(f"config.learner.{name}", value, f"{found[name]}, as the network in the file has")
    try:
        config = replace(config, learner=replace(learner, **found)).validated()
    except FieldError as error:
        raise invalid(error, "config.") from None
    _check_ends(network, session_layout(config))
    return config, network.parameters


def _check_ends(network: TorchNetwork, layout: ParameterLayout) -> None:
    """Raises Refusal unless the network takes and gives as many numbers as the configuration has for it."""
    for field, ends, given, needed, why in (
        ("features", "inputs", layout.inputs, network.inputs, "fixed scaling gives one per feature"),
        ("horizon × targets", "outputs", layout.outputs, network.outputs, "the loss takes so many of each pair"),
    ):
        if given != needed:
            allowed = f"{needed} {ends}, as the network in the file has ({why})"
            raise invalid_field(f"config.{field}", Words(f"{given} {ends}"), allowed)


def _tensors(data: bytes) -> tuple[dict[str, NDArray[Any]], str | None]:
    """The arrays of a safetensors file, and the cell if it is of our making and says it."""
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {size} bytes, more than {MAX_HEADER_BYTES}")
    tensors = load(data)
    facts = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return tensors, facts.get("cell") if _MARK in facts else None


def _network_file(config: SessionConfig, parameters: NDArray[np.float32]) -> bytes:
    """A session's network as safetensors, equal networks as equal files. The metadata is for people; `cell` is also
    read back."""
    lists = {name: json.dumps(getattr(config, name)) for name in ("features", "targets", "labels")}
    facts = {_MARK: "1", "cell": config.portfolio[0].cell, "horizon": str(config.horizon), **lists}
    data = save(to_torch(session_layout(config), parameters), facts)
    # It writes metadata in any order. Sorted, the header is as long as before.
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":"))
    return data[:8] + header.encode().ljust(start - 8) + data[start:]


def _unusable(error: Exception, allowed: str) -> Refusal:
    """The refusal of a whole file."""
    return _invalid("data", f"unusable: {error}", allowed)


def _invalid(*texts: str) -> Refusal:
    """The refusal of a field, its value and what is allowed, in characters that can be sent and not too many of them:
    a stranger chose them."""
    field, value, allowed = (text.encode("utf-8", "backslashreplace").decode()[:_MAX_CHARS] for text in texts)
    return Refusal(
        "INVALID_FIELD", f"{field} is {value}; allowed: {allowed}", field=field, value=value, allowed=allowed
    )
