"""What a session learns from beside its events: labels that come late, and a history before its first event.

The way of both through the engine, as `intake.py` is the way of events: admitted or refused here, on the network's
thread, folded there in order with the session's events, answered when they are folded. What may be admitted is the
business of `labels.py` and `histories.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from bptt_core import FieldError, Labelled, WarmStart
from server.engine import Engine
from server.errors import Refusal, draining, invalid
from server.histories import History, begin_history, end_history, examine_history
from server.intake import Intake
from server.labels import LateLabels, admit_labels, examine_labels, withdraw_labels
from server.metrics import Metrics
from server.sessions import Record

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Told:
    """Answer to late labels, counted per label that was not NaN."""

    accepted: int
    duplicates: int
    trainable: int


class Teaching:
    """Late labels and warm starts on their way. Methods run on the network's thread only."""

    def __init__(self, engine: Engine, intake: Intake, metrics: Metrics) -> None:
        self._engine, self._intake, self._metrics = engine, intake, metrics

    def label(self, record: Record, sent: LateLabels, done: Callable[[Told | Refusal], None]) -> None:
        """Admits labels and calls `done` when they are folded. Raises Refusal, and then nothing has changed."""
        self._intake.accepting(record)
        admission = examine_labels(record, sent)
        admit_labels(record, admission)
        self._metrics.labelled(admission.accepted, admission.duplicates)

        def folded(result: Labelled | Refusal) -> None:
            if isinstance(result, Refusal):
                withdraw_labels(record, admission)
                done(result)
            else:
                done(Told(admission.accepted, admission.duplicates, result.trainable))

        self._follow(self._engine.label(record.uid, admission.labels), folded)

    def warm_start(self, record: Record, history: History, done: Callable[[WarmStart | Refusal], None]) -> None:
        """Begins a warm start and calls `done` at its end. Raises Refusal, and then nothing has changed."""
        self._intake.accepting(record)
        events = examine_history(record, history)
        begin_history(record, events)

        def trained(result: WarmStart | Refusal) -> None:
            end_history(record, isinstance(result, WarmStart))
            if isinstance(result, WarmStart):
                self._metrics.warm_starts.inc()
            done(result)

        wanted = self._intake.working
        self._follow(self._engine.warm_start(record.uid, events, history.passes, history.per_pass, wanted), trained)

    def _follow(self, answer: Future[_T], then: Callable[[_T | Refusal], None]) -> None:
        """Calls `then` with what the engine answers, which comes on this thread and in order with settled events."""
        self._intake.enter()

        def resolved(answer: Future[_T]) -> None:
            self._intake.leave()
            error = answer.exception()
            if error is None:
                then(answer.result())
            elif isinstance(error, FieldError):
                then(invalid(error))
            else:
                then(error if isinstance(error, Refusal) else draining())

        answer.add_done_callback(resolved)
