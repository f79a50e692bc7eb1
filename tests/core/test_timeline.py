"""Events become steps of equal length: gaps are filled, long ones jumped over, and the period is learned once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt_core import Events, FieldError, Fold, LearnerConfig, SessionConfig, select_backend, stages
from bptt_core.checkpoint import load
from bptt_core.timeline import Steps, Timeline, steps_of

SECOND = 1_000_000_000
LONGEST_GAP = 10


def take(timeline: Timeline, seconds: Any, longest_gap: int = LONGEST_GAP) -> tuple[Timeline, Steps]:
    """The steps of events at these seconds; their one value is the second itself."""
    times = (np.asarray(seconds, float) * SECOND).astype(np.int64)
    return steps_of(timeline, Events(np.asarray(seconds, float)[:, None], times), longest_gap)


def known(period_s: float = 1) -> Timeline:
    return take(Timeline(period_ns=int(period_s * SECOND)), [0])[0]


def episodes(timeline: Timeline, seconds: list[float], starts: list[int]) -> tuple[Timeline, Steps]:
    times = (np.array(seconds) * SECOND).astype(np.int64)
    events = Events(np.array(seconds)[:, None], times, None, np.isin(np.arange(len(times)), starts))
    return steps_of(timeline, events, LONGEST_GAP)


def test_every_step_has_a_time_and_those_that_fill_a_gap_lie_whole_periods_before_their_event() -> None:
    """In nanoseconds beside the period, 0 while it is not known; without timestamps there is neither."""
    _, steps = take(known(), [1, 2.25, 6, 500, 501])
    assert (steps.clock[:, 0] == 1).all()
    assert (steps.clock[:, 1] / SECOND).tolist() == [1, 2.25, 3, 4, 5, 6, 500, 501]
    assert (steps.clock[:, 2] == SECOND).all()
    _, steps = take(Timeline(), np.arange(18))
    assert steps.clock[:, 2].tolist() == [0] * 16 + [SECOND] * 2
    assert (steps.clock[:, 1] // SECOND).tolist() == list(range(18))
    _, steps = steps_of(Timeline(), Events(np.zeros((3, 1))), LONGEST_GAP)
    assert not steps.clock.any()


def test_the_time_before_an_episode_is_jumped_over_and_its_grid_is_its_own() -> None:
    """2.4 s begin an episode: on the grid before it 3.5 s would lie two steps after."""
    _, steps = episodes(known(), [1, 2.4, 3.5, 7, 8], [1, 3])
    assert steps.values[~np.isnan(steps.values)].tolist() == [1, 2.4, 3.5, 7, 8]
    assert len(steps) == 5, "nothing is filled before an episode"
    assert steps.clear.tolist() == [False, True, False, True, False]
    assert steps.jump.tolist() == [0, 0, 0, 3, 0]


def test_the_time_before_an_episode_says_nothing_of_the_period() -> None:
    """Episodes of two events: every other difference is a pause."""
    seconds = [pause * 100.0 + second for pause in range(20) for second in (0, 1)]
    timeline, _ = episodes(Timeline(), seconds, list(range(0, 40, 2)))
    assert timeline.period_ns == SECOND


def test_too_many_steps_are_refused_before_they_take_memory() -> None:
    """A billion billion of them: no machine could hold the table."""
    events = Events(np.zeros((10_000, 1)), np.arange(1, 10_001) * 10**14)
    timeline = take(Timeline(period_ns=1), [0])[0]
    with pytest.raises(FieldError, match="history is 1000000000000000000; allowed: at most 20000 steps"):
        steps_of(timeline, events, 10**15, most=20_000)


def test_without_timestamps_every_event_is_a_step() -> None:
    values = np.random.default_rng(0).standard_normal((5, 2))
    timeline, steps = steps_of(Timeline(period_ns=7), Events(values), LONGEST_GAP)
    assert timeline.timed == 0
    assert steps.values.tolist() == values.tolist()
    assert steps.event.all()
    assert not steps.jump.any()


@pytest.mark.parametrize(
    ("seconds", "missing"),
    [
        ([1, 2, 3], [0, 0, 0]),
        ([1, 3], [0, 1]),
        ([4], [3]),
        ([1.4, 2.6], [0, 1]),  # nearest to 1 and 3
        ([0.6, 2.4, 2.6, 4.4], [0, 0, 0, 0]),  # early and late by turns
        ([1.49, 3.0], [0, 1]),
        ([0, 0, 0.2], [0, 0, 0]),  # equal timestamps are steps too
        ([1 + LONGEST_GAP], [LONGEST_GAP]),
        ([11.4], [10]),
    ],
)
def test_gaps_are_filled_with_missing_steps(seconds: list[float], missing: list[int]) -> None:
    _, steps = take(known(), seconds)
    expected: list[float] = []
    for second, count in zip(seconds, missing, strict=True):
        expected += [np.nan] * count + [second]
    np.testing.assert_array_equal(steps.values[:, 0], expected)
    assert steps.event.tolist() == [not np.isnan(value) for value in expected]
    assert not steps.jump.any()


def test_a_longer_gap_is_a_jump() -> None:
    _, steps = take(known(), [1, 2 + LONGEST_GAP + 1, 2 + LONGEST_GAP + 3, 1e6])
    assert steps.event.tolist() == [True, True, False, True, True]
    assert steps.jump.tolist() == [0, LONGEST_GAP + 1, 0, 0, 1_000_000 - 15 - 1]


def test_the_period_is_the_median_of_the_first_sixteen_differences_and_then_frozen() -> None:
    differences = [1, 1, 0.5, 60, 1, 2, 1, 0, 0.5, 1, 1, 500, 1, 1, 2, 1, 1]  # sixteen that are not zero
    seconds = np.cumsum([0, *differences])
    timeline, steps = take(Timeline(), seconds[:-1])
    assert timeline.period_ns == 0
    assert steps.event.all(), "nothing is a gap before the period is known"
    timeline, steps = take(timeline, seconds[-1:])
    assert timeline.period_ns == SECOND
    assert steps.event.all()
    later = seconds[-1] + 5 * np.arange(1, 60)
    timeline, steps = take(timeline, later)
    assert timeline.period_ns == SECOND
    assert steps.event.sum() * 5 == len(steps.event)


def test_the_steps_do_not_depend_on_batches() -> None:
    rng = np.random.default_rng(1)
    seconds = rng.choice([0, 1, 1, 1, 1, 2, 4, 30], 100).cumsum()
    whole, steps = take(Timeline(), seconds)
    one_by_one, timeline = [], Timeline()
    for second in seconds:
        timeline, one = take(Timeline.of_row(timeline.row()), [second])
        one_by_one.append(one)
    assert timeline == whole
    for name in ("values", "event", "jump"):
        np.testing.assert_array_equal(np.concatenate([getattr(s, name) for s in one_by_one]), getattr(steps, name))


def test_extreme_times() -> None:
    timeline, _ = steps_of(Timeline(period_ns=1), Events(np.zeros((1, 1)), np.array([-(2**62)])), LONGEST_GAP)
    timeline, steps = steps_of(timeline, Events(np.zeros((1, 1)), np.array([2**62])), LONGEST_GAP)
    assert steps.jump.tolist() == [2**63 - 1]
    assert Timeline.of_row(timeline.row()) == timeline


def test_a_session_reports_its_time(fold: Fold, make_config: Any) -> None:
    slot = fold.create(make_config(period_ns=SECOND))
    status = fold.status(slot)
    assert (status.timed, status.period_ns, status.last_timestamp_ns) == (None, None, None)
    fold.step([(slot, Events(np.zeros((2, 1)), np.array([5, 5 + 3 * SECOND])))])
    status = fold.status(slot)
    assert (status.timed, status.period_ns, status.last_timestamp_ns) == (True, SECOND, 5 + 3 * SECOND)
    assert status.last_sequence == 2, "missing steps have no sequence"

    slot = fold.create(make_config(period_ns=SECOND))
    fold.step([(slot, Events(np.zeros((2, 1))))])
    status = fold.status(slot)
    assert (status.timed, status.period_ns, status.last_timestamp_ns) == (False, None, None)


def test_a_filled_gap_is_the_same_as_events_without_values(fold: Fold, make_config: Any, random_walks: Any) -> None:
    """Except that nothing is learned, served or scored for it."""
    config = make_config(horizon=2, seasons=(4,), window=6, period_ns=SECOND)
    gaps, events = fold.create(config, learning=False), fold.create(config, learning=False)
    values = random_walks(60)
    here = np.ones(60, bool)
    here[[20, 21, 40, 41, 42]] = False
    values[~here] = np.nan
    times = SECOND * np.arange(60)
    (with_gaps,) = fold.step([(gaps, Events(values[here], times[here]))])
    (without,) = fold.step([(events, Events(values, times))])
    assert with_gaps.mean.tobytes() == without.mean[here].tobytes()
    assert fold.status(gaps).last_sequence == here.sum()
    served, scored = fold.status(events).scores, fold.status(gaps).scores
    assert scored is not None
    assert served is not None
    # Forecasts made at the five missing steps are not scored, where their value arrived.
    assert (served.count - scored.count).ravel().tolist() == [2, 4]


def test_a_jump_starts_the_window_again_and_keeps_what_was_learned(
    fold: Fold, make_config: Any, random_walks: Any
) -> None:
    config = make_config(window=6, loss_span=6, period_ns=SECOND, learning_rate=0.05)
    slot = fold.create(config)
    values = random_walks(60)
    times = SECOND * np.arange(60)
    times[50:] += 1000 * SECOND
    (outcomes,) = fold.step([(slot, Events(values, times))])
    assert outcomes.update_result[49:53].tolist() == [2, 3, 2, 2]  # no pair survives the jump
    assert (outcomes.mean[50:, 0, 0] != values[50:, 0]).all(), "what was learned is still there"
    scores = fold.status(slot).scores
    assert scores is not None
    assert scores.count.item() == 58
    assert load(fold.checkpoint(slot))[1]["residual_count"].item() == 58, "no difference across the jump is in a scale"


def test_timestamps_at_both_ends_of_their_range_are_far_apart_and_nothing_else() -> None:
    fold = Fold(select_backend("numpy"))
    slot = fold.create(SessionConfig(("x",), seasons=(7,), learner=LearnerConfig(hidden=4)))
    times = np.array([-(2**62), 2**62, 2**62, 2**62], np.int64)
    outcomes = fold.step([(slot, Events(np.arange(4.0)[:, None], times))])[0]
    assert np.isfinite(outcomes.mean).all()
    assert fold.status(slot).last_timestamp_ns == 2**62


def test_many_long_gaps_are_taken_in_chunks_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event is preceded by as many missing steps as fill a gap, so one batch is many chunks."""
    config = SessionConfig(("x", "y"), horizon=2, period_ns=1, learner=LearnerConfig(hidden=4, window=8))
    values = np.random.default_rng(0).standard_normal((40, 2)).cumsum(axis=0)
    results = []
    for chunk in (7, 10_000):
        monkeypatch.setattr(stages, "CHUNK_STEPS", chunk)
        fold = Fold(select_backend("numpy"))
        slots = [fold.create(config) for _ in range(3)]
        work = [(slot, Events(values[: 40 - k], np.arange(40 - k) * (11 + k))) for k, slot in enumerate(slots)]
        outcomes = fold.step(work)
        results.append(
            [(o.first_sequence, o.mean.tobytes(), fold.checkpoint(s)) for o, s in zip(outcomes, slots, strict=True)]
        )
        assert [len(o) for o in outcomes] == [40, 39, 38]
    assert results[0] == results[1]


@pytest.mark.parametrize("jitter", [0.1, 0.3, 0.49])
def test_early_and_late_events_add_up_to_no_steps(jitter: float) -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(2000) + 10 + rng.uniform(-jitter, jitter, 2000)
    _, steps = take(Timeline(period_ns=SECOND), seconds)
    assert len(steps.event) == 2000
    kept = seconds[rng.random(2000) > 0.2]
    _, steps = take(Timeline(period_ns=SECOND), kept)
    assert abs(len(steps.event) - 2000) <= 2, "what is left out is filled, and no more"
