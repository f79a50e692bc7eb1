"""The engine on its own thread with a real fold: order of work, calls between micro-batches, and the fatal end."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bptt_core import (
    CheckpointError,
    Events,
    FieldError,
    Fold,
    Labelled,
    Labels,
    LearnerConfig,
    SessionConfig,
    WarmUp,
    select_backend,
)
from server.engine import Engine
from server.errors import Refusal
from server.microbatches import MicroBatch
from server.scheduler import Work

CONFIG = SessionConfig(("x",), horizon=2, learner=LearnerConfig(hidden=3, window=6)).validated()


class Loop:
    """Stands for the network's thread: what the engine posts is run by `until`."""

    def __init__(self) -> None:
        self.posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.batches: list[MicroBatch] = []
        self.dropped: list[Work] = []
        self.failures: list[BaseException] = []
        backend = select_backend("numpy")
        self.engine = Engine(
            backend, 8, 4, self.batches.append, self.dropped.extend, self.posted.put, self.failures.append
        )
        self.engine.start()

    def until(self, done: Callable[[], Any]) -> None:
        while not done():
            self.posted.get(timeout=30)()

    def ask(self, future: Any) -> Any:
        self.until(future.done)
        return future.result()

    def rows(self) -> list[tuple[str, int]]:
        return [(part.uid, part.turn.rows) for batch in self.batches for part in batch.parts if part.turn.rows]

    def fold(self, uid: str, n: int, seed: int = 0) -> None:
        before = sum(rows for _, rows in self.rows())
        self.engine.submit(uid, work(n, seed))
        self.until(lambda: sum(rows for _, rows in self.rows()) == before + n)


@pytest.fixture
def loop() -> Iterator[Loop]:
    one = Loop()
    yield one
    one.engine.stop()


def work(n: int, seed: int = 0) -> Work:
    events = Events(np.random.default_rng(seed).normal(size=(n, 1)))
    return Work(n, SimpleNamespace(events=events))


def test_work_is_folded_in_turns_and_settled_in_order(loop: Loop) -> None:
    loop.ask(loop.engine.create("a", CONFIG, True))
    loop.engine.submit("a", work(10))
    loop.until(lambda: sum(n for _, n in loop.rows()) == 10)
    assert loop.rows() == [("a", 4), ("a", 4), ("a", 2)]
    outs = [part.outcomes for batch in loop.batches for part in batch.parts]
    assert [one.first_sequence for one in outs if one] == [1, 5, 9]
    assert loop.ask(loop.engine.status("a", scores=False)).last_sequence == 10


def test_an_answer_comes_after_the_work_settled_before_it(loop: Loop) -> None:
    loop.ask(loop.engine.create("a", CONFIG, True))
    loop.engine.submit("a", work(4))
    changed = loop.ask(loop.engine.configure("a", False, None))
    assert loop.rows() == [("a", 4)]
    assert (changed.last_sequence, changed.learning) == (4, False)
    loop.engine.submit("a", work(1))
    loop.until(lambda: len(loop.rows()) == 2)
    assert loop.ask(loop.engine.status("a", scores=False)).updates.learning_off == 1


def test_reading_changes_nothing(loop: Loop) -> None:
    loop.ask(loop.engine.create("a", CONFIG, True))
    loop.fold("a", 8)
    before = loop.ask(loop.engine.checkpoint("a"))
    for _ in range(3):
        loop.ask(loop.engine.latest("a"))
        loop.ask(loop.engine.status("a", scores=True))
        loop.ask(loop.engine.statuses(["a", "b"]))
    assert loop.ask(loop.engine.checkpoint("a")) == before


def test_a_restored_session_goes_on(loop: Loop) -> None:
    loop.ask(loop.engine.create("a", CONFIG, True))
    loop.fold("a", 5)
    data, _ = loop.ask(loop.engine.checkpoint("a"))
    assert loop.ask(loop.engine.restore("b", data)) == CONFIG
    for uid in "ab":
        loop.fold(uid, 3, seed=1)
    assert loop.ask(loop.engine.checkpoint("a")) == loop.ask(loop.engine.checkpoint("b"))
    with pytest.raises(CheckpointError):
        loop.ask(loop.engine.restore("c", data[:-1]))


def test_a_fork_is_made_between_the_work_before_and_behind_it(loop: Loop) -> None:
    loop.ask(loop.engine.create("a", CONFIG, True))
    loop.engine.submit("a", work(10))
    answer = loop.engine.fork("a", "b", None, None)
    loop.engine.submit("a", work(5, seed=1))
    latest, status = loop.ask(answer)
    assert (latest.first_sequence, status.last_sequence, status.learning) == (10, 10, True)
    loop.engine.submit("b", work(5, seed=1))
    loop.until(lambda: sum(n for _, n in loop.rows()) == 20)
    assert loop.ask(loop.engine.checkpoint("a")) == loop.ask(loop.engine.checkpoint("b"))
    changed = loop.ask(loop.engine.fork("a", "c", False, 0.5))[1]
    assert (changed.learning, changed.learning_rate) == (False, 0.5)
    assert loop.ask(loop.engine.status("a", scores=False)).learning
    loop.ask(loop.engine.delete("a"))
    loop.fold("c", 3)
    assert not loop.failures


def test_a_fork_that_cannot_be_made_is_refused_and_the_engine_lives(loop: Loop, monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    loop.ask(loop.engine.create("a", CONFIG, True))
    with monkeypatch.context() as patch:
        patch.setattr(Fold, "fork", full)
        with pytest.raises(Refusal, match="no memory"):
            loop.ask(loop.engine.fork("a", "b", None, None))
    with pytest.raises(Refusal, match="deleted"):
        loop.ask(loop.engine.fork("b", "c", None, None))
    loop.ask(loop.engine.halt())
    with pytest.raises(Refusal, match="stopping"):
        loop.ask(loop.engine.fork("a", "b", None, None))
    assert not loop.failures


def test_skill_is_that_of_the_sessions_with_settled_pairs(loop: Loop) -> None:
    assert loop.ask(loop.engine.skills()).tolist() == []
    for uid in "ab":
        loop.ask(loop.engine.create(uid, CONFIG, True))
    loop.fold("a", 50)
    scores = loop.ask(loop.engine.status("a", scores=True)).scores
    assert loop.ask(loop.engine.skills()).tolist() == pytest.approx([1 - np.mean(scores.mse / scores.persistence_mse)])


def test_a_session_says_where_it_computes(loop: Loop, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Fold, "backend_of", lambda _, slot: f"horizon {slot.config.horizon}")
        loop.ask(loop.engine.create("a", CONFIG, True))
        loop.ask(loop.engine.fork("a", "b", None, None))
        loop.ask(loop.engine.create("c", replace(CONFIG, horizon=3).validated(), True))
    assert [loop.engine.backend_of(uid) for uid in "abc"] == ["horizon 2", "horizon 2", "horizon 3"]
    assert loop.engine.backend_of("nobody") == "numpy"


def test_deleting_drops_what_was_not_folded(loop: Loop) -> None:
    loop.ask(loop.engine.create("a", CONFIG, True))
    left = work(3)
    for item in (work(400), left):
        loop.engine.submit("a", item)
    change = loop.engine.configure("a", True, None)
    loop.ask(loop.engine.delete("a"))
    assert left in loop.dropped
    with pytest.raises(Refusal, match="deleted"):
        loop.ask(change)
    for call in (loop.engine.checkpoint("a"), loop.engine.delete("a"), loop.engine.configure("a", True, None)):
        with pytest.raises(Refusal, match="deleted"):
            loop.ask(call)
    late = work(1)
    loop.engine.submit("a", late)
    loop.until(lambda: late in loop.dropped)
    assert not loop.failures


def test_a_costly_session_is_folded_in_small_micro_batches(loop: Loop) -> None:
    large = SessionConfig(("x",), learner=LearnerConfig(hidden=192, window=64)).validated()
    for uid in "ab":
        loop.ask(loop.engine.create(uid, large, True))
        loop.engine.submit(uid, work(3))
    loop.until(lambda: len(loop.rows()) == 6)
    assert {len(batch.parts) for batch in loop.batches} == {1}
    assert {rows for _, rows in loop.rows()} == {1}


def test_many_small_learners_make_a_session_a_costly_one(loop: Loop) -> None:
    """Alone such a learner is folded in whole micro-batches, with many beside it row by row."""
    small = LearnerConfig(hidden=3, window=256)
    several = tuple(replace(small, seed=seed) for seed in range(16))
    for uid, config in (("one", {"learner": small}), ("many", {"learners": several})):
        loop.ask(loop.engine.create(uid, SessionConfig(("x",), seasonality="off", **config).validated(), True))
        loop.fold(uid, 4)
    assert loop.rows() == [("one", 4)] + [("many", 1)] * 4


def test_after_a_halt_nothing_is_folded_and_calls_are_answered(loop: Loop) -> None:
    for uid in "ab":
        loop.ask(loop.engine.create(uid, CONFIG, True))
    long, behind = work(100_000), work(1)
    loop.engine.submit("a", long)
    change = loop.engine.configure("a", False, None)
    loop.engine.submit("a", behind)
    loop.ask(loop.engine.halt())
    folded = sum(rows for _, rows in loop.rows())
    assert folded < 100_000
    assert loop.dropped[0] is long
    assert loop.dropped[-1] is behind
    assert loop.ask(change).learning is False
    late = work(1)
    loop.engine.submit("b", late)
    assert loop.ask(loop.engine.status("a", scores=False)).last_sequence == folded
    assert loop.ask(loop.engine.checkpoint("a")) == loop.ask(loop.engine.checkpoint("a"))
    assert late in loop.dropped
    assert sum(rows for _, rows in loop.rows()) == folded
    assert not loop.failures


def test_a_session_without_memory_is_refused_and_the_engine_lives(loop: Loop, monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Fold, "create", full)
        with pytest.raises(Refusal, match="no memory"):
            loop.ask(loop.engine.create("a", CONFIG, True))
    loop.ask(loop.engine.create("a", CONFIG, True))


def broken(*_: Any, **__: Any) -> None:
    raise FloatingPointError("broken")


def test_after_an_exception_out_of_the_fold_sessions_can_be_saved(loop: Loop, monkeypatch: Any) -> None:
    for uid in "ab":
        loop.ask(loop.engine.create(uid, CONFIG, True))
        loop.fold(uid, 8)
    before = loop.ask(loop.engine.checkpoint("a"))
    with monkeypatch.context() as patch:
        patch.setattr(Fold, "step", broken)
        items = [work(1), work(400)]
        for item in items:
            loop.engine.submit("a", item)
        loop.until(lambda: loop.failures)
        loop.until(lambda: items[0] in loop.dropped and items[1] in loop.dropped)
    assert [type(failure) for failure in loop.failures] == [FloatingPointError]
    late = work(1)
    loop.engine.submit("b", late)
    assert loop.ask(loop.engine.checkpoint("a")) == before
    assert late in loop.dropped
    assert sum(rows for _, rows in loop.rows()) == 16


def test_an_exception_out_of_a_call_is_answered_and_fatal(loop: Loop, monkeypatch: Any) -> None:
    loop.ask(loop.engine.create("a", CONFIG, True))
    with monkeypatch.context() as patch:
        patch.setattr(Fold, "checkpoint", broken)
        with pytest.raises(FloatingPointError):
            loop.ask(loop.engine.checkpoint("a"))
    loop.until(lambda: loop.failures)
    assert loop.ask(loop.engine.checkpoint("a"))


def yes() -> bool:
    return True


def history(n: int) -> Events:
    return Events(np.random.default_rng(9).normal(size=(n, 1)))


def test_labels_are_folded_after_the_work_queued_before_them(loop: Loop) -> None:
    config = SessionConfig(("x",), task="regress", labels=("l",), learner=LearnerConfig(hidden=3, window=6)).validated()
    loop.ask(loop.engine.create("a", config, True))
    loop.engine.submit("a", work(10))
    told = loop.ask(loop.engine.label("a", Labels(np.array([8, 10]), np.array([[1.0], [2.0]]))))
    assert loop.rows() == [("a", 4), ("a", 4), ("a", 2)]
    assert told == Labelled(2, 2)
    none = Labels(np.zeros(0, np.int64), np.zeros((0, 1)))
    assert loop.ask(loop.engine.label("a", none)) == Labelled(0, 0)
    loop.ask(loop.engine.halt())
    with pytest.raises(Refusal, match="stopping"):
        loop.ask(loop.engine.label("a", none))
    with pytest.raises(Refusal, match="deleted"):
        loop.ask(loop.engine.label("b", none))


def test_a_warm_start_ends_before_the_work_queued_behind_it(loop: Loop) -> None:
    loop.ask(loop.engine.create("a", CONFIG, True))
    answer = loop.engine.warm_start("a", history(20), 3, False, yes)
    loop.engine.submit("a", work(5))
    result = loop.ask(answer)
    assert loop.rows() == []
    assert (len(result.loss), result.applied) == (3, 3)
    loop.until(lambda: sum(n for _, n in loop.rows()) == 5)


def test_a_warm_start_that_is_not_wanted_any_more_changes_nothing_and_drops_what_is_behind(loop: Loop) -> None:
    loop.ask(loop.engine.create("a", CONFIG, True))
    before = loop.ask(loop.engine.checkpoint("a"))
    asked: list[bool] = []

    def wanted() -> bool:
        asked.append(len(asked) < 3)
        return asked[-1]

    answer = loop.engine.warm_start("a", history(20), 50, False, wanted)
    behind = work(5)
    loop.engine.submit("a", behind)
    with pytest.raises(Refusal, match="stopping"):
        loop.ask(answer)
    loop.until(lambda: behind in loop.dropped)
    assert loop.ask(loop.engine.checkpoint("a")) == before
    assert not loop.failures


def test_a_warm_start_without_memory_or_of_no_session_is_refused_and_the_engine_lives(
    loop: Loop, monkeypatch: Any
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    loop.ask(loop.engine.create("a", CONFIG, True))
    before = loop.ask(loop.engine.checkpoint("a"))
    for name, owner in (("warm_start", Fold), ("run_pass", WarmUp)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(Refusal, match="no memory") as caught:
                loop.ask(loop.engine.warm_start("a", history(20), 2, False, yes))
            assert caught.value.reason == "OVERLOADED"
    with pytest.raises(Refusal, match="deleted"):
        loop.ask(loop.engine.warm_start("b", history(20), 2, False, yes))
    with pytest.raises(FieldError, match="history"):
        loop.ask(loop.engine.warm_start("a", history(20_001), 2, False, yes))
    assert loop.ask(loop.engine.checkpoint("a")) == before
    loop.fold("a", 3)
    assert not loop.failures


def test_an_exception_out_of_a_pass_is_answered_and_fatal(loop: Loop, monkeypatch: Any) -> None:
    loop.ask(loop.engine.create("a", CONFIG, True))
    before = loop.ask(loop.engine.checkpoint("a"))
    with monkeypatch.context() as patch:
        patch.setattr(WarmUp, "run_pass", broken)
        answer = loop.engine.warm_start("a", history(20), 2, False, yes)
        with pytest.raises(FloatingPointError):
            loop.ask(answer)
    loop.until(lambda: loop.failures)
    assert loop.ask(loop.engine.checkpoint("a")) == before
