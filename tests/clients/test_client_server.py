"""Both faces of the client against the real server: every name once, and the failures only a real server can cause."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime, timedelta

import pytest

import bptt_client
from bptt_client import Resume

LEARNER = {"cell": "gru", "hidden": 4, "window": 8}
ROWS = [[math.sin(i / 3), float(i % 5)] for i in range(200)]
T0 = datetime(2024, 1, 1, tzinfo=UTC)
PATIENT = Resume(attempts=60, first_delay_s=0.05, longest_delay_s=0.3)


@pytest.fixture
def client(server, connect):
    return connect(server.target)


@pytest.fixture
def handle(client, new_id):
    made = client.create_session(
        new_id(), features=["a", "b"], targets=["a"], horizon=2, learner=LEARNER, tags={"kind": "wave"}, seasons=[19]
    )
    yield made
    with contextlib.suppress(bptt_client.SessionNotFound, bptt_client.UidMismatch):
        made.delete()


def test_a_session_from_birth_to_death(client, handle, new_id):
    assert (handle.features, handle.targets, handle.horizon, handle.last_sequence) == (("a", "b"), ("a",), 2, 0)
    with pytest.raises(bptt_client.NoEvents):
        handle.forecast()
    reply = handle.learn_one({"a": 1.0, "b": 2.0}, timestamp=T0)
    assert reply.sequence == handle.last_sequence == 1
    assert reply.forecast["a"].mean == [1.0, 1.0]
    times = [T0 + timedelta(hours=i) for i in range(1, 200)]
    replies = []
    summary = handle.learn_many(ROWS[1:], timestamps=times, reply="every", on_reply=replies.append)
    assert (summary.events, summary.last_sequence) == (199, 200)
    assert [r.sequence for r in replies] == list(range(2, 201))
    assert sum(r.update is not None and r.update.applied for r in replies) > 150
    assert replies[-1].forecast.lower[0][0] < replies[-1].forecast.mean[0][0] < replies[-1].forecast.upper[0][0]
    forecast = handle.forecast()
    assert forecast.mean == replies[-1].forecast.mean
    assert (forecast.sequence, forecast.timestamp_ns) == (200, (1704067200 + 199 * 3600) * 10**9)
    assert len(handle.forecast(1).mean) == 1
    session = client.get_session(handle.session_id)
    assert (session.last_sequence, session.period_ns, session.uid) == (200, 3600 * 10**9, handle.uid)
    assert session.updates.applied == sum(r.update is not None and r.update.applied for r in replies)
    assert len(session.scores.mse) == 2
    assert session.scores.seasonal_mse is not None
    assert session.config["learner"]["cell"] == "gru"
    twin = client.create_session(new_id(), **session.config)
    assert client.get_session(twin.session_id).config == session.config
    twin.delete()
    handle.delete()
    with pytest.raises(bptt_client.SessionNotFound):
        client.session(handle.session_id)


def test_known_ids_are_found_again_or_refused_with_the_difference(client, handle):
    again = client.create_session(handle.session_id, features=["a", "b"], horizon=2)
    assert again.uid == handle.uid
    with pytest.raises(bptt_client.SessionExists) as caught:
        client.create_session(handle.session_id, features=["a", "b"], horizon=3)
    assert "horizon" in str(caught.value)
    assert caught.value.differences == ("config.horizon",)


def test_sessions_are_listed_by_tag(client, new_id):
    tag = {"group": new_id()}
    names = sorted(new_id() for _ in range(3))
    for name in names:
        client.create_session(name, features=["x"], learner=LEARNER, tags=tag)
    assert [session.session_id for session in client.list_sessions(tags=tag)] == names
    for name in names:
        client.delete_session(name)
    assert list(client.list_sessions(tags=tag)) == []


def test_learning_may_be_switched_off_and_the_rate_changed(client, handle):
    handle.learn_many(ROWS[:40])
    assert handle.update(learning=False, learning_rate=1e-4, tags={"now": "other"}).learning is False
    reply = handle.learn_one(ROWS[40])
    assert reply.update.result == "learning_off"
    session = client.update_session(handle.session_id, learning=None, credit_events=7)
    assert (session.learning, session.tags, session.credit_events) == (True, {"now": "other"}, 7)
    summary = handle.learn_many(ROWS[41:])
    assert summary.last_sequence == 200
    with pytest.raises(bptt_client.InvalidRequest) as caught:
        handle.update(learning_rate=-1.0)
    assert caught.value.field == "learning_rate"
    assert str(caught.value).startswith("learning_rate is -1")
    assert caught.value.allowed
    with pytest.raises(bptt_client.InvalidRequest) as caught:
        handle.update(credit_events=10**6)
    assert caught.value.field == "credit_events"


def test_a_session_that_names_no_learner_is_a_portfolio_that_can_be_made_again(client, new_id):
    made = client.create_session(new_id(), features=["a", "b"], targets=["a"], horizon=2)
    replies = []
    made.learn_many(ROWS[:150], reply="every", on_reply=replies.append)
    session = client.get_session(made.session_id)
    assert len(session.learners) == len([expert for expert in session.experts if expert.updates is not None]) > 1
    assert sum(expert.weight for expert in session.experts) == pytest.approx(1)
    assert session.updates.applied == sum(expert.updates.applied for expert in session.experts if expert.updates)
    assert session.drifts == sum(reply.drift for reply in replies)
    assert session.updates.resets == sum(len(reply.learner_resets) for reply in replies)
    assert [replies[0].warming_up, replies[-1].warming_up] == [True, False]
    assert replies[-1].sensor_states == {"a": "ok"}
    assert replies[-1].anomaly_score == replies[-1].target_anomaly_score["a"]
    twin = client.create_session(new_id(), **session.config)
    assert client.get_session(twin.session_id).config == session.config
    several = client.create_session(
        new_id(), features=["a"], learners=[LEARNER, {**LEARNER, "cell": "tanh"}], seasonality="off"
    )
    assert [learner["cell"] for learner in several.refresh().learners] == ["gru", "tanh"]
    with pytest.raises(bptt_client.InvalidRequest, match=r"^learners\[1\]\.hidden is 0; allowed: "):
        client.create_session(new_id(), features=["a"], learners=[{}, {"hidden": 0}])
    for one in (made, twin, several):
        one.delete()


def test_a_fork_goes_on_to_the_same_bits_unless_it_is_told_otherwise(client, handle, new_id):
    handle.learn_many(ROWS[:60])
    twin = handle.fork(new_id())
    slow = client.fork_session(handle.session_id, new_id(), learning_rate=1e-6, tags={"kind": "slow"})
    assert (twin.last_sequence, twin.uid != handle.uid) == (60, True)
    assert client.get_session(twin.session_id).tags == {"kind": "wave"}
    assert client.get_session(slow.session_id).tags == {"kind": "slow"}
    for one in (handle, twin, slow):
        one.learn_many(ROWS, start=60)
    assert twin.forecast().mean == handle.forecast().mean
    assert slow.forecast().mean != handle.forecast().mean
    with pytest.raises(bptt_client.SessionExists):
        handle.fork(twin.session_id)
    with pytest.raises(bptt_client.InvalidRequest, match=r"^learning_rate is "):
        handle.fork(new_id(), learning_rate=-1.0)
    with pytest.raises(bptt_client.SessionNotFound):
        client.fork_session(new_id(), new_id())
    for one in (twin, slow):
        one.delete()


def test_one_by_one_by_stream_and_in_batches_learn_the_same(client, new_id):
    forecasts = []
    for way in ("one", "many", "stream"):
        made = client.create_session(new_id(), features=["a", "b"], learner=LEARNER)
        if way == "one":
            for row in ROWS[:80]:
                made.learn_one(row)
        elif way == "many":
            made.learn_many(ROWS[:80], batch=33)
        else:
            with made.stream(reply="last") as stream:
                for row in ROWS[:80]:
                    stream.send(row)
        forecasts.append(made.forecast().mean)
        made.delete()
    assert forecasts[0] == forecasts[1] == forecasts[2]


def test_missing_values_travel(handle):
    for i, row in enumerate(ROWS[:60]):
        reply = handle.learn_one({"b": row[1]} if i % 7 == 3 else row)
    assert math.isfinite(reply.forecast.mean[0][0])


def test_what_the_caller_got_wrong_changes_nothing(handle):
    handle.learn_many(ROWS[:10], timestamps=range(10, 20))
    for row, timestamp, kind in [
        ([1.0, math.inf], 20, bptt_client.InvalidRequest),
        ([1.0, 2.0], 5, bptt_client.InvalidRequest),
        ([1.0, 2.0], None, bptt_client.InvalidRequest),
        ([1.0], 20, ValueError),
    ]:
        with pytest.raises(kind):
            handle.learn_one(row, timestamp=timestamp)
    with pytest.raises(bptt_client.InvalidRequest):
        handle.learn_many([*ROWS[10:15], [math.inf, 0.0]], timestamps=range(20, 26))
    with pytest.raises(bptt_client.InvalidRequest, match="horizon"):
        handle.forecast(3)
    assert handle.last_sequence == handle.refresh().last_sequence == 10
    assert handle.learn_one(ROWS[10], timestamp=20).sequence == 11


def test_a_refused_value_is_placed_in_the_callers_rows(handle):
    handle.learn_many(ROWS[:10], timestamps=range(10))
    rows = [*ROWS[:100], [1.0, math.inf], *ROWS[101:150]]
    with pytest.raises(bptt_client.InvalidRequest, match=r"^row 100 \(sequence 101\): b is inf; allowed: ") as caught:
        handle.learn_many(rows, timestamps=range(150), start=10)
    assert (caught.value.row, caught.value.sequence) == (100, 101)
    handle.refresh()
    with pytest.raises(bptt_client.InvalidRequest, match=r"^rows 0\.\.2: timestamps_ns is 7; allowed: ") as caught:
        handle.learn_many(ROWS[:3], timestamps=[2000, 7, 2001])
    assert (caught.value.row, caught.value.sequence) == (None, None)


def test_a_second_stream_takes_the_session_over(server, connect, client, handle):
    other = connect(server.target).session(handle.session_id)
    with pytest.raises(bptt_client.SessionSuperseded), handle.stream() as stream:  # noqa: PT012
        stream.send(ROWS[0])
        stream.flush()
        other.refresh()
        other.learn_many(ROWS[1:5])
        stream.send(ROWS[1])
        stream.flush()
    assert other.last_sequence == 5


def test_a_namesake_is_not_written_to(client, handle):
    handle.learn_many(ROWS[:5])
    client.delete_session(handle.session_id)
    namesake = client.create_session(handle.session_id, features=["a", "b"], learner=LEARNER)
    for attempt in (lambda: handle.learn_one(ROWS[5]), lambda: handle.learn_many(ROWS[5:9]), handle.forecast):
        with pytest.raises(bptt_client.UidMismatch) as caught:
            attempt()
        assert caught.value.session_uid == namesake.uid
    assert namesake.refresh().last_sequence == 0
    namesake.delete()


def test_watch_sends_the_session_then_what_is_acknowledged(server, handle, connect):
    handle.learn_many(ROWS[:10])
    with connect(server.target).session(handle.session_id).watch() as watch:
        assert watch.session is None
        sender = threading.Timer(0.05, lambda: _send_until(server.target, handle.session_id, stop))
        stop = threading.Event()
        sender.start()
        try:
            seen = [reply.sequence for reply, _ in zip(watch, range(3), strict=False)]
        finally:
            stop.set()
            sender.join()
        assert watch.session.session_id == handle.session_id
        assert seen[0] > 10
        assert seen == sorted(set(seen))
        assert watch.dropped_events == 0


def _send_until(target, session_id, stop):
    with bptt_client.Client(target) as sender:
        made = sender.session(session_id)
        while not stop.wait(0.01):
            made.learn_one(ROWS[0])


def test_a_drained_server_that_comes_back_costs_nothing(start_server, connect, tmp_path):
    """The client keeps its target; the server is stopped in the middle of the run and started again on the same
    port.
    """
    first = start_server()
    port = first.target.rpartition(":")[2]
    handle = connect(first.target, PATIENT).create_session("s", features=["a", "b"], learner=LEARNER)
    restarted = []

    def rows():
        for i, row in enumerate(ROWS):
            if i == 90:
                assert first.stop() == 0
                restarted.append(start_server("--port", port, data=first.data))
            yield row

    summary = handle.learn_many(rows(), batch=10, in_flight=20)
    assert (summary.events, summary.last_sequence, summary.reconnects >= 1) == (200, 200, True)
    whole = handle.forecast().mean
    other = connect(restarted[0].target).create_session("t", features=["a", "b"], learner=LEARNER)
    other.learn_many(ROWS)
    assert other.forecast().mean == whole


def test_a_server_that_crashed_and_forgot_is_told_apart_from_one_that_did_not(start_server, connect):
    first = start_server()
    port = first.target.rpartition(":")[2]
    handle = connect(first.target, PATIENT).create_session("s", features=["a", "b"], learner=LEARNER)
    handle.learn_many(ROWS[:50])
    assert first.stop() == 0
    second = start_server("--port", port, data=first.data)
    handle.learn_many(ROWS[50:90])
    second.kill()
    start_server("--port", port, data=first.data)
    with pytest.raises(bptt_client.SessionRewound) as caught:
        handle.learn_many(ROWS[90:])
    assert (caught.value.acknowledged, caught.value.last_sequence) == (90, 50)
    with pytest.raises(bptt_client.SessionRewound):
        handle.learn_one(ROWS[90])
    handle.refresh()
    assert handle.learn_many(ROWS, start=handle.last_sequence).last_sequence == 200


def test_the_example_in_the_docstring_runs(server, new_id):
    example = textwrap.dedent(bptt_client.__doc__.split("\n\n", 1)[1].rsplit("\n\n", 1)[0])
    example = example.replace("localhost:50051", server.target).replace("pump-7", new_id())
    assert subprocess.check_output([sys.executable, "-c", example], text=True).strip() == str([71.2] * 24)
