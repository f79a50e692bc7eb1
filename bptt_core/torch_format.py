"""Weights as PyTorch names and shapes them: one `nn.RNN`, `nn.GRU` or `nn.LSTM` with an `nn.Linear` readout.

Both directions are exact: a row of parameters that goes out and comes back in is the same bits. Knows arrays by name
only; files, bytes and PyTorch itself belong to the caller.

PyTorch keeps two biases per gate, of which only the sum acts; a row keeps the sum (except for GRU's candidate, whose
hidden bias the reset gate multiplies). Going out, the sum is `bias_ih` and `bias_hh` is zero. Gate orders are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.cells import CELLS, CellWeights
from bptt_core.checks import FieldError, Words
from bptt_core.learner_config import MAX_HIDDEN, MAX_LAYERS
from bptt_core.parameters import ParameterLayout

Tensors = Mapping[str, NDArray[Any]]

FLOATS: Final = ("float16", "float32", "float64")
PIECES: Final = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
RECURRENT: Final = re.compile(rf"^(.*?)({'|'.join(PIECES)})_l(0|[1-9][0-9]*)$", re.DOTALL)
GATED: Final = {3: "gru", 4: "lstm"}
ONE_GATE: Final = ("tanh", "relu")


@dataclass(frozen=True, slots=True)
class TorchNetwork:
    """A network that was read from tensors. `parameters` is its float32 row [P] in canonical order."""

    cell: str
    inputs: int
    hidden: int
    layers: int
    outputs: int
    parameters: NDArray[np.float32]


def to_torch(layout: ParameterLayout, row: NDArray[np.floating]) -> dict[str, NDArray[np.float32]]:
    """State dicts of the recurrent module (`rnn.`) and of the linear readout (`readout.`) from a row [P], float32."""
    weights = layout.split(np.asarray(row, np.float32)[None])
    tensors: dict[str, NDArray[Any]] = {}
    for number, layer in enumerate(weights.layers):
        hidden_bias = np.zeros_like(layer.b[0])
        if layer.bh is not None:
            hidden_bias[2 * layout.hidden :] = layer.bh[0]
        for piece, tensor in zip(PIECES, (layer.wx[0].T, layer.wh[0].T, layer.b[0], hidden_bias), strict=True):
            tensors[f"rnn.{piece}_l{number}"] = tensor
    tensors |= {"readout.weight": weights.wo[0].T, "readout.bias": weights.bo[0]}
    return {name: np.array(tensor, np.float32, order="C") for name, tensor in tensors.items()}


def from_torch(tensors: Tensors, cell: str | None = None) -> TorchNetwork:
    """The network whose state dict this is; names may carry any prefix. Raises FieldError naming the tensor.

    A missing bias is zero (`bias=False`); float16 and float64 become float32. GRU and LSTM are told by their shapes.
    With one gate `cell` says which nonlinearity it is, "tanh" or "relu" (absent: tanh), as no tensor does.
    """
    for name, tensor in tensors.items():
        _check_values(name, tensor)
    prefix, layers = _recurrent_names(tensors)
    hidden, gates = _hidden_and_gates(tensors, prefix)
    inputs = _columns(tensors, f"{prefix}weight_ih_l0")
    found = _cell(gates, cell)
    weight, bias = _readout_names(tensors)
    outputs = len(tensors[weight])
    _expect(tensors, weight, (outputs, hidden))
    layout = ParameterLayout(found, inputs, hidden, layers, outputs)
    row = np.empty((1, layout.size), np.float32)
    weights = layout.split(row)
    for number, layer in enumerate(weights.layers):
        _read_layer(tensors, prefix, number, layer)
    weights.wo[0] = tensors[weight].T
    weights.bo[0] = _bias(tensors, bias, outputs)
    return TorchNetwork(found, inputs, hidden, layers, outputs, row[0])


def _check_values(name: str, tensor: NDArray[Any]) -> None:
    if tensor.dtype.name not in FLOATS:
        raise FieldError(name, Words(tensor.dtype.name), ", ".join(FLOATS))
    finite = np.abs(tensor) <= np.finfo(np.float32).max  # False for NaN; for float64 too large as well
    if not finite.all():
        raise FieldError(name, float(tensor[~finite][0]), "finite float32 values")


def _recurrent_names(tensors: Tensors) -> tuple[str, int]:
    """Prefix of the one recurrent module, and its number of layers."""
    prefixes, layers = [], 0
    for name in tensors:
        _refuse_variants(name)
        match = RECURRENT.match(name)
        if match:
            prefix, _, number = match.groups()
            prefixes.append(prefix)
            if prefix != prefixes[0]:
                raise FieldError(name, Words("part of a second recurrent module"), f"one, {prefixes[0]!r}")
            if len(number) > 2 or int(number) >= MAX_LAYERS:
                raise FieldError(name, Words(f"layer {number}"), f"layers 0..{MAX_LAYERS - 1}")
            layers = max(layers, int(number) + 1)
    if not prefixes:
        raise FieldError("weight_ih_l0", Words("absent"), "weights of an nn.RNN, nn.GRU or nn.LSTM")
    return prefixes[0], layers


def _refuse_variants(name: str) -> None:
    if re.search(r"_l[0-9]+_reverse$", name):
        raise FieldError(name, Words("part of a bidirectional network"), "one direction, as a stream has no future")
    if re.search(r"weight_hr_l[0-9]+$", name):
        raise FieldError(name, Words("a projection"), "LSTM without proj_size")


def _hidden_and_gates(tensors: Tensors, prefix: str) -> tuple[int, int]:
    name = f"{prefix}weight_hh_l0"
    hidden = _columns(tensors, name)
    rows = len(tensors[name])
    if hidden > MAX_HIDDEN:
        raise FieldError(name, Words(f"for {hidden} hidden units"), f"1..{MAX_HIDDEN} hidden units")
    if rows not in {cell.gates * hidden for cell in CELLS.values()}:
        allowed = f"{hidden} columns with {hidden} (RNN), {3 * hidden} (GRU) or {4 * hidden} (LSTM) rows"
        raise FieldError(name, _shape(tensors[name]), allowed)
    return hidden, rows // hidden


def _columns(tensors: Tensors, name: str) -> int:
    """Columns of a matrix that has at least one row and column."""
    _require(tensors, name)
    if tensors[name].ndim != 2 or 0 in tensors[name].shape:
        raise FieldError(name, _shape(tensors[name]), "a matrix")
    columns: int = tensors[name].shape[1]
    return columns


def _cell(gates: int, given: str | None) -> str:
    allowed = (GATED[gates],) if gates in GATED else ONE_GATE
    if given is None or given in allowed:
        return given or allowed[0]
    raise FieldError("cell", given, f"{' or '.join(allowed)}, as the weights have {gates} gate{'s'[: gates - 1]}")


def _readout_names(tensors: Tensors) -> tuple[str, str]:
    """Names of the readout's weight and bias: all there is beside the recurrent module. The bias may be absent."""
    rest = [name for name in tensors if not RECURRENT.match(name)]
    weights = [name for name in rest if name.endswith("weight") and tensors[name].ndim == 2]
    if not weights:
        raise FieldError("readout.weight", Words("absent"), "a matrix [outputs, hidden] of an nn.Linear")
    weight = weights[0]
    bias = weight.removesuffix("weight") + "bias"
    for name in rest:
        if name not in (weight, bias):
            raise FieldError(name, _shape(tensors[name]), f"nothing beside one recurrent module and {weight!r}")
    if len(tensors[weight]) == 0:
        raise FieldError(weight, _shape(tensors[weight]), "at least one output")
    return weight, bias


def _read_layer(tensors: Tensors, prefix: str, number: int, layer: CellWeights) -> None:
    """Fills one layer's weights [1, …]."""
    names = {piece: f"{prefix}{piece}_l{number}" for piece in PIECES}
    for piece, into in (("weight_ih", layer.wx[0]), ("weight_hh", layer.wh[0])):
        _expect(tensors, names[piece], into.shape[::-1])
        into[...] = tensors[names[piece]].T
    wide, H = layer.b.shape[1], layer.wh.shape[1]
    of_inputs, of_hidden = (_bias(tensors, names[piece], wide) for piece in PIECES[2:])
    if layer.bh is not None:
        layer.bh[0] = of_hidden[2 * H :]
        of_hidden[2 * H :] = 0
    # Where there is nothing to add nothing is: -0.0 + 0.0 would be 0.0.
    total = np.where(of_hidden == 0, of_inputs, of_inputs + of_hidden)
    if not (np.abs(total) <= np.finfo(np.float32).max).all():
        raise FieldError(names["bias_hh"], Words("too large"), f"a finite sum with {names['bias_ih']!r}")
    layer.b[0] = total


def _bias(tensors: Tensors, name: str, length: int) -> NDArray[np.float64]:
    """A bias in float64, so that a sum of two is rounded once; zeros if there is none."""
    if name not in tensors:
        return np.zeros(length)
    _expect(tensors, name, (length,))
    return tensors[name].astype(np.float64)


def _expect(tensors: Tensors, name: str, shape: tuple[int, ...]) -> None:
    _require(tensors, name)
    if tensors[name].shape != shape:
        raise FieldError(name, _shape(tensors[name]), f"shape {list(shape)}")


def _require(tensors: Tensors, name: str) -> None:
    if name not in tensors:
        raise FieldError(name, Words("absent"), "present, as the other tensors of this module are")


def _shape(tensor: NDArray[Any]) -> Words:
    return Words(f"of shape {list(tensor.shape)}")
