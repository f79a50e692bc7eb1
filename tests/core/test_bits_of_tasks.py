"""Every configurable thing keeps the promise on bits: batches, neighbours and checkpoints change none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt_core import Backend, Categorical, Events, Fold, Labels, LearnerConfig, Outcomes, SessionConfig, Slot

N = 150
LEARNER = {"hidden": 4, "window": 12, "learning_rate": 0.01}
SYMBOLS = (Categorical("s", ("a", "b", "c")),)

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "relu, 2 layers, absolute, momentum": (
        {},
        {"cell": "relu", "layers": 2, "loss": "absolute", "optimizer": "momentum"},
    ),
    "gru, 3 layers, student_t, rmsprop": (
        {},
        {"cell": "gru", "layers": 3, "loss": "student_t", "optimizer": "rmsprop"},
    ),
    "lstm, pinball, nesterov, by value": (
        {"horizon": 3},
        {"loss": "pinball", "optimizer": "nesterov", "clip": "value"},
    ),
    "gaussian, adamw, by quantile": ({"horizon": 2}, {"loss": "gaussian", "optimizer": "adamw", "clip": "quantile"}),
    "schedule, no clip, chrono": (
        {},
        {"schedule": "inverse_sqrt", "decay_updates": 20, "warmup_updates": 9, "clip": "off", "bias_init": "chrono"},
    ),
    "regress, 2 labels, stride": ({"task": "regress", "labels": ("u", "v")}, {"stride": 3, "loss_span": 5}),
    "regress, last value, gaussian": (
        {"task": "regress", "labels": ("u",)},
        {"loss": "gaussian", "anchor": "last_value"},
    ),
    "classify a label": (
        {"task": "classify", "labels": ("u",), "categories": (*SYMBOLS, Categorical("u", ("no", "yes")))},
        {"layers": 2},
    ),
    "classify the next symbols": ({"task": "classify", "targets": ("s",), "horizon": 2}, {"cell": "gru"}),
    "classify by probability": ({"task": "classify", "targets": ("x", "y")}, {"cell": "tanh"}),
    # Symbols beside numbers and next to no hidden units: products whose order must not depend on the memory's layout.
    "fixed scaling, regress, 1 unit": (
        {"task": "regress", "labels": ("u",), "scaling": "fixed"},
        {"cell": "tanh", "hidden": 1, "learning_rate": 0.05},
    ),
    "fixed scaling": ({"scaling": "fixed", "means": (0.5, 0.5, 0.0), "deviations": (2.0, 0.5, 1.0)}, {"cell": "gru"}),
}
EACH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def fold_backend(each_backend: Backend) -> Backend:
    return each_backend


def config_of(kind: str, seed: int = 0) -> SessionConfig:
    session, learner = KINDS[kind]
    values = {"features": ("x", "y", "s"), "categories": SYMBOLS} | session
    return SessionConfig(**values, learner=LearnerConfig(**LEARNER | {"seed": seed} | learner))


def stream_of(config: SessionConfig, seed: int) -> Events:
    """Values in 0..1 with holes, symbols, labels of which a third never come, and a new episode now and then."""
    rng = np.random.default_rng(seed)
    x = rng.random((N, 2)).round(1)
    values = np.column_stack([x, rng.integers(0, 3, N).astype(float)])
    values[rng.random(values.shape) < 0.05] = np.nan
    starts = rng.random(N) < 0.03
    if not config.labels:
        return Events(values, None, None, starts)
    labels = np.where(rng.random((N, len(config.labels))) < 0.5, 0.0, 1.0)
    labels[rng.random(labels.shape) < 0.3] = np.nan
    return Events(values, None, labels, starts)


def run_stream(fold: Fold, slot: Slot, events: Events, batch: int) -> Outcomes:
    parts = [fold.step([(slot, events.rows(at, at + batch))])[0] for at in range(0, len(events), batch)]
    return Outcomes.joined(parts)


def without_labels(events: Events, late: np.ndarray) -> Events:
    assert events.labels is not None
    labels = events.labels.copy()
    labels[late] = np.nan
    return Events(events.values, None, labels, events.episode_start)


@EACH
def test_batches_do_not_matter(kind: str, new_fold: Callable[[], Fold], outcome_bits: Any) -> None:
    config = config_of(kind)
    results = []
    for batch in (1, N, 7):
        fold = new_fold()
        slot = fold.create(config)
        results.append((outcome_bits(run_stream(fold, slot, stream_of(config, 1), batch)), fold.checkpoint(slot)))
    assert results[0] == results[1] == results[2]


@EACH
def test_neighbours_do_not_matter(kind: str, new_fold: Callable[[], Fold], outcome_bits: Any) -> None:
    config, events = config_of(kind), stream_of(config_of(kind), 2)
    alone = new_fold()
    slot = alone.create(config)
    expected = outcome_bits(run_stream(alone, slot, events, 30)), alone.checkpoint(slot)
    fold = new_fold()
    others = [fold.create(config_of(kind, seed)) for seed in (1, 2)]
    slot = fold.create(config)
    others.append(fold.create(config_of(kind, 3), learning=False))
    found = []
    for start in range(0, N, 30):
        work = [(other, stream_of(config, 5 + k).rows(0, 7 * k + 5)) for k, other in enumerate(others)]
        work.insert(start % 4, (slot, events.rows(start, start + 30)))
        found += outcome_bits(fold.step(work)[start % 4])
    assert (found, fold.checkpoint(slot)) == expected


@EACH
def test_a_checkpoint_goes_on_to_the_same_bits(kind: str, new_fold: Callable[[], Fold], outcome_bits: Any) -> None:
    config, events = config_of(kind), stream_of(config_of(kind), 3)
    fold = new_fold()
    slot = fold.create(config)
    run_stream(fold, slot, events.rows(0, 101), 20)
    other = new_fold()
    moved = other.restore(fold.checkpoint(slot))
    assert other.latest(moved) is not None
    results = [outcome_bits(run_stream(f, s, events.rows(101, N), 20)) for f, s in ((fold, slot), (other, moved))]
    assert results[0] == results[1]
    assert fold.checkpoint(slot) == other.checkpoint(moved)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "labels" in KINDS[kind][0]])
def test_late_labels_and_a_checkpoint_between(kind: str, new_fold: Callable[[], Fold], outcome_bits: Any) -> None:
    """Labels that come five events late, whether or not the session moved to another fold in between."""
    config, events = config_of(kind), stream_of(config_of(kind), 4)
    rng = np.random.default_rng(9)
    late = rng.random(N) < 0.5
    assert events.labels is not None
    results = []
    for move in (False, True):
        fold = new_fold()
        slot = fold.create(config)
        found = []
        for start in range(0, N, 5):
            found += outcome_bits(fold.step([(slot, without_labels(events, late).rows(start, start + 5))])[0])
            if move:
                data, fold = fold.checkpoint(slot), new_fold()
                slot = fold.restore(data)
            at = np.flatnonzero(late[start : start + 5]) + start
            if len(at):
                fold.label(slot, Labels(at + 1, events.labels[at]))
        results.append((found, fold.checkpoint(slot)))
    assert results[0] == results[1]
