"""Gradient by lag: against differences, and against what the theory says of networks made to vanish or to explode.

The theory: the gradient is multiplied on its way back by the recurrent weights and the slopes of the units, once per
step. Near the linear range it shrinks or grows by about the spectral radius of the weights (Pascanu, Mikolov & Bengio
2013), and orthogonal weights keep it (Saxe et al. 2014; Le et al. 2015 for rectified units).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learners import RATE, D, first_params, learner_shape, learners

from bptt_core import LearnerConfig, SessionConfig, UpdateResult, network, tbptt
from bptt_core.cells import CELLS
from bptt_core.initializers import initial_parameters
from bptt_core.slab import Rows


def take_step(
    shape: tbptt.LearnerShape, rows: tuple[Rows, Rows], x: np.ndarray, arrived: np.ndarray
) -> tbptt.StepReport:
    """The same event for every learner; `x` [D], `arrived` [N]."""
    device, host = rows
    many, dtype = len(host["length"]), device["params"].dtype
    xs, targets = (np.repeat(part[None].astype(dtype), many, 0) for part in (x, arrived))
    return tbptt.step(np, shape, device, host, xs, targets, np.ones(many, bool))[1]


def fill(shape: tbptt.LearnerShape, rows: tuple[Rows, Rows], length: int, missing: float, seed: int) -> Any:
    """Steps without learning until the window holds `length` rows before the event that is returned: (x, arrived)."""
    rng = np.random.default_rng(seed)
    rows[1]["learning"][...] = 0
    while True:
        x, arrived = rng.standard_normal(shape.inputs), rng.standard_normal(shape.pairs)
        arrived[rng.random(shape.pairs) < missing] = np.nan
        if rows[1]["length"][0] == length:
            return x, arrived
        take_step(shape, rows, x, arrived)


def measure_now(shape: tbptt.LearnerShape, rows: tuple[Rows, Rows]) -> None:
    """The next event brings the 64th update."""
    host = rows[1]
    host["learning"][...], host["since_update"][...], host["optimizer_steps"][...] = 1, shape.stride - 1, 63


@pytest.mark.parametrize(
    ("window", "expected"),
    [(1, (0, 1)), (2, (0, 1, 2)), (3, (0, 1, 2, 3)), (32, (0, 1, 2, 4, 8, 16, 32)), (40, (0, 1, 2, 4, 8, 16, 32, 40))],
)
def test_the_lags_are_the_powers_of_two_and_the_window(window: int, expected: tuple[int, ...]) -> None:
    assert tbptt.lags(window) == expected


def by_differences(shape: tbptt.LearnerShape, device: Rows, active: np.ndarray, row: int, lag: int) -> float:
    """Norm of the gradient of the share that window row `row` has in one learner's mean loss; lag k ≥ 1: by the carry
    entering the step k − 1 before the row, lag 0: by the hidden state that is read out. `active` is [rows, N], and its
    last row with a pair is meant."""
    weights = shape.layout.split(device["params"])
    xs = device["inputs"][:, : row + 1].transpose(1, 0, 2)
    tapes = network.forward(np, shape.cell, weights.layers, xs, device["boundary"])
    chosen = active[active.any(axis=1)][-1]

    def loss(h: np.ndarray) -> float:
        errors = h @ weights.wo[0] + weights.bo[0] - device["targets"][0, row]
        return float((errors[chosen] ** 2).sum() / active.sum())

    def loss_from(carry: np.ndarray) -> float:
        return loss(network.forward(np, shape.cell, weights.layers, xs[row - lag + 1 :], carry)[-1].hs[-1][0])

    start = network.carry_at(np, tapes, row - lag + 1) if lag else tapes[-1].hs[-1][0]
    slope, step = np.zeros(start.size), 1e-4
    for k in range(start.size):
        at = []
        for sign in (-2, -1, 1, 2):
            moved = start.copy()
            moved.flat[k] += sign * step
            at.append((loss_from if lag else loss)(moved))
        slope[k] = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)
    return float(np.linalg.norm(slope))


@pytest.mark.parametrize("length", [1, 2, 5, 8])
@pytest.mark.parametrize(
    "case",
    [
        *({"cell": cell} for cell in CELLS),
        {"cell": "gru", "layers": 2, "stride": 3, "loss_span": 4, "horizon": 3, "targets": 2},
        {"cell": "lstm", "layers": 3, "stride": 2, "loss_span": 7, "horizon": 2},
        {"cell": "lstm", "ahead": 0, "layers": 2, "stride": 2, "loss_span": 4},
        {"cell": "tanh", "ahead": 0, "targets": 2, "loss_span": 4},
    ],
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_each_norm_is_that_of_the_newest_pairs_gradient_by_differences(case: dict[str, Any], length: int) -> None:
    shape = learner_shape(**{"window": 8} | case)
    distances = set()  # of the newest row with a pair from the newest row
    for seed in range(4):
        rows = learners(shape, first_params(shape, seed=seed))
        x, arrived = fill(shape, rows, length, missing=0.3 if shape.pairs > 1 else 0.0, seed=seed)
        if shape.loss_span > 1 and seed % 2:
            arrived[: shape.targets] = np.nan  # the nearest horizon: the newest pair lies further back
        measure_now(shape, rows)
        device, host = ({name: array.copy() for name, array in part.items()} for part in rows)
        host["learning"][...] = 0
        take_step(shape, (device, host), x, arrived)  # the same window, not learned from
        report = take_step(shape, rows, x, arrived)
        full = int(host["length"][0])
        active = tbptt.active_pairs(np, shape, device["targets"], full, label_age(shape, full))[:, 0]
        assert (report.result[0] == UpdateResult.APPLIED) == active.any()
        if not active.any():
            assert np.isnan(report.norm_by_lag).all()
            continue
        row = tbptt.active_rows(shape, full).start + int(np.flatnonzero(active.any(axis=1))[-1])
        for lag, norm in zip(tbptt.lags(shape.window), report.norm_by_lag[0], strict=True):
            if row - lag + 1 < 0:
                assert np.isnan(norm)
            else:
                assert norm == pytest.approx(by_differences(shape, device, active, row, lag), rel=2e-6, abs=1e-9)
        distances.add(full - 1 - row)
    assert len(distances) > 1 or shape.loss_span == 1 or length == 1


def label_age(shape: tbptt.LearnerShape, length: int) -> np.ndarray | None:
    """Steps since each label arrived; each came with its event."""
    if shape.ahead == 1:
        return None
    return np.broadcast_to(np.arange(length - 1, -1, -1)[None, :, None], (1, length, shape.pairs))


def test_it_is_measured_at_every_64th_update_of_each_learner_whatever_its_neighbours_do() -> None:
    shape = learner_shape(cell="lstm", layers=2, optimizer="adam", horizon=2, clip="norm", loss_span=3)
    params, rng = first_params(shape, 3), np.random.default_rng(5)
    together = learners(shape, params, np.float32)
    alone = [learners(shape, params[b : b + 1], np.float32) for b in range(3)]
    measured: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for k in range(150):
        x, arrived = rng.standard_normal(D), rng.standard_normal(shape.pairs)
        for b, (_, host) in enumerate(alone):
            host["learning"][...] = together[1]["learning"][b] = k >= 7 * min(b, 1)  # the last two are in step
        report = take_step(shape, together, x, arrived)
        for b, own in enumerate(alone):
            own_report = take_step(shape, own, x, arrived)
            assert report.norm_by_lag[b].tobytes() == own_report.norm_by_lag[0].tobytes()
            if not np.isnan(report.norm_by_lag[b, 0]):
                measured[b].append(int(own[1]["optimizer_steps"][0]))
    assert measured == {b: [64, 128] for b in range(3)}
    assert [row.tobytes() for row in together[0]["params"]] == [own[0]["params"][0].tobytes() for own in alone]


# ---- The theory ------------------------------------------------------------------------------------------------------

WINDOW, UNITS, NETWORKS = 32, 24, 5
TINY, ON = 1e-6, 1.0  # sizes of inputs: a tanh is linear there; and a rectified unit that adds them up is on


def started(shape: tbptt.LearnerShape, **given: Any) -> np.ndarray:
    """NETWORKS rows of first parameters, each of its own seed, with a readout that reads something."""
    rows = []
    for seed in range(NETWORKS):
        learner = LearnerConfig(cell=shape.cell, window=shape.window, seed=seed, **given)
        rows.append(initial_parameters(shape.layout, SessionConfig(("x",), learner=learner).validated().learner))
    params = np.stack(rows).astype(np.float64)
    weights = shape.layout.split(params)
    weights.wo[...] = np.random.default_rng(1).standard_normal(weights.wo.shape)
    if shape.cell == "relu":
        weights.layers[0].wx[...] = abs(weights.layers[0].wx)  # with inputs above 0: every unit is on
    return params


def full_window(shape: tbptt.LearnerShape, params: np.ndarray, size: float) -> tuple[Rows, Rows]:
    """Learners before an event that fills their windows and brings the 64th update; inputs are of this size."""
    rows = learners(shape, params)
    rows[1]["learning"][...] = 0
    rng = np.random.default_rng(2)
    for _ in range(shape.window):
        take_step(shape, rows, size * rng.uniform(0.5, 1.5, D), np.ones(1))
    measure_now(shape, rows)
    return rows


def profile(cell: str, size: float, **given: Any) -> np.ndarray:
    """Norms [NETWORKS, lags] over a full window of inputs of this size, relative to lag 0."""
    shape = learner_shape(cell=cell, hidden=UNITS, window=WINDOW)
    report = take_step(shape, full_window(shape, started(shape, **given), size), np.full(D, size), np.ones(1))
    assert (report.result == UpdateResult.APPLIED).all()
    return report.norm_by_lag / report.norm_by_lag[:, :1]


LAGS = np.array(tbptt.lags(WINDOW))
LINEAR = pytest.mark.parametrize(("cell", "size", "init"), [("tanh", TINY, "orthogonal"), ("relu", ON, "identity")])


@LINEAR
@pytest.mark.parametrize("gain", [0.3, 0.9, 1.3])
def test_orthogonal_weights_with_a_gain_shrink_or_stretch_the_gradient_by_it_every_step(
    cell: str, size: float, init: str, gain: float
) -> None:
    norms = profile(cell, size, recurrent_init=init, recurrent_gain=gain)
    np.testing.assert_allclose(norms, np.broadcast_to(gain**LAGS, norms.shape), rtol=1e-2)


@pytest.mark.parametrize(("gain", "vanishes"), [(0.3, True), (1.0, True), (1.3, True), (2.2, False)])
def test_the_gradient_falls_or_grows_by_about_the_spectral_radius(gain: float, vanishes: bool) -> None:
    """Uniform weights: the first steps depend on the direction, the later ones on the largest eigenvalue."""
    norms = profile("tanh", TINY, recurrent_init="uniform", recurrent_gain=gain)
    shape = learner_shape(hidden=UNITS, window=WINDOW)
    wh = shape.layout.split(started(shape, recurrent_init="uniform", recurrent_gain=gain)).layers[0].wh
    radius = abs(np.linalg.eigvals(wh)).max(axis=1)
    assert ((radius < 1) == vanishes).all()
    per_step = (norms[:, -1] / norms[:, LAGS.tolist().index(8)]) ** (1 / (WINDOW - 8))
    np.testing.assert_allclose(per_step, radius, rtol=0.1)


@LINEAR
def test_orthogonal_initialisation_keeps_what_uniform_initialisation_loses(cell: str, size: float, init: str) -> None:
    kept = profile(cell, size, recurrent_init=init)
    assert ((kept > 0.5) & (kept < 2)).all()
    assert (profile("tanh", TINY, recurrent_init="uniform")[:, -1] < 1e-5).all()


def test_a_forget_gate_that_begins_open_keeps_the_gradient() -> None:
    at = {bias: profile("lstm", TINY, forget_bias=bias)[:, -1] for bias in (0.0, 1.0, 5.0)}
    assert (at[0.0] < 1e-4).all()
    assert (at[1.0] > 10 * at[0.0]).all()
    assert (at[5.0] > 0.3).all()


def test_clipping_bounds_the_step_of_an_exploding_network_and_not_the_ratio_between_lags() -> None:
    limit, moved, norms = 0.5, {}, {}
    for clip in ("off", "norm"):
        shape = learner_shape(cell="relu", hidden=UNITS, window=WINDOW, clip=clip)
        params = started(shape, recurrent_init="identity", recurrent_gain=1.3)
        rows = full_window(shape, params, ON)
        rows[1]["clip_limit"][...] = limit
        report = take_step(shape, rows, np.full(D, ON), np.ones(1))
        moved[clip] = np.linalg.norm(rows[0]["params"] - params, axis=1)
        norms[clip] = report.norm_by_lag
        assert (report.gradient_norm > 1e4).all()
        np.testing.assert_allclose(moved[clip], RATE * report.gradient_norm * report.clip_scale, rtol=1e-5)
    assert (moved["off"] > 1e4 * RATE * limit).all()
    np.testing.assert_allclose(moved["norm"], RATE * limit, rtol=1e-5)
    assert (norms["off"] == norms["norm"]).all()
    assert (norms["off"][:, -1] > 1e3 * norms["off"][:, 0]).all()


def test_training_explodes_without_a_clip_and_stays_within_its_bound_with_one() -> None:
    limit, events, size, moved = 0.5, 60, 1e-3, {}
    for clip in ("off", "norm", "value"):
        shape = learner_shape(cell="relu", hidden=UNITS, window=WINDOW, clip=clip)
        params = started(shape, recurrent_init="identity", recurrent_gain=1.3)
        rows = full_window(shape, params, size)
        rows[1]["clip_limit"][...] = limit
        with np.errstate(all="ignore"):
            for _ in range(events):
                take_step(shape, rows, np.full(D, size), np.ones(1))
        moved[clip] = rows[0]["params"] - params
    bound = events * RATE * limit * (1 + 1e-9)
    assert (np.linalg.norm(moved["off"], axis=1) > 1e4 * bound).all()
    assert (np.linalg.norm(moved["norm"], axis=1) <= bound).all()
    assert (abs(moved["value"]) <= bound).all()
