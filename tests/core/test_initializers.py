"""First parameters: their distributions, what seeds promise, and the bits that the defaults have always had."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from bptt_core import CELLS, LearnerConfig, SessionConfig, cells
from bptt_core.cells import CellWeights
from bptt_core.initializers import initial_parameters
from bptt_core.learner_config import INPUT_INITS, RECURRENT_INITS
from bptt_core.parameters import ParameterLayout

D, H, K = 17, 48, 3


def learner(**given: Any) -> LearnerConfig:
    return SessionConfig(features=("a",), learner=LearnerConfig(**given)).validated().learner


def first_row(
    cell: str = "lstm", layers: int = 1, inputs: int = D, hidden: int = H, dtype: Any = np.float64, **given: Any
) -> np.ndarray:
    layout = ParameterLayout(cell, inputs, hidden, layers, K)
    return initial_parameters(layout, learner(cell=cell, **given), dtype)


def layers_of(row: np.ndarray, cell: str = "lstm", layers: int = 1, inputs: int = D) -> list[CellWeights]:
    """Weights of each layer, without the axis of learners."""
    split = ParameterLayout(cell, inputs, H, layers, K).split(row[None])
    return [CellWeights(*(None if array is None else array[0] for array in layer)) for layer in split.layers]


def gates_of(weights: np.ndarray) -> list[np.ndarray]:
    return np.split(weights, weights.shape[-1] // H, axis=-1)


@pytest.mark.parametrize("seed", [0, 12345])
@pytest.mark.parametrize("cell", CELLS)
def test_the_defaults_draw_what_they_always_drew(cell: str, seed: int) -> None:
    """Stored sessions are never drawn anew, but a replay or a fork from the first event is."""
    gates = cells.CELLS[cell].gates
    rng = np.random.default_rng(seed)
    wx = rng.uniform(-1, 1, (1, D, gates * H)) / math.sqrt(H)
    parts = []
    for _ in range(gates):
        q, r = np.linalg.qr(rng.standard_normal((H, H)))
        parts.append(q * np.sign(np.diag(r)))
    bias = np.zeros(gates * H)
    bias[H : 2 * H] = cell == "lstm"
    rest = np.zeros((H if cell == "gru" else 0) + H * K + K)
    expected = np.concatenate([wx.ravel(), np.concatenate(parts, axis=1).ravel(), bias, rest])
    found = first_row(cell, seed=seed, dtype=np.float32)
    assert found.dtype == np.float32
    assert found.tobytes() == expected.astype(np.float32).tobytes()


EACH_INIT = pytest.mark.parametrize(
    ("input_init", "recurrent_init"), list(zip(itertools.cycle(INPUT_INITS), RECURRENT_INITS, strict=False))
)


@EACH_INIT
def test_seeds(input_init: str, recurrent_init: str) -> None:
    """Equal seeds give equal bits, other seeds others, and a layer does not mind the layers above it."""
    given: dict[str, Any] = {"input_init": input_init, "recurrent_init": recurrent_init, "bias_init": "chrono"}
    rows = [first_row(layers=layers, seed=7, **given) for layers in (3, 3, 1, 2)]
    assert rows[0].tobytes() == rows[1].tobytes()
    assert not np.array_equal(first_row(layers=3, seed=8, **given), rows[0])
    np.testing.assert_array_equal(first_row(layers=3, seed=7, dtype=np.float32, **given), rows[0].astype(np.float32))
    deep = layers_of(rows[0], layers=3)
    for row, layers in ((rows[2], 1), (rows[3], 2)):
        for ours, theirs in zip(layers_of(row, layers=layers), deep, strict=False):
            for a, b in zip(ours[:3], theirs[:3], strict=True):
                np.testing.assert_array_equal(a, b)
    for a, b in itertools.combinations(deep, 2):
        assert not np.array_equal(a.b, b.b)
        assert a.wx.shape != b.wx.shape or not np.array_equal(a.wx, b.wx)
        assert np.array_equal(a.wh, b.wh) == (recurrent_init == "identity")


@pytest.mark.parametrize("cell", CELLS)
def test_readout_and_other_biases_are_zero(cell: str) -> None:
    row = first_row(cell, layers=2)
    split = ParameterLayout(cell, D, H, 2, K).split(row[None])
    assert not split.wo.any()
    assert not split.bo.any()
    for layer in layers_of(row, cell, 2):
        assert layer.bh is None or not layer.bh.any()
        for gate, bias in enumerate(gates_of(layer.b)):
            assert (bias == (cell == "lstm" and gate == 1)).all()


def assert_uniform(values: np.ndarray, bound: float) -> None:
    assert np.abs(values).max() <= bound
    np.testing.assert_allclose([values.min(), values.max()], [-bound, bound], rtol=0.02)
    np.testing.assert_allclose(values.var(), bound**2 / 3, rtol=0.1)
    assert abs(values.mean()) < 0.05 * bound


@pytest.mark.parametrize("cell", CELLS)
def test_uniform_glorot_and_he(cell: str) -> None:
    for init in ("uniform", "glorot", "he"):
        row = first_row(cell, layers=2, input_init=init, recurrent_init=init)
        below, above = layers_of(row, cell, 2)
        for weights, rows in ((below.wx, D), (below.wh, H), (above.wx, H), (above.wh, H)):
            assert weights.shape[0] == rows
            for gate in gates_of(weights):
                if init == "he":
                    np.testing.assert_allclose(gate.var(), 2 / rows, rtol=0.15)
                    assert np.abs(gate).max() > 2.5 * math.sqrt(2 / rows), "a normal has tails"
                else:
                    assert_uniform(gate, 1 / math.sqrt(H) if init == "uniform" else math.sqrt(6 / (rows + H)))


@pytest.mark.parametrize("inputs", [1, 17, 48, 60])
def test_orthogonal(inputs: int) -> None:
    """Columns where there are at least as many rows, else rows, are orthonormal, in every gate by itself."""
    row = first_row("gru", layers=2, inputs=inputs, input_init="orthogonal")
    below, above = layers_of(row, "gru", 2, inputs)
    seen = []
    for weights in (below.wx, below.wh, above.wx, above.wh):
        for gate in gates_of(weights):
            shorter = gate if gate.shape[0] <= gate.shape[1] else gate.T
            np.testing.assert_allclose(shorter @ shorter.T, np.eye(len(shorter)), atol=1e-12)
            seen.append(gate.tobytes())
    assert len(set(seen)) == len(seen)


def test_orthogonal_matrices_have_no_preferred_direction() -> None:
    """Without its signs the Q of a QR decomposition has a first element that is never positive."""
    firsts = [first_row("tanh", inputs=1, hidden=3, seed=seed)[3] for seed in range(200)]
    assert abs(np.mean(firsts)) < 0.15
    np.testing.assert_allclose(np.var(firsts), 1 / 3, rtol=0.2)


def test_identity_keeps_what_a_rectified_network_holds() -> None:
    weights = layers_of(first_row("relu", recurrent_init="identity"), "relu")[0]
    batched = CellWeights(weights.wx[None], weights.wh[None], weights.b[None])
    held = np.random.default_rng(1).random((1, 1, H))
    tape = cells.CELLS["relu"].forward(np, batched, np.zeros((50, 1, D)), held)
    np.testing.assert_array_equal(tape.hs[-1], held[:, 0])
    for gate in gates_of(layers_of(first_row("lstm", recurrent_init="identity"))[0].wh):
        np.testing.assert_array_equal(gate, np.eye(H))


@pytest.mark.parametrize("recurrent_init", RECURRENT_INITS)
def test_gain_multiplies_the_recurrent_weights_alone(recurrent_init: str) -> None:
    plain, gained = (
        layers_of(first_row(layers=2, recurrent_init=recurrent_init, recurrent_gain=gain), layers=2)
        for gain in (1.0, 1.5)
    )
    for a, b in zip(plain, gained, strict=True):
        np.testing.assert_array_equal(b.wh, 1.5 * a.wh)
        np.testing.assert_array_equal(b.wx, a.wx)
        np.testing.assert_array_equal(b.b, a.b)


def test_forget_bias() -> None:
    for layer in layers_of(first_row(layers=2, forget_bias=-2.5), layers=2):
        assert [set(bias) for bias in gates_of(layer.b)] == [{0}, {-2.5}, {0}, {0}]
    for cell in ("tanh", "relu", "gru"):
        assert not any(layer.b.any() for layer in layers_of(first_row(cell, forget_bias=3), cell))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_chrono_spreads_memory_times_over_the_window(cell: str) -> None:
    """A gate's bias b keeps a share σ(b) per step, which lasts 1/(1 − σ(b)) = e^b + 1 steps."""
    window = 201
    for layer in layers_of(first_row(cell, layers=2, bias_init="chrono", window=window), cell, 2):
        keep = gates_of(layer.b)[1]
        steps = np.exp(keep)
        assert steps.min() >= 1
        assert steps.max() <= window - 1
        assert len(set(steps)) == H
        quarters = np.histogram(steps, np.linspace(1, window - 1, 5))[0] / H
        np.testing.assert_allclose(quarters, 0.25, atol=0.15)
        rest = [-keep if cell == "lstm" and gate == 0 else 0 * keep for gate in (0, 2, 3)]
        found = gates_of(layer.b)
        for ours, theirs in zip(found[:1] + found[2:], rest, strict=False):
            np.testing.assert_array_equal(ours, theirs)
        assert layer.bh is None or not layer.bh.any()


@pytest.mark.parametrize("window", [1, 2, 3])
def test_chrono_with_tiny_windows(window: int) -> None:
    row = initial_parameters(ParameterLayout("lstm", D, H, 1, K), LearnerConfig(bias_init="chrono", window=window))
    keep = gates_of(layers_of(row)[0].b)[1]
    assert (keep >= 0).all()
    assert (keep <= math.log(max(1, window - 1))).all()
