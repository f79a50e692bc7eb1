"""What the intake answers: every reply mode, for events of one turn or several, and for repeats among them."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

from bptt_core import Events, Fold, LearnerConfig, Outcomes, SessionConfig, select_backend
from server.batches import Batch
from server.intake import Intake
from server.metrics import Metrics
from server.microbatches import MicroBatch, Settled, events_of
from server.packing import packed
from server.scheduler import Lane, Scheduler, Work
from server.sessions import Acknowledged, Record, Reply, Terms

CONFIG = SessionConfig(("x",), learner=LearnerConfig(hidden=2, window=5)).validated()
VALUES = np.random.default_rng(0).normal(size=20)


class Desk:
    """An intake with a fold behind it that takes turns when told to."""

    def __init__(self, turn_rows: int) -> None:
        self._works: deque[Work] = deque()
        self._fold, self._lane = Fold(select_backend("numpy")), Lane("u", row_s=1e-9)
        self._slot = self._fold.create(CONFIG)
        self._scheduler = Scheduler(10**6, turn_rows)
        self.record = Record("s", "u", Terms(CONFIG, {}, True, None), 0, {}, 1000, 1000)
        self.intake = Intake(lambda _, work: self._works.append(work), 1000, Metrics(select_backend("numpy"), "test"))
        self.intake.add(self.record)
        self.answers: list[Acknowledged] = []

    def send(self, first: int, last: int, reply: Reply) -> None:
        batch = Batch("", first, VALUES[first - 1 : last].copy(), None)
        self.intake.offer(self.record, batch, reply, self._answer)

    def _answer(self, answer: Any) -> None:
        assert isinstance(answer, Acknowledged)
        self.answers.append(answer)

    def fold(self) -> None:
        while self._works:
            self._scheduler.add(self._lane, self._works.popleft())
        while self._scheduler:
            parts = []
            for turn in self._scheduler.next():
                outs = self._fold.step([(self._slot, events_of(turn))])[0] if turn.rows else None
                parts.append(Settled("u", turn, outs, None))
            self.intake.settle(MicroBatch(parts, 0.001, 0))


@pytest.fixture(scope="module")
def outs() -> Outcomes:
    """The outcomes of all events."""
    fold = Fold(select_backend("numpy"))
    return fold.step([(fold.create(CONFIG), Events(VALUES[:, None]))])[0]


def rows(outs: Outcomes, first: int, last: int) -> bytes:
    return packed(outs.rows(first - 1, last), 5)


@pytest.mark.parametrize("turn_rows", [1, 3, 100])
def test_each_batch_is_answered_as_it_asked(turn_rows: int, outs: Outcomes) -> None:
    desk = Desk(turn_rows)
    for first, last, reply in ((1, 1, Reply.EVERY), (2, 8, Reply.EVERY), (9, 12, Reply.LAST), (13, 15, Reply.NONE)):
        desk.send(first, last, reply)
    desk.send(16, 16, Reply.LAST)
    desk.fold()
    wanted = [rows(outs, 1, 1), rows(outs, 2, 8), rows(outs, 12, 12), None, rows(outs, 16, 16)]
    assert [answer.outcomes for answer in desk.answers] == wanted
    assert [answer.last_sequence for answer in desk.answers] == [1, 8, 12, 15, 16]
    assert desk.record.latest == wanted[-1]
    assert (desk.record.last_sequence, desk.intake.pending_events, desk.intake.idle) == (16, 0, True)


@pytest.mark.parametrize("turn_rows", [1, 2, 100])
@pytest.mark.parametrize("reply", [Reply.EVERY, Reply.LAST])
def test_a_repeat_of_the_last_event_has_its_outcome_again_wherever_it_waits(
    turn_rows: int, reply: Reply, outs: Outcomes
) -> None:
    desk = Desk(turn_rows)
    desk.send(1, 2, Reply.NONE)
    desk.fold()
    desk.send(2, 2, reply)  # before all new events, between them, and behind them
    desk.send(3, 4, Reply.NONE)
    desk.send(4, 4, reply)
    desk.send(5, 5, Reply.NONE)
    desk.send(5, 5, reply)
    desk.send(1, 1, reply)
    desk.fold()
    told = [answer.outcomes for answer in desk.answers]
    assert told == [None, rows(outs, 2, 2), None, rows(outs, 4, 4), None, rows(outs, 5, 5), None]
    assert [answer.duplicates for answer in desk.answers] == [0, 1, 0, 1, 0, 1, 1]
