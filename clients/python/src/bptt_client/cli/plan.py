"""What a replay is to do, found out from flags and file before anything is started: columns, session, rows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bptt_client import calls, config
from bptt_client.cli import csvfile
from bptt_client.cli.problems import Problem
from bptt_client.cli.running import batch_at
from bptt_client.cli.settings import settings, symbols

_FLAGS = ("features", "targets", "horizon", "labels")


@dataclass(frozen=True, slots=True)
class Plan:
    """A series, the configuration of the session for it, and how its rows are sent: those before `start` are not
    streamed (with `warm_rows` they are the history of a warm start), the others `batch` at a time.
    """

    series: csvfile.Series
    configuration: dict[str, Any]
    start: int
    batch: int
    label_delay: int
    warm_rows: int
    warm_passes: int | None

    @property
    def task(self) -> str:
        """The session's task."""
        return str(self.configuration.get("task", "forecast"))


def plan(arguments: argparse.Namespace, given: Mapping[str, Any] | None = None) -> Plan:
    """Reads the file and the flags; `given` takes the place of the settings among them. Raises Problem."""
    given = settings(arguments.settings, _FLAGS) if given is None else given
    wanted = csvfile.Wanted(arguments.features, arguments.labels, arguments.categorical, symbols(given))
    series = csvfile.read(arguments.file, wanted, arguments.time, arguments.time_format, arguments.missing)
    delay, warm_rows = arguments.label_delay or 0, arguments.warm_rows or 0
    _check_rows(arguments, len(series))
    _check_flags(arguments)
    batch = arguments.batch or (1 if delay else calls.DEFAULT_BATCH)
    made = Plan(
        series=series,
        configuration=_configuration(arguments, series, given, delay + batch - 1 if delay else None),
        start=warm_rows or arguments.start,
        batch=batch_at(arguments.rate, batch),
        label_delay=delay,
        warm_rows=warm_rows,
        warm_passes=arguments.warm_passes,
    )
    if made.task == "classify":
        for flag, value in (("--fit-rows", arguments.fit_rows), ("--plot", arguments.plot)):
            if value is not None:
                raise Problem(f"{flag} with task classify; allowed: without, as symbols are no quantities")
    return made


def _configuration(
    arguments: argparse.Namespace, series: csvfile.Series, given: Mapping[str, Any], label_age: int | None
) -> dict[str, Any]:
    """The configuration that is asked for; `label_age` is what the delay of the labels needs."""
    numeric = [name for name in series.features if name not in series.symbols]
    categorical = [name for name in series.features if name in series.symbols]
    if series.labels:
        targets = list(series.labels)
    elif arguments.targets == "all":
        symbolic = given.get("task") == "classify" or not numeric
        targets = categorical if symbolic and categorical else numeric
    else:
        targets = csvfile.names_of(arguments.targets, arguments.file, series.features, "--targets")
    base: dict[str, Any] = {"features": list(series.features)}
    base["labels" if series.labels else "targets"] = targets
    base["horizon"] = arguments.horizon
    if any(name in series.symbols for name in targets):
        base["task"] = "classify"
    elif series.labels:
        base["task"] = "regress"
    if series.symbols:
        base["categories"] = {name: list(own) for name, own in series.symbols.items()}
    if label_age is not None:
        base["label_age"] = label_age
    return config.merged(base, [given])


def _check_rows(arguments: argparse.Namespace, rows: int) -> None:
    stop = rows if arguments.score_to is None else arguments.score_to
    if not arguments.score_from < stop <= rows:
        raise Problem(
            f"--score-from {arguments.score_from} --score-to {stop}; allowed: 0 ≤ from < to ≤ {rows}, the rows"
        )
    if arguments.fit_rows is not None and arguments.fit_rows > rows:
        raise Problem(f"--fit-rows {arguments.fit_rows}; allowed: at most {rows}, the rows of the file")
    if arguments.start >= rows:
        raise Problem(f"--start {arguments.start}; allowed: 0..{rows - 1}")
    if arguments.warm_rows is not None and arguments.warm_rows >= rows:
        raise Problem(f"--warm-rows {arguments.warm_rows}; allowed: 2..{rows - 1}, fewer than the rows of the file")


def _check_flags(arguments: argparse.Namespace) -> None:
    """Flags that exclude or need one another."""
    excluded = [
        ("--targets", arguments.targets != "all", "--labels", arguments.labels is not None),
        ("--start", arguments.start > 0, "--warm-rows", arguments.warm_rows is not None),
    ]
    for one, has_one, other, has_other in excluded:
        if has_one and has_other:
            raise Problem(f"{one} with {other}; allowed: one of them")
    needed = [
        ("--label-delay", arguments.label_delay is not None, "--labels", arguments.labels is not None),
        ("--warm-passes", arguments.warm_passes is not None, "--warm-rows", arguments.warm_rows is not None),
    ]
    for one, has_one, other, has_other in needed:
        if has_one and not has_other:
            raise Problem(f"{one} without {other}; allowed: both, or neither")
