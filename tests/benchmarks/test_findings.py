"""What the benchmarks of speed print about goals, and that what they count a session by is still there."""

from __future__ import annotations

import pytest
import sessions
from findings import finding, lines, met, rounded

from bptt_core import SessionConfig, session_bytes
from bptt_core.shape import Shape
from bptt_core.state import all_fields


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [("≥ 80", 80.0, True), ("≥ 80", 79.9, False), ("≤ 1.4", 1.4, True), ("≤ 1.4", 1.41, False)],
)
def test_a_goal_is_met_or_not(goal: str, value: float, reached: bool) -> None:
    found = finding("ours ÷ theirs", value, goal=goal)
    assert met(found) is reached
    (line,) = lines([found])
    assert line.endswith(" met" if reached else " not met")
    assert ("not" in line) is not reached


@pytest.mark.parametrize("goal", ["≥ 1", "≤ 1"])
def test_what_is_no_number_meets_no_goal(goal: str) -> None:
    assert not met(finding("ours ÷ theirs", float("nan"), goal=goal))


def test_a_figure_without_a_goal_says_nothing_of_one() -> None:
    (line,) = lines([finding("rate", 1234.5, "events/s")])
    assert line.split() == ["rate", "1,234", "events/s"]


def test_where_nothing_was_found_there_is_no_table() -> None:
    assert list(lines([])) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.2345, "1.23"), (98.76, "98.8"), (98765.4, "98,765"), (float("nan"), "nan")],
)
def test_figures_have_three_digits_and_large_ones_all_of_theirs(value: float, text: str) -> None:
    assert rounded(value) == text


def test_what_a_session_needs_are_fields_that_it_has() -> None:
    """A field that was renamed would no longer be counted."""
    fields = all_fields(Shape.of(sessions.PORTFOLIO.validated()))
    assert {f.name.rpartition(".")[2] for f in fields} >= sessions.NEEDED | {"moment0", "moment1"}


@pytest.mark.parametrize("config", [sessions.SINGLE, sessions.PORTFOLIO, SessionConfig(("a", "b"), horizon=24)])
def test_what_a_session_needs_is_most_of_its_state_and_slabs_hold_all_of_it(config: SessionConfig) -> None:
    size = sessions.Size.of(config)
    assert 0.75 * session_bytes(config) < size.needed < session_bytes(config) <= size.slabs
