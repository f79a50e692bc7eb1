"""The calendar tells the hour of the day and of the week of any time, exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from bptt_core.calendars import calendar

HOUR_NS = 3_600 * 10**9
DAY_NS, WEEK_NS = 24 * HOUR_NS, 168 * HOUR_NS


def one(time_ns: int, period_ns: int = HOUR_NS, timed: bool = True) -> list[float]:
    inputs = calendar(np.array([time_ns]), np.array([timed]), np.array([period_ns]))
    assert inputs.shape == (1, 4)
    return list(inputs[0])


@pytest.mark.parametrize("year", [1905, 1970, 2024, 2200])
def test_phases_are_those_of_the_civil_calendar(year: int) -> None:
    """An oracle that knows weekdays."""
    for days, hours in [(0, 0), (3, 6), (100, 13.5), (365, 23.99)]:
        when = datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=days, hours=hours)
        since = when - datetime(1970, 1, 1, tzinfo=UTC)
        nanoseconds = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
        day = (when - when.replace(hour=0, minute=0, second=0, microsecond=0)) / timedelta(days=1)
        week = (when.weekday() + day) / 7
        angles = 2 * np.pi * np.array([day, day, week, week])
        expected = np.where([True, False] * 2, np.sin(angles), np.cos(angles))
        np.testing.assert_allclose(one(nanoseconds), expected, atol=1e-12)


@pytest.mark.parametrize("weeks", [1, -40, 10_000, 15_000, -15_000])
def test_a_week_later_is_the_same_to_the_bit(weeks: int) -> None:
    time_ns = 123_456_789_012_345
    assert one(time_ns) == one(time_ns + weeks * WEEK_NS)


def test_what_a_step_takes_the_whole_of_is_not_shown() -> None:
    time_ns = 30 * HOUR_NS
    day, week = one(time_ns)[:2], one(time_ns)[2:]
    assert one(time_ns, DAY_NS - 1) == [*day, *week]
    assert one(time_ns, DAY_NS) == [0, 0, *week]
    assert one(time_ns, WEEK_NS) == [0, 0, 0, 0]
    assert one(time_ns, timed=False) == [0, 0, 0, 0]


@pytest.mark.parametrize("time_ns", [-(2**63), 2**63 - 1])
def test_no_time_is_too_far_away(time_ns: int) -> None:
    """The same as near 1970, by integers that cannot overflow."""
    assert one(time_ns) == one(time_ns % WEEK_NS)
