"""What else is in a call, in which order and on how many threads, is nothing to a session; nor is a call that fails.

Sessions of several shapes, timed and not, stepped whole and in stages, share the calls. Where a session is computed may
change its numbers in the last digits; that it moves from one place to another does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from folds import FASTEST, THREADS, backend_called, needs_compiled, use_all_threads

from bptt_core import Backend, Categorical, Events, Fold, LearnerConfig, SessionConfig, Slot, checkpoint, select_backend

HOUR = 3_600_000_000_000
CALLS, EVENTS = 4, 24
LSTM = LearnerConfig(hidden=6, window=8, loss_span=4, learning_rate=0.01)
GRU = LearnerConfig(cell="gru", hidden=3, window=6, stride=2, learning_rate=0.01, seed=1)
NUMBERS = SessionConfig(("x", "y"), horizon=2, learner=LSTM)
SEVERAL = SessionConfig(("x",), seasons=(5,), learners=(LSTM, GRU))
LABELS = SessionConfig(("x", "y"), task="regress", labels=("u",), learner=LSTM)
SYMBOLS = SessionConfig(
    ("x", "s"), task="classify", targets=("s",), categories=(Categorical("s", ("a", "b", "c")),), learner=GRU
)
# Every session of the calls, and whether its events have times.
COMPANY: Sequence[tuple[SessionConfig, bool]] = (
    (NUMBERS, False), (NUMBERS, True), (SEVERAL, False), (LABELS, False), (SEVERAL, True), (NUMBERS, False),
    (SYMBOLS, True),
)  # fmt: skip


def stream_of(config: SessionConfig, timed: bool, seed: int) -> Events:
    """Values with holes; times with gaps, some too long to be filled."""
    rng, n = np.random.default_rng(seed), CALLS * EVENTS
    values = rng.standard_normal((n, len(config.features))).cumsum(axis=0)
    if config.categories:
        values[:, 1] = rng.integers(0, 3, n)
    values[rng.random(values.shape) < 0.05] = np.nan
    labels = rng.standard_normal((n, len(config.labels))) if config.labels else None
    times = HOUR * rng.choice([1, 1, 1, 2, 90], n).cumsum() if timed else None
    return Events(values, times, labels, rng.random(n) < 0.05 if timed else None)


STREAMS = [stream_of(config, timed, seed) for seed, (config, timed) in enumerate(COMPANY)]


def company(fold: Fold) -> list[Slot]:
    return [fold.create(config) for config, _ in COMPANY]


def work_of(slots: list[Slot], call: int) -> list[tuple[Slot, Events]]:
    at = call * EVENTS
    return [(slot, stream.rows(at, at + EVENTS)) for slot, stream in zip(slots, STREAMS, strict=True)]


Bits = tuple[list[list[bytes]], list[bytes]]


def together(backend: Backend, outcome_bits: Callable[..., list[bytes]], order: Callable[[int], Sequence[int]]) -> Bits:
    """All sessions in every call, in this order: their outcomes, and what became of them."""
    fold = Fold(backend)
    slots = company(fold)
    found: list[list[bytes]] = [[] for _ in slots]
    for call in range(CALLS):
        work, places = work_of(slots, call), order(call)
        for place, outcomes in zip(places, fold.step([work[place] for place in places]), strict=True):
            found[place] += outcome_bits(outcomes)
    return found, [fold.checkpoint(slot) for slot in slots]


def in_order(_: int) -> Sequence[int]:
    return range(len(COMPANY))


def test_company_does_not_matter(each_backend: Backend, outcome_bits: Any) -> None:
    """Each session alone in its calls is what it is among others, whatever their order, which changes by the call."""
    fold = Fold(each_backend)
    slots = company(fold)
    alone: list[list[bytes]] = [[] for _ in slots]
    for call in range(CALLS):
        for place, work in enumerate(work_of(slots, call)):
            alone[place] += outcome_bits(fold.step([work])[0])
    expected = alone, [fold.checkpoint(slot) for slot in slots]
    rng = np.random.default_rng(0)
    for order in (in_order, lambda _: rng.permutation(len(COMPANY)).tolist()):
        assert together(each_backend, outcome_bits, order) == expected


@needs_compiled
def test_threads_do_not_matter(outcome_bits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use_all_threads(monkeypatch)
    several, busy = backend_called("numba", THREADS), set()
    work = type(several.engine)._work

    def watched(*arguments: Any) -> None:
        busy.add(threading.get_ident())
        work(*arguments)

    monkeypatch.setattr(type(several.engine), "_work", watched)
    found = together(several, outcome_bits, in_order)
    assert len(busy) > 1, "or it was not put to the test"
    assert found == together(backend_called("numba", 1), outcome_bits, in_order)


def test_a_call_that_fails_changes_nothing(
    each_backend: Backend, outcome_bits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever fails: a stage of some sessions, their learners, or the engine with the others. The sessions go on as if
    the call had never been made."""
    expected = together(each_backend, outcome_bits, in_order)
    fold = Fold(each_backend)
    slots = company(fold)
    found: list[list[bytes]] = [[] for _ in slots]
    for call in range(CALLS):
        work, before = work_of(slots, call), [fold.checkpoint(slot) for slot in slots]
        for owner, name, count in failing_parts(each_backend):
            with monkeypatch.context() as broken:
                fail_at(broken, owner, name, count)
                with pytest.raises(MemoryError, match="planted"):
                    fold.step(work)
            assert [fold.checkpoint(slot) for slot in slots] == before, (name, count)
        for place, outcomes in enumerate(fold.step(work)):
            found[place] += outcome_bits(outcomes)
    assert (found, [fold.checkpoint(slot) for slot in slots]) == expected


def failing_parts(backend: Backend) -> list[tuple[Any, str, int]]:
    """What is made to fail: an attribute, and at which of its calls. Some of the work is done by then."""
    from bptt_core import scaling, stepping, symbols

    parts: list[tuple[Any, str, int]] = [(scaling, "step", 2), (symbols, "step", EVENTS)]
    if backend.engine is None:
        return [*parts, (stepping.reference, "learn", 3)]
    from bptt_core.backends.jit import engine

    return [*parts, (engine.CompiledFold, "learn", 2), (engine, "Call", 3)]


def fail_at(broken: pytest.MonkeyPatch, owner: Any, name: str, count: int) -> None:
    whole, calls = getattr(owner, name), []

    def failing(*arguments: Any, **more: Any) -> Any:
        calls.append(name)
        if len(calls) == count:
            raise MemoryError("planted")
        return whole(*arguments, **more)

    broken.setattr(owner, name, failing)


@needs_compiled
def test_without_memory_for_each_thread_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second thread's is refused, when the first one could begin."""
    use_all_threads(monkeypatch)
    fold, asked = Fold(select_backend("numba", THREADS)), []
    slots = company(fold)
    before, work = [fold.checkpoint(slot) for slot in slots], work_of(slots, 0)

    class Scarce:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        def zeros(self, *arguments: Any) -> np.ndarray:
            asked.append(arguments)
            if len(asked) == 2:
                raise MemoryError("planted")
            return np.zeros(*arguments)

    with monkeypatch.context() as broken:
        broken.setattr("bptt_core.backends.jit.engine.np", Scarce())
        with pytest.raises(MemoryError, match="planted"):
            fold.step([work[0], work[2], work[5]])  # none of them in stages
    assert [fold.checkpoint(slot) for slot in slots] == before
    assert len(fold.step(work)) == len(work)


@needs_compiled
@pytest.mark.parametrize("place", range(len(COMPANY)))
def test_moving_between_backends_keeps_every_byte(place: int) -> None:
    """From the reference to compiled code and back, before and after events."""
    folds = [Fold(backend_called(name)) for name in ("numpy", FASTEST)]
    slot = folds[0].create(COMPANY[place][0])
    for call in range(CALLS):
        here, there = folds[call % 2], folds[(call + 1) % 2]
        here.step([(slot, work_of([slot] * len(COMPANY), call)[place][1])])
        data = here.checkpoint(slot)
        moved = there.restore(data)
        states = [
            checkpoint.load(bytes_) for bytes_ in (data, there.checkpoint(moved), here.checkpoint(here.restore(data)))
        ]
        for config, arrays in states[1:]:
            assert config == states[0][0]
            assert {name: array.tobytes() for name, array in arrays.items()} == {
                name: array.tobytes() for name, array in states[0][1].items()
            }
        assert there.status(moved) is not None
        slot = moved


def test_events_may_lie_in_memory_as_they_like(each_backend: Backend, outcome_bits: Any) -> None:
    """Column by column, as every other row of a larger table, or read-only: numbers count, not where they are."""
    values = np.random.default_rng(0).standard_normal((40, 3))
    frozen = values.copy()
    frozen.flags.writeable = False
    found = []
    for table in (values, np.asfortranarray(values), np.repeat(values, 2, axis=0)[::2], frozen, values.tolist()):
        fold = Fold(each_backend)
        slot = fold.create(SessionConfig(("x", "y", "z")))
        (outcomes,) = fold.step([(slot, Events(np.asarray(table)))])
        found.append(outcome_bits(outcomes))
    assert found == found[:1] * len(found)


@pytest.mark.parametrize(
    "events",
    [
        Events(np.zeros((3, 1))),
        Events(np.zeros((0, 2))),
        Events(np.zeros((3, 2)), np.arange(2)),
        Events(np.zeros((3, 2)), None, None, np.zeros(4, bool)),
    ],
    ids=["features", "none", "times", "episodes"],
)
def test_tables_of_another_size_are_refused(events: Events) -> None:
    """Compiled code would read what lies behind them."""
    fold = Fold(backend_called(FASTEST, 1))
    slots = [fold.create(SessionConfig(("x", "y"))) for _ in range(2)]
    fold.step([(slot, Events(np.ones((2, 2)))) for slot in slots])
    before = [fold.checkpoint(slot) for slot in slots]
    with pytest.raises(ValueError, match="2 features"):
        fold.step([(slots[0], Events(np.ones((5, 2)))), (slots[1], events)])
    assert [fold.checkpoint(slot) for slot in slots] == before


@needs_compiled
def test_an_interruption_waits_for_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """They write to the rows of sessions, which must not change any more when the call is over."""
    from bptt_core.backends.jit import engine

    class Slow(Future[None]):
        def __init__(self, looks: int) -> None:
            super().__init__()
            self.looks = looks

        def done(self) -> bool:
            self.looks -= 1
            return self.looks < 0

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    slow = Slow(3)
    monkeypatch.setattr(engine, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine._wait([slow])
    assert slow.looks < 0
