"""How good forecasts and intervals are without tuning: data sets and formula streams through the core, in one pass.

    python benchmarks/accuracy.py [DATA_DIR] [--only ETTh2 "random walk"] [--horizons 1 24] [--seeds 5] [--channels]
        [--missing AirQualityUCI=-200] [--times] [--keep FILE] [--backend numpy]

Sessions are given nothing but the horizon: a portfolio, and beside it a single default learner. Another seed is another
start of every learner, and of a formula stream another draw. Data sets are the CSV files of DATA_DIR, a time first and
numbers after it. The ETT sets are scored on the rows they are usually scored on, in units of each channel's deviation
over the first four months; others on their last 75 %, in units of the deviation over their first 20 %. Formula streams
are scored on their last 75 % in their own units. All windows count whose targets lie in those rows; what is missing
scores nothing; every forecast is the one that was served when it was made, and means are over channels of means over
windows and horizons. With --keep, results are kept in FILE line by line, and what is there is not run again. With
--times, events carry the times of the file.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import functools
import itertools
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import streams
from numpy.typing import NDArray

from bptt_core import Backend, Events, Fold, LearnerConfig, Outcomes, SessionConfig, Slot, select_backend

Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Record = dict[str, Any]

CALL_EVENTS: Final = 64
WORST: Final = 500  # consecutive steps
ETT_MONTH: Final = {"ETTh": 30 * 24, "ETTm": 30 * 24 * 4}  # rows; 4 months to fit, 1 between, 15 to score
TIME_FORMATS: Final = ("%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M", "%m/%d/%y %H:%M", "%m/%d/%Y %H:%M", "%Y-%m-%d")
FORMULA_EVENTS: Final = 4_000
COUNTS_EVENTS: Final = 3 * 2_016  # of which six weeks are not scored


@dataclass(frozen=True)
class Stream:
    """A stream, and how its forecasts are scored."""

    name: str
    draw: Callable[[int], Floats]  # of a seed: [n, O]
    length: int
    season: int  # of the seasonal naive forecast; 0: none
    fit: int  # rows whose deviation is the unit; 0: scored in its own units
    start: int  # first row that is scored
    stop: int
    times: Times | None = None


def read(path: Path, missing: float | None) -> tuple[Floats, Times]:
    """All columns but the first as floats, and that one as times in nanoseconds; what is no number is missing."""
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row][1:]
    values = np.array([[float(cell or "nan") for cell in row[1:]] for row in rows])
    if missing is not None:
        values[values == missing] = np.nan
    return values, np.array([nanoseconds(row[0]) for row in rows])


def nanoseconds(text: str) -> int:
    """Of a time without a zone, taken as UTC."""
    for form in TIME_FORMATS:
        try:
            moment = dt.datetime.strptime(text, form).replace(tzinfo=dt.UTC)
        except ValueError:
            continue
        return int(moment.timestamp()) * 10**9
    raise SystemExit(f"no time: {text!r}; known forms: {', '.join(TIME_FORMATS)}")


def data_set(path: Path, missing: float | None, timed: bool) -> Stream:
    """The stream of a file, with the season its times tell: a day of several steps, or a week of days."""
    values, times = read(path, missing)
    known = ~np.isnan(values).all(axis=0)
    values, n = values[:, known], len(values)
    per_day = round(86_400e9 / float(np.median(np.diff(times))))
    season = per_day if per_day > 1 else 7
    fit, start, stop = n // 5, n // 4, n
    month = ETT_MONTH.get(path.stem[:4])
    if month:
        fit, start, stop = 4 * month, 5 * month, min(n, 20 * month)
    values = values[:stop]
    return Stream(path.stem, lambda _: values, stop, season, fit, start, stop, times[:stop] if timed else None)


def formula_streams() -> list[Stream]:
    """Those of `streams.py`, changes in the middle."""
    n, middle = FORMULA_EVENTS, FORMULA_EVENTS // 2
    drawn: dict[str, Callable[[int], Floats]] = {
        "random walk": partial(streams.random_walk, n=n),
        "white noise": partial(streams.white_noise, n=n),
        "autoregressive": partial(streams.autoregressive, n=n),
        "threshold autoregressive": partial(streams.threshold_autoregressive, n=n),
        "noisy chaos": partial(streams.noisy_chaos, n=n),
        "noisy sine": partial(streams.noisy_sine, n=n),
        "noisy sine, 30 % missing": lambda seed: streams.with_missing(streams.noisy_sine(seed, n), 0.3, seed),
        "level shift": partial(streams.level_shift, n=n, at=middle),
        "variance change": partial(streams.variance_change, n=n, at=middle),
    }
    plain = [Stream(name, draw, n, 0, 0, n // 4, n) for name, draw in drawn.items()]
    n, week = COUNTS_EVENTS, streams.WEEK
    counts = partial(streams.half_hour_counts, n=n)
    scored = week, 2_016, 2_016, n  # six weeks to fit the unit, and to learn
    return [
        *plain,
        Stream("half-hour counts", counts, n, *scored),
        Stream("half-hour counts, timed", counts, n, *scored, streams.half_hours(n)),
    ]


@functools.cache
def backend_called(name: str) -> Backend:
    """On all cores: how many there are changes no result."""
    return select_backend(name, os.cpu_count() or 1)


def forecast(
    tables: list[Floats],
    configs: list[SessionConfig],
    times: list[Times | None] | None = None,
    backend: str = "numpy",
) -> tuple[Fold, list[Slot], list[Outcomes]]:
    """Each stream [n, D] to a session of its own, side by side in one pass: a fold, its slots and their outcomes."""
    fold = Fold(backend_called(backend))
    slots = [fold.create(config) for config in configs]
    return fold, slots, go_on(fold, slots, tables, times)


def go_on(
    fold: Fold, slots: list[Slot], tables: list[Floats], times: list[Times | None] | None = None
) -> list[Outcomes]:
    """The outcomes of sessions that take these streams [n, D] of one length as what comes next."""
    found: list[list[Outcomes]] = [[] for _ in slots]
    clocks = times or [None] * len(slots)
    for at in range(0, len(tables[0]), CALL_EVENTS):
        here = slice(at, at + CALL_EVENTS)
        events = [
            Events(table[here], None if clock is None else clock[here])
            for table, clock in zip(tables, clocks, strict=True)
        ]
        for parts, outcomes in zip(found, fold.step(list(zip(slots, events, strict=True))), strict=True):
            parts.append(outcomes)
    return [Outcomes.joined(parts) for parts in found]


def run(stream: Stream, horizon: int, seeds: int, backend: str) -> list[Record]:
    """Streams it to a portfolio and a single learner for each seed, all side by side; one record for each seed."""
    drawn = [stream.draw(seed) for seed in range(seeds)]
    features = tuple(f"c{k}" for k in range(drawn[0].shape[1]))
    portfolio = SessionConfig(features, horizon=horizon).validated().learners
    configs = []
    for seed in range(seeds):
        learners = tuple(replace(one, seed=one.seed + 100 * seed) for one in portfolio)
        configs.append(SessionConfig(features, horizon=horizon, learners=learners))
        configs.append(SessionConfig(features, horizon=horizon, learner=LearnerConfig(seed=seed)))
    twice = [table for table in drawn for _ in range(2)]
    *_, outcomes = forecast(twice, configs, [stream.times] * len(twice), backend)
    key, found = {"stream": stream.name, "horizon": horizon, "backend": backend_called(backend).name}, []
    for seed, table in enumerate(drawn):
        portfolio, single = (np.stack([o.mean, o.lower, o.upper]) for o in outcomes[2 * seed : 2 * seed + 2])
        found.append(key | {"seed": seed} | scored(stream, table, portfolio, single))
    return found


def scored(stream: Stream, values: Floats, portfolio: Floats, single: Floats) -> Record:
    """The scores of all forecasters on the same windows. `portfolio` and `single` are means and bounds [3, n, H, O]."""
    horizon = portfolio.shape[2]
    fitted = values[: stream.fit]
    unit = np.sqrt(average((fitted - average(fitted, 0)) ** 2, 0)) if stream.fit else np.ones(values.shape[1])
    unit = np.where(unit > 0, unit, 1.0)
    made = np.arange(stream.start - 1, stream.stop - horizon)
    truth = values[made[:, None] + 1 + np.arange(horizon)]  # [windows, H, O]
    naive = {"persistence": persistence(values)[made][:, None], "mean": running_mean(values)[made][:, None]}
    if stream.season:
        naive["seasonal"] = seasonal(values, stream.season, made, horizon)
    forecasts = naive | {"single": single[0, made], "portfolio": portfolio[0, made]}
    # Only what every forecaster forecast is scored, so that all are scored on the same.
    seen = ~np.isnan(sum((truth - forecast for forecast in forecasts.values()), start=np.zeros_like(truth)))
    record: Record = {}
    for name, forecast in forecasts.items():
        error = np.where(seen, (truth - forecast) / unit, np.nan)
        record[name] = {
            "mse": average(error**2, (0, 1)).tolist(),
            "mae": average(np.abs(error), (0, 1)).tolist(),
            "mse_by_horizon": np.nanmean(average(error**2, 0), axis=-1).tolist(),
        }
    bounds = (np.where(seen, (table[made] - portfolio[0, made]) / unit, np.nan) for table in portfolio[1:])
    residual = np.where(seen, (truth - portfolio[0, made]) / unit, np.nan)
    return record | {"intervals": interval_scores(residual, *bounds)}


def average(values: Floats, axes: int | tuple[int, ...]) -> Floats:
    """The mean of what is not NaN; NaN where nothing is."""
    count = (~np.isnan(values)).sum(axis=axes)
    mean: Floats = np.nansum(values, axis=axes) / np.where(count, count, np.nan)
    return mean


def persistence(values: Floats) -> Floats:
    """The last value known at each row."""
    last = values.copy()
    for before, now in itertools.pairwise(last):
        np.copyto(now, before, where=np.isnan(now))
    return last


def running_mean(values: Floats) -> Floats:
    """Of all values known at each row."""
    count = np.cumsum(~np.isnan(values), axis=0)
    mean: Floats = np.cumsum(np.nan_to_num(values), axis=0) / np.where(count, count, np.nan)
    return mean


def seasonal(values: Floats, season: int, made: NDArray[np.int64], horizon: int) -> Floats:
    """What was one season before each target, if missing one earlier, then the last value: [windows, H, O]."""
    last = persistence(values)
    tables = []
    for h in range(1, horizon + 1):
        back = made + h - season * math.ceil(h / season)
        ago, earlier = (np.where((at >= 0)[:, None], values[np.maximum(at, 0)], np.nan) for at in (back, back - season))
        ago = np.where(np.isnan(ago), earlier, ago)
        tables.append(np.where(np.isnan(ago), last[made], ago))
    return np.stack(tables, axis=1)


def interval_scores(residual: Floats, lower: Floats, upper: Floats, coverage: float = 0.9) -> Record:
    """Of intervals `lower` … `upper` around the forecast, both as the `residual` [windows, H, O] in units.

    The static width is what the narrowest interval of constant width that covers as much of the same residuals would
    have had, chosen with hindsight for each horizon and target: symmetric, or with the same misses on each side.
    """
    issued = ~np.isnan(residual + lower + upper)
    below, above = issued & (residual < lower), issued & (residual > upper)
    inside = issued & ~below & ~above
    width = np.where(issued, upper - lower, np.nan)
    outside = np.where(below, lower - residual, 0) + np.where(above, residual - upper, 0)
    static = []
    for h, o in np.ndindex(residual.shape[1:]):
        here = issued[:, h, o]
        errors = residual[here, h, o]
        if len(errors):
            symmetric = 2 * np.quantile(np.abs(errors), inside[here, h, o].mean())
            low, high = np.quantile(errors, [below[here, h, o].mean(), 1 - above[here, h, o].mean()])
            static.append(min(float(symmetric), float(high - low)))
    mean_width = float(np.nanmean(average(width, 0)))
    return {
        "coverage": float(inside.sum() / issued.sum()),
        "coverage_by_channel": average(np.where(issued, inside, np.nan), (0, 1)).tolist(),
        "width": mean_width,
        "static": mean_width / float(np.mean(static)),
        "score": float(np.nanmean(average(width + 2 / (1 - coverage) * outside, 0))),
        "worst": worst(inside.sum(axis=(1, 2)), issued.sum(axis=(1, 2))),
        "worst_horizon": min(worst(inside[:, h].sum(axis=1), issued[:, h].sum(axis=1)) for h in range(inside.shape[1])),
    }


def worst(inside: NDArray[np.int64], issued: NDArray[np.int64]) -> float:
    """Lowest coverage of `WORST` consecutive steps, whose intervals that held and that were issued are counted [n]."""
    sums = [np.concatenate([[0], np.cumsum(counts)]) for counts in (inside, issued)]
    span = min(WORST, len(inside))
    held, all_of_them = (total[span:] - total[:-span] for total in sums)
    return float((held / np.maximum(all_of_them, 1))[all_of_them > 0].min())


def mean_over(records: list[Record], *path: str) -> float:
    """Of a score over seeds, and over channels where it has them."""
    return float(np.mean(spread_over(records, *path)))


def spread_over(records: list[Record], *path: str) -> Floats:
    """A score by seed; a channel without a value that is scored has none."""
    found = []
    for record in records:
        value: Any = record
        for key in path:
            value = value[key]
        found.append(np.nanmean(value))
    return np.array(found)


def error_table(groups: dict[tuple[str, int], list[Record]], measure: str) -> Iterator[str]:
    """Mean errors of all forecasters."""
    names = ("persistence", "seasonal", "mean", "single", "portfolio")
    yield f"| {measure.upper()} | H | {' | '.join(names)} | ± | ÷ persistence |"
    yield "|---|---|" + "---|" * (len(names) + 2)
    for (name, horizon), records in groups.items():
        cells = [f"{mean_over(records, n, measure):.4f}" if n in records[0] else "" for n in names]
        deviation = spread_over(records, "portfolio", measure).std()
        ratio = mean_over(records, "portfolio", measure) / mean_over(records, "persistence", measure)
        yield f"| {name} | {horizon} | {' | '.join(cells)} | {deviation:.4f} | {ratio:.3f} |"


def interval_table(groups: dict[tuple[str, int], list[Record]]) -> Iterator[str]:
    """Of the portfolio's intervals, and its worst horizon."""
    yield (
        "| intervals at 0.9 | H | coverage | width | ÷ static | interval score | worst 500 | … of one horizon "
        "| worst horizon's MSE ÷ persistence |"
    )
    yield "|---|---|" + "---|" * 7
    for (name, horizon), records in groups.items():
        keys = ("coverage", "width", "static", "score", "worst", "worst_horizon")
        cells = [f"{mean_over(records, 'intervals', key):.3f}" for key in keys]
        own, naive = (
            np.mean([r[who]["mse_by_horizon"] for r in records], axis=0) for who in ("portfolio", "persistence")
        )
        yield f"| {name} | {horizon} | {' | '.join(cells)} | {(own / naive).max():.3f} |"


def channel_table(groups: dict[tuple[str, int], list[Record]]) -> Iterator[str]:
    """Channel by channel, of streams that have several."""
    yield "| channel | H | persistence MSE | portfolio MSE | ÷ | coverage |"
    yield "|---|---|---|---|---|---|"
    for (name, horizon), records in groups.items():
        naive, own = (np.mean([r[who]["mse"] for r in records], axis=0) for who in ("persistence", "portfolio"))
        covered = np.mean([r["intervals"]["coverage_by_channel"] for r in records], axis=0)
        for k in np.flatnonzero(~np.isnan(own)).tolist() if len(own) > 1 else []:
            cells = f"{naive[k]:.4f} | {own[k]:.4f} | {own[k] / naive[k]:.3f} | {covered[k]:.3f}"
            yield f"| {name} {k} | {horizon} | {cells} |"


def kept(path: Path | None, backend: str) -> list[Record]:
    """What the backend has in the file of earlier results."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    return [record for record in map(json.loads, lines) if record["backend"] == backend]


def known_streams(arguments: argparse.Namespace) -> list[Stream]:
    """Those of the data sets that were named, and of formulas."""
    codes = {name: float(code) for name, _, code in (text.partition("=") for text in arguments.missing)}
    found = []
    if arguments.data is not None:
        paths = sorted(arguments.data.glob("*.csv"))
        found += [data_set(path, codes.get(path.stem), arguments.times) for path in paths]
    return found + formula_streams()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of CSV files (without it: formula streams only)")
    parser.add_argument("--only", nargs="+", default=[], help="names of streams (default: all)")
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 24])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--channels", action="store_true", help="print a table by channel, too")
    parser.add_argument(
        "--missing", nargs="+", default=[], metavar="FILE=CODE", help="code of missing values in a file"
    )
    parser.add_argument("--times", action="store_true", help="events carry the times of the file")
    parser.add_argument("--keep", type=Path, help="file of results: what is in it is not run again")
    parser.add_argument("--backend", default="auto", help="where sessions compute (default auto)")
    arguments = parser.parse_args()
    known = known_streams(arguments)
    names = [stream.name for stream in known]
    if unknown := [name for name in arguments.only if name not in names]:
        parser.error(f"--only {', '.join(unknown)}; known: {', '.join(names)}")
    groups: dict[tuple[str, int], list[Record]] = {}
    backend = backend_called(arguments.backend).name
    for record in kept(arguments.keep, backend):
        groups.setdefault((record["stream"], record["horizon"]), []).append(record)
    shown = {}
    for stream in (stream for stream in known if not arguments.only or stream.name in arguments.only):
        for horizon in arguments.horizons:
            key = stream.name, horizon
            if len(groups.get(key, [])) < arguments.seeds:
                began = time.perf_counter()
                groups[key] = run(stream, horizon, arguments.seeds, backend)
                print(f"{stream.name}, horizon {horizon}: {time.perf_counter() - began:.0f} s", flush=True)
                if arguments.keep is not None:
                    with arguments.keep.open("a") as file:
                        file.writelines(json.dumps(record) + "\n" for record in groups[key])
            shown[key] = groups[key][: arguments.seeds]
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}"
    print(f"\n{versions}, {backend}; {arguments.seeds} seeds\n")
    tables = [error_table(shown, "mse"), error_table(shown, "mae"), interval_table(shown)]
    for table in [*tables, *([channel_table(shown)] if arguments.channels else [])]:
        print("\n".join(table), end="\n\n")


if __name__ == "__main__":
    main()
