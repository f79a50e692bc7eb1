"""The CUDA source of one shape: its sizes, offsets and codes as constants, then the text that all shapes share.

What the kernel must agree on with the reference — counters, codes, limits — is written here from the reference itself.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from bptt_core import cells, clipping, guard, heads, health, learner_config, lessons, optimizers
from bptt_core.backends.cuda import shapes
from bptt_core.events import ResetReason, UpdateResult
from bptt_core.learner import LearnerShape, device_fields, host_fields
from bptt_core.slab import Field, Layout

PARTS: Final = (
    "block.cuh",
    "cells.cuh",
    "tile.cuh",
    "recurrence.cuh",
    "losses.cuh",
    "readout.cuh",
    "optimizers.cuh",
    "gradient.cuh",
    "guard.cuh",
    "window.cuh",
    "learn.cu",
)
KERNEL: Final = "learn"
_C_TYPES: Final[dict[type, str]] = {np.int64: "long long", np.float64: "double", np.int8: "signed char"}
_CHOICES: Final = {
    "CELL": learner_config.CELLS,
    "LOSS": learner_config.LOSSES,
    "OPTIMIZER": learner_config.OPTIMIZERS,
    "SCHEDULE": learner_config.SCHEDULES,
    "CLIP": learner_config.CLIPS,
}


def source(shape: LearnerShape) -> str:
    """The text of the kernel for learners of this shape."""
    return "\n".join([prelude(shape), *map(part, PARTS)])


def part(name: str) -> str:
    """One file of the text that all shapes share."""
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def prelude(shape: LearnerShape) -> str:
    """Everything about the shape that the text reads."""
    lines = [
        f"[[maybe_unused]] constexpr int {name} = {value};" for name, value in (_sizes(shape) | _codes(shape)).items()
    ]
    lines += [f"constexpr unsigned ALL_LANES = {2**32 - 1}u;"]
    lines += [f"[[maybe_unused]] constexpr double {name} = {value!r};" for name, value in _limits().items()]
    lines += [f"[[maybe_unused]] constexpr float BELOW_ONE = {float(np.nextafter(np.float32(1), np.float32(0)))!r}f;"]
    measured = health.lags(shape.window)
    lines += [f"__constant__ const int LAGS[] = {{{', '.join(map(str, measured))}}};"]
    lines += [
        f"[[maybe_unused]] __constant__ const float LEVELS[] = {{{', '.join(map(repr, shape.quantiles or (0.0,)))}}};"
    ]
    return "\n".join([*lines, _book(shape), ""])


def _sizes(shape: LearnerShape) -> dict[str, int]:
    """Sizes and offsets; an offset of something the shape has not is 0 and never used."""
    split = shapes.variant(shape)
    assert split is not None
    cell, H, D, K = cells.CELLS[shape.cell], shape.hidden, shape.inputs, shape.outputs
    device, host = Layout.of(device_fields(shape)), Layout.of(host_fields(shape))
    in_params = dict(zip(shape.layout.shapes(), _starts(shape), strict=True))
    names = ("params", "moment0", "moment1", "carry", "boundary", "inputs", "targets", "good")
    return {
        "W": shape.rows,
        "D": D,
        "H": H,
        "G": cell.gates,
        "K": K,
        "N": shape.pairs,
        "P": shape.layout.size,
        "A": shapes.active_rows(shape),
        "CARRIES": cell.carries,
        "HAS_C": int(cell.carries > 1),
        "HORIZON": shape.horizon,
        "TARGETS": shape.targets,
        "OUTPUTS": shape.per_pair,
        "AHEAD": shape.ahead,
        "STRIDE": shape.stride,
        "MOMENTS": optimizers.MOMENTS[shape.optimizer],
        "GUARD": int(shape.guard),
        "SLOTS": split.slots,
        "TILE_ROWS": split.tile[0],
        "TILE_COLUMNS": split.tile[1],
        "THREADS": split.threads,
        "WARPS": split.threads // 32,
        "RESIDENT": split.resident,
        "STREAMED": int(split.streamed),
        "SHARED_BYTES": shapes.shared_bytes(shape),
        "XS": shapes.padded_inputs(shape),
        "XS_ROWS": -(-shape.rows // 8) * 8,
        "REST": shapes.rest(shape),
        "WH_SIZE": shapes.recurrent(shape),
        "SATURABLE": {"lstm": 5, "gru": 3}.get(shape.cell, 1),
        "AT_WX": in_params["wx0"],
        "AT_WH": in_params["wh0"],
        "AT_B": in_params["b0"],
        "AT_BH": in_params.get("bh0", 0),
        "AT_WO": in_params["wo"],
        "AT_BO": in_params["bo"],
        **{f"AT_{name.upper()}": device.offsets.get(name, 0) // 4 for name in names},
        **{f"AT_{name.upper()}": host.offsets.get(name, 0) for name in ("arrived_event", "norm_ring")},
        "DEVICE_ROW": device.bytes // 4,
        "BOOK_ROW": host.bytes,
        "BOOK_BYTES": shapes.book_bytes(shape),
        "COLUMNS": lessons.report_width(shape),
        "LAG_COUNT": len(health.lags(shape.window)),
    }


def _starts(shape: LearnerShape) -> list[int]:
    """Where each weight begins in a row of parameters."""
    sizes = [math.prod(s) for s in shape.layout.shapes().values()]
    return [sum(sizes[:k]) for k in range(len(sizes))]


def _codes(shape: LearnerShape) -> dict[str, int]:
    """Names for choices, results, reasons and columns, and what the shape chose."""
    chosen = (shape.cell, shape.loss, shape.optimizer, shape.schedule, shape.clip)
    codes: dict[str, int] = {}
    for (kind, names), choice in zip(_CHOICES.items(), chosen, strict=True):
        codes |= {f"{kind}_{name.upper()}": k for k, name in enumerate(names)} | {kind: names.index(choice)}
    codes |= {f"UPDATE_{result.name}": int(result) for result in UpdateResult}
    codes |= {f"RESET_{reason.name}": int(reason) for reason in ResetReason}
    codes |= {"STEP_EVENT": lessons.EVENT, "STEP_CLEAR": lessons.CLEAR, "STEP_CHANGED": lessons.CHANGED[0]}
    codes |= {"RESULT": lessons.RESULT, "RESET": lessons.RESET, "LOSS_COLUMN": lessons.LOSS, "BY_LAG": lessons.BY_LAG}
    codes |= {"GRADIENT_NORM": lessons.GRADIENT_NORM, "CLIP_SCALE": lessons.CLIP_SCALE}
    codes |= {"SATURATION": lessons.SATURATION, "UPDATE_RATIO": lessons.UPDATE_RATIO}
    codes |= {"RING": clipping.RING, "CLIP_FEWEST": clipping.FEWEST, "LAGS_EVERY": health.EVERY}
    codes |= {"GUARD_MEMORY": guard.MEMORY, "GUARD_FEWEST": guard.FEWEST, "FAILURES": guard.FAILURES}
    codes |= {"KEEP_EVERY": guard.KEEP_EVERY, "RECOVERY": guard.RECOVERY, "STRIKES": guard.STRIKES}
    return codes


def _limits() -> Mapping[str, float]:
    return {
        "SATURATED": cells.SATURATED,
        "LOG_VARIANCE_LIMIT": heads.LOG_VARIANCE_LIMIT,
        "EPSILON": optimizers.EPSILON,
        "TINY": optimizers.TINY,
        "FAR_ABOVE": guard.FAR_ABOVE,
        "SLACK": guard.SLACK,
        "LEAP": guard.LEAP,
        "STEP": guard.STEP,
        "SLOWER": guard.SLOWER,
        "MUCH_SLOWER": guard.MUCH_SLOWER,
        "LEAST_FACTOR": guard.LEAST_FACTOR,
    }


def _book(shape: LearnerShape) -> str:
    """The beginning of a learner's row on the host as a struct. Numbers that other shapes have come last and are never
    read."""
    here, own = shapes.book_fields(shape), {f.name for f in host_fields(shape)}
    elsewhere = (*guard.fields(), Field("norm_count", (), np.int64), Field("event_count", (), np.int64))
    members = [*here, *(f for f in elsewhere if f.name not in own)]
    lines = [f"    {_C_TYPES[f.dtype]} {f.name}{''.join(f'[{size}]' for size in f.shape)};" for f in members]
    offsets = Layout.of(host_fields(shape)).offsets
    checks = [
        f'static_assert(__builtin_offsetof(Book, {f.name}) == {offsets[f.name]}, "as in the slab");' for f in here
    ]
    return "\n".join(["struct Book {", *lines, "};", *checks])
