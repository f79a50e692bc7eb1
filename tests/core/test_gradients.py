"""Every backward against central differences in float64, and proof that the check would see a wrong one.

Each element of every weight, of the inputs and of the incoming carry is moved by itself, in copies of its learner that
run side by side. Slopes from outside and carries are random, all dimensions differ, and some pairs are missing. Where
an equation has a kink (a rectified unit, |e|, a quantile) the numbers are drawn again until none is near it.
"""

from __future__ import annotations

import inspect
import itertools
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt_core import CELLS, LOSSES, cells, heads, network, tbptt
from bptt_core.cells import CellWeights, Tape
from bptt_core.parameters import ParameterLayout

TOLERANCE = 1e-6
STEP = 2e-4
FROM_KINK = 3e-3
T, B, D, H = 7, 2, 4, 5
SHAPE = {
    "inputs": 3, "hidden": 4, "horizon": 3, "targets": 2, "symbols": 3, "window": 6, "stride": 1, "loss_span": 5,
    "quantiles": (0.1, 0.4, 0.8), "optimizer": "sgd", "schedule": "constant", "clip": "off",
}  # fmt: skip

Arrays = dict[str, np.ndarray]  # name → [B, …]
Loss = Callable[[Arrays], np.ndarray]  # → [B]


def differences(loss: Loss, arrays: Arrays, name: str) -> np.ndarray:
    """dloss[b] by each element of arrays[name][b], by the five-point central difference."""
    learners, n = len(arrays[name]), arrays[name][0].size
    copies = {key: np.repeat(array, 4 * n, axis=0) for key, array in arrays.items()}
    element = np.arange(n)
    copies[name].reshape(learners, n, 4, n)[:, element, :, element] += STEP * np.array([-2, -1, 1, 2])
    values = loss(copies).reshape(learners, n, 4)
    return (values @ np.array([1, -8, 8, -1]) / (12 * STEP)).reshape(arrays[name].shape)


def assert_close(name: str, analytic: np.ndarray, numeric: np.ndarray) -> None:
    """Agreement to TOLERANCE relative to each element, or to a thousandth of the largest one where that is more."""
    assert analytic.shape == numeric.shape
    assert np.abs(numeric).max() > 1e-3, f"{name}: nothing to see"
    scale = np.maximum(np.abs(numeric), 1e-3 * np.abs(numeric).max())
    worst = (np.abs(analytic - numeric) / scale).max()
    assert worst < TOLERANCE, f"{name} is off by {worst:.1e}"


def assert_weights_close(layout: ParameterLayout, analytic: np.ndarray, numeric: np.ndarray) -> None:
    """The same for rows [B, P], weight by weight; a readout that is NaN is none."""
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in layout.shapes().values()])[:-1]
    parts = zip(layout.shapes(), np.split(analytic, ends, axis=1), np.split(numeric, ends, axis=1), strict=True)
    for name, ours, theirs in parts:
        if name not in ("wo", "bo") or np.isfinite(ours).any():
            assert_close(name, ours, theirs)


def time_first(array: np.ndarray) -> np.ndarray:
    return array.swapaxes(0, 1)


def far_from_kinks(cell: str, layers: tuple[CellWeights, ...], tapes: tuple[Tape, ...]) -> bool:
    """No rectified unit is about to be turned on or off."""
    if cell != "relu":
        return True
    before = (
        time_first(time_first(tape.xs) @ w.wx + w.b[:, None] + time_first(tape.hs[:-1]) @ w.wh)
        for w, tape in zip(layers, tapes, strict=True)
    )
    return all(np.abs(z).min() > FROM_KINK for z in before)


# ---- A cell alone, and cells stacked ---------------------------------------------------------------------------------


def one_layer(cell: cells.Cell) -> types.SimpleNamespace:
    """A cell with the face of network.py."""

    def backward(
        xp: Any, _: str, layers: Any, tapes: Any, dhs: np.ndarray, grads: Any, inputs: bool = False, trail: Any = None
    ) -> Any:
        return cell.backward(xp, layers[0], tapes[0], dhs, None if grads is None else grads[0], inputs, trail)

    return types.SimpleNamespace(
        forward=lambda xp, _, layers, xs, carry: (cell.forward(xp, layers[0], xs, carry),),
        backward=backward,
        carry_at=lambda xp, tapes, step: tapes[0].carry(xp, step),
    )


def drawn(cell: str, layers: int, scale: float = 0.6) -> tuple[ParameterLayout, Arrays]:
    """A stack without readout, its inputs, carry and the slopes of its top hidden states."""
    layout = ParameterLayout(cell, D, H, layers, 1)
    for seed in itertools.count(1):
        rng = np.random.default_rng(seed)
        arrays = {
            "row": scale * rng.standard_normal((B, layout.size)),
            "xs": rng.standard_normal((B, T, D)),
            "carry": rng.standard_normal((B, layers * cells.CELLS[cell].carries, H)),
            "dhs": rng.standard_normal((B, T, H)),
        }
        weights = layout.split(arrays["row"]).layers
        tapes = network.forward(np, cell, weights, time_first(arrays["xs"]), arrays["carry"])
        if far_from_kinks(cell, weights, tapes):
            return layout, arrays
    raise AssertionError


def check_stack(net: Any, cell: str, layers: int = 1) -> None:
    """Weights, inputs, carry and trail under random slopes of every hidden state of the top layer."""
    layout, arrays = drawn(cell, layers)

    def loss(arrays: Arrays) -> np.ndarray:
        weights = layout.split(arrays["row"]).layers
        tapes = net.forward(np, cell, weights, time_first(arrays["xs"]), arrays["carry"])
        return (arrays["dhs"] * time_first(tapes[-1].hs[1:])).sum(axis=(1, 2))

    weights, xs, dhs = layout.split(arrays["row"]).layers, time_first(arrays["xs"]), time_first(arrays["dhs"])
    tapes = net.forward(np, cell, weights, xs, arrays["carry"])
    gradient, trail = (np.full(shape, np.nan) for shape in (arrays["row"].shape, (T, *arrays["carry"].shape)))
    grads = layout.split(gradient).layers
    dcarry, dxs = net.backward(np, cell, weights, tapes, dhs, grads, inputs=True, trail=trail)
    assert_weights_close(layout, gradient, differences(loss, arrays, "row"))
    assert_close("xs", time_first(dxs), differences(loss, arrays, "xs"))
    assert_close("carry", dcarry, differences(loss, arrays, "carry"))
    for t in range(T):
        later = {
            "row": arrays["row"],
            "xs": arrays["xs"][:, t:],
            "carry": net.carry_at(np, tapes, t),
            "dhs": arrays["dhs"][:, t:],
        }
        assert_close(f"trail at step {t}", trail[t], differences(loss, later, "carry"))


@pytest.mark.parametrize("cell", CELLS)
def test_cell(cell: str) -> None:
    check_stack(one_layer(cells.CELLS[cell]), cell)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_stack(cell: str, layers: int) -> None:
    check_stack(network, cell, layers)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_not_asked_for_changes_nothing(cell: str, layers: int) -> None:
    """Without weight gradients, trail or inputs; and with the slopes of the last two steps alone for those of all."""
    layout, arrays = drawn(cell, layers)
    weights, dhs = layout.split(arrays["row"]).layers, time_first(arrays["dhs"]).copy()
    dhs[:-2] = 0
    tapes = network.forward(np, cell, weights, time_first(arrays["xs"]), arrays["carry"])
    found = []
    for slopes in (dhs, dhs[-2:]):
        gradient, trail = np.full_like(arrays["row"], np.nan), np.full((T, *arrays["carry"].shape), np.nan)
        grads = layout.split(gradient).layers
        dcarry, dxs = network.backward(np, cell, weights, tapes, slopes, grads, inputs=True, trail=trail)
        alone, nothing = network.backward(np, cell, weights, tapes, slopes, None)
        np.testing.assert_array_equal(alone, dcarry)
        np.testing.assert_array_equal(trail[0], dcarry)
        assert nothing is None
        found.append((gradient, dcarry, dxs, trail))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_head_and_carry(cell: str, layers: int) -> None:
    """The carry between two parts of a window joins them, and the head of a forward is the forward of the head."""
    layout, arrays = drawn(cell, layers)
    weights, xs = layout.split(arrays["row"]).layers, time_first(arrays["xs"])
    tapes = network.forward(np, cell, weights, xs, arrays["carry"])
    first = network.forward(np, cell, weights, xs[:3], arrays["carry"])
    second = network.forward(np, cell, weights, xs[3:], network.carry_at(np, first, 3))
    for ours, theirs in zip(network.head(tapes, 3), first, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_allclose(
        network.carry_at(np, second, T - 3), network.carry_at(np, tapes, T), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_array_equal(network.carry_at(np, tapes, 0), arrays["carry"])
    network.carry_at(np, tapes, T)[...] = np.nan
    assert all(np.isfinite(tape.hs).all() for tape in tapes)


SLOPES = {
    "tanh": lambda a: 1 - a * a,
    "sigmoid": lambda a: 4 * a * (1 - a),
    "rectified": lambda a: float(a > 0),
}
UNITS = {
    "tanh": ["tanh"],
    "relu": ["rectified"],
    "gru": ["sigmoid", "sigmoid", "tanh"],
    "lstm": ["sigmoid", "sigmoid", "tanh", "sigmoid"],
}


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_saturated_units_have_a_slope_below_a_tenth_of_the_largest(cell: str, layers: int) -> None:
    layout, arrays = drawn(cell, layers, scale=1.5)
    weights = layout.split(arrays["row"]).layers
    tapes = network.forward(np, cell, weights, time_first(arrays["xs"]), arrays["carry"])
    share = network.saturation(np, cell, tapes)
    for b in range(B):
        slopes: list[float] = []
        for tape in tapes:
            for gate, unit in enumerate(UNITS[cell]):
                slopes += map(SLOPES[unit], tape.gates[:, b, gate * H : (gate + 1) * H].ravel())
            if cell == "lstm":
                slopes += map(SLOPES["tanh"], np.tanh(tape.cs[1:, b]).ravel())
        found = sum(slope < 0.1 for slope in slopes) / len(slopes)
        assert 0.1 < found < 0.9
        assert share[b] == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("hidden", [1, 5])
@pytest.mark.parametrize("cell", CELLS)
def test_bits_do_not_depend_on_the_company(cell: str, hidden: int) -> None:
    rng = np.random.default_rng(4)
    layout = ParameterLayout(cell, D, hidden, 2, 1)
    row, carry, xs, dhs = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((5, layout.size), (5, 2 * cells.CELLS[cell].carries, hidden), (5, 20, D), (5, 20, hidden))
    )

    def bits(part: slice) -> list[np.ndarray]:
        rows = row[part].copy()
        weights, gradient = layout.split(rows).layers, np.zeros_like(rows)
        trail = np.empty((20, *carry[part].shape), np.float32)
        tapes = network.forward(np, cell, weights, time_first(xs[part]), carry[part])
        slopes, grads = time_first(dhs[part]), layout.split(gradient).layers
        dcarry, dxs = network.backward(np, cell, weights, tapes, slopes, grads, inputs=True, trail=trail)
        assert dxs is not None
        last = network.carry_at(np, tapes, 20)
        return [last, gradient, dcarry, time_first(dxs), time_first(trail), network.saturation(np, cell, tapes)]

    together = bits(slice(None))
    for b in range(5):
        for ours, theirs in zip(bits(slice(b, b + 1)), together, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours[0], theirs[b])


# ---- Network, readout and loss together, as an update uses them ------------------------------------------------------


def drawn_window(shape: tbptt.LearnerShape) -> tuple[Arrays, np.ndarray]:
    """A full window, some of its targets NaN, and which of its pairs are active [rows, B, N]."""
    for seed in itertools.count(1):
        rng = np.random.default_rng(seed)
        device = {
            "params": 0.5 * rng.standard_normal((B, shape.layout.size)),
            "boundary": rng.standard_normal((B, shape.carries, shape.hidden)),
            "inputs": rng.standard_normal((B, shape.rows, shape.inputs)),
        }
        targets = (B, shape.rows, shape.pairs)
        if shape.loss == "softmax":
            device["targets"] = rng.integers(0, shape.symbols, targets).astype(float)
        else:
            device["targets"] = rng.random(targets) if shape.loss == "sigmoid" else 2 * rng.standard_normal(targets)
        device["targets"][rng.random(targets) < 0.2] = np.nan
        active = tbptt.active_pairs(np, shape, device["targets"], shape.rows, age_of(shape))
        weights = shape.layout.split(device["params"])
        tapes = network.forward(np, shape.cell, weights.layers, time_first(device["inputs"]), device["boundary"])
        rows = tbptt.active_rows(shape, shape.rows)
        ys = heads.readout(np, weights.wo, weights.bo, tapes[-1].hs[1:][rows])
        errors = ys.reshape(*active.shape, -1) - time_first(device["targets"][:, rows])[..., None]
        kinks = {"absolute": np.abs(errors), "pinball": np.abs(errors), "huber": np.abs(np.abs(errors) - DELTA)}
        near = active[..., None] & (kinks.get(shape.loss, np.ones_like(errors)) < FROM_KINK)
        if far_from_kinks(shape.cell, weights.layers, tapes) and not near.any():
            return device, active
    raise AssertionError


DELTA = 0.7  # Huber's; Student's ν too


def age_of(shape: tbptt.LearnerShape) -> np.ndarray | None:
    """Steps since the labels came, the oldest too long ago; none where targets come when they are due."""
    if shape.ahead == 1:
        return None
    return np.broadcast_to(np.arange(shape.rows)[::-1, None], (B, shape.rows, shape.pairs))


def check_window(cell: str, loss_name: str, **changes: Any) -> None:
    """Over the pairs that have arrived, some of them NaN, others too old."""
    given = SHAPE | {"cell": cell, "layers": 1, "ahead": 1, "loss": loss_name} | changes
    shape = tbptt.LearnerShape(**given)
    device, active = drawn_window(shape)

    def window(device: Arrays, inputs: bool = False) -> tbptt.Gradient:
        learners = len(device["params"])
        repeated = np.repeat(active, learners // B, axis=1)
        parameter = np.full((learners, 1), DELTA)
        return tbptt.window_gradient(np, shape, device, shape.rows, repeated, parameter, inputs)

    def loss(device: Arrays) -> np.ndarray:
        return window(device).loss

    found = window(device, inputs=True)
    assert active.any()
    assert not active.all()
    assert found.dxs is not None
    assert_weights_close(shape.layout, found.rows, differences(loss, device, "params"))
    assert_close("boundary", found.dcarry, differences(loss, device, "boundary"))
    dxs = np.zeros_like(device["inputs"])  # the newest row: none where its pairs lie ahead
    dxs[:, : len(found.dxs)] = time_first(found.dxs)
    assert_close("inputs", dxs, differences(loss, device, "inputs"))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cell", CELLS)
def test_window(cell: str, loss: str) -> None:
    check_window(cell, loss)


@pytest.mark.parametrize("cell", CELLS)
def test_window_of_labels_and_two_layers(cell: str) -> None:
    check_window(cell, "student_t", ahead=0, horizon=1, layers=2)


# ---- Planted errors: the source of a module with one term changed, and the check that has to notice ------------------

CELL_ERRORS = [
    ("tanh", "1 - tape.gates * tape.gates", "1 - tape.gates"),
    ("tanh", "dh = dh + dhs[t - first]\n        xp.multiply(dh, s", "dh = dhs[t - first]\n        xp.multiply(dh, s"),
    ("tanh", "trail[t, :, 0] = dh", "trail[t - 1, :, 0] = dh"),
    ("tanh", "xp.matmul(tape.hs[:-1].transpose(1, 2, 0)", "xp.matmul(tape.hs[1:].transpose(1, 2, 0)"),
    ("tanh", "grad.b[...] = by_learner.sum(axis=1)", "grad.b[...] = by_learner[:, 0]"),
    ("relu", "(tape.gates > 0).astype", "(tape.gates >= 0).astype"),
    ("relu", "xp.maximum(z, 0, out=z)", "xp.maximum(z, 0.1 * z, out=z)"),
    ("gru", "dn_slope = (1 - z) * (1 - n * n)", "dn_slope = 1 - n * n"),
    ("gru", "(tape.hs[:-1] - n) * z * (1 - z)", "tape.hs[:-1] * z * (1 - z)"),
    ("gru", "dr_slope = tape.inner * r * (1 - r)", "dr_slope = tape.inner * (1 - r)"),
    ("gru", "xp.multiply(dn, r[t], out=dh_part[t, :, 2 * H :])", "dh_part[t, :, 2 * H :] = dn"),
    ("gru", "dh = dh * z[t] + xp.matmul", "dh = xp.matmul"),
    ("gru", "_weight_gradients(xp, tape, dx, dh_part, grad)", "_weight_gradients(xp, tape, dx, dx, grad)"),
    ("gru", "grad.bh[...] = dh_part.", "grad.bh[...] = dx."),
    ("gru", "trail[t, :, 0] = dh", "trail[t, :, 0] = dh * z[t]"),
    ("lstm", "xp.multiply(g * i, rest", "xp.multiply(g, rest"),
    ("lstm", "tape.cs[:-1] * f, rest", "tape.cs[1:] * f, rest"),
    ("lstm", "xp.multiply(i, 1 - g * g,", "xp.multiply(i, 1 - g,"),
    ("lstm", "do_slope = tanh_c * o * rest", "do_slope = o * rest"),
    ("lstm", "dh_to_dc = o * (1 - tanh_c * tanh_c)", "dh_to_dc = o"),
    ("lstm", "dc *= forget", "dc *= 1"),
    ("lstm", "entering[:, 0], entering[:, 1] = dh, dc", "entering[:, 0], entering[:, 1] = dh, dc * to_dc"),
    ("lstm", "dcarry[:, 0], dcarry[:, 1] = dh, dc", "dcarry[:, 0], dcarry[:, 1] = dc, dh"),
    ("lstm", "by_learner = dz_input.transpose(1, 0, 2)", "by_learner = 2 * dz_input.transpose(1, 0, 2)"),
]
NETWORK_ERRORS = [
    ("xs = tapes[l].hs[1:]", "xs = tapes[l].hs[:-1]"),
    ("dcarries[::-1]), dhs", "dcarries), dhs"),
    ("trail[:, :, l * cell.carries : (l + 1) * cell.carries]", "trail[:, :, ::-1][:, :, l :: len(layers)]"),
    ("_stacked(xp, dcarries[::-1]), dhs", "_stacked(xp, dcarries[::-1]), 2 * dhs"),
    ("grads[l]", "grads[-1 - l]._replace(wx=grads[l].wx)"),
]
HEAD_ERRORS = [
    ("squared", "(2 * error)[:, :, None]", "error[:, :, None]"),
    ("absolute", "xp.sign(error)[:, :, None]", "xp.sign(error * 0 + 1)[:, :, None]"),
    ("huber", "xp.clip(error, -delta, delta)[:, :, None]", "error[:, :, None]"),
    ("huber", "delta * (size - 0.5 * delta)", "delta * size * size"),
    ("student_t", "(dof + 1) * error / (dof + square)", "dof * error / (dof + square)"),
    ("pinball", "xp.where(d < 0, 1 - levels, 0)", "xp.where(d < 0, levels, 0)"),
    ("gaussian", "slope = 0.5 * (1 - error * scaled)", "slope = 0.5 * (1 - scaled)"),
    ("gaussian", "xp.stack([scaled, xp.where", "xp.stack([error, xp.where"),
    ("softmax", "/ total[:, :, None] - is_target", "/ total[:, :, None]"),
    ("softmax", "weights / total[:, :, None]", "weights"),
    ("sigmoid", "(sigmoid(xp, y) - targets)", "sigmoid(xp, y)"),
    ("squared", "slope / count[:, :, None]", "slope / of_pairs.shape[1]"),
    ("squared", "value, 0).sum(axis=1)", "value, 0).max(axis=1)"),
    ("squared", "dbo[...] = by_learner.sum(axis=1)", "dbo[...] = by_learner[:, 0]"),
    ("squared", "wo.transpose(0, 2, 1)).transpose(1, 0, 2)", "wo.transpose(0, 2, 1)).transpose(1, 0, 2)[::-1]"),
]


def planted(module: types.ModuleType, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """`module` after its source was changed in one place."""
    source = inspect.getsource(module)
    assert source.count(right) >= 1, "the planted error no longer fits the source"
    copy = types.ModuleType("planted")
    monkeypatch.setitem(sys.modules, "planted", copy)
    exec(compile(source.replace(right, wrong), "planted", "exec"), copy.__dict__)  # noqa: S102
    return copy


@pytest.mark.parametrize(("cell", "right", "wrong"), CELL_ERRORS)
def test_an_error_in_a_cell_is_noticed(cell: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = planted(cells, right, wrong, monkeypatch)
    with pytest.raises(AssertionError, match="is off by"):
        check_stack(one_layer(module.CELLS[cell]), cell)


@pytest.mark.parametrize(("right", "wrong"), NETWORK_ERRORS)
@pytest.mark.parametrize("cell", CELLS)
def test_an_error_in_the_stack_is_noticed(cell: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = planted(network, right, wrong, monkeypatch)
    with pytest.raises(AssertionError, match="is off by"):
        check_stack(module, cell, layers=2)


@pytest.mark.parametrize(("loss", "right", "wrong"), HEAD_ERRORS)
def test_an_error_in_a_head_is_noticed(loss: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = planted(heads, right, wrong, monkeypatch)
    for name in ("masked_loss", "readout", "readout_backward"):
        monkeypatch.setattr(tbptt, name, getattr(module, name))
    with pytest.raises(AssertionError, match="is off by"):
        check_window("gru", loss)


def test_an_error_in_the_window_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = planted(tbptt, 'device["inputs"][:, :length]', 'device["inputs"][:, length - 1 :: -1]', monkeypatch)
    monkeypatch.setattr(tbptt, "window_gradient", module.window_gradient)
    with pytest.raises(AssertionError, match="is off by"):
        check_window("lstm", "squared")


def test_each_cell_and_loss_has_a_planted_error() -> None:
    assert {cell for cell, *_ in CELL_ERRORS} == set(CELLS)
    assert {loss for loss, *_ in HEAD_ERRORS} == set(LOSSES)
