"""What the command line prints: sessions that nothing cuts off, and a table of errors that says what they are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from bptt.v1 import config_pb2, session_pb2
from bptt_client import answers
from bptt_client.cli import duel, report, sessions
from bptt_client.cli.outputs import check_writable
from bptt_client.cli.problems import Problem
from bptt_client.cli.running import Run
from bptt_client.cli.scoring import NumberScorer, Span, standard_deviations


def printed(show, terminal=False, width=80):
    file = io.StringIO()
    show(Console(file=file, force_terminal=terminal, color_system=None, width=width, highlight=False))
    return file.getvalue()


ROWS = [
    [name, "1,000", "20", "a, b", "a", "1", "on", "8 of lstm 16", "3", "12.5 %", "site=[bold]north"]
    for name in ("x" * 128, "pump-7")
]


@pytest.mark.parametrize("terminal", [True, False])
def test_sessions_are_lines_that_nothing_cuts_off(terminal):
    lines = printed(lambda console: sessions.show(console, ROWS), terminal).splitlines()
    assert len(lines) == (3 if terminal else 2)
    for line, row in zip(lines[-2:], ROWS, strict=True):
        assert [cell for cell in line.split("\t") if cell] == row or not line.count("\t")
        assert all(cell in line for cell in row), line
    assert ("\t" in lines[0]) is not terminal


def session_of(targets, horizon=1, seasonality="FOUND", **facts):
    names, seasonality = ("a", "b")[:targets], f"SEASONALITY_{seasonality}"
    config = config_pb2.SessionConfig(features=names, targets=names, horizon=horizon, seasonality=seasonality)
    return answers.read_session(session_pb2.Session(config=config, **facts))


def run_of(errors, rows=20, horizon=1, fit_rows=None):
    """A run whose forecasts are wrong by `errors` [target], where the last value is wrong by 1 and 10."""
    truth = np.arange(float(rows))[:, None] * [1.0, 10.0][: len(errors)]
    ahead = np.arange(1, horizon + 1)
    mean = truth[:, None, :] + ahead[None, :, None] * truth[1] + np.asarray(errors)
    scale = standard_deviations(truth, fit_rows)
    run = Run.empty(NumberScorer(truth, horizon, 0.9, scale, Span(0, rows)), rows, len(errors))
    run.scorer.add(0, mean, mean - 2.0, mean + 2.0)
    return run


def cells(text):
    """The cells of a table by the name of their row."""
    return {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]]
        for line in text.splitlines()
        if "│" in line
    }


def table(errors, fit_rows, horizon=1):
    """The report and the table of such a run."""
    run = run_of(errors, horizon=horizon, fit_rows=fit_rows)
    made = report.as_json(run, session_of(len(errors), horizon))
    fitted = None if fit_rows is None else f" over the first {fit_rows} rows"
    text = printed(lambda console: report.show(console, made, run.scorer, "file", fitted, 64), width=200)
    return made, cells(text), " ".join(text.split())


def test_errors_of_different_units_have_no_mean_but_their_ratios_have():
    made, rows, words = table([0.5, 1.0], fit_rows=None)
    assert rows["a"] == ["0.250", "1.000", "-75.0 %", "100.0 %", "4.000", "4.000"]
    assert rows["b"] == ["1.000", "100.0", "-99.0 %", "100.0 %", "4.000", "4.000"]
    assert rows["overall"] == ["-", "-", "-87.0 %", "100.0 %", "-", "-"]
    assert made["per_target"]["b"]["skill"] == pytest.approx(0.99)
    assert made["overall"]["mse"] == pytest.approx(0.625)
    assert "Mean squared errors, in squares of the targets' own units" in words
    assert "with --fit-rows N" in words


def test_the_mean_over_targets_at_each_step_ahead_is_treated_alike():
    _, rows, _ = table([0.5, 1.0], fit_rows=None, horizon=2)
    assert rows["1 ahead"] == ["-", "-", "-87.0 %", "100.0 %", "-", "-"]
    assert rows["2 ahead"][:3] == ["-", "-", f"{100 * ((0.25 / 4 + 1 / 400) / 2 - 1):+.1f} %"]


@pytest.mark.parametrize(("errors", "fit_rows"), [([0.5], None), ([0.5, 1.0], 4), ([0.5], 4)])
def test_errors_of_one_unit_have_a_mean(errors, fit_rows):
    made, rows, words = table(errors, fit_rows)
    assert rows["overall"][0] == f"{made['overall']['mse']:.3f}"
    assert rows["overall"][-2] == f"{made['overall']['width']:.3f}"
    assert rows["overall"][-1] == f"{made['overall']['interval_score']:.3f}"
    assert "--fit-rows" not in words
    if fit_rows:
        assert "Mean squared errors, in squared standard deviations of each target over the first 4 rows;" in words
        assert "`width`: how wide that was, in standard deviations;" in words


def test_what_a_portfolio_found_is_told_with_its_report():
    weights = {"persistence": 0.02, "learner 0": 0.3, "season": 0.4, "mean": 0.05, "learner 1": 0.13, "second": 0.1}
    experts = [session_pb2.Expert(name=name, weight=weight, relative_error=0.5) for name, weight in weights.items()]
    run = run_of([0.5])
    run.drifts, run.anomalies = 2, 1234
    run.resets["diverged"] += 3
    made = report.as_json(run, session_of(1, experts=experts, seasons=[24, 0]))
    text = " ".join(printed(lambda c: report.show(c, made, run.scorer, "file", None, 64), width=300).split())
    assert [expert["name"] for expert in made["experts"]][:2] == ["season", "learner 0"]
    assert (made["seasons"], made["drifts"], made["updates"]["resets"]["diverged"]) == ([24], 2, 3)
    assert (
        "Weights of the experts at the end: season 40 %, learner 0 30 %, learner 1 13 %, second 10 %, mean 5 %, "
        in text
    )
    assert "mean 5 %, others 2 %." in text
    assert "Anomalous events: 1,234; changes of the usual error (drifts): 2." in text
    assert "Seasons in force at the end: 24 steps (found, or the calendar's)." in text
    assert "resets of learners: 3." in text


@pytest.mark.parametrize(
    ("seasonality", "words", "hindsight"),
    [
        ("FOUND", "Seasons in force at the end: 4 and 8 steps (found, or the calendar's).", True),
        ("GIVEN", "Seasons in force at the end: 4 and 8 steps (given).", False),
        ("OFF", None, False),
    ],
)
def test_a_season_that_was_known_only_at_the_end_is_told_from_a_given_one(seasonality, words, hindsight):
    run = run_of([0.5])
    run.scorer.compare_with_season(8)
    made = report.as_json(run, session_of(1, seasonality=seasonality, seasons=[4, 8]))
    text = " ".join(printed(lambda c: report.show(c, made, run.scorer, "file", None, 64), width=300).split())
    assert (words or "") in text
    assert ("Seasons" in text) is (words is not None)
    assert "`last season` the value 8 steps before" in text
    assert ("with hindsight: from the first row on by the season that was known at the end" in text) is hindsight


def shown(champion, challenger, fit_rows=None, rows=80):
    """The report and the table of two runs with such errors."""
    runs = run_of(champion, rows, fit_rows=fit_rows), run_of(challenger, rows, fit_rows=fit_rows)
    session = session_of(len(champion))
    made = duel.Duel(runs, (session, session), fit_rows is None and len(champion) > 1)
    result = made.as_json()
    return result, cells(printed(lambda console: made.show(console, result, "file"), width=150))


def test_a_challenger_stands_beside_its_champion():
    result, rows = shown([2.0], [1.0])
    assert rows["squared error"] == ["4.000", "1.000", "-75.0 %"]
    assert rows["absolute error"] == ["2.000", "1.000", "-50.0 %"]
    assert rows["inside"] == ["100.0 %", "100.0 %", ""]
    assert rows["model vs naive"] == ["+300.0 %", "+0.0 %", ""]
    assert result["verdict"]["winner"] == "challenger"
    assert result["verdict"]["difference"] == pytest.approx(3.0)
    assert (result["champion"]["overall"]["mse"], result["challenger"]["overall"]["mse"]) == (4.0, 1.0)
    assert shown([1.0], [2.0])[0]["verdict"]["winner"] == "champion"
    assert shown([1.0], [-1.0])[0]["verdict"]["winner"] is None
    assert shown([2.0], [1.0], rows=20)[0]["verdict"]["winner"] is None


@pytest.mark.parametrize("alone", [None, 0, 1])
def test_a_portfolio_against_a_single_learner_is_called_so(alone):
    runs = run_of([2.0], 80), run_of([1.0], 80)
    experts = [session_pb2.Expert(name="mean", weight=1.0, relative_error=1.0)]
    both = tuple(session_of(1, experts=[] if side == alone else experts) for side in range(2))
    made = duel.Duel(runs, both, mixed=False)
    text = printed(lambda console: made.show(console, made.as_json(), "file"), width=150)
    for side, name in enumerate(duel.SIDES):
        assert (f"the {name} is a single learner without other experts" in text) is (side == alone)


def test_errors_of_different_units_are_weighed_by_the_naive_ones():
    # In a's units 0.75 better, in b's 3 worse: by the naive errors of 1 and 100, 0.75 better and 0.03 worse.
    result, rows = shown([1.0, 1.0], [0.5, 2.0])
    assert result["verdict"]["winner"] == "challenger"
    assert result["verdict"]["difference"] == pytest.approx((0.75 - 0.03) / 2)
    assert "squared error" not in rows
    assert rows["a: squared error"] == ["1.000", "0.250", "-75.0 %"]
    one_unit, rows = shown([1.0, 1.0], [0.5, 2.0], fit_rows=80)
    deviations = np.arange(80.0).std() * np.array([1.0, 10.0])
    expected = ((0.75 / deviations[0] ** 2) - (3 / deviations[1] ** 2)) / 2
    assert one_unit["verdict"]["difference"] == pytest.approx(expected)
    assert "squared error" in rows


def test_a_file_is_tried_without_being_touched(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("kept")
    for path in (None, old, new):
        check_writable(path)
    assert old.read_text() == "kept"
    assert not new.exists()
    with pytest.raises(Problem, match="cannot be written: Is a directory"):
        check_writable(tmp_path)


def test_a_narrow_terminal_cuts_nothing_off():
    run = run_of([0.5, 12345.678])
    session = session_of(2)
    made = report.as_json(run, session)
    made["per_target"] = {name * 40: means for name, means in made["per_target"].items()}
    made["overall"]["seasonal_mse"] = made["per_target"]["b" * 40]["seasonal_mse"] = 987654.321
    text = printed(lambda console: report.show(console, made, run.scorer, "file", None, 64), width=80)
    assert "…" not in text
    assert " 987654 " in text
    first = "".join(line.split("│")[1].strip() for line in text.splitlines() if "│" in line)
    assert first == "a" * 40 + "b" * 40 + "overall"
