"""Builders that the tests of the core share: configurations, streams, folds, and what it means to be bit-identical."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from folds import EVERY, FASTEST, backend_called, use_all_threads

from bptt_core import Backend, Events, Fold, LearnerConfig, Outcomes, SessionConfig, Slot
from bptt_core.outcomes import COLUMNS

SESSION_FIELDS = {field.name for field in fields(SessionConfig)} - {"features", "learner"}


@pytest.fixture(scope="session")
def numpy_backend() -> Backend:
    return backend_called("numpy")


@pytest.fixture(params=EVERY)
def each_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """One after the other whoever can step sessions here; several threads share even the smallest call."""
    name, threads = request.param
    if threads > 1:
        use_all_threads(monkeypatch)
    return backend_called(name, threads)


@pytest.fixture
def fold_backend(numpy_backend: Backend) -> Backend:
    """Where `fold` and `new_fold` compute: the reference, unless a module says otherwise."""
    return numpy_backend


@pytest.fixture
def fold(fold_backend: Backend) -> Fold:
    return Fold(fold_backend)


@pytest.fixture
def new_fold(fold_backend: Backend) -> Callable[[], Fold]:
    return lambda: Fold(fold_backend)


@pytest.fixture
def fastest_fold() -> Fold:
    """For thousands of events, where it is behaviour that is looked at and not who computes it."""
    return Fold(backend_called(FASTEST))


@pytest.fixture(scope="session")
def make_config() -> Callable[..., SessionConfig]:
    """`make_config(features=1, **fields)`: fields of the session and of its learner by name."""

    def make(features: int = 1, **given: Any) -> SessionConfig:
        session = {name: value for name, value in given.items() if name in SESSION_FIELDS}
        learner = {name: value for name, value in given.items() if name not in SESSION_FIELDS}
        names = tuple(f"f{k}" for k in range(features))
        return SessionConfig(features=names, learner=LearnerConfig(**{"hidden": 4} | learner), **session)

    return make


@pytest.fixture(scope="session")
def random_walks() -> Callable[..., np.ndarray]:
    """`random_walks(n, features, seed, missing)`: [n, features]; `missing` is the share of NaN."""

    def make(n: int, features: int = 1, seed: int = 0, missing: float = 0.0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        values = rng.standard_normal((n, features)).cumsum(axis=0)
        values[rng.random((n, features)) < missing] = np.nan
        return values

    return make


@pytest.fixture(scope="session")
def run() -> Callable[..., Outcomes]:
    """`run(fold, slot, values, batch=64, times=None)`: all outcomes of a stream fed in batches, as one table."""

    def feed(fold: Fold, slot: Slot, values: np.ndarray, batch: int = 64, times: np.ndarray | None = None) -> Outcomes:
        parts = []
        for start in range(0, len(values), batch):
            here = slice(start, start + batch)
            parts += fold.step([(slot, Events(values[here], None if times is None else times[here]))])
        columns = (np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS)
        return Outcomes(parts[0].first_sequence, *columns)

    return feed


@pytest.fixture(scope="session")
def outcome_bits() -> Callable[..., list[bytes]]:
    """`outcome_bits(outcomes, stop=None)`: what must be equal for two tables to be equal bit for bit, row by row."""

    def bits(outcomes: Outcomes, stop: int | None = None) -> list[bytes]:
        rows = range(len(outcomes))[:stop]
        return [b"".join(getattr(outcomes, name)[k].tobytes() for name in COLUMNS) for k in rows]

    return bits
