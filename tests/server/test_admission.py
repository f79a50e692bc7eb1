"""The rules of admission, without a server: digests, repeats, credit, and that a refusal changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bptt_core import Events, SessionConfig
from server.batches import Batch
from server.digests import REMEMBERED, Ring, digests
from server.errors import Refusal
from server.sessions import Record, Terms, admit, check_same, examine
from server.sizes import batch_events, event_bytes

NAN = float("nan")
ROOM = 10**6


def record(credit: int = 1024, **config: Any) -> Record:
    values = SessionConfig(**{"features": ("x", "y"), **config}).validated()
    return Record("s", "u", Terms(values, {}, True, None), 0, {}, credit, 2000)


def sent(first: int, values: Any, times: Any = None) -> Batch:
    return Batch("", first, np.asarray(values, float).ravel(), None if times is None else np.asarray(times, np.int64))


def take(one: Record, batch: Batch, room: int = ROOM) -> Any:
    admission = examine(one, batch, room)
    admit(one, admission)
    return admission


def reason(one: Record, batch: Batch, room: int = ROOM) -> str:
    with pytest.raises(Refusal) as caught:
        examine(one, batch, room)
    return caught.value.reason


def state(one: Record) -> tuple[Any, ...]:
    return one.admitted, one.pending_events, one.timed, one.admitted_timestamp_ns, one.ring.recent().tobytes()


def test_equal_content_has_equal_digests_whatever_the_nan() -> None:
    other_nan = np.array([0x7FF8000000000123], np.uint64).view(np.float64)[0]
    one = digests(Events(np.array([[1.0, NAN], [2.0, 3.0]])))
    two = digests(Events(np.array([[1.0, other_nan], [2.0, 3.0]])))
    assert one.tolist() == two.tolist()
    assert one[0] != one[1]


def test_an_event_has_the_same_digest_alone_and_among_others() -> None:
    values = np.array([[1.0, NAN], [-0.0, 3.0], [1e-300, -5.0]])
    together = digests(Events(values)).tolist()
    assert [int(digests(Events(values[k : k + 1]))[0]) for k in range(3)] == together
    nowhere = np.zeros(3, bool)
    assert digests(Events(values, None, None, nowhere)).tolist() == together


@pytest.mark.parametrize("width", [1, 2, 40])
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, 2e100])
def test_a_value_that_is_no_event_is_refused_wherever_it_stands(width: int, wrong: float) -> None:
    """A look at the largest value must not let it pass, whatever is before it."""
    one = record(features=tuple(f"c{k}" for k in range(width)))
    for rows in (1, 3, 30):
        for before in (0.0, NAN):
            values = np.full((rows, width), before)
            examine(one, sent(1, values), ROOM)
            values[-1, -1] = wrong
            assert reason(one, sent(1, values)) == "INVALID_FIELD"


def test_the_two_zeros_are_the_same_content() -> None:
    one = record()
    take(one, sent(1, [[-0.0, 1.0], [0.0, NAN]]))
    assert examine(one, sent(1, [[0.0, 1.0], [-0.0, NAN]]), ROOM).duplicates == 2


def test_a_digest_depends_on_every_value_and_on_the_timestamp() -> None:
    values, times = np.array([[1.0, 2.0]]), np.array([5])
    seen = {int(digests(events)[0]) for events in (
        Events(values), Events(values[:, ::-1].copy()), Events(values + 1e-9), Events(values, times),
        Events(values, times + 1),
    )}  # fmt: skip
    assert len(seen) == 5


@pytest.mark.parametrize("sizes", [[1] * 50, [4096], [5000], [10, 4090, 3, 4096, 1], [4097, 4097]])
def test_the_ring_remembers_the_last_and_forgets_the_oldest(sizes: list[int]) -> None:
    ring, all_of_them = Ring(), np.arange(1, sum(sizes) + 1, dtype=np.uint64)
    at = 0
    for size in sizes:
        ring.append(all_of_them[at : at + size])
        at += size
        assert ring.last == at
        assert ring.oldest == max(1, at - REMEMBERED + 1)
        assert ring.recent().tolist() == all_of_them[:at][-REMEMBERED:].tolist()
    again = Ring(ring.last, ring.recent())
    assert (again.last, again.oldest) == (ring.last, ring.oldest)
    assert again.recent().tolist() == ring.recent().tolist()
    again.append(all_of_them[:3])
    assert again.get(at + 1, 3).tolist() == [1, 2, 3]


def test_the_ring_is_small_while_the_session_is_young() -> None:
    ring = Ring()
    ring.append(np.zeros(20, np.uint64))
    assert ring._cells.nbytes <= 64 * 8


def test_new_events_are_admitted_and_counted() -> None:
    one = record()
    admission = take(one, sent(1, [[1, 2], [3, 4]], [5, 5]))
    assert (admission.new_events, admission.duplicates, admission.last_sequence) == (2, 0, 2)
    assert (one.admitted, one.pending_events, one.timed, one.admitted_timestamp_ns) == (2, 2, True, 5)


def test_repeats_are_checked_against_what_is_queued_too() -> None:
    one = record()
    take(one, sent(1, [[1, NAN], [3, 4]]))
    again = examine(one, sent(1, [[1, NAN], [3, 4]]), ROOM)
    assert (again.events, again.duplicates, again.repeats_last, again.last_sequence) == (None, 2, True, 2)
    early = examine(one, sent(1, [[1, NAN]]), ROOM)
    assert (early.duplicates, early.repeats_last, early.last_sequence) == (1, False, 2)
    partly = examine(one, sent(2, [[3, 4], [5, 6]]), ROOM)
    assert (partly.duplicates, partly.new_events, partly.first_sequence, partly.last_sequence) == (1, 1, 2, 3)
    assert partly.events is not None
    assert partly.events.values.tolist() == [[5, 6]]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (sent(4, [[1, 2]]), "SEQUENCE_GAP"),
        (sent(2, [[3, 5], [5, 6]]), "SEQUENCE_CONFLICT"),
        (sent(1, [[1, 2]], [5]), "INVALID_FIELD"),
        (sent(3, [[1, 2], [np.inf, 1]]), "INVALID_FIELD"),
        (sent(3, [1, 2, 3]), "INVALID_FIELD"),
        (sent(0, [1, 2]), "INVALID_FIELD"),
        (Batch("other", 3, np.zeros(2), None), "UID_MISMATCH"),
    ],
)
def test_a_refused_batch_changes_nothing(batch: Batch, expected: str) -> None:
    one = record()
    take(one, sent(1, [[1, 2], [3, 4]]))
    before = state(one)
    assert reason(one, batch) == expected
    assert state(one) == before


def test_a_repeat_may_not_smuggle_time_backwards_behind_it() -> None:
    one = record()
    take(one, sent(1, [[1, 2], [3, 4]], [10, 20]))
    assert reason(one, sent(2, [[3, 4], [5, 6]], [20, 19])) == "INVALID_FIELD"
    assert examine(one, sent(2, [[3, 4], [5, 6]], [20, 20]), ROOM).new_events == 1


def test_credit_is_exact_and_repeats_need_none() -> None:
    one = record(credit=4)
    take(one, sent(1, np.ones((4, 2))))
    assert reason(one, sent(5, np.ones((1, 2)))) == "CREDIT_EXCEEDED"
    assert examine(one, sent(1, np.ones((4, 2))), ROOM).duplicates == 4
    one.pending_events = 0
    assert examine(one, sent(5, np.ones((4, 2))), ROOM).new_events == 4
    assert reason(one, sent(5, np.ones((5, 2)))) == "INVALID_FIELD"


def test_the_servers_queue_is_exact() -> None:
    one = record()
    assert reason(one, sent(1, np.ones((3, 2))), room=2) == "OVERLOADED"
    assert examine(one, sent(1, np.ones((2, 2))), 2).new_events == 2


def test_events_older_than_the_digests_cannot_be_compared() -> None:
    one = record(credit=10_000)
    events = np.random.default_rng(0).normal(size=(REMEMBERED + 4, 2))
    for at in range(0, len(events), 2000):
        take(one, sent(at + 1, events[at : at + 2000]))
    assert examine(one, sent(5, events[4:6]), ROOM).duplicates == 2
    with pytest.raises(Refusal, match="allowed: 5") as caught:
        examine(one, sent(4, events[3:6]), ROOM)
    assert (caught.value.reason, caught.value.facts["oldest"]) == ("SEQUENCE_TOO_OLD", "5")


def test_only_stated_fields_are_compared() -> None:
    one = record(horizon=3)
    asked = Terms(SessionConfig(features=("x", "y")).validated(), {}, True, 5)
    check_same(one, replace(asked, stated=frozenset({"config.features"})))
    with pytest.raises(Refusal, match=r"config\.horizon: asked 1, is 3"):
        check_same(one, replace(asked, stated=frozenset({"config.features", "config.horizon"})))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 24, 2), (64, 64, 64), (64, 1, 1)])
def test_the_batch_limit_keeps_request_and_reply_within_a_message(shape: tuple[int, int, int]) -> None:
    features, horizon, targets = shape
    names = tuple(str(n) for n in range(features))
    config = SessionConfig(features=names, targets=names[:targets], horizon=horizon).validated()
    limit = 4 * 2**20
    most = batch_events(config, limit)
    assert most >= 1
    assert most * event_bytes(config) < limit


def test_a_session_whose_reply_fits_no_message_is_refused() -> None:
    names = tuple(str(n) for n in range(64))
    config = SessionConfig(features=names, targets=names, horizon=64).validated()
    with pytest.raises(Refusal, match="horizon × targets is 4096"):
        batch_events(config, 2**18)
