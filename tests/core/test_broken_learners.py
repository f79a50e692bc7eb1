"""What is not finite inside one learner stays there, and numbers too small to matter do not stay at all.

On every backend: the session with the broken learner serves finite numbers, everyone else keeps their bits, and what is
counted is what the reference counts.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pytest
from folds import COMPILED, THREADS, backend_called, use_all_threads

from bptt_core import Backend, Categorical, Events, Fold, LearnerConfig, ResetReason, SessionConfig, UpdateCounts
from bptt_core.outcomes import COLUMNS, Outcomes

LSTM = LearnerConfig(hidden=4, window=8, loss_span=4, learning_rate=0.01)
CONFIG = SessionConfig(
    ("x", "y"),
    horizon=2,
    learners=(LSTM, LearnerConfig(cell="gru", hidden=4, window=8, learning_rate=0.01, seed=1), LSTM),
)
SESSIONS, BROKEN, LEARNER = 3, 1, 0  # how many, and which learner of which of them is broken
BEFORE, AFTER = 60, 60  # events
FIELDS = ("params", "moment0", "moment1", "carry", "boundary", "inputs", "targets", "good")
LEAST = 1e-30  # moments below it are 0


class Run(NamedTuple):
    """What became of all sessions."""

    outcomes: list[Outcomes]
    arrays: list[dict[str, bytes]]  # by name
    counts: list[UpdateCounts]


def run(backend: Backend, field: str, value: float) -> Run:
    """Half-way `field` of a learner is overwritten; with "" none is."""
    fold = Fold(backend)
    slots = [fold.create(CONFIG) for _ in range(SESSIONS)]
    values = np.random.default_rng(0).standard_normal((SESSIONS, BEFORE + AFTER, 2)).cumsum(axis=1)
    fold.step([(slot, Events(v[:BEFORE])) for slot, v in zip(slots, values, strict=True)])
    if field:
        name = f"learner{LEARNER}.{field}"
        fold._store.set(slots[BROKEN], name, np.full_like(fold._store.get(slots[BROKEN], name), value))
    outcomes = fold.step([(slot, Events(v[BEFORE:])) for slot, v in zip(slots, values, strict=True)])
    names = fold._store.names(slots[0])
    arrays = [{name: np.asarray(fold._store.get(slot, name)).tobytes() for name in names} for slot in slots]
    return Run(outcomes, arrays, [fold.status(slot).updates for slot in slots])


@functools.cache
def usual(name: str, threads: int) -> Run:
    return run(backend_called(name, threads), "", 0.0)


def bits(outcomes: Outcomes) -> list[bytes]:
    return [getattr(outcomes, name).tobytes() for name in COLUMNS]


KINDS = [("numpy", 1), *([("numba", 1), ("numba", THREADS)] if COMPILED else [])]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", FIELDS)
def test_what_is_not_finite_stays_in_its_learner(field: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for name, threads in KINDS:
        with monkeypatch.context() as patch:
            if threads > 1:
                use_all_threads(patch)
            expected, found = usual(name, threads), run(backend_called(name, threads), field, value)
        runs.append(found)
        for k in range(SESSIONS):
            if k != BROKEN:
                assert bits(found.outcomes[k]) == bits(expected.outcomes[k]), (name, threads)
                assert found.arrays[k] == expected.arrays[k], (name, threads)
        served = found.outcomes[BROKEN]
        for column in ("mean", "lower", "upper", "anomaly_score", "target_anomaly_score", "anomaly_likelihood"):
            assert np.isfinite(getattr(served, column)).all(), (name, column)
        for own, array in found.arrays[BROKEN].items():
            if own.startswith("learner") and not own.startswith(f"learner{LEARNER}."):
                assert array == expected.arrays[BROKEN][own], (name, own)
        reset = served.learner_reset
        assert not np.delete(reset, LEARNER, axis=1).any()
        assert found.counts == runs[0].counts, name
        np.testing.assert_array_equal(reset, runs[0].outcomes[BROKEN].learner_reset)
        np.testing.assert_array_equal(served.update_result, runs[0].outcomes[BROKEN].update_result)
    if field in ("params", "moment0"):
        assert set(reset[:, LEARNER].tolist()) & {ResetReason.NON_FINITE, ResetReason.DIVERGED}


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "rmsprop"])
def test_moments_that_fade_away_become_zero(each_backend: Backend, optimizer: str) -> None:
    """A symbol that does not come any more leaves its weights without a gradient: their moments shrink with every
    update, and numbers next to nothing are slow to compute with."""
    config = SessionConfig(
        ("x", "s"),
        targets=("x",),
        categories=(Categorical("s", ("a", "b", "c")),),
        learner=LearnerConfig(hidden=4, window=4, optimizer=optimizer, beta1=0.8, beta2=0.8),
    )
    fold, rng, n = Fold(each_backend), np.random.default_rng(0), 600
    slot = fold.create(config)
    values = np.column_stack([rng.standard_normal(n).cumsum(), np.where(np.arange(n) < 30, rng.integers(0, 3, n), 0)])
    moments = [name for name in fold._store.names(slot) if ".moment" in name]
    fold.step([(slot, Events(values[:40]))])
    early = {name: np.array(fold._store.get(slot, name)) for name in moments}
    for start in range(40, n, 40):
        fold.step([(slot, Events(values[start : start + 40]))])
        for name in moments:
            late = np.array(fold._store.get(slot, name))
            assert ((late == 0) | (abs(late) >= LEAST)).all(), name
    assert moments
    for name in moments:
        late = np.array(fold._store.get(slot, name))
        assert ((late == 0) & (early[name] != 0)).sum() >= 2 * 4 * 4, "or nothing has faded"
        assert (late != 0).any()


def test_an_idle_session_keeps_no_moments_next_to_nothing(fastest_fold: Fold) -> None:
    """The default one, of which for thousands of events nothing comes but the same value."""
    slot = fastest_fold.create(SessionConfig(("x",)))
    fastest_fold.step([(slot, Events(np.random.default_rng(0).standard_normal((200, 1))))])
    moments = [name for name in fastest_fold._store.names(slot) if ".moment" in name]
    for _ in range(30):
        fastest_fold.step([(slot, Events(np.zeros((100, 1))))])
        for name in moments:
            moment = np.array(fastest_fold._store.get(slot, name))
            assert ((moment == 0) | (abs(moment) >= LEAST)).all(), name


def test_a_call_leaves_the_arithmetic_of_its_thread_as_it_was(each_backend: Backend) -> None:
    """Numbers next to nothing are told from nothing, before and after."""
    fold = Fold(each_backend)
    slots = [fold.create(CONFIG) for _ in range(THREADS)]
    for _ in range(2):
        assert (np.full(64, 1e-40, np.float32) * np.float32(0.5) > 0).all()
        fold.step([(slot, Events(np.random.default_rng(0).standard_normal((20, 2)))) for slot in slots])
    assert fold.status(slots[0]).updates.applied > 0
    assert (np.full(64, 1e-40, np.float32) * np.float32(0.5) > 0).all()
