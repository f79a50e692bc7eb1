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
from bptt_core.config import check_learning_rate
from bptt_core.events import UpdateResult
from bptt_core.stages import Shape

MOST: Final = 2**62  # of any count: a stream of a million events a second reaches it in 146,000 years
_MOVING: Final = ("learning", "learning_rate", "reach")  # settings that change while a session lives


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
        if name in arrays and name not in _MOVING and not np.array_equal(arrays[name], np.asarray(value, np.float64)):
            raise CheckpointError(f"its {name} is not that of its configuration")
    try:
        check_learning_rate(float(arrays["learning_rate"]), settings["weight_decay"])
    except FieldError as error:
        raise CheckpointError(f"its {error}") from error
    if not timeline.sound(arrays["timeline"]):
        raise CheckpointError("its timeline is none")


def _most(shape: Shape, name: str) -> int:
    """Largest value of an integer field."""
    return {
        "length": shape.learner.rows,
        "season_phase": max(0, getattr(shape.served, "season", 0) - 1),
        "season_stale": 1,
        "learning": 1,
        "latest_update_result": max(UpdateResult),
    }.get(name, MOST)
