"""What is remembered of labels, and what a batch and its reply take, without a server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bptt.v1 import forecast_pb2
from bptt_core import Categorical, Events, Fold, LearnerConfig, SessionConfig, select_backend
from server.batches import Batch
from server.errors import Refusal
from server.labels import LateLabels, admit_labels, examine_labels, withdraw_labels
from server.packing import packed
from server.sessions import Record, Reply, Terms, admit, examine
from server.sizes import batch_events, event_bytes, held_bytes

NAN = float("nan")
AGE = 5


def record(age: int = AGE) -> Record:
    config = SessionConfig(("x",), task="regress", labels=("p", "q"), label_age=age).validated()
    return Record("s", "u", Terms(config, {}, True, None), 0, {}, 10_000, 10_000)


def take(one: Record, labels: Any, count: int | None = None) -> None:
    """Admits events with those labels; None: without, `count` of them."""
    count = len(labels) if count is None else count
    flat = None if labels is None else np.asarray(labels, float).ravel()
    admit(one, examine(one, Batch("", one.admitted + 1, np.zeros(count), None, flat), 10**6))


def late(sequences: Any, values: Any) -> LateLabels:
    return LateLabels("", np.asarray(sequences, np.uint64), np.asarray(values, float).ravel())


def tell(one: Record, sequences: Any, values: Any) -> tuple[int, int]:
    admission = examine_labels(one, late(sequences, values))
    admit_labels(one, admission)
    return admission.accepted, admission.duplicates


@pytest.mark.parametrize("age", [0, 1, 5, 100])
def test_labels_are_remembered_exactly_as_long_as_they_may_come(age: int) -> None:
    """Against the plainest memory there is: a dictionary of everything."""
    one, chance = record(age), np.random.default_rng(age)
    told: dict[tuple[int, int], float] = {}
    for _ in range(60):
        labels = np.where(chance.random((chance.integers(1, 9), 2)) < 0.5, NAN, chance.normal(size=2))
        first = one.admitted + 1
        take(one, labels)
        told |= {(first + row, k): float(v) for (row, k), v in np.ndenumerate(labels) if v == v}
        for sequence in range(max(1, one.admitted - age - 2), one.admitted + 1):
            values = chance.normal(size=2)
            before = [told.get((sequence, k)) for k in range(2)]
            if sequence < one.admitted - age:
                with pytest.raises(Refusal) as caught:
                    tell(one, [sequence], values)
                assert caught.value.reason == "LABEL_TOO_OLD"
            elif any(value is not None for value in before):
                with pytest.raises(Refusal) as caught:
                    tell(one, [sequence], values)
                assert caught.value.reason == "LABEL_CONFLICT"
                same = [NAN if value is None else value for value in before]
                assert tell(one, [sequence], same) == (0, 2 - before.count(None))
            elif chance.random() < 0.3:
                assert tell(one, [sequence], values) == (2, 0)
                told |= {(sequence, k): float(values[k]) for k in range(2)}


def test_only_what_is_new_is_folded() -> None:
    one = record()
    take(one, [[1, NAN], [NAN, NAN], [5, 6]])
    admission = examine_labels(one, late([1, 2, 3], [[1, 2], [NAN, NAN], [5, 6]]))
    assert admission.labels.sequences.tolist() == [1]
    assert admission.labels.values.tobytes() == np.array([[NAN, 2.0]]).tobytes()
    assert (admission.accepted, admission.duplicates) == (1, 3)


def test_labels_that_were_withdrawn_may_be_said_again_and_others_stay() -> None:
    one = record(age=2)
    take(one, [[1, NAN], [NAN, NAN], [NAN, NAN]])
    admission = examine_labels(one, late([1, 2], [[1, 2], [3, 4]]))
    admit_labels(one, admission)
    take(one, [[7, 8]])  # its row is where that of the first one was
    withdraw_labels(one, admission)
    assert one.labels is not None
    assert one.labels.get(2, 3).tobytes() == np.array([[NAN, NAN], [NAN, NAN], [7, 8]]).tobytes()
    assert tell(one, [2, 4], [[5, 6], [7, 8]]) == (2, 2)


def test_the_memory_of_labels_grows_with_use() -> None:
    one = record(age=60_000)
    take(one, None, 20)
    assert one.labels is not None
    assert one.labels._cells.nbytes <= 64 * 16


CONFIGS = {
    "plain": SessionConfig(("x",)),
    "labels": SessionConfig(("x",), task="regress", labels=tuple("abcdefgh")),
    "quantiles": SessionConfig(
        ("x", "y"), horizon=24, learner=LearnerConfig(loss="pinball", quantiles=(0.1, 0.5, 0.9))
    ),
    "symbols": SessionConfig(
        ("x",), task="classify", horizon=3, categories=(Categorical("x", tuple(map(str, range(200)))),)
    ),
    "far": SessionConfig(("x",), learner=LearnerConfig(hidden=2, window=1024)),
    "several": SessionConfig(("x", "y"), learners=tuple(LearnerConfig(hidden=2) for _ in range(16))),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_bytes_of_an_event_bound_request_and_reply(name: str) -> None:
    config, n = CONFIGS[name].validated(), 200
    fold = Fold(select_backend("numpy"))
    slot = fold.create(config)
    values = np.random.default_rng(0).integers(0, 2, (n, len(config.features))).astype(float)
    labels = np.ones((n, len(config.labels))) if config.labels else None
    (outs,) = fold.step([(slot, Events(values, np.arange(n) * 10**15, labels, np.arange(n) % 50 == 1))])
    one = Record("s", "u", Terms(config, {}, True, None), 0, {}, 10_000, 10_000)
    reply = forecast_pb2.Outcomes.FromString(packed(outs, one.window))
    assert len(reply.gradient_by_lag) == 3
    assert reply.ByteSize() <= n * event_bytes(config) + 4096
    assert outs.nbytes <= n * event_bytes(config)
    assert batch_events(config, 2**22) * event_bytes(config) <= 2**22
    batch = Batch("", 1, values.ravel(), np.arange(n), None if labels is None else labels.ravel(), np.arange(n))
    requested = sum(c.nbytes for c in (batch.values, batch.timestamps_ns, batch.labels) if c is not None) + 5 * n
    assert requested <= n * event_bytes(config)
    assert held_bytes(one, batch, Reply.EVERY) >= batch.nbytes + outs.nbytes


def test_the_bytes_of_an_event_hold_however_many_learners_go_back() -> None:
    config, n = CONFIGS["several"].validated(), 50
    fold = Fold(select_backend("numpy"))
    (outs,) = fold.step([(fold.create(config), Events(np.zeros((n, 2))))])
    all_back = replace(outs, first_sequence=2**63, learner_reset=np.full_like(outs.learner_reset, 4))
    reply = forecast_pb2.Outcomes.FromString(packed(all_back, 32))
    assert len(reply.learner_resets) == 16 * n
    last = reply.learner_resets[-1]
    assert (last.sequence, last.learner, last.reason) == (2**63 + n - 1, 15, 4)
    assert reply.ByteSize() <= n * event_bytes(config) + 4096


def test_a_session_whose_reply_or_symbols_fit_no_message_is_refused() -> None:
    symbols = tuple(map(str, range(256)))
    wide = SessionConfig(
        ("x",), task="classify", horizon=200, learner=LearnerConfig(hidden=2), categories=(Categorical("x", symbols),)
    ).validated()
    with pytest.raises(Refusal, match=r"distribution is \d+ bytes per reply"):
        batch_events(wide, 2**18)
    assert batch_events(wide, 2**22) >= 1
    names = tuple(f"{n:02}" for n in range(12))
    long = tuple(Categorical(name, tuple(f"{n:03}" + "x" * 61 for n in range(200))) for name in names)
    with pytest.raises(Refusal, match="bytes of symbols"):
        batch_events(SessionConfig((*names, "y"), categories=long).validated(), 2**18)
