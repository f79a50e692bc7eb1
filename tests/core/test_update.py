"""One update as a whole: settings that differ between learners, schedules by the number of the update, its report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learners import D, first_params, learner_shape, learners

from bptt_core import UpdateResult, tbptt
from bptt_core.clipping import FEWEST
from bptt_core.slab import Rows


def take_step(shape: tbptt.LearnerShape, device: Rows, host: Rows, x: Any, target: float) -> tbptt.StepReport:
    """The same event for every learner."""
    many, dtype = len(host["length"]), device["params"].dtype
    xs, arrived = np.repeat(x[None].astype(dtype), many, 0), np.full((many, 1), target, dtype)
    return tbptt.step(np, shape, device, host, xs, arrived, np.ones(many, bool))[1]


def stream(n: int, seed: int) -> list[tuple[np.ndarray, float]]:
    """Inputs and arriving targets, a fifth of them missing."""
    rng = np.random.default_rng(seed)
    missing = np.where(rng.random(n) < 0.2, np.nan, 0)
    return list(zip(rng.standard_normal((n, D)), (rng.standard_normal(n) + missing).tolist(), strict=True))


def copied(rows: tuple[Rows, Rows]) -> tuple[Rows, Rows]:
    device, host = ({name: array.copy() for name, array in part.items()} for part in rows)
    return device, host


def test_the_rate_is_that_of_the_schedule_at_the_number_of_the_update() -> None:
    shape, plain = learner_shape(schedule="inverse"), learner_shape()
    rows = learners(shape, first_params(shape))
    device, host = rows
    host["warmup_updates"][...], host["decay_updates"][...], host["rate_floor"][...] = 4, 2, 0.25
    for x, target in stream(16, seed=11):
        before, twin = device["params"].copy(), copied(rows)
        twin[1]["warmup_updates"][...] = 0
        report, plain_report = take_step(shape, *rows, x, target), take_step(plain, *twin, x, target)
        assert report.result.tolist() == plain_report.result.tolist()
        number = host["optimizer_steps"][0]
        share = max(0.25, 1 / (1 + (number - 1) / 2)) * min(1, number / 4)
        np.testing.assert_allclose(device["params"] - before, share * (twin[0]["params"] - before), atol=1e-15)
    assert number > 8


SETTINGS = ("learning_rate", "beta1", "beta2", "weight_decay", "warmup_updates", "clip_limit", "loss_parameter")


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("clip", ["norm", "value", "quantile"])
def test_learners_with_settings_of_their_own_do_not_meet(clip: str, ahead: int) -> None:
    shape = learner_shape(
        cell="gru", optimizer="adamw", schedule="inverse_sqrt", clip=clip, loss="huber", loss_span=3, ahead=ahead
    )
    params, rng = first_params(shape, 4), np.random.default_rng(12)
    together = learners(shape, params, np.float32)
    for name in SETTINGS:
        together[1][name][...] = rng.uniform(0.01, 0.1, 4)
    together[1]["loss_parameter"][...] *= 20
    together[1]["clip_limit"][...] *= 9 if clip == "quantile" else 1
    alone = [learners(shape, params[b : b + 1], np.float32) for b in range(4)]
    for b, (_, host) in enumerate(alone):
        for name in SETTINGS:
            host[name][...] = together[1][name][b]
    clipped = 0
    for x, target in stream(40, seed=13):
        report = take_step(shape, *together, x, target)
        clipped += int((report.clip_scale < 1).sum())
        for b, own in enumerate(alone):
            own_report = take_step(shape, *own, x, target)
            assert [column[b].tobytes() for column in report] == [column[0].tobytes() for column in own_report]
    assert clipped > 4
    assert [row.tobytes() for row in together[0]["params"]] == [own[0]["params"][0].tobytes() for own in alone]


def test_the_quantile_is_that_of_the_norms_before_this_one_and_of_applied_updates_alone() -> None:
    shape = learner_shape(clip="quantile")
    rows = learners(shape, first_params(shape))
    rows[1]["clip_limit"][...] = 0.8
    norms: list[float] = []
    for k, (x, target) in enumerate(stream(60, seed=14)):
        rows[1]["learning"][...] = k % 7 != 0
        with np.errstate(over="ignore"):
            report = take_step(shape, *rows, x, 1e200 if k % 11 == 5 else target)  # its square is no float64
        if report.result[0] != UpdateResult.APPLIED:
            continue
        norm = float(report.gradient_norm[0])
        limit = np.quantile(norms, 0.8) if len(norms) >= FEWEST else np.inf
        assert report.clip_scale[0] == pytest.approx(min(1.0, limit / norm), rel=1e-5)
        norms.append(norm)
    assert len(norms) == rows[1]["norm_count"][0] > 20


def test_what_an_update_did_to_the_parameters_is_reported() -> None:
    shape = learner_shape(cell="lstm", optimizer="adam")
    device, host = learners(shape, first_params(shape, 2))
    device["params"][1] = 0
    take_step(shape, device, host, np.ones(D), np.nan)
    for k in range(5):
        before = device["params"].copy()
        report = take_step(shape, device, host, np.ones(D), 1.0)
        changes, sizes = np.linalg.norm(device["params"] - before, axis=1), np.linalg.norm(before, axis=1)
        expected = changes / sizes if k else [changes[0] / sizes[0], 0]
        np.testing.assert_allclose(report.update_ratio, expected, rtol=1e-6)


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_share_of_saturated_units_is_that_of_the_updates_forward(ahead: int) -> None:
    shape = learner_shape(hidden=4, layers=2, window=3, loss_span=3, ahead=ahead)
    device, host = learners(shape, np.zeros((2, shape.layout.size)))
    weights = shape.layout.split(device["params"])
    weights.layers[0].wx[0, :, :3] = 50  # three units of the four in this layer, on at every step
    weights.layers[1].b[1, 0] = -50
    for _ in range(5):
        report = take_step(shape, device, host, np.ones(D), 1.0)
    np.testing.assert_allclose(report.saturation, [3 / 8, 1 / 8], rtol=1e-6)
