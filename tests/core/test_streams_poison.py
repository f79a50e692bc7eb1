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

from bptt_core import Fold, Outcomes, ResetReason, SessionConfig, Slot

BEFORE, HELD, AFTER = 1400, 1000, 300  # events


def break_parameters(fold: Fold, slot: Slot, learner: int) -> None:
    name = f"learner{learner}.params"
    fold._set(slot, name, np.full_like(fold._get(slot, name), np.nan))


def let_it_run_wild(fold: Fold, slot: Slot, learner: int) -> None:
    fold._set(slot, f"learner{learner}.learning_rate", 100.0)


@pytest.mark.parametrize("draw", [streams.noisy_chaos, streams.threshold_autoregressive])
def test_a_poisoned_learner_costs_the_session_five_per_cent_at_most(draw: Callable[[int, int], np.ndarray]) -> None:
    values = draw(0, BEFORE + HELD + AFTER)
    fold, (whole,), _ = accuracy.forecast([values[:BEFORE]], [SessionConfig(("x",))])
    best = max(learners(fold, whole), key=lambda k: fold.status(whole).experts[k].weight)
    slots = [whole]
    for poison in (break_parameters, let_it_run_wild):
        slots.append(fold.fork(whole))
        poison(fold, slots[-1], best)
    usual, *outcomes = accuracy.go_on(fold, slots, [values[BEFORE:]] * 3)
    assert not usual.learner_reset.any()
    error = squares(values, usual)
    for name, slot, served in zip(("parameters", "rate"), slots[1:], outcomes, strict=True):
        told, counts = served.learner_reset[:, best], fold.status(slot).updates
        assert set(told.tolist()) & {ResetReason.NON_FINITE, ResetReason.DIVERGED}, name
        assert counts.reset_non_finite == (told == ResetReason.NON_FINITE).sum(), name
        assert counts.reset_diverged == (told == ResetReason.DIVERGED).sum(), name
        assert not np.delete(served.learner_reset, best, axis=1).any(), name
        own = squares(values, served)
        assert own[:HELD].mean() <= 1.05 * error[:HELD].mean(), name
        assert own.mean() <= 1.05 * error.mean(), name


def learners(fold: Fold, slot: Slot) -> list[int]:
    """Positions of the learners among the session's experts."""
    return [k for k, expert in enumerate(fold.status(slot).experts) if expert.updates is not None]


def squares(values: np.ndarray, outcomes: Outcomes) -> np.ndarray:
    """Squared errors of the forecasts one event ahead that were made since."""
    errors: np.ndarray = (outcomes.mean[:-1, 0, 0] - values[BEFORE + 1 :, 0]) ** 2
    return errors
