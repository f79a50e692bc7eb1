"""PyTorch's names and shapes in and out: exact round trips, what other modules write, and what is refused by name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from bptt_core.checks import FieldError
from bptt_core.learner_config import CELLS, MAX_HIDDEN, MAX_LAYERS
from bptt_core.parameters import ParameterLayout
from bptt_core.torch_format import TorchNetwork, from_torch, to_torch

D, H, K = 3, 5, 2
Tensors = dict[str, Any]


def layout_of(cell: str, layers: int = 1) -> ParameterLayout:
    return ParameterLayout(cell, D, H, layers, K)


def row_of(layout: ParameterLayout, seed: int = 0) -> np.ndarray:
    """Numbers of every size that float32 has, both zeros among them."""
    rng = np.random.default_rng(seed)
    row = (rng.standard_normal(layout.size) * 10.0 ** rng.integers(-40, 38, layout.size)).astype(np.float32)
    row[rng.integers(0, layout.size, 20)] = [0.0, -0.0] * 10
    row[-1], row[0], row[-K - 1] = -0.0, -0.0, -0.0
    return row


def state(cell: str = "lstm", layers: int = 1, seed: int = 0) -> Tensors:
    layout = layout_of(cell, layers)
    return to_torch(layout, np.random.default_rng(seed).standard_normal(layout.size).astype(np.float32))


@pytest.mark.parametrize("layers", range(1, MAX_LAYERS + 1))
@pytest.mark.parametrize("cell", CELLS)
def test_a_round_trip_keeps_every_bit(cell: str, layers: int) -> None:
    layout = layout_of(cell, layers)
    row = row_of(layout, seed=layers)
    tensors = to_torch(layout, row)
    network = from_torch(tensors, cell)
    assert network.parameters.tobytes() == row.tobytes()
    assert network.parameters.dtype == np.float32
    assert (network.cell, network.inputs, network.hidden, network.layers, network.outputs) == (cell, D, H, layers, K)
    again = to_torch(layout, network.parameters)
    assert {name: t.tobytes() for name, t in again.items()} == {name: t.tobytes() for name, t in tensors.items()}


@pytest.mark.parametrize(("cell", "gates"), [("tanh", 1), ("relu", 1), ("gru", 3), ("lstm", 4)])
def test_names_and_shapes_are_those_of_pytorch(cell: str, gates: int) -> None:
    tensors = state(cell, layers=2)
    wide = gates * H
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "rnn.weight_ih_l0": (wide, D),
        "rnn.weight_hh_l0": (wide, H),
        "rnn.bias_ih_l0": (wide,),
        "rnn.bias_hh_l0": (wide,),
        "rnn.weight_ih_l1": (wide, H),
        "rnn.weight_hh_l1": (wide, H),
        "rnn.bias_ih_l1": (wide,),
        "rnn.bias_hh_l1": (wide,),
        "readout.weight": (K, H),
        "readout.bias": (K,),
    }
    assert all(t.dtype == np.float32 and t.flags.c_contiguous and t.flags.owndata for t in tensors.values())


def test_a_weight_is_found_where_pytorch_would_look() -> None:
    layout = layout_of("gru")
    row = np.arange(layout.size, dtype=np.float32)
    weights, tensors = layout.split(row[None]), to_torch(layout, row)
    (layer,) = weights.layers
    assert tensors["rnn.weight_ih_l0"][4, 2] == layer.wx[0, 2, 4]
    assert tensors["rnn.weight_hh_l0"][11, 3] == layer.wh[0, 3, 11]
    np.testing.assert_array_equal(tensors["rnn.bias_ih_l0"], layer.b[0])
    np.testing.assert_array_equal(tensors["rnn.bias_hh_l0"], [*[0.0] * (2 * H), *layer.bh[0]])
    assert tensors["readout.weight"][1, 4] == weights.wo[0, 4, 1]


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
def test_two_biases_act_as_their_sum(cell: str) -> None:
    """All but the candidate's of GRU, whose hidden part the reset gate multiplies."""
    tensors = state(cell)
    rng = np.random.default_rng(1)
    ih, hh = (rng.standard_normal(len(tensors["rnn.bias_ih_l0"])).astype(np.float32) for _ in range(2))
    tensors |= {"rnn.bias_ih_l0": ih, "rnn.bias_hh_l0": hh}
    network = from_torch(tensors)
    (layer,) = layout_of(cell).split(network.parameters[None]).layers
    total = ih + hh
    if cell == "gru":
        total[2 * H :] = ih[2 * H :]
        np.testing.assert_array_equal(layer.bh[0], hh[2 * H :])
    np.testing.assert_array_equal(layer.b[0], total)


def renamed(tensors: Tensors, rnn: str, readout: str) -> Tensors:
    return {name.replace("rnn.", rnn).replace("readout.", readout): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("rnn", "readout"), [("", "fc."), ("model.encoder.lstm.", "model.head.1."), ("a_l0.", ""), ("é\n", "out_")]
)
def test_any_prefix_will_do(rnn: str, readout: str) -> None:
    tensors = state(layers=2)
    network = from_torch(renamed(tensors, rnn, readout))
    np.testing.assert_array_equal(network.parameters, from_torch(tensors).parameters)


def test_missing_biases_are_zero() -> None:
    tensors = state("gru", 2)
    without = {name: tensor for name, tensor in tensors.items() if "bias" not in name}
    zeros = {name: tensor * ("bias" not in name) for name, tensor in tensors.items()}
    np.testing.assert_array_equal(from_torch(without).parameters, from_torch(zeros).parameters)
    only_recurrent = {name: tensor for name, tensor in tensors.items() if name != "readout.bias"}
    assert (from_torch(only_recurrent).parameters[-K:] == 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(dtype: type) -> None:
    tensors = {name: tensor.astype(dtype) for name, tensor in state().items()}
    network = from_torch(tensors)
    expected = from_torch({name: tensor.astype(np.float32) for name, tensor in tensors.items()})
    assert network.parameters.tobytes() == expected.parameters.tobytes()


def test_the_cell_is_told_by_its_gates() -> None:
    assert [from_torch(state(cell)).cell for cell in ("tanh", "gru", "lstm")] == ["tanh", "gru", "lstm"]
    assert [from_torch(state("relu"), cell).cell for cell in ("relu", "tanh", None)] == ["relu", "tanh", "tanh"]


def test_nothing_given_is_changed_or_shared() -> None:
    tensors = state("gru")
    before = {name: tensor.copy() for name, tensor in tensors.items()}
    network = from_torch(tensors)
    network.parameters[:] = 0
    assert all(np.array_equal(tensors[name], before[name]) for name in before)
    with pytest.raises(AttributeError):
        network.hidden = 1  # type: ignore[misc]
    assert isinstance(network, TorchNetwork)


def without(name: str) -> Tensors:
    return {key: tensor for key, tensor in state(layers=2).items() if key != name}


def with_one(name: str, tensor: Any) -> Tensors:
    return state(layers=2) | {name: np.asarray(tensor, np.float32) if isinstance(tensor, list) else tensor}


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def cell_of(gates: float, hidden: int) -> Tensors:
    wide = int(gates * hidden)
    return {"weight_ih_l0": zeros(wide, 1), "weight_hh_l0": zeros(wide, hidden), "out.weight": zeros(1, hidden)}


def beyond(values: Any, dtype: type = np.float32) -> np.ndarray:
    bias = np.zeros(K, dtype)
    bias[1] = values
    return bias


TOO_LARGE_TOGETHER = {f"rnn.bias_{part}_l1": np.full(20, 3e38, np.float32) for part in ("ih", "hh")}


@pytest.mark.parametrize(
    ("tensors", "cell", "field", "words"),
    [
        ({}, None, "weight_ih_l0", "absent; allowed: weights of an nn.RNN"),
        ({"fc.weight": zeros(2, 2)}, None, "weight_ih_l0", "absent"),
        (with_one("rnn.weight_ih_l0_reverse", zeros(20, 3)), None, "rnn.weight_ih_l0_reverse", "bidirectional"),
        (with_one("rnn.bias_hh_l1_reverse", zeros(20)), None, "rnn.bias_hh_l1_reverse", "one direction"),
        (with_one("rnn.weight_hr_l0", zeros(2, 5)), None, "rnn.weight_hr_l0", "proj_size"),
        (with_one("decoder.weight_ih_l0", zeros(20, 3)), None, "decoder.weight_ih_l0", "second recurrent module"),
        (without("rnn.weight_ih_l0"), None, "rnn.weight_ih_l0", "absent"),
        (without("rnn.weight_hh_l0"), None, "rnn.weight_hh_l0", "absent"),
        (without("rnn.weight_ih_l1"), None, "rnn.weight_ih_l1", "absent"),
        (without("rnn.weight_hh_l1"), None, "rnn.weight_hh_l1", "absent"),
        (without("readout.weight"), None, "readout.weight", "absent; allowed: a matrix"),
        (with_one("rnn.weight_ih_l4", zeros(20, 5)), None, "rnn.weight_ih_l4", "layer 4; allowed: layers 0..3"),
        (with_one("rnn.weight_ih_l9" + "9" * 5000, zeros(20, 5)), None, None, "allowed: layers 0..3"),
        (with_one("rnn.weight_ih_l3", zeros(20, 5)), None, "rnn.weight_ih_l2", "absent"),
        (with_one("rnn.weight_ih_l00", zeros(20, 5)), None, "rnn.weight_ih_l00", "nothing beside"),
        (with_one("rnn.weight_ih_l0", zeros(20)), None, "rnn.weight_ih_l0", "of shape [20]; allowed: a matrix"),
        (with_one("rnn.weight_ih_l0", zeros(20, 0)), None, "rnn.weight_ih_l0", "of shape [20, 0]"),
        (with_one("rnn.weight_ih_l0", zeros(15, 3)), None, "rnn.weight_ih_l0", "allowed: shape [20, 3]"),
        (with_one("rnn.weight_ih_l1", zeros(20, 3)), None, "rnn.weight_ih_l1", "allowed: shape [20, 5]"),
        (with_one("rnn.weight_hh_l1", zeros(5, 20)), None, "rnn.weight_hh_l1", "allowed: shape [20, 5]"),
        (with_one("rnn.bias_ih_l1", zeros(5)), None, "rnn.bias_ih_l1", "allowed: shape [20]"),
        (with_one("rnn.bias_hh_l0", zeros(20, 1)), None, "rnn.bias_hh_l0", "allowed: shape [20]"),
        (with_one("readout.weight", zeros(2, 4)), None, "readout.weight", "allowed: shape [2, 5]"),
        (with_one("readout.weight", zeros(0, 5)), None, "readout.weight", "at least one output"),
        (with_one("readout.bias", zeros(3)), None, "readout.bias", "allowed: shape [2]"),
        (with_one("norm.bias", zeros(5)), None, "norm.bias", "nothing beside one recurrent module"),
        (with_one("embedding.weight", zeros(9, 3)), None, "embedding.weight", "nothing beside"),
        (with_one("rnn.weight_ih_l0", np.zeros((20, 3), np.int32)), None, "rnn.weight_ih_l0", "int32; allowed: float"),
        (with_one("extra", np.zeros(1, bool)), None, "extra", "bool"),
        (with_one("readout.bias", beyond(np.nan)), None, "readout.bias", "nan; allowed: finite"),
        (with_one("readout.bias", beyond(-np.inf)), None, "readout.bias", "-inf; allowed: finite"),
        (with_one("readout.bias", beyond(1e39, np.float64)), None, "readout.bias", "1e+39; allowed: finite"),
        (state(layers=2) | TOO_LARGE_TOGETHER, None, "rnn.bias_hh_l1", "too large; allowed: a finite sum"),
        (cell_of(2, 3), None, "weight_hh_l0", "[6, 3]; allowed: 3 columns with 3 (RNN), 9 (GRU) or 12 (LSTM) rows"),
        (cell_of(1.5, 4), None, "weight_hh_l0", "[6, 4]"),
        (cell_of(5, 4), None, "weight_hh_l0", "[20, 4]"),
        (cell_of(1, MAX_HIDDEN + 1), None, "weight_hh_l0", "for 513 hidden units; allowed: 1..512"),
        (state("lstm"), "gru", "cell", "allowed: lstm, as the weights have 4 gates"),
        (state("gru"), "tanh", "cell", "allowed: gru"),
        (state("tanh"), "lstm", "cell", "allowed: tanh or relu, as the weights have 1 gate"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(tensors: Tensors, cell: str | None, field: str | None, words: str) -> None:
    with pytest.raises(FieldError, match=re.escape(words)) as refused:
        from_torch(tensors, cell)
    assert field is None or refused.value.field == field


def test_the_largest_network_is_taken() -> None:
    network = from_torch(cell_of(1, MAX_HIDDEN))
    assert network.hidden == MAX_HIDDEN
