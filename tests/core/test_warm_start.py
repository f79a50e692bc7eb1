"""A warm start: full backpropagation through a history, after which the stream goes on where the history ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt_core import Events, FieldError, Fold, Labels, LearnerConfig, SessionConfig, WarmStart, WarmUp


def sine(n: int, seed: int = 0) -> np.ndarray:
    t = np.arange(n)
    return (np.sin(t / 5) + 0.05 * np.random.default_rng(seed).standard_normal(n))[:, None]


def config(**given: Any) -> SessionConfig:
    learner = {"cell": "gru", "hidden": 8, "window": 16, "learning_rate": 0.01} | given.pop("learner", {})
    return SessionConfig(("x",), learner=LearnerConfig(**learner), **given)


def train(fold: Fold, slot: Any, history: Events, passes: int, per_pass: bool = False) -> WarmStart:
    warm = fold.warm_start(slot, history, per_pass)
    for _ in range(passes):
        warm.run_pass()
    return warm.finish()


def errors(fold: Fold, slot: Any, values: np.ndarray) -> float:
    (made,) = fold.step([(slot, Events(values))])
    return float(((made.mean[:-1, 0, 0] - values[1:, 0]) ** 2).mean())


def test_it_learns_the_history_and_forecasts_at_once(new_fold: Callable[[], Fold]) -> None:
    values = sine(400)
    fold = new_fold()
    slot = fold.create(config())
    done = train(fold, slot, Events(values[:300]), passes=60)
    assert done.applied == 60
    assert done.loss[-1] < 0.3 * done.loss[0]
    persistence = float((np.diff(values[300:, 0]) ** 2).mean())
    assert errors(fold, slot, values[300:]) < 0.5 * persistence


def test_the_history_is_not_counted_or_scored(new_fold: Callable[[], Fold]) -> None:
    fold = new_fold()
    slot = fold.create(config(horizon=3))
    train(fold, slot, Events(sine(100)), passes=2)
    status = fold.status(slot)
    assert (status.last_sequence, status.updates.applied) == (0, 0)
    assert status.scores is not None
    assert status.scores.count.sum() == 0
    assert fold.latest(slot) is None
    (made,) = fold.step([(slot, Events(sine(1)))])
    assert made.first_sequence == 1
    assert np.isfinite(made.mean).all()
    assert fold.status(slot).scores.count.sum() == 0  # nothing was forecast for this event


def test_the_stream_goes_on_from_the_end_of_the_history(new_fold: Callable[[], Fold]) -> None:
    """Without a pass the network is untrained, and the session answers like one that streamed the history unlearned."""
    values = sine(120)
    rng = np.random.default_rng(1)
    fold = new_fold()
    shape = config(scaling="fixed")
    parameters = fold.parameters(fold.create(shape)) + 0.2 * rng.standard_normal(
        len(fold.parameters(fold.create(shape)))
    )
    parameters = parameters.astype(np.float32)
    warm, streamed = (fold.create(shape, learning=False, parameters=parameters) for _ in range(2))
    train(fold, warm, Events(values[:100]), passes=0)
    fold.step([(streamed, Events(values[:100]))])
    (a,), (b,) = (fold.step([(slot, Events(values[100:]))]) for slot in (warm, streamed))
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-5)


def test_after_it_the_next_update_learns_from_pairs_of_the_history(new_fold: Callable[[], Fold]) -> None:
    """The first live event settles the pair of the last step of the history, so there is something to train at once."""
    fold = new_fold()
    slot = fold.create(config())
    train(fold, slot, Events(sine(50)), passes=1)
    (made,) = fold.step([(slot, Events(sine(51)[50:]))])
    assert np.isfinite(made.loss[0])


def test_episodes_are_sequences_of_their_own(new_fold: Callable[[], Fold]) -> None:
    starts = np.arange(60) % 20 == 0
    fold = new_fold()
    per_sequence, per_pass = fold.create(config()), fold.create(config())
    assert train(fold, per_sequence, Events(sine(60), None, None, starts), passes=4).applied == 12
    assert train(fold, per_pass, Events(sine(60), None, None, starts), passes=4, per_pass=True).applied == 4


def test_seasons_and_time_are_known_from_the_history(new_fold: Callable[[], Fold]) -> None:
    """The seasonal naive forecast of the first live event is right: the season was filled by the history."""
    hour = 3_600_000_000_000
    values = np.tile(np.arange(6.0), 8)[:, None]
    times = np.arange(48) * hour
    fold = new_fold()
    slot = fold.create(config(seasons=(6,)))
    train(fold, slot, Events(values[:40], times[:40]), passes=1)
    assert fold.status(slot).last_timestamp_ns == times[39]
    assert fold.status(slot).period_ns == hour
    fold.step([(slot, Events(values[40:], times[40:]))])
    assert fold.status(slot).scores.seasonal_mse[0, 0] == 0


def test_labels_can_be_warm_started_too(new_fold: Callable[[], Fold]) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 1))
    y = np.concatenate([[[0.0]], x[:-1]])  # the value before
    fold = new_fold()
    slot = fold.create(config(task="regress", labels=("y",), scaling="fixed"))
    train(fold, slot, Events(x[:250], None, y[:250]), passes=150)
    (made,) = fold.step([(slot, Events(x[250:]))])
    assert ((made.mean[:, 0, 0] - y[250:, 0]) ** 2).mean() < 0.1


def labelled(fold: Fold) -> tuple[Any, np.ndarray]:
    """A session with labels that was warm-started on ten events, and a stream of values and labels to go on with."""
    stream = np.random.default_rng(4).standard_normal((30, 2))
    slot = fold.create(config(task="regress", labels=("y",), label_age=6))
    train(fold, slot, Events(stream[:10, :1], None, stream[:10, 1:]), passes=1)
    return slot, stream[10:]


def test_after_it_a_late_label_meets_what_was_known_at_its_event(new_fold: Callable[[], Fold]) -> None:
    """Late or with its event, a label of the first live event is learned from with the same loss."""
    losses = []
    for late in (False, True):
        fold = new_fold()
        slot, stream = labelled(fold)
        label = stream[:1, 1:]
        (made,) = fold.step([(slot, Events(stream[:1, :1], None, None if late else label))])
        if late:
            assert fold.label(slot, Labels(np.array([1]), label)).trainable == 1
            (made,) = fold.step([(slot, Events(stream[1:2, :1]))])
        losses.append(made.loss[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_after_it_a_checkpoint_goes_on_to_the_same_bits(new_fold: Callable[[], Fold], outcome_bits: Any) -> None:
    fold, other = new_fold(), new_fold()
    slot, stream = labelled(fold)
    moved = other.restore(fold.checkpoint(slot))
    events = Events(stream[:, :1], None, stream[:, 1:])
    (a,), (b,) = fold.step([(slot, events)]), other.step([(moved, events)])
    assert outcome_bits(a) == outcome_bits(b)


def test_until_it_is_finished_the_session_is_as_it_was(new_fold: Callable[[], Fold]) -> None:
    fold = new_fold()
    slot = fold.create(config())
    before = fold.checkpoint(slot)
    warm = fold.warm_start(slot, Events(sine(60)))
    warm.run_pass()
    assert fold.checkpoint(slot) == before
    warm.finish()
    assert fold.checkpoint(slot) != before


@pytest.mark.parametrize("steps", [1, 11, 60])
def test_the_history_is_read_once_in_however_many_turns(steps: int, new_fold: Callable[[], Fold]) -> None:
    bits = []
    for turns in (0, 3, WarmUp.pieces):
        fold = new_fold()
        slot = fold.create(config())
        warm = fold.warm_start(slot, Events(sine(steps)))
        for _ in range(turns):
            warm.read_piece()
        warm.run_pass()
        warm.finish()
        bits.append(fold.checkpoint(slot))
    assert bits[0] == bits[1] == bits[2]


def test_what_it_refuses(new_fold: Callable[[], Fold]) -> None:
    fold = new_fold()
    big = fold.create(config(learner={"hidden": 512, "layers": 2}))
    with pytest.raises(FieldError, match=r"history is 9000; allowed: at most \d+ steps per sequence"):
        fold.warm_start(big, Events(sine(9000)))
    with pytest.raises(FieldError, match=r"history is 9000; allowed: at most \d+ steps for networks of this size"):
        fold.warm_start(big, Events(sine(9000), None, None, np.arange(9000) % 100 == 0))
    slot = fold.create(config())
    with pytest.raises(FieldError, match="history is 20001; allowed: at most 20000 steps"):
        fold.warm_start(slot, Events(sine(20_001)))
    wide = fold.create(
        config(horizon=256, learner={"window": 272, "loss": "pinball", "quantiles": tuple(np.arange(1, 10) / 10)})
    )
    with pytest.raises(FieldError, match=r"history is 14600; allowed: at most \d+ steps with inputs of this width"):
        fold.warm_start(wide, Events(sine(14_600), None, None, np.arange(14_600) % 1000 == 0))
    fold.step([(slot, Events(sine(1)))])
    with pytest.raises(ValueError, match="has had an event"):
        fold.warm_start(slot, Events(sine(10)))
