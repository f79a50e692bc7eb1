"""Probabilities are those of the outputs, scored against the symbols that came and the frequencies known before."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bptt_core import running, symbols
from bptt_core.scales import Scaled
from bptt_core.serving import Served
from bptt_core.slab import Rows, Slab
from bptt_core.symbols import SymbolShape

EVENT, STEP = np.array([True]), np.array([False])


def softmax_shape(count: int, horizon: int = 1, labels: bool = False, slots: int = 8) -> SymbolShape:
    return SymbolShape(horizon, 1, int(not labels), slots if labels else horizon, count)


def sigmoid_shape(targets: int, horizon: int = 1, labels: bool = False, slots: int = 8) -> SymbolShape:
    return SymbolShape(horizon, targets, int(not labels), slots if labels else horizon, 0)


def new_rows(shape: SymbolShape, sessions: int = 1) -> Rows:
    slab = Slab(np, symbols.fields(shape))
    return slab.take(np.array([slab.allocate() for _ in range(sessions)]))


def step(shape: SymbolShape, rows: Rows, observed: Any, ys: Any, event: Any = EVENT) -> Served:
    came = np.asarray(observed, float).reshape(len(event), shape.targets)
    pairs = np.ones((len(event), shape.horizon, 1, shape.targets))
    nothing, zero = np.empty((len(event), 0)), np.zeros_like(pairs)
    scaled = Scaled(nothing, came, pairs, pairs, zero, pairs, came, came, came, None, nothing)
    with np.errstate(all="ignore"):
        return symbols.step(shape, rows, scaled, np.asarray(ys, float).reshape(len(event), 1, -1), event)


def late(shape: SymbolShape, rows: Rows, events: list[int], observed: Any) -> None:
    with np.errstate(all="ignore"):
        symbols.late(shape, rows, np.array(events) % shape.slots, np.asarray(observed, float))


def scores_of(shape: SymbolShape, rows: Rows) -> dict[str, Any]:
    scores = symbols.read_scores(shape, {name: row[0] for name, row in rows.items()})
    return {name: getattr(scores, name) for name in ("log_loss", "naive_log_loss", "error_rate", "naive_error_rate")}


def frequencies(came: Any, count: int) -> np.ndarray:
    """Krichevsky and Trofimov's estimate from codes, or of the probability of 1 (count 0)."""
    if count:
        return (np.bincount(np.asarray(came, int), minlength=count) + 0.5) / (len(came) + count / 2)
    return np.array([(np.sum(came) + 0.5) / (len(came) + 1)])


def test_softmax() -> None:
    shape = softmax_shape(5, horizon=2)
    ys = np.random.default_rng(0).standard_normal((2, 5)) * 3
    served = step(shape, new_rows(shape), np.nan, ys)
    expected = np.exp(ys) / np.exp(ys).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(served.distribution[0, :, 0], expected, rtol=1e-12)
    assert served.mean[0, :, 0].tolist() == ys.argmax(axis=1).tolist()
    assert np.isnan(served.lower).all()
    assert np.isnan(served.upper).all()


def test_sigmoid() -> None:
    shape = sigmoid_shape(3, horizon=2)
    ys = np.random.default_rng(1).standard_normal((2, 3)) * 3
    served = step(shape, new_rows(shape), [np.nan] * 3, ys)
    np.testing.assert_allclose(served.mean[0], 1 / (1 + np.exp(-ys)), rtol=1e-12)
    assert served.distribution.shape == (1, 2, 3, 0)


def test_outputs_of_any_size_are_probabilities_with_a_finite_loss() -> None:
    big = float(np.finfo(np.float32).max)
    shape = softmax_shape(3)
    for ys in ([big, -big, 0], [-big, -big, -big], [1000.0, 999.0, 0.0]):
        rows = new_rows(shape)
        probabilities = step(shape, rows, np.nan, ys).distribution
        np.testing.assert_allclose(probabilities.sum(), 1)
        step(shape, rows, 1.0, ys)
        assert all(np.isfinite(score).all() for score in scores_of(shape, rows).values())
    shape = sigmoid_shape(1)
    for y, came, loss in ((big, 0.0, big), (big, 1.0, 0.0), (-big, 1.0, big), (-800.0, 0.0, 0.0)):
        rows = new_rows(shape)
        assert 0 <= step(shape, rows, np.nan, [y]).mean.item() <= 1
        step(shape, rows, came, [y])
        np.testing.assert_allclose(scores_of(shape, rows)["log_loss"], loss)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_frequencies_stand_for_a_pair_with_a_broken_output(broken: float) -> None:
    shape = softmax_shape(3, horizon=2)
    rows = new_rows(shape)
    for code in (0, 2, 2, 2):
        step(shape, rows, code, np.zeros(6))
    served = step(shape, rows, np.nan, [0, broken, 0, 1, 1, 1])
    np.testing.assert_allclose(served.distribution[0, 0, 0], frequencies([0, 2, 2, 2], 3))
    np.testing.assert_allclose(served.distribution[0, 1, 0], np.full(3, 1 / 3))
    assert served.mean[0, 0, 0] == 2
    shape = sigmoid_shape(2)
    rows = new_rows(shape)
    step(shape, rows, [1.0, 0.0], [0.0, 0.0])
    np.testing.assert_allclose(step(shape, rows, [np.nan] * 2, [0.0, broken]).mean, [[[0.5, 0.25]]])


def brute_force(pairs: list[tuple[Any, Any, float]]) -> dict[str, float]:
    """Scores over pairs (served probabilities, frequencies known then, what came)."""
    rows = []
    for model, naive, came in pairs:
        row = []
        for p in (model, naive):
            if len(p) > 1:
                row += [-math.log(p[int(came)]), float(np.argmax(p) != came)]
            else:
                row += [-came * math.log(p[0]) - (1 - came) * math.log(1 - p[0]), float((p[0] > 0.5) != (came > 0.5))]
        rows.append(row)
    log_loss, error_rate, naive_log_loss, naive_error_rate = np.mean(rows, axis=0)
    return {
        "count": len(rows), "log_loss": log_loss, "error_rate": error_rate,
        "naive_log_loss": naive_log_loss, "naive_error_rate": naive_error_rate,
    }  # fmt: skip


def check(scores: Any, expected: dict[str, float], h: int, o: int) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(scores, name)[h, o], value, rtol=1e-9, err_msg=name)


def test_a_network_that_says_one_half_is_not_always_right() -> None:
    """So does every one before its first update: of two symbols as probable as each other the first is the guess."""
    for shape, ys in ((sigmoid_shape(1), [0.0]), (softmax_shape(2), [0.0, 0.0])):
        rows = new_rows(shape)
        for came in (0.0, 0.0, 1.0, 0.0, 1.0):
            step(shape, rows, came, ys)
        assert scores_of(shape, rows)["error_rate"].item() == 0.5, "one pair of the four came out 0 and the other 1"


@pytest.mark.parametrize("count", [4, 0])
def test_scores_are_those_of_the_served_forecasts(count: int) -> None:
    """With missing symbols, missing steps (forecasts for nobody) and breaks (over which nothing is waited for)."""
    n, horizon, targets = 200, 3, 1 if count else 2
    shape = softmax_shape(count, horizon) if count else sigmoid_shape(targets, horizon)
    rng = np.random.default_rng(2)
    came = rng.choice(4, (n, targets), p=[0.5, 0.3, 0.15, 0.05]).astype(float)
    if not count:
        came /= 3  # values between 0 and 1, too
    event, broke = rng.random(n) < 0.9, rng.random(n) < 0.03
    came[~event | (rng.random(n) < 0.1)] = np.nan
    rows, served, naive = new_rows(shape), [], []
    for t in range(n):
        symbols.clear(shape, rows, broke[t : t + 1])
        ys = rng.standard_normal((horizon, targets, max(count, 1)))
        out = step(shape, rows, came[t], ys, event[t : t + 1])
        served.append(out.distribution[0] if count else out.mean[0][..., None])
        seen = [c[~np.isnan(c)] for c in came[: t + 1].T]
        naive.append([frequencies(s, count) for s in seen])
    scores = symbols.read_scores(shape, {name: row[0] for name, row in rows.items()})
    for h in range(horizon):
        for o in range(targets):
            pairs = [
                (served[t - h - 1][h, o], naive[t - h - 1][o], came[t, o])
                for t in range(h + 1, n)
                if not np.isnan(came[t, o]) and event[t - h - 1] and not broke[t - h : t + 1].any()
            ]
            assert len(pairs) > 100
            check(scores, brute_force(pairs), h, o)


@pytest.mark.parametrize("count", [4, 0])
def test_a_label_meets_what_was_predicted_at_its_event(count: int) -> None:
    """Labels with the event or up to seven events late, over missing steps and breaks."""
    n, targets = 200, 1 if count else 2
    shape = softmax_shape(count, labels=True) if count else sigmoid_shape(targets, labels=True)
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4 if count else 2, (n, targets)).astype(float)
    delay = np.where(rng.random((n, targets)) < 0.3, 0, 3 + 2 * np.arange(targets))  # the second label five late
    rows, kept = new_rows(shape), []
    known: list[list[float]] = [[] for _ in range(targets)]
    pairs: list[list[Any]] = [[] for _ in range(targets)]

    def take(event: int, o: int) -> None:
        pairs[o].append((*(part[o] for part in kept[event]), labels[event, o]))
        known[o].append(labels[event, o])

    for t in range(n):
        if rng.random() < 0.1:
            step(shape, rows, [np.nan] * targets, np.zeros((targets, max(count, 1))), STEP)
            symbols.clear(shape, rows, np.array([True]))
        own = np.where(delay[t] == 0, labels[t], np.nan)
        before = [frequencies(came, count) for came in known]
        out = step(shape, rows, own, rng.standard_normal((targets, max(count, 1))))
        kept.append((out.distribution[0, 0] if count else out.mean[0, 0][:, None], before))
        for o in np.flatnonzero(delay[t] == 0):
            take(t, o)
        events = list(range(max(0, t - 7), t + 1))
        due = np.array([delay[event] == t - event for event in events]) & (delay[events] > 0)
        late(shape, rows, events, np.where(due, labels[events], np.nan))
        for row, o in np.argwhere(due):
            take(events[row], o)
    scores = symbols.read_scores(shape, {name: row[0] for name, row in rows.items()})
    for o in range(targets):
        assert len(pairs[o]) > 180
        check(scores, brute_force(pairs[o]), 0, o)


def test_the_anomaly_score_is_surprise_over_the_usual_surprise() -> None:
    """One step ahead."""
    shape, n = softmax_shape(3, horizon=2), 300
    rng = np.random.default_rng(4)
    codes, ys = rng.integers(0, 3, n), rng.standard_normal((n, 2, 3))
    rows, squares = new_rows(shape), []
    for t in range(n):
        score = step(shape, rows, codes[t], ys[t]).anomaly_score.item()
        if t > 0:
            p = np.exp(ys[t - 1, 0]) / np.exp(ys[t - 1, 0]).sum()
            surprise = -np.log(p[codes[t]])
            if len(squares) < 32:
                assert score == 0
            elif len(squares) < 256:  # before the usual surprise begins to fade
                np.testing.assert_allclose(score, surprise / (4 * np.sqrt(np.mean(squares))), rtol=1e-9)
            cap = 25 * np.mean(squares) if len(squares) >= 8 else np.inf
            squares.append(min(surprise**2, cap))
    assert step(shape, rows, np.nan, ys[0]).anomaly_score.item() == 0


def test_what_was_expected_is_never_an_anomaly() -> None:
    """However sure the forecasts were before: a symbol at least as probable as not scores at most 1."""
    shape = softmax_shape(2)
    rows = new_rows(shape)
    for _ in range(200):
        step(shape, rows, 0, [20.0, 0.0])
    step(shape, rows, 0, [0.01, 0.0])
    assert 0.9 < step(shape, rows, 0, [20.0, 0.0]).anomaly_score.item() < 1
    assert step(shape, rows, 1, [20.0, 0.0]).anomaly_score.item() > 20


def test_the_most_surprising_target_counts() -> None:
    shape = sigmoid_shape(3, labels=True)
    rows = new_rows(shape)
    for _ in range(40):
        step(shape, rows, [1, 1, 0], [1.0, 1.0, -1.0])
    usual = 4 * math.log(1 + math.exp(-1))
    for label, surprise in (([1, 0, 0], 1 + math.log(1 + math.exp(-1))), ([1, np.nan, 0], usual / 4)):
        served = step(shape, rows, label, [1.0, 1.0, -1.0])
        np.testing.assert_allclose(served.anomaly_score.item(), surprise / usual, rtol=1e-9)
        assert served.anomaly_score.item() == served.target_anomaly_score.max()


def test_frequencies_and_scores_fade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbols, "FREQUENCY_MEMORY", 50)
    monkeypatch.setattr(symbols, "SCORE_MEMORY", 50)
    shape = softmax_shape(2)
    rows = new_rows(shape)
    for code in [0] * 1000 + [1] * 400:
        step(shape, rows, code, [0.0, 0.0])
    served = step(shape, rows, np.nan, [np.nan, np.nan])
    np.testing.assert_allclose(served.distribution.ravel(), [0.5 / 51, 50.5 / 51], rtol=0.05)
    scores = scores_of(shape, rows)
    assert scores["naive_error_rate"].item() < 0.01
    np.testing.assert_allclose(scores["log_loss"], math.log(2))
    assert running.SCORE_MEMORY == 10_000


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("count", [27, 0])
def test_a_session_does_not_see_its_neighbours(count: int, labels: bool) -> None:
    horizon, targets = 1 if labels else 3, 1 if count else 2
    if count:
        shape = softmax_shape(count, horizon, labels)
    else:
        shape = sigmoid_shape(targets, horizon, labels)
    rng = np.random.default_rng(5)
    together, alone = new_rows(shape, 3), new_rows(shape)
    for _ in range(60):
        came = rng.integers(0, max(count, 2), (3, targets)).astype(float)
        came[rng.random((3, targets)) < 0.2] = np.nan
        event, broke = rng.random(3) < 0.9, rng.random(3) < 0.05
        ys = rng.standard_normal((3, horizon * targets * max(count, 1))) * [[1], [4], [np.inf]]
        for rows, here in ((together, slice(0, 3)), (alone, slice(1, 2))):
            symbols.clear(shape, rows, broke[here])
            served = step(shape, rows, came[here], ys[here], event[here])
            if rows is together:
                expected = served
        for name, value in served._asdict().items():
            assert getattr(expected, name)[1:2].tobytes() == value.tobytes(), name
    for name, row in alone.items():
        assert together[name][1:2].tobytes() == row.tobytes(), name


def test_late_labels_in_one_call_are_late_labels_in_several() -> None:
    shape = softmax_shape(3, labels=True, slots=60)
    rng = np.random.default_rng(6)
    codes, ys = rng.integers(0, 3, (60, 1)), rng.standard_normal((60, 3))
    bits = []
    for cuts in ([60], [1, 2, 60], list(range(1, 61))):
        rows, start = new_rows(shape), 0
        for y in ys:
            step(shape, rows, np.nan, y)
        for stop in cuts:
            late(shape, rows, list(range(start, stop)), codes[start:stop])
            start = stop
        bits.append([rows[name].tobytes() for name in sorted(rows)])
    assert bits[0] == bits[1] == bits[2]
