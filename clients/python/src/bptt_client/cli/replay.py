"""`bptt replay`: a CSV file through a session, and an honest table at the end. Reads everything before it starts
anything.
"""

from __future__ import annotations

import argparse
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bptt_client import BpttError, Client, Session, SessionHandle, config
from bptt_client.cli import csvfile, grid, report
from bptt_client.cli.local_server import local_server
from bptt_client.cli.outputs import check_writable
from bptt_client.cli.problems import Problem
from bptt_client.cli.progress import progress
from bptt_client.cli.running import Run, stream_rows
from bptt_client.cli.scoring import Scorer, Span, standard_deviations


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises Problem for what the user can put right."""
    series = csvfile.read(arguments.file, arguments.features, arguments.time, arguments.time_format, arguments.missing)
    targets = csvfile.names_of(arguments.targets, arguments.file, series.features, "--targets")
    wanted = _configuration(arguments, series, targets)
    _check_rows(arguments, len(series))
    _check_outputs(arguments.report, arguments.plot)
    err = Console(stderr=True, highlight=False)
    for note in series.notes:
        err.print(f"note: {note}", style="yellow")
    with (
        _server(arguments.server) as target,
        Client(target) as client,
        _session(client, arguments, wanted) as (handle, session),
    ):
        _replay(arguments, series, handle, session, err)


def _configuration(arguments: argparse.Namespace, series: csvfile.Series, targets: list[str]) -> dict[str, Any]:
    base = {"features": list(series.features), "targets": targets, "horizon": arguments.horizon}
    try:
        settings = [config.setting(text) for text in arguments.settings]
        for entry in settings:
            for name in base.keys() & entry.keys():
                raise ValueError(f"{name} is set by --{name}; allowed with --set: every other setting")
        wanted = config.merged(base, settings)
        config.session_config(wanted)
    except (TypeError, ValueError) as error:
        raise Problem(f"--set {error}") from error
    return wanted


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


def _check_outputs(report: Path | None, picture: Path | None) -> None:
    if picture is not None:
        from bptt_client.cli import plot

        plot.check_format(picture)
    for path in (report, picture):
        check_writable(path)


@contextmanager
def _server(target: str | None) -> Iterator[str]:
    if target is not None:
        yield target
        return
    with local_server() as server:
        yield server.target


@contextmanager
def _session(
    client: Client, arguments: argparse.Namespace, wanted: dict[str, Any]
) -> Iterator[tuple[SessionHandle, Session]]:
    fresh = arguments.session is None
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", arguments.file.stem)[:64]
    session_id = f"replay-{stem}-{secrets.token_hex(4)}" if fresh else arguments.session
    handle = client.create_session(session_id, tags={"file": arguments.file.name[:256]} if fresh else None, **wanted)
    try:
        yield handle, client.get_session(session_id)
    except BaseException:
        if fresh:
            with suppress(BpttError):  # what went wrong first is what the user should read
                handle.delete()
        raise
    if fresh:
        handle.delete()


def _replay(
    arguments: argparse.Namespace,
    series: csvfile.Series,
    handle: SessionHandle,
    session: Session,
    err: Console,
) -> None:
    truth = series.columns(handle.targets)
    scale = standard_deviations(truth, arguments.fit_rows)
    stop = len(series) if arguments.score_to is None else arguments.score_to
    season = next(iter(session.config.get("seasons", ())), None)
    period_ns = session.period_ns or session.config.get("period_ns")
    steps = grid.steps_of(series.times_ns, len(series), period_ns)
    scorer = Scorer(truth, handle.horizon, season, scale, Span(arguments.score_from, stop), steps)
    outcome = Run.empty(scorer, len(series), len(handle.targets))
    with progress(err, arguments.file.name, len(series), arguments.start, scorer) as told:
        stream_rows(
            handle,
            series.values,
            series.times_ns,
            outcome,
            start=arguments.start,
            batch=arguments.batch,
            rate=arguments.rate,
            progress=told,
        )
    result = report.as_json(outcome, handle.targets, handle.horizon)
    fitted = None if arguments.fit_rows is None else f" over the first {arguments.fit_rows:,} rows"
    report.show(Console(highlight=False), result, scorer, arguments.file.name, fitted, arguments.batch)
    if arguments.report is not None:
        report.write(arguments.report, result)
        err.print(f"report written to {arguments.report}", soft_wrap=True)
    if arguments.plot is not None:
        from bptt_client.cli import plot

        clip = float(session.config["learner"]["clip_norm"])
        x = None if series.times_ns is None else np.asarray(series.times_ns, dtype="datetime64[ns]")
        view = plot.View(arguments.file.name, handle.targets, truth, x, outcome, clip, arguments.fit_rows is not None)
        plot.draw(arguments.plot, view)
        err.print(f"picture written to {arguments.plot}", soft_wrap=True)
