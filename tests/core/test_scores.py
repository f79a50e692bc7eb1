"""Running errors: the interval score by its formula, experts on the same pairs, and skill."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt_core import Events, Fold, scores
from bptt_core.slab import Rows, Slab

H, O = 2, 3


def new_rows(sessions: int = 1, experts: int = 0, coverage: float = 0.9) -> Rows:
    slab = Slab(np, scores.fields(H, O, experts))
    rows = slab.take(np.array([slab.allocate() for _ in range(sessions)]))
    rows["coverage_target"] = np.full(sessions, coverage)  # of the intervals' state
    return rows


def with_holes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.standard_normal(shape)
    values[rng.random(shape) < 0.15] = np.nan
    return values


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
def test_the_interval_score_is_its_formula(coverage: float) -> None:
    """Width, and 2/α times what the value lies outside: Gneiting & Raftery (2007)."""
    rng, rows, expected = np.random.default_rng(0), new_rows(coverage=coverage), {}
    for _ in range(300):
        lower, upper = np.sort(rng.standard_normal((2, 1, H, O)), axis=0)
        lower[rng.random(lower.shape) < 0.1] = np.nan  # in warm-up
        upper[np.isnan(lower)] = np.nan
        observed = with_holes(rng, (1, O))
        with np.errstate(all="ignore"):
            scores.settle_bounds(rows, lower, upper, observed)
        for h, o in np.ndindex(H, O):
            low, high, y = lower[0, h, o], upper[0, h, o], observed[0, o]
            if not np.isnan(low + y):
                outside = max(low - y, y - high, 0)
                score = high - low + 2 / (1 - coverage) * outside
                expected.setdefault((h, o), []).append((low <= y <= high, high - low, score))
    for (h, o), pairs in expected.items():
        assert rows["bounded"][0, h, o] == len(pairs) > 200
        names = ("score_coverage", "score_width", "score_interval")
        np.testing.assert_allclose([rows[name][0, h, o] for name in names], np.mean(pairs, axis=0), rtol=1e-9)


def test_experts_are_compared_in_units_on_the_pairs_that_end_together() -> None:
    K, rng, means = 4, np.random.default_rng(1), []
    rows = new_rows(experts=K)
    for _ in range(200):
        forecasts, observed = rng.standard_normal((1, H, O, K)), with_holes(rng, (1, O))
        unit = np.exp(rng.standard_normal((1, H, O)))
        unit[rng.random(unit.shape) < 0.1] = np.nan  # none known yet
        scores.settle_experts(rows, forecasts, observed, unit)
        error = np.abs(forecasts - observed[:, None, :, None]) / unit[..., None]
        square = np.where(np.isnan(error), np.nan, np.minimum(error, 10)) ** 2  # ten units at most
        if not np.isnan(square).all():
            means.append(np.nanmean(square.reshape(-1, K), axis=0))
    assert rows["expert_count"] == len(means) > 150
    np.testing.assert_allclose(rows["expert_square"][0], np.mean(means, axis=0), rtol=1e-9)


def test_an_expert_scores_the_same_bits_whoever_is_beside_its_session() -> None:
    rng = np.random.default_rng(2)
    together, alone = new_rows(3, experts=5), new_rows(1, experts=5)
    for _ in range(50):
        forecasts, observed = rng.standard_normal((3, H, O, 5)), with_holes(rng, (3, O))
        unit = np.exp(rng.standard_normal((3, H, O)))
        scores.settle_experts(together, forecasts, observed, unit)
        scores.settle_experts(alone, forecasts[1:2], observed[1:2], unit[1:2])
    for name, row in alone.items():
        assert row[0].tobytes() == together[name][1].tobytes(), name


def test_skill_is_one_less_the_mean_ratio_to_persistence() -> None:
    rng = np.random.default_rng(3)
    square = rng.random((4, 3, H, O)) + 0.1
    square[1, 0] = square[1, 1]  # as good as persistence
    square[2, 0] = 0  # perfect
    square[3, 1] = 0  # persistence is never wrong
    square[0, 1, 0, 0] = 0  # … for one pair, which says nothing
    skill = scores.skill(square)
    ratio = (square[0, 0] / np.where(square[0, 1] > 0, square[0, 1], np.nan)).ravel()
    np.testing.assert_allclose(skill[:3], [1 - np.nanmean(ratio), 0, 1], atol=1e-12)
    assert np.isnan(skill[3])


def test_the_skills_of_a_fold_are_those_of_its_sessions(fold: Fold, make_config: Any, random_walks: Any) -> None:
    """Of those that forecast numbers and have met a value; a session that classifies has none."""
    rng = np.random.default_rng(4)
    made = [fold.create(make_config(2, horizon=horizon, learning_rate=0.01)) for horizon in (1, 2, 1)]
    silent = fold.create(make_config(2))
    labelled = fold.create(make_config(1, task="classify", labels=("y",)))
    assert fold.skills().tolist() == []
    for k, slot in enumerate(made):
        fold.step([(slot, Events(rng.standard_normal((60, 2)) + 0.1 * random_walks(60, 2, seed=k)))])
    fold.step([(silent, Events(np.full((9, 2), np.nan)))])
    fold.step([(labelled, Events(np.zeros((9, 1)), None, np.ones((9, 1))))])
    expected = []
    for slot in made:
        told = fold.status(slot).scores
        assert told is not None
        expected.append(1 - (told.mse / told.persistence_mse).mean())
    np.testing.assert_allclose(np.sort(fold.skills()), np.sort(expected), rtol=1e-9)
    assert min(expected) > 0, "noise, which persistence is bad at"
    fold.delete(made.pop(1))
    assert len(fold.skills()) == 2
