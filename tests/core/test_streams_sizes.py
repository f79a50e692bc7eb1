"""Forecasts and anomalies when a stream's values become far smaller, and after one value that is absurd.

With a small learner, alone and in a portfolio: what is held to figures here is scales, not learning. The stream is the
autoregressive one of `benchmarks/streams.py`.
"""

from __future__ import annotations

from typing import Any

import accuracy
import numpy as np
import pytest
import streams
from folds import FASTEST

from bptt_core import LearnerConfig, Outcomes, SessionConfig

SMALL = LearnerConfig(hidden=4, window=8, learning_rate=0.01)
KINDS: list[dict[str, Any]] = [{"learner": SMALL}, {"learners": (SMALL,)}]


def squares(values: np.ndarray, outcomes: Outcomes) -> np.ndarray:
    """Squared errors [n − 1] of the forecasts one event ahead, by the event they are made at."""
    return (values[1:, 0] - outcomes.mean[:-1, 0, 0]) ** 2


@pytest.mark.parametrize("kind", KINDS)
def test_when_all_becomes_a_thousand_times_smaller_it_is_soon_better_than_persistence_again(
    kind: dict[str, Any],
) -> None:
    """Over events 500 to 1,000 after the change; measured 0.95 to 1.00 × persistence."""
    tables = [streams.autoregressive(seed, 2000) for seed in range(3)]
    for values in tables:
        values[1000:] *= 1e-3
    *_, outcomes = accuracy.forecast(tables, [SessionConfig(("x",), **kind)] * 3, backend=FASTEST)
    for values, served in zip(tables, outcomes, strict=True):
        naive = np.diff(values[:, 0]) ** 2
        assert squares(values, served)[1500:].mean() < 1.05 * naive[1500:].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_absurd_values_leave_a_session_as_good_as_it_was(kind: dict[str, Any]) -> None:
    """From 500 events after them on the error is that of the stream without them, mean of three: measured 1.00 × alone
    and 1.02 × in a portfolio; and 900 events after them a value 20 deviations off is an anomaly. Two in a row, one far
    above and one far below, and ten that grow, are as harmless as one."""
    plain = [streams.autoregressive(seed, 1201) for seed in range(3)]
    for values in plain:
        values[1200] = 20
    absurd = [[], [1e14], [-1e100], [1e14, -1e14], [(-1.0) ** k * 10.0 ** (8 + 3 * k) for k in range(10)]]
    tables = [values.copy() for _ in absurd for values in plain]
    for k, run in enumerate(absurd):
        for values in tables[3 * k : 3 * (k + 1)]:
            values[300 : 300 + len(run), 0] = run
    *_, outcomes = accuracy.forecast(tables, [SessionConfig(("x",), **kind)] * len(tables), backend=FASTEST)
    errors = [squares(values, served)[810:1199].mean() for values, served in zip(tables, outcomes, strict=True)]
    ratio = np.reshape(errors, (len(absurd), 3)) / errors[:3]
    assert ratio.mean(axis=1).max() < 1.05
    assert all(served.anomaly_score[1200] > 1 for served in outcomes)


@pytest.mark.parametrize("size", [1e-192, 1e-100, 1e90])
def test_a_stream_of_any_size_is_forecast(size: float) -> None:
    values = streams.autoregressive(0, 200) * size
    *_, (served,) = accuracy.forecast([values], [SessionConfig(("x",), learners=(SMALL,))])
    assert np.isfinite(served.mean).all()
