"""What bptt_core and PyTorch have to agree on: every cell, depth and loss, with numbers drawn from a seed.

NumPy only, and nothing of bptt_core or PyTorch: both sides are told here what to compute, so that the vectors need to
hold results alone. All numbers drawn are float32 values in float64, so that both precisions start from the same.
Results are arrays by name [B, …]; `pack` makes one vector of them, the long ones as their product with a fixed
direction. Legend as in bptt_core: B learners, T steps, D inputs, H hidden units, L layers, S carry arrays of a cell,
W rows of a window, N pairs of a step, R outputs of a pair, P parameters.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CELLS = {"tanh": (1, 1), "relu": (1, 1), "gru": (3, 1), "lstm": (4, 2)}  # gates, carry arrays
LOSSES = ("squared", "absolute", "huber", "student_t", "pinball", "gaussian", "softmax", "sigmoid")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw")
CLIPS = ("norm", "value", "quantile", "off")
SCHEDULES = ("constant", "inverse_sqrt", "inverse")
PAIRS = list(itertools.product(OPTIMIZERS, CLIPS))
STORED_PAIRS = [(name, kind) for name, kind in PAIRS if name == "sgd" or kind == "norm"]  # each of both at least once
FLOAT32_REPORTS = ("by_lag", "scale")  # results of the core that are float32 whatever it computes in
QUIET = range(20, 30)  # steps of a stream without targets, long enough for an update to find none

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One learner shape, in the words of `tbptt.LearnerShape`, and a seed."""

    cell: str
    layers: int
    loss: str
    inputs: int
    hidden: int
    horizon: int
    targets: int
    ahead: int
    symbols: int
    quantiles: tuple[float, ...]
    window: int
    stride: int
    loss_span: int
    optimizer: str
    schedule: str
    clip: str
    seed: int
    learners: int
    updates: int = 100  # whose losses are compared

    @property
    def name(self) -> str:
        return f"{self.cell}-{self.layers}-{self.loss}"

    @property
    def rows(self) -> int:
        """W."""
        return self.window + self.ahead

    @property
    def pairs(self) -> int:
        """N."""
        return self.horizon * self.targets

    @property
    def per_pair(self) -> int:
        """R."""
        return {"pinball": len(self.quantiles), "gaussian": 2, "softmax": self.symbols}.get(self.loss, 1)

    @property
    def carries(self) -> int:
        """L·S."""
        return self.layers * CELLS[self.cell][1]

    @property
    def steps(self) -> int:
        """Length of a stream that holds so many updates."""
        return self.updates * self.stride + 20

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameters by name in canonical order, without the axis of learners."""
        wide, outputs, shapes = CELLS[self.cell][0] * self.hidden, self.pairs * self.per_pair, {}
        for layer in range(self.layers):
            shapes[f"wx{layer}"] = (self.hidden if layer else self.inputs, wide)
            shapes[f"wh{layer}"] = (self.hidden, wide)
            shapes[f"b{layer}"] = (wide,)
            if self.cell == "gru":
                shapes[f"bh{layer}"] = (self.hidden,)
        return shapes | {"wo": (self.hidden, outputs), "bo": (outputs,)}

    @property
    def size(self) -> int:
        """P."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def split(self, rows: np.ndarray) -> Arrays:
        """Parameters by name [B, …] of rows [B, P]."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes().values()])
        parts = np.split(rows, ends[:-1], axis=1)
        return {name: part.reshape(-1, *s) for part, (name, s) in zip(parts, self.shapes().items(), strict=True)}


def all_cases(seed: int = 0, learners: int = 2, **others: Any) -> list[Case]:
    """Every cell × layers {1, 2} × loss; tasks, optimisers, schedules and clips take turns. `others` replace fields."""
    cases = []
    for n, (cell, layers, loss) in enumerate(itertools.product(CELLS, (1, 2), LOSSES)):
        ahead = 0 if n % 5 in (1, 3) else 1
        fields = {
            "inputs": 2, "hidden": 3, "horizon": 2 if ahead else 1, "targets": 1 if loss == "softmax" else 2,
            "symbols": 4 if loss == "softmax" else 0, "quantiles": (0.11, 0.47, 0.83) if loss == "pinball" else (),
            "window": 6, "stride": 2 if n % 8 == 7 else 1, "loss_span": (2, 3, 6)[n % 3],
            "optimizer": OPTIMIZERS[n % 6], "schedule": SCHEDULES[n // 3 % 3], "clip": CLIPS[n // 6 % 4],
        }  # fmt: skip
        case = {"cell": cell, "layers": layers, "loss": loss, "ahead": ahead, "seed": seed + n, "learners": learners}
        cases.append(Case(**{**case, **fields, **others}))
    return cases


def _float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32).astype(np.float64)


def _targets(case: Case, signal: np.ndarray) -> np.ndarray:
    """Targets of the kind the loss takes, from numbers of about unit size."""
    if case.loss == "softmax":
        return np.clip(np.floor(signal + case.symbols / 2), 0, case.symbols - 1)
    return _float32(1 / (1 + np.exp(-2 * signal)) if case.loss == "sigmoid" else 1.5 * signal)


def _settings(case: Case) -> Arrays:
    """Settings that differ between learners, [B]."""
    b = np.arange(case.learners)
    return {
        "loss_parameter": _float32({"huber": 0.4, "student_t": 3.0}.get(case.loss, 1.0) + b),
        "rate": 0.01 + 0.005 * b,  # at 0.05 a run is chaotic: PyTorch itself leaves its own path by 1e-6
        "beta1": 0.9 - 0.2 * b,
        "beta2": 0.99 + 0.003 * b,
        "weight_decay": 0.3 * (1 - b % 2),
        "warmup": 5.0 * (b % 2 == case.seed % 2),
        "decay": 30.0 + 20 * b,
        "floor": 0.5 - 0.1 * b,
    }


def window(case: Case) -> Arrays:
    """A full window in the middle of a stream: some pairs have arrived too long ago or not yet, others are missing."""
    rng = np.random.default_rng([case.seed, 1])
    B, W, N = case.learners, case.rows, case.pairs
    targets = _targets(case, rng.standard_normal((B, W, N)))
    missing = rng.random((B, W, N)) < 0.2
    missing[:, W - 1 - case.ahead, 0] = (
        False  # the newest pair there can be, so that all learners' gradients begin there
    )
    targets[missing] = np.nan
    arrived = np.arange(W)[:, None] + case.ahead * (1 + np.arange(N) // case.targets)  # the row a pair arrives with
    recent = (arrived < W) & (arrived >= W - case.loss_span)
    return {
        "params": _float32(0.4 * rng.standard_normal((B, case.size))),
        "boundary": _float32(0.5 * rng.standard_normal((B, case.carries, case.hidden))),
        "inputs": _float32(rng.standard_normal((B, W, case.inputs))),
        "targets": targets,
        "active": recent & ~np.isnan(targets),
        **_settings(case),
    }


def update(case: Case, fresh: bool = True) -> Arrays:
    """What an update finds beside the gradient. Even learners are at their first one if `fresh`, others in full swing.

    The limits bind for even learners and not for odd ones, which have too few past norms (`ring`) to be bound by them.
    """
    rng = np.random.default_rng([case.seed, 2])
    odd = np.arange(case.learners) % 2 == 1
    moved = odd | (not fresh)
    return {
        **_settings(case),
        "rate": 0.1 + 0.02 * odd,
        "steps": np.where(moved, 7, 1),
        "first": moved[:, None] * _float32(0.1 * rng.standard_normal((case.learners, case.size))),
        "second": moved[:, None] * _float32(0.1 * rng.random((case.learners, case.size))),
        "norm_limit": np.where(odd, 1e3, 0.05),
        "value_limit": np.where(odd, 1e3, 0.02),
        "ring": _float32(rng.uniform(1e-3, 1e-2, (case.learners, 20))),
        "ring_count": np.where(odd, 5, 20),
        "quantile": np.full(case.learners, 0.7),
    }


def stream(case: Case) -> Arrays:
    """Inputs and what arrives with them, step by step, beside the first parameters and carry."""
    rng = np.random.default_rng([case.seed, 3])
    B, T, N = case.learners, case.steps, case.pairs
    xs = _float32(rng.standard_normal((T, B, case.inputs)))
    mix = rng.standard_normal((case.inputs, N)) / math.sqrt(case.inputs)
    signal = np.roll(xs, 1, axis=0) @ mix + 0.3 * rng.standard_normal((T, B, N))
    arrived = _targets(case, signal)
    arrived[rng.random((T, B, N)) < 0.1] = np.nan
    arrived[QUIET.start : QUIET.stop] = np.nan
    return {
        "params": _float32(0.4 * rng.standard_normal((B, case.size))),
        "boundary": _float32(0.3 * rng.standard_normal((B, case.carries, case.hidden))),
        "xs": xs,
        "arrived": arrived,
        "clip_limit": np.full(B, {"norm": 0.6, "value": 0.1, "quantile": 0.7}.get(case.clip, 1.0)),
        **_settings(case),
    }


def reduced(name: str, array: np.ndarray) -> np.ndarray:
    """What is kept of a result [B, …]: itself, or for the names that begin with "all" its product with a direction."""
    if not name.startswith("all"):
        return array
    flat = array.reshape(len(array), -1)
    return flat @ np.random.default_rng(zlib.crc32(name.encode())).standard_normal(flat.shape[1])


def pack(results: Arrays) -> np.ndarray:
    """One vector of all results, in their order."""
    return np.concatenate([reduced(name, array).ravel() for name, array in results.items()])


def unpack(vector: np.ndarray, like: Arrays) -> Arrays:
    """The inverse, with the names and shapes of `like`; the long ones stay reduced."""
    shapes = {name: reduced(name, array).shape for name, array in like.items()}
    sizes = [math.prod(shape) for shape in shapes.values()]
    assert vector.shape == (sum(sizes),), f"{vector.shape} packed numbers for {sum(sizes)}"
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return {name: part.reshape(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}


def disagreements(found: Arrays, expected: Arrays, tolerance: Callable[[str], float]) -> list[str]:
    """Every result that is further from the expected one than `tolerance` of its name allows."""
    assert found.keys() == expected.keys()
    errors = {name: relative_error(found[name], array) for name, array in expected.items()}
    return [f"{name}: {error:.1e}" for name, error in errors.items() if not error <= tolerance(name)]


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest relative L2 error among the learners. NaN has to meet NaN, and 0 has to meet 0."""
    missing = np.isnan(expected)
    if found.shape != expected.shape or (np.isnan(found) != missing).any():
        return math.inf
    difference, size = (
        np.linalg.norm(np.where(missing, 0, part).reshape(len(part), -1), axis=1)
        for part in (np.subtract(found, expected, dtype=np.float64), expected)
    )
    return float(np.max(np.where(difference == 0, 0, difference / np.where(size > 0, size, np.finfo(float).tiny))))
