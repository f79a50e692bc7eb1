"""The verdict of a duel: the test's numbers by an independent computation, and how often it errs on streams whose truth
is known.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from bptt_client.cli.verdict import FEWEST_STEPS, judge


def by_hand(differences, horizon):
    """Diebold and Mariano's statistic with Bartlett's weights as one quadratic form."""
    n = len(differences)
    lags = max(2 * horizon - 2, int(1.3 * n**0.5))
    mean = sum(differences) / n
    variance = 0.0
    for i in range(n):
        for j in range(max(0, i - lags), min(n, i + lags + 1)):
            weight = 1 - abs(i - j) / (lags + 1)
            variance += weight * (differences[i] - mean) * (differences[j] - mean)
    return mean / math.sqrt(variance / n / n), lags


@pytest.mark.parametrize(("horizon", "n"), [(1, 60), (1, 400), (24, 400), (7, 150)])
@pytest.mark.parametrize("shift", [0.0, 0.15, -0.4])
def test_the_statistic_is_that_of_an_independent_computation(horizon, n, shift):
    random = np.random.default_rng(horizon)
    differences = random.standard_normal(n).cumsum() * 0.01 + random.standard_normal(n) + shift
    found = judge(differences, horizon)
    statistic, lags = by_hand(differences.tolist(), horizon)
    assert found.statistic == pytest.approx(statistic, rel=1e-9)
    assert (found.steps, found.lags, found.difference) == (n, lags, pytest.approx(differences.mean()))
    assert found.better == (0 if found.p_value >= 0.05 else math.copysign(1, statistic))
    assert found.p_value > 2 * (1 - NormalDist().cdf(abs(statistic)))  # the spread is estimated, which has its price


def moving_sums(random, n, width, count):
    """Differences of losses of `width` steps ahead as they come: each shares all but one of its parts with the next."""
    parts = random.standard_normal((count, n + width - 1))
    return np.lib.stride_tricks.sliding_window_view(parts, width, axis=1).mean(-1)


@pytest.mark.parametrize("horizon", [1, 12])
def test_equals_are_called_unequal_as_rarely_as_is_said_however_their_losses_overlap(horizon):
    random = np.random.default_rng(7)
    wrong = [judge(row, horizon).better != 0 for row in moving_sums(random, 1500, horizon, 600)]
    assert 0.03 < np.mean(wrong) < 0.07


def test_a_test_that_takes_overlapping_losses_for_independent_would_fail():
    random = np.random.default_rng(7)
    rows = moving_sums(random, 1500, 12, 200)
    naive = abs(rows.mean(1)) / (rows.std(1) / math.sqrt(1500)) > 1.96
    assert naive.mean() > 0.3


def test_the_better_one_wins_whichever_it_is():
    rows = moving_sums(np.random.default_rng(3), 2000, 4, 50)
    assert np.mean([judge(row + 0.12, 4).better == 1 for row in rows]) > 0.9
    assert np.mean([judge(row - 0.12, 4).better == -1 for row in rows]) > 0.9


def test_few_steps_and_equal_losses_have_no_winner():
    few = judge(np.ones(FEWEST_STEPS - 1), 1)
    assert (few.better, math.isnan(few.p_value), few.steps) == (0, True, FEWEST_STEPS - 1)
    assert math.isnan(judge(np.ones(100) + np.arange(100) % 2, 20).p_value)
    assert math.isnan(judge(np.empty(0), 1).difference)
    same = judge(np.zeros(500), 1)
    assert (same.better, same.statistic, same.p_value) == (0, 0.0, 1.0)
    always = judge(np.full(500, 0.25), 1)
    assert (always.better, always.statistic, always.p_value) == (1, math.inf, 0.0)
