"""A stream loses nothing, repeats nothing and gives up for good reasons only, whatever happens to its connection."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

import bptt_client
from bptt_client import Resume

ROWS = [[float(i), float(-i)] for i in range(100)]
PAIR = {"features": ["a", "b"], "targets": ["b"], "horizon": 2}


def taken(fake, session_id="s"):
    """First values of the events the server has, in order."""
    return [float(event[1][0]) for event in fake.sessions[session_id].events]


@pytest.fixture
def handle(fake, connect):
    return connect(fake.target).create_session("s", **PAIR)


def test_a_whole_run_is_acknowledged_in_order_within_the_credit(fake, handle):
    replies = []
    summary = handle.learn_many(ROWS, batch=10, reply="every", on_reply=replies.append)
    assert taken(fake) == [row[0] for row in ROWS]
    assert [reply.sequence for reply in replies] == list(range(1, 101))
    assert (summary.events, summary.duplicates, summary.last_sequence, summary.reconnects) == (100, 0, 100, 0)
    assert handle.last_sequence == 100
    assert summary.last_reply.forecast.mean == [[100000.0], [100010.0]]
    assert (fake.opens, fake.ends) == (1, 1)


@pytest.mark.parametrize("trick", ["break before", "break after", "end of stream", "drain"])
@pytest.mark.parametrize("at", [0, 3, 9])
def test_a_broken_connection_is_made_again_and_nothing_is_lost_or_learned_twice(fake, handle, trick, at):
    fake.script.extend(["answer"] * at + [trick])
    summary = handle.learn_many(ROWS, batch=10)
    assert taken(fake) == [row[0] for row in ROWS]
    everything_was_answered = trick == "drain" and at == 9  # then coming back to say goodbye is a matter of chance
    assert summary.reconnects == 1 or everything_was_answered
    assert summary.duplicates == (10 if trick in ("break after", "end of stream") else 0)
    assert fake.ends == 1 or everything_was_answered


def test_the_last_reply_survives_the_loss_of_its_answer(fake, handle):
    fake.script.append("break after")
    replies = []
    handle.learn_many(ROWS[:4], on_reply=replies.append)
    assert [reply.sequence for reply in replies] == [4]


def test_many_breaks_are_no_matter_as_long_as_there_is_progress(fake, handle):
    fake.script.extend(["answer", "break after", "break before"] * 12)
    summary = handle.learn_many(ROWS, batch=4)
    assert taken(fake) == [row[0] for row in ROWS]
    assert summary.reconnects > 6


def test_overload_waits_and_sends_again_on_the_same_stream(fake, handle):
    fake.script.extend(["answer", "overload", "answer", "answer", "answer", "overload"])
    handle.learn_many(ROWS, batch=10)
    assert taken(fake) == [row[0] for row in ROWS]
    assert fake.opens == 1


def test_overload_of_a_repeated_batch_reconnects_because_it_would_be_skipped_for_ever(fake, handle):
    fake.script.extend(["break after", "overload"])
    handle.learn_many(ROWS[:40], batch=10)
    assert taken(fake) == [row[0] for row in ROWS[:40]]
    assert fake.opens == 3


def test_credit_bounds_what_is_in_flight_and_a_smaller_one_after_a_break_is_kept(fake, handle):
    fake.credit_events, fake.max_batch_events = 32, 32
    fake.script.extend(["answer", "break before"])
    with handle.stream(batch=32) as stream:
        for row in ROWS[:40]:
            stream.send(row)
        stream.flush()
        fake.credit_events, fake.max_batch_events = 5, 3
        fake.script.append("break before")
        for row in ROWS[40:]:
            stream.send(row)
    assert taken(fake) == [row[0] for row in ROWS]
    assert max(count for first, count in fake.batches if first > 80) <= 3


def test_attempts_are_bounded(fake, connect):
    handle = connect(fake.target, Resume(attempts=2, first_delay_s=0.001)).create_session("s", **PAIR)
    fake.script.extend(["break before"] * 9)
    with pytest.raises(bptt_client.Unavailable):
        handle.learn_many(ROWS)
    assert fake.opens == 3
    assert handle.last_sequence == 0


def test_a_server_behind_its_own_acknowledgements_is_not_retried(fake, handle):
    fake.script.extend(["answer"] * 3 + ["forget"])
    with pytest.raises(bptt_client.SessionRewound) as caught:
        handle.learn_many(ROWS, batch=10)
    assert (caught.value.acknowledged, caught.value.last_sequence) == (30, 10)
    assert fake.opens == 2
    assert handle.refresh().last_sequence == handle.last_sequence == 10
    handle.learn_many(ROWS, start=handle.last_sequence)
    assert taken(fake) == [row[0] for row in ROWS]


@pytest.mark.parametrize(
    ("trick", "kind"),
    [
        ("supersede", bptt_client.SessionSuperseded),
        ("recreate", bptt_client.UidMismatch),
        ("refuse", bptt_client.InvalidRequest),
    ],
)
def test_what_trying_again_does_not_mend_is_raised_at_once(fake, handle, trick, kind):
    fake.script.extend(["answer", trick])
    with pytest.raises(kind):
        handle.learn_many(ROWS, batch=10)
    assert handle.last_sequence == 10
    assert fake.opens == (2 if trick == "recreate" else 1)


def test_a_server_that_lost_the_session_itself_is_behind_its_acknowledgements_too(fake, handle):
    fake.script.extend(["answer", "vanish"])
    with pytest.raises(bptt_client.SessionRewound, match="is not there any more, though 10") as caught:
        handle.learn_many(ROWS, batch=10)
    assert (caught.value.acknowledged, caught.value.last_sequence) == (10, 0)
    assert fake.opens == 2


def test_a_session_that_vanished_before_anything_was_acknowledged_is_not_found(fake, handle):
    fake.script.append("vanish")
    with pytest.raises(bptt_client.SessionNotFound):
        handle.learn_many(ROWS, batch=10)


def test_two_writers_are_told_and_neither_overwrites(fake, connect):
    first, second = (connect(fake.target).create_session("s", **PAIR) for _ in range(2))
    first.learn_many(ROWS[:10])
    with pytest.raises(bptt_client.SequenceConflict) as caught:
        second.learn_many(ROWS[50:60])
    assert caught.value.last_sequence == 10
    assert taken(fake) == [row[0] for row in ROWS[:10]]


def test_start_skips_the_rows_that_were_acknowledged(fake, handle):
    handle.learn_many(ROWS[:30])
    summary = handle.learn_many(ROWS, start=handle.last_sequence)
    assert summary.events == 70
    assert taken(fake) == [row[0] for row in ROWS]


def test_an_error_in_the_rows_keeps_what_was_acknowledged_and_ends_the_stream(fake, handle):
    def rows():
        yield from ROWS[:50]
        raise OSError("the sensor is gone")

    with pytest.raises(OSError, match="sensor"):
        handle.learn_many(rows(), batch=10)
    assert fake.ends == 0
    assert 0 <= handle.last_sequence <= len(fake.sessions["s"].events) <= 50


def test_a_live_stream_sends_at_once_while_idle_and_in_batches_under_load(fake, handle):
    with handle.stream() as stream:
        stream.send(ROWS[0])
        assert [reply.sequence for reply in stream.replies()] == [1]
        for row in ROWS[1:60]:
            stream.send(row)
        assert [reply.sequence for reply in stream.replies()] == list(range(2, 61))
        assert list(stream.replies()) == []
    assert fake.batches[0] == (1, 1)
    assert taken(fake) == [row[0] for row in ROWS[:60]]


def test_iteration_of_a_closed_stream_gives_the_rest_and_ends(fake, handle):
    with handle.stream(reply="last", batch=4) as stream:
        for row in ROWS[:8]:
            stream.send(row)
    replies = list(stream)
    assert replies[-1].sequence == 8
    with pytest.raises(RuntimeError, match="not open"):
        stream.send(ROWS[0])


def test_unread_results_are_bounded_and_counted(fake, handle, monkeypatch):
    monkeypatch.setattr("bptt_client.feed.MAX_UNREAD_RESULTS", 3)
    with handle.stream(batch=1) as stream:
        for row in ROWS[:10]:
            stream.send(row)
    assert (len(stream.results()), stream.dropped_results) == (3, 7)


def test_the_end_of_a_stream_that_failed_while_idle_is_told_to_the_next_caller(fake, handle):
    fake.script.extend(["answer", "supersede"])
    with pytest.raises(bptt_client.SessionSuperseded), handle.stream(batch=1) as stream:  # noqa: PT012
        stream.send(ROWS[0])
        stream.flush()
        stream.send(ROWS[1])
        stream.flush()
    with pytest.raises(bptt_client.SessionSuperseded):
        list(stream)


def test_times_are_all_or_nothing_before_anything_travels(fake, handle):
    with pytest.raises(ValueError, match="all rows or none"), handle.stream(batch=64) as stream:  # noqa: PT012
        stream.send(ROWS[0], timestamp=1)
        stream.send(ROWS[1])
    handle.refresh()
    handle.learn_many(ROWS[:5], timestamps=[10, 20, 30, 40, 50])
    assert [event[0] for event in fake.sessions["s"].events][-4:] == [20, 30, 40, 50]
    with pytest.raises(ValueError, match="1 timestamps for 5 rows"):
        handle.learn_many(ROWS[:5], timestamps=[60])


def test_one_thread_may_read_while_another_sends(fake):
    with bptt_client.Client(fake.target) as client:
        handle, seen = client.create_session("s", **PAIR), []
        with handle.stream(batch=4) as stream:
            reader = threading.Thread(target=lambda: seen.extend(reply.sequence for reply in stream))
            reader.start()
            for row in ROWS:
                stream.send(row)
        reader.join()
        assert seen == list(range(1, 101))


def test_no_thread_is_left_behind_by_streams_that_ended_in_every_way(fake):
    def ours():
        return {thread for thread in threading.enumerate() if not thread.name.startswith("ThreadPoolExecutor")}

    with bptt_client.Client(fake.target, resume=Resume(attempts=1, first_delay_s=0.001)) as client:
        handle = client.create_session("s", **PAIR)
        handle.learn_many(ROWS[:10])
        before = ours()
        for trick in ["answer", "break before", "break after", "refuse", "end of stream"] * 5:
            fake.script.append(trick)
            with contextlib.suppress(bptt_client.BpttError, ZeroDivisionError), handle.stream(batch=1) as stream:
                for row in ROWS[:5]:
                    stream.send(row)
                    1 / (row[0] - 3.0)
            handle.refresh()
        deadline = time.monotonic() + 10.0
        while len(left := ours() - before) > 1:  # gRPC itself keeps one per channel while calls are pending
            assert time.monotonic() < deadline, left
            time.sleep(0.01)


def test_closing_the_client_under_a_stream_ends_it_with_an_error(fake, connect):
    client = connect(fake.target, Resume(attempts=1, first_delay_s=0.001))
    handle = client.create_session("s", **PAIR)
    with pytest.raises(bptt_client.Unavailable), handle.stream() as stream:  # noqa: PT012
        stream.send(ROWS[0])
        stream.flush()
        client.close()
        stream.send(ROWS[1])
        stream.flush()


def test_a_server_that_is_not_there_is_named_unavailable(connect):
    with pytest.raises(bptt_client.Unavailable):
        connect("127.0.0.1:1").get_session("s")


def test_a_stream_that_is_not_live_sends_whole_batches_only(fake, handle):
    with handle.stream(batch=8, live=False) as stream:
        for row in ROWS[:10]:
            stream.send(row)
        stream.flush()
        stream.send(ROWS[10])
        time.sleep(0.05)  # a live one would have sent it by now
        for row in ROWS[11:20]:
            stream.send(row)
    assert fake.batches == [(1, 8), (9, 2), (11, 8), (19, 2)]
