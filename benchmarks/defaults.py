"""Why the default learner is what it is: every default against its neighbours, on several streams at once.

    python benchmarks/defaults.py DATA_DIR [--horizons 1 24] [--events 8000] [--backend numpy]

Streams every CSV of DATA_DIR (first column a time, the others numbers; -200 means missing) and two formula streams
through the core, once per variant, and prints mean squared error ÷ that of persistence: below 1 the learner beats it.
One pass, all pairs after the first quarter, each channel in units of its own standard deviation. A variant changes one
field of the default and nothing else, so a row that is better everywhere would be a better default.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from bptt_core import Events, Fold, LearnerConfig, SessionConfig, select_backend

VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "learning_rate 3e-4": {"learning_rate": 3e-4},
    "learning_rate 3e-3": {"learning_rate": 3e-3},
    "hidden 16": {"hidden": 16},
    "hidden 64": {"hidden": 64},
    "loss_span 4": {"loss_span": 4},
    "loss_span 24": {"loss_span": 24},
    "loss_span 4, learning_rate 3e-4": {"loss_span": 4, "learning_rate": 3e-4},
    "cell gru": {"cell": "gru"},
    "cell tanh": {"cell": "tanh"},
    "loss huber": {"loss": "huber"},
    "clip_norm 0.25": {"clip_norm": 0.25},
    "clip_norm 10": {"clip_norm": 10.0},
}


def read(path: Path) -> NDArray[np.float64]:
    """All columns but the first as floats; what is not a number, and -200, is missing."""
    with path.open(newline="") as file:
        rows = [row[1:] for row in csv.reader(file)][1:]
    values = np.array([[float(cell or "nan") for cell in row] for row in rows])
    values[values == -200] = np.nan
    return values


def formula_streams(n: int) -> dict[str, NDArray[np.float64]]:
    """A random walk, which nothing beats persistence on, and a noisy sine."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal((n, 1)), axis=0)
    sine = np.sin(np.arange(n) * 2 * math.pi / 37)[:, None] + 0.1 * rng.standard_normal((n, 1))
    return {"random walk": walk, "sine": sine}


def ratio(values: NDArray[np.float64], horizon: int, variant: dict[str, object], backend: str) -> float:
    """Mean squared error of the learner ÷ that of persistence."""
    features = tuple(f"c{k}" for k in range(values.shape[1]))
    learner = LearnerConfig(**variant)  # type: ignore[arg-type]
    fold = Fold(select_backend(backend))
    slot = fold.create(SessionConfig(features, horizon=horizon, learner=learner))
    blocks = [fold.step([(slot, Events(values[k : k + 256]))])[0].mean for k in range(0, len(values), 256)]
    mean = np.concatenate(blocks)
    last = values.copy()
    for t in range(1, len(last)):
        last[t] = np.where(np.isnan(last[t]), last[t - 1], last[t])
    scale = np.nanstd(values, axis=0)
    own, naive = [], []
    start = len(values) // 4
    for h in range(1, horizon + 1):
        truth = values[start + h :]
        own.append(((mean[start : len(values) - h, h - 1] - truth) / scale) ** 2)
        naive.append(((last[start : len(values) - h] - truth) / scale) ** 2)
    return float(np.nanmean(np.concatenate(own)) / np.nanmean(np.concatenate(naive)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of CSV files")
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 24])
    parser.add_argument("--events", type=int, default=8000, help="most events per stream (default 8000)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--backend", default="auto", help="where sessions compute (default auto)")
    args = parser.parse_args()
    select_backend(args.backend).warm_up()  # once, and not in every process
    streams = {path.stem: read(path)[: args.events] for path in sorted(args.data.glob("*.csv"))}
    streams |= formula_streams(min(args.events, 8000))
    columns = [(name, horizon) for name in streams for horizon in args.horizons]
    print(f"{'mse ÷ persistence mse':34}" + "".join(f"{name[:12] + f' H={h}':>20}" for name, h in columns))
    with ProcessPoolExecutor(args.jobs) as pool:
        jobs = {
            (variant, name, h): pool.submit(ratio, streams[name], h, fields, args.backend)
            for variant, fields in VARIANTS.items()
            for name, h in columns
        }
        for variant in VARIANTS:
            cells = (f"{jobs[variant, name, h].result():20.3f}" for name, h in columns)
            print(f"{variant:34}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
