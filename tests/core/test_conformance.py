"""Whoever computes learners computes what the reference does in float64, to the accuracy of float32.

The same bodies run over every backend: one step from a random state is held to the gates, whole lessons to the same
decisions. The reference itself, in float32, is one of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lessons import (
    BACKENDS,
    Backend,
    State,
    copied,
    distance,
    random_lesson,
    random_state,
    reference_learn,
    shape_with,
    taught,
)

from bptt_core import ResetReason, UpdateResult, guard
from bptt_core.learner import LearnerShape
from bptt_core.lessons import (
    BY_LAG,
    CLEAR,
    EVENT,
    GRADIENT_NORM,
    LOSS,
    RESET,
    RESULT,
    SATURATION,
    UPDATE_RATIO,
    Learned,
    Lesson,
)
from bptt_core.slab import Rows

# Relative L2 of one step, of every learner.
GATES = {"carry": 2e-6, "boundary": 2e-6, "moment0": 5e-6, "moment1": 1e-5, "good": 0.0}
GATE_STEP, GATE_NORM, GATE_LOSS, GATE_YS = 5e-5, 1e-6, 5e-6, 2e-6
ROUNDING = 2.0**-24  # of parameters; beside it a small step cannot be told to GATE_STEP
LEARNERS = 6

CASES: dict[str, dict[str, Any]] = {
    "lstm": {"horizon": 3, "loss_span": 4},
    "gru": {"cell": "gru", "targets": 2, "clip": "quantile"},
    "tanh": {"cell": "tanh", "optimizer": "sgd", "clip": "value", "guard": False},
    "relu": {"cell": "relu", "optimizer": "momentum", "clip": "off", "horizon": 3, "targets": 2, "loss_span": 9},
    "lstm of 2 layers": {"layers": 2, "hidden": 16, "stride": 3, "loss_span": 3, "schedule": "inverse"},
    "gru of 2 layers": {"cell": "gru", "layers": 2, "hidden": 17, "horizon": 3, "loss_span": 7, "stride": 2},
    "tanh of 2 layers": {"cell": "tanh", "layers": 2, "optimizer": "nesterov", "schedule": "inverse_sqrt"},
    "wide": {"hidden": 32, "inputs": 9, "window": 12, "loss_span": 12, "optimizer": "adamw"},
    "absolute": {"loss": "absolute", "optimizer": "rmsprop", "horizon": 3, "loss_span": 2},
    "huber": {"loss": "huber", "cell": "gru", "optimizer": "rmsprop", "clip": "value"},
    "student_t": {"loss": "student_t", "cell": "tanh", "loss_span": 3, "clip": "quantile", "guard": False},
    "pinball": {"loss": "pinball", "quantiles": (0.1, 0.5, 0.8), "horizon": 3, "targets": 2, "loss_span": 4},
    "gaussian": {"loss": "gaussian", "horizon": 3, "targets": 2, "loss_span": 4, "optimizer": "adamw"},
    "softmax": {"loss": "softmax", "symbols": 5, "horizon": 3, "loss_span": 3},
    "sigmoid": {"loss": "sigmoid", "targets": 2, "cell": "gru"},
    "labels": {"ahead": 0, "loss_span": 3, "targets": 2},
    "symbols as labels": {"ahead": 0, "loss": "softmax", "symbols": 4, "loss_span": 7, "cell": "gru", "stride": 2},
    "labels, yes or no": {"ahead": 0, "loss": "sigmoid", "loss_span": 2, "cell": "tanh", "guard": False, "clip": "off"},
}


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen


def shape_for(backend: Backend, **given: Any) -> LearnerShape:
    shape = backend.fitted(shape_with(**given))
    if not backend.supports(shape):
        pytest.skip(f"{backend.name} leaves this shape to the reference")
    return shape


def check_bookkeeping(shape: LearnerShape, host: Rows, truth: Rows, tolerance: float) -> None:
    """Counters are equal, running numbers close."""
    for name in truth:
        got, expected = host[name], truth[name]
        if name == "arrived_event":  # beyond the window anything may lie
            used = np.arange(shape.rows)[None, :, None] < truth["length"][:, None, None]
            got, expected = np.where(used, got, 0), np.where(used, expected, 0)
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(got, expected, rtol=tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(got, expected, err_msg=name)


def check_window(shape: LearnerShape, device: Rows, truth: Rows, length: np.ndarray) -> None:
    """What lies in the windows is what was given, bit for bit."""
    used = np.arange(shape.rows)[None, :, None] < length[:, None, None]
    for name in ("inputs", "targets"):
        np.testing.assert_array_equal(
            np.where(used, device[name], 0), np.where(used, truth[name], 0).astype(np.float32), err_msg=name
        )


def check_decisions(learned: Learned, truth: Learned) -> None:
    np.testing.assert_array_equal(learned.reports[:, : RESET + 1], truth.reports[:, : RESET + 1])
    np.testing.assert_array_equal(np.isnan(learned.reports), np.isnan(truth.reports))


def check_reports(learned: Learned, truth: Learned, gate: Any) -> None:
    """`gate` of the gradient's norm; the others follow from it. An output that all but meets its target leaves little
    more than rounding to learn from, so that small losses are held to less."""
    check_decisions(learned, truth)
    got, expected = learned.reports, truth.reports
    gate = gate * np.fmax(1, 1 / np.sqrt(abs(expected[:, LOSS])))
    for column, tolerance in ((LOSS, 5 * gate), (GRADIENT_NORM, gate), (SATURATION, 1e-6), (UPDATE_RATIO, 50 * gate)):
        assert np.isclose(got[:, column], expected[:, column], tolerance, 0, equal_nan=True).all(), column
    by_lag, expected_by_lag = got[:, BY_LAG:], expected[:, BY_LAG:]
    assert np.isclose(by_lag, expected_by_lag, 5 * gate[:, None], 1e-9, equal_nan=True).all(), (by_lag, expected_by_lag)


# ---- One step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_one_step_meets_the_gates(backend: Backend, name: str) -> None:
    """From a random state, with an update due for every learner; a third of them measure the gradient by lag."""
    shape = shape_for(backend, **CASES[name])
    state = random_state(shape, LEARNERS, seed=len(name))
    state[1]["optimizer_steps"][::3] = 63
    lesson = random_lesson(shape, LEARNERS, 1, seed=7, events_only=True, missing=0.0)
    device, host, learned = taught(backend.learn, shape, state, lesson)
    true_device, true_host, truth = taught(reference_learn, shape, state, lesson, np.float64)
    assert (truth.reports[:, RESULT] == UpdateResult.APPLIED).all()
    assert (~np.isnan(truth.reports[:, BY_LAG])).sum() == LEARNERS // 3
    check_reports(learned, truth, GATE_NORM)
    check_bookkeeping(shape, host, true_host, GATE_LOSS)
    check_window(shape, device, true_device, true_host["length"])
    assert distance(learned.ys.reshape(1, -1), truth.ys.reshape(1, -1)) <= GATE_YS
    for field, gate in GATES.items():
        if field in device:
            assert distance(device[field], true_device[field]) <= gate, field
    step = np.linalg.norm(true_device["params"] - state[0]["params"], axis=1)
    away = np.linalg.norm(device["params"] - true_device["params"], axis=1)
    assert (away <= GATE_STEP * step + ROUNDING * np.linalg.norm(true_device["params"], axis=1)).all()


# ---- Lessons ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_lesson_leads_to_the_same_decisions(backend: Backend, name: str) -> None:
    """Missing targets, fillers, streams that begin anew, seasons that change, learners that may not learn."""
    shape = shape_for(backend, **CASES[name])
    state = random_state(shape, LEARNERS, seed=20 + len(name))
    state[1]["learning"][LEARNERS - 1] = 0
    state[1]["learning_rate"][...] /= 10  # of the networks that noise teaches, errors grow fast
    lesson = random_lesson(shape, LEARNERS, 24, seed=len(name))
    device, host, learned = taught(backend.learn, shape, state, lesson)
    true_device, true_host, truth = taught(reference_learn, shape, state, lesson, np.float64)
    assert {UpdateResult.APPLIED, UpdateResult.NOT_DUE} < set(truth.reports[:, RESULT].astype(int).tolist())
    assert ResetReason.SEASON in truth.reports[:, RESET]
    check_decisions(learned, truth)
    check_bookkeeping(shape, host, true_host, 1e-4)
    check_window(shape, device, true_device, true_host["length"])
    assert distance(learned.ys.reshape(1, -1), truth.ys.reshape(1, -1)) <= 5e-5
    for field in ("params", "carry", "boundary"):
        assert distance(device[field], true_device[field]) <= 5e-5, field


def test_a_late_label_is_learned_before_its_stream_begins_anew(backend: Backend) -> None:
    """Nothing has come since the last update but labels that count as the next event's."""
    shape = shape_for(backend, ahead=0)
    state = random_state(shape, 3, seed=8)
    host = state[1]
    host["arrived_event"][...], host["since_update"][...] = host["event_count"][:, None, None], 0
    host["arrived_event"][0, 2], state[0]["targets"][0, 2] = host["event_count"][0] + 1, 0.5
    lesson = random_lesson(shape, 3, 1, seed=9, events_only=True, missing=1.0)
    lesson.flags[...] |= CLEAR
    learned = check_same(backend, shape, state, lesson)
    results = [UpdateResult.APPLIED, UpdateResult.NO_TARGET, UpdateResult.NO_TARGET]
    assert learned.reports[:, RESULT].tolist() == results


def test_log_variances_beyond_their_limit_are_led_back_and_never_further_out(backend: Backend) -> None:
    """Above and below it, with errors that push them out and errors that lead them back."""
    shape = shape_for(backend, loss="gaussian", optimizer="momentum", clip="off", guard=False)
    device, host = state = random_state(shape, 4, seed=10)
    wo, bo = shape.layout.readout(device["params"])
    wo[...], bo[...] = 0, [[0, 13], [0, 13], [0, -13], [0, -13]]
    device["moment0"][...], host["weight_decay"][...] = 0, 0
    host["span"][...] = 1
    lesson = random_lesson(shape, 4, 1, seed=9, events_only=True)
    lesson.arrived[:, :, 0] = [[1e4, 0], [1, 1]]  # of two sessions' two anchors: learners 0, 2 and 1, 3
    moved = taught(backend.learn, shape, state, lesson)[0]["moment0"]
    truth = taught(reference_learn, shape, state, lesson, np.float64)[0]["moment0"]
    assert (truth[:, -1] == 0).tolist() == [True, False, True, False]
    assert distance(moved, truth) <= GATES["moment0"]


@pytest.mark.parametrize("cell", ["tanh", "relu", "gru", "lstm"])
def test_a_hundred_updates_lead_to_the_same_outputs(backend: Backend, cell: str) -> None:
    shape = shape_for(backend, cell=cell, hidden=16, loss_span=4)
    state = random_state(shape, 2, seed=3)
    state[1]["learning_rate"][...] = 0.005
    lesson = random_lesson(shape, 2, 100, seed=4, events_only=True, missing=0.1)
    learned = taught(backend.learn, shape, state, lesson)[2]
    truth = taught(reference_learn, shape, state, lesson, np.float64)[2]
    check_decisions(learned, truth)
    assert (truth.reports[:, RESULT] == UpdateResult.APPLIED).sum() > 170
    assert (~np.isnan(truth.reports[:, BY_LAG])).sum() >= 2, "every 64th update"
    assert distance(learned.ys.reshape(1, -1), truth.ys.reshape(1, -1)) <= 1e-3


# ---- The guard, and numbers that are not finite ----------------------------------------------------------------------


def steps_of_one(shape: LearnerShape, steps: int, seed: int = 5) -> Lesson:
    """Events for two learners, none missing."""
    return random_lesson(shape, 2, steps, seed, events_only=True, missing=0.0)


def check_same(backend: Backend, shape: LearnerShape, state: State, lesson: Lesson) -> Learned:
    """The backend and the reference, both in float32, decide alike and count alike; returns what was learned."""
    host, learned = taught(backend.learn, shape, state, lesson)[1:]
    true_host, truth = taught(reference_learn, shape, state, lesson)[1:]
    check_decisions(learned, truth)
    check_bookkeeping(shape, host, true_host, 1e-3)
    return learned


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
def test_leaps_are_taken_back_alike(backend: Backend, optimizer: str) -> None:
    shape = shape_for(backend, optimizer=optimizer)
    state = random_state(shape, 2, seed=11)
    state[1]["learning_rate"][0], state[1]["clip_limit"][...] = 300, 50
    learned = check_same(backend, shape, state, steps_of_one(shape, 12))
    assert learned.reports[0, RESET] == ResetReason.DIVERGED
    assert (learned.reports[12:, RESET] == 0).all(), "the other one does not leap"


def test_learners_are_led_back_alike(backend: Backend) -> None:
    """One is so far off that it goes back, again and again until it begins anew; the other does so well that its
    parameters are kept and its rate is raised."""
    shape = shape_for(backend)
    state = random_state(shape, 2, seed=12)
    device, host = state
    for rows in (device["params"][:1], device["good"][:1]):
        for part in shape.layout.readout(rows):
            part[...] *= 100
    for part in shape.layout.readout(device["params"][1:]):
        part[...] = 0
    host["guard_count"][...], host["strikes"][...], host["learning_rate"][...] = guard.FEWEST - 1, 2, 1e-4
    host["guard_loss"][...], host["guard_naive"][...] = [9, 1], [1, 1]
    host["healthy"][1], host["steady"][1], host["rate_factor"][1] = guard.KEEP_EVERY - 2, guard.RECOVERY, 0.25
    learned = check_same(backend, shape, state, steps_of_one(shape, 2 * guard.FEWEST))
    resets = learned.reports[:, RESET].reshape(-1)
    assert resets[0] == ResetReason.DIVERGED
    assert ResetReason.RESTARTED in resets
    kept_device, kept_host = taught(backend.learn, shape, state, steps_of_one(shape, 6))[:2]
    assert kept_host["rate_factor"][1] == 0.5
    assert (kept_device["good"][1] != device["good"][1]).any()


def broken_states(shape: LearnerShape) -> dict[str, tuple[State, Lesson]]:
    """Numbers that are not finite, or whose squares are not, wherever one can be, in the first of two learners."""
    found, fields = {}, random_state(shape, 1, seed=1)[0]
    for value in (np.nan, np.inf, -np.inf, 1e30):
        for field in ("params", "moment0", "moment1", "carry", "boundary", "inputs", "targets"):
            if field not in fields or (field == "moment1" and value < 0):  # a mean of squares
                continue
            state, lesson = random_state(shape, 2, seed=13), steps_of_one(shape, 10)
            flat = state[0][field][0].reshape(-1)
            flat[: len(flat) // 2] = value
            found[f"{field} {value}"] = state, lesson
        for given in ("inputs", "arrived"):
            state, lesson = random_state(shape, 2, seed=14), steps_of_one(shape, 10)
            getattr(lesson, given)[1, 0] = value
            found[f"given {given} {value}"] = state, lesson
    return found


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
@pytest.mark.parametrize("guarded", [True, False])
def test_what_is_not_finite_is_refused_alike(backend: Backend, cell: str, guarded: bool) -> None:
    shape = shape_for(backend, cell=cell, guard=guarded)
    refused = 0
    for name, (state, lesson) in broken_states(shape).items():
        host, learned = taught(backend.learn, shape, state, lesson)[1:]
        true_host, truth = taught(reference_learn, shape, state, lesson)[1:]
        np.testing.assert_array_equal(learned.reports[:, :LOSS], truth.reports[:, :LOSS], err_msg=name)
        for counter in ("applied", "non_finite", "carry_resets", "length", "optimizer_steps"):
            np.testing.assert_array_equal(host[counter], true_host[counter], err_msg=f"{name}: {counter}")
        np.testing.assert_array_equal(np.isfinite(learned.ys), np.isfinite(truth.ys), err_msg=name)
        refused += int(host["non_finite"][0])
        assert host["non_finite"][1] == 0
    assert refused > 20


# ---- Company ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "gru of 2 layers", "symbols as labels"])
def test_a_learner_does_not_depend_on_its_company(backend: Backend, name: str) -> None:
    """Alone, in another order or beside others: bit for bit the same."""
    shape = shape_for(backend, **CASES[name])
    state, lesson = random_state(shape, 5, seed=15), random_lesson(shape, 5, 16, seed=16)
    together = taught(backend.learn, shape, state, lesson)
    order = np.array([3, 0, 4, 1, 2])
    for chosen in (order, *(np.array([k]) for k in range(5))):
        device, host, learned = taught(backend.learn, shape, rows_of(state, chosen), lesson_of(lesson, chosen))
        for rows, all_rows in ((device, together[0]), (host, together[1])):
            for field, row in rows.items():
                assert row.tobytes() == all_rows[field][chosen].tobytes(), field
        start, count = lesson.first_output, lesson.count
        here = np.concatenate([start[k] + np.arange(count[k]) for k in chosen])
        assert learned.ys.tobytes() == together[2].ys[here].tobytes()
        assert learned.reports.tobytes() == together[2].reports[here].tobytes()


def test_steps_may_come_in_any_portions(backend: Backend) -> None:
    """One lesson or many of one step each: bit for bit the same."""
    shape = shape_for(backend, horizon=3, loss_span=4, stride=2)
    state, lesson = random_state(shape, 1, seed=17), random_lesson(shape, 1, 12, seed=18)
    device, host, learned = taught(backend.learn, shape, state, lesson)
    own_device, own_host = copied(state)
    with np.errstate(all="ignore"):
        parts = [backend.learn(shape, own_device, own_host, one_step(lesson, s)) for s in range(12)]
    assert np.concatenate([part.ys for part in parts]).tobytes() == learned.ys.tobytes()
    assert np.concatenate([part.reports for part in parts]).tobytes() == learned.reports.tobytes()
    for rows, all_rows in ((own_device, device), (own_host, host)):
        assert {k: v.tobytes() for k, v in rows.items()} == {k: v.tobytes() for k, v in all_rows.items()}


def rows_of(state: State, chosen: np.ndarray) -> State:
    device, host = state
    return {k: v[chosen] for k, v in device.items()}, {k: v[chosen] for k, v in host.items()}


def lesson_of(lesson: Lesson, chosen: np.ndarray) -> Lesson:
    per_learner = (column[chosen] for column in (lesson.start, lesson.count, lesson.anchor, lesson.season))
    return Lesson(*per_learner, lesson.inputs, lesson.arrived, lesson.flags)


def one_step(lesson: Lesson, step: int) -> Lesson:
    start, count = lesson.start + step, np.ones_like(lesson.count)
    return Lesson(start, count, lesson.anchor, lesson.season, lesson.inputs, lesson.arrived, lesson.flags)


def test_the_lessons_have_what_they_are_to_show() -> None:
    """Every flag, every field, every choice that a shape can make is somewhere in the cases."""
    flags = random_lesson(shape_with(), 2, 24, seed=4).flags
    assert (flags & EVENT == 0).any()
    assert (flags & CLEAR != 0).any()
    shapes = [shape_with(**given) for given in CASES.values()]
    for field, values in {
        "cell": {"tanh", "relu", "gru", "lstm"}, "clip": {"off", "norm", "value", "quantile"}, "ahead": {0, 1},
        "optimizer": {"sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"}, "guard": {True, False},
        "schedule": {"constant", "inverse", "inverse_sqrt"}, "layers": {1, 2}, "horizon": {1, 3}, "targets": {1, 2},
    }.items():  # fmt: skip
        assert {getattr(shape, field) for shape in shapes} == values
    assert len({shape.loss for shape in shapes}) == 8
