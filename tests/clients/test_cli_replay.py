"""The commands as a user runs them: files and flags in; table, report, picture and exit code out; nothing left
behind.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bptt_client import Client
from bptt_client.cli import demo, local_server, main, plant

MEANS = [
    "mse", "mae", "persistence_mse", "persistence_mae", "seasonal_mse", "coverage", "width", "interval_score", "skill",
]  # fmt: skip
SMALL = ["--set", "hidden=4", "--set", "window=8"]


@pytest.fixture
def csv(tmp_path):
    """A daily wave with a little noise, an hour a row, some values missing."""
    random = np.random.default_rng(1)
    path = tmp_path / "wave.csv"
    lines = ["time,wave,other,name"]
    for i in range(300):
        wave = "" if i % 50 == 7 else f"{np.sin(i / 4) + 0.05 * random.standard_normal():.4f}"
        lines.append(f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00:00,{wave},{-200 if i == 9 else i % 7},row")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def sessions(server):
    """Ids of the sessions on the shared server that this command line might have made."""

    def listed():
        with Client(server.target) as client:
            return [s.session_id for s in client.list_sessions() if s.session_id.startswith("replay-wave")]

    return listed


def test_replay_reports_exactly_what_it_promises(server, csv, tmp_path, capfd, sessions):
    report, plot = tmp_path / "out.json", tmp_path / "out.png"
    code = main(
        ["replay", str(csv), "--server", server.target, "--time", "time", "--horizon", "2", "--missing", "-200",
         "--targets", "wave", "--fit-rows", "100", "--score-from", "50", "--score-to", "250", "--set", "seasons=24",
         "--batch", "32", "--report", str(report), "--plot", str(plot), *SMALL]
    )  # fmt: skip
    out, err = capfd.readouterr()
    assert code == 0, err
    got = json.loads(report.read_text())
    assert list(got) == [
        "rows", "scored", "horizon", "targets", "overall", "per_target", "per_horizon", "updates", "events_per_second",
        "latency_ms", "anomalies", "drifts", "seasonality", "seasons", "experts",
    ]  # fmt: skip
    assert (got["rows"], got["horizon"], got["targets"]) == (300, 2, ["wave"])
    assert 190 <= got["scored"] <= 199
    assert list(got["overall"]) == list(got["per_target"]["wave"]) == list(got["per_horizon"]["2"]) == MEANS
    assert list(got["per_horizon"]) == ["1", "2"]
    assert got["overall"] == got["per_target"]["wave"]
    assert 0 < got["per_horizon"]["1"]["persistence_mse"] < got["per_horizon"]["2"]["persistence_mse"]
    assert got["overall"]["seasonal_mse"] > 0
    assert list(got["updates"]) == [
        "count", "skipped", "clipped", "saturation", "update_ratio", "gradient_by_lag", "resets",
    ]  # fmt: skip
    assert got["updates"]["count"] + got["updates"]["skipped"] == 300
    assert got["events_per_second"] > 0
    assert 0 < got["latency_ms"]["p50"] <= got["latency_ms"]["p99"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "column 'name' holds no number and is left out" in err
    assert "300 of 300 rows" in err
    assert "model" in out
    assert "`last season` the value 24 steps before" in " ".join(out.split())
    assert sessions() == []


def test_the_naive_score_is_that_of_the_file_and_the_model_starts_from_it(server, csv, tmp_path):
    report = tmp_path / "out.json"
    code = main(
        ["replay", str(csv), "--server", server.target, "--features", "other", "--missing", "-200",
         "--set", "learning_rate=1e-8", "--report", str(report), *SMALL]
    )  # fmt: skip
    got = json.loads(report.read_text())["overall"]
    values = [float(i % 7) for i in range(300)]
    errors = [(values[t + 1] - (values[t] if t != 9 else values[8])) ** 2 for t in range(299) if t + 1 != 9]
    assert code == 0
    assert got["persistence_mse"] == pytest.approx(sum(errors) / len(errors))
    assert got["mse"] == pytest.approx(got["persistence_mse"], rel=0.05)
    assert got["seasonal_mse"] is None


def test_a_named_session_is_kept_and_goes_on_from_where_it_was(server, csv, capfd, new_id, sessions):
    name = new_id()
    first = ["replay", str(csv), "--server", server.target, "--session", name, "--features", "other", *SMALL]
    head = csv.with_name("head.csv")
    head.write_text("".join(csv.read_text().splitlines(keepends=True)[:101]))
    assert main([*first[:1], str(head), *first[2:]]) == 0
    assert main([*first, "--start", "100"]) == 0
    with Client(server.target) as client:
        assert client.get_session(name).last_sequence == 300
        assert main(["sessions", "--server", server.target, "--json"]) == 0
        out = capfd.readouterr().out
        found = {s["session_id"]: s for s in map(json.loads, re.findall(r"^\{.*\}$", out, re.MULTILINE))}
        assert found[name]["last_sequence"] == 300
        assert found[name]["config"]["learner"]["hidden"] == 4
        assert main([*first, "--horizon", "3"]) == 1
        assert "SessionExists" in capfd.readouterr().err
        client.delete_session(name)


def test_without_a_server_one_is_started_and_stopped(csv, tmp_path, monkeypatch, capfd):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(local_server.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])
    monkeypatch.setattr(local_server.tempfile, "tempdir", str(tmp_path))
    assert main(["replay", str(csv), "--features", "wave", "--rate", "5000", *SMALL]) == 0, capfd.readouterr().err
    assert [process.poll() for process in started] == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["wave.csv"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_told_to_stop_takes_its_server_along(csv, tmp_path, number, code):
    private = tmp_path / "private"
    private.mkdir()
    command = [sys.executable, "-m", "bptt_client.cli", "replay", str(csv), "--features", "wave", "--rate", "1", *SMALL]
    environment = {**os.environ, "TMPDIR": str(private)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not list(private.glob("*/ports.json")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    assert _processes_about(private) != [] or not Path("/proc/self").exists()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert list(private.iterdir()) == []
    assert _processes_about(private) == []


def _processes_about(folder):
    """Command lines that name the folder; the server's does."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return [line for line in found if str(folder).encode() in line]


def test_an_interrupted_run_leaves_no_session_and_says_so(server, csv, monkeypatch, capfd, sessions):
    from bptt_client.cli import running

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running.Run, "take", interrupted)
    assert main(["replay", str(csv), "--server", server.target, "--features", "wave", *SMALL]) == 130
    assert "interrupted" in capfd.readouterr().err
    assert sessions() == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--features", "nothing"],
            "--features names 'nothing', which is not a column; columns: time, wave, other, name",
        ),
        (["--targets", "name"], "--targets names 'name'"),
        (["--set", "hiden=3"], "'hiden' is not a setting; allowed: features"),
        (["--set", "cell=rnn"], "learner.cell is 'rnn'; allowed: tanh, gru, lstm, relu"),
        (["--set", "hidden=0"], "learner.hidden is 0; allowed: 1..512"),
        (["--set", "horizon=3"], "horizon is set by --horizon"),
        (["--score-from", "200", "--score-to", "100"], "--score-from 200 --score-to 100; allowed"),
        (["--score-to", "301"], "allowed: 0 ≤ from < to ≤ 300"),
        (["--fit-rows", "301"], "--fit-rows 301; allowed: at most 300"),
        (["--start", "300"], "--start 300; allowed: 0..299"),
        (["--report", "/nowhere/out.json"], "its directory does not exist"),
        (["--report", "/"], "/ cannot be written: Is a directory"),
        (["--plot", "/dev/null/out.png"], "/dev/null/out.png: its directory does not exist"),
        (["--plot", "out.xyz"], "out.xyz ends in '.xyz'; allowed: .eps, "),
        (["--horizon", "300"], "horizon is 300; allowed: 1..256"),
    ],
)
def test_a_wrong_flag_is_code_2_names_what_is_allowed_and_leaves_nothing(server, csv, capfd, sessions, flags, words):
    assert main(["replay", str(csv), "--server", server.target, *flags]) == 2
    err = capfd.readouterr().err
    assert words in " ".join(err.split())
    assert "Traceback" not in err
    assert sessions() == []


@pytest.mark.parametrize("flags", [["--horizon", "0"], ["--rate", "0"], ["--batch", "x"], ["--nothing"], []])
def test_a_flag_that_cannot_be_parsed_is_code_2(csv, capfd, flags):
    with pytest.raises(SystemExit) as caught:
        main(["replay", *([str(csv)] if flags else []), *flags])
    assert caught.value.code == 2
    assert "usage: bptt" in capfd.readouterr().err


def test_a_server_that_is_not_there_is_code_1(csv, capfd):
    assert main(["sessions", "--server", "127.0.0.1:1"]) == 1
    assert "Unavailable" in capfd.readouterr().err


def test_sessions_are_filtered_by_tag(server, new_id, capfd):
    name = new_id()
    with Client(server.target) as client:
        handle = client.create_session(name, features=["a"], tags={"site": name[-20:]}, learner={"hidden": 3})
        assert main(["sessions", "--server", server.target, "--tag", f"site={name[-20:]}"]) == 0
        assert "lstm" in capfd.readouterr().out
        assert main(["sessions", "--server", server.target, "--tag", "site=elsewhere"]) == 0
        assert "no sessions" in capfd.readouterr().err
        handle.delete()
    assert main(["sessions", "--server", server.target, "--tag", "site"]) == 2


def test_scores_that_do_not_exist_yet_are_null(server, new_id, capfd):
    """Of three values only the forecasts one and two steps ahead have met one, and no interval has."""
    name = new_id()
    with Client(server.target) as client:
        handle = client.create_session(name, features=["a"], horizon=4, learner={"hidden": 4}, tags={"young": name})
        handle.learn_many([[1.0], [2.0], [4.0]])
        scores = handle.refresh().scores
    assert [math.isnan(of) for (of,) in scores.skill] == [False, False, True, True]
    assert main(["sessions", "--server", server.target, "--scores", "--json", "--tag", f"young={name}"]) == 0
    got = json.loads(capfd.readouterr().out, parse_constant=pytest.fail)["scores"]
    assert got["count"] == [[2], [1], [0], [0]]
    for kind in ("mse", "mae", "persistence_mse", "persistence_mae"):
        assert [row[0] is None for row in got[kind]] == [False, False, True, True], kind
    for kind in ("coverage", "width", "interval_score"):
        assert got[kind] == [[None]] * 4
    with Client(server.target) as client:
        client.delete_session(name)


def test_watch_prints_outcomes_of_whoever_sends(server, new_id, capfd):
    name = new_id()
    with Client(server.target) as client:
        handle = client.create_session(name, features=["a"], learner={"hidden": 3})
        command = ["watch", name, "--server", server.target, "--count", "3"]
        watcher = subprocess.Popen(
            [sys.executable, "-m", "bptt_client.cli", *command], stdout=subprocess.PIPE, text=True
        )
        value = 0.0
        while watcher.poll() is None and value < 100_000:
            handle.learn_one(value)
            value += 1.0
        lines = watcher.communicate()[0].splitlines()
        handle.delete()
    assert len(lines) == 3
    assert all("next: a" in line for line in lines)
    assert main(["watch", name, "--server", server.target]) == 1
    assert "SessionNotFound" in capfd.readouterr().err


def test_without_the_extra_the_command_names_how_to_install_it(monkeypatch, capfd):
    monkeypatch.setattr("bptt_client.cli.find_spec", lambda name: None if name == "rich" else object())
    assert main(["--help"]) == 2
    assert "pip install 'bptt-client[cli]'" in capfd.readouterr().err


def test_without_a_server_installed_the_command_says_so(csv, monkeypatch, capfd):
    monkeypatch.setattr("bptt_client.cli.local_server.find_spec", lambda name: None)
    assert main(["replay", str(csv)]) == 2
    assert "--server HOST:PORT" in capfd.readouterr().err


def test_a_server_that_does_not_start_is_quoted(csv, monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert main(["replay", str(csv)]) == 2
    assert "ended with code 1" in capfd.readouterr().err


def test_every_command_has_help():
    for command in ([], ["replay"], ["fork"], ["sessions"], ["watch"], ["demo"]):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--help"])
        assert caught.value.code == 0


# The demonstration.


def test_the_demo_tells_its_story(tmp_path, capfd):
    plot = tmp_path / "demo.png"
    assert main(["demo", "--events", "600", "--plot", str(plot)]) == 0
    out = capfd.readouterr().out
    for words in (
        "A plant that is learned",
        "600 of 600 rows",
        "overall",
        "bearing worn",
        "bptt_updates_total",
        str(plot),
    ):
        assert words in out.replace("\n", ""), words
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_plant_is_seeded_and_does_what_its_equations_say():
    values = plant.simulate(4000, 3)
    np.testing.assert_array_equal(values, plant.simulate(4000, 3))
    assert not np.array_equal(values, plant.simulate(4000, 4), equal_nan=True)
    assert values.shape == (4000, len(plant.FEATURES))
    assert set(demo.TARGETS) < set(plant.FEATURES)
    assert 0.005 < np.isnan(values).mean() < 0.02
    load, temperature, vibration = np.nan_to_num(values, nan=np.nanmean(values)).T
    day = load[: 40 * plant.DAY].reshape(-1, plant.DAY).mean(0)
    assert day.max() - day.min() > 0.3
    assert np.nanmean(temperature[-1000:]) > np.nanmean(temperature[:1000]) + 3

    def turns(part):  # how often the vibration changes direction
        return (np.diff(np.sign(np.diff(part))) != 0).mean()

    assert turns(vibration[2400:]) > turns(vibration[:2400]) + 0.1
