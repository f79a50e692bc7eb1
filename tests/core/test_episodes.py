"""An episode begins with an empty memory: no carry, window, pair or difference reaches across its first event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt_core import CELLS, Events, Fold, Labels, LearnerConfig, SessionConfig


def config(**learner: Any) -> SessionConfig:
    return SessionConfig(("x",), scaling="fixed", learner=LearnerConfig(**{"hidden": 4, "window": 8} | learner))


def at(n: int, *starts: int) -> np.ndarray:
    return np.isin(np.arange(n), starts)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("start", [3, 20])
def test_predictions_are_those_of_a_stream_that_begins_there(
    cell: str, start: int, new_fold: Callable[[], Fold], random_walks: Any
) -> None:
    values = random_walks(40, 1)
    fold = new_fold()
    first = fold.create(config(cell=cell, layers=2, learning_rate=0.05))
    fold.step([(first, Events(values))])  # a readout that is not zero
    parameters = fold.parameters(first)
    long, short = (fold.create(config(cell=cell, layers=2), learning=False, parameters=parameters) for _ in range(2))
    (whole,) = fold.step([(long, Events(values, None, None, at(40, start)))])
    (tail,) = fold.step([(short, Events(values[start:]))])
    np.testing.assert_array_equal(whole.mean[start:], tail.mean)
    (through,) = fold.step(
        [(fold.create(config(cell=cell, layers=2), learning=False, parameters=parameters), Events(values))]
    )
    assert (through.mean[start:] != tail.mean).any()


def test_updates_see_nothing_of_the_episode_before(new_fold: Callable[[], Fold], random_walks: Any) -> None:
    """With a rate next to nothing, losses and norms of an episode are those of a stream that begins with it."""
    values = random_walks(30, 1)
    values -= values.mean()
    slow = config(cell="gru", learning_rate=1e-8, optimizer="sgd", stride=2, loss_span=4)
    fold = new_fold()
    trained = fold.create(config(cell="gru", learning_rate=0.05))
    fold.step([(trained, Events(values))])
    parameters = fold.parameters(trained)
    a, b = (fold.create(slow, parameters=parameters) for _ in range(2))
    (whole,) = fold.step([(a, Events(values, None, None, at(30, 10)))])
    (tail,) = fold.step([(b, Events(values[10:]))])
    np.testing.assert_allclose(whole.gradient_norm[11:], tail.gradient_norm[1:], rtol=1e-5)
    np.testing.assert_allclose(whole.loss[11:], tail.loss[1:], rtol=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_no_pair_reaches_across(several: bool, new_fold: Callable[[], Fold], random_walks: Any) -> None:
    """Each of ten episodes of five events settles 4 + 3 + 2 forecasts of three horizons."""
    fold, learner = new_fold(), LearnerConfig(hidden=2, window=8)
    chosen = {"learners": (learner, LearnerConfig(hidden=3, window=8))} if several else {"learner": learner}
    slot = fold.create(SessionConfig(("x",), horizon=3, **chosen))
    (made,) = fold.step([(slot, Events(random_walks(50, 1), None, None, at(50, *range(0, 50, 5))))])
    scores = fold.status(slot).scores
    assert scores is not None
    assert scores.count[:, 0].tolist() == [40, 30, 20]
    assert np.isnan(made.loss[::5]).all()


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 20])
def test_a_label_at_the_end_of_an_episode_is_learned_whatever_the_stride(
    stride: int, new_fold: Callable[[], Fold]
) -> None:
    """Episodes of five events whose only label is the last one's: one update each, by that label alone."""
    rng = np.random.default_rng(0)
    values, labels = rng.standard_normal((52, 1)), np.full((52, 1), np.nan)
    labels[4::5] = 1 + rng.standard_normal((10, 1))
    learner = LearnerConfig(hidden=3, window=20, stride=stride, learning_rate=1e-8)
    fold = new_fold()
    slot = fold.create(SessionConfig(("x",), task="regress", labels=("y",), scaling="fixed", learner=learner))
    (made,) = fold.step([(slot, Events(values, None, labels, at(52, *range(0, 52, 5))))])
    assert fold.status(slot).updates.applied == 10
    reported = np.flatnonzero(~np.isnan(made.loss))
    first = 4 if stride == 1 else 5  # with the label, or with the event after the end
    assert reported.tolist() == list(range(first, 52, 5))
    np.testing.assert_allclose(made.loss[reported], labels[4::5, 0] ** 2, rtol=1e-4)  # the readout is next to 0 still


def test_an_update_at_the_end_of_an_episode_trains_what_arrived_since_the_last_one(
    new_fold: Callable[[], Fold], random_walks: Any
) -> None:
    """Stride 4, an episode of 6: its end trains the pairs of the last two events, as a stride of 2 would have done."""
    values = random_walks(7, 1)
    fold = new_fold()
    four, two = (
        config(cell="gru", stride=stride, loss_span=span, optimizer="sgd") for stride, span in ((4, 6), (2, 2))
    )
    slot, other = fold.create(four), fold.create(two)
    fold.step([(slot, Events(values[:4])), (other, Events(values[:4]))])
    for name in ("params", "carry", "boundary"):
        fold._store.set(other, f"learner0.{name}", fold._store.get(slot, f"learner0.{name}"))
    fold.step([(slot, Events(values[4:6]))])
    assert fold.status(slot).updates.applied == 1
    (made,) = fold.step([(slot, Events(values[6:], None, None, at(1, 0)))])
    assert fold.status(slot).updates.applied == 2
    (due,) = fold.step([(other, Events(values[4:6]))])
    assert made.loss[0] == due.loss[1]
    assert fold.parameters(slot).tobytes() == fold.parameters(other).tobytes()


def test_an_update_that_was_not_due_is_not_counted_as_skipped(fold: Fold) -> None:
    """Whoever is beside it: streams end one and two events after an update of stride 3 that had nothing to learn."""
    slots = [fold.create(config(stride=3)) for _ in range(2)]
    nothing = np.full((5, 1), np.nan)
    fold.step([(slots[0], Events(nothing[:4])), (slots[1], Events(nothing))])
    fold.step([(slot, Events(nothing[:1], None, None, at(1, 0))) for slot in slots])
    for slot in slots:
        updates = fold.status(slot).updates
        assert (updates.no_target, updates.applied, updates.learning_off) == (1, 0, 0)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("own", [False, True])
def test_a_late_label_is_learned_before_its_episode_is_forgotten(
    stride: int, own: bool, new_fold: Callable[[], Fold]
) -> None:
    """The label of event 3 comes after event 4, and event 5 begins an episode, with or without a label of its own."""
    learner = LearnerConfig(hidden=3, window=8, stride=stride, optimizer="sgd", learning_rate=0.1)
    fold = new_fold()
    session = SessionConfig(("x",), task="regress", labels=("y",), scaling="fixed", learner=learner)
    slot = fold.create(session)
    values = np.random.default_rng(0).standard_normal((5, 1))
    known = np.array([[np.nan], [np.nan], [np.nan], [2.0]])
    fold.step([(slot, Events(values[:4], None, known))])
    before, applied = fold.parameters(slot), fold.status(slot).updates.applied
    assert applied == (1 if stride == 1 else 0)
    assert fold.label(slot, Labels(np.array([3]), np.array([[1.0]]))).trainable == 1
    label = np.array([[5.0]]) if own else None
    (made,) = fold.step([(slot, Events(values[4:], None, label, at(1, 0)))])
    # The late label, with a stride of 3 that of event 4, too; then with a stride of 1 the event's own.
    assert fold.status(slot).updates.applied == applied + (2 if own and stride == 1 else 1)
    assert (fold.parameters(slot) != before).any()
    if stride == 1 and not own:  # the label of event 4 was learned from already
        assert 0 < made.loss[0] < 2


def test_scales_ignore_the_break(new_fold: Callable[[], Fold]) -> None:
    """Episodes at levels far apart: a change formed across the break would be enormous and widen every interval."""
    rng = np.random.default_rng(0)
    level = np.repeat(rng.standard_normal(20) * 1e6, 10)
    values = (level + rng.standard_normal(200))[:, None]
    widths = []
    for starts in (at(200, *range(0, 200, 10)), None):
        fold = new_fold()
        slot = fold.create(SessionConfig(("x",), learner=LearnerConfig(hidden=2)))
        (made,) = fold.step([(slot, Events(values, None, None, starts))])
        widths.append(float(np.median((made.upper - made.lower)[-50:])))
    assert widths[0] < 12 < 36 < widths[1]


def test_an_episode_is_no_gap_in_time(new_fold: Callable[[], Fold], random_walks: Any) -> None:
    """A year before an episode is not filled, and its first events still teach the period."""
    hour, year = 3_600_000_000_000, 365 * 86_400_000_000_000
    values = random_walks(60, 1)
    times = np.arange(60) * hour + np.repeat(np.arange(20), 3) * year
    fold = new_fold()
    slot = fold.create(SessionConfig(("x",), learner=LearnerConfig(hidden=2, window=4)))
    (made,) = fold.step([(slot, Events(values, times, None, at(60, *range(0, 60, 3))))])
    assert fold.status(slot).period_ns == hour
    assert len(made) == 60
    assert fold.status(slot).scores.count[0, 0] == 40
