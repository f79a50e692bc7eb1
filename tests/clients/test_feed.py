"""The decisions of a stream without a stream: what may be sent, after which answers, and how much of it."""

from __future__ import annotations

import pytest

import bptt_client
from bptt.v1 import error_pb2, forecast_pb2
from bptt_client.answers import Known
from bptt_client.events import Given
from bptt_client.feed import MAX_UNACKNOWLEDGED, Feed, Resume
from bptt_client.rows import Channels


def known(last_sequence=0, labels=()):
    return Known(
        session_id="s",
        uid="uid",
        features=Channels(("a",)),
        labels=Channels(labels, word="label"),
        targets=labels or ("a",),
        symbols=(),
        levels=(),
        horizon=1,
        credit_events=64,
        last_sequence=last_sequence,
    )


def made(batch=4, live=False, in_flight=None, last_sequence=0, **resume):
    return Feed(known(last_sequence), "none", batch, live, in_flight, Resume(**resume))


def opened(feed, credit=64, most=16, last_sequence=0):
    feed.opening()
    message = forecast_pb2.StreamOpened(
        channel=1, session_uid="uid", last_sequence=last_sequence, credit_events=credit, max_batch_events=most
    )
    return feed.receive(forecast_pb2.StreamResponse(opened=message), 0.0)


def fill(feed, rows):
    for _ in range(rows):
        assert feed.has_room()
        feed.add(feed.encode(Given(1.0)))


def sent(feed, now=0.0):
    """(first sequence, events) of every batch that may leave now; "end" for the end message."""
    return [
        (r.events.batch.first_sequence, len(r.events.batch.values)) if r.HasField("events") else "end"
        for r in feed.requests(now)
    ]


def answer(feed, first, last, now=1.0):
    result = forecast_pb2.BatchResult(first_sequence=first, last_sequence=last)
    return feed.receive(forecast_pb2.StreamResponse(result=forecast_pb2.StreamResult(channel=1, result=result)), now)


def refuse(feed, first, reason, last_sequence, delay_s=None):
    error = error_pb2.Error(code=8, reason=reason, message=reason)
    if delay_s is not None:
        error.retry_delay.FromMilliseconds(int(delay_s * 1000))
    message = forecast_pb2.StreamError(channel=1, error=error, first_sequence=first, last_sequence=last_sequence)
    return feed.receive(forecast_pb2.StreamResponse(error=message), 1.0)


def test_nothing_leaves_before_the_channel_is_open():
    feed = made()
    fill(feed, 4)
    assert sent(feed) == []
    opened(feed)
    assert sent(feed) == [(1, 4)]


def test_full_batches_leave_at_once_and_the_rest_on_flush():
    feed = made()
    opened(feed)
    fill(feed, 10)
    assert sent(feed) == [(1, 4), (5, 4)]
    feed.flush()
    assert sent(feed) == [(9, 2)]


def test_a_live_row_leaves_at_once_while_nothing_is_in_flight():
    feed = made(live=True)
    opened(feed)
    fill(feed, 1)
    assert sent(feed) == [(1, 1)]
    fill(feed, 3)
    assert sent(feed) == []
    answer(feed, 1, 1)
    assert sent(feed) == [(2, 3)]


def test_credit_bounds_what_is_taken_and_what_is_in_flight():
    feed = made()
    opened(feed, credit=10)
    fill(feed, 10)
    assert not feed.has_room()
    assert sent(feed) == [(1, 4), (5, 4)]
    answer(feed, 1, 4)
    assert feed.has_room()


def test_the_callers_own_bound_and_the_servers_memory_of_repeats_bound_it_too():
    feed = made(in_flight=6)
    opened(feed)
    fill(feed, 6)
    assert not feed.has_room()
    wide = made(batch=1)
    opened(wide, credit=65536)
    fill(wide, MAX_UNACKNOWLEDGED)
    assert not wide.has_room()


def test_a_smaller_credit_after_a_break_is_kept_and_batches_are_cut_to_it():
    feed = made(batch=8)
    opened(feed)
    fill(feed, 20)
    assert sent(feed) == [(1, 8), (9, 8)]
    feed.lost(None)
    opened(feed, credit=6, most=3)
    assert sent(feed) == [(1, 3), (4, 3)]
    answer(feed, 1, 3)
    assert sent(feed) == [(7, 2)]
    answer(feed, 4, 6)
    answer(feed, 7, 8)
    assert sent(feed) == [(9, 3), (12, 3)]


def test_after_an_error_nothing_leaves_until_everything_in_flight_is_answered():
    feed = made()
    opened(feed)
    fill(feed, 12)
    assert sent(feed) == [(1, 4), (5, 4), (9, 4)]
    answer(feed, 1, 4)
    step = refuse(feed, 5, "OVERLOADED", last_sequence=4, delay_s=0.5)
    assert (step.pause_s >= 0.5, step.reconnect) == (True, False)
    fill(feed, 4)
    assert sent(feed) == []
    assert refuse(feed, 9, "SKIPPED", last_sequence=4).pause_s == 0.0
    assert sent(feed) == [(5, 4), (9, 4), (13, 4)]


def test_a_skip_out_of_the_blue_is_answered_by_a_new_connection_and_counted():
    feed = made(attempts=1)
    opened(feed)
    fill(feed, 4)
    sent(feed)
    assert refuse(feed, 1, "SKIPPED", last_sequence=0).reconnect
    opened(feed)
    sent(feed)
    with pytest.raises(bptt_client.Unavailable):
        refuse(feed, 1, "SKIPPED", last_sequence=0)


def test_a_session_behind_is_found_when_the_channel_opens_even_with_nothing_to_send():
    feed = made(last_sequence=9)
    with pytest.raises(bptt_client.SessionRewound):
        opened(feed, last_sequence=8)


def test_a_session_deleted_under_an_open_channel_is_not_found_and_not_a_rewind():
    feed = made()
    opened(feed)
    fill(feed, 8)
    sent(feed)
    answer(feed, 1, 4)
    error = error_pb2.Error(code=5, reason="SESSION_NOT_FOUND", message="deleted")
    message = forecast_pb2.StreamResponse(error=forecast_pb2.StreamError(channel=1, error=error, closed=True))
    with pytest.raises(bptt_client.SessionNotFound):
        feed.receive(message, 1.0)


def test_an_answer_that_was_not_due_or_stops_short_is_a_protocol_error():
    feed = made()
    opened(feed)
    fill(feed, 8)
    sent(feed)
    with pytest.raises(bptt_client.ProtocolError):
        answer(feed, 5, 8)
    with pytest.raises(bptt_client.ProtocolError):
        answer(feed, 1, 3)
    with pytest.raises(bptt_client.ProtocolError):
        feed.receive(forecast_pb2.StreamResponse(ended=forecast_pb2.StreamEnded()), 0.0)


def test_the_end_follows_the_last_acknowledgement_and_only_then():
    feed = made()
    opened(feed)
    fill(feed, 5)
    feed.finish()
    assert sent(feed) == [(1, 4), (5, 1)]
    answer(feed, 1, 4)
    assert sent(feed) == []
    answer(feed, 5, 5)
    assert sent(feed) == ["end"]
    assert sent(feed) == []
    assert not feed.lost(None).reconnect


def test_round_trips_are_measured_and_results_say_what_was_acknowledged():
    feed = made()
    opened(feed)
    fill(feed, 4)
    sent(feed, now=10.0)
    answer(feed, 1, 99, now=10.25)
    (result,) = feed.take()
    assert (result.first_sequence, result.last_sequence, result.round_trip_s) == (1, 4, 0.25)
    assert (feed.known.last_sequence, feed.settled(), feed.take()) == (4, True, [])


def test_delays_grow_to_a_bound_and_are_never_shorter_than_asked():
    resume = Resume(attempts=9, first_delay_s=1.0, longest_delay_s=5.0)
    for attempt, longest in enumerate([1.0, 2.0, 4.0, 5.0, 5.0], 1):
        delays = [resume.delay_s(attempt, None) for _ in range(200)]
        assert longest / 2 <= min(delays) < max(delays) <= longest
    assert resume.delay_s(1, 7.5) == 7.5


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"in_flight": 0}])
def test_sizes_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match="1 or more"):
        made(**wrong)


def test_an_unknown_reply_mode_is_refused():
    with pytest.raises(ValueError, match="every, last, none"):
        Feed(known(), "all", 1, False, None, Resume())
