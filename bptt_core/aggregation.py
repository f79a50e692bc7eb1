"""How far each expert is trusted: weights per (horizon, target), learned online by a rule that has nothing to tune.

The rule is Bernstein Online Aggregation (Wintenberger 2017): exponential weights of second order, in which every expert
has a learning rate of its own that follows from the range and the variance of its regret, on squared errors linearised
at the aggregate that was issued, so that it competes with the best convex combination, not only with the best expert. A
fixed share (Herbster & Warmuth 1998) and fading sums keep it able to change its mind after millions of events. It knows
neither what an expert is nor in which unit values come: multiplying all values by a number changes nothing.

Array legend: B sessions, H horizons, O targets, K experts, the last, contiguous axis, which all sums run over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from bptt_core.running import Floats
from bptt_core.slab import Field, Rows

MEMORY: Final = 2000  # settled pairs after which evidence has faded to 1/e
SHARE: Final = 1e-3  # of its prior weight an expert keeps at least about this
ERROR_LIMIT: Final = 10.0  # a larger error, in units, is learned from as this: one absurd value must not bury the past
LEAST: Final = 1e-250  # a smaller regret is none: what is NARROWEST beside it is no number any more
NARROWEST: Final = 1e-6  # smallest range of an expert's regret, relative to the widest: below it is rounding

FADE: Final = 1 - 1 / MEMORY


@dataclass(frozen=True)
class AggregationShape:
    """What sessions of one slab have in common here. `prior`: weights of the experts before the first pair is settled,
    positive, with sum 1; none: all equal."""

    horizon: int
    targets: int
    experts: int
    prior: tuple[float, ...] = ()

    @cached_property
    def log_prior(self) -> Floats:
        """[K]."""
        prior = self.prior or (1 / self.experts,) * self.experts
        if len(prior) != self.experts or min(prior) <= 0 or abs(sum(prior) - 1) > 1e-9:
            raise ValueError(f"{prior} are no weights of {self.experts} experts")
        return np.log(prior)

    @cached_property
    def patience(self) -> Floats:
        """[H, 1, 1]: log(1 + K) / h, what the variance of a regret is held against."""
        patience: Floats = math.log(1 + self.experts) / np.arange(1, self.horizon + 1.0)[:, None, None]
        return patience


def fields(shape: AggregationShape) -> list[Field]:
    """State of one session. Regret and variance are kept in units of the range, so that no value is too large."""
    pairs = (shape.horizon, shape.targets, shape.experts)
    names = ("aggregate_range", "aggregate_regret", "aggregate_variance", "aggregate_score")
    return [Field(name, pairs, np.float64) for name in names]


def weights(shape: AggregationShape, rows: Rows) -> Floats:
    """What a forecast made now is weighted with: [B, H, O, K], positive, with sum 1 over K; the prior at first."""
    score = rows["aggregate_score"] + shape.log_prior
    score -= score.max(axis=-1, keepdims=True)
    weight: Floats = np.exp(score, out=score)
    weight /= weight.sum(axis=-1, keepdims=True)
    return weight


def mix(weight: Floats, forecasts: Floats) -> Floats:
    """The weighted mean [B, H, O] of forecasts [B, H, O, K]: exactly theirs where all agree."""
    first = forecasts[..., :1]
    part = np.multiply(weight, forecasts - first, order="C")  # one order of summation, whatever the strides
    mean: Floats = first[..., 0] + part.sum(axis=-1)
    return mean


def settle(
    shape: AggregationShape, rows: Rows, forecasts: Floats, mixed: Floats, observed: Floats, unit: Floats
) -> None:
    """Learns from the pairs that end now, in place on `rows`.

    `forecasts` [B, H, O, K] and their aggregate `mixed` [B, H, O] are as issued; `observed` [B, O] is the value that
    came; `unit` [B, H, O] the size of a usual error as known then. Where one of them is NaN nothing moves.

    With r = 2 (mixed − observed)(mixed − forecast) the regret towards an expert, E its range and V the sum of its
    squares, all fading, weights are in proportion to prior · η exp(η Σ (r − η r²)), η = min(1/2E, √(log(1 + K) / hV)).

    While nothing has faded and no error is cut at ERROR_LIMIT, Σ r towards an expert is O(√(h V log K) + h E log K), up
    to a log log of the pairs (Wintenberger 2017, multiple adaptive learning rates, for h = 1); the constant measured
    against adversaries is below 2.5. The aggregate's squared errors exceed that expert's by no more than Σ r, and those
    of a convex combination by no more than the largest Σ r. The factor h is for pairs issued before the h − 1 ones
    between are known (Joulani, György & Szepesvári 2016): rates that ignore the delay cost several % at long horizons.
    The share, here the least weight to fall to, bounds how far an expert falls behind: one that becomes the best is
    back after a time that depends on how much better it is, not on how long it was not.
    """
    limit = ERROR_LIMIT * unit
    error = np.minimum(np.maximum(mixed - observed[:, None, :], -limit), limit)
    regret = mixed[..., None] - forecasts
    regret *= (2 * error / (unit * unit))[..., None]
    span = np.maximum(FADE * rows["aggregate_range"], np.abs(regret))
    widest = span.max(axis=-1, keepdims=True)
    # Not for NaN; and a pair on which all agree, or without an error, teaches nothing: the evidence does not even fade.
    moves = np.abs(regret).max(axis=-1, keepdims=True) > LEAST
    if not moves.any():
        return
    if not moves.all():
        widest[~moves] = 1
        np.copyto(span, 1, where=~moves)
    np.maximum(span, NARROWEST * widest, out=span)
    regret /= span
    kept = rows["aggregate_range"] / span  # evidence so far in units of the new range
    square = regret * regret
    variance = kept * kept
    variance *= FADE * rows["aggregate_variance"]
    variance += square
    rate = np.sqrt(shape.patience / np.maximum(variance, 4 * shape.patience))  # η E, at most 1/2
    square *= rate
    regret -= square
    kept *= FADE * rows["aggregate_regret"]
    regret += kept
    np.divide(widest, span, out=kept)
    kept *= rate
    score = np.log(kept, out=kept)
    score += rate * regret
    least = (score + shape.log_prior).max(axis=-1, keepdims=True) + math.log(SHARE)
    raised = np.maximum(score, least)
    regret += (raised - score) / rate
    for name, value in (("range", span), ("regret", regret), ("variance", variance), ("score", raised)):
        np.copyto(rows[f"aggregate_{name}"], value, where=moves)
