"""The score is held to the plainest possible loop over the same definition, whatever the batches and gaps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bptt_client.cli.running import known_labels
from bptt_client.cli.scoring import NumberScorer, Span, standard_deviations
from bptt_client.cli.symbol_scoring import SymbolScorer

COVERAGE = 0.8


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
                cost = 2 / (1 - COVERAGE) * (max(low - value, 0) + max(value - high, 0))
                pairs.append((h, o, (forecast - value) / s, (naive - value) / s, (naive_season - value) / s,
                              low <= value <= high, (high - low) / s, (high - low + cost) / s))  # fmt: skip
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
        "interval_score": mean(p[7] for p in bounded),
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
    mean[:2] = mean[20, :, 0] = np.nan
    lower, upper = mean - 1.5, mean + 1.5
    lower[:10] = upper[:10] = np.nan
    scale, span = np.array([2.0, 0.5]), Span(8, 55)
    scorer = NumberScorer(truth, horizon, COVERAGE, scale, span, steps if gaps else None)
    for start in range(0, 60, batch):
        part = slice(start, start + batch)
        scorer.add(start, mean[part], lower[part], upper[part])
    if season:
        scorer.compare_with_season(season)
    pairs = by_hand(truth, mean, lower, upper, horizon, season, scale, span, steps.tolist())
    assert scorer.overall() == pytest.approx(means(pairs, season))
    for o in range(2):
        assert scorer.by_target(o) == pytest.approx(means([p for p in pairs if p[1] == o], season))
    for h in range(1, horizon + 1):
        assert scorer.by_horizon(h) == pytest.approx(means([p for p in pairs if p[0] == h], season))
        assert scorer.of(1, h) == pytest.approx(means([p for p in pairs if p[:2] == (h, 1)], season))
    assert 0 < scorer.scored <= 55 - 8 + 1 - horizon + 1
    every = scorer.loss[~np.isnan(scorer.loss).all(1)]
    assert len(every) == scorer.scored
    if not np.isnan(truth).any():
        assert np.nanmean(every) == pytest.approx(scorer.overall()["mse"])


def test_the_span_counts_a_forecast_only_if_all_its_rows_lie_in_it():
    truth = np.arange(10.0)[:, None]
    forecasts = np.zeros((10, 2, 1))
    for start, stop, expected in [(0, 10, 8), (1, 10, 8), (2, 10, 7), (3, 5, 1), (3, 4, 0), (0, 99, 8)]:
        scorer = NumberScorer(truth, 2, COVERAGE, np.ones(1), Span(start, stop))
        scorer.add(0, forecasts, forecasts, forecasts)
        assert scorer.scored == expected, (start, stop)


def test_nothing_scored_is_null_not_zero():
    scorer = NumberScorer(np.full((5, 1), np.nan), 1, COVERAGE, np.ones(1), Span(0, 5))
    scorer.add(0, *np.zeros((3, 5, 1, 1)))
    scorer.compare_with_season(2)
    assert set(scorer.overall().values()) == {None}
    assert math.isnan(scorer.running("model", 4, 100))


def test_deviations_are_of_the_population_and_never_zero():
    truth = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan], [99.0, 7.0, 1.0]])
    assert standard_deviations(truth, 3).tolist() == [1.0, 1.0, 1.0]
    assert standard_deviations(truth[:, :1] * 4, 2).tolist() == [4.0]
    assert standard_deviations(truth, None).tolist() == [1.0, 1.0, 1.0]


# Labels and symbols.


@pytest.mark.parametrize(("delay", "batch"), [(0, 7), (1, 1), (3, 1), (2, 5)])
def test_a_label_is_compared_with_the_last_one_known_when_it_was_predicted(delay, batch):
    random = np.random.default_rng(3)
    truth = random.standard_normal((40, 1))
    truth[random.random(40) < 0.3] = np.nan
    start, known, expected = 6, None, {}
    for first in range(start, 40, batch):
        for row in range(first, min(first + batch, 40)):
            if delay == 0:  # labels come with their events, whatever the batches
                seen = truth[:row]
            else:
                seen = truth[: max(0, first - delay)]
            seen = seen[~np.isnan(seen)]
            if len(seen) and not math.isnan(truth[row, 0]):
                expected[row] = (seen[-1] - truth[row, 0]) ** 2
    known = known_labels(40, start, batch, delay)
    scorer = NumberScorer(truth, 1, COVERAGE, np.ones(1), Span(0, 40), known=known)
    forecasts = random.standard_normal((34, 1, 1))
    for row in range(start, 40):
        scorer.add(row, *[forecasts[row - start : row - start + 1]] * 3)
    got = scorer.by_row["persistence"]
    assert {row: got[row] for row in np.flatnonzero(~np.isnan(got))} == pytest.approx(expected)
    assert scorer.scored == len(expected)
    model = [(forecasts[row - start, 0, 0] - truth[row, 0]) ** 2 for row in expected]
    assert scorer.overall()["mse"] == pytest.approx(sum(model) / len(model))
    narrow = NumberScorer(truth, 1, COVERAGE, np.ones(1), Span(10, 20), known=known)
    narrow.add(start, *[forecasts] * 3)
    assert narrow.scored == len([row for row in expected if 10 <= row < 20])


@pytest.mark.parametrize(("horizon", "labelled"), [(1, False), (3, False), (1, True)])
@pytest.mark.parametrize("batch", [1, 9, 50])
def test_symbols_are_scored_by_the_definition(horizon, labelled, batch):
    random = np.random.default_rng(horizon)
    truth = random.choice([0.0, 1.0, 2.0, np.nan], (50, 1), p=[0.5, 0.2, 0.2, 0.1])
    probabilities = random.dirichlet(np.ones(3), (50, horizon, 1))
    mean = probabilities.argmax(-1).astype(float)
    ahead = 0 if labelled else 1
    known = np.arange(50) - 1 if labelled else None
    scorer = SymbolScorer(truth, horizon, 3, Span(0, 50), known=known)
    for first in range(0, 50, batch):
        part = slice(first, first + batch)
        scorer.add(first, mean[part], mean[part] * np.nan, mean[part] * np.nan, probabilities[part])
    sums = []
    for t in range(50 - horizon + 1 - ahead):
        seen = [v for v in truth[: t + ahead, 0] if not math.isnan(v)]
        naive = [(seen.count(symbol) + 0.5) / (len(seen) + 1.5) for symbol in range(3)]
        for h in range(horizon):
            came = truth[t + h + ahead, 0]
            if not math.isnan(came):
                made = probabilities[t, h, 0].tolist()
                sums.append((h, -math.log(made[int(came)]), -math.log(naive[int(came)]),
                             made.index(max(made)) != came, naive.index(max(naive)) != came))  # fmt: skip
    for h in range(horizon):
        of = [values for at, *values in sums if at == h]
        assert list(scorer.by_horizon(h + 1).values()) == pytest.approx(np.mean(of, axis=0).tolist())
    assert list(scorer.overall()) == ["log_loss", "naive_log_loss", "error_rate", "naive_error_rate"]


def test_probabilities_of_one_are_scored_by_the_definition():
    truth = np.array([[1.0, 0.0], [0.0, np.nan], [1.0, 0.25], [1.0, 1.0]])
    mean = np.array([[0.5, 0.5], [0.2, 0.9], [0.6, 0.3], [0.25, 0.75]])[:, None, :]
    scorer = SymbolScorer(truth, 1, 0, Span(0, 4), known=np.arange(4) - 1)
    scorer.add(0, mean, mean, mean)
    losses, naive, wrong, seen = [], [], [], {0: [], 1: []}
    for row in range(4):
        for o in range(2):
            t, p = truth[row, o], mean[row, 0, o]
            if not math.isnan(t):
                q = (sum(seen[o]) + 0.5) / (len(seen[o]) + 1)
                losses.append(-t * math.log(p) - (1 - t) * math.log(1 - p))
                naive.append(-t * math.log(q) - (1 - t) * math.log(1 - q))
                wrong.append((p > 0.5) != (t > 0.5))
                seen[o].append(t)
    got = scorer.overall()
    assert got["log_loss"] == pytest.approx(np.mean(losses))
    assert got["naive_log_loss"] == pytest.approx(np.mean(naive))
    assert got["error_rate"] == pytest.approx(np.mean(wrong))
    certain = SymbolScorer(np.ones((1, 1)), 1, 0, Span(0, 1), known=np.array([-1]))
    certain.add(0, *[np.zeros((1, 1, 1))] * 3)
    assert 700 < certain.overall()["log_loss"] < 1000  # very wrong is a number, not infinity
