"""What learners are told of seasons and calendar is what the formulas say, and really is among their inputs."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest

from bptt_core import Events, Fold, LearnerConfig, SessionConfig, context, scales, scaling
from bptt_core.context import ContextShape
from bptt_core.seasons import Seasonal, SeasonShape
from bptt_core.slab import Slab

SLOTS, CALENDAR, LIMIT, MOST = 2, 4, 10.0, 64
HOUR_S = 3600
SEASONS = (5, 7)
START_S = int(datetime(2024, 5, 17, 3, tzinfo=UTC).timestamp())  # a Friday


def followed(horizon: int) -> list[int]:
    """The farthest, the next, the middle one; each once."""
    return list(dict.fromkeys([horizon, 1, (1 + horizon) // 2]))


def told_of(last: float, ago: list[float], naive: np.ndarray, scale: np.ndarray, periods: list[int]) -> list[float]:
    """The numbers of one target by the formula, without the calendar: `naive` [SLOTS, H], `scale` [H, A]."""
    ratios = [(last - ago[slot]) / scale[0, 1 + slot] for slot in range(SLOTS)]
    for h in followed(len(scale)):
        ratios += [(naive[slot, h - 1] - ago[slot]) / scale[h - 1, 0] for slot in range(SLOTS)]
    filled = [ratio if periods[k % SLOTS] else 0.0 for k, ratio in enumerate(ratios)]
    return [0.0 if math.isnan(ratio) else min(max(ratio, -LIMIT), LIMIT) for ratio in filled]


def time_of(hour: int) -> list[float]:
    """The calendar of that hour after `START_S`: sine and cosine of day and week, which begins on Monday."""
    now = datetime.fromtimestamp(START_S + HOUR_S * hour, UTC)
    day = (now.hour + now.minute / 60) / 24
    week = (now.weekday() + day) / 7
    return [f(2 * math.pi * phase) for phase in (day, week) for f in (math.sin, math.cos)]


@pytest.mark.parametrize("horizon", [1, 2, 3, 24])
def test_what_is_told_of_a_target_is_the_formula(horizon: int) -> None:
    """Sessions with two seasons, one, and none; values that are missing, and ratios beyond the limit."""
    rng = np.random.default_rng(horizon)
    B, O = 3, 2
    last, ago = rng.standard_normal((B, O)), rng.standard_normal((B, SLOTS, O))
    naive = rng.standard_normal((B, SLOTS, horizon, O))
    scale = rng.uniform(0.3, 3, (B, horizon, 3, O))
    period = np.array([SEASONS, (5, 0), (0, 0)])
    ago[0, 1, 0] = last[1, 1] = naive[0, 0, -1, 1] = scale[0, 0, 1, 1] = np.nan
    last[0, 0] = 1e6 * (1 + scale[0, 0, 1, 0])
    naive[1, 0, -1, 0] = -1e6
    calendar = rng.uniform(-1, 1, (B, CALENDAR))
    seasonal = Seasonal(period, naive, ago, np.zeros((B, SLOTS), bool))
    shape = ContextShape(horizon, O, others=6)
    told = context.of_targets(shape, last, seasonal, scale, calendar)
    expected = np.array(
        [
            [told_of(last[b, o], ago[b, :, o], naive[b, ..., o], scale[b, ..., o], period[b]) for o in range(O)]
            for b in range(B)
        ]
    )
    assert np.abs(expected).max() == LIMIT
    assert expected[0].any(axis=0).all(), "nothing is compared with 0 only"
    np.testing.assert_allclose(told[..., :-CALENDAR], expected, rtol=1e-12)
    np.testing.assert_array_equal(told[..., -CALENDAR:], np.repeat(calendar[:, None], O, axis=1))
    inputs = context.inputs(shape, told)
    assert inputs.shape == (B, shape.width)
    by_number = expected.transpose(0, 2, 1).reshape(B, -1) / math.sqrt(O)
    np.testing.assert_allclose(inputs[:, :-CALENDAR], by_number, rtol=1e-12)
    np.testing.assert_array_equal(inputs[:, -CALENDAR:], calendar)


@pytest.mark.parametrize("horizon", [1, 2, 24])
def test_a_learner_has_as_much_of_it_as_there_is_room_for_in_64_inputs(horizon: int) -> None:
    """Level, difference and missing flag of every feature, the calendar, and as many numbers of every target as fit."""
    widths = []
    for count in range(1, 21):
        shape = ContextShape(horizon, count, others=3 * count)
        complete = count * SLOTS * (1 + len(followed(horizon)))
        room = MOST - 3 * count - CALENDAR - (shape.width - CALENDAR)
        assert room >= 0
        assert room < count or shape.width == complete + CALENDAR, "another number of each would have fitted"
        widths.append(shape.width)
        told = np.arange(count * shape.per_target, dtype=float).reshape(1, count, -1)
        blocks = (shape.width - CALENDAR) // count
        inputs = context.inputs(shape, told)[0, : blocks * count] * math.sqrt(count)
        np.testing.assert_allclose(inputs, told[0, :, :blocks].T.ravel(), rtol=1e-12)
    assert widths[-1] == CALENDAR
    assert widths[0] == SLOTS * (1 + len(followed(horizon))) + CALENDAR


def test_steps_tell_what_was_observed_one_season_ago_and_what_followed() -> None:
    """The formula over the history itself: x(t) − x(t − P), and x(t + h − P⌈h/P⌉) − x(t − P)."""
    H, D, O = 6, 3, 2
    shape = scales.ScalingShape(
        features=D, symbols=(0,) * D, targets=(2, 0), labels=0, horizon=H, fixed=False, numeric=True, slots=H,
        anchors=("last_value", "season", "second_season"), seasons=SeasonShape(O, H, SEASONS, False),
    )  # fmt: skip
    slab = Slab(np, scales.fields(shape))
    rows = slab.take(np.array([slab.allocate()]))
    history = np.random.default_rng(0).standard_normal((40, D)).cumsum(axis=0)
    for t, values in enumerate(history):
        clock = np.array([[1, 10**9 * (START_S + HOUR_S * t), 10**9 * HOUR_S]])
        with np.errstate(all="ignore"):
            scaled = scaling.step(shape, rows, values[None], np.empty((1, 0)), np.array([True]), clock)
        seen = history[:, shape.targets]
        if t < 20:
            continue
        told = []
        for o in range(O):
            ago = [seen[t - P, o] for P in SEASONS]
            naive = np.array([[seen[t + h - P * -(-h // P), o] for h in range(1, H + 1)] for P in SEASONS])
            told.append(told_of(seen[t, o], ago, naive, scaled.scale[0, ..., o], list(SEASONS)))
        expected = [*(np.array(told).T.ravel() / math.sqrt(O)), *time_of(t)]
        assert scaled.inputs.shape == (1, shape.inputs)
        np.testing.assert_allclose(scaled.inputs[0, 3 * D :], expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(scaled.context[0, :, :-CALENDAR], told, rtol=1e-9, atol=1e-12)


def test_every_learner_sees_seasons_and_calendar(fold: Fold) -> None:
    """The newest rows of the learners' windows end with them: hourly values with a season of 5 and one of 7."""
    learners = tuple(LearnerConfig(hidden=3, window=8, anchor=anchor) for anchor in ("last_value", "season"))
    slot = fold.create(SessionConfig(("x",), horizon=2, seasons=SEASONS, learners=learners))
    n = 60
    values = np.random.default_rng(1).standard_normal(n)
    fold.step([(slot, Events(values[:, None], 10**9 * (START_S + HOUR_S * np.arange(n))))])
    scale = np.sqrt(fold._store.get(slot, "residual_square")[..., 0])  # of the last step; [H, A]
    rows = fold._store.get(slot, "learner0.inputs")
    newest = next(k for k, row in enumerate(rows) if np.allclose(row[-CALENDAR:], time_of(n - 1), atol=1e-6))
    ago = [values[n - 1 - P] for P in SEASONS]
    naive = np.array([[values[n - 1 + h - P] for h in (1, 2)] for P in SEASONS])
    expected = [*told_of(values[-1], ago, naive, scale, list(SEASONS)), *time_of(n - 1)]
    assert len(set(np.round(expected, 6).tolist())) == len(expected)
    for name in ("learner0.inputs", "learner1.inputs"):
        inputs = fold._store.get(slot, name)
        np.testing.assert_allclose(inputs[newest, 3:], expected, rtol=1e-5, atol=1e-6)
        hours = [time_of(n - 1 - newest + at) for at in range(newest + 1)]
        np.testing.assert_allclose(inputs[: newest + 1, -CALENDAR:], hours, atol=1e-6)
