"""What compiled learners have of their own, beside what all backends must do: the plan, a sort, rows not in use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lessons import copied, numba_learn, random_lesson, random_state, shape_with, taught

pytest.importorskip("numba")

from bptt_core import clipping
from bptt_core.backends.jit import learner
from bptt_core.learner import device_fields, host_fields
from bptt_core.lessons import CLIP_SCALE, GRADIENT_NORM
from bptt_core.slab import Layout

WINDOWS: list[dict[str, Any]] = [{"horizon": 3, "loss_span": 4}, {"ahead": 0, "loss_span": 2, "targets": 2}]


def test_the_plan_knows_every_field_and_leaves_out_what_a_shape_has_not() -> None:
    for given in ({}, {"ahead": 0, "guard": False, "optimizer": "sgd"}, {"clip": "quantile", "cell": "gru"}):
        shape = shape_with(**given)
        device, host = (Layout.of(fields(shape)).offsets for fields in (device_fields, host_fields))
        plan, size = learner.learner_plan(shape, device, host)
        numbers = dict(zip(learner.NAMES, plan.row.tolist(), strict=True))
        assert {name: numbers[name] for name in learner.FIELDS if numbers[name] >= 0} == device | host
        assert size >= 4 * shape.layout.size
    assert len(set(learner.NAMES)) == len(learner.NAMES)


@pytest.mark.parametrize("given", WINDOWS)
@pytest.mark.parametrize("count", [1, 7, 8, 40, 127, 128, 300])
def test_the_quantile_is_the_reference_s(given: dict[str, Any], count: int) -> None:
    """Of rings with few norms, with all, and with equal ones."""
    shape = shape_with(clip="quantile", **given)
    state = random_state(shape, 4, seed=count)
    host = state[1]
    host["norm_count"][...] = count
    norms = np.random.default_rng(count).uniform(0, 0.2, host["norm_ring"].shape)
    norms[2] = 0.05
    norms[3] = np.sort(norms[3])[::-1]
    host["norm_ring"][...] = np.where(np.arange(clipping.RING) < count, norms, np.nan)
    limits = clipping.quantile_limit(host["norm_ring"], host["norm_count"], host["clip_limit"])
    learned = taught(numba_learn, shape, state, random_lesson(shape, 4, 1, 1, events_only=True, missing=0))[2]
    norm, scale = learned.reports[:, GRADIENT_NORM], learned.reports[:, CLIP_SCALE]
    expected = np.where(norm > limits, limits / norm, 1.0)
    np.testing.assert_allclose(scale, expected, rtol=1e-6)
    assert (scale < 1).any() == (count >= clipping.FEWEST)


@pytest.mark.parametrize("given", WINDOWS)
def test_rows_that_are_not_in_use_may_hold_anything(given: dict[str, Any]) -> None:
    """Rows of the window that are not in use are not read."""
    shape = shape_with(**given)
    state, lesson = random_state(shape, 4, seed=31), random_lesson(shape, 4, 20, seed=32)
    state[1]["length"][...] = 3
    poisoned = copied(state)
    for name in ("inputs", "targets"):
        poisoned[0][name][:, 3:] = 7.0 if name == "targets" else np.nan
    found = [taught(numba_learn, shape, given_state, lesson)[2] for given_state in (state, poisoned)]
    assert found[0].ys.tobytes() == found[1].ys.tobytes()
    assert found[0].reports.tobytes() == found[1].reports.tobytes()
