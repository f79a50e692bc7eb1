"""The core against PyTorch itself: the comparisons of test_golden.py with other shapes and numbers, and every pair of
an optimiser and a clip. `make torch` installs it; continuous integration does."""

from __future__ import annotations

import importlib
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import subject

from bptt_core.parameters import ParameterLayout
from bptt_core.torch_format import from_torch, to_torch

SHAPE = {"inputs": 3, "hidden": 5, "window": 9, "learners": 3}
CASES = [replace(case, targets=1 if case.loss == "softmax" else 3) for case in cases.all_cases(seed=5000, **SHAPE)]


@pytest.fixture(scope="module")
def oracle() -> types.ModuleType:
    """Imported here and not above, so that only a process that runs these tests pays for it."""
    pytest.importorskip("torch", reason="PyTorch is not installed: `make torch` does it")
    return importlib.import_module("oracle")


def exact(name: str) -> float:
    return 1e-6 if name.startswith(cases.FLOAT32_REPORTS) else 1e-9


def of(cell: str, layers: int) -> list[Any]:
    return [case for case in CASES if (case.cell, case.layers) == (cell, layers)]


everything = pytest.mark.parametrize(("cell", "layers"), [(cell, n) for cell in cases.CELLS for n in (1, 2)])


@everything
def test_gradients_and_updates(cell: str, layers: int, oracle: types.ModuleType) -> None:
    for case in of(cell, layers):
        data, update = cases.window(case), cases.update(case)
        expected, found = oracle.window(case, data), subject.window(case, data)
        gradient = np.concatenate([expected[f"d{name}"].reshape(case.learners, -1) for name in case.shapes()], axis=1)
        assert cases.disagreements(found, expected, exact) == [], case.name
        of_torch, of_core = (
            side.updates(case, gradient, data["params"], update, cases.PAIRS) for side in (oracle, subject)
        )
        assert cases.disagreements(of_core, of_torch, exact) == [], case.name


@everything
def test_runs_of_100_updates(cell: str, layers: int, oracle: types.ModuleType) -> None:
    for case in of(cell, layers):
        alone = replace(case, learners=1)
        data = cases.stream(alone)
        assert cases.disagreements(subject.stream(alone, data), oracle.stream(alone, data), exact) == [], case.name


def test_learners_with_settings_of_their_own(oracle: types.ModuleType) -> None:
    """Three learners side by side, each with its own rates, warm-up, decay and memory, for every optimiser."""
    for case in CASES[: len(cases.OPTIMIZERS)]:
        data = cases.stream(case)
        assert cases.disagreements(subject.stream(case, data), oracle.stream(case, data), exact) == [], case.name


def test_norms_older_than_128_updates_are_forgotten(oracle: types.ModuleType) -> None:
    case = replace(next(case for case in CASES if case.clip == "quantile"), learners=1, updates=200)
    data = cases.stream(case)
    assert cases.disagreements(subject.stream(case, data), oracle.stream(case, data), exact) == []


def test_the_golden_vectors_are_what_pytorch_says(oracle: types.ModuleType) -> None:
    """The committed vectors are those of make.py, up to another machine's rounding."""
    for case in cases.all_cases()[:: len(cases.LOSSES) + 1]:
        with np.load(Path(cases.__file__).with_name(f"{case.cell}.npz"), allow_pickle=False) as file:
            vector = file[case.name]
        window = cases.pack(oracle.window(case, cases.window(case)))
        np.testing.assert_allclose(vector[: len(window)], window, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", cases.CELLS)
def test_a_network_trained_in_pytorch_predicts_the_same_here(cell: str, layers: int, oracle: types.ModuleType) -> None:
    """Trained with both its biases free, saved as safetensors, read without PyTorch: the same outputs in float32."""
    torch, safetensors_torch = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    torch.manual_seed(7)
    kind = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}.get(cell, torch.nn.RNN)
    options = {"nonlinearity": cell} if cell in ("tanh", "relu") else {}
    model = torch.nn.ModuleDict({"memory": kind(3, 7, layers, **options), "head": torch.nn.Linear(7, 2)})
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    xs = torch.randn(40, 3)
    goal = torch.stack([xs[:, 0].cumsum(0).sin(), xs[:, 1] * xs[:, 2]], dim=1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = ((model["head"](model["memory"](xs)[0]) - goal) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        expected = model["head"](model["memory"](xs)[0]).numpy()

    network = from_torch(safetensors_numpy.load(safetensors_torch.save(model.state_dict())), cell)
    assert (network.cell, network.inputs, network.hidden, network.layers, network.outputs) == (cell, 3, 7, layers, 2)
    layout = ParameterLayout(network.cell, network.inputs, network.hidden, network.layers, network.outputs)
    found = forecasts(layout, network.parameters, xs.numpy())
    assert cases.relative_error(found[None], expected[None]) < 2e-6

    back = {name: torch.tensor(tensor) for name, tensor in to_torch(layout, network.parameters).items()}
    renamed = {name.replace("rnn.", "memory.").replace("readout.", "head."): tensor for name, tensor in back.items()}
    model.load_state_dict(renamed)
    with torch.no_grad():
        again = model["head"](model["memory"](xs)[0]).numpy()
    assert cases.relative_error(again[None], expected[None]) < 2e-6


def forecasts(layout: ParameterLayout, row: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Outputs [T, K] of the core's own forward from a zero carry."""
    weights = layout.split(row[None])
    carries = layout.layers * subject.network.CELLS[layout.cell].carries
    carry = np.zeros((1, carries, layout.hidden), np.float32)
    tapes = subject.network.forward(np, layout.cell, weights.layers, xs[:, None], carry)
    outputs: np.ndarray = subject.readout(np, weights.wo, weights.bo, tapes[-1].hs[1:])[:, 0]
    return outputs
