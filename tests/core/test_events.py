"""Events that a session cannot take are refused before anything changes, with the field and what is allowed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bptt_core import Categorical, Events, FieldError, Labels, SessionConfig, check_events, check_labels

GOOD = np.zeros((3, 2))
PLAIN = SessionConfig(("a", "b")).validated()
STATE = Categorical("state", ("idle", "run", "halt"))
LABELLED = SessionConfig(("a", "b"), task="regress", labels=("y", "z"), label_age=4).validated()
STATES = SessionConfig(("a", "state"), task="classify", labels=("y",), categories=(STATE,)).validated()


def with_value(value: float) -> np.ndarray:
    values = GOOD.copy()
    values[1, 1] = value
    return values


def times(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


BAD = [
    # field, value, allowed, values, times, timed, newest time so far
    ("values", "[3, 3]", "[n, 2] with n ≥ 1", np.zeros((3, 3)), None, None, None),
    ("values", "[0, 2]", "n ≥ 1", np.zeros((0, 2)), None, None, None),
    ("values", "[2]", "[n, 2]", np.zeros(2), None, None, None),
    ("values[1][1]", "inf", "NaN (missing) or ±1e+100", with_value(np.inf), None, None, None),
    ("values[1][1]", "-inf", "NaN (missing) or ±1e+100", with_value(-np.inf), None, None, None),
    ("values[1][1]", "1.1e+100", "NaN (missing) or ±1e+100", with_value(1.1e100), None, None, None),
    ("timestamps_ns", "absent", "one per event, as in the events before", GOOD, None, True, 5),
    ("timestamps_ns", "3 values", "none, as in the events before", GOOD, times(1, 2, 3), False, None),
    ("timestamps_ns", "2 values", "one per event (3) or none", GOOD, times(1, 2), None, None),
    ("timestamps_ns", "2", "at least the one before, 3", GOOD, times(1, 3, 2), None, None),
    ("timestamps_ns", "4", "at least the one before, 5", GOOD, times(4, 6, 7), True, 5),
    ("timestamps_ns", str(2**62 + 1), "-2^62..2^62", GOOD, times(1, 2, 2**62 + 1), None, None),
    ("timestamps_ns", str(-(2**63)), "-2^62..2^62", GOOD, times(-(2**63), 2, 3), None, None),
]


@pytest.mark.parametrize(("field", "value", "allowed", "values", "stamps", "timed", "newest"), BAD)
def test_a_bad_event_is_named(
    field: str, value: str, allowed: str, values: Any, stamps: Any, timed: bool | None, newest: int | None
) -> None:
    given = values.copy()
    with pytest.raises(FieldError) as caught:
        check_events(Events(values, stamps), PLAIN, timed, newest)
    assert caught.value.field == field
    assert caught.value.value == value
    assert allowed in caught.value.allowed
    np.testing.assert_array_equal(values, given)


@pytest.mark.parametrize(
    ("values", "stamps", "timed", "newest"),
    [
        (GOOD, None, None, None),
        (GOOD, None, False, None),
        (with_value(np.nan), None, None, None),
        (with_value(1e100), None, None, None),
        (np.full((1, 2), np.nan), None, None, None),
        (GOOD, times(1, 1, 1), True, 1),
        (GOOD, times(-(2**62), 0, 2**62), None, None),
        (GOOD, times(0, 0, 2**62), True, -(2**62)),
    ],
)
def test_a_good_event_is_taken(values: Any, stamps: Any, timed: bool | None, newest: int | None) -> None:
    check_events(Events(values, stamps), PLAIN, timed, newest)


@pytest.mark.parametrize("several", [False, True])
def test_the_largest_values_leave_a_session_that_still_works(several: bool, fold: Any, make_config: Any) -> None:
    values = np.tile([[1e100, -1e100, 0.0, np.nan, 1e-300]], 20).T
    assert values.shape == (100, 1)
    config = make_config(horizon=2, seasons=(3,))
    if several:
        config = replace(config, learner=None, learners=(config.learner, replace(config.learner, anchor="season")))
    slot = fold.create(config)
    (outcomes,) = fold.step([(slot, Events(values))])
    assert np.isfinite(outcomes.mean[10:]).all()
    for bound in (outcomes.lower, outcomes.upper):
        assert np.isfinite(bound[50:]).all()
    assert np.isfinite(outcomes.anomaly_score).all()
    status = fold.status(slot)
    assert np.isfinite(status.scores.mse).all()
    assert np.isfinite(status.scores.interval_score).all()
    assert np.isfinite([(expert.weight, expert.relative_error) for expert in status.experts]).all()


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


BAD_COLUMNS = [
    # field, value, allowed, configuration, values, labels, episode starts
    ("labels", "3 rows", "none, as the session has no labels", PLAIN, GOOD, np.zeros((3, 1)), None),
    ("labels", "[3, 1]", "[n, 2] with n ≥ 1", LABELLED, GOOD, np.zeros((3, 1)), None),
    ("labels", "2 rows", "one per event (3) or none", LABELLED, GOOD, np.zeros((2, 2)), None),
    ("labels[1][1]", "inf", "±1e+100", LABELLED, GOOD, with_value(np.inf), None),
    ("episode_start", "[2]", "one per event (3) or none", PLAIN, GOOD, None, np.zeros(2, bool)),
    ("values[1][1]", "3.0", "NaN (missing) or 0..2, a position in symbols", STATES, with_value(3), None, None),
    ("values[1][1]", "-1.0", "0..2, a position", STATES, with_value(-1), None, None),
    ("values[1][1]", "0.5", "0..2, a position", STATES, with_value(0.5), None, None),
    ("labels[2][0]", "1.01", "NaN (missing) or 0..1", STATES, GOOD, column(0, 1, 1.01), None),
    ("labels[0][0]", "-0.01", "NaN (missing) or 0..1", STATES, GOOD, column(-0.01, 0, 0), None),
]


@pytest.mark.parametrize(("field", "value", "allowed", "config", "values", "labels", "starts"), BAD_COLUMNS)
def test_a_bad_label_symbol_or_episode_is_named(
    field: str, value: str, allowed: str, config: SessionConfig, values: Any, labels: Any, starts: Any
) -> None:
    with pytest.raises(FieldError) as caught:
        check_events(Events(values, None, labels, starts), config, None, None)
    assert (caught.value.field, caught.value.value) == (field, value)
    assert allowed in caught.value.allowed


def test_good_labels_symbols_and_episodes_are_taken() -> None:
    starts = np.array([True, False, True])
    check_events(Events(GOOD, None, None, starts), PLAIN, None, None)
    check_events(Events(GOOD, None, np.array([[np.nan, 1e100], [0, 1], [np.nan, np.nan]])), LABELLED, None, None)
    check_events(Events(with_value(2)), STATES, None, None)
    check_events(Events(with_value(np.nan), None, column(0, 0.25, np.nan), starts), STATES, None, None)
    check_events(Events(np.array([[1e100, 2.0]]), None, column(1)), STATES, None, None)
    portfolio = SessionConfig(("a", "b"), categories=(Categorical("b", ("x", "y", "z")),)).validated()
    check_events(Events(with_value(2)), portfolio, None, None)


BAD_LABELS = [
    # field, value, allowed, configuration, sequences, labels, last sequence
    ("labels", "1 rows", "none, as the session has no labels", PLAIN, [1], [[0.0]], 9),
    ("labels", "[1, 1]", "[n, 2] with n ≥ 1", LABELLED, [1], [[0.0]], 9),
    ("labels", "[0, 2]", "n ≥ 1", LABELLED, [], np.empty((0, 2)), 9),
    ("labels[0][1]", "-inf", "±1e+100", LABELLED, [9], [[0.0, -np.inf]], 9),
    ("sequences", "2 values", "one per row of labels (1)", LABELLED, [8, 9], [[0.0, 0.0]], 9),
    ("sequences", "8", "more than the one before, 8", LABELLED, [8, 8], [[0.0, 0.0]] * 2, 9),
    ("sequences", "7", "more than the one before, 8", LABELLED, [8, 7], [[0.0, 0.0]] * 2, 9),
    ("sequences", "4", "5..9", LABELLED, [4, 9], [[0.0, 0.0]] * 2, 9),  # older than label_age
    ("sequences", "10", "5..9", LABELLED, [9, 10], [[0.0, 0.0]] * 2, 9),
    ("sequences", "0", "1..2", LABELLED, [0], [[0.0, 0.0]], 2),
    ("sequences", "1", "none yet", LABELLED, [1], [[0.0, 0.0]], 0),
]


@pytest.mark.parametrize(("field", "value", "allowed", "config", "sequences", "labels", "last"), BAD_LABELS)
def test_a_bad_late_label_is_named(
    field: str, value: str, allowed: str, config: SessionConfig, sequences: Any, labels: Any, last: int
) -> None:
    with pytest.raises(FieldError) as caught:
        check_labels(Labels(np.array(sequences, np.int64), np.array(labels)), config, last)
    assert (caught.value.field, caught.value.value) == (field, value)
    assert allowed in caught.value.allowed


def test_labels_as_late_as_allowed_are_taken() -> None:
    check_labels(Labels(np.array([5, 7, 9]), np.array([[0.0, np.nan], [np.nan, np.nan], [1e100, 1.0]])), LABELLED, 9)
    check_labels(Labels(np.array([1]), np.zeros((1, 2))), LABELLED, 1)
    check_labels(Labels(np.array([1]), np.zeros((1, 2))), LABELLED, 5)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("timed", [False, True])
def test_a_table_cut_to_rows_is_joined_again(timed: bool, starts: bool, labels: bool) -> None:
    whole = Events(
        np.arange(12.0).reshape(6, 2),
        np.arange(6) if timed else None,
        np.arange(6.0)[:, None] if labels else None,
        np.arange(6) % 2 == 0 if starts else None,
    )
    parts = [whole.rows(0, 1), whole.rows(1, 4), whole.rows(4, 6)]
    assert [len(part) for part in parts] == [1, 3, 2]
    joined = Events.joined(parts)
    for name in ("values", "timestamps_ns", "labels", "episode_start"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_what_only_some_parts_have_is_blank_in_the_others() -> None:
    values = np.zeros((2, 1))
    joined = Events.joined(
        [Events(values), Events(values, None, np.ones((2, 3))), Events(values, None, None, np.ones(2, bool))]
    )
    np.testing.assert_array_equal(joined.labels, np.repeat([[np.nan] * 3, [1] * 3, [np.nan] * 3], 2, axis=0))
    assert joined.episode_start is not None
    assert joined.episode_start.tolist() == [False] * 4 + [True] * 2
    assert joined.episode_start.dtype == bool
