"""Session files: what is written comes back, and what is damaged is refused by name."""

from __future__ import annotations

import contextlib
import json
import struct
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bptt_core import Categorical, LearnerConfig, SessionConfig
from server.sessions import Terms
from server.store import MAGIC, Store, Stored, StoreError, pack, unpack

UID = "0123456789abcdef" * 2


def stored(uid: str = UID) -> Stored:
    classes = Categorical("ü", ("rain", "sun"))
    learner = LearnerConfig(cell="gru", seed=2**63 - 1, loss="pinball", quantiles=(0.1, 0.9))
    config = SessionConfig(
        ("x", "ü"), learner=learner, task="regress", labels=("load",), categories=(classes,), scaling="fixed"
    ).validated()
    terms = Terms(config, {"site": "north"}, False, 7)
    digests, labels = np.array([1, 2**64 - 1], np.uint64), np.array([[1.5], [np.nan], [-0.0]])
    return Stored(uid, "a/b:c", terms, 123, {"k": "v"}, 9, digests, labels, True, b"checkpoint\0bytes")


def same(one: Stored, two: Stored) -> bool:
    return pack(one) == pack(two) and one.created == two.created and one.checkpoint == two.checkpoint


def test_what_is_packed_comes_back() -> None:
    back = unpack(pack(stored()))
    assert same(back, stored())
    assert back.digests.tolist() == [1, 2**64 - 1]
    assert back.labels.tobytes() == stored().labels.tobytes()
    assert back.labels.shape == (3, 1)
    assert back.warm_started


def test_any_damaged_byte_is_noticed() -> None:
    data = pack(stored())
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(
            ValueError, match=r"damaged|not a session file|it has version 2; this server reads version 3"
        ):
            unpack(damaged)


def test_learners_and_seasons_come_back() -> None:
    learners = (LearnerConfig(hidden=3), LearnerConfig(hidden=5, anchor="season", guard=False))
    for given in ({"learners": learners, "seasons": (24, 168)}, {"learners": learners[:1], "seasonality": "off"}, {}):
        config = SessionConfig(("x", "y"), **given).validated()
        back = unpack(pack(replace(stored(), created=Terms(config, {}, True, 7), labels=np.zeros((0, 0)))))
        assert back.created.config == config


def test_a_file_of_an_older_version_is_refused_by_its_version(tmp_path: Path) -> None:
    data = pack(stored())
    old = data[: len(MAGIC) - 1] + b"2" + data[len(MAGIC) : -32]
    with contextlib.closing(Store(tmp_path)) as store:
        path = tmp_path / "sessions" / f"{UID}.session"
        path.write_bytes(old + blake2b(old, digest_size=32).digest())
        with pytest.raises(StoreError, match=f"{UID}.session is not usable: it has version 2; this server reads ver"):
            list(store.load())
        assert path.exists()


def test_any_missing_end_is_noticed() -> None:
    data = pack(stored())
    for end in range(len(data)):
        with pytest.raises(ValueError, match=r"damaged|not a session file"):
            unpack(data[:end])


def test_saved_sessions_load_and_removed_ones_do_not(tmp_path: Path) -> None:
    other = "f" * 32
    with contextlib.closing(Store(tmp_path)) as store:
        for uid in (UID, other):
            store.save(stored(uid))
        store.save(stored(other))
        store.sync()
        assert [one.uid for one in store.load()] == [UID, other]
        store.remove(UID)
        store.remove(UID)
        assert [one.uid for one in store.load()] == [other]
    assert {path.name for path in (tmp_path / "sessions").iterdir()} == {f"{other}.session"}


@pytest.mark.parametrize("content", [b"", b"short", pack(stored())[:-1], pack(stored("e" * 32))])
def test_a_file_that_does_not_verify_is_named_and_kept(content: bytes, tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path)) as store:
        path = tmp_path / "sessions" / f"{UID}.session"
        path.write_bytes(content)
        with pytest.raises(StoreError, match=f"{UID}.session is not usable"):
            list(store.load())
        assert path.read_bytes() == content


def test_a_half_written_file_is_not_taken_for_a_session(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path)) as store:
        store.save(stored())
    (tmp_path / "sessions" / f"{'d' * 32}.tmp").write_bytes(b"half")
    with contextlib.closing(Store(tmp_path)) as store:
        assert [one.uid for one in store.load()] == [UID]
    assert len(list((tmp_path / "sessions").iterdir())) == 1


def test_what_a_server_did_not_leave_behind_stays(tmp_path: Path) -> None:
    (tmp_path / "sessions" / "x.tmp").mkdir(parents=True)
    (tmp_path / "sessions" / "notes.tmp").write_text("mine")
    Store(tmp_path).close()
    assert len(list((tmp_path / "sessions").iterdir())) == 2


@pytest.mark.parametrize(
    "wrong",
    [{"tags": ["ab"]}, {"tags": 5}, {"tags": {"k": 1}}, {"session_id": ["s"]}, {"credit_events": "9"}],
)
def test_a_header_with_values_of_another_type_is_refused(wrong: dict[str, Any]) -> None:
    body = pack(stored())
    (size,) = struct.unpack_from("<Q", body, len(MAGIC))
    at = len(MAGIC) + 8
    header = json.dumps({**json.loads(body[at : at + size]), **wrong}).encode()
    changed = MAGIC + struct.pack("<Q", len(header)) + header + body[at + size : -32]
    with pytest.raises(ValueError, match="in the place of"):
        unpack(changed + blake2b(changed, digest_size=32).digest())


def test_the_directory_belongs_to_one_store_at_a_time(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path)), pytest.raises(StoreError, match="another server"):
        Store(tmp_path)
    Store(tmp_path).close()


def test_a_directory_that_cannot_be_made_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot use the data directory"):
        Store(tmp_path / "file")
