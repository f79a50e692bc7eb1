"""Labels over a real connection: with their event, late, again, contradicted, too old; through drain and restart."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bptt_core import Events, Fold, Labels, LearnerConfig, SessionConfig, select_backend

EVERY, NONE = 1, 3
REGRESS = 2
NAN = float("nan")
AGE = 6
TASK: dict[str, Any] = {"task": REGRESS, "labels": ["load", "wear"], "label_age": AGE}


@pytest.fixture
def session(rpc: Any, new_id: Any) -> str:
    name: str = new_id()
    rpc.create(name, **TASK)
    return name


def alone() -> tuple[Fold, Any]:
    """The same session in a fold of its own."""
    config = SessionConfig(
        ("x", "y"), task="regress", labels=("load", "wear"), label_age=AGE, learner=LearnerConfig(hidden=4, window=8)
    )
    fold = Fold(select_backend("numpy"))
    return fold, fold.create(config)


def counts(response: Any) -> tuple[int, int, int]:
    return response.accepted, response.duplicates, response.trainable


def test_labels_with_and_after_their_events_are_what_the_fold_alone_makes_of_them(
    rpc: Any, session: str, noise: Any
) -> None:
    events, labels = noise(60), noise(60, seed=1)
    fold, slot = alone()
    stream = rpc.stream()
    stream.open(session, reply=EVERY)
    stream.next()
    for at in range(0, 60, 6):
        values, known = events[at : at + 6], labels[at : at + 6].copy()
        known[2:5] = NAN
        stream.send(at + 1, values, labels=known)
        served = stream.next().result.outcomes
        (outs,) = fold.step([(slot, Events(values, labels=known))])
        assert np.array(served.mean).tobytes() == outs.mean.tobytes()
        assert np.array(served.upper).tobytes() == outs.upper.tobytes()
        assert np.array(served.loss, np.float32).tobytes() == outs.loss.tobytes()
        late = np.array([at + 3, at + 4])
        response = rpc.label(session, late.tolist(), labels[late - 1])
        told = fold.label(slot, Labels(late, labels[late - 1]))
        assert counts(response) == (4, 0, told.trainable) == (4, 0, 4)
    status = fold.status(slot)
    assert rpc.get(session).updates.applied == status.updates.applied > 20
    assert rpc.get(session).scores.count == status.scores.count.ravel().tolist() == [49, 49], "all but the first"


def test_an_event_is_predicted_before_its_label_is_looked_at(rpc: Any, new_id: Any, noise: Any) -> None:
    names = [new_id(), new_id()]
    tables = []
    for name, last in zip(names, (1e3, -1e3), strict=True):
        rpc.create(name, **TASK)
        labels = noise(30, seed=1)
        labels[-1] = last
        outs = rpc.ingest(name, 1, noise(30), labels=labels, reply=EVERY).outcomes
        tables.append(np.array([*outs.mean, *outs.lower]))
    assert tables[0].tobytes() == tables[1].tobytes()


def test_a_label_that_comes_again_is_counted_and_not_learned_twice(rpc: Any, session: str, noise: Any) -> None:
    rpc.ingest(session, 1, noise(10), labels=np.full((10, 2), NAN))
    assert counts(rpc.label(session, [8, 10], [[1, NAN], [2, 3]])) == (3, 0, 3)
    before = rpc.get(session)
    assert counts(rpc.label(session, [8, 10], [[1, NAN], [2, 3]])) == (0, 3, 0)
    assert counts(rpc.label(session, [8], [NAN, NAN])) == (0, 0, 0)
    assert rpc.get(session) == before
    assert counts(rpc.label(session, [8, 9], [[1, 5], [NAN, 6]])) == (2, 1, 2)


def test_a_label_known_with_the_event_may_not_change_and_nothing_of_the_request_is_taken(
    rpc: Any, session: str, noise: Any, refused: Any
) -> None:
    rpc.ingest(session, 1, noise(3), labels=[[1, 2], [NAN, 4], [-0.0, 6]])
    before = rpc.get(session)
    error = refused(lambda: rpc.label(session, [2, 3], [[3, 4], [0.0, 7]]))
    assert (error.code, error.reason) == ("ABORTED", "LABEL_CONFLICT")
    assert error.details == {"ErrorInfo", "ResourceInfo"}
    facts = {"session_id": session, "sequence": "3", "label": "wear", "last_sequence": "3"}
    assert error.facts == facts
    assert "label 'wear' of event 3" in error.message
    assert rpc.get(session) == before
    assert counts(rpc.label(session, [2, 3], [[3, 4], [0.0, 6]])) == (1, 3, 1)


def test_an_event_that_comes_again_must_have_the_labels_it_had(
    rpc: Any, session: str, noise: Any, refused: Any
) -> None:
    rpc.ingest(session, 1, noise(2), labels=[[1, NAN], [NAN, NAN]])
    rpc.label(session, [1], [NAN, 5])
    assert rpc.ingest(session, 1, noise(2), labels=[[1, NAN], [NAN, NAN]]).duplicates == 2
    assert rpc.ingest(session, 2, noise(2)[1:]).duplicates == 1, "no labels are labels that are not known"
    for labels in ([[1, 5], [NAN, NAN]], [], [[1, NAN], [0, NAN]]):
        error = refused(lambda labels=labels: rpc.ingest(session, 1, noise(2), labels=labels))
        assert error.reason == "SEQUENCE_CONFLICT"


@pytest.mark.parametrize(
    ("sequences", "labels", "reason", "text"),
    [
        ([11], [1, 2], "LABEL_UNKNOWN_SEQUENCE", "last sequence is 10"),
        ([2**64 - 1], [1, 2], "LABEL_UNKNOWN_SEQUENCE", "event 18446744073709551615"),
        ([9, 11], [1, 2, 3, 4], "LABEL_UNKNOWN_SEQUENCE", "event 11"),
        ([3], [1, 2], "LABEL_TOO_OLD", "allowed: 4..10, by label_age 6"),
        ([3, 9], [1, 2, 3, 4], "LABEL_TOO_OLD", "event 3"),
        ([0], [1, 2], "INVALID_FIELD", "sequences is 0; allowed: 4..10"),
        ([], [], "INVALID_FIELD", "sequences is 0 sequences; allowed: 1..1024"),
        ([9, 9], [1, 2, 3, 4], "INVALID_FIELD", "sequences is 9; allowed: more than the one before, 9"),
        ([9, 8], [1, 2, 3, 4], "INVALID_FIELD", "sequences is 8"),
        ([9], [1, 2, 3], "INVALID_FIELD", "labels is 3 values; allowed: 1 rows of 2"),
        ([9], [], "INVALID_FIELD", "labels is 0 values"),
        ([9], [1, float("inf")], "INVALID_FIELD", "labels[0][1] is inf"),
        ([*range(1, 1026)], np.zeros(2050), "INVALID_FIELD", "1025 sequences; allowed: 1..1024"),
    ],
)
def test_labels_that_cannot_be_taken_change_nothing(
    sequences: list[int], labels: Any, reason: str, text: str, rpc: Any, session: str, noise: Any, refused: Any
) -> None:
    rpc.ingest(session, 1, noise(10))
    before = rpc.get(session)
    error = refused(lambda: rpc.label(session, sequences, labels))
    assert error.reason == reason
    assert text in error.message
    assert rpc.get(session) == before
    assert counts(rpc.label(session, [4], [1, 2])) == (2, 0, 2), "the oldest there is"


def test_labels_are_for_one_incarnation_of_a_session(rpc: Any, session: str, noise: Any, refused: Any) -> None:
    rpc.ingest(session, 1, noise(3))
    uid = rpc.get(session).uid
    assert rpc.label(session, [1], [1, 2], uid=uid).session_uid == uid
    assert refused(lambda: rpc.label(session, [2], [1, 2], uid="0" * 32)).reason == "UID_MISMATCH"
    assert refused(lambda: rpc.label("no-such-session", [2], [1, 2])).reason == "SESSION_NOT_FOUND"


def test_late_labels_keep_their_place_among_queued_events(
    start_server: Any, connect: Any, noise: Any, gate: Any, wait_for: Any
) -> None:
    """A label of a queued event waits for it; events behind the label are predicted with what it taught."""
    server = start_server(prelude=gate.prelude)
    rpc = connect(server.target)
    rpc.create("s", **TASK)
    events = noise(12)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(rpc.ingest, "s", 1, events[:6], EVERY)
        wait_for(server, "bptt_queue_events 6.0")
        label = pool.submit(rpc.label, "s", [5], [1.0, 2.0])
        wait_for(server, 'bptt_labels_total{outcome="accepted"} 2.0')
        again = pool.submit(rpc.label, "s", [5], [1.0, 2.0])
        wait_for(server, 'bptt_labels_total{outcome="duplicate"} 2.0')
        rest = pool.submit(rpc.ingest, "s", 7, events[6:], EVERY)
        wait_for(server, "bptt_queue_events 12.0")
        assert not any(one.done() for one in (first, label, again, rest))
        gate.open()
        served = first.result(60).outcomes, rest.result(60).outcomes
        assert (counts(label.result(60)), counts(again.result(60))) == ((2, 0, 2), (0, 2, 0))
    fold, slot = alone()
    (one,) = fold.step([(slot, Events(events[:6]))])
    fold.label(slot, Labels(np.array([5]), np.array([[1.0, 2.0]])))
    (two,) = fold.step([(slot, Events(events[6:]))])
    for outs, expected in zip(served, (one, two), strict=True):
        assert np.array(outs.mean).tobytes() == expected.mean.tobytes()


def test_a_restart_keeps_what_was_said(
    start_server: Any, connect: Any, noise: Any, refused: Any, tmp_path: Path
) -> None:
    data, events, labels = tmp_path / "kept", noise(40), noise(40, seed=1)

    def begin(rpc: Any) -> None:
        rpc.create("s", **TASK)
        rpc.ingest("s", 1, events[:20], labels=np.where(np.arange(40).reshape(20, 2) % 3, labels[:20], NAN))
        rpc.label("s", [19], labels[18])

    def go_on(rpc: Any) -> bytes:
        assert counts(rpc.label("s", [19, 20], labels[18:20])) == (1, 3, 1)
        outs = rpc.ingest("s", 21, events[20:], labels=labels[20:], reply=EVERY).outcomes
        return np.array([*outs.mean, *outs.upper, *outs.loss]).tobytes()

    straight = connect(start_server().target)
    begin(straight)
    expected = go_on(straight)
    first = start_server(data=data)
    begin(connect(first.target))
    assert first.stop() == 0
    rpc = connect(start_server(data=data).target)
    for sequence in (14, 19, 20):
        other = labels[sequence - 1] + 1
        assert refused(lambda at=sequence, other=other: rpc.label("s", [at], other)).reason == "LABEL_CONFLICT"
    assert refused(lambda: rpc.label("s", [13], labels[12])).reason == "LABEL_TOO_OLD"
    assert go_on(rpc) == expected


def test_labels_that_were_not_folded_in_time_may_be_said_again(
    start_server: Any, connect: Any, noise: Any, gate: Any, wait_for: Any, refused: Any, tmp_path: Path
) -> None:
    data = tmp_path / "kept"
    server = start_server("--drain-timeout-s", "0.1", data=data, prelude=gate.prelude)
    rpc = connect(server.target)
    rpc.create("s", **TASK)
    with ThreadPoolExecutor(3) as pool:
        events = pool.submit(rpc.ingest, "s", 1, noise(4))
        wait_for(server, "bptt_queue_events 4.0")
        label = pool.submit(refused, lambda: rpc.label("s", [3], [1, 2]))
        wait_for(server, 'bptt_labels_total{outcome="accepted"} 2.0')
        server.process.terminate()
        wait_for(server, "bptt_draining 1.0")
        assert refused(lambda: rpc.label("s", [3], [1, 2])).reason == "DRAINING"
        while "are not folded in time" not in server.log():
            assert server.process.poll() is None
            time.sleep(0.005)
        gate.open()
        assert events.result(60).last_sequence == 4
        error = label.result(60)
    assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")
    assert server.stop() == 0
    rpc = connect(start_server(data=data).target)
    assert counts(rpc.label("s", [3], [1, 2])) == (2, 0, 2)
