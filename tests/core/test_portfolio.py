"""A session with several learners: what it tells of its experts, what a new season resets, and copies of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bptt_core import Events, Fold, LearnerConfig, Outcomes, ResetReason, SessionConfig, forecasts, session_bytes
from bptt_core.events import UpdateResult
from bptt_core.portfolio import default_portfolio

SMALL = LearnerConfig(hidden=3, window=8, learning_rate=0.01)
OTHER = LearnerConfig(cell="gru", hidden=2, window=8, learning_rate=0.01)
CONFIG = SessionConfig(
    ("x", "y"), horizon=3, seasons=(5, 7), learners=(SMALL, OTHER, replace(SMALL, seed=1, loss_span=4))
)


def season_of(n: int, *periods: int) -> np.ndarray:
    """[n, 2]: seasons and a little noise."""
    rng, t = np.random.default_rng(0), np.arange(n)
    return sum(np.sin(2 * np.pi * t / p) for p in periods)[:, None] + 0.1 * rng.standard_normal((n, 2))


def test_experts_have_names_weights_and_errors(fold: Fold, random_walks: Any) -> None:
    slot = fold.create(CONFIG)
    names = [
        "learner 0", "learner 1", "learner 2", "persistence", "season", "second season", "mean", "autoregression",
    ]  # fmt: skip
    assert [expert.name for expert in fold.status(slot).experts] == names
    fold.step([(slot, Events(random_walks(120, 2)))])
    status = fold.status(slot)
    assert [expert.name for expert in status.experts] == names
    assert sum(expert.weight for expert in status.experts) == pytest.approx(1)
    assert min(expert.weight for expert in status.experts) > 0
    by_name = {expert.name: expert for expert in status.experts}
    assert by_name["persistence"].relative_error == 1
    assert by_name["season"].relative_error > 2, "of no use on a walk"
    assert by_name["season"].weight < by_name["persistence"].weight
    updates = [expert.updates for expert in status.experts]
    assert updates[3:] == [None] * 5
    for count in ("applied", "clipped", "no_target", "reset_season"):
        assert sum(getattr(each, count) for each in updates[:3]) == getattr(status.updates, count), count
    assert status.learning_rate is None
    assert fold.status(slot, scores=False).experts == ()


def test_a_learner_that_does_not_learn_is_persistence(fold: Fold, random_walks: Any) -> None:
    slot = fold.create(CONFIG, learning=False)
    (made,) = fold.step([(slot, Events(random_walks(80, 2, missing=0.1)))])
    status = fold.status(slot)
    assert [expert.relative_error for expert in status.experts[:4]] == [1] * 4
    assert status.updates.applied == 0
    assert status.updates.learning_off == 3 * 80
    assert set(made.update_result.tolist()) == {UpdateResult.LEARNING_OFF}
    fold.configure(slot, learning=True)
    fold.step([(slot, Events(random_walks(3, 2)))])
    assert [e.updates.applied for e in fold.status(slot).experts if e.updates is not None] == [3] * 3


def test_the_forecast_lies_among_the_experts(fold: Fold, random_walks: Any) -> None:
    """It is their weighted mean: while all agree on the last value, that is it exactly; later within what they say."""
    slot = fold.create(CONFIG)
    values = random_walks(60, 2)
    (first,) = fold.step([(slot, Events(values[:1]))])
    assert first.mean.tolist() == np.repeat(values[:1, None], 3, axis=1).tolist()
    (made,) = fold.step([(slot, Events(values[1:]))])
    made_last = fold._store.get(slot, "waiting")[(60 - 1) % 3]  # [H, O, what waits]: the experts' forecasts come last
    experts = made_last[..., -8:]
    assert (experts.min(axis=-1) <= made.mean[-1]).all()
    assert (made.mean[-1] <= experts.max(axis=-1)).all()


def naive_experts(fold: Fold, values: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What naive forecasters say after these values, [H, O] each by name, and their units."""
    slot = fold.create(CONFIG)
    fold.step([(slot, Events(values))])
    waiting = fold._store.get(slot, "waiting")[(len(values) - 1) % 3]
    names = [expert.name for expert in fold.status(slot).experts][-5:]
    return dict(zip(names, np.moveaxis(waiting[..., -5:], -1, 0), strict=True)), waiting[..., forecasts.UNIT]


def test_after_a_jump_naive_experts_stay_near_the_last_two_values(fold: Fold) -> None:
    """The mean and what came a season ago are far off from a new level: for one event they may say so, as the jump may
    be a spike; then none may in full. The autoregression must stay near the last value at once."""
    values = season_of(62, 5, 7)
    values[60:] += 1e4
    for last in (60, 61):
        said, scale = naive_experts(fold, values[: last + 1])
        far = {name: np.abs(forecast - values[last]) for name, forecast in said.items()}
        assert (far["persistence"] == 0).all()
        assert (far["autoregression"] <= 4 * scale * (1 + 1e-9)).all()
        for name in ("season", "second season", "mean"):
            assert last == 61 or (far[name] > 0.99e4).all(), name
            low = values[last - 1 : last + 1].min(axis=0) - 4 * scale
            assert last == 60 or np.abs(said[name] - low).max() < 1e-9, name


def test_a_lone_spike_moves_neither_mean_nor_season(fold: Fold) -> None:
    values = season_of(62, 5, 7)
    struck = values.copy()
    struck[60] += 1e4
    for last in (60, 61):
        usual, scale = naive_experts(fold, values[: last + 1])
        said, unit = naive_experts(fold, struck[: last + 1])
        assert (np.abs(said["mean"] - usual["mean"]) < 0.1 * scale).all()
        for name in ("season", "second season"):
            np.testing.assert_array_equal(said[name], usual[name])
    assert (np.abs(said["autoregression"] - values[61]) <= 4 * unit * (1 + 1e-9)).all()


@pytest.mark.parametrize("single", [False, True])
def test_a_season_that_begins_resets_who_starts_from_it(single: bool, fold: Fold) -> None:
    """Given seasons begin once a whole one was seen: the readouts of their learners are 0 again, and nobody else's."""
    anchors = ("season",) if single else ("last_value", "season", "second_season")
    learners = tuple(replace(SMALL, anchor=anchor) for anchor in anchors)
    chosen = {"learner": learners[0]} if single else {"learners": learners}
    slot = fold.create(SessionConfig(("x", "y"), seasons=(5, 7), seasonality="given", **chosen))
    values, readout, seen = season_of(30, 5, 7), [], []
    for t, value in enumerate(values):
        (made,) = fold.step([(slot, Events(value[None]))])
        seen += [(t, k, int(reason)) for k, reason in enumerate(made.learner_reset[0]) if reason]
        rows = [fold._store.get(slot, f"learner{k}.params") for k in range(len(learners))]
        readout.append([bool(row[-(3 + 1) * 2 :].any()) for row in rows])
    season = ResetReason.SEASON
    assert seen == ([(5, 0, season)] if single else [(5, 1, season), (7, 2, season)])
    assert readout[4] == [True] * len(learners)
    assert readout[5] == ([False] if single else [True, False, True])
    assert single or readout[7] == [True, True, False]
    assert readout[-1] == [True] * len(learners), "and they learn on"
    assert fold.status(slot).updates.reset_season == len(seen)
    assert fold.status(slot).seasons == (5, 7)


def test_a_learner_by_season_starts_from_the_season(fold: Fold) -> None:
    """A single one that does not learn says what came one season ago, whatever other anchors there are."""
    for period, anchor in ((5, "season"), (7, "second_season")):
        learner = replace(SMALL, anchor=anchor)
        config = SessionConfig(("x", "y"), horizon=3, seasons=(5, 7), seasonality="given", learner=learner)
        values = season_of(40, 5, 7)
        (made,) = fold.step([(fold.create(config, learning=False), Events(values))])
        for h in (1, 2, 3):
            at = np.arange(8, 40)
            np.testing.assert_array_equal(made.mean[at, h - 1], values[at + h - period])


def test_a_learner_by_season_keeps_the_phase_over_a_jump_in_time(fold: Fold) -> None:
    """One that does not learn forecasts a periodic stream exactly, after a gap that missing steps do not fill and that
    is no whole number of seasons, too."""
    phases = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    for jump in (998, 10**9 + 2):
        time = np.concatenate([np.arange(40), np.arange(40 + jump, 60 + jump)])
        config = SessionConfig(
            ("x",),
            horizon=3,
            seasons=(5,),
            seasonality="given",
            period_ns=10**9,
            learner=replace(SMALL, anchor="season"),
        )
        (made,) = fold.step([(fold.create(config, learning=False), Events(phases[time % 5, None], 10**9 * time))])
        for h in (1, 2, 3):
            np.testing.assert_array_equal(made.mean[6:, h - 1, 0], phases[(time[6:] + h) % 5])


@pytest.mark.parametrize("chosen", [{"learners": CONFIG.learners}, {}])
def test_persistence_has_a_quarter_of_the_weight_at_first_and_the_others_share_the_rest(
    chosen: dict[str, Any], fold: Fold
) -> None:
    experts = fold.status(fold.create(SessionConfig(("x", "y"), horizon=3, **chosen))).experts
    weights = {expert.name: expert.weight for expert in experts}
    assert weights.pop("persistence") == pytest.approx(1 / 4)
    assert list(weights.values()) == pytest.approx([3 / 4 / len(weights)] * len(weights))


def test_a_found_season_is_told_and_forecast(fold: Fold) -> None:
    config = SessionConfig(("x", "y"), learners=(SMALL, replace(SMALL, anchor="season")))
    slot = fold.create(config)
    assert fold.status(slot).seasons == (0, 0)
    values = season_of(400, 12)
    (made,) = fold.step([(slot, Events(values))])
    status = fold.status(slot)
    assert status.seasons == (12, 0)
    assert status.updates.reset_season == 1
    assert np.flatnonzero(made.learner_reset[:, 1]).tolist() == [63], "at the first search"
    assert not made.learner_reset[:, 0].any()
    assert status.scores is not None
    assert status.scores.seasonal_mse is not None
    assert (status.scores.seasonal_mse < 0.5 * status.scores.persistence_mse).all()
    error = ((values[301:] - made.mean[300:-1, 0]) ** 2).mean()
    assert error < 0.1 * ((values[301:] - values[300:-1]) ** 2).mean()


@pytest.mark.parametrize(("minutes", "seasons"), [(10, (144, 0)), (60, (24, 168)), (7, (0, 0))])
def test_the_calendar_suggests_seasons_where_none_is_found(
    minutes: int, seasons: tuple[int, int], fold: Fold, random_walks: Any
) -> None:
    """Days and weeks, if they are whole steps; some longer than what so few steps could be searched for."""
    slot = fold.create(SessionConfig(("x",), learners=(SMALL, replace(SMALL, anchor="season"))))
    fold.step([(slot, Events(random_walks(300), 60_000_000_000 * minutes * np.arange(300)))])
    assert fold.status(slot).seasons == seasons
    assert fold.status(slot).period_ns == 60_000_000_000 * minutes


def hostile(n: int, rng: np.random.Generator) -> np.ndarray:
    """Jumps over many orders of magnitude, a constant, spikes and missing values."""
    values = rng.standard_normal((n, 3)) * 10.0 ** rng.integers(-20, 20, (n, 1))
    values[:, 1] = np.where(np.arange(n) < n // 2, 4.0, rng.standard_normal(n))
    values[:, 2] = np.sin(np.arange(n))
    values[rng.integers(0, n, n // 20), 2] = -1e100
    values[rng.random((n, 3)) < 0.1] = np.nan
    values[n // 2 : n // 2 + 9] = np.nan
    return values


@pytest.mark.parametrize("seed", range(2))
def test_whatever_comes_and_whatever_becomes_of_learners_what_is_served_is_finite(seed: int, fold: Fold) -> None:
    """Half-way all learners are poisoned as well: parameters, moments and carries."""
    config = SessionConfig(("x", "y", "z"), horizon=3, learners=(SMALL, replace(OTHER, anchor="season")))
    slot, values = fold.create(config), hostile(300, np.random.default_rng(seed))
    values[0] = 0.0
    for start in range(0, 300, 75):
        (made,) = fold.step([(slot, Events(values[start : start + 75]))])
        assert np.isfinite(made.mean).all()
        warm = np.isnan(made.lower)
        assert (warm == np.isnan(made.upper)).all()
        assert ((made.lower <= made.mean) & (made.mean <= made.upper) | warm).all()
        assert start == 0 or not warm.any()
        for score in (made.anomaly_score, made.target_anomaly_score, made.anomaly_likelihood):
            assert np.isfinite(score).all()
            assert score.min() >= 0
        if start == 75:
            for k, broken in enumerate((np.nan, np.inf)):
                for name in ("params", "moment0", "moment1", "carry", "boundary"):
                    fold._store.set(slot, f"learner{k}.{name}", broken)
    status = fold.status(slot)
    assert np.isfinite([expert.weight for expert in status.experts]).all()
    assert np.isfinite([expert.relative_error for expert in status.experts]).all()


@pytest.mark.parametrize("warm", [False, True])
def test_no_learner_knows_of_another(warm: bool, fold: Fold) -> None:
    """Each has the parameters that it has as the only learner of a session, trained online or on a history first."""
    learners = (SMALL, replace(OTHER, anchor="season"), replace(SMALL, seed=1, loss_span=4), OTHER)
    together, *alone = [
        fold.create(replace(CONFIG, learners=these)) for these in (learners, *((learner,) for learner in learners))
    ]
    values = season_of(90, 5, 7)
    if warm:
        for slot in (together, *alone):
            training = fold.warm_start(slot, Events(values[:50]))
            training.run_pass()
            training.finish()
    before = [fold._store.get(together, f"learner{k}.params").copy() for k in range(4)]
    fold.step([(slot, Events(values[50:] if warm else values)) for slot in (together, *alone)])
    for k, slot in enumerate(alone):
        for name in ("params", "moment0", "carry", "boundary"):
            mine, own = fold._store.get(together, f"learner{k}.{name}"), fold._store.get(slot, f"learner0.{name}")
            assert mine.tobytes() == own.tobytes(), (k, name)
        assert (fold._store.get(together, f"learner{k}.params") != before[k]).any()


@pytest.mark.parametrize("labels", [False, True])
def test_a_fork_goes_on_to_the_same_bits_and_on_its_own(
    labels: bool, new_fold: Callable[[], Fold], random_walks: Any, outcome_bits: Any
) -> None:
    config = SessionConfig(("x", "y"), task="regress", labels=("u",), learner=SMALL) if labels else CONFIG
    values, label = random_walks(120, 2, missing=0.1), random_walks(120, 1, seed=1) if labels else None
    events, fold = Events(values, None, label), new_fold()
    slot = fold.create(config)
    fold.step([(slot, events.rows(0, 71))])
    before = fold.checkpoint(slot)
    copy = fold.fork(slot)
    assert fold.checkpoint(copy) == fold.checkpoint(slot) == before
    (mine,) = fold.step([(slot, events.rows(71, 120))])
    assert fold.checkpoint(copy) == before, "what happens to one is nothing to the other"
    fold.delete(slot)
    (other,) = fold.step([(copy, events.rows(71, 100))])
    last = fold.step([(copy, events.rows(100, 120))])[0]
    assert outcome_bits(Outcomes.joined([other, last])) == outcome_bits(mine)


def test_sessions_share_and_leave_the_slabs_of_their_learners(fold: Fold, random_walks: Any) -> None:
    """Learners of one shape lie together whoever they belong to; with the last of them their slab goes."""
    alone = fold.create(replace(CONFIG, learners=(replace(SMALL, loss_span=4),)))
    assert len(fold._store.schools) == 1
    several = fold.create(CONFIG)
    assert len(fold._store.schools) == 2
    fold.step([(alone, Events(random_walks(9, 2))), (several, Events(random_walks(9, 2, seed=1)))])
    fold.delete(several)
    assert len(fold._store.schools) == 1
    assert fold.status(alone).last_sequence == 9
    fold.delete(alone)
    assert not fold._store.schools
    assert not fold._store.slabs


def test_a_session_takes_the_bytes_it_is_said_to_take(fold: Fold) -> None:
    """A checkpoint holds every array of it, and little else."""
    for config in (CONFIG, SessionConfig(("x", "y"), learner=SMALL), SessionConfig(("x",))):
        stored = len(fold.checkpoint(fold.create(config)))
        assert 0 < stored - session_bytes(config) < 40_000


@pytest.mark.parametrize("seasonal", [False, True])
def test_the_default_learners_are_few_shapes_and_all_differ(seasonal: bool) -> None:
    """They are stepped together, and differ in what complements each other."""
    for horizon in (1, 24, 256):
        learners = default_portfolio(horizon, seasonal)
        assert len({(k.cell, k.hidden, k.layers, k.window, k.stride) for k in learners}) == 1
        assert len({k.seed for k in learners}) == len(learners)
        if seasonal:
            assert len({(k.loss_span, k.learning_rate, k.anchor) for k in learners}) == len(learners)
