"""Bytes that are not a checkpoint of this version, or a damaged one, are a CheckpointError and make nothing."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt_core import CheckpointError, Events, Fold

PREFIX = struct.Struct("<8sII")
DIGEST_BYTES = 32


@pytest.fixture
def saved(new_fold: Callable[[], Fold], make_config: Any, random_walks: Any) -> bytes:
    fold = new_fold()
    slot = fold.create(make_config(2, targets=("f1",), horizon=2, seasons=(3,)))
    fold.step([(slot, Events(random_walks(20, 2)))])
    return fold.checkpoint(slot)


def assert_refused(fold: Fold, data: bytes, match: str = ".") -> None:
    with pytest.raises(CheckpointError, match=match):
        fold.restore(data)
    assert not fold._store.slabs, "something was made"


def signed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def header_of(data: bytes) -> dict[str, Any]:
    _, _, length = PREFIX.unpack_from(data)
    return json.loads(data[PREFIX.size : PREFIX.size + length])


def with_header(data: bytes, header: object) -> bytes:
    """The same checkpoint with another header, and with the checksum that goes with it."""
    magic, version, length = PREFIX.unpack_from(data)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    arrays = data[PREFIX.size + length : -DIGEST_BYTES]
    return signed(PREFIX.pack(magic, version, len(text)) + text + arrays)


def test_the_undamaged_one_is_accepted(fold: Fold, saved: bytes) -> None:
    assert fold.checkpoint(fold.restore(saved)) == saved
    assert fold.checkpoint(fold.restore(with_header(saved, header_of(saved)))) == saved


def test_any_flipped_byte_is_noticed(fold: Fold, saved: bytes) -> None:
    rng = np.random.default_rng(0)
    places = [*range(PREFIX.size + 4), len(saved) - 1, len(saved) - DIGEST_BYTES, *rng.integers(0, len(saved), 60)]
    for place in places:
        damaged = bytearray(saved)
        damaged[place] ^= 1 << int(rng.integers(8))
        assert_refused(fold, bytes(damaged))


def test_any_truncation_is_noticed(fold: Fold, saved: bytes) -> None:
    rng = np.random.default_rng(1)
    for length in [0, 1, 7, 8, 15, 16, 47, 48, 49, len(saved) - 1, *rng.integers(0, len(saved), 40)]:
        assert_refused(fold, saved[:length])
    assert_refused(fold, saved + b"\0", "checksum")


def test_others_are_named(fold: Fold, saved: bytes) -> None:
    _, version, length = PREFIX.unpack_from(saved)
    rest = saved[PREFIX.size : -DIGEST_BYTES]
    assert_refused(fold, signed(PREFIX.pack(b"PK\3\4ckpt", version, length) + rest), "does not begin like")
    assert_refused(fold, signed(PREFIX.pack(b"BPTTCKPT", version + 1, length) + rest), f"version {version + 1}")
    assert_refused(fold, signed(PREFIX.pack(b"BPTTCKPT", version, 2**32 - 1) + rest), "header")
    assert_refused(fold, b"", "too few")


TAMPERED = {
    "not JSON": b"{",
    "not text": b"\xff\xfe\xfd",
    "deep": b"[" * 100_000,
    "no object": [1, 2],
    "empty": {},
    "no arrays": lambda h: h.pop("arrays"),
    "no learner": lambda h: h["config"].pop("learner"),
    "unknown field": lambda h: h["config"].update(colour="red"),
    "unknown learner field": lambda h: h["config"]["learner"].update(colour="red"),
    "bad cell": lambda h: h["config"]["learner"].update(cell="transformer"),
    "cell of another type": lambda h: h["config"]["learner"].update(cell=["lstm"]),
    "another hidden": lambda h: h["config"]["learner"].update(hidden=5),
    "another window": lambda h: h["config"]["learner"].update(window=33),
    "another default window": lambda h: h["config"]["learner"].update(window=None, hidden=5),
    "number as text": lambda h: h["config"].update(horizon="2"),
    "number too long for a float": lambda h: h["config"].update(coverage=10**400),
    "not a number": lambda h: h["config"]["learner"].update(clip_norm=float("nan")),
    "features no list": lambda h: h["config"].update(features=3),
    "features of another type": lambda h: h["config"].update(features=[["a"], ["b"]]),
    "array missing": lambda h: h["arrays"].pop(),
    "array renamed": lambda h: h["arrays"][0].__setitem__(0, "other"),
    "array of objects": lambda h: h["arrays"][0].__setitem__(1, "|O"),
    "array of nothing": lambda h: h["arrays"][0].__setitem__(1, "|V0"),
    "array of dates": lambda h: h["arrays"][0].__setitem__(1, "<M8[s]"),
    "no type": lambda h: h["arrays"][0].__setitem__(1, "quaternion"),
    "negative": lambda h: h["arrays"][0].__setitem__(2, [-1]),
    "huge": lambda h: h["arrays"][0].__setitem__(2, [2**40, 2**40]),
    "huge and empty": lambda h: h["arrays"][0].__setitem__(2, [2**70, 0]),
    "not a count": lambda h: h["arrays"][0].__setitem__(2, [float("inf")]),
    "longer": lambda h: next(shape for _, _, shape in h["arrays"] if len(shape) == 1).__setitem__(0, 99),
    "entry too short": lambda h: h["arrays"].__setitem__(0, ["params"]),
    "table no list": lambda h: h.update(arrays=7),
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_header_with_the_right_checksum_is_refused(fold: Fold, saved: bytes, change: Any) -> None:
    header = change
    if callable(change):
        header = header_of(saved)
        change(header)
    assert_refused(fold, with_header(saved, header))


def test_a_default_in_the_header_is_filled_in(fold: Fold, saved: bytes) -> None:
    """A configuration need not be written out in full to be the same configuration."""
    header = header_of(saved)
    assert header["config"]["learner"]["window"] == 32
    header["config"]["learner"]["window"] = None
    assert fold.checkpoint(fold.restore(with_header(saved, header))) == saved


def test_nothing_is_unpickled(fold: Fold, saved: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("unpickled")

    for name in ("pickle.load", "pickle.loads", "numpy.load"):
        monkeypatch.setattr(name, refuse)
    fold.checkpoint(fold.restore(saved))


def test_the_documented_layout(fold: Fold, make_config: Any) -> None:
    """Parameters are in canonical order: wx, wh, b, wo, bo; a new LSTM has forget-gate bias 1 and readout 0."""
    config = make_config(2, hidden=3, horizon=2)
    data = fold.checkpoint(fold.create(config))
    header = header_of(data)
    names = [name for name, _, _ in header["arrays"]]
    (place,) = (k for k, name in enumerate(names) if name == "learner0.params")
    _, kind, (size,) = header["arrays"][place]
    inputs, gates, outputs = 6, 4 * 3, 2 * 2
    assert (kind, size) == ("<f4", inputs * gates + 3 * gates + gates + 3 * outputs + outputs)
    before = sum(np.dtype(kind).itemsize * math.prod(shape) for _, kind, shape in header["arrays"][:place])
    start = PREFIX.size + PREFIX.unpack_from(data)[2] + before
    row = np.frombuffer(data, "<f4", size, start)
    bias = row[(inputs + 3) * gates :][:gates]
    assert bias.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert not row[(inputs + 3 + 1) * gates :].any()
    recurrent = row[inputs * gates : (inputs + 3) * gates].reshape(3, 4, 3)
    for gate in range(4):
        np.testing.assert_allclose(recurrent[:, gate].T @ recurrent[:, gate], np.eye(3), atol=1e-6)
    assert header["fingerprint"].startswith("numpy/")
