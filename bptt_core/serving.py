"""What the last stage of the fold serves at one step, whether it is numbers or symbols."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt_core.running import Floats


class Served(NamedTuple):
    """One step of B sessions; the columns of an outcome that come from serving, in the order of `Outcomes`."""

    mean: Floats  # [B, H, O]
    lower: Floats  # [B, H, O]
    upper: Floats  # [B, H, O]
    distribution: Floats  # [B, H, O, Q]
    anomaly_score: Floats  # [B] of the step's own values
    target_anomaly_score: Floats  # [B, O]
    anomaly_likelihood: Floats  # [B]
    sensor_state: NDArray[np.int8]  # [B, O], or [B, 0] where there are no sensors
    drift: NDArray[np.bool_]  # [B]
    warming_up: NDArray[np.bool_]  # [B]
