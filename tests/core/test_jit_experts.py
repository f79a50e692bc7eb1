"""Experts, their weights and a single learner's outputs: compiled code says what the reference says, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from bptt_core import LearnerConfig, SessionConfig, aggregation, experts, scales, scaling
from bptt_core.forecasts import ForecastShape
from bptt_core.outputs import outputs_of
from bptt_core.scales import Scaled
from bptt_core.seasons import SLOTS
from bptt_core.shape import Shape
from bptt_core.slab import Layout, Rows, Slab

pytest.importorskip("numba", reason="compiled code needs Numba")

from bptt_core.backends.jit import aggregation as jit_aggregation
from bptt_core.backends.jit import autoregression as jit_autoregression
from bptt_core.backends.jit import experts as jit_experts
from bptt_core.backends.jit import outputs as jit_outputs
from bptt_core.backends.jit.memory import entry, i8
from bptt_core.backends.jit.plan import Plan, table
from bptt_core.backends.jit.steps import step_fields

MODULES = jit_autoregression, jit_experts, jit_aggregation, jit_outputs
SMALL = LearnerConfig(hidden=2, window=8)
SEVERAL = (SMALL, replace(SMALL, anchor="season"), replace(SMALL, anchor="second_season"))
CASES = {
    "seasons found": ({"features": ("x",)}, 300),
    "seasons given": ({"features": ("x", "y", "z"), "horizon": 4, "seasons": (7, 3), "learners": SEVERAL}, 300),
    "no seasons": ({"features": ("x", "y"), "targets": ("y",), "horizon": 3, "seasonality": "off"}, 200),
    "too many for neighbours": ({"features": tuple("abcdefghijklmnopq"), "learners": (SMALL,)}, 40),
}
LOSSES = {
    "squared": {},
    "gaussian": {"loss": "gaussian"},
    "gaussian with quantiles": {"loss": "gaussian", "quantiles": (0.1, 0.25, 0.5, 0.9)},
    "pinball": {"loss": "pinball", "quantiles": (0.05, 0.4, 0.7, 0.95)},
    "one quantile": {"loss": "pinball", "quantiles": (0.8,)},
}
SESSIONS = 5


@entry
def _stage(plan: Any, rows: Any, steps: Any, clears: int, passed: Any, made: Any, scratch: int) -> None:
    """One step of every session: what this part of the stage does, with addresses of what the other part keeps.

    `passed` has those of forecasts, mean and unit that waited, `made` of weights, forecasts, mean and spread.
    """
    for b in range(len(rows)):
        row, step = rows[b], steps[b]
        if plan.K == 0:
            jit_outputs.outputs_of(plan, step, made[2, b], made[3, b])
            continue
        if i8(clears, len(rows))[b]:
            jit_experts.experts_clear(plan, row)
        observed = step + plan.to_observed
        jit_aggregation.aggregation_settle(plan, row, passed[0, b], passed[1, b], observed, passed[2, b])
        jit_experts.experts_step(plan, row, step, made[1, b], scratch)
        jit_aggregation.aggregation_weights(plan, row, made[0, b])
        jit_aggregation.aggregation_mix(plan, made[0, b], made[1, b], made[2, b])


class Told(NamedTuple):
    """What one step tells of all sessions."""

    weight: np.ndarray  # [B, H, O, K]
    forecasts: np.ndarray  # [B, H, O, K]
    mean: np.ndarray  # [B, H, O]


class Compiled:
    """Sessions stepped by compiled code."""

    def __init__(self, shape: Shape, sessions: int) -> None:
        served = shape.served
        assert isinstance(served, ForecastShape)
        portfolio = served.portfolio
        experts_fields = [] if portfolio is None else experts.fields(portfolio) + aggregation.fields(served.weighting)
        self.shape, self.served, self.sessions = shape, served, np.arange(sessions)
        self.slab, self.steps = Slab(np, experts_fields), Slab(np, step_fields(shape))
        for _ in range(sessions):
            self.slab.allocate(), self.steps.allocate()
        plan = Plan(dict.fromkeys(name for module in MODULES for name in module.NAMES))
        needed = jit_autoregression.scratch_fields(served) + jit_experts.scratch_fields(served)
        self.layout = Layout.of(needed)
        for module in MODULES:
            module.fill(plan, served, self.slab.layout.offsets, self.steps.layout.offsets)
        plan.set(A=len(shape.scaling.anchors), **self.layout.offsets)
        self.plan, self.record = plan, table([plan])
        self.scratch = np.full(self.layout.bytes, 255, np.uint8)  # NaN

    def step(self, rows: Rows, clears: np.ndarray, passed: tuple[np.ndarray, ...], outputs: tuple[int, ...]) -> Any:
        """Steps all sessions, given the fields of their steps; returns arrays of weights and forecasts [B, H, O, K],
        mean and spread [B, H, O]."""
        self.steps.put(self.sessions, {name: row for name, row in rows.items() if name in self.steps})
        B, pairs = len(self.sessions), (self.served.horizon, self.served.targets)
        made = [np.full((B, *pairs, *last), np.nan) for last in (outputs, outputs, (), ())]
        at = [_addresses(array) for array in made]
        passed = tuple(np.ascontiguousarray(array) for array in passed)
        came = np.array([_addresses(array) for array in passed] or np.zeros((3, B)), np.int64)
        clears = clears.astype(np.int8)
        row, step = self.slab.addresses(self.sessions), self.steps.addresses(self.sessions)
        _stage(self.record[0], row, step, clears.ctypes.data, came, np.array(at), self.scratch.ctypes.data)
        return made


def _addresses(array: np.ndarray) -> np.ndarray:
    """Where the rows of a contiguous array begin."""
    return array.ctypes.data + array.strides[0] * np.arange(len(array))


def values_of(n: int, features: int) -> np.ndarray:
    """[n, SESSIONS, features]: seasons with gaps, a walk with spikes, one that stands still, a tiny and a late one."""
    rng, t = np.random.default_rng(features), np.arange(n)[:, None, None]
    values = rng.standard_normal((n, SESSIONS, features)).cumsum(axis=0)
    values[:, :1] = np.sin(2 * np.pi * t / 7) + 0.1 * rng.standard_normal((n, 1, features))
    values[:, 0][rng.random((n, features)) < 0.1] = np.nan
    values[:, 1][rng.random((n, features)) < 0.03] *= 1e6
    values[30 : n // 2, 2] = 5.0
    values[:, 3] *= 1e-12
    values[:20, 4] = np.nan
    values[n // 2 :, 4] += 1e9
    return values


class Reference:
    """Sessions stepped by the reference, and what waits for values of theirs."""

    def __init__(self, shape: Shape) -> None:
        served = shape.served
        assert isinstance(served, ForecastShape)
        assert served.portfolio is not None
        fields = [*scales.fields(shape.scaling), *experts.fields(served.portfolio)]
        fields += aggregation.fields(served.weighting)
        self.shape, self.served, self.portfolio = shape, served, served.portfolio
        self.rows = {f.name: np.full((SESSIONS, *f.shape), f.start, f.dtype) for f in fields}
        pairs = (shape.scaling.horizon, shape.scaling.outputs)
        self.waiting = [np.full((SESSIONS, *pairs, len(self.portfolio.names) + 2), np.nan)] * pairs[0]
        self.clock = np.zeros((SESSIONS, 3), np.int64)

    def begin(self, values: np.ndarray, clears: np.ndarray) -> tuple[Scaled, tuple[np.ndarray, ...]]:
        """Scales the step; returns that, and forecasts, mean and unit of the pairs that end with it."""
        scaling.clear(self.shape.scaling, self.rows, clears)
        none = np.empty((SESSIONS, 0))
        scaled = scaling.step(self.shape.scaling, self.rows, values, none, np.ones(SESSIONS, bool), self.clock)
        due = np.stack([made[:, h] for h, made in enumerate(self.waiting)], axis=1)
        due[clears] = np.nan
        return scaled, (due[..., 2:], due[..., 0], due[..., 1])

    def step(self, scaled: Scaled, ys: np.ndarray, passed: tuple[np.ndarray, ...], clears: np.ndarray) -> Told:
        experts.clear(self.portfolio, self.rows, clears)
        weighting = self.served.weighting
        aggregation.settle(weighting, self.rows, passed[0], passed[1], scaled.observed, passed[2])
        forecasts = experts.step(self.portfolio, self.rows, scaled, ys.astype(np.float64))
        weight = aggregation.weights(weighting, self.rows)
        mean = aggregation.mix(weight, forecasts)
        for made in self.waiting:
            made[clears] = np.nan
        made = np.concatenate([mean[..., None], scaled.scale[:, :, 0, :, None], forecasts], axis=-1)
        self.waiting = [made, *self.waiting[:-1]]
        return Told(weight, forecasts, mean)


def rows_of(scaled: Scaled, ys: np.ndarray) -> Rows:
    """The fields of the steps' rows."""
    rows = {name: getattr(scaled, name) for name in scaled._fields if name != "inputs"}
    if scaled.seasonal is not None:
        rows |= {name: getattr(scaled.seasonal, name) for name in ("period", "naive", "changed")}
    return rows | {"ys": ys}


def close(left: np.ndarray, right: np.ndarray, tolerance: float, what: str) -> None:
    """Equal up to a part of the largest of a row of numbers, with NaN and infinities in the same places."""
    axis = -1 if left.ndim > 1 else ()
    with np.errstate(invalid="ignore"):
        size = np.fmax.reduce(np.where(np.isinf(left), 0, np.abs(left)), axis=axis, keepdims=True, initial=0)
        apart = ~(np.abs(left - right) <= tolerance * np.maximum(np.nan_to_num(size), 1e-300))
        apart &= ~((left == right) | (np.isnan(left) & np.isnan(right)))
    assert not apart.any(), (what, left[apart][:5], right[apart][:5], np.argwhere(apart)[:5])


def learners_said(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Outputs [B, M, K] of learners, some of which have lost their way."""
    ys = rng.standard_normal((SESSIONS, shape.learners, shape.learner.outputs)).astype(np.float32)
    kind = rng.random(ys.shape)
    for least, strange in ((0.02, np.nan), (0.03, np.inf), (0.05, 20.0), (0.08, -6.0)):
        ys[(kind < least) & (kind >= least - 0.02)] = strange
    return ys


def run(name: str) -> Iterator[tuple[Reference, Told, tuple[Compiled, ...], tuple[Told, ...]]]:
    """Step by step: the reference, what it told, and compiled code with the same, from the same state and its own."""
    given, n = CASES[name]
    shape = Shape.of(SessionConfig(**given).validated())
    reference, rng = Reference(shape), np.random.default_rng(0)
    both = Compiled(shape, SESSIONS), Compiled(shape, SESSIONS)
    experts_count = (len(reference.portfolio.names),)
    with np.errstate(all="ignore"):
        for values in values_of(n, shape.scaling.features):
            clears, ys = rng.random(SESSIONS) < 0.01, learners_said(rng, shape)
            scaled, passed = reference.begin(values, clears)
            scaled = _with_changes(rng, scaled)
            passed[0][0, ..., 0] = passed[1][0]  # an expert that says what the aggregate does
            passed[0][1, ..., 1] += np.nan if rng.random() < 0.1 else 0  # … and one that says nothing
            fields, slab = rows_of(scaled, ys), both[0].slab
            slab.put(both[0].sessions, {f.name: reference.rows[f.name] for f in slab.fields})
            told = tuple(Told(*each.step(fields, clears, passed, experts_count)[:3]) for each in both)
            yield reference, reference.step(scaled, ys, passed, clears), both, told


def _with_changes(rng: np.random.Generator, scaled: Scaled) -> Scaled:
    """With seasons that change more often than they do."""
    if scaled.seasonal is None:
        return scaled
    changed = scaled.seasonal.changed | (rng.random((SESSIONS, SLOTS)) < 0.02)
    return scaled._replace(seasonal=scaled.seasonal._replace(changed=changed))


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_that_of_the_reference(name: str) -> None:
    """From the reference's state every field and output, at every step; from its own after many, hardly less."""
    for t, (reference, told, (same, own), (from_same, from_own)) in enumerate(run(name)):
        q = reference.portfolio.linear.regressors
        for each, tolerance in ((same, 1e-11), (own, 1e-8)):
            rows = each.slab.take(each.sessions)
            for field, row in rows.items():
                cuts = [q, 2 * q] if field == "linear_ring" else []
                for left, right in zip(
                    *(np.split(part, cuts, axis=-1) for part in (reference.rows[field], row)), strict=True
                ):
                    close(left, right, tolerance, f"{field} at step {t}")
            inverse = rows["linear_inverse"]
            assert np.array_equal(inverse, inverse.swapaxes(-1, -2)), "symmetric to the bit"
        for k, name_of in enumerate(Told._fields):
            close(told[k], from_same[k], 1e-11, f"{name_of} at step {t}")
            close(told[k], from_own[k], 1e-8, f"{name_of} at step {t}")
    assert np.isfinite(told.mean).all(), "the streams ran until the end"
    assert (reference.rows["aggregate_score"] != 0).any()


@pytest.mark.parametrize("scaling_of", ["online", "fixed"])
@pytest.mark.parametrize("name", LOSSES)
def test_outputs_of_a_single_learner_are_those_of_the_reference(name: str, scaling_of: str) -> None:
    learner = replace(SMALL, **LOSSES[name])
    config = SessionConfig(("x", "y"), horizon=3, learner=learner, scaling=scaling_of).validated()
    shape = Shape.of(config)
    compiled, rng, served = Compiled(shape, SESSIONS), np.random.default_rng(0), shape.served
    assert isinstance(served, ForecastShape)
    told = (served.per_pair, served.loss, served.quantiles, served.clamp)
    H, A, O = served.horizon, len(shape.scaling.anchors), served.targets
    strange = 0
    for _ in range(40):
        anchor, scale = rng.standard_normal((SESSIONS, H, A, O)), np.exp(rng.standard_normal((SESSIONS, H, A, O)))
        anchor[rng.random(anchor.shape) < 0.02] = np.nan
        scale[rng.random(scale.shape) < 0.05] = np.nan
        last, ys = rng.standard_normal((SESSIONS, O)), 3 * learners_said(rng, shape)
        with np.errstate(all="ignore"):
            expected = outputs_of(
                *told, ys[:, 0].astype(np.float64), anchor[:, :, served.anchor], scale[:, :, served.anchor], last
            )
        rows = {"anchor": anchor, "scale": scale, "last": last, "ys": ys}
        _, _, mean, spread = compiled.step(rows, np.zeros(SESSIONS, bool), (), ())
        close(expected.mean, mean, 1e-13, "mean")
        close(expected.spread, spread, 1e-13, "spread")
        close(expected.distribution, compiled.steps.take(compiled.sessions)["distribution"], 1e-13, "distribution")
        strange += (mean == last[:, None]).sum()
    assert strange > 0, "persistence has stood for some"


def test_seasons_come_and_go() -> None:
    """The streams above reach what is only learned then."""
    changes, weights = 0, False
    for reference, _, _, _ in run("seasons found"):
        period = reference.rows["season_period"]
        assert period.shape == (SESSIONS, SLOTS)
        changes = max(changes, int((period > 0).sum()))
        weights |= bool((reference.rows["linear_weights"][:, :, 1:] != 0).any())
    assert changes > 0
    assert weights
