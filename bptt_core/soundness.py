"""Whether a state that comes from outside is one that a fold can go on from, whoever wrote it.

The fold counts with its state, indexes with it and computes powers of it without looking twice. A checkpoint's checksum
tells damage, not intent, so what the arithmetic relies on is checked here, once, when a state is restored. Knows the
fields by name; floats may be anything, as the fold lives with values that are not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import timeline
from bptt_core.checkpoint import CheckpointError
from bptt_core.checks import FieldError
from bptt_core.events import ResetReason, SensorState, UpdateResult
from bptt_core.guard import LEAST_FACTOR
from bptt_core.learner_config import check_learning_rate
from bptt_core.shape import Shape, field_name

MOST: Final = 2**62  # of any count: a stream of a million events a second reaches it in 146,000 years
_MOVING: Final = ("learning", "learning_rate", "interval_reach")  # settings that change while a session lives


def check(shape: Shape, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises CheckpointError unless the fold can go on from `arrays`, which are the fields of `shape`.

    `settings`: by name, the fields that the configuration sets.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "i" and name != "timeline" and array.size:
            most = _most(shape, name)
            if not 0 <= array.min() <= array.max() <= most:
                raise CheckpointError(f"its {name} is not in 0..{most}")
    for name, value in settings.items():
        moving = name.rpartition(".")[2] in _MOVING
        if name in arrays and not moving and not np.array_equal(arrays[name], np.asarray(value, np.float64)):
            raise CheckpointError(f"its {name} is not that of its configuration")
    for learner in range(shape.learners):
        _check_rate(learner, settings, arrays)
    if not timeline.sound(arrays["timeline"]):
        raise CheckpointError("its timeline is none")


def _check_rate(learner: int, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """The rate that is in force, and the factor that the guard puts on it."""
    rate, factor = (float(arrays[field_name(learner, name)]) for name in ("learning_rate", "rate_factor"))
    try:
        check_learning_rate(rate, settings[field_name(learner, "weight_decay")], field_name(learner, "learning_rate"))
    except FieldError as error:
        raise CheckpointError(f"its {error}") from error
    if not LEAST_FACTOR <= factor <= 1:
        raise CheckpointError(f"its {field_name(learner, 'rate_factor')} is not in {LEAST_FACTOR}..1")


def _most(shape: Shape, name: str) -> int:
    """Largest value of an integer field."""
    prefix, _, own = name.rpartition(".")
    if prefix:
        learner = shape.learner_shape(int(prefix.removeprefix("learner")))
        return {"length": learner.rows, "span": learner.loss_span, "learning": 1}.get(own, MOST)
    memory = shape.scaling.seasons or getattr(shape.served, "memory", None)
    return {
        "season_place": 0 if memory is None else memory.length - 1,
        "season_period": 0 if memory is None else memory.length,
        "latest_update_result": max(UpdateResult),
        "latest_sensor_state": max(SensorState),
        "latest_learner_reset": max(ResetReason),
    }.get(name, MOST)
