"""The compiled kernels of one learner against the reference in float64, wherever they lie in memory."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
from learners import learner_shape

pytest.importorskip("numba")

from bptt_core import heads, health, network, optimizers
from bptt_core.backends.jit import network as compiled
from bptt_core.backends.jit import optimizers as rules
from bptt_core.backends.jit import readout, simd
from bptt_core.backends.jit.activations import tanh
from bptt_core.backends.jit.memory import entry
from bptt_core.backends.jit.plan import Plan, table
from bptt_core.cells import CELLS
from bptt_core.slab import Layout

T, D = 11, 5
EDGE = 64  # numbers around every array that nobody may read or write
CELL_NAMES = sorted(CELLS)
OUTPUTS = {3: 3, 16: 1, 17: 70, 32: 2, 64: 5}  # of learners with so many hidden units
RULES = sorted(optimizers.MOMENTS)
RATE, BETA1, BETA2, STEPS = 1e-3, 0.9, 0.99, 7


class Memory:
    """Arrays at addresses that are multiples of 4 and of nothing else, NaN in them and around them."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._held: list[tuple[np.ndarray, np.ndarray]] = []

    def of(self, array: Any) -> np.ndarray:
        """A float32 copy of an array."""
        view = self.room(*np.shape(array))
        view[...] = array
        return view

    def room(self, *shape: int) -> np.ndarray:
        size, start = int(np.prod(shape)), EDGE + int(self._random.integers(0, 16))
        whole = np.full(size + start + EDGE, np.nan, np.float32)
        view = whole[start : start + size]
        self._held.append((whole, view))
        return view.reshape(shape)

    def check_edges(self) -> None:
        for whole, view in self._held:
            start = (view.ctypes.data - whole.ctypes.data) // 4
            assert np.isnan(whole[:start]).all()
            assert np.isnan(whole[start + len(view) :]).all()


@entry
def run_window(plans: Any, at: Any, sizes: Any, numbers: Any) -> None:
    """Forward, the readout and both backwards of one learner; `at` are addresses, in the order of `Run`."""
    plan = plans[0]
    params, inputs, carry, dys, scratch, grad, ys, left, entered, trail, dhs, stepped = at
    T, K, P, middle = sizes
    H = plan.net_hidden
    wo, bo = 4 * (P - K - H * K), 4 * (P - K)
    compiled.net_step(plan, params, inputs, stepped, scratch)
    compiled.net_forward(plan, params, inputs, carry, T, scratch)
    hs = compiled.net_hs(plan, scratch) + 4 * H
    readout.read_outs(hs, params + wo, params + bo, T, H, K, ys)
    readout.read_out(hs, params + wo, params + bo, H, K, ys)
    compiled.net_carry(plan, scratch, T, left)
    compiled.net_carry(plan, scratch, middle, entered)
    numbers[0] = compiled.net_saturated(plan, scratch, T)
    readout.read_out_backward(dys, hs, params + wo, grad + wo, grad + bo, dhs, T, H, K)
    compiled.net_backward(plan, params, inputs, dhs, T, 0, scratch, trail)
    compiled.net_backward(plan, params, inputs, dhs, T, grad, scratch, 0)
    numbers[1] = rules.norm_square(grad, P)


class Run:
    """One learner with random everything, run by the kernels."""

    def __init__(
        self, cell: str, hidden: int, layers: int, outputs: int, seed: int = 0, fading: bool = False, **spoiled: float
    ) -> None:
        shape = learner_shape(
            cell=cell, hidden=hidden, layers=layers, inputs=D, horizon=outputs, window=T + 1, optimizer="adam"
        )
        self.shape, self.memory = shape, Memory(seed)
        random = np.random.default_rng(7)
        normal = random.standard_normal
        self.params = self.memory.of(normal(shape.layout.size) / np.sqrt(hidden + D))
        self.inputs, self.carry = self.memory.of(normal((T, D))), self.memory.of(0.5 * normal((shape.carries, hidden)))
        self.dys = self.memory.of(normal((T, outputs)))
        if fading:
            self.params *= np.float32(1e-5)
            self.dys[:-1] = 0
        for name, value in spoiled.items():
            getattr(self, name).flat[1] = value
        layout = Layout.of(compiled.tape_fields(shape))
        plan = Plan(compiled.NAMES)
        compiled.fill(plan, shape, layout.offsets)
        room = self.memory.room
        self.grad, self.ys = room(shape.layout.size), room(T, outputs)
        self.left, self.entered = room(shape.carries, hidden), room(shape.carries, hidden)
        self.trail, dhs = room(T, shape.carries, hidden), room(T, hidden)
        self.stepped = self.memory.of(self.carry)
        arrays = (
            self.params, self.inputs, self.carry, self.dys, room(layout.bytes // 4), self.grad, self.ys, self.left,
            self.entered, self.trail, dhs, self.stepped,
        )  # fmt: skip
        self.numbers, self.middle = np.zeros(2), 4
        at = tuple(array.ctypes.data for array in arrays)
        run_window(table([plan]), at, (T, outputs, shape.layout.size, self.middle), self.numbers)
        self.memory.check_edges()


class Reference:
    """The same in float64 by the reference."""

    def __init__(self, run: Run) -> None:
        layout, cell = run.shape.layout, run.shape.cell
        params, carry = (a.astype(np.float64)[None] for a in (run.params, run.carry))
        xs, dys = (a.astype(np.float64)[:, None] for a in (run.inputs, run.dys))
        weights, self.grad = layout.split(params), np.empty_like(params)
        split, self.trail = layout.split(self.grad), np.empty((T, *carry.shape))
        self.tapes = network.forward(np, cell, weights.layers, xs, carry)
        hs = self.tapes[-1].hs[1:]
        self.ys = heads.readout(np, weights.wo, weights.bo, hs)
        dhs = heads.readout_backward(np, weights.wo, hs, dys, split.wo, split.bo)
        network.backward(np, cell, weights.layers, self.tapes, dhs, split.layers, trail=self.trail)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative, in the Euclidean norm."""
    found = np.reshape(found, np.shape(expected)).astype(np.float64)
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-300))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("hidden", OUTPUTS)
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_a_window_is_the_references(cell: str, hidden: int, layers: int) -> None:
    run = Run(cell, hidden, layers, OUTPUTS[hidden])
    true = Reference(run)
    assert distance(run.ys, true.ys) < 2e-6
    for found, step in ((run.left, T), (run.entered, run.middle), (run.stepped, 1)):
        assert distance(found, network.carry_at(np, true.tapes, step)) < 2e-6
    assert run.numbers[0] == pytest.approx(network.saturation(np, cell, true.tapes)[0], abs=2 / (T * hidden))
    assert distance(run.trail, true.trail) < 5e-6
    weights, start = run.shape.layout.shapes(), 0
    for name, shape in weights.items():
        part = slice(start, start := start + int(np.prod(shape)))
        assert distance(run.grad[part], true.grad[0, part]) < 5e-6, name
    assert np.sqrt(run.numbers[1]) == pytest.approx(np.linalg.norm(true.grad), rel=1e-6)


@pytest.mark.parametrize("hidden", [5, 16])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_results_do_not_depend_on_where_they_lie(cell: str, hidden: int) -> None:
    runs = [Run(cell, hidden, 2, 3, seed) for seed in range(3)]
    for run in runs[1:]:
        for name in ("grad", "ys", "left", "entered", "trail", "stepped", "numbers"):
            np.testing.assert_array_equal(getattr(run, name), getattr(runs[0], name))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["params", "inputs", "carry", "dys"])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_what_is_not_finite_reaches_the_norm_or_the_outputs(cell: str, where: str, value: float) -> None:
    """NaN always; infinity, which may just saturate a gate, where it does in the reference."""
    run = Run(cell, 6, 1, 3, **{where: value})
    found = np.isfinite(run.numbers[1]), np.isfinite(run.ys).all()
    with np.errstate(all="ignore"):
        true = Reference(run)
    expected = np.isfinite(np.linalg.norm(true.grad)), np.isfinite(true.ys).all()
    assert all(expected) == all(found)
    assert not np.isnan(value) or not all(found)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="no such mode is known here")
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_what_fades_becomes_zero(cell: str) -> None:
    """No denormal number is left where a gradient vanishes, and afterwards the machine's mode is what it was."""
    run = Run(cell, 16, 1, 1, fading=True)
    trail, smallest = abs(run.trail), np.finfo(np.float32).smallest_normal
    assert not ((trail > 0) & (trail < smallest)).any()
    assert cell in ("gru", "lstm") or (trail[0] == 0).all()
    assert (np.full(1, 1e-40, np.float32) * np.float32(0.5) > 0).all()


# ---- Optimisers ------------------------------------------------------------------------------------------------------


@entry
def run_rule(code: int, at: Any, P: int, settings: Any, limit: float, numbers: Any) -> None:
    params, grad, moment0, moment1, kept = at
    factor, weight_decay = settings
    if limit > 0:
        numbers[2] = rules.clip_values(grad, P, limit)
    changed = rules.apply(
        code, params, grad, moment0, moment1, P, factor, RATE, BETA1, BETA2, weight_decay, STEPS, kept
    )
    numbers[0], numbers[1] = changed


@pytest.mark.parametrize("P", [1, 15, 16, 1500])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("name", RULES)
def test_a_step_of_an_optimizer_is_the_references(name: str, weight_decay: float, P: int) -> None:
    random, memory = np.random.default_rng(P), Memory(P)
    params, grad = memory.of(random.standard_normal(P)), memory.of(random.standard_normal(P))
    moments = [memory.of(random.standard_normal(P)), memory.of(random.random(P))]
    if name == "rmsprop":
        moments.reverse()
    used, kept, numbers = moments[: optimizers.MOMENTS[name]], memory.room(P), np.zeros(3)
    double = [a.astype(np.float64)[None] for a in (params, grad, *used)]
    before = params.copy()
    settings = optimizers.Settings(
        *(np.array([x]) for x in (RATE, BETA1, BETA2, weight_decay)), np.array([STEPS], np.int64)
    )
    factor = np.float32(0.7)
    optimizers.apply(np, name, double[0], double[1] * factor, double[2:], settings)
    at = tuple(a.ctypes.data for a in (params, grad, *moments, kept))
    run_rule(rules.CODES[name], at, P, (float(factor), weight_decay), 0.0, numbers)
    memory.check_edges()
    # The change is as good as the parameters' own last place lets it be.
    assert abs(params - double[0][0]).max() <= 2.0**-23 * abs(before).max()
    for found, true in zip(used, double[2:], strict=True):
        assert distance(found, true[0]) < 5e-6
    np.testing.assert_array_equal(kept, before)
    expected = health.update_ratio(np, before.astype(np.float64)[None], double[0])[0]
    assert np.sqrt(numbers[0] / numbers[1]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_the_step_of_parameters_is_as_exact_as_its_gate(name: str) -> None:
    """From parameters of 0, where no rounding of theirs hides it."""
    P, random, memory = 999, np.random.default_rng(1), Memory()
    params, grad = memory.of(np.zeros(P)), memory.of(random.standard_normal(P))
    moments = [memory.of(random.random(P)), memory.of(random.random(P))]
    double = [a.astype(np.float64)[None] for a in (params, grad, *moments[: optimizers.MOMENTS[name]])]
    settings = optimizers.Settings(*(np.array([x]) for x in (RATE, BETA1, BETA2, 0.0)), np.array([STEPS], np.int64))
    optimizers.apply(np, name, double[0], double[1], double[2:], settings)
    at = (*(a.ctypes.data for a in (params, grad, *moments)), 0)
    run_rule(rules.CODES[name], at, P, (1.0, 0.0), 0.0, np.zeros(3))
    assert distance(params, double[0][0]) < 5e-5


def test_a_norm_is_a_number_if_its_squares_are() -> None:
    """Their sum may be too large for float32, as the reference's is not."""
    square = entry(rules.norm_square.py_func)
    for P, size in ((3, 1.0e19), (1500, 1.5e19), (1500, 1e-10)):
        grad = np.full(P, size, np.float32)
        assert square(grad.ctypes.data, P) == pytest.approx(float(np.square(grad).sum(dtype=np.float64)), rel=1e-6)
    grad[7] = 2e19
    assert square(grad.ctypes.data, P) == np.inf


def test_a_second_moment_that_is_negative_becomes_zero() -> None:
    """No update makes one; a checkpoint from elsewhere may hold it."""
    for name, place in (("adam", 1), ("rmsprop", 0)):
        moments = [np.full(20, 0.5, np.float32), np.full(20, 0.5, np.float32)]
        moments[place][...] = np.repeat([-1.0, -np.inf], 10)
        params, grad = np.ones(20, np.float32), np.zeros(20, np.float32)
        at = (*(a.ctypes.data for a in (params, grad, *moments)), 0)
        run_rule(rules.CODES[name], at, 20, (1.0, 0.0), 0.0, np.zeros(3))
        np.testing.assert_array_equal(moments[place], 0)
        assert np.isfinite(params).all()


def test_small_moments_become_zero() -> None:
    moments = [np.full(20, 1e-30, np.float32), np.full(20, 1e-30, np.float32)]
    params, grad = np.ones(20, np.float32), np.zeros(20, np.float32)
    at = (*(a.ctypes.data for a in (params, grad, *moments)), 0)
    run_rule(rules.CODES["adam"], at, 20, (1.0, 0.0), 0.0, np.zeros(3))
    np.testing.assert_array_equal(moments, np.zeros((2, 20)))
    np.testing.assert_array_equal(params, 1)


def test_elements_are_cut_to_a_limit() -> None:
    grad = np.linspace(-2, 2, 41).astype(np.float32)
    clipped, params, numbers = grad.copy(), np.zeros(41, np.float32), np.zeros(3)
    at = (params.ctypes.data, clipped.ctypes.data, 0, 0, 0)
    run_rule(rules.CODES["sgd"], at, 41, (1.0, 0.0), 1.5, numbers)
    np.testing.assert_array_equal(clipped, np.clip(grad, -1.5, 1.5))
    assert numbers[2] == (abs(grad) > 1.5).sum()


# ---- Vectors ---------------------------------------------------------------------------------------------------------


@entry
def run_tanh(xs: int, ys: int, count: int) -> None:
    before = simd.flush_denormals()
    for j in range(0, count, 16):
        simd.store_first(ys + 4 * j, tanh(simd.load_first(xs + 4 * j, count - j)), count - j)
    simd.restore(before)


def test_tanh_is_within_a_few_last_places() -> None:
    xs = np.concatenate([np.geomspace(1e-30, 100, 20_001), np.linspace(7, 10, 3_000)]).astype(np.float32)
    xs = np.concatenate([xs, -xs, [np.nan, np.inf, -np.inf, 0]]).astype(np.float32)
    ys, one = np.empty_like(xs), np.float32(1)
    run_tanh(xs.ctypes.data, ys.ctypes.data, len(xs))
    assert np.isnan(ys[-4])
    np.testing.assert_array_equal(ys[-3:], [one, -one, 0])
    exact_ys = np.tanh(xs[:-4].astype(np.float64))
    assert (abs(ys[:-4] - exact_ys) / abs(exact_ys)).max() < 3e-7
