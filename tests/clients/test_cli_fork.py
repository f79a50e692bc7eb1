"""`bptt fork` as a user runs it: two sessions on the same rows, a table, a verdict, and nothing left behind that was
not asked for.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bptt_client import Client
from bptt_client.cli import fork, main

SMALL = {"hidden": 4, "window": 8}
ROWS = 300


@pytest.fixture
def csv(tmp_path):
    """A wave that a small network learns within a few hundred rows, beside a slower one of other units."""
    random = np.random.default_rng(1)
    noise = 0.05 * random.standard_normal(ROWS)
    rows = (f"{np.sin(i / 2) + noise[i]:.4f},{100 * np.sin(i / 30):.3f}\n" for i in range(ROWS))
    path = tmp_path / "wave.csv"
    path.write_text("wave,slow\n" + "".join(rows))
    return path


@pytest.fixture
def client(server):
    with Client(server.target) as connected:
        yield connected


@pytest.fixture
def duel(server, csv, tmp_path, capfd):
    """Runs `bptt fork` on the shared server; returns the report, and what was printed."""

    def run(*flags):
        report = tmp_path / "duel.json"
        code = main(["fork", str(csv), "--server", server.target, "--report", str(report), *flags])
        out, err = capfd.readouterr()
        assert code == 0, err
        return json.loads(report.read_text()), " ".join(out.split()), err

    return run


def sessions_about(client, word):
    return [s.session_id for s in client.list_sessions() if word in s.session_id]


@pytest.fixture
def champion(client, new_id):
    """A session that has had a hundred of the rows' forerunners."""
    handle = client.create_session(
        new_id(), features=["wave", "slow"], targets=["wave"], learner={**SMALL, "learning_rate": 0.01}
    )
    handle.learn_many([[math.sin(i / 2), 0.0] for i in range(-100, 0)])
    yield handle
    handle.delete()


def test_a_fork_with_another_rate_starts_from_what_the_champion_knows(client, duel, champion, csv):
    twin = champion.fork(f"{champion.session_id}-twin")
    got, out, err = duel("--session", champion.session_id, "--set", "learning_rate=1e-8", "--score-from", "100")
    assert champion.refresh().last_sequence == 100 + ROWS
    assert (got["head_start"], got["settings"]) == (0, ["learning_rate=1e-8"])
    assert "note:" not in err
    assert "without other experts" not in out
    assert sessions_about(client, f"{champion.session_id}-challenger") == []
    assert [got[side]["scored"] for side in ("champion", "challenger")] == [ROWS - 100] * 2
    assert got["champion"]["targets"] == ["wave"]
    assert got["champion"]["overall"]["persistence_mse"] == got["challenger"]["overall"]["persistence_mse"]
    assert got["champion"]["overall"]["mse"] < got["challenger"]["overall"]["mse"]
    verdict = got["verdict"]
    assert (verdict["winner"], verdict["steps"], verdict["p_value"] < 0.05) == ("champion", ROWS - 100, True)
    assert "Verdict: the champion wins (p = " in out
    for words in ("champion", "challenger", "squared error", "inside", "interval score", "events/s"):
        assert words in out
    # What the champion learned in the duel is what it would have learned alone.
    twin.learn_many(np.loadtxt(csv, delimiter=",", skiprows=1).tolist())
    assert twin.forecast().mean == champion.forecast().mean
    twin.delete()


def test_what_does_not_change_has_no_winner(duel, champion):
    got, out, _ = duel("--session", champion.session_id, "--set", "learning=on")
    assert got["champion"]["overall"] == got["challenger"]["overall"]
    assert (got["verdict"]["winner"], got["verdict"]["difference"], got["verdict"]["p_value"]) == (None, 0.0, 1.0)
    assert "Verdict: no clear winner (p = 1)" in out


def test_another_network_is_a_new_session_on_the_champions_configuration(client, duel, champion):
    got, _, err = duel("--session", champion.session_id, "--set", "hidden=3", "--keep")
    (name,) = sessions_about(client, f"{champion.session_id}-challenger")
    challenger = client.get_session(name)
    assert (challenger.config["learner"]["hidden"], challenger.config["learner"]["learning_rate"]) == (3, 0.01)
    assert (challenger.targets, challenger.last_sequence) == (("wave",), ROWS)
    assert challenger.tags == {"champion": champion.session_id}
    assert got["head_start"] == 100
    assert "the champion has 100 events behind it" in err
    assert f"the challenger is kept: {name}" in err
    client.delete_session(name)
    # Its forecasts were scored as the server scores them.
    assert got["challenger"]["overall"]["mse"] == pytest.approx(challenger.scores.mse[0][0])
    assert got["challenger"]["overall"]["coverage"] == pytest.approx(challenger.scores.coverage[0][0])
    assert got["challenger"]["overall"]["interval_score"] == pytest.approx(challenger.scores.interval_score[0][0])


def test_a_fresh_champion_has_the_default_configuration_and_is_gone_afterwards(client, duel, monkeypatch):
    seen = []
    judged = fork.duel.Duel

    def noticed(runs, sessions, mixed):
        seen.extend(sessions)
        return judged(runs, sessions, mixed)

    monkeypatch.setattr(fork.duel, "Duel", noticed)
    got, out, err = duel("--set", "learner.hidden=3", "--features", "wave", "--horizon", "2", "--batch", "100")
    champion, challenger = seen
    assert len(champion.learners) > 1
    assert [learner["hidden"] for learner in challenger.learners] == [3]
    assert (champion.horizon, challenger.horizon, got["head_start"]) == (2, 2, 0)
    assert got["champion"]["experts"]
    assert got["challenger"]["experts"] == []
    assert sessions_about(client, champion.session_id) == sessions_about(client, challenger.session_id) == []
    assert "note:" not in err
    assert "the challenger is a single learner without other experts" in out
    assert "Verdict: " in out


def test_a_network_against_a_portfolio_is_the_same_whether_that_lives_or_is_fresh(client, duel, new_id):
    seasonalities = []
    for flags in ([], ["--session", new_id()]):
        if flags:
            client.create_session(flags[1], features=["wave", "slow"])
        duel("--set", "hidden=3", "--keep", "--start", "280", *flags)
        (name,) = sessions_about(client, "-challenger")
        seasonalities.append(client.get_session(name).config["seasonality"])
        for each in (name, *flags[1:]):
            client.delete_session(each)
    assert seasonalities == ["off", "off"]


def test_the_challenger_counts_steps_by_the_champions_period(server, client, new_id, tmp_path, capfd):
    """The champion has had a value every hour; the file has one every two hours, of which a new session would make its
    steps."""
    hour, name, path = 3600 * 10**9, new_id(), tmp_path / "rare.csv"
    champion = client.create_session(name, features=["wave"], learner=SMALL)
    champion.learn_many([[math.sin(i)] for i in range(20)], timestamps=[i * hour for i in range(20)])
    lines = (f"1970-01-{2 + i // 12:02}T{2 * (i % 12):02}:00:00,{math.sin(i):.4f}\n" for i in range(40))
    path.write_text("time,wave\n" + "".join(lines))
    flags = ["--server", server.target, "--session", name, "--time", "time", "--set", "hidden=3", "--keep"]
    assert main(["fork", str(path), *flags]) == 0
    (challenger,) = (s for s in client.list_sessions() if s.session_id.startswith(f"{name}-challenger"))
    assert champion.refresh().period_ns == hour
    assert challenger.period_ns == hour
    for each in (name, challenger.session_id):
        client.delete_session(each)


def test_labels_that_come_late_come_late_to_both(server, client, new_id, csv, tmp_path, capfd):
    name, report = new_id(), tmp_path / "duel.json"
    session = client.create_session(name, features=["wave"], labels=["slow"], task="regress", learner=SMALL)
    twin = session.fork(f"{name}-twin")
    at, head, rows = ["--server", server.target, "--session", name], csv.with_name("head.csv"), 90
    head.write_text("".join(csv.read_text().splitlines(keepends=True)[: rows + 1]))
    flags = ["--label-delay", "3", "--score-to", str(rows - 3), "--set", "optimizer=sgd", "--report", str(report)]
    assert main(["fork", str(head), *at, *flags]) == 0
    got = json.loads(report.read_text())
    values = np.loadtxt(head, delimiter=",", skiprows=1)
    for i, (wave, _) in enumerate(values):
        twin.learn_one([wave])
        if i >= 3:
            twin.label(i - 2, [values[i - 3, 1]])
    scores = [client.get_session(each).scores for each in (name, twin.session_id)]
    assert scores[0] == scores[1]
    assert got["champion"]["overall"]["mse"] == pytest.approx(scores[0].mse[0][0])
    assert got["challenger"]["scored"] == got["champion"]["scored"] == scores[0].count[0][0] == rows - 3 - 4
    for each in (session, twin):
        each.delete()


def test_symbols_are_judged_by_their_cross_entropy(server, tmp_path, capfd):
    path, report = tmp_path / "text.csv", tmp_path / "duel.json"
    path.write_text("char\n" + "".join(f"{c}\n" for c in "abcab" * 60))
    flags = ["--set", "hidden=4", "--set", "learning_rate=0.05", "--report", str(report)]
    assert main(["fork", str(path), "--server", server.target, *flags]) == 0
    got, out = json.loads(report.read_text()), capfd.readouterr().out
    assert got["verdict"]["winner"] == "challenger"
    assert got["challenger"]["overall"]["log_loss"] < got["champion"]["overall"]["log_loss"]
    assert "cross-entropy" in out
    assert "wrong" in out


def test_a_failure_leaves_no_challenger(server, client, champion, csv, monkeypatch, capfd):
    def broken(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fork, "stream_in_turn", broken)
    flags = ["--server", server.target, "--session", champion.session_id, "--set", "learning=off"]
    assert main(["fork", str(csv), *flags]) == 130
    assert sessions_about(client, champion.session_id) == [champion.session_id]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set", "horizon=2"], "--set horizon; allowed: settings of how the challenger learns"),
        ([], "--set is missing"),
        (["--set", "hidden=3", "--session", "x", "--horizon", "2"], "--horizon with --session; allowed: without"),
        (["--set", "hidden=0"], "learner.hidden is 0; allowed: 1..512"),
        (["--set", "hidden=3", "--report", "/nowhere/duel.json"], "its directory does not exist"),
        (["--set", 'learners=[{"hidden":0}]'], "learners[0].hidden is 0; allowed: 1..512"),
    ],
)
def test_a_duel_that_cannot_be_is_code_2_and_leaves_nothing(server, client, csv, capfd, flags, words):
    assert main(["fork", str(csv), "--server", server.target, *flags]) == 2
    err = capfd.readouterr().err
    assert words in " ".join(err.split())
    assert sessions_about(client, "replay-wave") == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--session", "x"], "--session without --server; allowed: both, or neither"),
        (["--keep"], "--keep without --server; allowed: both"),
    ],
)
def test_what_a_server_of_this_run_cannot_do_is_code_2(csv, capfd, flags, words):
    assert main(["fork", str(csv), "--set", "hidden=3", *flags]) == 2
    assert words in capfd.readouterr().err
