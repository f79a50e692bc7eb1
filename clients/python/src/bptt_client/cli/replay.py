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

import numpy as np
from rich.console import Console

from bptt_client import BpttError, Client, Session, SessionHandle, WarmStartResult
from bptt_client.cli import grid, report
from bptt_client.cli.local_server import local_server
from bptt_client.cli.outputs import check_writable
from bptt_client.cli.plan import Plan, plan
from bptt_client.cli.progress import progress
from bptt_client.cli.running import Run, Source, known_labels, stream_rows
from bptt_client.cli.scoring import NumberScorer, Scorer, Span, standard_deviations
from bptt_client.cli.symbol_scoring import SymbolScorer

WARM_START_TIMEOUT_S = 3600.0


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises Problem for what the user can put right."""
    planned = plan(arguments)
    _check_outputs(arguments.report, arguments.plot)
    err = Console(stderr=True, highlight=False)
    for note in planned.series.notes:
        err.print(f"note: {note}", style="yellow", markup=False)
    with (
        _server(arguments.server) as target,
        Client(target) as client,
        _session(client, arguments, planned) as (handle, session),
    ):
        _replay(arguments, planned, handle, session, err)


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
def _session(client: Client, arguments: argparse.Namespace, planned: Plan) -> Iterator[tuple[SessionHandle, Session]]:
    fresh = arguments.session is None
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", arguments.file.stem)[:64]
    session_id = f"replay-{stem}-{secrets.token_hex(4)}" if fresh else arguments.session
    tags = {"file": arguments.file.name[:256]} if fresh else None
    handle = client.create_session(session_id, tags=tags, **planned.configuration)
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
    arguments: argparse.Namespace, planned: Plan, handle: SessionHandle, session: Session, err: Console
) -> None:
    series, name = planned.series, arguments.file.name
    scorer = _scorer(arguments, planned, session)
    outcome = Run.empty(scorer, len(series), len(handle.targets))
    source = Source(series.values, series.times_ns, series.label_values, planned.label_delay)
    warmed = _warm_start(planned, handle, source, err) if planned.warm_rows else None
    with progress(err, name, len(series), planned.start, scorer) as told:
        stream_rows(
            handle, source, outcome, start=planned.start, batch=planned.batch, rate=arguments.rate, progress=told
        )
    result = report.as_json(outcome, handle.targets, handle.horizon, planned.task)
    if warmed is not None:
        loss = report.finite(warmed.loss)
        result["warm_start"] = {"rows": planned.warm_rows, "loss": loss, "applied": warmed.applied}
    fitted = None if arguments.fit_rows is None else f" over the first {arguments.fit_rows:,} rows"
    report.show(Console(highlight=False), result, scorer, name, fitted, planned.batch)
    if arguments.report is not None:
        report.write(arguments.report, result)
        err.print(f"report written to {arguments.report}", soft_wrap=True)
    if arguments.plot is not None:
        _draw(arguments, planned, session, outcome)
        err.print(f"picture written to {arguments.plot}", soft_wrap=True)


def _scorer(arguments: argparse.Namespace, planned: Plan, session: Session) -> Scorer:
    series, rows = planned.series, len(planned.series)
    truth = series.columns(session.targets)
    span = Span(arguments.score_from, rows if arguments.score_to is None else arguments.score_to)
    steps = known = None
    if session.labels:
        known = known_labels(rows, planned.start, planned.batch, planned.label_delay)
        known[planned.start :] = np.maximum(known[planned.start :], planned.warm_rows - 1)
    else:
        steps = grid.steps_of(series.times_ns, rows, session.period_ns or session.config.get("period_ns"))
    if planned.task == "classify":
        symbols = session.config.get("categories", {}).get(session.targets[0], ())
        return SymbolScorer(truth, session.horizon, len(symbols), span, steps, known)
    season = next(iter(session.config.get("seasons", ())), None)
    scale = standard_deviations(truth, arguments.fit_rows)
    return NumberScorer(truth, session.horizon, season, scale, span, steps, known)


def _warm_start(planned: Plan, handle: SessionHandle, source: Source, err: Console) -> WarmStartResult:
    rows = planned.warm_rows
    err.print(f"warm start: {rows:,} rows", soft_wrap=True)
    made = handle.warm_start(
        source.values[:rows].tolist(),
        timestamps=None if source.times_ns is None else source.times_ns[:rows],
        labels=source.label_rows(0, rows),
        passes=planned.warm_passes,
        timeout_s=WARM_START_TIMEOUT_S,
    )
    first, last = made.loss[0], made.loss[-1]
    words = f"loss {first:.4g} in the first pass, {last:.4g} in the last"
    err.print(f"warm start: {len(made.loss)} passes, {made.applied:,} updates, {words}", soft_wrap=True)
    return made


def _draw(arguments: argparse.Namespace, planned: Plan, session: Session, outcome: Run) -> None:
    from bptt_client.cli import plot

    series, learner = planned.series, session.config["learner"]
    view = plot.View(
        arguments.file.name,
        session.targets,
        series.columns(session.targets),
        None if series.times_ns is None else np.asarray(series.times_ns, dtype="datetime64[ns]"),
        outcome,
        float(learner["clip_norm"]) if learner["clip"] == "norm" else None,
        arguments.fit_rows is not None,
    )
    plot.draw(arguments.plot, view)
