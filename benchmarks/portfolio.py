"""Why the default portfolio is what it is: each of its choices against another one, on several streams at once.

    python benchmarks/portfolio.py [DATA_DIR] [--only ETTh2 "random walk"] [--variants "hidden 32"] [--horizons 1 24]
        [--seeds 3] [--rows 6000] [--missing AirQualityUCI=-200] [--keep FILE] [--backend numpy]

Streams, units and scored rows are those of `accuracy.py`. The table has a row for each variant of the portfolio and a
column for each stream and horizon: mean squared error ÷ that of the best naive forecaster there (persistence, seasonal
or mean), means over seeds. Then the geometric mean of the row, no ratio counting as less than a tenth, so that a stream
that is easily forecast does not decide; and the time per event of a session stepped alone ÷ the default's. Every
variant keeps the naive experts. A row that is better everywhere would be a better default. With --keep, results are
kept in FILE line by line, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import streams
from accuracy import Record, Stream, backend_called, forecast, go_on, kept, known_streams, mean_over, scored

from bptt_core import LearnerConfig, SessionConfig

Learners = tuple[LearnerConfig, ...]
Key = tuple[str, int, int, int, str]

DEFAULT: Final = "default"
NAIVE: Final = ("persistence", "seasonal", "mean")
LEAST_RATIO: Final = 0.1
TIMED_EVENTS: Final = 64  # of a round
TIMED_ROUNDS: Final = 16


def variants(horizon: int) -> dict[str, Learners]:
    """The learners of each row of the table, by its name; a learner left out has its position in the portfolio."""
    default = SessionConfig(("c0",), horizon=horizon).validated().learners
    window = max(64, 2 * horizon)  # 64 could not hold the targets of every horizon
    return {
        DEFAULT: default,
        **{f"without learner {k}": default[:k] + default[k + 1 :] for k in range(len(default))},
        "only learners 0 to 2": default[:3],
        "all anchored to the last value": tuple(replace(one, anchor="last_value") for one in default),
        "every learner twice": default + tuple(replace(one, seed=one.seed + len(default)) for one in default),
        "hidden 32": tuple(replace(one, hidden=32) for one in default),
        "window 64": tuple(longer(one, window) for one in default),
        "input_init glorot": tuple(replace(one, input_init="glorot") for one in default),
        "almost naive": (LearnerConfig(hidden=1, learning_rate=1e-8),),
    }


def longer(learner: LearnerConfig, window: int) -> LearnerConfig:
    """The learner with another window; a loss over all of it stays one."""
    whole = learner.loss_span == learner.window
    return replace(learner, window=window, loss_span=window if whole else learner.loss_span)


def run(alike: list[Stream], horizon: int, names: list[str], seeds: range, backend: str) -> Iterator[Record]:
    """Streams of one length and width to each variant for each seed, all side by side; one record for each."""
    known = variants(horizon)
    cases = [(stream, stream.draw(seed)[: stream.stop], seed) for stream in alike for seed in seeds]
    features = tuple(f"c{k}" for k in range(cases[0][1].shape[1]))
    configs, tables = [], []
    for _, table, seed in cases:
        for name in names:
            learners = tuple(replace(one, seed=one.seed + 100 * seed) for one in known[name])
            configs.append(SessionConfig(features, horizon=horizon, learners=learners))
            tables.append(table)
    times = [stream.times for stream, *_ in cases for _ in names]
    *_, outcomes = forecast(tables, configs, times, backend)
    found = iter(np.stack([o.mean, o.lower, o.upper]) for o in outcomes)
    for stream, table, seed in cases:
        key = {"stream": stream.name, "horizon": horizon, "rows": stream.stop, "seed": seed, "backend": backend}
        for name in names:
            own = next(found)
            scores = scored(stream, table, own, own)  # there is nothing beside it but the naive forecasters
            yield key | {"variant": name} | {who: scores[who] for who in (*NAIVE, "portfolio") if who in scores}


def together(chosen: list[Stream]) -> list[list[Stream]]:
    """The streams in lists of those that can be stepped side by side: of one length and one width."""
    lists: dict[tuple[int, int], list[Stream]] = {}
    for stream in chosen:
        lists.setdefault((stream.stop, stream.draw(0).shape[1]), []).append(stream)
    return list(lists.values())


def cut(stream: Stream, rows: int) -> Stream:
    """The stream's first rows."""
    if rows <= stream.start + 1:
        raise SystemExit(f"{stream.name} is scored from row {stream.start} on: more than {rows} rows are needed")
    return replace(stream, stop=min(stream.stop, rows), times=None if stream.times is None else stream.times[:rows])


def seconds_per_event(horizon: int, names: list[str], backend: str) -> dict[str, float]:
    """Of a session stepped alone on white noise, by variant: the least of rounds, in which the variants take turns."""
    rounds: dict[str, list[float]] = {name: [] for name in names}
    table = streams.white_noise(0, TIMED_EVENTS)
    known = variants(horizon)
    sessions = {
        name: forecast([table], [SessionConfig(("c0",), horizon=horizon, learners=known[name])], None, backend)[:2]
        for name in names
    }
    for _ in range(TIMED_ROUNDS):
        for name, (fold, slots) in sessions.items():
            began = time.perf_counter()
            go_on(fold, slots, [table])
            rounds[name].append((time.perf_counter() - began) / TIMED_EVENTS)
    return {name: min(times) for name, times in rounds.items()}


def ratio(records: list[Record]) -> float:
    """Mean squared error ÷ that of the best naive forecaster, means over seeds."""
    naive = min(mean_over(records, who, "mse") for who in NAIVE if who in records[0])
    return mean_over(records, "portfolio", "mse") / naive


def lines(
    records: list[Record], columns: list[tuple[str, int]], names: list[str], cost: dict[str, float]
) -> Iterator[str]:
    """The table."""
    heads = " | ".join(f"{stream} H={horizon}" for stream, horizon in columns)
    yield f"| MSE ÷ best naive | {heads} | geometric mean | time |"
    yield "|---|" + "---|" * (len(columns) + 2)
    for name in names:
        mine = [r for r in records if r["variant"] == name]
        ratios = [ratio([r for r in mine if (r["stream"], r["horizon"]) == column]) for column in columns]
        mean = np.exp(np.log(np.maximum(ratios, LEAST_RATIO)).mean())
        cells = " | ".join(f"{value:.3f}" for value in ratios)
        yield f"| {name} | {cells} | {mean:.3f} | {cost[name] / cost[DEFAULT]:.2f} |"


def measured(chosen: list[Stream], arguments: argparse.Namespace) -> list[Record]:
    """A record for each stream, horizon, variant and seed: the kept ones, and those that were missing."""
    found = {key_of(record): record for record in kept(arguments.keep, arguments.backend)}
    asked = []
    for alike in together(chosen):
        for horizon in arguments.horizons:
            keys = {
                name: [(stream.name, horizon, stream.stop, seed, name) for stream in alike for seed in arguments.seeds]
                for name in arguments.variants
            }
            asked += [key for own in keys.values() for key in own]
            names = [name for name, own in keys.items() if any(key not in found for key in own)]
            if not names:
                continue
            began = time.perf_counter()
            new = list(run(alike, horizon, names, arguments.seeds, arguments.backend))
            who = ", ".join(stream.name for stream in alike)
            print(f"{who}, horizon {horizon}: {time.perf_counter() - began:.0f} s", flush=True)
            found |= {key_of(record): record for record in new}
            if arguments.keep is not None:
                with arguments.keep.open("a") as file:
                    file.writelines(json.dumps(record) + "\n" for record in new)
    return [found[key] for key in asked]


def key_of(record: Record) -> Key:
    """What a record is the result of."""
    return record["stream"], record["horizon"], record["rows"], record["seed"], record["variant"]


def main() -> None:
    names = list(variants(1))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of CSV files (without it: formula streams only)")
    parser.add_argument("--only", nargs="+", default=[], help="names of streams (default: all)")
    parser.add_argument("--variants", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 24])
    parser.add_argument("--seeds", type=int, default=3, help="starts of the learners, and draws (default 3)")
    parser.add_argument("--rows", type=int, help="most rows of a stream (default: all)")
    parser.add_argument(
        "--missing", nargs="+", default=[], metavar="FILE=CODE", help="code of missing values in a file"
    )
    parser.add_argument("--keep", type=Path, help="file of results: what is in it is not run again")
    parser.add_argument("--backend", default="auto", help="where sessions compute (default auto)")
    arguments = parser.parse_args()
    arguments.times, arguments.seeds = False, range(arguments.seeds)
    arguments.backend = backend_called(arguments.backend).name
    arguments.variants = [name for name in names if name == DEFAULT or name in arguments.variants]
    known = known_streams(arguments)
    if unknown := set(arguments.only) - {stream.name for stream in known}:
        parser.error(f"--only {', '.join(sorted(unknown))}; known: {', '.join(stream.name for stream in known)}")
    chosen = [stream for stream in known if not arguments.only or stream.name in arguments.only]
    if arguments.rows is not None:
        chosen = [cut(stream, arguments.rows) for stream in chosen]
    records = measured(chosen, arguments)
    columns = [(stream.name, horizon) for stream in chosen for horizon in arguments.horizons]
    cost = seconds_per_event(arguments.horizons[0], arguments.variants, arguments.backend)
    seeds = f"{len(arguments.seeds)} seed{'s' if len(arguments.seeds) > 1 else ''}"
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}"
    print(f"\n{versions}, {arguments.backend}; {seeds}\n")
    print("\n".join(lines(records, columns, arguments.variants, cost)))


if __name__ == "__main__":
    main()
