"""The stream protocol over a real connection: order, repeats, errors that leave it alive, and every way to end it."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bptt.v1 import forecast_pb2, session_pb2
from bptt_core import Events, Fold, LearnerConfig, SessionConfig, select_backend

EVERY, LAST, NONE = 1, 2, 3


@pytest.fixture
def session(rpc: Any, new_id: Any) -> str:
    name: str = new_id()
    rpc.create(name, horizon=2)
    return name


def opened(rpc: Any, session: str, **more: Any) -> Any:
    stream = rpc.stream()
    stream.open(session, **more)
    return stream, stream.next()


def test_a_stream_learns_and_ends_with_ok(rpc: Any, session: str, noise: Any) -> None:
    stream, opening = opened(rpc, session, channel=7, reply=EVERY)
    assert (opening.channel, opening.last_sequence) == (7, 0)
    assert (opening.credit_events, opening.max_batch_events) == (1024, 1024)
    assert opening.session_uid == rpc.get(session).uid
    stream.send(1, noise(40), channel=7)
    stream.send(41, noise(10), channel=7)
    stream.end()
    answers, code = stream.rest()
    assert code == "OK"
    first, second, ended = answers
    assert isinstance(ended, forecast_pb2.StreamEnded)
    assert (first.channel, first.result.first_sequence, first.result.last_sequence) == (7, 1, 40)
    assert (second.result.first_sequence, second.result.last_sequence, second.result.duplicates) == (41, 50, 0)
    outs = first.result.outcomes
    assert (outs.first_sequence, outs.count, outs.horizon, outs.targets) == (1, 40, 2, 2)
    assert len(outs.mean) == len(outs.lower) == len(outs.upper) == 40 * 2 * 2
    assert len(outs.anomaly_score) == len(outs.update_results) == len(outs.loss) == 40
    assert 2 in outs.update_results
    assert rpc.get(session).last_sequence == 50


@pytest.mark.parametrize(("reply", "count"), [(EVERY, 5), (LAST, 1), (0, 1), (NONE, 0)])
def test_the_reply_mode_says_which_events_are_answered(
    reply: int, count: int, rpc: Any, session: str, noise: Any
) -> None:
    stream, _ = opened(rpc, session, reply=reply)
    stream.send(1, noise(5))
    result = stream.next().result
    assert result.last_sequence == 5
    assert result.HasField("outcomes") == (count > 0)
    assert result.outcomes.count == count
    assert rpc.ingest(session, 6, noise(5), reply=reply).outcomes.count == count


def test_batching_does_not_change_a_bit(rpc: Any, new_id: Any, noise: Any) -> None:
    events, tables = noise(64), []
    for sizes in ([64], [1] * 64, [10, 20, 34]):
        session, at = new_id(), 0
        rpc.create(session, horizon=2)
        stream, _ = opened(rpc, session, reply=EVERY)
        for size in sizes:
            stream.send(at + 1, events[at : at + size])
            at += size
        stream.end()
        answers, _ = stream.rest()
        tables.append(np.concatenate([answer.result.outcomes.mean for answer in answers[:-1]]))
    assert tables[0].tobytes() == tables[1].tobytes() == tables[2].tobytes()


def test_whatever_the_traffic_a_session_is_what_the_fold_alone_makes_of_its_events(
    rpc: Any, new_id: Any, noise: Any
) -> None:
    """Twelve sessions of two shapes over two streams and unary calls, in random pieces with repeats."""
    choice = random.Random(5)
    names = [new_id() for _ in range(12)]
    events = {name: noise(60, seed=number) for number, name in enumerate(names)}
    streams = [rpc.stream(), rpc.stream()]
    for number, name in enumerate(names):
        rpc.create(name, hidden=3 + number % 2, seed=number)
        streams[number % 2].open(name, channel=number, reply=NONE)
        streams[number % 2].next()
    done = dict.fromkeys(names, 0)
    owed = [0, 0]
    while min(done.values()) < 60:
        number = choice.randrange(12)
        name = names[number]
        first = max(0, done[name] - choice.choice([0, 0, 0, 2]))
        stop = min(60, first + choice.randrange(1, 9))
        if choice.random() < 0.2 or min(owed) > 20:
            # A unary call may overtake what a stream still carries.
            for side in range(2):
                while owed[side]:
                    assert streams[side].next().result.last_sequence
                    owed[side] -= 1
            if first < stop:
                rpc.ingest(name, first + 1, events[name][first:stop], reply=NONE)
        elif first < stop:
            streams[number % 2].send(first + 1, events[name][first:stop], channel=number)
            owed[number % 2] += 1
        done[name] = max(stop, done[name])
    for side in range(2):
        streams[side].end()
        assert streams[side].rest()[1] == "OK"
    fold = Fold(select_backend("numpy"))
    for number, name in enumerate(names):
        learner = LearnerConfig(hidden=3 + number % 2, window=8, seed=number)
        slot = fold.create(SessionConfig(("x", "y"), learner=learner))
        (alone,) = fold.step([(slot, Events(events[name]))])
        served = rpc.forecast(name).outcome
        assert served.first_sequence == 60
        assert np.array(served.mean).tobytes() == alone.mean[-1].tobytes()
        assert np.array(served.lower).tobytes() == alone.lower[-1].tobytes()
        assert np.float32(served.loss[0]) == alone.loss[-1]


def test_a_batch_longer_than_a_turn_comes_back_whole(rpc: Any, session: str, noise: Any) -> None:
    stream, _ = opened(rpc, session, reply=EVERY)
    stream.send(1, noise(1000))
    outs = stream.next().result.outcomes
    assert (outs.first_sequence, outs.count, len(outs.mean)) == (1, 1000, 4000)


def test_a_repeated_batch_is_acknowledged_and_not_learned_twice(rpc: Any, session: str, noise: Any) -> None:
    stream, _ = opened(rpc, session, reply=EVERY)
    stream.send(1, noise(8))
    first = stream.next().result
    before = rpc.get(session)
    stream.send(1, noise(8))
    again = stream.next().result
    assert (again.first_sequence, again.last_sequence, again.duplicates) == (1, 8, 8)
    assert again.outcomes.first_sequence == 8
    assert list(again.outcomes.mean) == list(first.outcomes.mean)[-4:]
    stream.send(1, noise(8)[:3])
    early = stream.next().result
    assert (early.last_sequence, early.duplicates, early.HasField("outcomes")) == (8, 3, False)
    assert rpc.get(session) == before


def test_a_partly_repeated_batch_skips_the_repeats(rpc: Any, session: str, noise: Any) -> None:
    events = noise(20)
    events[3, 1] = np.nan
    rpc.ingest(session, 1, events[:12])
    result = rpc.ingest(session, 4, events[3:], reply=EVERY)
    assert (result.first_sequence, result.last_sequence, result.duplicates) == (4, 20, 9)
    assert (result.outcomes.first_sequence, result.outcomes.count) == (13, 8)


def test_repeats_queued_behind_their_original_wait_for_it(rpc: Any, session: str, noise: Any) -> None:
    stream, _ = opened(rpc, session)
    for _ in range(3):
        stream.send(1, noise(300))
    results = [stream.next().result for _ in range(3)]
    assert [r.duplicates for r in results] == [0, 300, 300]
    assert [r.last_sequence for r in results] == [300] * 3
    assert len({tuple(r.outcomes.mean) for r in results}) == 1


def test_an_error_leaves_the_stream_alive_and_skips_until_resent(rpc: Any, session: str, noise: Any) -> None:
    stream, _ = opened(rpc, session)
    events = noise(40)
    stream.send(1, events[:10])
    bad = events[10:20].copy()
    bad[4, 1] = np.inf
    stream.send(11, bad)
    stream.send(21, events[20:30])
    stream.send(31, events[30:40])
    assert stream.next().result.last_sequence == 10
    error = stream.next()
    assert (error.error.reason, error.last_sequence, error.first_sequence, error.closed) == (
        "INVALID_FIELD",
        10,
        11,
        False,
    )
    assert error.error.metadata["field"] == "values[4][1]"
    assert error.error.code == 3
    for first in (21, 31):
        skipped = stream.next()
        assert (skipped.error.reason, skipped.last_sequence, skipped.first_sequence) == ("SKIPPED", 10, first)
        assert skipped.error.metadata["expected"] == "11"
    stream.send(11, events[10:20])
    stream.send(21, events[20:30])
    assert [stream.next().result.last_sequence for _ in range(2)] == [20, 30]


@pytest.mark.parametrize(
    ("first", "changed", "reason", "facts"),
    [
        (12, False, "SEQUENCE_GAP", {"expected": "11", "last_sequence": "10"}),
        (10, True, "SEQUENCE_CONFLICT", {"last_sequence": "10", "sequence": "10"}),
    ],
)
def test_sequence_errors_come_inside_the_stream(
    first: int, changed: bool, reason: str, facts: dict[str, str], rpc: Any, session: str, noise: Any
) -> None:
    stream, _ = opened(rpc, session)
    events = noise(30)
    stream.send(1, events[:10])
    stream.next()
    stream.send(first, events[first - 1 : first + 4] + (1 if changed else 0))
    error = stream.next()
    assert error.error.reason == reason
    assert facts.items() <= dict(error.error.metadata).items()
    stream.send(11, events[10:12])
    assert stream.next().result.last_sequence == 12


def test_channels_are_independent(rpc: Any, new_id: Any, noise: Any) -> None:
    names = [new_id() for _ in range(3)]
    stream = rpc.stream()
    for channel, name in enumerate(names):
        rpc.create(name, hidden=4 + channel)
        stream.open(name, channel=channel)
        assert stream.next().channel == channel
    for channel in range(3):
        stream.send(1 if channel != 1 else 2, noise(5), channel=channel)
    answers = {answer.channel: answer for answer in (stream.next() for _ in range(3))}
    assert answers[0].result.last_sequence == answers[2].result.last_sequence == 5
    assert answers[1].error.reason == "SEQUENCE_GAP"
    stream.end()
    assert stream.rest()[1] == "OK"


def test_a_new_open_supersedes_the_old_stream(rpc: Any, session: str, noise: Any) -> None:
    old, _ = opened(rpc, session)
    old.send(1, noise(5))
    assert old.next().result.last_sequence == 5
    new, opening = opened(rpc, session)
    assert opening.last_sequence == 5
    answers, code = old.rest()
    assert code == "ABORTED"
    assert [(a.error.reason, a.closed, a.last_sequence) for a in answers] == [("SUPERSEDED", True, 5)]
    new.send(6, noise(2))
    assert new.next().result.last_sequence == 7


def test_a_stream_with_other_channels_survives_losing_one(rpc: Any, new_id: Any, noise: Any) -> None:
    one, two = new_id(), new_id()
    rpc.create(one)
    rpc.create(two)
    old, _ = opened(rpc, one, channel=1)
    old.open(two, channel=2)
    old.next()
    _new, _ = opened(rpc, one)
    lost = old.next()
    assert (lost.channel, lost.error.reason, lost.closed) == (1, "SUPERSEDED", True)
    old.send(1, noise(3), channel=2)
    assert old.next().result.last_sequence == 3
    old.send(1, noise(3), channel=1)
    assert (old.next().error.reason, old.call.is_active()) == ("CHANNEL_UNKNOWN", True)


def test_opens_are_refused_inside_the_stream(rpc: Any, session: str, new_id: Any) -> None:
    stream, _ = opened(rpc, session, channel=1)
    other = new_id()
    rpc.create(other)
    stream.open(other, channel=1)
    stream.open("no-such-session", channel=2)
    stream.open(other, channel=3, uid="1" * 32)
    stream.open("?", channel=4)
    answers = [stream.next() for _ in range(4)]
    assert [a.error.reason for a in answers] == ["CHANNEL_IN_USE", "SESSION_NOT_FOUND", "UID_MISMATCH", "INVALID_FIELD"]
    assert [a.closed for a in answers] == [False, True, True, True]
    stream.send(1, [1, 2], channel=1)
    assert stream.next().result.last_sequence == 1


def test_an_empty_request_ends_the_stream_with_a_reason(rpc: Any, session: str, refused: Any) -> None:
    stream, _ = opened(rpc, session)
    stream.raw(forecast_pb2.StreamRequest())
    error = refused(stream.next)
    assert (error.code, error.facts["field"]) == ("INVALID_ARGUMENT", "request")


def test_an_end_of_input_without_end_answers_what_was_sent_and_is_no_success(
    rpc: Any, session: str, noise: Any
) -> None:
    stream, _ = opened(rpc, session)
    stream.send(1, noise(200))
    stream.half_close()
    answers, code = stream.rest()
    assert [answer.result.last_sequence for answer in answers] == [200]
    assert code == "CANCELLED"


def test_a_client_that_vanishes_mid_batch_loses_nothing_and_leaves_the_session_usable(
    server: Any, connect: Any, session: str, noise: Any
) -> None:
    events, client = noise(900), connect(server.target)
    stream, _ = opened(client, session, reply=NONE)
    stream.send(1, events[:300])
    stream.next()
    stream.send(301, events[300:600])
    stream.send(601, events[600:])
    stream.call.cancel()
    client.channel.close()
    other = connect(server.target)
    again, opening = opened(other, session, reply=NONE)
    assert opening.last_sequence >= 300
    again.send(opening.last_sequence + 1, events[opening.last_sequence :])
    assert again.next().result.last_sequence == 900
    assert other.get(session).last_sequence == 900


def test_a_deleted_session_closes_its_channel(rpc: Any, session: str, noise: Any) -> None:
    stream, _ = opened(rpc, session)
    stream.send(1, noise(2))
    stream.next()
    rpc.delete(session)
    stream.send(3, noise(2))
    error = stream.next()
    assert (error.error.reason, error.closed) == ("SESSION_NOT_FOUND", True)
    uid = rpc.create(session).session.uid
    stream.open(session)
    assert (stream.next().session_uid, stream.call.is_active()) == (uid, True)


def test_no_late_batch_reaches_a_namesake(rpc: Any, session: str, noise: Any, refused: Any) -> None:
    old = rpc.get(session).uid
    rpc.delete(session)
    new = rpc.create(session).session.uid
    assert new != old
    error = refused(lambda: rpc.ingest(session, 1, noise(2), uid=old))
    assert (error.code, error.reason, error.facts["session_uid"]) == ("FAILED_PRECONDITION", "UID_MISMATCH", new)
    assert refused(lambda: rpc.delete(session, uid=old)).reason == "UID_MISMATCH"
    assert rpc.ingest(session, 1, noise(2), uid=new).last_sequence == 2


def test_queued_events_of_a_deleted_session_fail_in_order(
    start_server: Any, connect: Any, noise: Any, gate: Any, wait_for: Any
) -> None:
    server = start_server("--turn-events", "64", prelude=gate.prelude)
    rpc = connect(server.target)
    rpc.create("s")
    stream, _ = opened(rpc, "s")
    for at in range(1, 1025, 128):
        stream.send(at, noise(128))
    wait_for(server, "bptt_queue_events 1024.0")
    with ThreadPoolExecutor(1) as pool:
        deleted = pool.submit(rpc.delete, "s")
        wait_for(server, "bptt_sessions 0.0")
        stream.send(1025, noise(1))
        stream.send(1026, noise(1))
        wait_for(server, 'bptt_errors_total{reason="CHANNEL_UNKNOWN"} 1.0')
        gate.open()
        deleted.result(60)
    failed = [stream.next() for _ in range(10)]
    assert [answer.first_sequence for answer in failed] == [*range(1, 1025, 128), 1025, 1026]
    assert [answer.error.reason for answer in failed] == ["SESSION_NOT_FOUND"] * 9 + ["CHANNEL_UNKNOWN"]
    assert all(answer.closed for answer in failed)
    wait_for(server, "bptt_queue_events 0.0")


def test_ingest_and_stream_interleave_by_the_sequence_rules(rpc: Any, session: str, noise: Any) -> None:
    stream, _ = opened(rpc, session)
    events = noise(12)
    stream.send(1, events[:4])
    stream.next()
    assert rpc.ingest(session, 5, events[4:8]).last_sequence == 8
    stream.send(5, events[4:12])
    result = stream.next().result
    assert (result.last_sequence, result.duplicates) == (12, 4)


def test_forecast_is_the_last_outcome_cut_to_the_horizons_asked_for(rpc: Any, session: str, noise: Any) -> None:
    result = rpc.ingest(session, 1, noise(10), times=[10**9 * n for n in range(10)])
    whole, one = rpc.forecast(session), rpc.forecast(session, horizon=1)
    assert whole.outcome == result.outcomes
    assert whole.timestamp_ns == 9 * 10**9
    assert (one.outcome.horizon, list(one.outcome.mean)) == (1, list(whole.outcome.mean)[:2])
    assert rpc.forecast(session, session_uid=whole.session_uid) == whole


def test_watch_begins_with_the_session_and_goes_on_without_a_gap(rpc: Any, session: str, noise: Any) -> None:
    rpc.ingest(session, 1, noise(5))
    watch = rpc.forecasts.Watch(forecast_pb2.WatchRequest(session_id=session), timeout=60)
    first = next(watch).session
    assert (first.session_id, first.last_sequence) == (session, 5)
    result = rpc.ingest(session, 6, noise(3), reply=EVERY)
    seen = [next(watch) for _ in range(1)]
    assert seen[0].outcomes == result.outcomes
    assert seen[0].dropped_events == 0
    rpc.delete(session)
    with pytest.raises(Exception, match="there is no session"):
        next(watch)


def test_an_update_applies_after_the_events_queued_before_it(rpc: Any, session: str, noise: Any) -> None:
    stream, _ = opened(rpc, session, reply=EVERY)
    stream.send(1, noise(600))
    while rpc.get(session).last_sequence == 0:
        time.sleep(0.005)
    request = session_pb2.UpdateSessionRequest(
        session_id=session, changes=session_pb2.SessionChanges(learning=False, learning_rate=0.5, tags={"a": "b"})
    )
    request.update_mask.paths.extend(["learning", "learning_rate", "tags"])
    changed = rpc.sessions.UpdateSession(request, timeout=60).session
    assert changed.last_sequence == 600
    assert (changed.learning, changed.config.learner.learning_rate, dict(changed.tags)) == (False, 0.5, {"a": "b"})
    assert changed.updates.learning_off == 0
    stream.next()
    stream.send(601, noise(4))
    assert set(stream.next().result.outcomes.update_results) == {5}
    assert rpc.get(session).updates.learning_off == 4
    request = session_pb2.UpdateSessionRequest(session_id=session)
    request.update_mask.paths.extend(["learning", "learning_rate", "tags"])
    back = rpc.sessions.UpdateSession(request, timeout=60).session
    assert (back.learning, back.config.learner.learning_rate, dict(back.tags)) == (True, 1e-3, {})
