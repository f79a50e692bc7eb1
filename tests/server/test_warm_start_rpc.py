"""A warm start over a real connection: what it leaves, whom it lets through, and every way it can be refused or cut."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bptt_core import Events, Fold, LearnerConfig, SessionConfig, select_backend

EVERY, NONE = 1, 3
PER_SEQUENCE, PER_PASS = 1, 2
NAN = float("nan")
_S = 10**9

# Every pass over a history writes its number to the file `begun` and waits until the file `allowed` has as much.
SLOW = """
import pathlib, time, bptt_core.warm_start
begun, allowed = pathlib.Path({begun!r}), pathlib.Path({allowed!r})
run, count = bptt_core.warm_start.WarmUp.run_pass, 0
def held(self):
    global count
    count += 1
    begun.write_bytes(b"." * count)
    while allowed.stat().st_size < count:
        time.sleep(0.005)
    return run(self)
bptt_core.warm_start.WarmUp.run_pass = held
"""


class Passes:
    """The gate before every pass of a server."""

    def __init__(self, folder: Path) -> None:
        self._allowed, self._begun = folder / "allowed", folder / "begun"
        self.allow(0)
        self.prelude = SLOW.format(allowed=str(self._allowed), begun=str(self._begun))

    def begun(self) -> int:
        return self._begun.stat().st_size if self._begun.exists() else 0

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while self.begun() < count:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def allow(self, count: int) -> None:
        self._allowed.write_bytes(b"." * count)

    def open(self) -> None:
        self.allow(10_000)


@pytest.fixture
def passes(tmp_path: Path) -> Passes:
    return Passes(tmp_path)


def trained(events: Events, passes: int, per_pass: bool) -> tuple[Fold, Any, Any]:
    """A fold whose only session had that warm start, and what it said."""
    fold = Fold(select_backend("numpy"))
    slot = fold.create(SessionConfig(("x", "y"), horizon=2, learner=LearnerConfig(hidden=4, window=8)))
    warm_up = fold.warm_start(slot, events, per_pass)
    for _ in range(passes):
        warm_up.run_pass()
    return fold, slot, warm_up.finish()


@pytest.mark.parametrize("updates", [PER_SEQUENCE, PER_PASS])
def test_the_stream_goes_on_from_the_history_as_in_a_fold_alone(
    updates: int, rpc: Any, new_id: Any, noise: Any
) -> None:
    session, events = new_id(), noise(90)
    rpc.create(session, horizon=2)
    uid = rpc.get(session).uid
    starts = [0, 25, 40]
    response = rpc.warm_start(session, events[:60], uid=uid, passes=4, updates=updates, starts=starts)
    begins = np.isin(np.arange(60), starts)
    fold, slot, result = trained(Events(events[:60], episode_start=begins), 4, updates == PER_PASS)
    assert response.session_uid == uid
    assert list(response.loss) == result.loss.tolist()
    assert response.loss[3] < response.loss[0]
    assert response.applied == result.applied == (12 if updates == PER_SEQUENCE else 4)
    after = rpc.get(session)
    assert (after.last_sequence, sum(after.scores.count), after.updates.applied) == (0, 0, 0)
    stream = rpc.stream()
    stream.open(session, reply=EVERY)
    assert stream.next().last_sequence == 0
    stream.send(1, events[60:])
    served = stream.next().result.outcomes
    (outs,) = fold.step([(slot, Events(events[60:]))])
    assert served.first_sequence == 1
    for name in ("mean", "lower", "loss", "gradient_norm"):
        column = getattr(outs, name)
        assert np.array(getattr(served, name), column.dtype).tobytes() == column.tobytes()


def test_a_warm_started_session_knows_more_than_a_fresh_one(rpc: Any, new_id: Any) -> None:
    """A sine: the first forecasts after the history are better than those without one."""
    wave = np.sin(np.arange(360) / 3)[:, None]
    errors = []
    for warm in (True, False):
        name = new_id()
        rpc.create(name, features=["x"], hidden=8)
        if warm:
            assert rpc.warm_start(name, wave[:300], passes=30, starts=range(0, 300, 50)).applied == 180
        mean = np.array(rpc.ingest(name, 1, wave[300:], reply=EVERY).outcomes.mean)
        errors.append(np.nanmean((mean[:20] - wave[301:321, 0]) ** 2))
    assert errors[0] < errors[1] / 2


def test_a_warm_start_comes_once_and_before_the_first_event(rpc: Any, new_id: Any, noise: Any, refused: Any) -> None:
    session = new_id()
    rpc.create(session)
    rpc.warm_start(session, noise(10))
    error = refused(lambda: rpc.warm_start(session, noise(10)))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "ALREADY_STARTED")
    assert error.details == {"ErrorInfo", "ResourceInfo"}
    assert error.facts == {"session_id": session, "last_sequence": "0", "warm_started": "yes"}
    assert "has had a warm start" in error.message
    rpc.ingest(session, 1, noise(1))
    other = new_id()
    rpc.create(other)
    rpc.ingest(other, 1, noise(1))
    error = refused(lambda: rpc.warm_start(other, noise(10)))
    assert error.facts == {"session_id": other, "last_sequence": "1", "warm_started": "no"}


def test_the_end_of_the_history_counts_for_the_time_of_later_events(
    rpc: Any, new_id: Any, noise: Any, refused: Any
) -> None:
    session = new_id()
    rpc.create(session)
    rpc.warm_start(session, noise(10), times=[n * _S for n in range(10)])
    assert not rpc.get(session).HasField("last_timestamp_ns"), "of no event"
    assert "timestamps_ns is absent" in refused(lambda: rpc.ingest(session, 1, noise(1))).message
    early = refused(lambda: rpc.ingest(session, 1, noise(1), times=[9 * _S - 1]))
    assert f"at least the one before, {9 * _S}" in early.message
    assert rpc.ingest(session, 1, noise(1), times=[9 * _S]).last_sequence == 1


@pytest.mark.parametrize(
    ("values", "more", "text"),
    [
        ([], {}, "history.values is 0 values"),
        ([1, 2], {}, "history.values is 1 event; allowed: 2..10000 events"),
        ([1, 2, 3], {}, "history.values is 3 values"),
        (np.zeros(20_002), {}, "history.values is 10001 events; allowed: at most 10000"),
        (np.zeros(20), {"passes": 0}, "passes is 0; allowed: 1..1000, with 10 events"),
        (np.zeros(20), {"passes": 1001}, "passes is 1001"),
        (np.zeros(20_000), {"passes": 101}, "passes is 101; allowed: 1..100, with 10000 events"),
        (np.zeros(20), {"updates": 3}, "updates is 3; allowed: WARM_START_UPDATES_PER_SEQUENCE, WARM_START_UPD"),
        (np.zeros(20), {"times": [1]}, "history.timestamps_ns is 1 values"),
        (np.zeros(4), {"times": [2, 1]}, "history.timestamps_ns is 1"),
        ([1, 2, 3, float("inf")], {}, "history.values[1][1] is inf"),
        (np.zeros(4), {"labels": [1]}, "history.labels is 1 values; allowed: none"),
        (np.zeros(4), {"starts": [2]}, "history.episode_starts is 2; allowed: 0..1"),
    ],
)
def test_a_bad_history_is_refused_and_changes_nothing(
    values: Any, more: dict[str, Any], text: str, rpc: Any, new_id: Any, noise: Any, refused: Any
) -> None:
    session = new_id()
    rpc.create(session)
    before = rpc.get(session)
    error = refused(lambda: rpc.warm_start(session, values, **more))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert text in error.message
    assert rpc.get(session) == before
    assert rpc.warm_start(session, noise(4)).applied == 3


def test_a_history_too_long_for_its_network_is_refused_by_the_core_and_changes_nothing(
    rpc: Any, new_id: Any, noise: Any, refused: Any
) -> None:
    session = new_id()
    rpc.create(session, hidden=512)
    error = refused(lambda: rpc.warm_start(session, np.zeros(20_000), times=range(10_000)))
    assert (error.reason, error.facts["field"]) == ("INVALID_FIELD", "history")
    assert rpc.ingest(session, 1, noise(2)).last_sequence == 2, "without timestamps: the history said nothing"


def test_a_history_without_targets_is_reported_as_it_is(rpc: Any, new_id: Any) -> None:
    session = new_id()
    rpc.create(session)
    response = rpc.warm_start(session, np.full((5, 2), NAN), passes=2)
    assert np.isnan(response.loss).tolist() == [True, True]
    assert response.applied == 0


def test_labels_of_a_history_are_learned_from(rpc: Any, new_id: Any, noise: Any, refused: Any) -> None:
    session = new_id()
    rpc.create(session, task=2, labels=["load"], learning_rate=0.05)
    response = rpc.warm_start(session, noise(40), labels=noise(40).sum(axis=1), passes=20)
    assert response.loss[-1] < response.loss[0] / 2
    error = refused(lambda: rpc.label(session, [1], [1.0]))
    assert error.reason == "LABEL_UNKNOWN_SEQUENCE", "a history has no sequences"
    assert rpc.ingest(session, 1, noise(1), labels=[1.0]).last_sequence == 1


def test_others_wait_for_one_pass_at_most_and_its_own_events_for_all(
    start_server: Any, connect: Any, noise: Any, passes: Passes, wait_for: Any
) -> None:
    server = start_server(prelude=passes.prelude)
    rpc = connect(server.target)
    for name in "ab":
        rpc.create(name)
    with ThreadPoolExecutor(3) as pool:
        warm = pool.submit(rpc.warm_start, "a", noise(20), passes=5)
        passes.wait(1)
        events = pool.submit(rpc.ingest, "a", 1, noise(3))
        for number in range(1, 5):
            other = pool.submit(rpc.ingest, "b", number, noise(1))
            wait_for(server, "bptt_queue_events 4.0")
            passes.allow(number)
            assert other.result(60).last_sequence == number
            passes.wait(number + 1)
        assert not warm.done()
        assert not events.done()
        passes.open()
        assert len(warm.result(60).loss) == 5
        assert events.result(60).last_sequence == 3


def test_a_retried_request_does_not_train_twice(
    start_server: Any, connect: Any, noise: Any, passes: Passes, refused: Any, fetch: Any
) -> None:
    server = start_server(prelude=passes.prelude)
    rpc = connect(server.target)
    rpc.create("s")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(rpc.warm_start, "s", noise(20), passes=3)
        passes.wait(1)
        error = refused(lambda: rpc.warm_start("s", noise(20), passes=3))
        assert (error.reason, error.facts["warm_started"]) == ("ALREADY_STARTED", "running")
        passes.open()
        first.result(60)
    assert refused(lambda: rpc.warm_start("s", noise(20), passes=3)).facts["warm_started"] == "yes"
    assert passes.begun() == 3
    assert "bptt_warm_starts_total 1.0" in fetch(server.http_url + "/metrics")[1]


def test_a_caller_that_goes_away_does_not_end_its_warm_start(
    start_server: Any, connect: Any, noise: Any, passes: Passes, wait_for: Any, refused: Any
) -> None:
    server = start_server(prelude=passes.prelude)
    gone, rpc = connect(server.target), connect(server.target)
    rpc.create("s")
    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(refused, lambda: gone.warm_start("s", noise(20)))
        passes.wait(1)
        gone.channel.close()
        assert left.result(60).code == "CANCELLED"
    passes.open()
    wait_for(server, "bptt_warm_starts_total 1.0")
    assert refused(lambda: rpc.warm_start("s", noise(20))).reason == "ALREADY_STARTED"


def test_a_drain_ends_it_after_the_running_pass_and_leaves_the_session_as_it_was(
    start_server: Any, connect: Any, noise: Any, passes: Passes, wait_for: Any, refused: Any, tmp_path: Path
) -> None:
    data = tmp_path / "kept"
    server = start_server(data=data, prelude=passes.prelude)
    rpc = connect(server.target)
    rpc.create("s")
    with ThreadPoolExecutor(2) as pool:
        warm = pool.submit(refused, lambda: rpc.warm_start("s", noise(20), passes=1000, times=range(20)))
        passes.wait(1)
        behind = pool.submit(refused, lambda: rpc.ingest("s", 1, noise(3), times=[30, 31, 32]))
        wait_for(server, "bptt_queue_events 3.0")
        server.process.terminate()
        wait_for(server, "bptt_draining 1.0")
        assert refused(lambda: rpc.warm_start("s", noise(20))).reason == "DRAINING"
        passes.open()
        for answer in (warm.result(60), behind.result(60)):
            assert (answer.code, answer.reason) == ("UNAVAILABLE", "DRAINING")
            assert answer.details == {"ErrorInfo", "RetryInfo"}
    assert passes.begun() == 1
    assert server.stop() == 0
    rpc = connect(start_server(data=data).target)
    response = rpc.warm_start("s", noise(20), passes=2)
    _, _, result = trained(Events(noise(20)), 2, False)
    assert len(response.loss) == len(result.loss) == 2
    assert rpc.ingest("s", 1, noise(1)).last_sequence == 1, "without timestamps: the history that was cut said nothing"


def test_a_restart_remembers_the_warm_start(
    start_server: Any, connect: Any, noise: Any, refused: Any, tmp_path: Path
) -> None:
    data = tmp_path / "kept"
    first = start_server(data=data)
    rpc = connect(first.target)
    rpc.create("s")
    rpc.warm_start("s", noise(20), times=[n * _S for n in range(20)])
    assert first.stop() == 0
    rpc = connect(start_server(data=data).target)
    assert refused(lambda: rpc.warm_start("s", noise(20))).facts["warm_started"] == "yes"
    assert refused(lambda: rpc.ingest("s", 1, noise(1), times=[18 * _S])).facts["field"] == "timestamps_ns"
    assert rpc.ingest("s", 1, noise(1), times=[20 * _S]).last_sequence == 1


def test_a_deleted_session_ends_its_warm_start(
    start_server: Any, connect: Any, noise: Any, passes: Passes, refused: Any
) -> None:
    rpc = connect(start_server(prelude=passes.prelude).target)
    rpc.create("s")
    with ThreadPoolExecutor(2) as pool:
        warm = pool.submit(refused, lambda: rpc.warm_start("s", noise(20), passes=500))
        passes.wait(1)
        deleted = pool.submit(rpc.delete, "s")
        time.sleep(0.05)
        passes.open()
        deleted.result(60)
        assert warm.result(60).reason == "SESSION_NOT_FOUND"
    assert passes.begun() <= 2
    rpc.create("s")
    assert rpc.warm_start("s", noise(20), passes=1).applied == 1


def test_warm_starts_in_flight_keep_within_their_memory(
    start_server: Any, connect: Any, noise: Any, passes: Passes, refused: Any
) -> None:
    rpc = connect(start_server("--ingest-memory-mib", "1", prelude=passes.prelude).target)
    for name in "ab":
        rpc.create(name, features=["x"], horizon=48, window=64)
    with ThreadPoolExecutor(1) as pool:
        # The network sees 3 inputs and 48 targets of each event, twice over if there were gaps: 816 kB.
        first = pool.submit(rpc.warm_start, "a", noise(2000, d=1), passes=1)
        passes.wait(1)
        error = refused(lambda: rpc.warm_start("b", noise(2000, d=1), passes=1))
        assert (error.code, error.reason, error.facts["limit"]) == (
            "RESOURCE_EXHAUSTED", "OVERLOADED", "ingest-memory-mib"
        )  # fmt: skip
        assert "RetryInfo" in error.details
        passes.open()
        assert first.result(60).applied == 1
    assert rpc.warm_start("b", noise(2000, d=1), passes=1).applied == 1
