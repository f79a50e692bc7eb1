"""The compiled first stage against the reference: every step from the same state, and whole streams from their own."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest

from bptt_core import LearnerConfig, SessionConfig, periods, scaling, state, timeline
from bptt_core.config import Categorical
from bptt_core.scales import Scaled
from bptt_core.scales import fields as scaling_fields
from bptt_core.shape import Shape
from bptt_core.slab import Slab

pytest.importorskip("numba", reason="the numba backend is not installed")

from bptt_core.backends.jit import running
from bptt_core.backends.jit import scaling as compiled
from bptt_core.backends.jit.memory import entry, i64_2
from bptt_core.backends.jit.plan import table
from bptt_core.backends.jit.steps import step_fields
from bptt_core.backends.jit.timeline import periods_missed

HOUR = 3_600_000_000_000
TOLERANCE = {"f": 1e-12, "i": 0.0, "b": 0.0}
JUMPS = (0, 1, 7, 30, 500, 3000, 10**12)
NONE = np.empty((1, 0))


@entry
def _scale(
    plans: Any,
    rows: int,
    row_bytes: int,
    steps: int,
    step_bytes: int,
    values: int,
    D: int,
    marks: int,
    n: int,
    block: int,
) -> None:
    """The entry: n steps, each on a row of its own; with rows of 0 bytes all of them on one."""
    mark = i64_2(marks, n, 5)
    for k in range(n):
        row = rows + k * row_bytes
        if mark[k, 3] != 0:
            compiled.scale_clear(plans[0], row, mark[k, 4])
        timed, time_ns, period_ns = mark[k, 0] != 0, mark[k, 1], mark[k, 2]
        compiled.scale_step(plans[0], row, steps + k * step_bytes, values + 8 * D * k, timed, time_ns, period_ns, block)


@dataclass
class Stream:
    """What happens to a session, step by step."""

    values: np.ndarray  # [n, D]
    marks: np.ndarray  # [n, 5] timed, time, period, clear, jump


def stream(seed: int, n: int, D: int, seasons: tuple[int, ...] = (), period_ns: int = HOUR, breaks: int = 0) -> Stream:
    """Waves on walks, with all that streams have: missing values and steps, spikes, stretches without any movement,
    values of absurd sizes; from step `breaks` on also clears and jumps."""
    rng = np.random.default_rng(seed)
    values = 0.1 * rng.standard_normal((n, D)).cumsum(axis=0) + 0.2 * rng.standard_normal((n, D))
    for season in seasons:
        values += 4 * np.sin(np.arange(n) * 2 * np.pi / season)[:, None]
    values = values * 10.0 ** rng.integers(-3, 4, D) + 10.0 ** rng.integers(-3, 4, D)
    values[n // 2 : n // 2 + 20, 0] = values[n // 2, 0]
    values[rng.random((n, D)) < 0.01] *= 1e8
    values[rng.random((n, D)) < 0.04] = np.nan
    values[rng.random(n) < 0.03] = np.nan
    values[:3, -1] = np.nan
    late = slice(n - n // 5, None)  # the scales are used to something else by then
    values[late][rng.random((n // 5, D)) < 0.2] *= 10.0 ** rng.integers(-300, 290)
    marks = np.zeros((n, 5), np.int64)
    if period_ns:
        marks[:, 0], marks[:, 1] = 1, np.arange(n) * period_ns - 10**15
        marks[20:, 2] = period_ns  # before it is not known
    marks[breaks:, 3] = rng.random(n - breaks) < 0.03
    marks[:, 4] = marks[:, 3] * rng.choice(JUMPS, n)
    return Stream(values, marks)


class Stage:
    """The first stage of either kind, and what it does to a stream."""

    def __init__(self, config: SessionConfig, start: dict[str, Any]) -> None:
        self.shape = Shape.of(config.validated())
        self.start = state.settings(config.validated(), True) | start
        self.fields = scaling_fields(self.shape.scaling)

    def slab(self, n: int) -> Slab:
        """n sessions that have seen nothing but for what they start with."""
        slab = Slab(np, self.fields)
        for _ in range(n):
            slot = slab.allocate()
            for name, value in self.start.items():
                if name in slab:
                    slab.set(name, slot, value)
        return slab

    def reference(self, given: Stream) -> tuple[Slab, Slab, list[Scaled]]:
        """The state before and after each step, and what the steps gave."""
        n, shape, which = len(given.values), self.shape.scaling, np.array([True])
        before, after, scaled = self.slab(n), self.slab(n), []
        rows = before.take(np.array([0]))
        with np.errstate(all="ignore"):
            for k in range(n):
                before.put(np.array([k]), rows)
                clock, mark = given.marks[k : k + 1, :3], given.marks[k]
                if mark[3]:
                    scaling.clear(shape, rows, which)
                    scaling.skip(shape, rows, mark[4:].copy(), which)
                step = scaling.step(shape, rows, given.values[k : k + 1], NONE, which, clock)
                scaled.append(step._replace(level=step.level.copy(), deviation=step.deviation.copy()))
                after.put(np.array([k]), rows)
        return before, after, scaled

    def compiled(self, slab: Slab, given: Stream, together: bool) -> Slab:
        """Takes the steps in place on a slot each, or on the first one; what they gave, a slot each."""
        n, D = given.values.shape
        steps, slots = Slab(np, step_fields(self.shape)), np.arange(n)
        for _ in range(n):
            steps.allocate()
        steps.rows.view(np.uint8)[...] = 0xFF  # NaN
        plan, size = compiled.scale_plan(self.shape, slab.layout.offsets, steps.layout.offsets)
        scratch = np.full(size + 64, 0xFF, np.uint8)
        row, step = (int(s.addresses(slots)[0]) for s in (slab, steps))
        values, marks = np.ascontiguousarray(given.values), np.ascontiguousarray(given.marks)
        row_bytes, block = 0 if together else slab.layout.bytes, scratch.ctypes.data // 64 * 64 + 64
        numbers = row, row_bytes, step, steps.layout.bytes, values.ctypes.data, D, marks.ctypes.data, n, block
        _scale(table([plan]), *numbers)
        return steps

    def told(self, scaled: list[Scaled]) -> dict[str, np.ndarray]:
        """What steps of the reference gave, as it is in their rows."""
        shape = self.shape.scaling
        with np.errstate(all="ignore"):
            anchors = tuple(range(len(shape.anchors)))
            arrived = [scaling.learner_targets(shape, step, anchors) for step in scaled]
        names = ["inputs", "observed", "last", "level", "deviation", "anchor", "scale", "context"]
        rows = {name: np.concatenate([getattr(step, name) for step in scaled]) for name in names}
        if shape.seasons is not None:
            for name in ("period", "naive", "changed"):
                rows[name] = np.concatenate([getattr(step.seasonal, name) for step in scaled])
        return rows | {"inputs": rows["inputs"].astype(np.float32), "arrived": np.array(arrived, np.float32)}


def equal(value: np.ndarray, expected: np.ndarray, where: str) -> None:
    """Number for number but for the last digits; NaN where the other is."""
    tolerance = 1e-6 if expected.dtype == np.float32 else TOLERANCE[expected.dtype.kind]
    np.testing.assert_allclose(value.reshape(expected.shape), expected, tolerance, 0, err_msg=where)


def compare(config: SessionConfig, given: Stream, **start: Any) -> dict[str, np.ndarray]:
    """Asserts that both do the same to a stream, from a state with these fields on; what the reference gave."""
    stage, n = Stage(config, start), len(given.values)
    before, after, scaled = stage.reference(given)
    expected, own = stage.told(scaled), stage.slab(1)
    told = stage.compiled(before, given, together=False)
    told_together = stage.compiled(own, given, together=True)
    for name, array in expected.items():
        equal(told.take(np.arange(n))[name], array, name)
        equal(told_together.take(np.arange(n))[name], array, f"{name} from its own state")
    for field in stage.fields:
        for k in range(n):
            equal(before.get(field.name, k), after.get(field.name, k), f"{field.name} after step {k}")
        equal(own.get(field.name, 0), after.get(field.name, n - 1), f"{field.name} from its own state")
    return expected


def names(count: int) -> tuple[str, ...]:
    return tuple(f"f{k}" for k in range(count))


def test_a_default_session_that_finds_its_seasons() -> None:
    given = stream(0, 900, 1, (24,), breaks=700)
    expected = compare(SessionConfig(features=names(1)), given)
    assert (expected["period"] == [24, 168]).all(axis=1).any(), "a day is found, and the calendar's week fits beside it"
    assert expected["changed"].any()
    assert np.isfinite(expected["arrived"]).mean() > 0.5


def test_several_targets_with_a_horizon_and_a_second_season() -> None:
    given = stream(1, 520, 4, (8, 56), period_ns=3 * HOUR, breaks=400)
    expected = compare(SessionConfig(features=names(4), targets=("f2", "f0", "f3"), horizon=5), given)
    assert (expected["period"] == [8, 56]).all(axis=1).any(), (
        "a day is found, and the calendar's week is tried beside it"
    )


@pytest.mark.parametrize(("horizon", "seasons", "targets"), [(1, (7,), 1), (5, (12, 4), 3), (9, (30, 6), 2)])
def test_given_seasons(horizon: int, seasons: tuple[int, ...], targets: int) -> None:
    features = names(3)
    config = SessionConfig(features=features, targets=features[:targets], horizon=horizon, seasons=seasons)
    expected = compare(config, stream(2, 300, 3, seasons, period_ns=HOUR * 24 * 7))
    assert expected["changed"].any()


@pytest.mark.parametrize("period_ns", [0, 12_345_678_901_234, 24 * HOUR, 2 * HOUR + 1_000_000])
def test_periods_of_time(period_ns: int) -> None:
    """Also without any: the calendar tells what it can, and suggests seasons."""
    compare(SessionConfig(features=names(2), targets=("f1",)), stream(3, 300, 2, (12,), period_ns, breaks=150))


@pytest.mark.parametrize(
    ("found", "period_ns", "filled"),
    [((0, 0), HOUR, (24, 168)), ((10, 0), HOUR, (10, 0)), ((12, 0), HOUR, (12, 168)), ((0, 0), HOUR // 60, (0, 0))],
)
def test_the_calendar_fills_what_is_not_found(found: Any, period_ns: int, filled: Any) -> None:
    """By whole first seasons, and if the memory holds two of it: a day of minutes is too long."""
    start = {"season_steps": 1601, "season_period": found}
    expected = compare(SessionConfig(features=names(1)), stream(9, 40, 1, (), period_ns), **start)
    assert expected["period"][-1].tolist() == list(filled)


def test_more_targets_than_are_searched_for_seasons() -> None:
    assert periods.TARGETS < 9
    compare(SessionConfig(features=names(9)), stream(4, 130, 9, (10,), breaks=130))


@pytest.mark.parametrize("anchor", ["last_value", "none", "season"])
def test_a_single_learner(anchor: str) -> None:
    seasons = (5,) if anchor == "season" else ()
    learner = LearnerConfig(hidden=4, anchor=anchor)
    seasonality = "given" if seasons else "off"
    config = SessionConfig(features=names(2), horizon=5, learner=learner, seasons=seasons, seasonality=seasonality)
    compare(config, stream(5, 300, 2))


def test_fixed_scaling() -> None:
    features, learner = names(3), LearnerConfig(hidden=4)
    given = {"means": (1.0, -2.0, 300.0), "deviations": (0.1, 1e-50, 20.0)}
    config = SessionConfig(
        features=features, targets=("f2", "f1"), horizon=3, learner=learner, scaling="fixed", **given
    )
    compare(config, stream(6, 300, 3))


@pytest.mark.parametrize("seasonality", ["off", "found"])
def test_categorical_features_enter_one_hot(seasonality: str) -> None:
    config = SessionConfig(
        features=names(4),
        targets=("f3", "f1"),
        categories=(Categorical("f0", ("a", "b", "c")), Categorical("f2", ("x", "y"))),
        seasonality=seasonality,
    )
    given = stream(7, 200, 4)
    rng = np.random.default_rng(8)
    given.values[:, 0], given.values[:, 2] = rng.integers(0, 3, 200), rng.integers(0, 2, 200)
    given.values[rng.random(200) < 0.1, 2] = np.nan
    compare(config, given)


def test_what_it_supports() -> None:
    assert compiled.supports(Shape.of(SessionConfig(features=("x",)).validated()))
    labelled = SessionConfig(features=("x",), labels=("y",), task="regress")
    symbols = SessionConfig(features=("x",), categories=(Categorical("x", ("a", "b")),), task="classify")
    for config in (labelled, symbols):
        assert not compiled.supports(Shape.of(config.validated()))


@pytest.mark.parametrize("period_ns", [0, 1, 2, 7, 10**9, 2**61 + 1, 2**62])
def test_the_grid_of_time(period_ns: int) -> None:
    """Early, late and equal times, gaps, episodes, and the furthest there are."""
    missed_by = entry(periods_missed.py_func)
    rng, far = np.random.default_rng(period_ns % 1000), 2**62
    unit = min(period_ns or 3600, 2**40)
    for first in (0, -far, 5 * unit):
        row = timeline.Timeline(period_ns=period_ns).row()
        gaps = (unit * rng.choice([0, 0.3, 0.9, 1, 1.1, 1.6, 2.5, 40.2], 300)).astype(np.int64)
        times = [*(first + gaps.cumsum()).tolist(), far - far // 3, far - 1, far, far]
        for now in times:
            fresh = bool(rng.random() < 0.1)
            missed, after = timeline._periods_missed(timeline.Timeline.of_row(row), now, fresh)
            assert missed_by(row.ctypes.data, now, fresh) == missed
            assert row.tolist() == after.row().tolist()


def test_the_longest_time_that_there_is() -> None:
    missed_by, far = entry(periods_missed.py_func), 2**62
    for period_ns in (1, 2, 3):
        row = timeline.Timeline(period_ns=period_ns).row()
        for now in (-far, far):
            missed, after = timeline._periods_missed(timeline.Timeline.of_row(row), now, False)
            assert missed_by(row.ctypes.data, now, False) == missed
            assert row.tolist() == after.row().tolist()


def test_minima_and_maxima_treat_nan_as_numpy_does() -> None:
    for name in ("minimum", "maximum", "fmin", "fmax"):
        chosen = entry(getattr(running, name).py_func)
        for a, b in product((-1.5, 2.0, np.inf, np.nan), repeat=2):
            assert np.array_equal(chosen(a, b), getattr(np, name)(a, b), equal_nan=True), (name, a, b)
