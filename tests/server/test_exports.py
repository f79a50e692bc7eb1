"""Sessions as files: what is exported goes on to the same bits wherever it is imported, and nothing else is let in."""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b, sha256
from typing import Any

import grpc
import numpy as np
import pytest
from copies import check_labels_are_remembered
from safetensors.numpy import load

from bptt.v1 import config_pb2, session_pb2
from bptt_core import Categorical, FieldError, LearnerConfig, SessionConfig, session_bytes
from bptt_core.checkpoint import dump
from bptt_core.checkpoint import load as load_checkpoint
from server.exports import MAX_FILE_BYTES, PIECE_BYTES
from server.store import MAGIC, pack, unpack

CHECKPOINT, SAFETENSORS = 1, 2
EVERY, NONE = 1, 3
SECONDS = 10**9
EXPORTS = 'grpc_method="ExportSession",grpc_service="bptt.v1.SessionService",grpc_type="server_stream"'
IMPORTS = 'grpc_method="ImportSession",grpc_service="bptt.v1.SessionService",grpc_type="client_stream"'
SMALL = {"features": ("x",), "hidden": 2, "window": 3}


def export(rpc: Any, session_id: str, uid: str = "", kind: int = 0) -> bytes:
    request = session_pb2.ExportSessionRequest(session_id=session_id, session_uid=uid, format=kind)
    return b"".join(response.data for response in rpc.sessions.ExportSession(request, timeout=60))


def requests(session_id: str, data: bytes, size: int = PIECE_BYTES, **terms: Any) -> Iterator[Any]:
    yield session_pb2.ImportSessionRequest(terms=session_pb2.ImportTerms(session_id=session_id, **terms))
    for at in range(0, len(data), size):
        yield session_pb2.ImportSessionRequest(data=data[at : at + size])


def send(rpc: Any, messages: Iterator[Any]) -> Any:
    return rpc.sessions.ImportSession(messages, timeout=60).session


def take_in(rpc: Any, session_id: str, data: bytes, **terms: Any) -> Any:
    return send(rpc, requests(session_id, data, **terms))


def code_of(call: Callable[[], Any]) -> str:
    """What a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def times(first: int, stop: int) -> list[int]:
    return [n * SECONDS for n in range(first, stop + 1)]


def test_a_checkpoint_goes_on_to_the_same_bits_here_and_elsewhere(
    server: Any, rpc: Any, start_server: Any, connect: Any, new_id: Any, noise: Any
) -> None:
    other, name, copy, events = connect(start_server().target), new_id(), new_id(), noise(200)
    events[50:60, 1] = np.nan
    rpc.create(name, cell=2, horizon=2, stride=3, tags={"site": "a"}, limits={"credit_events": 700})
    rpc.ingest(name, 1, events[:120], times=times(1, 120))
    request = session_pb2.UpdateSessionRequest(session_id=name, changes={"learning_rate": 0.01, "tags": {"site": "b"}})
    request.update_mask.paths.extend(["learning_rate", "tags"])
    rpc.sessions.UpdateSession(request)
    before = rpc.get(name), rpc.forecast(name)
    data = export(rpc, name)
    assert (rpc.get(name), rpc.forecast(name)) == before

    for place in (rpc, other):
        made = take_in(place, copy, data)
        assert rpc.plain(made) == rpc.plain(before[0])
        assert made.uid != before[0].uid
        assert place.get(copy) == made
        assert place.forecast(copy).outcome == before[1].outcome
        repeated = place.ingest(copy, 100, events[99:120], times=times(100, 120))
        assert (repeated.duplicates, repeated.outcomes) == (21, before[1].outcome)

    rest = {"first": 121, "values": events[120:], "times": times(121, 200), "reply": EVERY}
    expected = rpc.ingest(name, **rest).SerializeToString(deterministic=True)
    for place in (rpc, other):
        assert place.ingest(copy, **rest).SerializeToString(deterministic=True) == expected
        assert rpc.plain(place.get(copy)) == rpc.plain(rpc.get(name))


def test_a_conflict_is_still_one_after_the_import(rpc: Any, new_id: Any, noise: Any, refused: Any) -> None:
    name, copy = new_id(), new_id()
    rpc.create(name)
    rpc.ingest(name, 1, noise(20))
    take_in(rpc, copy, export(rpc, name))
    assert refused(lambda: rpc.ingest(copy, 15, noise(1, seed=9))).reason == "SEQUENCE_CONFLICT"
    assert refused(lambda: rpc.ingest(copy, 22, noise(1))).reason == "SEQUENCE_GAP"


def test_labels_are_remembered_after_the_import(rpc: Any, new_id: Any, noise: Any, refused: Any) -> None:
    name, copy, events = new_id(), new_id(), noise(40)
    labels = np.where(np.arange(40) % 3, events.sum(axis=1), np.nan)
    rpc.create(name, task=2, labels=["z"], label_age=12)
    rpc.ingest(name, 1, events[:30], labels=labels[:30])
    rpc.label(name, [22, 25], events.sum(axis=1)[[21, 24]])
    take_in(rpc, copy, export(rpc, name))
    check_labels_are_remembered(rpc, refused, name, copy, events, EVERY)
    assert rpc.plain(rpc.get(copy)) == rpc.plain(rpc.get(name))


def test_the_terms_of_an_import_win_over_those_of_the_checkpoint(rpc: Any, new_id: Any, noise: Any) -> None:
    name, copy = new_id(), new_id()
    rpc.create(name, tags={"site": "a"})
    rpc.ingest(name, 1, noise(20))
    made = take_in(
        rpc, copy, export(rpc, name), tags={"site": "b", "k": "v"}, learning=False, limits={"credit_events": 9}
    )
    assert dict(made.tags) == {"site": "b", "k": "v"}
    assert (made.learning, made.limits.credit_events, made.last_sequence) == (False, 9, 20)
    rpc.ingest(copy, 21, noise(5))
    assert rpc.get(copy).updates.learning_off == 5
    # As it was created: with these terms, and with the configuration of the checkpoint.
    assert not rpc.create(copy, tags={"site": "b", "k": "v"}, learning=False).created


def test_an_export_holds_the_events_queued_before_it(
    start_server: Any, connect: Any, noise: Any, gate: Any, wait_for: Any
) -> None:
    server = start_server(prelude=gate.prelude)
    rpc = connect(server.target)
    rpc.create("s")
    with ThreadPoolExecutor(4) as pool:
        pool.submit(rpc.ingest, "s", 1, noise(100))
        wait_for(server, "bptt_queue_events 100.0")
        data = pool.submit(export, rpc, "s")
        network = pool.submit(export, rpc, "s", kind=SAFETENSORS)
        wait_for(server, f"grpc_server_started_total{{{EXPORTS}}} 2.0")
        pool.submit(rpc.ingest, "s", 101, noise(7))
        wait_for(server, "bptt_queue_events 107.0")
        gate.open()
        made = take_in(rpc, "copy", data.result(60))
        tensors = load(network.result(60))
    assert made.last_sequence == 100
    assert {name: array.tobytes() for name, array in load(export(rpc, "copy", kind=SAFETENSORS)).items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }
    assert rpc.ingest("copy", 1, noise(100)).duplicates == 100


def test_a_file_comes_and_goes_in_pieces(rpc: Any, new_id: Any, noise: Any) -> None:
    name = new_id()
    rpc.create(name, hidden=96)
    rpc.ingest(name, 1, noise(20))
    request = session_pb2.ExportSessionRequest(session_id=name, session_uid=rpc.get(name).uid)
    pieces = [response.data for response in rpc.sessions.ExportSession(request)]
    assert len(pieces) > 3
    assert {len(piece) for piece in pieces[:-1]} == {PIECE_BYTES} == {64 * 1024}
    assert 0 < len(pieces[-1]) <= PIECE_BYTES
    for size in (PIECE_BYTES, 9973):
        copy = new_id()
        assert rpc.plain(send(rpc, requests(copy, b"".join(pieces), size))) == rpc.plain(rpc.get(name))
        rpc.delete(copy)


def small(rpc: Any, new_id: Any, **config: Any) -> bytes:
    """A checkpoint of a few kilobytes."""
    name = new_id()
    rpc.create(name, **{**SMALL, **config})
    rpc.ingest(name, 1, np.arange(6.0))
    return export(rpc, name)


def resealed(data: bytes, **header: Any) -> bytes:
    """The file with other values in its header and a checksum that fits."""
    (size,) = struct.unpack_from("<Q", data, len(MAGIC))
    at = len(MAGIC) + 8
    text = json.dumps({**json.loads(data[at : at + size]), **header}).encode()
    body = MAGIC + struct.pack("<Q", len(text)) + text + data[at + size : -32]
    return body + blake2b(body, digest_size=32).digest()


def with_config(data: bytes, **changed: Any) -> bytes:
    (size,) = struct.unpack_from("<Q", data, len(MAGIC))
    created = json.loads(data[len(MAGIC) + 8 :][:size])["created"]
    return resealed(data, created={**created, "config": {**created["config"], **changed}})


def with_state(data: bytes, **changed: float) -> bytes:
    """The file with other numbers in its learned state and checksums that fit."""
    stored = unpack(data)
    config, arrays = load_checkpoint(stored.checkpoint)
    other = {name: np.asarray(value, arrays[name].dtype) for name, value in changed.items()}
    return pack(replace(stored, checkpoint=dump(config, "a test", {**arrays, **other})))


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda data: b"", "not a session file"),
    "text": (lambda data: b"sequence,x\n1,2\n", "not a session file"),
    "cut short": (lambda data: data[:-1], "checksum is wrong"),
    "something behind it": (lambda data: data + b"\0", "checksum is wrong"),
    "a header of another kind": (lambda data: resealed(data, created=[]), "unusable"),
    "a header without a field": (lambda data: resealed(data, tags=None), "unusable"),
    "another configuration": (lambda data: with_config(data, coverage=0.8), "different configurations"),
    "a configuration out of range": (lambda data: with_config(data, horizon=0), "horizon is 0; allowed: 1..256"),
    "half a character": (lambda data: with_config(data, features=["\ud800"]), "unusable"),
    "half a character in a tag": (lambda data: resealed(data, tags={"k": "\ud800"}), "surrogates not allowed"),
    "a list for a name": (lambda data: with_config(data, features=[["x"]]), "features is ['x']"),
    "a deep header": (lambda data: resealed(data, tags=json.loads("[" * 900 + "]" * 900)), "unusable"),
    "a long header": (lambda data: resealed(data, more="x" * 2**20), "more than 1048576"),
    "more digests than events": (
        lambda data: pack(replace(unpack(data), digests=np.ones(7, np.uint64))),
        "remembers more events than there were",
    ),
    "a window of more rows than it has": (
        lambda data: with_state(data, **{"learner0.length": 9}), "learner0.length is not in 0..4"
    ),
    "a count below zero": (
        lambda data: with_state(data, **{"learner0.applied": -1}), "learner0.applied is not in 0.."
    ),
    "powers without bound": (
        lambda data: with_state(data, **{"learner0.beta1": 1e308}), "learner0.beta1 is not that of its configuration"
    ),
    "a negative number of digests": (lambda data: resealed(data, digests=-1), "unusable"),
    "too many tags": (lambda data: resealed(data, tags={str(n): "" for n in range(33)}), "at most 32"),
    "no credit": (lambda data: resealed(data, credit_events=0), "limits.credit_events is 0"),
    "an older version": (
        lambda data: MAGIC[:-1] + b"2" + data[len(MAGIC) :], "it has version 2; this server reads version 3"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_checkpoint_is_refused_and_makes_nothing(
    name: str, rpc: Any, new_id: Any, refused: Any
) -> None:
    change, text = FILES[name]
    data, copy = small(rpc, new_id), new_id()
    error = refused(lambda: take_in(rpc, copy, change(data)))
    assert (error.code, error.reason, error.details) == (
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        {"ErrorInfo", "BadRequest"},
    )
    assert text in error.message
    assert len(error.message) < 600
    assert refused(lambda: rpc.get(copy)).reason == "SESSION_NOT_FOUND"


def test_damage_anywhere_is_the_senders_mistake_and_makes_nothing(rpc: Any, new_id: Any, refused: Any) -> None:
    data, copy = small(rpc, new_id), new_id()
    for at in range(0, len(data), 97):
        damaged = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
        error = refused(lambda damaged=damaged: take_in(rpc, copy, damaged))
        assert (error.code, error.facts["field"]) == ("INVALID_ARGUMENT", "data"), at
    assert refused(lambda: rpc.get(copy)).reason == "SESSION_NOT_FOUND"
    assert take_in(rpc, copy, data).last_sequence == 6


def test_damage_with_checksums_that_fit_never_breaks_the_server(rpc: Any, new_id: Any, refused: Any) -> None:
    """Someone may mean harm: both checksums are made anew over the damage."""
    data, copy, taken = small(rpc, new_id, seasons=[2], stride=2), new_id(), 0
    start = data.index(b"BPTTCKPT")
    for at in range(0, len(data) - 64, 97):
        body = data[:at] + bytes([data[at] ^ 0x81]) + data[at + 1 :]
        inner = body[start:-64]
        body = body[:start] + inner + sha256(inner).digest()
        body += blake2b(body, digest_size=32).digest()
        code = code_of(lambda body=body: take_in(rpc, copy, body))
        assert code in ("OK", "INVALID_ARGUMENT"), at
        if code == "OK":
            taken += 1
            rpc.ingest(copy, rpc.get(copy).last_sequence + 1, np.ones(5), reply=EVERY)
            rpc.delete(copy)
    assert taken


REQUESTS: dict[str, tuple[Callable[[str, bytes], Iterator[Any]], str]] = {
    "no message": (lambda name, data: iter(()), "terms is absent; allowed: the first message"),
    "no terms": (lambda name, data: itertools.islice(requests(name, data), 1, None), "terms is absent"),
    "terms twice": (
        lambda name, data: itertools.chain(requests(name, data), requests(name, data)), "terms is sent again"
    ),
    "an empty message": (
        lambda name, data: itertools.chain(requests(name, data), [session_pb2.ImportSessionRequest()]),
        "request is absent; allowed: terms or data",
    ),
    "a large piece": (lambda name, data: requests(name, bytes(PIECE_BYTES + 1), 2**17), "a piece of 65537 bytes"),
    "a larger message": (lambda name, data: requests(name, bytes(2**18), 2**18), "at most 131072 bytes"),
    "unknown format": (lambda name, data: requests(name, data, format=7), "format is 7"),
    "a configuration": (
        lambda name, data: requests(name, data, config=config_pb2.SessionConfig(features=["x"])), "config is set"
    ),
    "no configuration": (lambda name, data: requests(name, data, format=SAFETENSORS), "config is absent"),
    "bad id": (lambda name, data: requests("no good", data), "session_id is 'no good'"),
    "bad tags": (lambda name, data: requests(name, data, tags={"": "v"}), "keys of 1..64"),
    "bad credit": (lambda name, data: requests(name, data, limits={"credit_events": 0}), "1..65536"),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_a_bad_request_is_refused_and_makes_nothing(name: str, rpc: Any, new_id: Any, refused: Any) -> None:
    messages, text = REQUESTS[name]
    data, copy = small(rpc, new_id), new_id()
    error = refused(lambda: send(rpc, messages(copy, data)))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert text in error.message
    assert refused(lambda: rpc.get(copy)).reason == "SESSION_NOT_FOUND"


def test_an_export_is_refused_for_what_is_not_there(rpc: Any, new_id: Any, refused: Any) -> None:
    name = new_id()
    assert refused(lambda: export(rpc, name)).reason == "SESSION_NOT_FOUND"
    rpc.create(name)
    assert refused(lambda: export(rpc, name, uid="0" * 32)).reason == "UID_MISMATCH"
    assert refused(lambda: export(rpc, name, kind=7)).facts["field"] == "format"


def test_an_id_is_taken_once(rpc: Any, new_id: Any, refused: Any) -> None:
    name = new_id()
    rpc.create(name)
    data, before = export(rpc, name), rpc.get(name)
    error = refused(lambda: take_in(rpc, name, data))
    assert (error.code, error.reason, error.facts["session_id"]) == ("ALREADY_EXISTS", "SESSION_EXISTS", name)
    assert rpc.get(name) == before
    copy = new_id()

    with ThreadPoolExecutor(8) as pool:
        codes = [*pool.map(lambda _: code_of(lambda: take_in(rpc, copy, data)), range(16))]
    assert sorted(codes) == ["ALREADY_EXISTS"] * 15 + ["OK"]
    assert rpc.get(copy).uid != before.uid


class Endless:
    """Terms, and then pieces for as long as they are taken."""

    def __init__(self, session_id: str) -> None:
        self._first, self.sent_bytes = requests(session_id, b""), 0

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> Any:
        for terms in self._first:
            return terms
        self.sent_bytes += PIECE_BYTES
        return session_pb2.ImportSessionRequest(data=bytes(PIECE_BYTES))


def test_who_sends_for_ever_is_cut_off(start_server: Any, connect: Any, refused: Any) -> None:
    rpc, messages = connect(start_server("--session-memory-mib", "4").target), Endless("s")
    error = refused(lambda: send(rpc, messages))
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "SESSION_LIMIT")
    assert error.facts["limit"] == "session-memory-mib"
    assert messages.sent_bytes < 64 * 2**20
    limit = 20 * PIECE_BYTES
    short = f"import server.exports; server.exports.MAX_FILE_BYTES = {limit}"
    error = refused(lambda: send(connect(start_server(prelude=short).target), Endless("s")))
    assert (error.code, error.facts["field"]) == ("INVALID_ARGUMENT", "data")
    assert error.message == f"data is longer than any session; allowed: at most {limit} bytes"


NAMES = tuple(f"n{k}" for k in range(64))


TINY = LearnerConfig(hidden=1)
GROWING: dict[str, Callable[[int], SessionConfig]] = {  # more and more of something, up to more than there may be
    "units": lambda n: SessionConfig(
        NAMES, targets=NAMES[:1], learner=LearnerConfig(hidden=8 * n, window=1024, layers=4)
    ),
    "learners": lambda n: SessionConfig(NAMES[:4], learners=(LearnerConfig(hidden=8 * n),) * 16),
    "targets": lambda n: SessionConfig(NAMES[:n], horizon=200, learner=TINY),
    "targets of a portfolio": lambda n: SessionConfig(NAMES[:n], horizon=200),
    "labels": lambda n: SessionConfig(("x",), task="regress", labels=NAMES[:n], label_age=65_536, learner=TINY),
    "symbols": lambda n: SessionConfig(
        ("x",), horizon=250, task="classify", learner=TINY,
        categories=(Categorical("x", tuple(map(str, range(4 * n)))),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROWING)
def test_the_longest_file_holds_the_largest_session(name: str) -> None:
    sizes: list[int] = []
    for n in range(1, 65):
        with contextlib.suppress(FieldError):
            config = GROWING[name](n).validated()
            sizes.append(session_bytes(config) + 8 * len(config.labels) * ((config.label_age or 0) + 1))
    assert 40 * 2**20 < max(sizes) < MAX_FILE_BYTES


def test_files_in_flight_keep_within_their_memory(start_server: Any, connect: Any, refused: Any, wait_for: Any) -> None:
    server = start_server("--transfer-memory-mib", "1")
    rpc = connect(server.target)
    rpc.create("s", hidden=110)
    data, gate = export(rpc, "s"), threading.Event()
    assert 2**19 < len(data) < 2**20
    most = len(data) // PIECE_BYTES

    def halting() -> Iterator[Any]:
        yield from itertools.islice(requests("a", data), 1 + most)
        gate.wait(60)

    call = rpc.sessions.ImportSession.future(halting(), timeout=60)
    wait_for(server, f"grpc_server_msg_received_total{{{IMPORTS}}} {1 + most}.0")
    error = refused(lambda: export(rpc, "s"))
    assert (error.reason, error.facts["limit"]) == ("OVERLOADED", "transfer-memory-mib")
    error = refused(lambda: take_in(rpc, "b", data))
    assert (error.reason, error.facts["limit"]) == ("OVERLOADED", "transfer-memory-mib")
    call.cancel()
    gate.set()
    while (code := code_of(lambda: take_in(rpc, "b", data))) != "OK":  # until the server knows that the caller is gone
        assert code == "RESOURCE_EXHAUSTED"
    assert rpc.plain(rpc.get("b")) == rpc.plain(rpc.get("s"))
    assert refused(lambda: rpc.get("a")).reason == "SESSION_NOT_FOUND"


def test_files_are_refused_while_draining(
    start_server: Any, connect: Any, noise: Any, refused: Any, gate: Any, wait_for: Any
) -> None:
    server = start_server(prelude=gate.prelude)
    rpc = connect(server.target)
    rpc.create("s")
    data, stream = export(rpc, "s"), rpc.stream()
    stream.open("s")
    stream.next()
    stream.send(1, noise(100))
    wait_for(server, "bptt_queue_events 100.0")
    server.process.terminate()
    wait_for(server, "bptt_draining 1.0")
    for call in (lambda: export(rpc, "s"), lambda: export(rpc, "s", kind=SAFETENSORS), lambda: take_in(rpc, "t", data)):
        error = refused(call)
        assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")
    gate.open()
    stream.rest()
    assert server.stop() == 0
    assert "1 of 1 sessions written" in server.log()


def test_an_import_that_stalls_is_ended(start_server: Any, connect: Any, refused: Any) -> None:
    rpc, gate = connect(start_server("--stream-idle-timeout-s", "0.2").target), threading.Event()

    def stalling() -> Iterator[Any]:
        yield from requests("s", b"x")
        gate.wait(60)

    error = refused(lambda: send(rpc, stalling()))
    gate.set()
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "STREAM_IDLE")


def test_limits_of_the_importing_server_hold(
    start_server: Any, connect: Any, rpc: Any, new_id: Any, refused: Any
) -> None:
    wide, name = new_id(), new_id()
    rpc.create(wide, features=[str(n) for n in range(32)], horizon=60, window=64, hidden=1)
    rpc.create(name, hidden=160)
    server = start_server("--max-sessions", "2", "--session-memory-mib", "2", "--max-message-bytes", str(2**18))
    there = connect(server.target)
    error = refused(lambda: take_in(there, "wide", export(rpc, wide)))
    assert (error.code, error.facts["limit"]) == ("RESOURCE_EXHAUSTED", "session-memory-mib")
    take_in(there, "one", export(rpc, name))
    error = refused(lambda: take_in(there, "two", export(rpc, name)))
    assert (error.code, error.facts["limit"]) == ("RESOURCE_EXHAUSTED", "session-memory-mib")
    there.create("small", **SMALL)
    error = refused(lambda: take_in(there, "three", small(rpc, new_id)))
    assert (error.code, error.facts["limit"]) == ("RESOURCE_EXHAUSTED", "2")
    for session in ("wide", "two", "three"):
        assert refused(lambda session=session: there.get(session)).reason == "SESSION_NOT_FOUND"
