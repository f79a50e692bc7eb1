"""Whether forecasts are as good on one backend as on another: the same streams and seeds on each, side by side.

    python benchmarks/backends.py [DATA_DIR] [--only ETTh2 "noisy chaos"] [--horizons 1 24] [--seeds 5]
        [--backends numpy numba] [--missing AirQualityUCI=-200]

Streams, sessions and scores are those of `accuracy.py`. Backends round differently, so sessions part sooner or later;
what must stay is how good they are. A row has the mean squared error of a single learner and of a portfolio on each
backend, how far the means lie apart at most, and the deviation over seeds on the first: the former should be no more
than the latter. Of a data set another seed is another start of every learner, of a formula another draw as well. Last
is the coverage of the portfolio's intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from accuracy import Record, Stream, known_streams, run, spread_over


def row(stream: Stream, horizon: int, found: list[list[Record]]) -> str:
    """Of one stream and horizon, whose records are given by backend."""
    cells = []
    for who in ("single", "portfolio"):
        errors = np.array([spread_over(records, who, "mse") for records in found])  # [backend, seed]
        means = errors.mean(axis=1)
        cells += [f"{mean:.4f}" for mean in means] + [f"{np.ptp(means):.4f}", f"{errors[0].std():.4f}"]
    cells += [f"{spread_over(records, 'intervals', 'coverage').mean():.3f}" for records in found]
    return f"| {stream.name} | {horizon} | {' | '.join(cells)} |"


def table(chosen: list[Stream], horizons: list[int], seeds: int, backends: list[str]) -> Iterator[str]:
    """One row after the other, each as soon as it is known."""
    heads = [f"{who}, {name}" for who in ("single", "portfolio") for name in [*backends, "apart", "± seeds"]]
    heads += [f"coverage, {name}" for name in backends]
    yield f"| MSE | H | {' | '.join(heads)} |"
    yield "|---|---|" + "---|" * len(heads)
    for stream in chosen:
        for horizon in horizons:
            yield row(stream, horizon, [run(stream, horizon, seeds, name) for name in backends])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of CSV files (without it: formula streams only)")
    parser.add_argument("--only", nargs="+", default=[], help="names of streams (default: all)")
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 24])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backends", nargs="+", default=["numpy", "numba"], help="default: numpy numba")
    parser.add_argument(
        "--missing", nargs="+", default=[], metavar="FILE=CODE", help="code of missing values in a file"
    )
    arguments = parser.parse_args()
    arguments.times = False
    known = known_streams(arguments)
    if unknown := set(arguments.only) - {stream.name for stream in known}:
        parser.error(f"--only {', '.join(sorted(unknown))}; known: {', '.join(stream.name for stream in known)}")
    chosen = [stream for stream in known if not arguments.only or stream.name in arguments.only]
    for line in table(chosen, arguments.horizons, arguments.seeds, arguments.backends):
        print(line, flush=True)


if __name__ == "__main__":
    main()
