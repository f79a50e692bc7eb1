"""Full backpropagation through time: against differences of the loss, and as what truncation becomes without a cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learners import RATE, D, first_params, learner_shape, learners

from bptt_core import full_bptt, tbptt
from bptt_core.cells import CELLS
from bptt_core.learner import COUNTERS
from bptt_core.slab import Rows

ONE = np.ones((1, 1))

WINDOW = {"carry", "boundary", "inputs", "targets", "length", "event_count", "arrived_event"}
OF_STREAMS = WINDOW | set(COUNTERS)  # what updates outside a stream leave as it is

Sequence = tuple[np.ndarray, np.ndarray]  # xs [T, D], arrived [T, N]


def sequence(shape: tbptt.LearnerShape, steps: int, seed: int) -> Sequence:
    """A fifth of the targets is missing, and none arrives before its step."""
    rng = np.random.default_rng(seed)
    arrived = rng.standard_normal((steps, shape.horizon, shape.targets))
    arrived[rng.random(arrived.shape) < 0.2] = np.nan
    if shape.loss == "softmax":
        arrived = abs(np.round(arrived)) % shape.symbols
    for h in range(shape.horizon):
        arrived[: h + shape.ahead, h] = np.nan
    return rng.standard_normal((steps, D)), arrived.reshape(steps, -1)


def targeted(shape: tbptt.LearnerShape, sequences: list[Sequence]) -> list[Sequence]:
    return [(xs, full_bptt.sequence_targets(shape, arrived)) for xs, arrived in sequences]


def stream(
    shape: tbptt.LearnerShape, rows: tuple[Rows, Rows], part: Sequence
) -> list[tuple[np.ndarray, tbptt.StepReport]]:
    """Feeds a sequence to one learner, step by step."""
    yes = np.ones(1, bool)
    return [tbptt.step(np, shape, *rows, x[None], arrived[None], yes) for x, arrived in zip(*part, strict=True)]


def mean_loss(shape: tbptt.LearnerShape, params: np.ndarray, sequences: list[Sequence]) -> float:
    """Over all pairs of all sequences."""
    found = [full_bptt.gradient(np, shape, params, xs[:, None], t[:, None], ONE) for xs, t in sequences]
    return sum(part.pairs * float(part.loss[0]) for part in found) / sum(part.pairs for part in found)


def assert_slope(shape: tbptt.LearnerShape, params: np.ndarray, slope: np.ndarray, sequences: list[Sequence]) -> None:
    """`slope` [1, P] is that of the mean loss in random directions, by differences."""
    for seed in range(3):
        way = np.random.default_rng(seed).standard_normal(params.shape)
        at = [mean_loss(shape, params + k * 1e-4 * way, sequences) for k in (-2, -1, 1, 2)]
        expected = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / 12e-4
        assert (slope * way).sum() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    "case",
    [
        *({"cell": cell, "layers": 2, "horizon": 3, "targets": 2} for cell in CELLS if cell != "relu"),
        {"cell": "gru", "ahead": 0, "targets": 2, "loss": "student_t"},
        {"cell": "tanh", "loss": "softmax", "symbols": 3, "horizon": 2},
    ],
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_the_gradient_is_that_of_the_mean_over_the_known_pairs_of_the_sequence(case: dict[str, Any]) -> None:
    shape = learner_shape(**case)
    params = first_params(shape)
    ((xs, targets),) = sequences = targeted(shape, [sequence(shape, 11, seed=4)])
    found = full_bptt.gradient(np, shape, params, xs[:, None], targets[:, None], ONE)
    assert found.pairs == (~np.isnan(targets)).sum() > 5
    assert_slope(shape, params, found.rows, sequences)


@pytest.mark.parametrize(("ahead", "horizon"), [(0, 1), (1, 1), (1, 4)])
def test_what_arrived_moves_to_the_step_it_belongs_to(ahead: int, horizon: int) -> None:
    shape = learner_shape(ahead=ahead, horizon=horizon, targets=2)
    arrived = np.arange(6.0 * horizon * 2).reshape(6, -1)
    targets = full_bptt.sequence_targets(shape, arrived)
    for step, h, o in np.ndindex(6, horizon, 2):
        arrives = step + h + ahead
        expected = arrived[arrives, 2 * h + o] if arrives < 6 else np.nan
        np.testing.assert_equal(targets[step, 2 * h + o], expected)


@pytest.mark.parametrize(
    "case",
    [
        *({"cell": cell, "layers": 2, "optimizer": "adam", "clip": "norm", "horizon": 2} for cell in CELLS),
        {"cell": "lstm", "optimizer": "nesterov", "clip": "value", "ahead": 0, "targets": 2},
        {"cell": "gru", "optimizer": "rmsprop", "schedule": "inverse", "loss": "huber", "clip": "quantile"},
    ],
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_truncation_that_cuts_nothing_trains_every_episode_as_full_bptt_does(case: dict[str, Any]) -> None:
    steps = 9
    shape = learner_shape(**case, window=steps, stride=steps, loss_span=steps)
    params = first_params(shape)
    episodes = [sequence(shape, steps, seed) for seed in range(12)]
    truncated, full = learners(shape, params), learners(shape, params)
    for _, host in (truncated, full):
        host["clip_limit"][...], host["warmup_updates"][...], host["weight_decay"][...] = 0.3, 5, 0.1
    losses = []
    for k, episode in enumerate(episodes):
        tbptt.begin_anew(np, shape, *truncated, np.ones(1, bool))
        losses.append(float(stream(shape, truncated, episode)[-1][1].loss[0]))
        loss, applied = full_bptt.train_pass(np, shape, *full, targeted(shape, episodes[k : k + 1]))
        assert applied == 1
        assert loss == pytest.approx(losses[-1], rel=1e-6)  # reported in float32
    for part in (0, 1):
        for name in set(full[part]) - OF_STREAMS:
            np.testing.assert_allclose(full[part][name], truncated[part][name], rtol=1e-11, atol=1e-14, err_msg=name)
    again = learners(shape, params)
    for name in ("clip_limit", "warmup_updates", "weight_decay"):
        again[1][name][...] = full[1][name]
    loss, applied = full_bptt.train_pass(np, shape, *again, targeted(shape, episodes))
    assert applied == len(episodes)
    assert again[0]["params"].tobytes() == full[0]["params"].tobytes()


def test_one_update_per_pass_follows_the_gradient_of_the_mean_over_all_pairs() -> None:
    shape = learner_shape(cell="gru", layers=2, horizon=2)
    params = first_params(shape)
    device, host = learners(shape, params)
    sequences = targeted(shape, [sequence(shape, steps, seed=steps) for steps in (4, 9, 17)])
    loss, applied = full_bptt.train_pass(np, shape, device, host, sequences, per_pass=True)
    assert (applied, host["optimizer_steps"][0]) == (1, 1)
    assert loss == pytest.approx(mean_loss(shape, params, sequences), rel=1e-12)
    assert_slope(shape, params, (params - device["params"]) / RATE, sequences)
    after, _ = full_bptt.train_pass(np, shape, device, host, sequences, per_pass=True)
    assert after < loss


def test_the_loss_of_a_pass_is_that_of_each_sequence_before_its_update() -> None:
    shape = learner_shape(cell="lstm")
    rows = learners(shape, first_params(shape))
    sequences = targeted(shape, [sequence(shape, steps, seed=steps) for steps in (5, 12)])
    first = mean_loss(shape, rows[0]["params"], sequences[:1])
    by_hand = learners(shape, rows[0]["params"])
    full_bptt.train_pass(np, shape, *by_hand, sequences[:1])
    second = mean_loss(shape, by_hand[0]["params"], sequences[1:])
    counts = [(~np.isnan(targets)).sum() for _, targets in sequences]
    loss, applied = full_bptt.train_pass(np, shape, *rows, sequences)
    assert applied == 2
    assert loss == pytest.approx((counts[0] * first + counts[1] * second) / sum(counts), rel=1e-12)


@pytest.mark.parametrize("per_pass", [False, True])
def test_a_sequence_that_is_not_finite_or_has_no_target_is_skipped(per_pass: bool) -> None:
    shape = learner_shape(cell="tanh", optimizer="adam")
    good, bad, empty = targeted(shape, [sequence(shape, 8, seed) for seed in (1, 2, 3)])
    bad[1][3] = 1e200
    empty[1][...] = np.nan
    with_them, without = learners(shape, first_params(shape)), learners(shape, first_params(shape))
    with np.errstate(over="ignore"):
        given = full_bptt.train_pass(np, shape, *with_them, [bad, good, empty], per_pass)
    assert given == full_bptt.train_pass(np, shape, *without, [good], per_pass)
    assert given[1] == 1
    assert with_them[0]["params"].tobytes() == without[0]["params"].tobytes()
    before = with_them[0]["params"].tobytes()
    loss, applied = full_bptt.train_pass(np, shape, *with_them, [empty], per_pass)
    assert np.isnan(loss)
    assert applied == 0
    assert with_them[0]["params"].tobytes() == before


@pytest.mark.parametrize("steps", [2, 8, 30])
@pytest.mark.parametrize(
    "case",
    [
        {"cell": "lstm", "layers": 2, "horizon": 2, "window": 5, "stride": 2, "loss_span": 4},
        {"cell": "gru", "ahead": 0, "targets": 2, "window": 5, "stride": 2, "loss_span": 5},
        {"cell": "tanh", "ahead": 0, "window": 2, "stride": 2, "loss_span": 2},
    ],
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_the_stream_goes_on_as_if_the_sequence_had_been_its_beginning(case: dict[str, Any], steps: int) -> None:
    shape = learner_shape(**case)
    history, live = sequence(shape, steps, seed=5), sequence(shape, 12, seed=6)
    live[1][: shape.horizon] = 1.0  # some of them belong to steps of the history
    streamed, entered = learners(shape, first_params(shape)), learners(shape, first_params(shape))
    streamed[1]["learning"][...] = 0
    stream(shape, streamed, history)
    ((xs, targets),) = targeted(shape, [history])
    full_bptt.enter_stream(np, shape, *entered, xs, targets)
    np.testing.assert_allclose(entered[0]["carry"], streamed[0]["carry"], rtol=1e-12)
    assert entered[1]["length"][0] == min(steps, shape.rows - shape.stride)
    for _, host in (streamed, entered):
        host["learning"][...] = 0
    for part in (slice(0, shape.stride), slice(shape.stride, None)):  # then both hold the same window
        for (ys, report), (ours, own) in zip(
            stream(shape, streamed, (live[0][part], live[1][part])),
            stream(shape, entered, (live[0][part], live[1][part])),
            strict=True,
        ):
            np.testing.assert_allclose(ours, ys, rtol=1e-11)
            assert own.result == report.result
        for _, host in (streamed, entered):
            host["learning"][...] = 1
    for name in ("params", "carry", "boundary"):
        np.testing.assert_allclose(entered[0][name], streamed[0][name], rtol=1e-11, atol=1e-14)
    assert streamed[1]["optimizer_steps"][0] == entered[1]["optimizer_steps"][0] >= 3
