"""What bptt_core makes of the cases, in float64 or float32, under the names that the oracle uses.

The functions of the core themselves, as an update calls them; nothing is computed here that they compute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any
from unittest import mock

import numpy as np

from bptt_core import clipping, full_bptt, network, tbptt
from bptt_core.events import UpdateResult
from bptt_core.heads import readout
from bptt_core.learner import LearnerShape, device_fields, host_fields
from bptt_core.optimizers import MOMENTS, Settings, apply

Arrays = dict[str, np.ndarray]

SETTINGS = {
    "loss_parameter": "loss_parameter",
    "learning_rate": "rate",
    "beta1": "beta1",
    "beta2": "beta2",
    "weight_decay": "weight_decay",
    "warmup_updates": "warmup",
    "decay_updates": "decay",
    "rate_floor": "floor",
    "clip_limit": "clip_limit",
}  # fields of a learner: names in a case


def shape_of(case: Any) -> LearnerShape:
    """A case knows no guard, which only acts on learners that go astray."""
    return LearnerShape(**{f.name: getattr(case, f.name) for f in fields(LearnerShape) if f.name != "guard"})


def window(case: Any, data: Arrays, dtype: type = np.float64) -> Arrays:
    """`tbptt.window_gradient`, its trail, and `full_bptt.gradient`."""
    shape = shape_of(case)
    device = {name: data[name].astype(dtype) for name in ("params", "boundary", "inputs", "targets")}
    active = _active(shape, data)
    parameter = data["loss_parameter"].astype(dtype)[:, None]
    found = tbptt.window_gradient(np, shape, device, shape.rows, active, parameter, inputs=True)
    weights = shape.layout.split(device["params"])
    hs = found.tapes[-1].hs[1:]
    dxs = np.zeros((shape.rows, *found.dxs.shape[1:]), dtype)
    dxs[: len(found.dxs)] = found.dxs  # a row whose pairs lie in the future has no gradient
    results = {
        "hs": hs.swapaxes(0, 1),
        "carry": network.carry_at(np, found.tapes, shape.rows),
        "ys": readout(np, weights.wo, weights.bo, hs).swapaxes(0, 1),
        "loss": found.loss,
        "dinputs": dxs.swapaxes(0, 1),
        "dcarry": found.dcarry,
    }
    results |= {f"d{name}": part for name, part in case.split(found.rows).items()}
    return results | {"trail": _trail(shape, weights, found, active)} | _whole(shape, device, parameter)


def _active(shape: LearnerShape, data: Arrays) -> np.ndarray:
    """The core's own choice of pairs, which has to be the case's."""
    age = None
    if shape.ahead == 0:  # every label came with its event
        age = np.broadcast_to(shape.rows - 1 - np.arange(shape.rows)[:, None], data["active"].shape)
    active = tbptt.active_pairs(np, shape, data["targets"], shape.rows, age)
    everywhere = np.zeros_like(data["active"].swapaxes(0, 1))
    everywhere[tbptt.active_rows(shape, shape.rows)] = active
    np.testing.assert_array_equal(everywhere.swapaxes(0, 1), data["active"])
    return active


def _trail(shape: LearnerShape, weights: Any, found: tbptt.Gradient, active: np.ndarray) -> np.ndarray:
    """By the carry entering each step, from the slopes of the newest row that is active in every learner alike."""
    (newest,) = {int(np.flatnonzero(active[:, b].any(axis=1))[-1]) for b in range(active.shape[1])}
    steps = tbptt.active_rows(shape, shape.rows).start + newest + 1
    tapes = network.head(found.tapes, steps)
    dhs = np.zeros_like(tapes[-1].gates[:, :, : shape.hidden])
    dhs[-1] = np.matmul(found.dys[newest][:, None, :], weights.wo.swapaxes(1, 2))[:, 0]
    trail = np.full((steps, dhs.shape[1], shape.carries, shape.hidden), np.nan, dhs.dtype)
    network.backward(np, shape.cell, weights.layers, tapes, dhs, None, trail=trail)
    return trail.swapaxes(0, 1)


def _whole(shape: LearnerShape, device: Arrays, parameter: np.ndarray) -> Arrays:
    """Each learner's window as a sequence of its own."""
    found = []
    for b in range(len(parameter)):
        one = slice(b, b + 1)
        xs, targets = (device[name][one].swapaxes(0, 1) for name in ("inputs", "targets"))
        found.append(full_bptt.gradient(np, shape, device["params"][one], xs, targets, parameter[one]))
    loss, rows = (np.concatenate([getattr(one, name) for one in found]) for name in ("loss", "rows"))
    return {"whole loss": loss, "all of the whole gradient": rows}


def updates(
    case: Any, gradient: np.ndarray, params: np.ndarray, data: Arrays, pairs: Iterable[tuple[str, str]]
) -> Arrays:
    """`clipping.clip` and `optimizers.apply`, for each pair of an optimiser and a clip."""
    results: Arrays = {}
    for name, kind in pairs:
        rows, gradients = params.copy(), gradient.copy()
        norm = clipping.global_norm(np, gradients)
        results[f"scale after {kind}"] = clipping.clip(np, kind, gradients, norm, _limit(kind, data))
        moments = [data[start].astype(rows.dtype) for start in _starts(name)]
        settings = Settings(data["rate"], data["beta1"], data["beta2"], data["weight_decay"], data["steps"])
        apply(np, name, rows, gradients, moments, settings)
        after = {"change": rows - params} | {f"moment{k}": moment for k, moment in enumerate(moments)}
        results |= {f"all {part} of {name} after {kind}": array for part, array in after.items()}
    return results


def _limit(kind: str, data: Arrays) -> np.ndarray:
    if kind != "quantile":
        return data.get(f"{kind}_limit", np.ones(len(data["steps"])))
    ring = np.full((len(data["ring"]), clipping.RING), np.nan)
    for b, count in enumerate(data["ring_count"]):
        ring[b, :count] = data["ring"][b, :count]
    return clipping.quantile_limit(ring, data["ring_count"], data["quantile"])


def _starts(name: str) -> list[str]:
    starts = ["second"] if name == "rmsprop" else ["first", "second"]
    return starts[: MOMENTS[name]]


def stream(case: Any, data: Arrays, dtype: type = np.float64) -> Arrays:
    """`tbptt.step` over the whole stream. The losses are taken where an update finds them, as it reports float32."""
    shape, losses = shape_of(case), [[] for _ in range(case.learners)]
    device, host = (
        {f.name: np.full((case.learners, *f.shape), f.start, f.dtype) for f in of}
        for of in (device_fields(shape, dtype), host_fields(shape))
    )
    device["params"][...], device["boundary"][...] = data["params"], data["boundary"]
    device["carry"][...] = data["boundary"]
    for field, name in SETTINGS.items():
        host[field][...] = data[name]
    calls: list[np.ndarray] = []
    original = tbptt.window_gradient

    def recording(*args: Any, **named: Any) -> tbptt.Gradient:
        found = original(*args, **named)
        calls.append(found.loss.copy())
        return found

    outputs, by_lag = [], np.full((case.learners, len(tbptt.lags(shape.window))), np.nan)
    with mock.patch.object(tbptt, "window_gradient", recording):
        for xs, arrived in zip(data["xs"].astype(dtype), data["arrived"].astype(dtype), strict=True):
            calls.clear()
            ys, report = tbptt.step(np, shape, device, host, xs, arrived, np.ones(case.learners, bool))
            outputs.append(ys)
            updated = np.flatnonzero(report.result == UpdateResult.APPLIED)
            for b, loss in zip(updated, calls[-1] if calls else [], strict=True):
                losses[b].append(loss)
            measured = ~np.isnan(report.norm_by_lag).all(axis=1)
            by_lag[measured] = report.norm_by_lag[measured]
    left = {"all parameters": device["params"], "last carry": device["carry"], "last boundary": device["boundary"]}
    first = np.array([of_learner[: case.updates] for of_learner in losses])
    return {"losses": first, "by_lag": by_lag, "all outputs": np.array(outputs).swapaxes(0, 1), **left}
