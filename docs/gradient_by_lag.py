"""The picture of docs/bptt.md: how the gradient fades or grows on its way back through time.

    python docs/gradient_by_lag.py [--out docs/gradient_by_lag.png]

Every curve is a session that forecasts the same random stream and reports `norm_by_lag` at every 64th update, as the
service does; what is drawn is the median over the reports, relative to lag 0. On the left the networks are as they were
initialised (their learning rate is next to nothing), on the right they have learned to tell what a coin thrown 12
events ago decided. The numbers are printed, too.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from bptt_core import Events, Fold, LearnerConfig, SessionConfig, lags, select_backend

WINDOW, LAG, EVENTS = 64, 12, 20_000
NETWORKS: dict[str, dict[str, object]] = {
    "tanh, recurrent weights × 2": {"cell": "tanh", "recurrent_gain": 2.0},
    "tanh, orthogonal": {"cell": "tanh"},
    "tanh, uniform": {"cell": "tanh", "recurrent_init": "uniform"},
    "ReLU, identity": {"cell": "relu", "recurrent_init": "identity", "input_init": "glorot"},
    "GRU": {"cell": "gru"},
    "LSTM, forget bias 1": {"cell": "lstm"},
    "LSTM, chrono": {"cell": "lstm", "bias_init": "chrono"},
}


def coins(seed: int) -> NDArray[np.float64]:
    """[EVENTS, 2]: a fair coin x, and y(t) = x(t − LAG)."""
    x = np.random.default_rng(seed).integers(0, 2, EVENTS + LAG).astype(np.float64)
    return np.stack([x[LAG:], x[:-LAG]], axis=1)


def measured(network: dict[str, object], learning_rate: float) -> tuple[NDArray[np.float64], float]:
    """Median over the reports of the norm at each lag ÷ that at lag 0, and the mean loss of the last tenth."""
    fold = Fold(select_backend("numpy"))
    learner = LearnerConfig(hidden=32, window=WINDOW, stride=8, learning_rate=learning_rate, **network)  # type: ignore[arg-type]
    slot = fold.create(SessionConfig(("x", "y"), targets=("y",), task="classify", learner=learner))
    stream, norms, losses = coins(1), [], []
    for start in range(0, EVENTS, 500):
        (outcomes,) = fold.step([(slot, Events(stream[start : start + 500]))])
        reported = outcomes.norm_by_lag[~np.isnan(outcomes.norm_by_lag).any(axis=1)].astype(np.float64)
        norms.append(reported / reported[:, :1])
        losses.append(outcomes.loss)
    last_tenth = np.concatenate(losses)[-EVENTS // 10 :]
    return np.median(np.concatenate(norms)[-8:], axis=0), float(np.nanmean(last_tenth))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    out = parser.parse_args().out
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    steps = lags(WINDOW)
    for panel, (title, rate) in zip(panels, (("as initialised", 1e-8), ("after learning", 3e-3)), strict=True):
        print(f"{title}: norm at lag k ÷ norm at lag 0")
        print(f"{'':28}" + "".join(f"{k:>9}" for k in steps) + f"{'loss':>9}")
        for name, network in NETWORKS.items():
            ratio, loss = measured(network, rate)
            print(f"{name:28}" + "".join(f"{value:9.1e}" for value in ratio) + f"{loss:9.3f}")
            panel.plot(range(len(steps)), ratio, marker="o", markersize=3, label=f"{name}: {loss:.2f}")
        panel.set(title=title, xlabel="steps back", yscale="log", ylim=(1e-8, 1e4))
        panel.set_xticks(range(len(steps)), [str(k) for k in steps])
        panel.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        panel.axvline(steps.index(8) + np.log2(LAG / 8), color="0.7", linewidth=0.8, linestyle=":", zorder=0)
        panel.grid(alpha=0.2)
        panel.legend(fontsize=7, title="loss in nats (chance 0.69)", title_fontsize=7, loc="lower left")
    panels[0].set_ylabel("gradient norm, relative to lag 0")
    figure.savefig(out, dpi=150)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
