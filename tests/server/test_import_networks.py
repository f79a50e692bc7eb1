"""Networks as safetensors: an imported session forecasts what PyTorch's modules do, and then it goes on learning."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import load, save

from bptt.v1 import config_pb2, session_pb2
from server.exports import PIECE_BYTES

SAFETENSORS = 2
FIXED = 2
EVERY = 1
GATES = {"tanh": 1, "relu": 1, "gru": 3, "lstm": 4}
NUMBERS = {"tanh": 1, "gru": 2, "lstm": 3, "relu": 4}
MEANS, DEVIATIONS = np.array([10.0, -2.0]), np.array([4.0, 0.5])
Tensors = dict[str, Any]


def export(rpc: Any, session_id: str) -> bytes:
    request = session_pb2.ExportSessionRequest(session_id=session_id, format=SAFETENSORS)
    return b"".join(response.data for response in rpc.sessions.ExportSession(request, timeout=60))


def take_in(rpc: Any, session_id: str, data: bytes, config: Any, **terms: Any) -> Any:
    def messages() -> Iterator[Any]:
        first = session_pb2.ImportTerms(session_id=session_id, format=SAFETENSORS, config=config, **terms)
        yield session_pb2.ImportSessionRequest(terms=first)
        for at in range(0, len(data), PIECE_BYTES):
            yield session_pb2.ImportSessionRequest(data=data[at : at + PIECE_BYTES])

    return rpc.sessions.ImportSession(messages(), timeout=60).session


def fixed(**learner: Any) -> Any:
    """A configuration in which the network sees (value − mean) / deviation and forecasts the same, two steps ahead."""
    return config_pb2.SessionConfig(
        features=["x", "y"], targets=["y"], horizon=2, scaling=FIXED, means=MEANS, deviations=DEVIATIONS,
        learner=config_pb2.LearnerConfig(**learner),
    )  # fmt: skip


def state_dict(cell: str, layers: int, inputs: int = 2, hidden: int = 3, outputs: int = 2) -> Tensors:
    """Random weights under the names of PyTorch's modules `rnn` and `readout`."""
    rng, tensors = np.random.default_rng(layers), {}
    for layer in range(layers):
        rows = GATES[cell] * hidden
        for name, shape in (
            ("weight_ih", (rows, hidden if layer else inputs)), ("weight_hh", (rows, hidden)),
            ("bias_ih", (rows,)), ("bias_hh", (rows,)),
        ):  # fmt: skip
            tensors[f"rnn.{name}_l{layer}"] = rng.uniform(-0.6, 0.6, shape).astype(np.float32)
    tensors["readout.weight"] = rng.uniform(-0.6, 0.6, (outputs, hidden)).astype(np.float32)
    tensors["readout.bias"] = rng.uniform(-0.6, 0.6, outputs).astype(np.float32)
    return tensors


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def forward(cell: str, layers: int, tensors: Tensors, xs: Any) -> Any:
    """The readout after every row of `xs` [T, D], in float64, from PyTorch's documented equations."""
    for layer in range(layers):
        w, u, b, c = (
            tensors[f"rnn.{name}_l{layer}"].astype(float) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, memory, hs = np.zeros(u.shape[1]), np.zeros(u.shape[1]), []
        for x in xs:
            of_input, of_hidden = w @ x + b, u @ h + c
            if cell == "lstm":
                i, f, g, o = np.split(of_input + of_hidden, 4)
                memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(memory)
            elif cell == "gru":
                (r, z, n), (hr, hz, hn) = np.split(of_input, 3), np.split(of_hidden, 3)
                update = sigmoid(z + hz)
                h = (1 - update) * np.tanh(n + sigmoid(r + hr) * hn) + update * h
            else:
                z = of_input + of_hidden
                h = np.tanh(z) if cell == "tanh" else np.maximum(z, 0)
            hs.append(h)
        xs = np.array(hs)
    return xs @ tensors["readout.weight"].astype(float).T + tensors["readout.bias"]


def means(rpc: Any, name: str, events: Any, first: int = 1) -> Any:
    """Forecasts of `y` after every event, [T, horizon]."""
    return np.array(rpc.ingest(name, first, events, reply=EVERY).outcomes.mean).reshape(len(events), -1)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", GATES)
def test_an_imported_network_forecasts_what_its_equations_say_and_goes_on_learning(
    cell: str, layers: int, rpc: Any, new_id: Any, noise: Any
) -> None:
    tensors, events = state_dict(cell, layers), MEANS + DEVIATIONS * noise(40)
    expected = MEANS[1] + DEVIATIONS[1] * forward(cell, layers, tensors, (events - MEANS) / DEVIATIONS)
    config = fixed(cell=NUMBERS[cell] if GATES[cell] == 1 else 0, window=6, learning_rate=0.01)
    still, moving = new_id(), new_id()
    made = take_in(rpc, still, save(tensors), config, learning=False)
    assert (made.config.learner.cell, made.config.learner.layers, made.config.learner.hidden) == (
        NUMBERS[cell], layers, 3
    )  # fmt: skip
    assert made.last_sequence == 0
    np.testing.assert_allclose(means(rpc, still, events), expected, rtol=1e-5, atol=1e-5)
    take_in(rpc, moving, save(tensors), config)
    learned = means(rpc, moving, events)
    np.testing.assert_allclose(learned[0], expected[0], rtol=1e-5, atol=1e-5)
    assert np.abs(learned[-1] - expected[-1]).max() > 1e-3
    assert (rpc.get(still).updates.applied, rpc.get(moving).updates.applied) == (0, 39)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_network_that_pytorch_trained_forecasts_what_pytorch_forecasts(kind: str, rpc: Any, new_id: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import save as save_torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(torch.nn, kind)(2, 5, num_layers=2, batch_first=True)
            self.readout = torch.nn.Linear(5, 2)

        def forward(self, xs: Any) -> Any:
            return self.readout(self.rnn(xs)[0])

    torch.manual_seed(1)
    model, t = Model(), np.arange(60)
    events = MEANS + DEVIATIONS * np.stack([np.sin(t / 3), np.cos(t / 3)], axis=1)
    xs = torch.tensor((events - MEANS) / DEVIATIONS, dtype=torch.float32)[None]
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.02), []
    for _ in range(30):
        targets = torch.stack([xs[:, 1:-1, 1], xs[:, 2:, 1]], dim=-1)
        loss = ((model(xs)[:, :-2] - targets) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        expected = MEANS[1] + DEVIATIONS[1] * model(xs)[0].numpy()
    name = new_id()
    config = fixed(cell=NUMBERS["tanh"] if kind == "RNN" else 0, learning_rate=1e-3)
    take_in(rpc, name, save_torch(model.state_dict()), config, learning=False)
    np.testing.assert_allclose(means(rpc, name, events), expected, rtol=0, atol=1e-5)
    # Back again, PyTorch loads the session's network and forecasts the same.
    back = {key: torch.tensor(value) for key, value in load(export(rpc, name)).items()}
    model.load_state_dict(back)
    with torch.no_grad():
        np.testing.assert_allclose(MEANS[1] + DEVIATIONS[1] * model(xs)[0].numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", GATES)
def test_what_is_exported_comes_back_bit_by_bit(cell: str, rpc: Any, new_id: Any, noise: Any) -> None:
    name, copy = new_id(), new_id()
    rpc.create(name, cell=NUMBERS[cell], layers=2, hidden=3, horizon=2, targets=["y"])
    rpc.ingest(name, 1, noise(30))
    before, data = rpc.get(name), export(rpc, name)
    assert rpc.get(name) == before
    config = config_pb2.SessionConfig(features=["x", "y"], targets=["y"], horizon=2)
    made = take_in(rpc, copy, data, config, tags={"k": "v"}, limits={"credit_events": 5})
    assert (made.config.learner.cell, made.parameters) == (NUMBERS[cell], before.parameters)
    assert (dict(made.tags), made.limits.credit_events, made.learning) == ({"k": "v"}, 5, True)
    assert all(export(rpc, name) == data for _ in range(10)), "the same network is the same file"
    first, second = load(data), load(export(rpc, copy))
    assert first.keys() == second.keys()
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)
    assert any(first[key].any() for key in first if key.startswith("readout"))


def test_the_file_says_to_people_what_it_is(rpc: Any, new_id: Any) -> None:
    name = new_id()
    rpc.create(name, features=["x", "ü"], targets=["ü"], cell=NUMBERS["relu"], horizon=3)
    data = export(rpc, name)
    facts = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert facts == {
        "bptt": "1", "cell": "relu", "features": '["x", "\\u00fc"]', "targets": '["\\u00fc"]', "labels": "[]",
        "horizon": "3",
    }  # fmt: skip
    assert set(load(data)) == {
        "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0", "readout.weight", "readout.bias"
    }  # fmt: skip


def lstm(**changed: Any) -> bytes:
    return save({**state_dict("lstm", 1), **{f"rnn.{name}": value for name, value in changed.items()}})


NAN, BAD_BYTES = np.float32("nan"), b"\xff" * 100
REFUSED: dict[str, tuple[Callable[[], bytes], dict[str, Any], str]] = {
    "no file": (lambda: b"", {}, "data is unusable"),
    "other bytes": (lambda: BAD_BYTES, {}, "data is unusable"),
    "a long header": (lambda: (2**20 + 1).to_bytes(8, "little") + b"{" * 100, {}, "its header has 1048577 bytes"),
    "cut short": (lambda: lstm()[:-1], {}, "data is unusable"),
    "no recurrent module": (lambda: save({"weight": np.zeros((2, 2), np.float32)}), {}, "data[weight_ih_l0] is absent"),
    "integers": (lambda: lstm(bias_ih_l0=np.zeros(12, np.int32)), {}, "data[rnn.bias_ih_l0] is int32"),
    "not finite": (lambda: lstm(bias_ih_l0=np.full(12, NAN)), {}, "data[rnn.bias_ih_l0] is nan"),
    "a tensor of another shape": (
        lambda: lstm(weight_ih_l0=np.zeros((9, 2), np.float32)), {}, "data[rnn.weight_ih_l0] is of shape [9, 2]"
    ),
    "one tensor too many": (lambda: lstm(odd=np.zeros(3, np.float32)), {}, "rnn.odd"),
    "both directions": (lambda: lstm(weight_ih_l0_reverse=np.zeros(3, np.float32)), {}, "bidirectional"),
    "a name without end": (lambda: lstm(**{"ä" * 5000: np.zeros(3, np.float32)}), {}, "data[rnn.ääää"),
    "another cell": (lstm, {"cell": 2}, "config.learner.cell is 'gru'; allowed: lstm"),
    "another hidden": (lstm, {"hidden": 32}, "config.learner.hidden is 32; allowed: 3, as the network"),
    "another layers": (lstm, {"layers": 2}, "config.learner.layers is 2; allowed: 1, as the network"),
    "a window too short": (lstm, {"window": 1}, "config.learner.window is 1; allowed: 3..1024"),
    "tanh or relu": (lambda: save(state_dict("tanh", 1)), {}, "config.learner.cell is absent; allowed: tanh or relu"),
    "other inputs": (
        lambda: save(state_dict("lstm", 1, inputs=6)), {},
        "config.features is 2 inputs; allowed: 6 inputs, as the network in the file has (fixed scaling gives one per",
    ),
    "other outputs": (
        lambda: save(state_dict("lstm", 1, outputs=3)), {},
        "config.horizon × targets is 2 outputs; allowed: 3 outputs, as the network in the file has",
    ),
    "a loss of two outputs": (lstm, {"loss": 6}, "config.horizon × targets is 4 outputs; allowed: 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_does_not_fit_is_refused_and_makes_nothing(
    name: str, rpc: Any, new_id: Any, refused: Any
) -> None:
    make, learner, text = REFUSED[name]
    session = new_id()
    error = refused(lambda: take_in(rpc, session, make(), fixed(**learner)))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert text in error.message
    assert len(error.message) < 600
    assert refused(lambda: rpc.get(session)).reason == "SESSION_NOT_FOUND"


def test_damage_anywhere_makes_another_network_or_none(rpc: Any, new_id: Any, refused: Any) -> None:
    data, session, codes = save(state_dict("gru", 1)), new_id(), set()
    for at in range(0, len(data), 97):
        damaged = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
        try:
            take_in(rpc, session, damaged, fixed())
        except grpc.RpcError as error:
            codes.add(error.code().name)
        else:
            rpc.delete(session)
    assert codes == {"INVALID_ARGUMENT"}
    assert refused(lambda: rpc.get(session)).reason == "SESSION_NOT_FOUND"
    take_in(rpc, session, data, fixed())


def test_a_network_takes_an_id_and_memory_like_any_session(start_server: Any, connect: Any, refused: Any) -> None:
    rpc = connect(start_server("--max-sessions", "2", "--session-memory-mib", "1").target)
    take_in(rpc, "s", lstm(), fixed())
    error = refused(lambda: take_in(rpc, "s", lstm(), fixed()))
    assert (error.code, error.reason) == ("ALREADY_EXISTS", "SESSION_EXISTS")
    # Adam's moments and the window come on top of the file.
    large = save(state_dict("lstm", 1, hidden=150))
    assert len(large) < 2**19
    error = refused(lambda: take_in(rpc, "t", large, fixed()))
    assert (error.code, error.facts["limit"]) == ("RESOURCE_EXHAUSTED", "session-memory-mib")
    take_in(rpc, "t", lstm(), fixed())
    error = refused(lambda: take_in(rpc, "u", lstm(), fixed()))
    assert (error.code, error.facts["limit"]) == ("RESOURCE_EXHAUSTED", "2")
