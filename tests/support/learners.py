"""Small learners for the tests of an update: shapes, fresh rows and first parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from bptt_core import tbptt
from bptt_core.slab import Rows, Slab

D, H = 2, 3
RATE = 0.02


def learner_shape(**given: Any) -> tbptt.LearnerShape:
    """A tanh network with D inputs, H units and one target, trained by plain gradient descent; `given` changes it."""
    defaults: dict[str, Any] = {
        "cell": "tanh", "layers": 1, "inputs": D, "hidden": H, "horizon": 1, "targets": 1, "ahead": 1, "symbols": 0,
        "window": 5, "stride": 1, "loss_span": 1, "loss": "squared", "quantiles": (), "optimizer": "sgd",
        "schedule": "constant", "clip": "off",
    }  # fmt: skip
    return tbptt.LearnerShape(**defaults | given)


def learners(shape: tbptt.LearnerShape, params: np.ndarray, dtype: type = np.float64) -> tuple[Rows, Rows]:
    """Fresh rows (device, host) of `len(params)` learners."""
    slabs = Slab(np, tbptt.device_fields(shape, dtype)), Slab(np, tbptt.host_fields(shape))
    slots = [[slab.allocate() for _ in params] for slab in slabs]
    device, host = (slab.take(np.array(index)) for slab, index in zip(slabs, slots, strict=True))
    device["params"][...] = params
    if shape.guard:
        device["good"][...] = params
    host["learning_rate"][...] = RATE
    return device, host


def first_params(shape: tbptt.LearnerShape, count: int = 1, seed: int = 3) -> np.ndarray:
    """Random parameters [count, P]."""
    return 0.5 * np.random.default_rng(seed).standard_normal((count, shape.layout.size))
