"""The compiled third stage against the reference: every step from the same state, and whole streams from their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt_core import LearnerConfig, SessionConfig, forecasts, scaling, state
from bptt_core.forecasts import ForecastShape
from bptt_core.scales import Scaled
from bptt_core.serving import Served
from bptt_core.shape import Shape
from bptt_core.shape import fields as session_fields
from bptt_core.slab import Layout, Rows, Slab

pytest.importorskip("numba", reason="the numba backend is not installed")

from bptt_core.backends.jit import forecasts as compiled
from bptt_core.backends.jit.memory import entry
from bptt_core.backends.jit.plan import table
from bptt_core.backends.jit.steps import step_fields

STEPS, SILENT = 500, 42
HOUR = 3_600_000_000_000
REFERENCE, STEPPED, OWN = range(3)  # slots: of the reference, of single steps from its states, of a run by itself


@entry
def _serve(plans: Any, row: int, step: int, event: bool, clear: bool, jump: int, scratch: int) -> None:
    """The entry: one step of one session."""
    if clear:
        compiled.serve_clear(plans[0], row, jump)
    compiled.serve_step(plans[0], row, step, event, scratch)


class Stage:
    """A session's row in three slots, and the third stage of either kind over them."""

    def __init__(self, config: SessionConfig) -> None:
        config = config.validated()
        self.shape = Shape.of(config)
        self.slab = Slab(np, session_fields(self.shape))
        assert isinstance(self.shape.served, ForecastShape)
        self.served = self.shape.served
        self.names = tuple(f.name for f in forecasts.fields(self.served))
        for _ in range(3):
            slot = self.slab.allocate()
            for name, value in state.settings(config, True).items():
                if name in self.slab:
                    self.slab.set(name, slot, value)
        self.to = Layout.of(step_fields(self.shape))
        self.plan, size = compiled.serve_plan(self.shape, self.slab.layout.offsets, self.to.offsets)
        self.scratch = np.full(size + 64, 0xFF, np.uint8)  # NaN
        self.step = Slab(np, step_fields(self.shape))
        self.step.allocate()

    def reference(self, scaled: Scaled, ys: np.ndarray, event: bool, clear: bool, jump: int) -> Served:
        """One step of the reference's own slot."""
        served, which = self.served, np.array([True])
        rows = self.slab.take(np.array([REFERENCE]))
        if clear:
            forecasts.clear(served, rows, which)
            forecasts.skip(served, rows, np.array([jump]), which)
        said = forecasts.step(served, rows, scaled, ys.astype(float), np.array([event]))
        self.slab.put(np.array([REFERENCE]), rows)
        return said

    def compiled(self, slot: int, event: bool, clear: bool, jump: int) -> Rows:
        """One step of another slot; what is told."""
        row, step = (int(slab.addresses(np.array([k]))[0]) for slab, k in ((self.slab, slot), (self.step, 0)))
        self.scratch[...] = 0xFF
        scratch = self.scratch.ctypes.data // 64 * 64 + 64
        _serve(table([self.plan]), row, step, event, clear, jump, scratch)
        return self.step.take(np.array([0]))

    def tell(self, scaled: Scaled, ys: np.ndarray) -> None:
        """Writes what the stages before say into the row of the step."""
        for name in ("observed", "last", "level", "deviation", "anchor", "scale", "context"):
            self.step.set(name, 0, getattr(scaled, name)[0])
        if scaled.seasonal is not None:
            for name in ("period", "naive", "changed"):
                self.step.set(name, 0, getattr(scaled.seasonal, name)[0])
        self.step.set("ys", 0, ys[0])


def eventful(rng: np.random.Generator, features: int) -> np.ndarray:
    """A walk around a wave, with all that streams have: missing and absurd values, stretches without any movement, a
    dead sensor, a change for good."""
    values = 0.3 * rng.standard_normal((STEPS, features)).cumsum(axis=0) + rng.standard_normal((STEPS, features))
    values += 3 * np.sin(np.arange(STEPS) * 2 * np.pi / 24)[:, None]
    values[350:] += 15 * rng.standard_normal((STEPS - 350, features))
    values[130:150] = values[130]
    values[180:230, 0] = values[180, 0]
    values[rng.random((STEPS, features)) < 0.01] *= 1e6
    values[rng.random((STEPS, features)) < 0.04] = np.nan
    values[:2, -1] = np.nan
    return values


def calming(rng: np.random.Generator, features: int) -> np.ndarray:
    """First nothing moves, then all does, and at last less."""
    values = 2.0 + rng.standard_normal((STEPS, features))
    values[:100] = 2.0
    values[100:300] *= 30
    return values


def close(value: np.ndarray, expected: np.ndarray, tolerance: float, where: str) -> None:
    """Numbers agree to a tolerance, relative to the largest of their kind where they are small; codes and counts are
    equal."""
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(value, expected.astype(value.dtype), where)
        return
    largest = np.abs(expected).max(initial=0, where=np.isfinite(expected))
    agree = np.abs(value - expected) <= tolerance * (np.abs(expected) + 1e-4 * largest)
    agree |= (value == expected) | np.isnan(value) & np.isnan(expected)
    assert agree.all(), f"{where}: {value[~agree]} instead of {expected[~agree]}"


def outputs(rng: np.random.Generator, stage: Stage, s: int) -> np.ndarray:
    """[1, M, K]: what learners may say: nothing at first, then mostly little, sometimes what is absurd, or broken."""
    ys: np.ndarray = rng.standard_normal((1, stage.shape.learners, stage.shape.learner.outputs)).astype(np.float32)
    ys *= 10 ** rng.uniform(-2, 0.5) if s > SILENT else 0
    central = ys[..., :: stage.served.per_pair]
    central[rng.random(central.shape) < 0.01] = rng.choice([np.nan, np.inf, -np.inf, 1e20, 7.0, -50.0])
    return ys


def run(config: SessionConfig, stream: Any, tight: float, loose: float) -> Callable[[str], Any]:
    """Both over a stream, compared at every step; what the reference's row holds at the end."""
    stage, rng = Stage(config), np.random.default_rng(5)
    shape, one = stage.shape, np.array([REFERENCE])
    values = stream(rng, shape.scaling.features)
    with np.errstate(all="ignore"):
        for s, value in enumerate(values):
            event, clear = bool(rng.random() > 0.03), bool(rng.random() < 0.02)
            jump = int(rng.integers(0, 100)) if clear else 0
            rows = stage.slab.take(one)
            if clear:
                scaling.clear(shape.scaling, rows, np.array([True]))
                scaling.skip(shape.scaling, rows, np.array([jump]), np.array([True]))
            clock, given = np.array([[1, s * HOUR, HOUR]]), value[None] if event else np.full((1, len(value)), np.nan)
            scaled = scaling.step(shape.scaling, rows, given, np.empty((1, 0)), np.array([event]), clock)
            stage.slab.put(one, rows)
            ys = outputs(rng, stage, s)
            stage.slab.put(np.array([STEPPED]), rows)
            served = stage.reference(scaled, ys, event, clear, jump)
            for slot, tolerance in ((STEPPED, tight), (OWN, loose)):
                stage.tell(scaled, ys)
                row = stage.compiled(slot, event, clear, jump)
                for name, expected in served._asdict().items():
                    close(row[name], expected, tolerance, f"step {s}, slot {slot}, served {name}")
                for name in stage.names:
                    mine, expected = stage.slab.get(name, slot), stage.slab.get(name, REFERENCE)
                    close(mine, expected, tolerance, f"step {s}, slot {slot}, {name}")
    return lambda name: stage.slab.get(name, REFERENCE)


GIVEN = {"scaling": "fixed", "means": (0.0, 1.0), "deviations": (2.0, 1.0)}
SINGLE = {
    "univariate": {},
    "several pairs and a season that is scored": {"features": 3, "horizon": 5, "seasons": (24,), "seasonality": "off"},
    "a learner of seasons": {"features": 1, "horizon": 2, "seasonality": "given", "seasons": (24, 168)},
    "gaussian": {"features": 2, "horizon": 3, "loss": "gaussian", "quantiles": (0.05, 0.5, 0.9), **GIVEN},
    "quantiles": {"features": 1, "horizon": 5, "loss": "pinball", "quantiles": (0.1, 0.5, 0.7, 0.9)},
    "given scales": {"features": 2, "horizon": 1, **GIVEN},
}


@pytest.mark.parametrize("given", SINGLE.values(), ids=SINGLE.keys())
def test_a_single_learner_is_served_as_by_the_reference(given: dict[str, Any], make_config: Any) -> None:
    last = run(make_config(**given), eventful, 1e-11, 1e-9)
    assert last("settled").min() > 300
    assert last("bounded").min() > 200
    assert last("anomaly_longest_run").max() > 2


@pytest.mark.parametrize("scales", [{}, GIVEN], ids=["online", "given"])
def test_a_stream_that_stands_still_and_calms_down_is_served_as_by_the_reference(
    scales: dict[str, Any], make_config: Any
) -> None:
    last = run(make_config(features=2, horizon=2, **scales), calming, 1e-11, 1e-9)
    assert last("bounded").min() > 400
    if scales:
        assert last("drift_errors").max() < 250, "the usual error is learned anew"


@pytest.mark.parametrize(("features", "horizon", "seasonality"), [(1, 1, None), (3, 5, "off")])
def test_a_portfolio_is_served_as_by_the_reference(features: int, horizon: int, seasonality: str | None) -> None:
    names = tuple(f"f{k}" for k in range(features))
    last = run(SessionConfig(names, horizon=horizon, seasonality=seasonality), eventful, 1e-9, 1e-6)
    assert last("expert_count") > 300
    assert last("drift_count") > 0


def test_what_is_not_compiled() -> None:
    one = LearnerConfig(hidden=4)
    shape = Shape.of(SessionConfig(("x",), task="regress", labels=("y",), learner=one).validated())
    assert not compiled.supports(shape)
    assert compiled.supports(Shape.of(SessionConfig(("x",)).validated()))
