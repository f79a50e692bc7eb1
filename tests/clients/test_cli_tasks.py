"""The commands on symbols, labels, histories and files: what they say is what an independent count says."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from bptt_client import Client
from bptt_client.cli import main

SMALL = ["--set", "hidden=4", "--set", "window=8"]
SYMBOL_MEANS = ["log_loss", "naive_log_loss", "error_rate", "naive_error_rate"]


@pytest.fixture
def replay(server, tmp_path, capfd):
    """Runs `bptt replay` on the shared server; returns the report, and what was printed."""

    def run(path, *flags):
        report = tmp_path / "report.json"
        code = main(["replay", str(path), "--server", server.target, "--report", str(report), *SMALL, *flags])
        out, err = capfd.readouterr()
        assert code == 0, err
        return json.loads(report.read_text()), out, err

    return run


@pytest.fixture
def client(server):
    with Client(server.target) as connected:
        yield connected


@pytest.fixture
def text(tmp_path):
    """Words of a small grammar, a character a row; half of all characters are spaces or follow from the one before."""
    choice = random.Random(4).choice
    characters = " ".join(choice(["ab", "cd", "r2"]) for _ in range(200))
    path = tmp_path / "text.csv"
    path.write_text("char\n" + "".join(f'"{c}"\n' for c in characters))
    return path, characters


@pytest.fixture
def labelled(tmp_path):
    """A label that follows two columns, some labels missing, and in what state the plant is."""
    random = np.random.default_rng(2)
    path = tmp_path / "labelled.csv"
    rows = []
    for i in range(150):
        a, b = np.sin(i / 3), random.standard_normal()
        y = "" if i % 11 == 5 else repr(float(2 * a - b + 0.01 * random.standard_normal()))
        rows.append((repr(float(a)), repr(float(b)), y, "hot" if a + 0.2 * b > 0 else "cold"))
    path.write_text("a,b,y,state\n" + "".join(",".join(row) + "\n" for row in rows))
    return path, rows


# Symbols.


def test_text_is_predicted_better_than_by_its_frequencies_and_scored_as_the_server_does(replay, client, new_id, text):
    path, characters = text
    name = new_id()
    got, out, err = replay(path, "--session", name, "--categorical", "char", "--set", "learning_rate=0.02")
    session = client.get_session(name)
    assert session.config["categories"] == {"char": sorted(set(characters))}
    assert (session.config["task"], session.targets) == ("classify", ("char",))
    assert (got["task"], got["targets"], got["rows"]) == ("classify", ["char"], len(characters))
    assert got["scored"] == session.scores.count[0][0] == len(characters) - 1
    assert list(got["overall"]) == SYMBOL_MEANS
    for measure in SYMBOL_MEANS:
        assert got["overall"][measure] == pytest.approx(getattr(session.scores, measure)[0][0], rel=1e-9), measure
        assert got["per_target"]["char"][measure] == got["per_horizon"]["1"][measure] == got["overall"][measure]
    assert got["overall"]["log_loss"] < 0.9 * got["overall"]["naive_log_loss"]
    assert "column 'char' holds text and is categorical: 7 symbols" in err
    assert "frequencies" in out
    assert "cross-entropies in nats" in " ".join(out.split())
    client.delete_session(name)


def test_several_symbols_ahead_are_scored_as_the_server_does(replay, client, new_id, text):
    name = new_id()
    got, _, _ = replay(text[0], "--session", name, "--categorical", "char", "--horizon", "3")
    scores = client.get_session(name).scores
    assert got["scored"] == scores.count[2][0]  # nearer pairs of the last rows are not scored here, as for numbers
    for measure in SYMBOL_MEANS:
        assert got["per_horizon"]["3"][measure] == pytest.approx(getattr(scores, measure)[2][0], rel=1e-9)
        assert got["per_horizon"]["1"][measure] == pytest.approx(getattr(scores, measure)[0][0], rel=0.02)
    client.delete_session(name)


def test_a_state_is_an_input_of_a_forecast_and_a_label_of_its_own_row(replay, client, new_id, labelled):
    names = new_id(), new_id()
    got, _, _ = replay(labelled[0], "--session", names[0], "--features", "a,state", "--targets", "a")
    session = client.get_session(names[0])
    assert session.config["categories"] == {"state": ["cold", "hot"]}
    assert (session.config["task"], got["targets"], "task" in got) == ("forecast", ["a"], False)
    got, out, _ = replay(
        labelled[0], "--session", names[1], "--features", "a,b", "--labels", "state", "--set", "learning_rate=0.05"
    )
    session = client.get_session(names[1])
    assert (session.config["task"], session.labels, session.features) == ("classify", ("state",), ("a", "b"))
    assert got["scored"] == session.scores.count[0][0] == 150
    for measure in SYMBOL_MEANS:
        assert got["overall"][measure] == pytest.approx(getattr(session.scores, measure)[0][0], rel=1e-9)
    assert got["overall"]["error_rate"] < 0.3 < got["overall"]["naive_error_rate"]
    assert "predictions of labels" in out
    for name in names:
        client.delete_session(name)


def test_a_probability_is_scored_as_the_server_does(replay, client, new_id, tmp_path):
    name, path = new_id(), tmp_path / "coin.csv"
    path.write_text("a,y\n" + "".join(f"{i % 4},{int(i % 4 == 1)}\n" for i in range(120)))
    flags = ["--labels", "y", "--set", "task=classify", "--set", "learning_rate=0.02"]
    got, _, _ = replay(path, "--session", name, *flags)
    session = client.get_session(name)
    assert session.config["learner"]["loss"] == "sigmoid"
    for measure in SYMBOL_MEANS:
        assert got["overall"][measure] == pytest.approx(getattr(session.scores, measure)[0][0], rel=1e-9)
    assert got["overall"]["log_loss"] < got["overall"]["naive_log_loss"]
    client.delete_session(name)


# Labels.


@pytest.mark.parametrize("delay", [None, 3, 40])
def test_delayed_labels_give_the_errors_of_an_independent_count(replay, client, new_id, labelled, delay):
    path, rows = labelled
    flags = [] if delay is None else ["--label-delay", str(delay)]
    got, out, _ = replay(path, "--features", "a,b", "--labels", "y", "--score-from", "20", "--score-to", "140", *flags)
    learner = {"hidden": 4, "window": 8}
    session = client.create_session(new_id(), features=["a", "b"], labels=["y"], task="regress", learner=learner,
                                    label_age=delay)  # fmt: skip
    labels = [float(y) if y else None for _, _, y, _ in rows]
    known, errors, naive = None, [], []
    for i, (a, b, _, _) in enumerate(rows):
        with_it = labels[i] if delay is None else None
        predicted = session.learn_one([float(a), float(b)], labels=[with_it]).forecast["y"].mean[0]
        if known is not None and labels[i] is not None and 20 <= i < 140:
            errors.append(predicted - labels[i])
            naive.append(known - labels[i])
        told = i - (delay or 0)
        if told >= 0 and labels[told] is not None:
            known = labels[told]
            if delay is not None:
                session.label(told + 1, known)
    client.delete_session(session.session_id)
    assert (got["task"], got["targets"], got["horizon"], got["scored"]) == ("regress", ["y"], 1, len(errors))
    assert got["overall"]["mse"] == pytest.approx(sum(e * e for e in errors) / len(errors))
    assert got["overall"]["mae"] == pytest.approx(sum(map(abs, errors)) / len(errors))
    assert got["overall"]["persistence_mse"] == pytest.approx(sum(e * e for e in naive) / len(naive))
    assert got["overall"]["seasonal_mse"] is None
    assert "last label" in out


def test_a_kept_session_gets_the_labels_that_were_still_owed(replay, client, new_id, labelled, tmp_path):
    path, _ = labelled
    flags = ["--features", "a,b", "--labels", "y", "--label-delay", "6"]
    head = tmp_path / "head.csv"
    head.write_text("".join(path.read_text().splitlines(keepends=True)[:71]))
    names = new_id(), new_id()
    replay(path, *flags, "--session", names[0])
    replay(head, *flags, "--session", names[1])
    replay(path, *flags, "--session", names[1], "--start", "70")
    whole, parts = (client.get_session(name) for name in names)
    assert parts.scores == whole.scores
    for name in names:
        client.delete_session(name)


def test_batches_of_rows_bring_their_labels_after_them(replay, client, new_id, labelled):
    name, flags = new_id(), ["--features", "a,b", "--labels", "y", "--label-delay", "2", "--batch", "16"]
    got, _, _ = replay(labelled[0], *flags, "--session", name, "--score-to", "148")
    session = client.get_session(name)
    assert session.config["label_age"] == 17
    # Of the first batch nothing was known to compare with; the last two labels are still owed.
    assert got["scored"] == session.scores.count[0][0] == len([i for i in range(16, 148) if i % 11 != 5])
    for measure in ("mse", "persistence_mse"):
        assert got["overall"][measure] == pytest.approx(getattr(session.scores, measure)[0][0])
    client.delete_session(name)


def test_a_picture_of_labels_is_drawn(replay, labelled, tmp_path):
    picture = tmp_path / "labels.png"
    replay(labelled[0], "--features", "a,b", "--labels", "y", "--plot", str(picture), "--set", "clip=value")
    assert picture.read_bytes().startswith(b"\x89PNG")


# Histories and health.


def test_the_first_rows_can_be_a_history(replay, client, new_id, labelled):
    name = new_id()
    flags = ["--features", "a,b", "--labels", "y", "--set", "learning_rate=0.01"]
    got, _, err = replay(labelled[0], *flags, "--warm-rows", "100", "--warm-passes", "15", "--session", name)
    assert (got["rows"], got["warm_start"]["rows"], got["warm_start"]["applied"]) == (50, 100, 15)
    assert len(got["warm_start"]["loss"]) == 15
    assert "100 rows" in err
    session = client.get_session(name)
    assert session.last_sequence == 50
    client.delete_session(name)
    cold, _, _ = replay(labelled[0], *flags, "--score-from", "100")
    assert got["scored"] == cold["scored"]
    assert got["overall"]["persistence_mse"] == pytest.approx(cold["overall"]["persistence_mse"])
    assert "warm_start" not in cold


def test_labels_of_a_history_are_known_when_late_ones_are_not_yet(replay, client, new_id, labelled):
    name, flags = new_id(), ["--features", "a,b", "--labels", "y", "--label-delay", "4", "--score-to", "146"]
    got, _, _ = replay(labelled[0], *flags, "--warm-rows", "100", "--warm-passes", "1", "--session", name)
    scores = client.get_session(name).scores
    assert got["scored"] == scores.count[0][0] == len([i for i in range(100, 146) if i % 11 != 5])
    for measure in ("mse", "persistence_mse"):
        assert got["overall"][measure] == pytest.approx(getattr(scores, measure)[0][0])
    client.delete_session(name)


def test_the_report_tells_the_health_of_the_gradients(replay, client, new_id, labelled):
    got, _, _ = replay(labelled[0], "--features", "a,b")
    updates = got["updates"]
    assert list(updates) == [
        "count", "skipped", "clipped", "saturation", "update_ratio", "gradient_by_lag", "resets",
    ]  # fmt: skip
    session = client.create_session(new_id(), features=["a", "b"], learner={"hidden": 4, "window": 8})
    replies = []
    rows = [[float(a), float(b)] for a, b, _, _ in labelled[1]]
    session.learn_many(rows, reply="every", on_reply=replies.append)
    client.delete_session(session.session_id)
    applied = [reply.update for reply in replies if reply.update.applied]
    for name in ("saturation", "update_ratio"):
        assert updates[name] == pytest.approx(np.median([getattr(update, name) for update in applied]))
    measured = [update.gradient_by_lag for update in applied if update.gradient_by_lag]
    assert len(measured) == 2
    assert updates["gradient_by_lag"]["last"] == {str(lag): norm for lag, norm in measured[-1].items()}
    medians = {str(lag): np.median([norms[lag] for norms in measured]) for lag in (0, 1, 2, 4, 8)}
    assert updates["gradient_by_lag"]["median"] == pytest.approx(medians)


# Files.


def test_a_session_is_exported_and_imported(server, client, new_id, tmp_path, capfd):
    names = [new_id() for _ in range(3)]
    session = client.create_session(names[0], features=["a", "b"], targets=["a"], learner={"cell": "gru", "hidden": 5})
    session.learn_many([[math.sin(i / 4), math.cos(i / 9)] for i in range(90)])
    at = ["--server", server.target]
    whole, network = tmp_path / "session.bptt", tmp_path / "session.safetensors"
    for path in (whole, network):
        assert main(["export", names[0], str(path), *at]) == 0
    assert whole.read_bytes() == client.export_session(names[0])
    assert b"rnn.weight_hh_l0" in network.read_bytes()
    assert main(["import", str(whole), "--session", names[1], *at]) == 0
    assert client.get_session(names[1]).last_sequence == 90
    settings = ["--set", "targets=a", "--set", "cell=gru", "--set", "learning_rate=0.01"]
    assert main(["import", str(network), "--session", names[2], "--features", "a,b", *settings, *at]) == 0
    imported = client.get_session(names[2])
    assert (imported.last_sequence, imported.targets, imported.config["learner"]["hidden"]) == (0, ("a",), 5)
    assert "parameters" in capfd.readouterr().err
    assert main(["export", names[0], str(tmp_path / "other"), "--format", "safetensors", *at]) == 0
    assert b"rnn.weight_hh_l0" in (tmp_path / "other").read_bytes()
    assert main(["import", str(whole), "--session", names[1], *at]) == 1
    assert "SessionExists" in capfd.readouterr().err
    for name in names:
        client.delete_session(name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "x", "/nowhere/file"], "its directory does not exist"),
        (["import", "none.bptt", "--session", "x"], "none.bptt: No such file"),
        (["import", "a.safetensors", "--session", "x"], "safetensors without --features"),
        (["import", "a.bptt", "--session", "x", "--set", "hidden=3"], "--features or --set with a checkpoint"),
        (["import", "a.bptt", "--session", "x", "--set", "hiden=3"], "'hiden' is not a setting"),
        (["import", "a", "--session", "x", "--features", "a", "--set", "features=b"], "features is set by --features"),
    ],
)
def test_a_file_that_cannot_be_written_or_meant_is_code_2(server, capfd, arguments, words):
    assert main([*arguments, "--server", server.target]) == 2
    assert words in " ".join(capfd.readouterr().err.split())


# What is listed and watched, and what is refused.


def test_sessions_of_symbols_are_listed_and_watched_in_their_words(server, client, new_id, capfd):
    names = new_id(), new_id()
    words = {"task": "classify", "categories": {"c": ["x", "y"]}, "learner": {"hidden": 3, "layers": 2}}
    first = client.create_session(names[0], features=["c"], **words)
    second = client.create_session(names[1], features=["a"], labels=["y"], task="regress", learner={"hidden": 3})
    assert main(["sessions", "--server", server.target]) == 0
    lines = {line.split("\t")[0]: line for line in capfd.readouterr().out.splitlines()}
    assert "\tc (classify)\t" in lines[names[0]]
    assert "lstm 3 × 2" in lines[names[0]]
    assert "\ty (regress)\t" in lines[names[1]]
    from bptt_client.cli import sessions

    first.learn_many("xy" * 20)
    line = sessions._line(first.learn_one("x"), "next")
    assert "next: c 'x' " in line or "next: c 'y' " in line
    assert line.split(" %")[0][-2:].strip().isdecimal()
    second.learn_one([1.0], labels=[2.0])
    assert "label: y " in sessions._line(second.learn_one([1.0], labels=[3.0]), "label")
    for name in names:
        client.delete_session(name)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--labels", "nothing"], "--labels names 'nothing', which is not a column; columns: a, b, y, state"),
        (["--labels", "y", "--targets", "a"], "--targets with --labels; allowed: one of them"),
        (["--labels", "y", "--features", "a,y"], "--features names 'y', the column of times or a label"),
        (["--label-delay", "3"], "--label-delay without --labels; allowed: both, or neither"),
        (["--warm-passes", "3"], "--warm-passes without --warm-rows"),
        (["--warm-rows", "150"], "--warm-rows 150; allowed: 2..149"),
        (["--warm-rows", "20", "--start", "30"], "--start with --warm-rows"),
        (["--set", "labels=y"], "labels is set by --labels"),
        (["--labels", "state", "--plot", "out.png"], "--plot with task classify"),
        (["--labels", "state", "--fit-rows", "9"], "--fit-rows with task classify"),
        (["--labels", "y", "--horizon", "2"], "horizon is 2; allowed: 1, as there are labels"),
        (["--labels", "y,state"], "the server refused it: "),
        (["--set", "categories=state:hot|warm"], "line 2: state is 'cold'; allowed: 'hot', 'warm', or nothing"),
        (["--categorical", "a"], "a holds 146 different texts"),
    ],
)
def test_a_wrong_flag_is_code_2_and_names_what_is_allowed(server, labelled, capfd, flags, words):
    path, rows = labelled
    words = words.replace("146 different", f"{len({a for a, _, _, _ in rows})} different")
    if "--categorical" in flags:
        path.write_text(path.read_text() + "".join(f"{i + 9},1,1,hot\n" for i in range(200)))
        words = f"a holds {200 + len({a for a, _, _, _ in rows})} different texts; allowed: 2..256"
    if "line 2" in words and rows[0][3] == "hot":
        words = words.replace("line 2", f"line {2 + [state for *_, state in rows].index('cold')}")
    assert main(["replay", str(path), "--server", server.target, *flags]) == 2
    err = capfd.readouterr().err
    assert words in " ".join(err.split())
    assert "Traceback" not in err


def test_the_new_commands_have_help(capfd):
    for command in ("export", "import", "replay"):
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
    out = " ".join(capfd.readouterr().out.split())
    for word in (
        "--labels A,B",
        "--label-delay N",
        "--warm-rows N",
        "--warm-passes N",
        "--categorical A,B",
        "--format",
    ):
        assert word in out
