"""The truncation decides what can be learned: the online add task, P(y(t) = 1) = ½ + ½·x(t − 3) − ¼·x(t − 5).

x is a fair coin, y a second channel of the stream. Forecast with squared error and without an anchor, the best score
is .234 without memory of x, .172 with the first lag and .156 with both. The forecast of y(t) is made at t − 1, which is
the first of the window's steps: the lags are the third and the fifth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bptt_core import Events, Fold, LearnerConfig, SessionConfig, Slot

EVENTS, SCORED = 40_000, 20_000
LAGS = (3, 5)


def add_task(seed: int) -> np.ndarray:
    """[EVENTS, 2]: x and y."""
    rng = np.random.default_rng(seed)
    x = (rng.random(EVENTS + max(LAGS)) < 0.5).astype(float)
    first, second = (x[max(LAGS) - lag :][:EVENTS] for lag in LAGS)
    y = rng.random(EVENTS) < 0.5 + 0.5 * first - 0.25 * second
    return np.stack([x[max(LAGS) :], y], axis=1)


def errors(fold: Fold, window: int, seeds: tuple[int, ...]) -> list[float]:
    """Mean squared error of each stream's last SCORED forecasts, all of them learned side by side with k1 = k2."""
    learner = LearnerConfig(
        cell="lstm", hidden=8, window=window, stride=window, loss_span=window, anchor="none", learning_rate=1e-2
    )
    config = SessionConfig(("x", "y"), targets=("y",), learner=learner)
    streams = [add_task(seed) for seed in seeds]
    slots: list[Slot] = [fold.create(config) for _ in seeds]
    forecasts = []
    for start in range(0, EVENTS, 1000):
        work = [(slot, Events(stream[start : start + 1000])) for slot, stream in zip(slots, streams, strict=True)]
        forecasts.append([outcomes.mean[:, 0, 0] for outcomes in fold.step(work)])
    made = np.concatenate(forecasts, axis=1)[:, -SCORED - 1 : -1]
    return [float(np.mean((m - s[-SCORED:, 1]) ** 2)) for m, s in zip(made, streams, strict=True)]


def test_a_window_that_holds_both_lags_learns_both(new_fold: Callable[[], Fold]) -> None:
    assert max(errors(new_fold(), window=8, seeds=(1, 2))) <= 0.165


def test_a_window_that_holds_the_first_lag_learns_that_one(new_fold: Callable[[], Fold]) -> None:
    (error,) = errors(new_fold(), window=3, seeds=(1,))
    assert 0.168 <= error <= 0.195  # .172 less three standard errors of the score


def test_a_window_that_holds_neither_learns_neither(new_fold: Callable[[], Fold]) -> None:
    assert min(errors(new_fold(), window=2, seeds=(1, 2))) >= 0.20


def test_the_floors_are_those_of_the_task() -> None:
    x, y = add_task(0).T
    first, second = (x[max(LAGS) - lag : len(x) - lag] for lag in LAGS)
    best = np.full_like(first, 0.625), 0.375 + 0.5 * first, 0.5 + 0.5 * first - 0.25 * second
    for forecast, floor in zip(best, (0.234, 0.172, 0.156), strict=True):
        assert abs(((y[max(LAGS) :] - forecast) ** 2).mean() - floor) < 0.003
