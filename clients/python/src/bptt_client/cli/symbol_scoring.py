"""How good the predictions of symbols were, beside the running frequencies of the symbols, on exactly the same ones.

The naive forecaster is the server's, stated a second time because a client does not know the server's code: the
frequencies of the symbols as they were known when the prediction was made, the newest 10,000 weighing most, half a
count added to each (Krichevsky and Trofimov 1981). Shapes as in `scoring.py`; C symbols of one target, or for each of
several targets the probability of 1.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bptt_client.cli.scoring import Array, Rows, Scorer, Span

MEMORY = 10_000
_LEAST = float(np.finfo(np.float64).tiny)


class SymbolScorer(Scorer):
    """Cross-entropies in nats, and shares of wrong guesses. `symbols` is C, or 0 for probabilities of 1. Batches come
    in the order of their rows.
    """

    MEASURES = ("log_loss", "naive_log_loss", "error_rate", "naive_error_rate")
    RUNNING: ClassVar = {"model": "log_loss", "persistence": "naive_log_loss"}

    def __init__(
        self,
        truth: Array,
        horizon: int,
        symbols: int,
        span: Span,
        steps: Rows | None = None,
        known: Rows | None = None,
    ) -> None:
        super().__init__(truth, horizon, span, steps, known)
        self._symbols = symbols
        self._frequency, self._seen = np.zeros(symbols or truth.shape[1]), np.zeros(truth.shape[1])
        self._counted = 0  # rows that the frequencies include

    def measure(
        self, rows: Rows, truth: Array, mean: Array, lower: Array, upper: Array, distribution: Array
    ) -> dict[str, Array]:
        """As the base class says."""
        naive = np.broadcast_to(self._naive(rows)[:, None, :], (len(rows), len(self._horizons), len(self._frequency)))
        model = distribution[:, :, 0, :] if self._symbols else mean
        measured = {}
        for prefix, probabilities in (("", model), ("naive_", naive)):
            loss, wrong = self._compare(probabilities, truth)
            missing = np.isnan(truth) | np.isnan(mean)
            measured[f"{prefix}log_loss"] = np.where(missing, np.nan, loss)
            measured[f"{prefix}error_rate"] = np.where(missing, np.nan, wrong)
        return measured

    def _compare(self, probabilities: Array, truth: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Cross-entropy and whether the guess was wrong, [n, H, O], of probabilities [n, H, C] or [n, H, O]."""
        if self._symbols:
            came = np.nan_to_num(truth).astype(np.int64)
            chosen = np.take_along_axis(probabilities, came, axis=-1)
            return -np.log(np.maximum(chosen, _LEAST)), probabilities.argmax(axis=-1)[:, :, None] != came
        ones, others = np.maximum(probabilities, _LEAST), np.maximum(1.0 - probabilities, _LEAST)
        return -truth * np.log(ones) - (1.0 - truth) * np.log(others), (probabilities > 0.5) != (truth > 0.5)

    def _naive(self, rows: Rows) -> Array:
        """Probabilities [n, C] or [n, O] by the frequencies known at each row."""
        made = np.empty((len(rows), len(self._frequency)))
        for i, row in enumerate(rows):
            while self._counted <= self._known[row]:
                self._count(self._truth[self._counted])
                self._counted += 1
            seen = np.minimum(self._seen, MEMORY)
            ones = self._frequency * seen + 0.5
            made[i] = ones / (seen + 0.5 * (self._symbols or 2))
        return made

    def _count(self, values: Array) -> None:
        seen = ~np.isnan(values)
        self._seen += seen
        came = values == np.arange(self._symbols) if self._symbols else values
        weight = 1.0 / np.maximum(np.minimum(self._seen, MEMORY), 1.0)
        self._frequency = np.where(seen, self._frequency + weight * (came - self._frequency), self._frequency)
