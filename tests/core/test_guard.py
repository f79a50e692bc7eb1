"""A learner that goes astray is led back by its own errors alone, and nothing else moves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from learners import D, first_params, learner_shape, learners

from bptt_core import Events, Fold, LearnerConfig, ResetReason, SessionConfig, UpdateResult, guard, tbptt
from bptt_core.learner import LearnerShape
from bptt_core.slab import Rows

NONE = 0
NON_FINITE, DIVERGED, RESTARTED = ResetReason.NON_FINITE, ResetReason.DIVERGED, ResetReason.RESTARTED


def shape_of(**given: Any) -> LearnerShape:
    return learner_shape(**{"cell": "lstm", "optimizer": "adam", "guard": True} | given)


def signal(steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [steps, D], and targets [steps, 1] that arrive with them: noise, but for the input of the step before."""
    rng = np.random.default_rng(seed)
    xs = rng.standard_normal((steps, D))
    arrived = np.concatenate([[np.nan], xs[:-1, 0]]) + 0.5 * rng.standard_normal(steps)
    return xs, arrived[:, None]


def run(
    shape: LearnerShape, device: Rows, host: Rows, steps: int, seed: int = 0, trail: list[np.ndarray] | None = None
) -> list[tbptt.StepReport]:
    """All learners through one stream; their parameters after each step go to `trail`."""
    B, told = len(host["length"]), []
    with np.errstate(all="ignore"):
        for x, y in zip(*signal(steps, seed), strict=True):
            xs, arrived = (np.tile(row, (B, 1)).astype(device["params"].dtype) for row in (x, y))
            told.append(tbptt.step(np, shape, device, host, xs, arrived, np.ones(B, bool))[1])
            if trail is not None:
                trail.append(device["params"].copy())
    return told


def copy(rows: Rows) -> Rows:
    return {name: array.copy() for name, array in rows.items()}


def far_off(shape: LearnerShape, params: np.ndarray) -> np.ndarray:
    """The same networks with enormous outputs."""
    params = params.copy()
    for part in shape.layout.readout(params):
        part[...] *= 100
    return params


def test_who_is_led_back_and_when() -> None:
    """Beside each other: one that is far off, one without a finite parameter, and one that is well."""
    shape = shape_of()
    params = first_params(shape, 3)
    device, host = learners(shape, params, np.float32)
    device["params"][:1] = far_off(shape, device["params"][:1])
    device["params"][1] = np.nan
    start = device["good"].copy()
    told = run(shape, device, host, 60)
    reset = np.array([report.reset for report in told])
    result = np.array([report.result for report in told])
    # The first step has no pair, and no update.
    assert np.argwhere(reset).tolist() == [[guard.FAILURES, 1], [guard.FEWEST, 0]]
    assert reset[guard.FEWEST, 0] == DIVERGED
    assert reset[guard.FAILURES, 1] == NON_FINITE
    assert (result[1 : guard.FAILURES + 1, 1] == UpdateResult.NON_FINITE).all()
    assert (result[guard.FAILURES + 1 :, 1] == UpdateResult.APPLIED).all(), "and well ever after"
    counts = {name: host[f"reset_{name}"].tolist() for name in ("non_finite", "diverged", "restarted", "season")}
    assert counts == {"non_finite": [0, 1, 0], "diverged": [1, 0, 0], "restarted": [0, 0, 0], "season": [0, 0, 0]}
    assert host["rate_factor"].tolist() == [0.5, 0.5, 1.0]
    assert device["good"].tobytes() == start.tobytes(), "nobody has done well for long yet"


def test_a_leap_is_taken_back_and_the_rate_lowered_until_steps_are_steps() -> None:
    """With a rate of 100: no step moves the parameters by more than half of their norm; once the rate is such that
    the update that leapt would have been a small one, they learn."""
    shape = shape_of()
    device, host = learners(shape, first_params(shape, 2), np.float32)
    host["learning_rate"][0] = 100
    trail = [device["params"].copy()]
    told, leapt = run(shape, device, host, 60, trail=trail), []
    for k, (report, before, after) in enumerate(zip(told, trail, trail[1:], strict=False)):
        moved = np.linalg.norm(after - before, axis=1)
        assert (moved <= guard.LEAP * np.linalg.norm(before, axis=1) * (1 + 1e-6)).all()
        if report.reset[0] == DIVERGED:
            leapt.append(k)
            assert moved[0] == 0
        assert report.reset[1] == NONE
    assert leapt == list(range(1, 1 + len(leapt))), "one after the other, from the first update on"
    factors = [min(guard.STEP / float(told[k].update_ratio[0]), guard.MUCH_SLOWER) for k in leapt]
    assert host["rate_factor"] == pytest.approx([math.prod(factors), 1])
    assert 1 <= len(leapt) < 10
    assert host["reset_diverged"].tolist() == [len(leapt), 0]
    assert host["strikes"].tolist() == [0, 0], "its parameters were never at fault"
    assert (trail[-1][0] != trail[-2][0]).any()


@pytest.mark.parametrize(("moment", "broken"), [("moment0", np.nan), ("moment0", np.inf), ("moment1", np.nan)])
def test_moments_that_are_not_finite_heal(moment: str, broken: float) -> None:
    """No update could be taken with them: the first is taken back, and from then on the learner learns again."""
    shape = shape_of()
    device, host = learners(shape, first_params(shape, 3), np.float32)
    run(shape, device, host, 20)
    device[moment][1] = broken
    beside, own = copy(device), copy(host)
    trail = [device["params"].copy()]
    told = run(shape, device, host, 40, seed=1, trail=trail)
    # The stream's first step has no pair, and no update.
    assert np.argwhere([report.reset for report in told]).tolist() == [[1, 1]]
    assert (trail[2][1] == trail[0][1]).all()
    assert (np.diff(np.array(trail[2:])[:, 1], axis=0) != 0).any(axis=1).all()
    for name in ("params", "moment0", "moment1"):
        assert np.isfinite(device[name]).all(), name
    assert host["rate_factor"].tolist() == [1, guard.MUCH_SLOWER, 1]
    assert host["optimizer_steps"].tolist() == [58, 38, 58], "its steps are counted anew"
    run(shape, beside, own, 40, seed=1)
    for rows, alone in ((device, beside), (host, own)):
        for name, row in rows.items():
            assert row[[0, 2]].tobytes() == alone[name][[0, 2]].tobytes(), name


def test_what_is_taken_back_of_updates_that_leapt() -> None:
    """Parameters and rate of those that leapt; if what came of it is not finite the moments too. The learners are not
    all that there are."""
    shape = shape_of()
    device, host = learners(shape, first_params(shape, 5), np.float32)
    run(shape, device, host, 9)
    noted, index = copy(host), np.array([0, 2, 3, 4])
    rows = {name: array[index] for name, array in device.items()}
    before = rows["params"] - 1
    ratio = np.array([0.49, 0.51, np.nan, np.inf])
    expected = {name: row.copy() for name, row in rows.items()}
    expected["params"][1:] = before[1:]
    expected["moment0"][2:] = expected["moment1"][2:] = 0
    became = guard.take_back(np, rows, before, ratio, host, index)
    assert became.tolist() == [NONE, DIVERGED, DIVERGED, DIVERGED]
    for name, row in rows.items():
        np.testing.assert_array_equal(row, expected[name], err_msg=name)
    assert host["rate_factor"] == pytest.approx([1, 1, guard.STEP / 0.51, guard.MUCH_SLOWER, guard.MUCH_SLOWER])
    steps = noted["optimizer_steps"][0]
    assert host["optimizer_steps"].tolist() == [steps, steps, steps, 0, 0]
    assert host["reset_diverged"].tolist() == [0, 0, 1, 1, 1]
    assert host["strikes"].tolist() == [0] * 5


def test_a_learner_that_is_well_has_the_bits_it_has_alone_and_without_a_guard() -> None:
    shape = shape_of(loss_span=3)
    params = first_params(shape, 3)
    together, host = learners(shape, params, np.float32)
    together["params"][:1] = far_off(shape, together["params"][:1])
    together["params"][1], host["learning_rate"][0] = np.nan, 100
    run(shape, together, host, 80)
    assert host["reset_diverged"][0] > 0
    for guarded in (True, False):
        one = shape_of(loss_span=3, guard=guarded)
        alone, own = learners(one, params[2:], np.float32)
        run(one, alone, own, 80)
        for mine, ours in ((alone, together), (own, host)):
            for name, row in mine.items():
                assert row[0].tobytes() == ours[name][2].tobytes(), name


@pytest.mark.parametrize("reason", [NON_FINITE, DIVERGED])
def test_what_moves_when_a_learner_is_led_back_and_what_does_not(reason: ResetReason) -> None:
    """Updates that are not finite are not taken: what the optimiser knows comes of good ones, and is kept."""
    shape = shape_of()
    device, host = learners(shape, first_params(shape, 3), np.float32)
    run(shape, device, host, 20)
    before, noted = copy(device), copy(host)
    became = guard.lead_back(np, shape.layout, device, host, np.array([1]), reason)
    assert became.tolist() == [reason]
    for rows, old in ((device, before), (host, noted)):
        for name, row in rows.items():
            assert row[[0, 2]].tobytes() == old[name][[0, 2]].tobytes(), name
    moved = {name for name in device if device[name].tobytes() != before[name].tobytes()}
    moved |= {name for name in host if host[name].tobytes() != noted[name].tobytes()}
    forgotten = {"carry", "boundary"} if reason == NON_FINITE else {"carry", "boundary", "moment0", "moment1"}
    counted = {"rate_factor", "strikes", "guard_count", "healthy", "steady", f"reset_{reason.name.lower()}"}
    assert moved == {"params"} | forgotten | counted | ({"optimizer_steps"} if "moment0" in forgotten else set())
    assert device["params"][1].tobytes() == before["good"][1].tobytes()
    for name in forgotten:
        assert not device[name][1].any(), name


def test_a_learner_that_is_led_back_too_often_begins_its_readout_anew() -> None:
    """Three times it gets the kept parameters; the fourth time an output of 0, the naive forecast; and so on."""
    shape = shape_of(layers=2)
    device, host = learners(shape, first_params(shape), np.float32)
    good = device["good"].copy()
    became, factor = [], []
    for _ in range(8):
        device["params"][...] = np.nan
        became += guard.lead_back(np, shape.layout, device, host, np.array([0]), NON_FINITE).tolist()
        factor.append(float(host["rate_factor"][0]))
        if len(became) == 4:
            kept = device["params"].copy()
    assert became == [NON_FINITE] * 3 + [RESTARTED] + [NON_FINITE] * 3 + [RESTARTED]
    assert factor == [2.0**-k for k in range(1, 9)]
    wo, bo = shape.layout.readout(kept)
    assert not wo.any()
    assert not bo.any()
    readout = wo.size + bo.size
    assert kept[0, :-readout].tobytes() == good[0, :-readout].tobytes(), "the readout is last; the rest is as kept"
    assert device["good"].tobytes() == kept.tobytes()
    assert (host["reset_non_finite"][0], host["reset_restarted"][0]) == (6, 2)
    for _ in range(20):
        guard.lead_back(np, shape.layout, device, host, np.array([0]), DIVERGED)
    assert host["rate_factor"][0] == guard.LEAST_FACTOR


def test_a_learner_that_does_well_is_kept_and_its_rate_recovers() -> None:
    """Every so many updates its parameters are kept and its strikes forgotten; after more its rate is doubled, up to 1;
    and not while its loss is above the naive one."""
    shape, one = shape_of(), np.array([0])
    device, host = learners(shape, first_params(shape))
    host["rate_factor"][...] = 0.25
    kept, factors = [], {}
    for update in range(1, 4 * guard.RECOVERY):
        host["strikes"][...] = 2
        device["params"][...] = update
        loss = 3.0 if update <= guard.KEEP_EVERY else 0.5
        back, good = guard.judge(host, one, np.array([loss]), np.array([1.0]))
        assert len(back) == 0
        if len(good):
            guard.keep(np, device, host, good)
            kept.append(update)
            assert (device["good"] == update).all()
            assert host["strikes"] == 0
        factors.setdefault(float(host["rate_factor"][0]), update)
    assert kept[0] > guard.KEEP_EVERY, "it did not do well by then"
    assert set(np.diff(kept).tolist()) == {guard.KEEP_EVERY}
    assert list(factors) == [0.25, 0.5, 1.0]
    doubled = [factors[0.5], factors[1.0]]
    assert set(doubled) <= set(kept)
    assert min(doubled[0], doubled[1] - doubled[0]) >= guard.RECOVERY


def test_the_factor_is_one_of_the_step() -> None:
    shape = shape_of(optimizer="sgd")
    moved = []
    for factor in (1.0, 0.5):
        device, host = learners(shape, first_params(shape))
        host["rate_factor"][...] = factor
        run(shape, device, host, 2)
        moved.append(device["params"] - first_params(shape))
    np.testing.assert_allclose(moved[1], 0.5 * moved[0], rtol=1e-9)
    assert np.abs(moved[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("loss", "naive", "astray"), [(0.04, 0.0, False), (0.06, 0.0, True), (3.9, 1.0, False), (4.2, 1.0, True)]
)
def test_far_above_is_four_times_the_naive_loss_and_some_slack(loss: float, naive: float, astray: bool) -> None:
    """On a stream that stands still the naive forecast is never wrong; a small error beside it is no divergence."""
    _, host = learners(shape_of(), first_params(shape_of()))
    one, led = np.array([0]), []
    for _ in range(64):
        back, _ = guard.judge(host, one, np.array([loss], np.float32), np.array([naive], np.float32))
        led.append(len(back))
    assert led[:31] == [0] * 31
    assert (sum(led) > 0) == astray


def test_a_finite_update_between_forgives_those_that_were_not() -> None:
    _, host = learners(shape_of(), first_params(shape_of()))
    one, few = np.array([0]), np.array([0.1])
    for _ in range(5):
        for _ in range(guard.FAILURES - 1):
            assert len(guard.failed(host, one)) == 0
        guard.judge(host, one, few, few)
    led = [len(guard.failed(host, one)) for _ in range(guard.FAILURES + 1)]
    assert led == [0] * (guard.FAILURES - 1) + [1] * 2


def test_a_session_counts_and_tells_what_became_of_its_learners(fold: Fold, random_walks: Any) -> None:
    healthy = LearnerConfig(hidden=3, window=6)
    config = SessionConfig(("x",), learners=(healthy, LearnerConfig(cell="gru", hidden=2, window=6), healthy))
    slot, values = fold.create(config), random_walks(120)
    fold.step([(slot, Events(values[:40]))])
    fold._store.set(slot, "learner2.params", np.nan)
    (made,) = fold.step([(slot, Events(values[40:]))])
    assert made.learner_reset.shape == (80, 3)
    assert np.argwhere(made.learner_reset).tolist() == [[guard.FAILURES - 1, 2]]
    assert made.learner_reset.max() == NON_FINITE
    assert np.isfinite(made.mean).all()
    status = fold.status(slot)
    assert (status.updates.reset_non_finite, status.updates.non_finite) == (1, guard.FAILURES)
    told = [(e.updates.reset_non_finite, e.rate_factor) for e in status.experts if e.updates is not None]
    assert told == [(0, 1.0), (0, 1.0), (1, 0.5)]


def test_without_a_guard_nobody_is_led_back(fold: Fold, random_walks: Any) -> None:
    slot = fold.create(SessionConfig(("x",), learner=LearnerConfig(hidden=3, guard=False)))
    fold._store.set(slot, "learner0.params", np.nan)
    (made,) = fold.step([(slot, Events(random_walks(60)))])
    assert not made.learner_reset.any()
    assert np.isnan(fold.parameters(slot)).all()
