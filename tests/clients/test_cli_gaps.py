"""Files with gaps: the command line counts steps as the server does, and scores what the server forecast."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bptt_client import Client
from bptt_client.cli import grid, main
from bptt_core.events import Events
from bptt_core.timeline import Timeline
from bptt_core.timeline import steps_of as server_steps_of

HOUR = 3600 * 10**9


def steps_of_the_server(times, period_ns, longest_gap, chunk):
    timeline, steps, last = Timeline(period_ns=period_ns or 0), [], -1
    for start in range(0, len(times), chunk):
        part = np.asarray(times[start : start + chunk], np.int64)
        timeline, made = server_steps_of(timeline, Events(np.zeros((len(part), 1)), part), longest_gap)
        for event, jump in zip(made.event, made.jump, strict=True):
            last += 1 + int(jump)
            if event:
                steps.append(last)
    return steps


@pytest.mark.parametrize("seed", range(20))
def test_rows_lie_on_the_steps_of_the_server(seed):
    random = np.random.default_rng(seed)
    jitter = [0, HOUR // 10, HOUR // 2, HOUR * 3][seed % 4]
    kinds, chances = [0, 1, 2, 5, 300, 5000], [0.05, 0.8, 0.05, 0.05, 0.03, 0.02]
    hours = np.cumsum(random.choice(kinds, 400, p=chances))
    times = np.sort(hours * HOUR + random.integers(-jitter, jitter + 1, 400)).tolist()
    for period_ns in (None, HOUR, HOUR + 1, 7):
        expected = steps_of_the_server(times, period_ns, longest_gap=64, chunk=int(random.integers(1, 90)))
        got = grid.steps_of(times, len(times), period_ns).tolist()
        assert [step - got[0] for step in got] == [step - expected[0] for step in expected], period_ns


def test_without_times_or_a_known_period_rows_are_steps():
    assert grid.steps_of(None, 4, HOUR).tolist() == [0, 1, 2, 3]
    assert grid.steps_of([0, 5, 900, 901], 4, None).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("period", [[], ["--set", f"period_ns={HOUR}"]])
def test_replay_scores_a_file_with_gaps_as_the_server_does(server, new_id, tmp_path, period):
    random, name, report = np.random.default_rng(5), new_id(), tmp_path / "out.json"
    lines = ["time,wave"]
    for i in range(600):
        if i < 30 or i % 60 not in range(20, 31):  # eleven hours are missing of every sixty
            moment = np.datetime64("2024-01-01") + np.timedelta64(i, "h")
            lines.append(f"{moment},{10 * np.sin(i * np.pi / 12) + random.normal():.4f}")
    path = tmp_path / "gaps.csv"
    path.write_text("\n".join(lines) + "\n")
    flags = ["--time", "time", "--set", "seasons=24", "--set", "hidden=4", "--set", "window=8", *period]
    flags += ["--server", server.target, "--report", str(report)]
    assert main(["replay", str(path), *flags, "--session", name]) == 0
    with Client(server.target) as client:
        scores = client.get_session(name).scores
        client.delete_session(name)
    got = json.loads(report.read_text())
    assert got["scored"] == scores.count[0][0]
    for kind in ("mse", "persistence_mse", "seasonal_mse", "coverage", "width", "interval_score"):
        assert got["overall"][kind] == pytest.approx(getattr(scores, kind)[0][0]), kind
