"""Compiled sessions are the reference's: outcomes, decisions and every array of the state, whatever is configured.

Both begin a session and take the same events; then it is trained where that is faster, moved to the reference by its
checkpoint, and both go on. What is computed in float64 from the stream alone must agree to 1e-9; what passes through
learners, whose sums are rounded to float32 in another order, to that, and more loosely the more updates lie between.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from folds import FASTEST, backend_called, needs_compiled

from bptt_core import Categorical, Events, Fold, Labels, LearnerConfig, Outcomes, SessionConfig, Slot, checkpoint, guard
from bptt_core.outcomes import COLUMNS
from bptt_core.scales import fields as scaling_fields
from bptt_core.shape import field_name

pytestmark = needs_compiled

HOUR = 3_600_000_000_000
BEGIN, TRAINED, REST = 40, 300, 40  # events: of both, of the compiled one alone, of both
EXACT = 1e-9
# Relative L2 of a learner's arrays after one update: the gates of the kernels. Of parameters it is the step that is
# held to 5e-5, and steps are small beside them.
GATES = {"carry": 2e-6, "boundary": 2e-6, "params": 2e-6, "good": 2e-6, "moment0": 5e-6, "moment1": 1e-5}
AT_ONCE, AFTER_MANY = 2e-6, 2e-4  # of what learners had a part in
LSTM = LearnerConfig(hidden=8, window=12, loss_span=5, learning_rate=0.01)
SYMBOLS = (Categorical("s", tuple("abcdefgh")),)


@dataclass(frozen=True)
class Case:
    """A session, its stream, and what must be met on the way so that the case tests what it says."""

    config: SessionConfig
    timed: bool = False
    learning: bool = True
    broken: dict[int, dict[str, float]] = field(default_factory=dict)  # learners' fields that are overwritten half-way
    met: set[str] = field(default_factory=set)


def learners(*given: dict[str, Any]) -> tuple[LearnerConfig, ...]:
    return tuple(replace(LSTM, seed=k, **fields) for k, fields in enumerate(given))


CASES = {
    "default, one series": Case(SessionConfig(("x",)), met={"season", "drift", "reset_season"}),
    "default, three series": Case(SessionConfig(("x", "y", "z"), horizon=3), timed=True, met={"season", "gap"}),
    "given seasons, several shapes": Case(
        SessionConfig(
            ("x", "y", "z"),
            targets=("z", "x"),
            horizon=3,
            seasons=(12, 5),
            learners=learners(
                {"anchor": "season", "loss": "huber", "optimizer": "adamw"},
                {"cell": "gru", "window": 6, "stride": 2, "anchor": "second_season", "clip": "quantile"},
                {"cell": "tanh", "anchor": "none", "schedule": "inverse", "decay_updates": 50},
                {"loss_span": 12, "clip": "value", "loss": "absolute", "optimizer": "rmsprop"},
            ),
        ),
        timed=True,
        met={"gap"},
    ),
    "symbols beside numbers, learners led back": Case(
        SessionConfig(
            ("x", "y", "s"),
            targets=("x", "y"),
            categories=SYMBOLS,
            period_ns=HOUR,
            learners=learners({}, {}, {"optimizer": "sgd", "clip": "off"}, {"hidden": 5}),
        ),
        timed=True,
        broken={0: {"params": np.nan}, 1: {"moment0": np.inf}, 2: {"params": np.inf, "strikes": guard.STRIKES}},
        met={"gap", "reset_non_finite", "reset_diverged", "reset_restarted"},
    ),
    "quantiles": Case(
        SessionConfig(
            ("x", "y"),
            horizon=2,
            coverage=0.8,
            learner=replace(LSTM, loss="pinball", quantiles=(0.1, 0.5, 0.9), optimizer="nesterov", clip="value"),
        ),
        met={"drift"},
    ),
    "gaussian by season": Case(
        SessionConfig(
            ("x", "y"),
            seasons=(12,),
            seasonality="given",
            learner=replace(LSTM, cell="gru", loss="gaussian", optimizer="adamw", clip="quantile", anchor="season"),
        ),
        timed=True,
        met={"gap"},
    ),
    "fixed scaling, no seasons": Case(
        SessionConfig(
            ("x", "y"),
            scaling="fixed",
            means=(0.5, 0.0),
            deviations=(4.0, 3.0),
            seasonality="off",
            learner=replace(
                LSTM, cell="relu", layers=2, loss="absolute", optimizer="momentum", clip="off",
                schedule="inverse_sqrt", warmup_updates=9, decay_updates=20, learning_rate=0.001,
            ),
        ),
    ),
    "student_t, deep, strides, unguarded": Case(
        SessionConfig(
            ("x", "y"),
            horizon=5,
            learner=replace(
                LSTM, cell="gru", layers=3, loss="student_t", optimizer="rmsprop", stride=3, guard=False, anchor="none"
            ),
        ),
        timed=True,
        met={"gap"},
    ),
    # Learners that have not learned say 0, whoever computes them: what is made of it is exact.
    "not learning": Case(
        SessionConfig(("x", "y", "z"), horizon=3, learners=learners({}, {"cell": "tanh", "anchor": "season"})),
        timed=True,
        learning=False,
        met={"season", "gap"},
    ),
}  # fmt: skip


def stream_of(config: SessionConfig, timed: bool, seed: int = 1) -> Events:
    """A season of twelve in noise, one series drifting, values missing; in the second half gaps in time, some of them
    long, and new episodes; shortly before the last events the noise grows."""
    n, rng = BEGIN + TRAINED + REST, np.random.default_rng(seed)
    t, features = np.arange(n), len(config.features)
    noise = rng.standard_normal((n, features)) * np.where(t < n - REST - 12, 0.5, 6.0)[:, None]
    values = 4 * np.sin(2 * np.pi * t / 12)[:, None] + noise
    values[:, features // 2] += rng.standard_normal(n).cumsum()
    values[rng.random(values.shape) < 0.05] = np.nan
    for k, name in enumerate(config.features):
        if config.symbols(name):
            values[:, k] = t % len(config.symbols(name))
    labels = None
    if config.labels:
        labels = rng.integers(0, 2, (n, len(config.labels))).astype(float)
        labels[rng.random(labels.shape) < 0.3] = np.nan
    if not timed:
        return Events(values, None, labels)
    gaps = np.where(t > n // 2, rng.choice([1, 1, 1, 1, 2, 3, 5, 400], n), 1)
    return Events(values, HOUR * gaps.cumsum(), labels, (rng.random(n) < 0.05) & (t > n // 2))


def away(got: np.ndarray, truth: np.ndarray) -> float:
    """Relative L2 distance of the finite numbers; the others must be the same ones."""
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(got[~finite], truth[~finite])
    got, truth = (a[finite].astype(np.float64) for a in (got, truth))
    unit = max(float(np.abs(truth).max(initial=0)), 1e-12)  # so that no square overflows
    return float(np.linalg.norm((got - truth) / unit) / max(float(np.linalg.norm(truth / unit)), 1e-12))


def check_outcomes(got: Outcomes, truth: Outcomes, gate: float) -> None:
    assert got.first_sequence == truth.first_sequence
    for name in COLUMNS:
        mine, expected = getattr(got, name), getattr(truth, name)
        if expected.dtype.kind == "f":
            assert away(mine, expected) <= gate, name
        else:
            np.testing.assert_array_equal(mine, expected, err_msg=name)


def check_states(
    compiled: tuple[Fold, Slot], reference: tuple[Fold, Slot], gates: dict[str, float], rest: float
) -> None:
    """Counters are equal, what comes from the stream alone is exact, and what learners touched meets the gates."""
    exact = {f.name for f in scaling_fields(compiled[1].shape.scaling)}
    got, truth = (checkpoint.load(fold.checkpoint(slot))[1] for fold, slot in (compiled, reference))
    for name, whole in truth.items():
        learner, _, own = name.rpartition(".")
        mine, expected = got[name], whole
        if learner and own in ("inputs", "targets", "arrived_event"):  # beyond the window's length anything may lie
            length = int(truth[f"{learner}.length"])
            mine, expected = mine[:length], expected[:length]
        if expected.dtype.kind == "f":
            gate = EXACT if name in exact else gates.get(own, rest)
            assert away(mine, expected) <= gate, name
        else:
            np.testing.assert_array_equal(mine, expected, err_msg=name)


def both(
    compiled: tuple[Fold, Slot],
    reference: tuple[Fold, Slot],
    events: Events,
    gate: float,
    gates: dict[str, float] | None = None,
) -> Outcomes:
    """The compiled session's outcomes, which are those of the reference; `gates` for the learners' arrays if not
    `gate`."""
    got, truth = (fold.step([(slot, events)])[0] for fold, slot in (compiled, reference))
    check_outcomes(got, truth, gate)
    check_states(compiled, reference, gates or {}, gate)
    return got


def new_pair(config: SessionConfig, learning: bool = True) -> list[tuple[Fold, Slot]]:
    """A compiled session and one of the reference."""
    folds = [Fold(backend_called(name)) for name in (FASTEST, "numpy")]
    return [(fold, fold.create(config, learning)) for fold in folds]


@pytest.mark.parametrize("name", CASES)
def test_compiled_sessions_are_those_of_the_reference(name: str) -> None:
    case = CASES[name]
    config = case.config.validated()
    events = stream_of(config, case.timed)
    compiled, reference = new_pair(config, case.learning)
    fold, slot = compiled
    assert fold.backend_of(slot) == "numba"
    at_once, after_many = (AT_ONCE, AFTER_MANY) if case.learning else (EXACT, EXACT)
    both(compiled, reference, events.rows(0, BEGIN), after_many, {} if case.learning else GATES)
    at = BEGIN + TRAINED
    fold.step([(slot, events.rows(BEGIN, at))])
    for k, fields in case.broken.items():
        for own, value in fields.items():
            fold._store.set(slot, field_name(k, own), value)
    moved = reference[0], reference[0].restore(fold.checkpoint(slot))
    both(compiled, moved, events.rows(at, at + 1), at_once, GATES)
    last = both(compiled, moved, events.rows(at + 1, at + REST), after_many, {} if case.learning else GATES)
    assert case.met <= what_was_met(fold, slot, last)


def what_was_met(fold: Fold, slot: Slot, last: Outcomes) -> set[str]:
    status = fold.status(slot)
    found = {name for name in guard.RESETS.values() if getattr(status.updates, name)}
    return found | {
        *(["season"] if any(status.seasons) else []),
        *(["drift"] if last.drift.any() else []),
        *(["gap"] if fold._store.get(slot, "forecast_steps") > status.last_sequence else []),
    }


STAGED = {
    "labels": SessionConfig(("x", "y"), task="regress", labels=("u",), label_age=9, learner=LSTM),
    "a symbol as label": SessionConfig(
        ("x", "s"),
        task="classify",
        labels=("u",),
        categories=(*SYMBOLS, Categorical("u", ("no", "yes"))),
        learner=replace(LSTM, cell="gru"),
    ),
    "the next symbols": SessionConfig(
        ("x", "s"), task="classify", targets=("s",), horizon=2, categories=SYMBOLS, learner=replace(LSTM, cell="tanh")
    ),
}


@pytest.mark.parametrize("name", STAGED)
def test_of_other_sessions_the_learners_are_compiled_and_agree(name: str) -> None:
    """What is predicted from the same events by stages of the reference and compiled learners; labels that come late
    are trained with. Other sessions in the call are stepped whole."""
    config = STAGED[name].validated()
    events = stream_of(config, timed=not config.labels)
    compiled, reference = new_pair(config)
    fold, slot = compiled
    beside = fold.create(CASES["quantiles"].config)
    assert (fold.backend_of(slot), fold.backend_of(beside)) == ("numba+numpy", "numba")
    for start, stop in ((0, 30), (30, 60)):
        got = fold.step([(beside, stream_of(CASES["quantiles"].config, timed=False).rows(start, stop)),
                         (slot, events.rows(start, stop))])[1]  # fmt: skip
        check_outcomes(got, reference[0].step([(reference[1], events.rows(start, stop))])[0], AFTER_MANY)
        if events.labels is not None:
            late = np.flatnonzero(np.isnan(events.labels[stop - 5 : stop, 0])) + stop - 4
            labels = Labels(late, np.ones((len(late), 1)))
            assert fold.label(slot, labels) == reference[0].label(reference[1], labels)
    check_states(compiled, reference, {}, AFTER_MANY)
    assert fold.status(slot).updates.applied > 30


def test_histories_train_compiled_sessions_as_they_do_the_reference(random_walks: Any) -> None:
    """Warm starts are the reference's on every backend of the CPU, to the bit; what comes after them agrees."""
    pair = new_pair(SessionConfig(("x", "y"), learners=learners({}, {"cell": "gru"})))
    values = random_walks(100, 2)
    for fold, slot in pair:
        training = fold.warm_start(slot, Events(values[:60]))
        training.run_pass()
        training.finish()
    arrays = [checkpoint.load(fold.checkpoint(slot))[1] for fold, slot in pair]
    assert all(arrays[0][name].tobytes() == arrays[1][name].tobytes() for name in arrays[0])
    both(pair[0], pair[1], Events(values[60:61]), AT_ONCE, GATES)
    both(pair[0], pair[1], Events(values[61:]), AFTER_MANY)
