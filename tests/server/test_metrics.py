"""The metrics page after a real run: every family is there, and its values are plausible."""

from __future__ import annotations

import http.client
import math
import shutil
import subprocess
import time
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bptt_core import Outcomes, ResetReason, SensorState, UpdateResult, select_backend
from server.metrics import Metrics

EVERY = 1


@pytest.fixture
def samples(fetch: Any) -> Any:
    """`samples(server)`: every sample of the metrics page by name and labels."""
    return lambda server: parsed(fetch(server.http_url + "/metrics")[1])


def parsed(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def outcomes(results: list[UpdateResult], **columns: Any) -> Outcomes:
    """A table of one horizon and target, of such updates; columns not given are ones."""
    n = len(results)
    wide, thin = np.zeros((n, 1, 1)), np.ones(n, np.float32)
    given = {
        "mean": wide, "lower": wide, "upper": wide, "distribution": np.zeros((n, 1, 1, 0)), "anomaly_score": thin,
        "loss": thin, "gradient_norm": thin, "clip_scale": thin, "saturation": thin, "update_ratio": thin,
        "norm_by_lag": np.full((n, 3), np.nan, np.float32), "target_anomaly_score": wide[:, 0],
        "anomaly_likelihood": thin, "sensor_state": np.full((n, 1), SensorState.OK, np.int8),
        "drift": np.zeros(n, bool), "warming_up": np.zeros(n, bool), "learner_reset": np.zeros((n, 1), np.int8),
        **columns,
    }  # fmt: skip
    return Outcomes(first_sequence=1, update_result=np.array(results, np.int8), **given)


def value(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_every_family_is_there_and_plausible_after_a_run(
    start_server: Any, connect: Any, noise: Any, samples: Any
) -> None:
    server = start_server()
    rpc = connect(server.target)
    events = noise(200)
    rpc.create("a", horizon=2, clip_norm=0.05, window=10)
    rpc.create("b", horizon=2)
    stream = rpc.stream()
    stream.open("a", reply=EVERY)
    stream.next()
    for at in range(0, 200, 50):
        stream.send(at + 1, events[at : at + 50])
    for _ in range(4):
        stream.next()
    stream.send(151, events[150:200])
    assert stream.next().result.duplicates == 50
    stream.send(300, events[:7])
    assert stream.next().error.reason == "SEQUENCE_GAP"
    rpc.ingest("b", 1, np.full((20, 2), np.nan))
    for call in (lambda: rpc.get("c"), lambda: rpc.ingest("c", 1, events), lambda: rpc.ingest("b", 1, events, reply=9)):
        with pytest.raises(grpc.RpcError):
            call()

    found = samples(server)
    assert value(found, "bptt_events_total", outcome="accepted") == 220
    assert value(found, "bptt_events_total", outcome="duplicate") == 50
    assert value(found, "bptt_events_total", outcome="rejected") == 7 + 200
    session = rpc.get("a").updates
    assert value(found, "bptt_updates_total", result="applied") == session.applied > 150
    assert value(found, "bptt_updates_total", result="no_target") == session.no_target + 20
    assert value(found, "bptt_updates_total", result="non_finite") == 0
    assert value(found, "bptt_updates_total", result="learning_off") == 0
    assert value(found, "bptt_clipped_updates_total") == session.clipped > 0
    assert value(found, "bptt_non_finite_total", kind="update") == 0
    assert value(found, "bptt_non_finite_total", kind="carry") == 0
    for name in ("bptt_gradient_norm", "bptt_loss"):
        assert value(found, name + "_count") == session.applied
        assert 0 < value(found, name + "_sum") / session.applied < 100
    batches = value(found, "bptt_micro_batch_events_count")
    assert value(found, "bptt_micro_batch_events_sum") == 220
    assert value(found, "bptt_micro_batch_sessions_count") == value(found, "bptt_micro_batch_seconds_count") == batches
    for name, most in (("bptt_saturated_units_ratio", 1), ("bptt_update_ratio", 0.1)):
        assert value(found, name + "_count") == session.applied
        assert 0 <= value(found, name + "_sum") / session.applied < most
    for lag in ("0", "1", "2", "4", "8", "window"):
        assert value(found, "bptt_gradient_norm_by_lag_count", lag=lag) == session.applied // 64 == 3
        assert 0 < value(found, "bptt_gradient_norm_by_lag_sum", lag=lag) < 1000
    assert value(found, "bptt_gradient_norm_by_lag_count", lag="16") == 0
    assert 0 < value(found, "bptt_update_seconds_sum") < value(found, "bptt_micro_batch_seconds_sum") < 60
    assert 0 < value(found, "bptt_update_seconds_count") < batches  # b's events had nothing to learn
    assert value(found, "bptt_ingest_reply_seconds_count") == 6
    assert 0 < value(found, "bptt_ingest_reply_seconds_sum") < 600
    assert 0 <= value(found, "bptt_event_loop_delay_seconds_sum") < 60
    for reason in ("non_finite", "diverged", "restarted", "season"):
        assert value(found, "bptt_learner_resets_total", reason=reason) == 0
    assert value(found, "bptt_sensor_states_total", state="ok") == 2 * 200
    assert value(found, "bptt_sensor_states_total", state="missing") == 2 * 20
    assert value(found, "bptt_sensor_states_total", state="stuck") == 0
    assert value(found, "bptt_anomalous_events_total") < 20
    assert value(found, "bptt_drifts_total") < 3
    assert value(found, "bptt_queue_events") == 0
    assert value(found, "bptt_sessions") == 2
    assert value(found, "bptt_streams") == 1
    assert value(found, "bptt_watchers") == 0
    assert value(found, "bptt_draining") == 0
    assert value(found, "bptt_watch_dropped_events_total") == 0
    assert value(found, "bptt_errors_total", reason="SEQUENCE_GAP") == 1
    assert value(found, "bptt_errors_total", reason="SESSION_NOT_FOUND") == 2
    assert [labels for name, labels in found if name == "bptt_backend_info"]
    ours = {"grpc_service": "bptt.v1.SessionService", "grpc_method": "CreateSession", "grpc_type": "unary"}
    assert value(found, "grpc_server_started_total", **ours) == 2
    assert value(found, "grpc_server_handled_total", grpc_code="OK", **ours) == 2
    assert (
        value(found, "grpc_server_handled_total", grpc_code="NOT_FOUND", **{**ours, "grpc_method": "GetSession"}) == 1
    )
    assert value(found, "grpc_server_handling_seconds_count", **ours) == 2
    streams = {"grpc_service": "bptt.v1.ForecastService", "grpc_method": "Stream", "grpc_type": "bidi_stream"}
    assert value(found, "grpc_server_msg_received_total", **streams) == 7
    assert value(found, "grpc_server_msg_sent_total", **streams) == 7
    assert value(found, "process_resident_memory_bytes") > 1e6
    assert all(math.isfinite(number) for number in found.values())


def test_labels_and_warm_starts_are_counted(start_server: Any, connect: Any, noise: Any, samples: Any) -> None:
    server = start_server()
    rpc = connect(server.target)
    rpc.create("a", task=2, labels=["p", "q"])
    rpc.warm_start("a", noise(10), labels=noise(10))
    labels = noise(6)
    labels[4:] = math.nan
    rpc.ingest("a", 1, noise(6), labels=labels)
    rpc.ingest("a", 3, noise(6)[2:], labels=labels[2:])
    rpc.label("a", [5], [1.0, math.nan])
    rpc.label("a", [5], [1.0, 2.0])
    for call in (
        lambda: rpc.label("a", [5], [1.0, 3.0]),
        lambda: rpc.label("a", [9], [1.0, math.nan]),
        lambda: rpc.ingest("a", 9, noise(1), labels=[1.0, 1.0]),
        lambda: rpc.label("b", [1], [1.0]),
        lambda: rpc.warm_start("a", noise(10)),
    ):
        with pytest.raises(grpc.RpcError):
            call()
    found = samples(server)
    assert value(found, "bptt_labels_total", outcome="accepted") == 8 + 2
    assert value(found, "bptt_labels_total", outcome="duplicate") == 4 + 1
    assert value(found, "bptt_labels_total", outcome="rejected") == 2 + 1 + 2
    assert value(found, "bptt_events_total", outcome="rejected") == 1
    assert value(found, "bptt_events_total", outcome="accepted") == 6
    assert value(found, "bptt_warm_starts_total") == 1
    assert value(found, "bptt_updates_total", result="applied") == rpc.get("a").updates.applied
    for reason in ("LABEL_CONFLICT", "LABEL_UNKNOWN_SEQUENCE", "ALREADY_STARTED"):
        assert value(found, "bptt_errors_total", reason=reason) == 1
    assert all(math.isfinite(number) for number in found.values())


def test_the_number_of_series_does_not_grow_with_sessions(
    start_server: Any, connect: Any, noise: Any, samples: Any
) -> None:
    server = start_server()
    rpc = connect(server.target)

    def one(name: str) -> None:
        rpc.create(name)
        rpc.ingest(name, 1, noise(5))

    one("first")
    before = set(samples(server))
    for number in range(20):
        one(f"next-{number}")
    assert set(samples(server)) == before


def test_known_labels_are_exported_before_anything_happened(start_server: Any, samples: Any) -> None:
    found = samples(start_server())
    for outcome in ("accepted", "duplicate", "rejected"):
        assert value(found, "bptt_events_total", outcome=outcome) == 0
        assert value(found, "bptt_labels_total", outcome=outcome) == 0
    for result in ("applied", "no_target", "non_finite", "learning_off"):
        assert value(found, "bptt_updates_total", result=result) == 0
    for reason in ("non_finite", "diverged", "restarted", "season"):
        assert value(found, "bptt_learner_resets_total", reason=reason) == 0
    for state in ("ok", "missing", "stuck"):
        assert value(found, "bptt_sensor_states_total", state=state) == 0
    assert value(found, "bptt_session_skill_bucket", le="+Inf") == value(found, "bptt_session_skill_gcount") == 0
    lags = ("0", "1", "2", "4", "8", "16", "32", "64", "128", "256", "512", "window")
    for lag in lags:
        assert value(found, "bptt_gradient_norm_by_lag_count", lag=lag) == 0
    assert sum(name == "bptt_gradient_norm_by_lag_count" for name, _ in found) == len(lags)
    assert value(found, "bptt_errors_total", reason="OVERLOADED") == 0
    labels = {"grpc_service": "bptt.v1.ForecastService", "grpc_method": "Ingest", "grpc_type": "unary"}
    assert value(found, "grpc_server_started_total", **labels) == 0
    assert value(found, "grpc_server_handled_total", grpc_code="RESOURCE_EXHAUSTED", **labels) == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_promtool_finds_nothing_to_say(server: Any, fetch: Any) -> None:
    _, page = fetch(server.http_url + "/metrics")
    result = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_http_port_answers_health_readiness_and_nothing_else(server: Any, fetch: Any) -> None:
    assert fetch(server.http_url + "/healthz") == (200, "alive\n")
    assert fetch(server.http_url + "/readyz") == (200, "ready\n")
    assert fetch(server.http_url + "/readyz?full")[0] == 200
    assert fetch(server.http_url + "/")[0] == 404
    assert fetch(server.http_url + "/metrics/x")[0] == 404


def test_the_http_port_answers_a_request_for_the_head_alone(server: Any) -> None:
    address = server.http_url.removeprefix("http://")
    for path, status in (("/metrics", 200), ("/healthz", 200), ("/readyz", 200), ("/", 404)):
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (status, b"")
        assert int(answer.headers["Content-Length"]) > 0
        connection.close()


def test_oddities_and_resets_are_counted_by_kind() -> None:
    metrics = Metrics(select_backend("numpy"), "test")
    n, kinds = 5, SensorState
    several = np.zeros((n, 3), np.int8)
    several[1, 2], several[3, 0], several[3, 1] = ResetReason.DIVERGED, ResetReason.SEASON, ResetReason.DIVERGED
    one = outcomes(
        [UpdateResult.APPLIED] * n, anomaly_score=np.array([0, 1, 1.01, np.nan, 30]), learner_reset=several,
        drift=np.array([0, 0, 1, 0, 0], bool),
    )  # fmt: skip
    states = np.array([[kinds.OK, kinds.MISSING], [kinds.STUCK, kinds.OK]], np.int8)
    two = outcomes([UpdateResult.APPLIED] * 2, sensor_state=states, anomaly_score=np.zeros(2))
    symbols = outcomes([UpdateResult.APPLIED], sensor_state=np.zeros((1, 0), np.int8), anomaly_score=np.zeros(1))
    metrics.folded([one, two, symbols], 0.1, 0)
    found = parsed(metrics.page().decode())
    assert value(found, "bptt_anomalous_events_total") == 2
    assert value(found, "bptt_drifts_total") == 1
    resets = {"non_finite": 0, "diverged": 2, "restarted": 0, "season": 1}
    assert {k: value(found, "bptt_learner_resets_total", reason=k) for k in resets} == resets
    sensors = {"ok": n + 2, "missing": 1, "stuck": 1}
    assert {k: value(found, "bptt_sensor_states_total", state=k) for k in sensors} == sensors


def test_the_distribution_of_skill_is_that_of_the_sessions_at_last_telling() -> None:
    metrics = Metrics(select_backend("numpy"), "test")
    metrics.skill.tell(np.array([0.9, 0.9]))
    metrics.skill.tell(np.array([-np.inf, -3.0, -0.3, 0.0, 0.05, 0.6, 1.0, np.nan]))
    found = parsed(metrics.page().decode())
    below = {"-1.0": 2, "-0.5": 2, "-0.25": 3, "-0.1": 3, "0.0": 4, "0.1": 5, "0.5": 5, "0.75": 6, "1.0": 7, "+Inf": 7}
    assert {le: value(found, "bptt_session_skill_bucket", le=le) for le in below} == below
    assert value(found, "bptt_session_skill_gcount") == 7
    assert value(found, "bptt_session_skill_gsum") == pytest.approx(-1 - 1 - 0.3 + 0.05 + 0.6 + 1)


def test_skill_on_the_page_follows_the_sessions(
    start_server: Any, connect: Any, noise: Any, samples: Any, wait_for: Any
) -> None:
    server = start_server(prelude="import server.app; server.app._SKILL_S = 0.02")
    rpc = connect(server.target)
    for name in "abc":
        rpc.create(name)
    rpc.create("labelled", task=2, labels=["z"])
    wait_for(server, "bptt_session_skill_gcount 0.0")
    skills = []
    for name, scale in (("a", 1.0), ("b", 100.0)):
        rpc.ingest(name, 1, scale * noise(300))
        scores = rpc.get(name).scores
        skills.append(1 - np.mean(np.divide(scores.mse, scores.persistence_mse)))
    wait_for(server, "bptt_session_skill_gcount 2.0")
    for _ in range(1000):  # what is read first may be of before the last event
        if value(samples(server), "bptt_session_skill_gsum") == pytest.approx(sum(skills)):
            break
        time.sleep(0.02)
    else:
        pytest.fail("the skills on the page are not those of the sessions")
    rpc.delete("a")
    wait_for(server, "bptt_session_skill_gcount 1.0")


def test_an_updates_time_is_its_share_of_the_micro_batch() -> None:
    metrics = Metrics(select_backend("numpy"), "test")
    for results in ([UpdateResult.APPLIED] * 4 + [UpdateResult.NOT_DUE], [UpdateResult.NO_TARGET] * 5):
        metrics.folded([outcomes(results)], 0.2, 0)
    found = parsed(metrics.page().decode())
    assert value(found, "bptt_update_seconds_count") == 1
    assert value(found, "bptt_update_seconds_sum") == pytest.approx(0.05)
    assert value(found, "bptt_micro_batch_seconds_count") == 2
    assert value(found, "bptt_micro_batch_seconds_sum") == pytest.approx(0.4)


def test_the_delay_of_the_loop_shows_what_held_it_up(start_server: Any, fetch: Any, samples: Any) -> None:
    prelude = """
import time
from server.app import Server
def hold(self, tell=Server._tell_skill):
    self._loop.call_later(0.5, time.sleep, 0.3)
    return tell(self)
Server._tell_skill = hold
"""
    server = start_server(prelude=prelude)
    name, deadline = "bptt_event_loop_delay_seconds", time.monotonic() + 30
    while value(samples(server), name + "_sum") < 0.2:
        assert time.monotonic() < deadline
    found = samples(server)
    assert value(found, name + "_count") > value(found, name + "_bucket", le="0.2") > 0


def test_what_outcomes_say_is_on_the_page_however_few_there_were() -> None:
    metrics = Metrics(select_backend("numpy"), "test")
    metrics.folded([outcomes([UpdateResult.APPLIED])], 0.1, 0)
    assert value(parsed(metrics.page().decode()), "bptt_updates_total", result="applied") == 1
    for _ in range(3):
        metrics.folded([outcomes([UpdateResult.APPLIED] * 1000)], 0.1, 0)
    found = parsed(metrics.page().decode())
    assert value(found, "bptt_updates_total", result="applied") == 3001
    assert value(found, "bptt_micro_batch_events_sum") == 3001
    assert value(found, "bptt_micro_batch_events_count") == 4


def test_a_value_that_is_not_finite_is_counted_apart_and_not_observed() -> None:
    metrics = Metrics(select_backend("numpy"), "test")
    results = [UpdateResult.APPLIED, UpdateResult.NON_FINITE, UpdateResult.APPLIED]
    norms = np.array([2.0, np.nan, np.inf], np.float32)
    health = dict.fromkeys(("loss", "gradient_norm", "saturation", "update_ratio"), norms)
    by_lag = np.array([[1, 2, 3], [np.nan] * 3, [np.inf, np.nan, 3]], np.float32)
    scales = np.array([0.5, np.nan, 1.0], np.float32)
    metrics.folded([outcomes(results, clip_scale=scales, norm_by_lag=by_lag, **health)], 0.001, 4)
    found = parsed(metrics.page().decode())
    assert value(found, "bptt_updates_total", result="applied") == 2
    assert value(found, "bptt_non_finite_total", kind="update") == 1
    assert value(found, "bptt_non_finite_total", kind="carry") == 4
    assert value(found, "bptt_clipped_updates_total") == 1
    for name in ("bptt_gradient_norm", "bptt_loss", "bptt_saturated_units_ratio", "bptt_update_ratio"):
        assert (value(found, name + "_count"), value(found, name + "_sum")) == (1, 2)
    name, sums = "bptt_gradient_norm_by_lag", {"0": (1, 1), "1": (1, 2), "2": (0, 0), "window": (2, 6)}
    for lag, (count, total) in sums.items():
        assert (value(found, name + "_count", lag=lag), value(found, name + "_sum", lag=lag)) == (count, total)
