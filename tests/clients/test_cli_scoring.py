"""The score is held to the plainest possible loop over the same definition, whatever the batches and gaps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bptt_client.cli.scoring import Scorer, Span, standard_deviations


def by_hand(truth, mean, lower, upper, horizon, season, scale, span, steps):
    """The definition, pair by pair."""
    row_of = {step: row for row, step in enumerate(steps)}
    rows, targets = truth.shape
    pairs = []
    for t in range(rows):
        ahead = [row_of.get(steps[t] + h) for h in range(1, horizon + 1)]
        known = [row for row in ahead if row is not None]
        if not all(span.start <= row < span.stop for row in known) or steps[t] + horizon > steps[-1]:
            continue
        for h in range(1, horizon + 1):
            for o in range(targets):
                seen = [v for v in truth[: t + 1, o] if not math.isnan(v)]
                row = ahead[h - 1]
                value, forecast = math.nan if row is None else truth[row, o], mean[t, h - 1, o]
                if math.isnan(value) or math.isnan(forecast) or not seen:
                    continue
                naive = seen[-1]
                if season:
                    back = steps[t] + h - season * math.ceil(h / season)
                    candidates = [truth[row_of[b], o] for b in (back, back - season) if b in row_of]
                    naive_season = next((c for c in candidates if not math.isnan(c)), seen[-1])
                else:
                    naive_season = math.nan
                low, high = lower[t, h - 1, o], upper[t, h - 1, o]
                s = scale[o]
                pairs.append((h, o, (forecast - value) / s, (naive - value) / s, (naive_season - value) / s,
                              low <= value <= high, (high - low) / s))  # fmt: skip
    return pairs


def means(pairs, season):
    def mean(values):
        values = list(values)
        return sum(values) / len(values) if values else None

    bounded = [p for p in pairs if not math.isnan(p[6])]
    return {
        "mse": mean(p[2] ** 2 for p in pairs),
        "mae": mean(abs(p[2]) for p in pairs),
        "persistence_mse": mean(p[3] ** 2 for p in pairs),
        "persistence_mae": mean(abs(p[3]) for p in pairs),
        "seasonal_mse": mean(p[4] ** 2 for p in pairs) if season else None,
        "coverage": mean(p[5] for p in bounded),
        "width": mean(p[6] for p in bounded),
    }


@pytest.mark.parametrize(("horizon", "season"), [(1, None), (3, 4), (5, 2), (4, 4)])
@pytest.mark.parametrize("batch", [1, 7, 60])
@pytest.mark.parametrize("gaps", [False, True])
def test_scores_are_those_of_the_definition(horizon, season, batch, gaps):
    random = np.random.default_rng(horizon)
    steps = np.cumsum(random.choice([1, 2, 3, 9, 40], 60, p=[0.7, 0.1, 0.1, 0.05, 0.05])) if gaps else np.arange(60)
    truth = random.standard_normal((60, 2)).cumsum(0)
    truth[random.random(truth.shape) < 0.15] = np.nan
    truth[:3, 1] = np.nan
    mean = random.standard_normal((60, horizon, 2))
    mean[:2] = np.nan
    lower, upper = mean - 1.5, mean + 1.5
    lower[:10] = upper[:10] = np.nan
    scale, span = np.array([2.0, 0.5]), Span(8, 55)
    scorer = Scorer(truth, horizon, season, scale, span, steps if gaps else None)
    for start in range(0, 60, batch):
        part = slice(start, start + batch)
        scorer.add(start, mean[part], lower[part], upper[part])
    pairs = by_hand(truth, mean, lower, upper, horizon, season, scale, span, steps.tolist())
    assert scorer.overall() == pytest.approx(means(pairs, season))
    for o in range(2):
        assert scorer.by_target(o) == pytest.approx(means([p for p in pairs if p[1] == o], season))
    for h in range(1, horizon + 1):
        assert scorer.by_horizon(h) == pytest.approx(means([p for p in pairs if p[0] == h], season))
        assert scorer.of(1, h) == pytest.approx(means([p for p in pairs if p[:2] == (h, 1)], season))
    assert 0 < scorer.scored <= 55 - 8 + 1 - horizon + 1


def test_the_span_counts_a_forecast_only_if_all_its_rows_lie_in_it():
    truth = np.arange(10.0)[:, None]
    forecasts = np.zeros((10, 2, 1))
    for start, stop, expected in [(0, 10, 8), (1, 10, 8), (2, 10, 7), (3, 5, 1), (3, 4, 0), (0, 99, 8)]:
        scorer = Scorer(truth, 2, None, np.ones(1), Span(start, stop))
        scorer.add(0, forecasts, forecasts, forecasts)
        assert scorer.scored == expected, (start, stop)


def test_nothing_scored_is_null_not_zero():
    scorer = Scorer(np.full((5, 1), np.nan), 1, None, np.ones(1), Span(0, 5))
    scorer.add(0, *np.zeros((3, 5, 1, 1)))
    assert set(scorer.overall().values()) == {None}
    assert math.isnan(scorer.running("model", 4, 100))


def test_deviations_are_of_the_population_and_never_zero():
    truth = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan], [99.0, 7.0, 1.0]])
    assert standard_deviations(truth, 3).tolist() == [1.0, 1.0, 1.0]
    assert standard_deviations(truth[:, :1] * 4, 2).tolist() == [4.0]
    assert standard_deviations(truth, None).tolist() == [1.0, 1.0, 1.0]
