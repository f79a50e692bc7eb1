"""What the command line prints: sessions that nothing cuts off, and a table of errors that says what they are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from bptt_client.cli import report, sessions
from bptt_client.cli.outputs import check_writable
from bptt_client.cli.problems import Problem
from bptt_client.cli.running import Run
from bptt_client.cli.scoring import NumberScorer, Span, standard_deviations


def printed(show, terminal=False, width=80):
    file = io.StringIO()
    show(Console(file=file, force_terminal=terminal, color_system=None, width=width, highlight=False))
    return file.getvalue()


ROWS = [[name, "1,000", "20", "a, b", "a", "1", "on", "lstm 16", "site=[bold]north"] for name in ("x" * 128, "pump-7")]


@pytest.mark.parametrize("terminal", [True, False])
def test_sessions_are_lines_that_nothing_cuts_off(terminal):
    lines = printed(lambda console: sessions.show(console, ROWS), terminal).splitlines()
    assert len(lines) == (3 if terminal else 2)
    for line, row in zip(lines[-2:], ROWS, strict=True):
        assert [cell for cell in line.split("\t") if cell] == row or not line.count("\t")
        assert all(cell in line for cell in row), line
    assert ("\t" in lines[0]) is not terminal


def table(errors, fit_rows, horizon=1):
    """The table of a run whose forecasts are wrong by `errors` [target], where the last value is wrong by 1 and 10."""
    truth = np.arange(20.0)[:, None] * [1.0, 10.0][: len(errors)]
    ahead = np.arange(1, horizon + 1)
    mean = truth[:, None, :] + ahead[None, :, None] * truth[1] + np.asarray(errors)
    scale = standard_deviations(truth, fit_rows)
    run = Run.empty(NumberScorer(truth, horizon, None, scale, Span(0, 20)), 20, len(errors))
    run.scorer.add(0, mean, mean - 2.0, mean + 2.0)
    made = report.as_json(run, ("a", "b")[: len(errors)], horizon)
    fitted = None if fit_rows is None else f" over the first {fit_rows} rows"
    text = printed(lambda console: report.show(console, made, run.scorer, "file", fitted, 64), width=200)
    rows = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]]
        for line in text.splitlines()
        if "│" in line
    }
    return made, rows, " ".join(text.split())


def test_errors_of_different_units_have_no_mean_but_their_ratios_have():
    made, rows, words = table([0.5, 1.0], fit_rows=None)
    assert rows["a"] == ["0.250", "1.000", "-75.0 %", "100.0 %", "4.000"]
    assert rows["b"] == ["1.000", "100.000", "-99.0 %", "100.0 %", "4.000"]
    assert rows["overall"] == ["-", "-", "-87.0 %", "100.0 %", "-"]
    assert made["overall"]["mse"] == pytest.approx(0.625)
    assert "Mean squared errors, in squares of the targets' own units" in words
    assert "with --fit-rows N" in words


def test_the_mean_over_targets_at_each_step_ahead_is_treated_alike():
    _, rows, _ = table([0.5, 1.0], fit_rows=None, horizon=2)
    assert rows["1 ahead"] == ["-", "-", "-87.0 %", "100.0 %", "-"]
    assert rows["2 ahead"][:3] == ["-", "-", f"{100 * ((0.25 / 4 + 1 / 400) / 2 - 1):+.1f} %"]


@pytest.mark.parametrize(("errors", "fit_rows"), [([0.5], None), ([0.5, 1.0], 4), ([0.5], 4)])
def test_errors_of_one_unit_have_a_mean(errors, fit_rows):
    made, rows, words = table(errors, fit_rows)
    assert rows["overall"][0] == f"{made['overall']['mse']:.3f}"
    assert rows["overall"][-1] == f"{made['overall']['width']:.3f}"
    assert "--fit-rows" not in words
    if fit_rows:
        assert "Mean squared errors, in squared standard deviations of each target over the first 4 rows;" in words
        assert "`width`: how wide that was, in standard deviations." in words


def test_a_file_is_tried_without_being_touched(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("kept")
    for path in (None, old, new):
        check_writable(path)
    assert old.read_text() == "kept"
    assert not new.exists()
    with pytest.raises(Problem, match="cannot be written: Is a directory"):
        check_writable(tmp_path)
