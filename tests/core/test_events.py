"""Events that a session cannot take are refused before anything changes, with the field and what is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt_core import Events, FieldError, check_events

GOOD = np.zeros((3, 2))


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
        check_events(Events(values, stamps), 2, timed, newest)
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
    check_events(Events(values, stamps), 2, timed, newest)


def test_the_largest_values_leave_a_session_that_still_works(fold: Any, make_config: Any) -> None:
    values = np.tile([[1e100, -1e100, 0.0, np.nan, 1e-300]], 20).T
    assert values.shape == (100, 1)
    slot = fold.create(make_config(horizon=2, seasons=(3,)))
    (outcomes,) = fold.step([(slot, Events(values))])
    assert np.isfinite(outcomes.mean[10:]).all()
    assert np.isfinite(outcomes.anomaly_score).all()
    assert np.isfinite(fold.status(slot).scores.mse).all()
