"""From a single learner's outputs to numbers in original units: means, quantiles, and the spread a learner tells.

Quantiles that a learner tells itself are sorted, which never makes them worse (Chernozhukov, Fernández-Val & Galichon
2010). Array legend: B sessions, H horizons, O targets, R outputs per pair, Q quantiles.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from bptt_core.heads import LOG_VARIANCE_LIMIT
from bptt_core.running import Floats
from bptt_core.scales import INPUT_LIMIT

CLAMP: Final = 4.0  # a forecast stays within this many residual scales of its anchor


class Outputs(NamedTuple):
    """A learner's outputs in original units."""

    mean: Floats  # [B, H, O]
    distribution: Floats  # [B, H, O, Q]
    spread: Floats  # [B, H, O] the unit that errors are measured in


def outputs_of(
    per_pair: int,
    loss: str,
    levels: tuple[float, ...],
    clamp: bool,
    ys: Floats,
    anchor: Floats,
    scale: Floats,
    last: Floats,
) -> Outputs:
    """What the outputs `ys` [B, H·O·R] stand for, beside `anchor` and `scale` [B, H, O] and the `last` values [B, O].

    If one of a pair's outputs is not finite, or the central one is beyond belief as in `mean_of`, persistence stands
    for all that is served of the pair.
    """
    pairs = scale.shape
    if per_pair == 1 and not levels:
        return Outputs(mean_of(clamp, ys.reshape(pairs), anchor, scale, last), np.empty((*pairs, 0)), scale)
    outputs = ys.reshape(*pairs, per_pair)
    broken = ~np.logical_and.reduce(np.isfinite(outputs), axis=-1)
    gaussian = loss == "gaussian"
    if gaussian:
        log_variance = np.minimum(np.maximum(outputs[..., 1], -LOG_VARIANCE_LIMIT), LOG_VARIANCE_LIMIT)
        central, spread = outputs[..., 0], np.exp(0.5 * log_variance) * scale
    else:
        outputs = np.sort(outputs, axis=-1)
        central, spread = outputs[..., int(np.abs(np.array(levels) - 0.5).argmin())], scale
    if clamp:
        broken |= np.abs(central) > INPUT_LIMIT
    mean = mean_of(clamp, np.where(broken, np.nan, central), anchor, scale, last)
    if gaussian:
        sigmas = np.array([NormalDist().inv_cdf(level) for level in levels])
        offset, start = spread[..., None] * sigmas, mean[..., None]
    else:
        limit = INPUT_LIMIT if clamp else np.inf  # that of the targets they were learned from
        offset = np.minimum(np.maximum(outputs, -limit), limit) * scale[..., None]
        start = anchor[..., None]
    distribution = start + np.where(np.isnan(offset), 0, offset)
    np.copyto(distribution, mean[..., None], where=broken[..., None])
    return Outputs(mean, distribution, spread)


def mean_of(clamp: bool, outputs: Floats, anchor: Floats, scale: Floats, last: Floats) -> Floats:
    """Anchor + scale · output, within CLAMP scales; the anchor while there is no scale; persistence if the output is
    not finite, or beyond what any target it was trained on can have been: such a learner has lost its way.

    `outputs`, `anchor` and `scale` are [B, H, O], `last` is [B, O].
    """
    limited = np.minimum(np.maximum(outputs, -CLAMP), CLAMP) if clamp else outputs
    offset = limited * scale
    np.copyto(offset, 0, where=np.isnan(offset))
    mean: Floats = anchor + offset
    np.copyto(mean, last[:, None, :], where=~(np.abs(outputs) <= INPUT_LIMIT) if clamp else ~np.isfinite(outputs))
    return mean
