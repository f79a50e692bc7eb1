"""Portfolios keep the promise on bits: batches, neighbours, checkpoints and what comes later change none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bptt_core import Backend, Categorical, Events, Fold, LearnerConfig, Outcomes, SessionConfig, Slot

N = 136
HOUR = 3_600_000_000_000
LSTM = LearnerConfig(hidden=4, window=8, loss_span=4, learning_rate=0.01)
GRU = LearnerConfig(cell="gru", hidden=3, window=6, stride=2, anchor="season", learning_rate=0.01, seed=1)
ROOMY = SessionConfig(("x", "y", "z"), targets=("z", "x"))

KINDS: dict[str, SessionConfig] = {
    "two shapes, given seasons": replace(ROOMY, horizon=3, seasons=(5, 7), learners=(LSTM, GRU)),
    "spans differ, found seasons": replace(
        ROOMY,
        learners=tuple(
            replace(LSTM, hidden=5, loss_span=span, anchor=anchor)
            for span, anchor in ((1, "last_value"), (8, "season"), (3, "second_season"))
        ),
    ),
    "shapes mixed, a wild one, symbols": SessionConfig(
        ("x", "y", "s"),
        horizon=3,
        categories=(Categorical("s", tuple("abcdefgh")),),
        learners=(LSTM, replace(GRU, anchor="none", loss="huber"), replace(LSTM, loss_span=8, learning_rate=9.0)),
    ),
    "one learner of many, no seasons": replace(ROOMY, seasonality="off", learners=(replace(LSTM, optimizer="sgd"),)),
    "a single learner by season": replace(
        ROOMY, horizon=3, seasons=(5,), seasonality="given", learner=replace(LSTM, anchor="season")
    ),
}
EACH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def fold_backend(each_backend: Backend) -> Backend:
    return each_backend


def stream_of(config: SessionConfig, seed: int, timed: bool = True) -> Events:
    """A season of eight in noise, walks and missing values, with gaps in time, a few of them long, and new episodes."""
    rng, t = np.random.default_rng(seed), np.arange(N)
    noise = rng.standard_normal((N, 3))
    values = 4 * np.sin(2 * np.pi * t / 8)[:, None] + noise * 0.5
    values[:, 1] = noise[:, 1].cumsum()
    values[rng.random(values.shape) < 0.05] = np.nan
    if config.categories:
        values[:, 2] = t % 8
    times = None
    if timed:
        gaps = np.where(t > 80, rng.choice([1, 1, 1, 2, 5, 400], N), 1)
        times = HOUR * gaps.cumsum()
    return Events(values, times, None, (rng.random(N) < 0.1) & (t > 80))


def feed(fold: Fold, slot: Slot, events: Events, batch: int) -> Outcomes:
    parts = [fold.step([(slot, events.rows(at, at + batch))])[0] for at in range(0, len(events), batch)]
    return Outcomes.joined(parts)


@EACH
def test_batches_do_not_matter(kind: str, new_fold: Callable[[], Fold], outcome_bits: Any) -> None:
    events, results = stream_of(KINDS[kind], 1), []
    for batch in (1, N, 7):
        fold = new_fold()
        slot = fold.create(KINDS[kind])
        results.append((outcome_bits(feed(fold, slot, events, batch)), fold.checkpoint(slot)))
        status = fold.status(slot)
    assert results[0] == results[1] == results[2]
    assert status.updates.applied > 100
    if KINDS[kind].seasons == () and KINDS[kind].seasonality is None:
        assert 8 in status.seasons, "or a found season was not put to the test"


@EACH
def test_neighbours_do_not_matter(kind: str, new_fold: Callable[[], Fold], outcome_bits: Any) -> None:
    """Of the same shape and of another, in learners' slots that others have left, beside silence and huge values."""
    config, events = KINDS[kind], stream_of(KINDS[kind], 2)
    alone = new_fold()
    slot = alone.create(config)
    expected = outcome_bits(feed(alone, slot, events, 32)), alone.checkpoint(slot)
    fold = new_fold()
    others = [fold.create(config) for _ in range(3)]
    fold.delete(others.pop(1))
    others.append(fold.create(replace(config, features=("p", "q", "r"), targets=(), horizon=2, categories=())))
    slot = fold.create(config)
    others.append(fold.create(config, learning=False))
    kinds = [stream_of(config, 10 + k, timed=False).values for k in range(4)]
    kinds[0], kinds[1] = np.full((N, 3), np.nan), np.where(kinds[1] < 0, 1e99, kinds[1])
    if config.categories:
        kinds[1][:, 2] = 1
    found: list[bytes] = []
    for start in range(0, N, 32):
        work = [(other, Events(kinds[k][start : start + 9 + 4 * k])) for k, other in enumerate(others)]
        work.insert(start % 5, (slot, events.rows(start, start + 32)))
        found += outcome_bits(fold.step(work)[start % 5])
    assert (found, fold.checkpoint(slot)) == expected


@pytest.mark.parametrize("stop", [63, 95])
@EACH
def test_a_checkpoint_goes_on_to_the_same_bits(
    kind: str, stop: int, new_fold: Callable[[], Fold], outcome_bits: Any
) -> None:
    config, events = KINDS[kind], stream_of(KINDS[kind], 3)
    fold = new_fold()
    slot = fold.create(config)
    feed(fold, slot, events.rows(0, stop), 40)
    saved = fold.checkpoint(slot)
    other = new_fold()
    other.create(config)  # the restored one gets other slots
    moved = other.restore(saved)
    assert other.checkpoint(moved) == saved
    assert fold.status(slot) is not None
    assert fold.checkpoint(slot) == saved, "reading changes nothing"
    results = [outcome_bits(feed(f, s, events.rows(stop, N), 40)) for f, s in ((fold, slot), (other, moved))]
    assert results[0] == results[1]
    assert fold.checkpoint(slot) == other.checkpoint(moved)


def assert_no_leak(config: SessionConfig, new_fold: Callable[[], Fold], outcome_bits: Any) -> None:
    """Streams that agree on their first events and then, in the middle of a batch, differ in all they can differ in."""
    events, common = stream_of(config, 4), 64 + 36
    assert events.timestamps_ns is not None
    assert events.episode_start is not None
    values, times, starts = events.values[common:], events.timestamps_ns[common:], events.episode_start[common:]
    silence, other = np.full_like(values, np.nan), -1e6 * values[::-1]
    if config.categories:
        other[:, 2] = 0
    later = times + 3 * HOUR * (1 + np.arange(len(times)))
    results = []
    for future in (
        (values, times, starts),
        (silence, times, ~starts),
        (other, later, starts),
        (values[::-1], times + 10_000 * HOUR, starts),
    ):
        columns = [
            np.concatenate([column[:common], tail])
            for column, tail in zip((events.values, events.timestamps_ns, events.episode_start), future, strict=True)
        ]
        fold = new_fold()
        slot = fold.create(config)
        whole = Events(columns[0], columns[1], None, columns[2])
        results.append(outcome_bits(feed(fold, slot, whole.rows(0, 128), 64)))
    assert all(result[:common] == results[0][:common] for result in results)
    assert len({result[common] for result in results}) == 4


@EACH
def test_nothing_of_the_future_is_in_an_outcome(kind: str, new_fold: Callable[[], Fold], outcome_bits: Any) -> None:
    assert_no_leak(KINDS[kind], new_fold, outcome_bits)


@pytest.mark.parametrize("horizon", [1, 5])
def test_nothing_of_the_future_is_in_an_outcome_of_the_default_portfolio(
    horizon: int, new_fold: Callable[[], Fold], outcome_bits: Any
) -> None:
    assert_no_leak(SessionConfig(("x", "y", "z"), horizon=horizon), new_fold, outcome_bits)
