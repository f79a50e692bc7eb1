"""Truncation does what it says: against a slow oracle that shares no code with the core, and as exact statements.

The oracle keeps the whole stream, unrolls one step at a time and takes its gradients by complex steps, so it has no
backward at all. With k2 ≥ the stream it is full backpropagation through time; with less, the carry that enters the
window is a constant to it.
"""

from __future__ import annotations

from typing import Any

import learners as support
import numpy as np
import pytest
from learners import RATE, D, H, first_params

from bptt_core import UpdateResult, tbptt, window
from bptt_core.cells import CELLS
from bptt_core.slab import Rows

CLIP = 0.3


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def unpack(shape: tbptt.LearnerShape, row: np.ndarray) -> list[list[np.ndarray]]:
    """Weights in the documented order: per layer wx, wh, b, (bh); last the readout's wo, bo."""
    gates = {"tanh": 1, "relu": 1, "gru": 3, "lstm": 4}[shape.cell]
    layers = [
        [(D if layer == 0 else H, gates * H), (H, gates * H), (gates * H,)] + [(H,)] * (shape.cell == "gru")
        for layer in range(shape.layers)
    ]
    outputs = shape.horizon * shape.targets
    weights, start = [], 0
    for shapes in [*layers, [(H, outputs), (outputs,)]]:
        part = []
        for size in shapes:
            stop = start + int(np.prod(size))
            part.append(row[start:stop].reshape(size))
            start = stop
        weights.append(part)
    assert start == len(row)
    return weights


def next_carry(cell: str, weights: list[np.ndarray], x: np.ndarray, carry: np.ndarray) -> np.ndarray:
    """One step of one layer by the textbook equations, gate by gate; `carry` is [1, H], for LSTM [2, H]."""
    wx, wh, b = weights[:3]
    h = carry[0]
    part = [slice(k * H, (k + 1) * H) for k in range(4)]
    if cell == "tanh":
        return np.tanh(x @ wx + b + h @ wh)[None]
    if cell == "relu":
        z = x @ wx + b + h @ wh
        return np.where(z.real > 0, z, 0)[None]
    if cell == "gru":
        bh = weights[3]
        r, z = (sigmoid(x @ wx[:, p] + b[p] + h @ wh[:, p]) for p in part[:2])
        n = np.tanh(x @ wx[:, part[2]] + b[part[2]] + r * (h @ wh[:, part[2]] + bh))
        return ((1 - z) * n + z * h)[None]
    i, f, g, o = (x @ wx[:, p] + b[p] + h @ wh[:, p] for p in part)
    c = sigmoid(f) * carry[1] + sigmoid(i) * np.tanh(g)
    return np.stack([sigmoid(o) * np.tanh(c), c])


class Oracle:
    """One learner, event by event, with squared error. Horizon 0 is the label of the step itself (ahead = 0)."""

    def __init__(self, shape: tbptt.LearnerShape, params: np.ndarray) -> None:
        self.shape, self.params = shape, params
        self.carry = self.boundary = np.zeros((shape.layers, 2 if shape.cell == "lstm" else 1, H))
        self.xs: list[np.ndarray] = []
        self.pairs: dict[tuple[int, int, int], tuple[float, int]] = {}  # (step, horizon, o) → target, arrived at
        self.start = self.since = self.updates = 0
        self.m = self.v = np.zeros_like(params)

    def step(self, x: np.ndarray, arrived: np.ndarray) -> np.ndarray:
        """Returns the outputs [K] after this event; `arrived` is [horizon, targets]."""
        shape, now = self.shape, len(self.xs)
        self.xs.append(x)
        if now - self.start == shape.window + shape.ahead:
            self.boundary = self.forward(self.params, self.start + 1)[-1]
            self.start += 1
        moved = self.next(self.weights(self.params), x, self.carry)
        before = self.outputs(moved)
        for (k, o), target in np.ndenumerate(arrived):
            self.pairs[now - k - shape.ahead, k + shape.ahead, o] = target, now
        self.since += 1
        updated = False
        if self.since == shape.stride:
            self.since = 0
            updated = self.update(now)
        if not updated:
            self.carry = moved if shape.ahead == 0 else self.next(self.weights(self.params), x, self.carry)
        return before if shape.ahead == 0 else self.outputs(self.carry)

    def late(self, back: int, labels: np.ndarray) -> None:
        """Labels of an earlier step; NaN: not known."""
        newest = len(self.xs) - 1
        for o, label in enumerate(labels):
            if not np.isnan(label):
                self.pairs[newest - back, 0, o] = label, newest + 1

    def weights(self, params: np.ndarray) -> list[list[np.ndarray]]:
        return unpack(self.shape, params)

    def next(self, weights: list[list[np.ndarray]], x: np.ndarray, carry: np.ndarray) -> np.ndarray:
        after = []
        for layer in range(self.shape.layers):
            after.append(next_carry(self.shape.cell, weights[layer], x, carry[layer]))
            x = after[-1][0]
        return np.stack(after)

    def outputs(self, carry: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        wo, bo = self.weights(self.params if params is None else params)[-1]
        return carry[-1][0] @ wo + bo

    def forward(self, params: np.ndarray, stop: int) -> list[np.ndarray]:
        """The carries after rows start … stop − 1, beginning with the one before them."""
        carries, weights = [self.boundary], self.weights(params)
        for x in self.xs[self.start : stop]:
            carries.append(self.next(weights, x, carries[-1]))
        return carries

    def loss(self, params: np.ndarray, now: int) -> Any:
        """Mean over the pairs that arrived in the last L events and whose step is in the window; None without any."""
        shape, carries = self.shape, self.forward(params, now + 1)
        errors = []
        for (s, h, o), (target, arrived_at) in self.pairs.items():
            if s >= self.start and now - shape.loss_span < arrived_at <= now and not np.isnan(target):
                ys = self.outputs(carries[s - self.start + 1], params).reshape(shape.horizon, shape.targets)
                errors.append((ys[h - shape.ahead, o] - target) ** 2)
        return sum(errors) / len(errors) if errors else None

    def update(self, now: int) -> bool:
        if self.loss(self.params, now) is None:
            return False
        gradient, tiny = np.zeros_like(self.params), 1e-30
        for k in range(len(self.params)):
            moved = self.params.astype(complex)
            moved[k] += tiny * 1j
            gradient[k] = self.loss(moved, now).imag / tiny
        carries = self.forward(self.params, now + 1)
        norm = np.sqrt((gradient**2).sum())
        gradient *= min(1, CLIP / (norm + 1e-6))
        self.updates += 1
        if self.shape.optimizer == "sgd":
            self.params = self.params - RATE * gradient
        else:
            self.m = 0.9 * self.m + 0.1 * gradient
            self.v = 0.999 * self.v + 0.001 * gradient**2
            m, v = self.m / (1 - 0.9**self.updates), self.v / (1 - 0.999**self.updates)
            self.params = self.params - RATE * m / (np.sqrt(v) + 1e-8)
        self.carry = carries[-1]
        newest_then = now + self.shape.stride
        oldest = max(self.start, newest_then + 1 - self.shape.window - self.shape.ahead)  # of the next update's window
        self.boundary = carries[oldest - self.start]
        self.start = oldest
        return True

    @property
    def flat_carries(self) -> list[np.ndarray]:
        return [carry.reshape(-1, H) for carry in (self.carry, self.boundary)]


def learners(shape: tbptt.LearnerShape, params: np.ndarray, dtype: type = np.float64) -> tuple[Rows, Rows]:
    """Fresh rows (device, host) of `len(params)` learners that clip at CLIP."""
    device, host = support.learners(shape, params, dtype)
    host["clip_limit"][...] = CLIP
    return device, host


def learner_shape(**given: Any) -> tbptt.LearnerShape:
    return support.learner_shape(**{"optimizer": "adam", "clip": "norm"} | given)


def stream(shape: tbptt.LearnerShape, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [n, D] and arriving targets [n, horizon, targets], a fifth of them missing, none before its step."""
    rng = np.random.default_rng(seed)
    xs = rng.standard_normal((n, D))
    arrived = rng.standard_normal((n, shape.horizon, shape.targets))
    arrived[rng.random(arrived.shape) < 0.2] = np.nan
    for h in range(shape.horizon):
        arrived[: h + shape.ahead, h] = np.nan
    return xs, arrived


def take_step(shape: tbptt.LearnerShape, device: Rows, host: Rows, x: Any, arrived: Any, event: bool = True) -> Any:
    """The same event for every learner."""
    many = len(host["length"])
    dtype = device["params"].dtype
    xs, targets = np.repeat(x[None].astype(dtype), many, 0), np.repeat(arrived.reshape(1, -1).astype(dtype), many, 0)
    return tbptt.step(np, shape, device, host, xs, targets, np.full(many, event))


FULL = {"window": 14, "loss_span": 14}  # as long as the streams below
CASES = [
    *({"cell": cell, "optimizer": optimizer, **FULL} for cell in CELLS for optimizer in ("adam", "sgd")),
    *({"cell": cell, **FULL, "stride": 3, "horizon": 2, "targets": 2} for cell in CELLS),
    *({"cell": cell, "window": 4, "loss_span": 2, "horizon": 3} for cell in CELLS),
    *({"cell": cell, "layers": 2, "window": 4, "stride": 2, "loss_span": 3, "horizon": 2} for cell in CELLS),
    *({"cell": cell, "ahead": 0, "window": 4, "stride": 2, "loss_span": 3, "targets": 2} for cell in CELLS),
    {"cell": "lstm", "window": 5, "stride": 3, "loss_span": 4, "targets": 2},
    {"cell": "gru", "window": 4, "stride": 4, "loss_span": 4, "horizon": 2},
    {"cell": "tanh", "window": 2, "stride": 2, "loss_span": 2},
    {"cell": "gru", "layers": 3, "window": 3, "loss_span": 1},
    {"cell": "lstm", "layers": 2, "ahead": 0, "window": 6, "loss_span": 6},
    {"cell": "tanh", "ahead": 0, "window": 1},
    {"cell": "gru", "ahead": 0, "window": 3, "stride": 3, "loss_span": 3},
]


def assert_same_state(device: Rows, oracle: Oracle) -> None:
    np.testing.assert_allclose(device["params"][0], oracle.params, rtol=1e-9, atol=1e-11)
    for name, expected in zip(("carry", "boundary"), oracle.flat_carries, strict=True):
        np.testing.assert_allclose(device[name][0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_every_update_is_the_oracles(case: dict[str, Any]) -> None:
    shape = learner_shape(**case)
    params = first_params(shape)
    device, host = learners(shape, params)
    oracle = Oracle(shape, params[0])
    clipped = 0
    for x, arrived in zip(*stream(shape, 14, seed=4), strict=True):
        ys, report = take_step(shape, device, host, x, arrived)
        np.testing.assert_allclose(ys[0], oracle.step(x, arrived), rtol=1e-9, atol=1e-12)
        assert_same_state(device, oracle)
        clipped += int((report.clip_scale < 1).sum())
    assert oracle.updates == host["optimizer_steps"][0] >= 3
    assert clipped > 0


@pytest.mark.parametrize(
    ("window", "stride", "span", "layers"), [(4, 1, 1, 1), (5, 2, 4, 1), (6, 3, 6, 2), (3, 3, 3, 1), (1, 1, 1, 1)]
)
def test_late_labels_are_learned_with_the_next_update_that_reaches_their_step(
    window: int, stride: int, span: int, layers: int
) -> None:
    shape = learner_shape(cell="gru", ahead=0, targets=2, window=window, stride=stride, loss_span=span, layers=layers)
    params, rng = first_params(shape), np.random.default_rng(window)
    device, host = learners(shape, params)
    oracle = Oracle(shape, params[0])
    xs, labels = stream(shape, 26, seed=5)
    waiting: list[tuple[int, int]] = []  # (step, o) of labels still to come
    promised: dict[int, bool] = {}  # step → whether the next update should reach it
    for now in range(len(xs)):
        known = labels[now].copy()
        late = rng.random(known.shape) < 0.5
        waiting += [(now, o) for o in np.flatnonzero(late[0]).tolist()]
        known[late] = np.nan
        oldest = max(oracle.start, now + 1 - window)  # of the window at this event
        ys, _ = take_step(shape, device, host, xs[now], known)
        np.testing.assert_allclose(ys[0], oracle.step(xs[now], known), rtol=1e-9, atol=1e-12)
        assert_same_state(device, oracle)
        if oracle.since == 0:
            assert promised == {step: step >= oldest for step in promised}
            promised.clear()
        coming = [pair for pair in waiting if rng.random() < 0.3]
        waiting = [pair for pair in waiting if pair not in coming]
        steps = sorted({step for step, _ in coming})
        values = np.full((len(steps), 2), np.nan)
        for step, o in coming:
            values[steps.index(step), o] = labels[step][0, o]
        trainable = tbptt.late_labels(shape, device, host, now - np.array(steps, np.int64), values)
        promised |= dict(zip(steps, trainable.tolist(), strict=True))
        for step, row in zip(steps, values, strict=True):
            oracle.late(now - step, row)
    assert oracle.updates >= 6
    assert host["event_count"][0] == len(xs)


def test_a_label_that_is_known_or_too_old_changes_nothing() -> None:
    shape = learner_shape(ahead=0, window=4)
    device, host = learners(shape, first_params(shape))
    for label in (1.0, np.nan, 2.0):
        take_step(shape, device, host, np.ones(D), np.full((1, 1), label))
    before = device["targets"].tobytes(), host["arrived_event"].tobytes()
    back, values = np.array([0, 1, 2, 3, 400]), np.array([[9.0], [np.nan], [9.0], [9.0], [9.0]])
    assert tbptt.late_labels(shape, device, host, back, values).tolist() == [True, True, True, False, False]
    assert before == (device["targets"].tobytes(), host["arrived_event"].tobytes())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("stride", "span", "horizon"), [(1, 1, 1), (1, 5, 2), (3, 4, 2)])
def test_nothing_older_than_the_window_is_in_an_update(cell: str, stride: int, span: int, horizon: int) -> None:
    shape = learner_shape(cell=cell, stride=stride, loss_span=span, horizon=horizon, optimizer="sgd")
    params = first_params(shape, seed=6 if cell == "relu" else 3)  # with units that are on
    xs, arrived = stream(shape, 30, seed=5)
    other_xs, other_arrived = stream(shape, 30, seed=6)
    newest = 24 - 1  # the event at which learning begins; its window holds k2 + 1 rows
    arrived[newest] = 1
    recent = slice(newest - shape.window, None)
    other_xs[recent], other_arrived[recent] = xs[recent], arrived[recent]
    ends = []
    for hold_boundary in (False, True):
        states = [learners(shape, params, np.float32) for _ in range(2)]
        for _, host in states:
            host["learning"][...] = 0
        for k in range(newest):
            take_step(shape, *states[0], xs[k], arrived[k])
            take_step(shape, *states[1], other_xs[k], other_arrived[k])
        for device, host in states:
            host["learning"][...] = 1
            host["since_update"][...] = stride - 1
            if hold_boundary:
                device["boundary"][...] = 0.25
                device["inputs"][:, 0] = 0  # the row that this event evicts
        reports = [take_step(shape, *state, xs[newest], arrived[newest])[1] for state in states]
        assert [report.result[0] for report in reports] == [UpdateResult.APPLIED] * 2
        ends.append([device["params"].tobytes() for device, _ in states])
    assert ends[0][0] != ends[0][1], "the past reaches an update through the carry alone"
    assert ends[1][0] == ends[1][1]


def test_a_loss_reaches_back_k2_steps_and_no_further() -> None:
    shape = learner_shape(window=6, loss_span=6)
    device, _ = learners(shape, first_params(shape))
    rng = np.random.default_rng(7)
    length = shape.window + 1
    device["inputs"][...] = rng.standard_normal(device["inputs"].shape)
    device["targets"][...] = np.nan
    for row in range(shape.window):
        device["targets"][0, row] = 1.0
        active = tbptt.active_pairs(np, shape, device["targets"], length)
        found = tbptt.window_gradient(np, shape, device, length, active, np.ones((1, 1)), inputs=True)
        assert found.dxs is not None
        assert len(found.dxs) == shape.window
        reached = (found.dxs[:, 0] != 0).any(axis=1)
        assert reached.tolist() == [k <= row for k in range(shape.window)]  # the newest pair: all k2 steps
        device["targets"][0, row] = np.nan


@pytest.mark.parametrize(("span", "horizon"), [(1, 1), (1, 3), (4, 1), (4, 3), (8, 3)])
@pytest.mark.parametrize("length", [2, 5, 9])
def test_the_loss_span_selects_the_pairs_that_arrived_in_the_last_events(span: int, horizon: int, length: int) -> None:
    shape = learner_shape(window=8, horizon=horizon, loss_span=span, targets=2)
    targets = np.ones((1, shape.window + 1, horizon, 2))
    targets[0, ::2, :, 1] = np.nan
    rows = tbptt.active_rows(shape, length)
    active = np.zeros((shape.window + 1, horizon, 2), bool)
    active[rows] = tbptt.active_pairs(np, shape, targets.reshape(1, -1, horizon * 2), length).reshape(-1, horizon, 2)
    for (row, h, o), found in np.ndenumerate(active):
        arrived_at = row + h + 1
        expected = length - span <= arrived_at <= length - 1 and not (o == 1 and row % 2 == 0)
        assert found == expected, (row, h, o)


def test_an_update_happens_every_k1_events_and_never_after_a_filled_step() -> None:
    shape = learner_shape(stride=3, loss_span=3)
    device, host = learners(shape, first_params(shape))
    results, events = [], [True] * 7 + [False] * 4 + [True] * 7
    for k, event in enumerate(events):
        arrived = np.full((1, 1), 0.5 if k else np.nan)
        results.append(int(take_step(shape, device, host, np.ones(D), arrived, event)[1].result[0]))
    counted = [result for result, event in zip(results, events, strict=True) if event]
    due = [UpdateResult.APPLIED if k % 3 == 2 else UpdateResult.NOT_DUE for k in range(14)]
    assert counted == due
    assert set(results[7:11]) == {UpdateResult.NOT_DUE}


def kept(device: Rows, host: Rows) -> list[bytes]:
    names = [name for name in device if name == "params" or name.startswith("moment")]
    return [device[name].tobytes() for name in names] + [host["optimizer_steps"].tobytes()]


def test_without_a_target_or_with_learning_off_nothing_is_learned() -> None:
    shape = learner_shape(cell="lstm")
    device, host = learners(shape, first_params(shape))
    for _ in range(8):
        take_step(shape, device, host, np.ones(D), np.ones((1, 1)))
    before = kept(device, host)
    _, report = take_step(shape, device, host, np.ones(D), np.full((1, 1), np.nan))
    assert report.result[0] == UpdateResult.NO_TARGET
    for name in set(report._fields) - {"result", "reset"}:
        assert np.isnan(getattr(report, name)).all(), name
    assert report.reset.tolist() == [0]
    host["learning"][...] = 0
    _, report = take_step(shape, device, host, np.ones(D), np.ones((1, 1)))
    assert report.result[0] == UpdateResult.LEARNING_OFF
    assert kept(device, host) == before
    host["learning"][...] = 1
    take_step(shape, device, host, np.ones(D), np.ones((1, 1)))
    assert kept(device, host) != before


def test_a_non_finite_update_changes_nothing_but_its_report_and_no_neighbour() -> None:
    shape = learner_shape(cell="gru", loss_span=2)
    params = first_params(shape, 3)
    device, host = learners(shape, params, np.float32)
    alone, alone_host = learners(shape, params[2:], np.float32)
    xs, arrived = stream(shape, 12, seed=8)
    for k in range(9):
        take_step(shape, device, host, xs[k], arrived[k])
        take_step(shape, alone, alone_host, xs[k], arrived[k])
    device["params"][1, -1] = 1e30  # its square is no float32
    before = device["params"][1].tobytes(), device["moment0"][1].tobytes(), int(host["optimizer_steps"][1])
    with np.errstate(over="ignore"):
        ys, report = take_step(shape, device, host, xs[9], np.ones((1, 1)))
    ys_alone, _ = take_step(shape, alone, alone_host, xs[9], np.ones((1, 1)))
    assert report.result.tolist() == [UpdateResult.APPLIED, UpdateResult.NON_FINITE, UpdateResult.APPLIED]
    assert np.isnan(report.loss[1])
    assert before == (device["params"][1].tobytes(), device["moment0"][1].tobytes(), int(host["optimizer_steps"][1]))
    assert device["params"][2].tobytes() == alone["params"][0].tobytes()
    assert ys[2].tobytes() == ys_alone[0].tobytes()


def test_a_non_finite_carry_becomes_zero_and_is_counted() -> None:
    shape = learner_shape(cell="lstm", stride=3, loss_span=3)
    device, host = learners(shape, first_params(shape, 2))
    host["learning"][...] = 0
    device["carry"][0] = np.inf
    with np.errstate(invalid="ignore"):
        take_step(shape, device, host, np.ones(D), np.ones((1, 1)))
    assert host["carry_resets"].tolist() == [1, 0]
    assert (device["carry"][0] == 0).all()
    assert (device["carry"][1] != 0).any()


@pytest.mark.parametrize("cell", CELLS)
def test_after_a_jump_a_learner_starts_again_with_what_it_knows(cell: str) -> None:
    shape = learner_shape(cell=cell, loss_span=5, optimizer="sgd")
    device, host = learners(shape, first_params(shape, 2))
    xs, arrived = stream(shape, 20, seed=9)
    for k in range(9):
        take_step(shape, device, host, xs[k], arrived[k])
    learned = device["params"].copy()
    window.clear(np, device, host, np.array([True, False]))
    assert host["length"].tolist() == [0, 5]
    new_device, new_host = learners(shape, learned)
    for k in range(9, 20):
        nothing_waits = arrived[k] if k > 9 else np.full_like(arrived[k], np.nan)
        ys, _ = take_step(shape, device, host, xs[k], nothing_waits)
        new_ys, _ = take_step(shape, new_device, new_host, xs[k], nothing_waits)
        assert ys[0].tobytes() == new_ys[0].tobytes()
        assert ys[1].tobytes() != new_ys[1].tobytes()
