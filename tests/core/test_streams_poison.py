"""A learner that is poisoned in a live session does not take the session's forecast with it.

The learner that the session trusts most is broken in a fork, and the fork is held to what the session itself goes on to
forecast. The stream is one that only learners forecast well: naive forecasters cannot stand in.
"""

from __future__ import annotations

from collections.abc import Callable

import accuracy
import numpy as np
import pytest
import streams
from folds import FASTEST

from bptt_core import Fold, Outcomes, ResetReason, SessionConfig, Slot

BEFORE, HELD, AFTER = 1400, 1000, 300  # events


def break_parameters(fold: Fold, slot: Slot, learner: int) -> None:
    name = f"learner{learner}.params"
    fold._store.set(slot, name, np.full_like(fold._store.get(slot, name), np.nan))


def let_it_run_wild(fold: Fold, slot: Slot, learner: int) -> None:
    fold._store.set(slot, f"learner{learner}.learning_rate", 100.0)


@pytest.mark.parametrize("draw", [streams.noisy_chaos, streams.threshold_autoregressive])
def test_a_poisoned_learner_costs_the_session_five_per_cent_at_most(draw: Callable[[int, int], np.ndarray]) -> None:
    values = draw(0, BEFORE + HELD + AFTER)
    usual, poisoned = live_and_poisoned(values, BEFORE, SessionConfig(("x",)))
    error = squares(values[BEFORE:], usual)
    for name, served in poisoned.items():
        own = squares(values[BEFORE:], served)
        assert own[:HELD].mean() <= 1.05 * error[:HELD].mean(), name
        assert own.mean() <= 1.05 * error.mean(), name


def test_nor_does_it_cost_more_with_two_channels_and_three_horizons() -> None:
    """Over half as many events: five per cent together, and ten at none of the six. Learners weigh little so early."""
    values = np.concatenate([streams.noisy_chaos(seed, 1000) for seed in (2, 3)], axis=1)
    usual, poisoned = live_and_poisoned(values, 500, SessionConfig(("x", "y"), horizon=3))
    for name, served in poisoned.items():
        assert np.isfinite(served.mean).all(), name
        ratios = []
        for h in (1, 2, 3):
            own, error = (squares(values[500:], each, h).mean(axis=0) for each in (served, usual))
            assert (own <= 1.1 * error).all(), (name, h)
            ratios.append(own / error)
        assert np.mean(ratios) <= 1.05, name


def live_and_poisoned(values: np.ndarray, before: int, config: SessionConfig) -> tuple[Outcomes, dict[str, Outcomes]]:
    """What a session goes on to forecast after so many events, and what its forks do whose best learner is broken;
    those learners are led back, and nobody else is."""
    fold, (whole,), _ = accuracy.forecast([values[:before]], [config], backend=FASTEST)
    best = max(learners(fold, whole), key=lambda k: fold.status(whole).experts[k].weight)
    forks = {}
    for name, poison in (("parameters", break_parameters), ("rate", let_it_run_wild)):
        forks[name] = fold.fork(whole)
        poison(fold, forks[name], best)
    usual, *outcomes = accuracy.go_on(fold, [whole, *forks.values()], [values[before:]] * 3)
    assert not usual.learner_reset.any()
    for (name, slot), served in zip(forks.items(), outcomes, strict=True):
        told, counts = served.learner_reset[:, best], fold.status(slot).updates
        assert set(told.tolist()) & {ResetReason.NON_FINITE, ResetReason.DIVERGED}, name
        assert counts.reset_non_finite == (told == ResetReason.NON_FINITE).sum(), name
        assert counts.reset_diverged == (told == ResetReason.DIVERGED).sum(), name
        assert not np.delete(served.learner_reset, best, axis=1).any(), name
    return usual, dict(zip(forks, outcomes, strict=True))


def learners(fold: Fold, slot: Slot) -> list[int]:
    """Positions of the learners among the session's experts."""
    return [k for k, expert in enumerate(fold.status(slot).experts) if expert.updates is not None]


def squares(values: np.ndarray, outcomes: Outcomes, horizon: int = 1) -> np.ndarray:
    """Squared errors [n − horizon, O] of the forecasts so many events ahead that were made at these values."""
    errors: np.ndarray = (outcomes.mean[:-horizon, horizon - 1] - values[horizon:]) ** 2
    return errors
