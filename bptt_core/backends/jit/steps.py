"""The row of a step: what the stages of the fold hand to each other for one step of one session, in compiled code.

    scale → inputs, arrived, changed, observed … context → learn → ys, reports → serve → mean … warming_up

Knows names and sizes only. Array legend: D inputs, O targets, H horizons, A anchors, M learners, K outputs
of a learner, N = H · O pairs, C numbers that tell of one target, Q numbers of a distribution.
"""

from __future__ import annotations

import numpy as np

from bptt_core.forecasts import ForecastShape
from bptt_core.lessons import report_width
from bptt_core.seasons import SLOTS
from bptt_core.shape import Shape
from bptt_core.slab import Field


def step_fields(shape: Shape) -> list[Field]:
    """Fields of the row of one step of a session that forecasts numbers."""
    served, scales = shape.served, shape.scaling
    assert isinstance(served, ForecastShape)
    H, O, A, M = scales.horizon, scales.outputs, len(scales.anchors), shape.learners
    pairs = (H, O)
    return [
        Field("inputs", (scales.inputs,), np.float32),
        Field("arrived", (A, H * O), np.float32),
        Field("flags", (), np.int8),  # of a lesson
        Field("jump", (), np.int64),  # steps that were left out before this one
        Field("changed", (SLOTS,), np.int8),  # the season of this slot is another one from this step on
        Field("observed", (O,), np.float64),
        Field("last", (O,), np.float64),
        Field("level", (O,), np.float64),
        Field("deviation", (O,), np.float64),
        Field("anchor", (H, A, O), np.float64),
        Field("scale", (H, A, O), np.float64),
        Field("period", (SLOTS,), np.int64),  # with seasons only, as the next two
        Field("naive", (SLOTS, H, O), np.float64),
        Field("context", (O, scales.told), np.float64),
        Field("ys", (M, shape.learner.outputs), np.float32),
        Field("reports", (M, max(report_width(group.learner) for group in shape.groups)), np.float32),
        *(Field(name, pairs, np.float64) for name in ("mean", "lower", "upper")),
        Field("distribution", (*pairs, len(served.quantiles)), np.float64),
        Field("anomaly_score", (), np.float64),
        Field("target_anomaly_score", (O,), np.float64),
        Field("anomaly_likelihood", (), np.float64),
        Field("sensor_state", (O if served.ahead else 0,), np.int8),
        Field("drift", (), np.int8),
        Field("warming_up", (), np.int8),
    ]
