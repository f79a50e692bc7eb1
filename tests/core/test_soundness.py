"""Checkpoints that are whole and mean harm: what the fold counts, indexes or computes powers with is checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt_core import CheckpointError, Events, Fold, LearnerConfig, SessionConfig, select_backend
from bptt_core.checkpoint import dump, load

DAY_NS = 86_400 * 10**9
CONFIG = SessionConfig(
    ("x",), horizon=2, seasons=(3,), learner=LearnerConfig(hidden=2, window=5, stride=2, clip="quantile")
)


def with_field(name: str, value: Any, place: int | None = None) -> bytes:
    """The checkpoint of a session with ten events in which one field is another."""
    fold = Fold(select_backend("numpy"))
    slot = fold.create(CONFIG)
    fold.step([(slot, Events(np.arange(10.0)[:, None], np.arange(10) * DAY_NS))])
    config, arrays = load(fold.checkpoint(slot))
    array = arrays[name].copy()
    array[() if place is None else np.unravel_index(place, array.shape)] = value
    return dump(config, "a test", {**arrays, name: array})


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("learner0.length", 7, None),
        ("learner0.length", -1, None),
        ("season_place", 7, None),
        ("season_period", 8, 0),
        ("learner0.learning", 2, None),
        ("last_sequence", -1, None),
        ("last_sequence", 2**63 - 1, None),
        ("learner0.applied", -1, None),
        ("settled", -1, 1),
        ("learner0.norm_count", 2**63 - 1, None),
        ("learner0.optimizer_steps", -1, None),
        ("latest_update_result", 6, None),
        ("learner0.beta2", 1e308, None),
        ("learner0.clip_limit", np.nan, None),
        ("coverage_target", 7.0, None),
        ("learner0.learning_rate", 11.0, None),
        ("learner0.learning_rate", np.nan, None),
        ("learner0.rate_factor", 1.5, None),
        ("learner0.rate_factor", 0.0, None),
        ("learner0.rate_factor", np.nan, None),
        ("learner0.span", 3, None),
        ("learner0.strikes", -1, None),
        ("latest_learner_reset", 5, 0),
        ("latest_sensor_state", 4, 0),
        ("interval_count", -1, 0),
        ("timeline", 2, 0),
        ("timeline", -(2**63), 1),
        ("timeline", 2**63 - 1, 2),
        ("timeline", -(2**62), 2),
        ("timeline", -1, 3),
        ("timeline", 16, 4),
        ("timeline", -5, 5),
    ],
)
def test_a_field_that_no_fold_would_write_is_refused(name: str, value: Any, place: int | None) -> None:
    fold = Fold(select_backend("numpy"))
    with pytest.raises(CheckpointError, match=name):
        fold.restore(with_field(name, value, place))


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("learner0.length", 6, None),
        ("season_place", 6, None),
        ("last_sequence", 0, None),
        ("learner0.learning", 0, None),
        ("learner0.learning_rate", 0.5, None),
        ("learner0.rate_factor", 2.0**-20, None),
        ("learner0.strikes", 2**62, None),
        ("season_period", 7, 0),
        ("interval_reach", np.nan, 0),
        ("learner0.params", np.nan, 0),
        ("learner0.carry", np.inf, 0),
        ("season_ring", np.nan, 0),
        ("timeline", 0, 3),
        ("timeline", 2**62, 3),
    ],
)
def test_the_fold_goes_on_from_any_other(name: str, value: Any, place: int | None) -> None:
    fold = Fold(select_backend("numpy"))
    slot = fold.restore(with_field(name, value, place))
    outcomes = fold.step([(slot, Events(np.ones((20, 1)), (30 + np.arange(20)) * DAY_NS))])[0]
    assert len(outcomes) == 20
    assert fold.status(slot).last_sequence == outcomes.last_sequence


@pytest.mark.parametrize("periods", [(1, 0), (1, 2), (2048, 2048), (720, 3), (0, 7)])
def test_a_search_goes_on_from_any_seasons(periods: tuple[int, int]) -> None:
    fold = Fold(select_backend("numpy"))
    slot = fold.create(SessionConfig(("x",), learners=(LearnerConfig(hidden=2),)))
    fold.step([(slot, Events(np.arange(60.0)[:, None]))])
    config, arrays = load(fold.checkpoint(slot))
    slot = fold.restore(dump(config, "a test", {**arrays, "season_period": np.array(periods)}))
    rng = np.random.default_rng(0)
    (made,) = fold.step([(slot, Events(rng.standard_normal((80, 1))))])
    assert np.isfinite(made.mean).all()
