"""Labels: predicted before they are looked at, learned from when they come, late ones while the window holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt_core import Events, Fold, Labels, LearnerConfig, Outcomes, SessionConfig, Slot

NAN = np.nan


def config(**given: Any) -> SessionConfig:
    """A session of one feature and one label, without scaling, that learns by plain gradient descent."""
    session = {"task": "regress", "features": ("x",), "labels": ("y",), "scaling": "fixed"}
    learner = {"cell": "gru", "hidden": 3, "window": 6, "optimizer": "sgd", "learning_rate": 0.1}
    names = {"label_age", "scaling", "means", "deviations"}
    session |= {name: value for name, value in given.items() if name in names}
    learner |= {name: value for name, value in given.items() if name not in names}
    return SessionConfig(**session, learner=LearnerConfig(**learner))


def events(n: int, labelled: Any, seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    values, labels = rng.standard_normal((n, 1)), rng.standard_normal((n, 1))
    labels[~np.isin(np.arange(n), labelled)] = NAN
    return Events(values, None, labels)


def one_by_one(fold: Fold, slot: Slot, stream: Events) -> Outcomes:
    return Outcomes.joined([fold.step([(slot, stream.rows(k, k + 1))])[0] for k in range(len(stream))])


def test_the_prediction_is_made_before_the_label_is_looked_at(new_fold: Callable[[], Fold]) -> None:
    stream = events(20, range(20))
    other = Events(stream.values, None, stream.labels.copy())
    other.labels[12] = 100.0
    made = []
    for each in (stream, other):
        fold = new_fold()
        made.append(one_by_one(fold, fold.create(config()), each))
    np.testing.assert_array_equal(made[0].mean[:13], made[1].mean[:13])
    assert made[0].mean[13] != made[1].mean[13]
    assert made[0].loss[12] != made[1].loss[12]


def test_the_loss_is_that_of_the_predictions_for_a_fresh_window(new_fold: Callable[[], Fold]) -> None:
    """With a stride of four and a session that has only begun, the update sees exactly the predictions served."""
    fold = new_fold()
    stream = events(4, [0, 2, 3])
    made = one_by_one(fold, fold.create(config(stride=4)), stream)
    served, labels = made.mean[[0, 2, 3], 0, 0], stream.labels[[0, 2, 3], 0]
    assert made.loss[3] == pytest.approx(((served - labels) ** 2).mean(), rel=1e-6)
    assert np.isnan(made.loss[:3]).all()


def test_a_late_label_is_learned_with_the_next_update(new_fold: Callable[[], Fold]) -> None:
    fold = new_fold()
    slot = fold.create(config())
    stream = events(5, [])
    made = one_by_one(fold, slot, stream)
    assert fold.status(slot).updates.applied == 0
    before = fold.parameters(slot)
    result = fold.label(slot, Labels(np.array([3, 5]), np.array([[0.5], [NAN]])))
    assert (result.accepted, result.trainable) == (1, 1)
    np.testing.assert_array_equal(fold.parameters(slot), before)
    (after,) = fold.step([(slot, Events(np.zeros((1, 1))))])
    assert after.loss[0] == pytest.approx((made.mean[2, 0, 0] - 0.5) ** 2, rel=1e-6)  # nothing was learned in between
    assert fold.status(slot).updates.applied == 1
    (again,) = fold.step([(slot, Events(np.zeros((1, 1))))])
    assert np.isnan(again.loss[0]), "it was learned from twice"


@pytest.mark.parametrize(("back", "trainable"), [(0, 1), (4, 1), (5, 0), (9, 0)])
def test_it_is_trainable_if_the_next_update_s_window_holds_its_step(
    new_fold: Callable[[], Fold], back: int, trainable: int
) -> None:
    """The next update comes with the next event, which is then one of the window's six steps."""
    fold = new_fold()
    slot = fold.create(config(window=6, label_age=20))
    one_by_one(fold, slot, events(15, [0]))
    result = fold.label(slot, Labels(np.array([15 - back]), np.array([[1.0]])))
    assert (result.accepted, result.trainable) == (1, trainable)
    scores = fold.status(slot).scores
    assert scores is not None
    assert scores.count.tolist() == [[1]]


def test_scores_are_those_of_the_predictions_whenever_the_labels_come(new_fold: Callable[[], Fold]) -> None:
    """Learning is off, so the predictions are the same; with the event or late, the errors are too.

    Only the first label always comes with its event: a pair is scored once the naive forecast is defined.
    """
    stream = events(30, range(0, 30, 2))
    blank = Events(stream.values, None, np.where(np.arange(30)[:, None] == 0, stream.labels, NAN))
    found = []
    for late in (False, True):
        fold = new_fold()
        slot = fold.create(config(label_age=29), learning=False)
        made = one_by_one(fold, slot, blank if late else stream)
        if late:
            at = np.arange(2, 30, 2)
            fold.label(slot, Labels(at + 1, stream.labels[at]))
        errors = (made.mean[2::2, 0, 0] - stream.labels[2::2, 0]) ** 2
        scores = fold.status(slot).scores
        assert scores.mse[0, 0] == pytest.approx(errors.mean())
        found.append((scores.count[0, 0], scores.mse[0, 0], scores.mae[0, 0]))
    assert found[0] == pytest.approx(found[1])


def test_a_gap_in_time_does_not_confuse_the_sequences(new_fold: Callable[[], Fold]) -> None:
    """Three missing steps lie between the third and the fourth event; a label of the third finds its own step."""
    fold = new_fold()
    learner = LearnerConfig(cell="gru", hidden=3, window=6, optimizer="sgd", learning_rate=0.1)
    slot = fold.create(
        SessionConfig(("x",), task="regress", labels=("y",), scaling="fixed", period_ns=10, learner=learner)
    )
    times = np.array([0, 10, 20, 60])
    stream = events(4, [])
    (made,) = fold.step([(slot, Events(stream.values, times))])
    result = fold.label(slot, Labels(np.array([1, 3]), np.array([[0.1], [0.7]])))
    assert (result.accepted, result.trainable) == (
        2,
        1,
    )  # the window of six holds the steps of events 2 (dropped), 3, 4
    (after,) = fold.step([(slot, Events(np.zeros((1, 1)), np.array([70])))])
    assert after.loss[0] == pytest.approx((made.mean[2, 0, 0] - 0.7) ** 2, rel=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_gap_in_time_loses_no_label(stride: int, new_fold: Callable[[], Fold]) -> None:
    """Two missing steps lie between a late label and the next event, whose update learns from it all the same."""
    fold = new_fold()
    learner = LearnerConfig(cell="gru", hidden=3, window=8, stride=stride)
    slot = fold.create(
        SessionConfig(("x",), task="regress", labels=("y",), scaling="fixed", period_ns=10, learner=learner)
    )
    (made,) = fold.step([(slot, Events(np.ones((3, 1)), np.arange(3) * 10))])
    assert fold.label(slot, Labels(np.array([3]), np.array([[0.7]]))).trainable == 1
    (after,) = fold.step([(slot, Events(np.ones((1, 1)), np.array([50])))])
    assert after.loss[0] == pytest.approx((made.mean[2, 0, 0] - 0.7) ** 2, rel=1e-6)


def test_online_scaling_learns_the_label_s_own_scale(new_fold: Callable[[], Fold]) -> None:
    """y = 1000 + 50·x: within a few hundred events the error is a small part of the label's deviation."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1500, 1))
    fold = new_fold()
    learner = LearnerConfig(cell="tanh", hidden=8, learning_rate=0.01)
    slot = fold.create(SessionConfig(("x",), task="regress", labels=("y",), learner=learner))
    (made,) = fold.step([(slot, Events(x, None, 1000 + 50 * x))])
    error = made.mean[-300:, 0, 0] - (1000 + 50 * x[-300:, 0])
    assert np.sqrt((error**2).mean()) < 5
    inside = (made.lower[-300:, 0, 0] <= 1000 + 50 * x[-300:, 0]) & (1000 + 50 * x[-300:, 0] <= made.upper[-300:, 0, 0])
    assert 0.8 < inside.mean() < 0.98
