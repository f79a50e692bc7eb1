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
        ("length", 7, None),
        ("length", -1, None),
        ("season_phase", 3, None),
        ("season_stale", 2, 0),
        ("learning", 2, None),
        ("last_sequence", -1, None),
        ("last_sequence", 2**63 - 1, None),
        ("applied", -1, None),
        ("settled", -1, 1),
        ("norm_count", 2**63 - 1, None),
        ("optimizer_steps", -1, None),
        ("latest_update_result", 6, None),
        ("beta2", 1e308, None),
        ("clip_limit", np.nan, None),
        ("coverage_target", 7.0, None),
        ("learning_rate", 11.0, None),
        ("learning_rate", np.nan, None),
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
        ("length", 6, None),
        ("season_phase", 0, None),
        ("last_sequence", 0, None),
        ("learning", 0, None),
        ("learning_rate", 0.5, None),
        ("params", np.nan, 0),
        ("carry", np.inf, 0),
        ("season_values", np.nan, 0),
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
