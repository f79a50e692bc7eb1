"""Every backward against central differences in float64, and proof that the check would see a wrong one.

Each element of every weight, of the inputs and of the incoming carry is moved by itself, in all learners at once (their
losses are independent). Cotangents and carries are random, all dimensions differ, and some pairs are missing.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt_core import CELLS, LOSSES, cells, heads, tbptt
from bptt_core.parameters import ParameterLayout

TOLERANCE = 1e-6
T, B, D, H = 7, 3, 4, 5
SHAPE = {"inputs": 4, "hidden": 5, "horizon": 6, "targets": 2, "window": 9, "stride": 1, "loss_span": 8}

Loss = Callable[[], np.ndarray]  # → [B]


def differences(loss: Loss, array: np.ndarray, batch_axis: int, step: float = 2e-4) -> np.ndarray:
    """dloss[b]/darray[…b…] for every element, by the five-point central difference."""
    view = np.moveaxis(array, batch_axis, 0)
    result = np.empty_like(view)
    for index in np.ndindex(view.shape[1:]):
        here = (slice(None), *index)
        kept = view[here].copy()
        at = {}
        for k in (-2, -1, 1, 2):
            view[here] = kept + k * step
            at[k] = loss()
        view[here] = kept
        result[here] = (at[-2] - 8 * at[-1] + 8 * at[1] - at[2]) / (12 * step)
    return np.moveaxis(result, 0, batch_axis)


def assert_gradient(name: str, analytic: np.ndarray, loss: Loss, array: np.ndarray, batch_axis: int = 0) -> None:
    """Agreement to TOLERANCE relative to each element, or to a thousandth of the largest one where that is more."""
    numeric = differences(loss, array, batch_axis)
    assert np.abs(numeric).max() > 1e-3, f"{name}: nothing to see"
    scale = np.maximum(np.abs(numeric), 1e-3 * np.abs(numeric).max())
    worst = (np.abs(analytic - numeric) / scale).max()
    assert worst < TOLERANCE, f"{name} is off by {worst:.1e}"


def check_cell(cell: Any, name: str) -> None:
    """One cell alone, under random cotangents of every hidden state."""
    rng = np.random.default_rng(1)
    layout = ParameterLayout(name, D, H, 1)
    row = 0.6 * rng.standard_normal((B, layout.size))
    weights = layout.split(row).cell
    xs, dhs = rng.standard_normal((T, B, D)), rng.standard_normal((T, B, H))
    carry = rng.standard_normal((B, cell.carries, H))
    gradient = np.full_like(row, np.nan)
    grad = layout.split(gradient).cell
    dcarry, dxs = cell.backward(np, weights, cell.forward(np, weights, xs, carry), dhs, grad, inputs=True)

    def loss() -> np.ndarray:
        return (dhs * cell.forward(np, weights, xs, carry).hs[1:]).sum(axis=(0, 2))

    for field in cells.CellWeights._fields:
        if getattr(weights, field) is not None:
            assert_gradient(field, getattr(grad, field), loss, getattr(weights, field))
    assert_gradient("xs", dxs, loss, xs, batch_axis=1)
    assert_gradient("carry", dcarry, loss, carry)


def check_window(cell: str, loss_name: str) -> None:
    """Cell, readout and loss together, as an update uses them: over the pairs that have arrived, some of them NaN."""
    rng = np.random.default_rng(2)
    shape = tbptt.LearnerShape(cell=cell, loss=loss_name, optimizer="sgd", **SHAPE)
    length = shape.window + 1
    device = {
        "params": 0.5 * rng.standard_normal((B, shape.layout.size)),
        "boundary": rng.standard_normal((B, cells.CELLS[cell].carries, shape.hidden)),
        "inputs": rng.standard_normal((B, length, shape.inputs)),
        "targets": 2 * rng.standard_normal((B, length, shape.outputs)),
    }
    device["targets"][rng.random(device["targets"].shape) < 0.2] = np.nan
    active = tbptt.active_pairs(np, shape, device["targets"], length)
    delta = np.full((B, 1), 0.7)

    def window() -> tbptt.Gradient:
        return tbptt.window_gradient(np, shape, device, length, active, delta, inputs=True)

    def loss() -> np.ndarray:
        return window().loss

    found = window()
    assert active.any()
    assert not active.all()
    assert found.dxs is not None
    assert_gradient("params", found.rows, loss, device["params"])
    assert_gradient("boundary", found.dcarry, loss, device["boundary"])
    dxs = np.concatenate([found.dxs.transpose(1, 0, 2), np.zeros((B, 1, shape.inputs))], axis=1)  # newest: no pair yet
    assert_gradient("inputs", dxs, loss, device["inputs"])


@pytest.mark.parametrize("cell", CELLS)
def test_cell(cell: str) -> None:
    check_cell(cells.CELLS[cell], cell)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cell", CELLS)
def test_window(cell: str, loss: str) -> None:
    check_window(cell, loss)


def test_both_branches_of_the_huber_loss_are_visited() -> None:
    error = np.array([[-3.0, -0.5, 0.5, 3.0]])
    value, slope = heads.LOSSES["huber"]
    delta = np.array([[0.7]])
    np.testing.assert_allclose(value(np, error, delta), [[0.7 * 2.65, 0.125, 0.125, 0.7 * 2.65]])
    np.testing.assert_allclose(slope(np, error, delta), [[-0.7, -0.5, 0.5, 0.7]])


# Planted errors: the source of a module with one term changed, and the check that has to notice.

CELL_ERRORS = [
    ("tanh", "slope = 1 - tape.gates * tape.gates", "slope = 1 - tape.gates"),
    ("tanh", "dh = dh + dhs[t]\n        xp.multiply(dh, slope[t]", "dh = dhs[t]\n        xp.multiply(dh, slope[t]"),
    ("gru", "dn_slope = (1 - z) * (1 - n * n)", "dn_slope = 1 - n * n"),
    ("gru", "(tape.hs[:-1] - n) * z * (1 - z)", "tape.hs[:-1] * z * (1 - z)"),
    ("gru", "dr_slope = tape.inner * r * (1 - r)", "dr_slope = tape.inner * (1 - r)"),
    ("gru", "xp.multiply(dn, r[t], out=dh_part[t, :, 2 * H :])", "dh_part[t, :, 2 * H :] = dn"),
    ("gru", "dh = dh * z[t] + xp.matmul", "dh = xp.matmul"),
    ("gru", "grad.bh[...] = dh_part.", "grad.bh[...] = dx."),
    ("lstm", "= g * i * (1 - i)", "= g * (1 - i)"),
    ("lstm", "= tape.cs[:-1] * f * (1 - f)", "= tape.cs[1:] * f * (1 - f)"),
    ("lstm", "= i * (1 - g * g)", "= i * (1 - g)"),
    ("lstm", "do_slope = tanh_c * o * (1 - o)", "do_slope = o * (1 - o)"),
    ("lstm", "dh_to_dc = o * (1 - tanh_c * tanh_c)", "dh_to_dc = o"),
    ("lstm", "dc *= forget", "dc *= 1"),
    ("lstm", "xp.stack([dh, dc], axis=1), _input", "xp.stack([dc, dh], axis=1), _input"),
    ("tanh", "xp.matmul(hs[:-1].transpose(1, 2, 0), by_learner", "xp.matmul(hs[1:].transpose(1, 2, 0), by_learner"),
    ("tanh", "grad.b[...] = by_learner.sum(axis=1)", "grad.b[...] = by_learner[:, 0]"),
]
HEAD_ERRORS = [
    ("squared", "return 2 * error", "return error"),
    ("huber", "return xp.clip(error, -delta, delta)", "return error"),
    ("squared", "dys = (slope(xp, error, delta) / count)", "dys = (slope(xp, error, delta) / error.shape[1])"),
    ("squared", "dbo[...] = by_learner.sum(axis=1)", "dbo[...] = by_learner[:, 0]"),
    ("squared", "wo.transpose(0, 2, 1)).transpose(1, 0, 2)", "wo.transpose(0, 2, 1)).transpose(1, 0, 2)[::-1]"),
]


def planted(module: types.ModuleType, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of `module` after its source was changed in one place."""
    source = inspect.getsource(module)
    assert right in source, "the planted error no longer fits the source"
    copy = types.ModuleType("planted")
    monkeypatch.setitem(sys.modules, "planted", copy)
    exec(compile(source.replace(right, wrong), "planted", "exec"), copy.__dict__)  # noqa: S102
    return vars(copy)


@pytest.mark.parametrize(("cell", "right", "wrong"), CELL_ERRORS)
def test_an_error_in_a_cell_is_noticed(cell: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = planted(cells, right, wrong, monkeypatch)
    with pytest.raises(AssertionError, match="is off by"):
        check_cell(names["CELLS"][cell], cell)


@pytest.mark.parametrize(("loss", "right", "wrong"), HEAD_ERRORS)
def test_an_error_in_a_head_is_noticed(loss: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = planted(heads, right, wrong, monkeypatch)
    for name in ("masked_loss", "readout", "readout_backward"):
        monkeypatch.setattr(tbptt, name, names[name])
    with pytest.raises(AssertionError, match="is off by"):
        check_window("gru", loss)


def test_an_error_in_the_window_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = planted(tbptt, 'device["inputs"][:, :length]', 'device["inputs"][:, length - 1 :: -1]', monkeypatch)
    monkeypatch.setattr(tbptt, "window_gradient", names["window_gradient"])
    with pytest.raises(AssertionError, match="is off by"):
        check_window("lstm", "squared")
