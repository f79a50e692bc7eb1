"""What is served and how it is scored: against brute force over the outcomes, and on processes that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt_core import Backend, Events, Fold, LearnerConfig, Outcomes, SensorState, SessionConfig

SECOND = 1_000_000_000


def last_seen(values: np.ndarray) -> np.ndarray:
    """[n]: the last value that is not NaN, at every step."""
    seen = [float("nan")]
    for value in values:
        seen.append(seen[-1] if np.isnan(value) else value)
    return np.array(seen[1:])


def seasonal_naive(values: np.ndarray, step: int, horizon: int, season: int) -> float:
    """x[t + h − P⌈h/P⌉], else one season before it, else the last observed value."""
    index = step + horizon - season * -(-horizon // season)
    for candidate in (index, index - season):
        if candidate >= 0 and not np.isnan(values[candidate]):
            return values[candidate]
    return last_seen(values[: step + 1])[-1]


def expected_scores(values: np.ndarray, mean: np.ndarray, horizon: int, season: int) -> dict[str, float]:
    """Means over the pairs of one target and one horizon; `mean` [n] are the served forecasts, NaN where none was."""
    naive, errors = last_seen(values), []
    for step in range(len(values) - horizon):
        truth = values[step + horizon]
        if not np.isnan(truth) and not np.isnan(mean[step]):
            seasonal = seasonal_naive(values, step, horizon, season)
            errors.append([truth - mean[step], truth - naive[step], truth - seasonal])
    table = np.array(errors)
    (mse, persistence_mse, seasonal_mse), (mae, persistence_mae, seasonal_mae) = (table**2).mean(0), abs(table).mean(0)
    return {
        "count": len(table), "mse": mse, "mae": mae, "persistence_mse": persistence_mse,
        "persistence_mae": persistence_mae, "seasonal_mse": seasonal_mse, "seasonal_mae": seasonal_mae,
    }  # fmt: skip


@pytest.mark.parametrize(("horizon", "season"), [(1, 4), (3, 7), (7, 3)])
@pytest.mark.parametrize("anchor", ["last_value", "none"])
def test_scores_are_those_of_the_served_forecasts(
    horizon: int, season: int, anchor: str, fold: Fold, make_config: Any, random_walks: Any, run: Any
) -> None:
    config = make_config(3, targets=("f2", "f0"), horizon=horizon, seasons=(season,), anchor=anchor, learning_rate=0.02)
    slot = fold.create(config)
    values = random_walks(150, 3, seed=horizon, missing=0.25)
    values[:5, 2] = np.nan
    outcomes = run(fold, slot, values, batch=37)
    scores = fold.status(slot).scores
    assert scores is not None
    for h in range(horizon):
        for o, feature in enumerate((2, 0)):
            expected = expected_scores(values[:, feature], outcomes.mean[:, h, o], h + 1, season)
            for name, value in expected.items():
                np.testing.assert_allclose(getattr(scores, name)[h, o], value, rtol=1e-9, err_msg=name)
            truth = values[h + 1 :, feature]
            lower, upper = outcomes.lower[: -h - 1, h, o], outcomes.upper[: -h - 1, h, o]
            here = ~np.isnan(truth) & ~np.isnan(lower)
            inside = (lower <= truth) & (truth <= upper)
            np.testing.assert_allclose(scores.coverage[h, o], inside[here].mean(), rtol=1e-9)
            np.testing.assert_allclose(scores.width[h, o], (upper - lower)[here].mean(), rtol=1e-9)


@pytest.mark.parametrize("jump", [60 + 997, 60 + 10**8])
def test_seasons_follow_time_over_gaps_and_jumps(jump: int, fold: Fold, make_config: Any) -> None:
    """A periodic signal: the seasonal naive is exact again at once after a gap or a jump, whatever their length."""
    season = 6
    index = np.concatenate([np.arange(30), np.arange(34, 60), np.arange(jump, jump + 40)])
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])[index % season][:, None]
    slot = fold.create(make_config(horizon=2, seasons=(season,), window=8, period_ns=SECOND))
    fold.step([(slot, Events(values[:6], SECOND * index[:6]))])
    before = fold.status(slot).scores
    fold.step([(slot, Events(values[6:], SECOND * index[6:]))])
    after = fold.status(slot).scores
    assert before is not None
    assert after is not None
    assert before.seasonal_mse is not None
    assert after.seasonal_mse is not None
    assert before.seasonal_mae is not None
    assert after.seasonal_mae is not None
    # One step ahead, pairs made within the first season had only the last value; no error was added since.
    one, two = (s.seasonal_mae * s.count for s in (before, after))
    np.testing.assert_allclose(two[0], one[0], rtol=1e-9)
    assert (after.count > before.count + 60).all()
    assert after.persistence_mse.min() > 1


def test_a_new_session_forecasts_the_anchor_until_its_first_update(fold: Fold, make_config: Any) -> None:
    values = np.array([[np.nan, 1.0], [2.0, 3.0], [np.nan, 5.0], [7.0, np.nan], [1.0, 2.0]])
    slot = fold.create(make_config(2, horizon=3, learning_rate=0.1), learning=False)
    (outcomes,) = fold.step([(slot, Events(values))])
    anchors = np.stack([last_seen(values[:, 0]), last_seen(values[:, 1])], axis=1)
    assert outcomes.mean.tobytes() == np.repeat(anchors[:, None], 3, axis=1).tobytes()
    assert np.isnan(outcomes.mean[0, :, 0]).all()
    fold.configure(slot, learning=True)
    (outcomes,) = fold.step([(slot, Events(np.array([[4.0, 4.0]])))])
    assert outcomes.update_result.tolist() == [2]
    assert (outcomes.mean != 4.0).any()


@pytest.mark.parametrize("guard", [False, True])
def test_forecasts_stay_near_their_anchor(
    guard: bool, fold: Fold, make_config: Any, random_walks: Any, run: Any
) -> None:
    """A learner cannot forecast further than four residual scales away: neither one that says seven of them, nor one
    that is driven wild by its step size."""
    values = random_walks(300)
    says_seven = fold.create(make_config(horizon=2), learning=False)
    parameters = fold.parameters(says_seven)
    parameters[-2:] = 7, -7  # the readout's bias
    fold._store.set(says_seven, "learner0.params", parameters)
    wild = fold.create(make_config(horizon=2, learning_rate=10.0, optimizer="sgd", clip_norm=1e6, guard=guard))
    for slot in (says_seven, wild):
        outcomes = run(fold, slot, values)
        distance = abs(outcomes.mean - values[:, :, None])[50:, :, 0]
        assert np.isfinite(outcomes.mean).all()
        for h, far in enumerate(distance.T):
            residual = np.sqrt(((values[h + 1 :] - values[: -h - 1]) ** 2).mean())
            assert far.max() < 6 * residual
            assert slot is wild or far.min() > 3 * residual, "the clamp is what holds it"


def gaussian_walk(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n).cumsum()


def stationary(rng: np.random.Generator, n: int) -> np.ndarray:
    noise, values = rng.standard_normal(n), np.zeros(n)
    for k in range(1, n):
        values[k] = 0.7 * values[k - 1] + noise[k]
    return values


@pytest.mark.parametrize("process", [gaussian_walk, stationary])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_cover_as_requested(
    process: Any, coverage: float, fastest_fold: Fold, make_config: Any, run: Any
) -> None:
    fold, config = fastest_fold, make_config(4, horizon=3, coverage=coverage, window=8, stride=4)
    slot, rng = fold.create(config), np.random.default_rng(8)
    values = np.stack([process(rng, 3000) for _ in range(4)], axis=1)
    outcomes = run(fold, slot, values, batch=500)
    scores = fold.status(slot).scores
    assert scores is not None
    assert abs(scores.coverage - coverage).max() < 0.03
    for h in range(3):
        truth, lower, upper = values[h + 1 :], outcomes.lower[: -h - 1, h], outcomes.upper[: -h - 1, h]
        for side in (truth[500:] < lower[500:], truth[500:] > upper[500:]):
            assert abs(side.mean() - (1 - coverage) / 2) < 0.03, "both sides alike"


def test_intervals_are_not_served_in_warm_up(fold: Fold, make_config: Any, random_walks: Any, run: Any) -> None:
    slot = fold.create(make_config(horizon=2))
    outcomes = run(fold, slot, random_walks(60))
    for name in ("lower", "upper"):
        warm = np.isnan(getattr(outcomes, name)[:, :, 0])
        assert warm.sum(axis=0).tolist() == [32, 33], "until 32 forecasts have met their value"
        assert (np.diff(warm.astype(int), axis=0) <= 0).all(), "and are served for ever after"
    here = ~np.isnan(outcomes.lower)
    assert (outcomes.lower[here] <= outcomes.mean[here]).all()
    assert (outcomes.mean[here] <= outcomes.upper[here]).all()


def test_the_anomaly_score(fold: Fold, make_config: Any, random_walks: Any, run: Any) -> None:
    slot = fold.create(make_config(2, stride=2))
    values = random_walks(1200, 2, seed=11)
    values[700, 1] += 12
    values[800] = np.nan
    score = run(fold, slot, values).anomaly_score
    assert (score[:64] == 0).all()
    assert (score >= 0).all()
    assert score[700] > 1
    assert score[800] == 0
    usual = np.delete(score, [700, 701])
    assert (usual > 1).mean() < 0.005
    assert 0.1 < np.median(usual[100:]) < 0.5


def test_a_stuck_sensor_teaches_the_intervals_nothing(
    fold: Fold, make_config: Any, random_walks: Any, run: Any
) -> None:
    """Its errors are next to nothing: reach and width of its bounds stay while it is stuck, the other target's do not,
    and both move on once it is alive again."""
    values = random_walks(260, 2)
    values[200:240, 1] = values[199, 1]
    slot = fold.create(make_config(2, horizon=2))
    run(fold, slot, values[:200])
    names, stuck = ("interval_count", "interval_square", "interval_reach"), 0
    for value in values[200:]:
        before = [fold._store.get(slot, name).copy() for name in names]
        state = run(fold, slot, value[None]).sensor_state[0]
        assert state[0] == SensorState.OK
        for name, old in zip(names, before, strict=True):
            moved = (fold._store.get(slot, name) != old).reshape(-1, 2, 2)  # …, horizon, target
            assert moved[..., 0].all(), name
            assert (moved[..., 1] == (state[1] == SensorState.OK)).all(), name
        stuck += state[1] == SensorState.STUCK
    assert 20 < stuck < 40


def test_outcomes_are_numbered(fold: Fold, make_config: Any, random_walks: Any) -> None:
    slot = fold.create(make_config())
    assert fold.latest(slot) is None
    numbers = []
    for n in (1, 5, 2):
        (outcomes,) = fold.step([(slot, Events(random_walks(n)))])
        assert isinstance(outcomes, Outcomes)
        numbers.append((outcomes.first_sequence, outcomes.last_sequence, len(outcomes)))
    assert numbers == [(1, 1, 1), (2, 6, 5), (7, 8, 2)]


def test_counters_add_up(fold: Fold, make_config: Any, random_walks: Any, run: Any) -> None:
    slot = fold.create(make_config(stride=3, clip_norm=0.05))
    outcomes = run(fold, slot, random_walks(100, missing=0.3))
    status = fold.status(slot)
    results = np.bincount(outcomes.update_result, minlength=6)
    counts = status.updates
    assert [counts.applied, counts.no_target, counts.non_finite, counts.learning_off] == results[2:].tolist()
    assert results[1:].sum() == 100
    assert counts.applied + counts.no_target == 33
    applied = outcomes.update_result == 2
    assert (np.isnan(outcomes.loss) == ~applied).all()
    assert (np.isnan(outcomes.gradient_norm) == ~applied).all()
    assert counts.clipped == (outcomes.clip_scale < 1).sum() > 0
    clipped = outcomes.clip_scale < 1
    norm, scale = outcomes.gradient_norm[clipped].astype(float), outcomes.clip_scale[clipped]
    np.testing.assert_allclose(scale, 0.05 / (norm + 1e-6), rtol=1e-5)


@pytest.mark.parametrize("anchor", ["last_value", "none"])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_non_finite_output_is_replaced_by_persistence(anchor: str, broken: float, each_backend: Backend) -> None:
    fold = Fold(each_backend)
    slot = fold.create(SessionConfig(("x",), learner=LearnerConfig(anchor=anchor, hidden=4)), learning=False)
    fold.step([(slot, Events(np.random.default_rng(0).standard_normal((20, 1))))])
    fold._store.set(slot, "learner0.params", np.full_like(fold._store.get(slot, "learner0.params"), broken))
    outcomes = fold.step([(slot, Events(np.array([[7.0], [np.nan]])))])[0]
    assert outcomes.mean.ravel().tolist() == [7.0, 7.0]


@pytest.mark.parametrize("base", [0.0, 20.0])
def test_intervals_are_of_the_errors_size_after_a_standstill(base: float, fastest_fold: Fold) -> None:
    """While nothing moves the scale is next to nothing, and the first movement is enormous in units of it."""
    rng, n = np.random.default_rng(0), 3000
    values = np.full(n, base)
    values[100:] += np.sin(np.arange(n - 100) / 20) + 0.1 * rng.standard_normal(n - 100)
    fold = fastest_fold
    slot = fold.create(SessionConfig(("x",), learner=LearnerConfig(hidden=8)))
    outcomes = fold.step([(slot, Events(values[:, None]))])[0]
    width = (outcomes.upper - outcomes.lower)[1500:, 0, 0]
    errors = np.abs(values[1501:] - outcomes.mean[1500:-1, 0, 0])
    assert np.median(width) < 10 * errors.mean()
    assert 0.5 < outcomes.anomaly_score[1500:].max() < 5


@pytest.mark.parametrize(("offset", "sigma"), [(1e9, 1e-2), (1e9, 1e-3), (0.0, 1.0)])
def test_a_large_offset_costs_nothing(offset: float, sigma: float, fastest_fold: Fold) -> None:
    rng, n = np.random.default_rng(1), 4000
    noise = np.zeros(n)
    for t in range(1, n):
        noise[t] = 0.3 * noise[t - 1] + rng.standard_normal()
    values = offset + sigma * noise
    fold = fastest_fold
    slot = fold.create(SessionConfig(("x",), learner=LearnerConfig(hidden=8)))
    mean = fold.step([(slot, Events(values[:, None]))])[0].mean[:, 0, 0]
    own, naive = ((values[2001:] - forecast[2000:-1]) ** 2 for forecast in (mean, values))
    assert own.mean() < 0.8 * naive.mean()
