"""`bptt replay`: a CSV file through a session, and an honest table at the end. Reads everything before it starts
anything.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console

from bptt_client import Client, Session, SessionHandle, WarmStartResult
from bptt_client.cli import report
from bptt_client.cli.outputs import check_writable
from bptt_client.cli.plan import Plan, plan
from bptt_client.cli.prepare import compare_with_season, fresh_session, scorer_for, server_for
from bptt_client.cli.progress import progress
from bptt_client.cli.running import Run, Source, stream_rows

WARM_START_TIMEOUT_S = 3600.0


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises Problem for what the user can put right."""
    planned = plan(arguments)
    _check_outputs(arguments.report, arguments.plot)
    err = Console(stderr=True, highlight=False)
    for note in planned.series.notes:
        err.print(f"note: {note}", style="yellow", markup=False)
    with (
        server_for(arguments.server) as target,
        Client(target) as client,
        _session(client, arguments, planned) as handle,
    ):
        _replay(arguments, planned, handle, err)


def _check_outputs(report: Path | None, picture: Path | None) -> None:
    if picture is not None:
        from bptt_client.cli import plot

        plot.check_format(picture)
    for path in (report, picture):
        check_writable(path)


@contextmanager
def _session(client: Client, arguments: argparse.Namespace, planned: Plan) -> Iterator[SessionHandle]:
    if arguments.session is None:
        with fresh_session(client, arguments, planned) as handle:
            yield handle
    else:
        yield client.create_session(arguments.session, **planned.configuration)


def _replay(arguments: argparse.Namespace, planned: Plan, handle: SessionHandle, err: Console) -> None:
    series, name = planned.series, arguments.file.name
    scorer = scorer_for(arguments, planned, handle.refresh())
    outcome = Run.empty(scorer, len(series), len(handle.targets))
    source = Source(series.values, series.times_ns, series.label_values, planned.label_delay)
    warmed = _warm_start(planned, handle, source, err) if planned.warm_rows else None
    with progress(err, name, len(series), planned.start, scorer) as told:
        stream_rows(
            handle, source, outcome, start=planned.start, batch=planned.batch, rate=arguments.rate, progress=told
        )
    session = handle.refresh()
    compare_with_season(scorer, session)
    result = report.as_json(outcome, session)
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

    series = planned.series
    view = plot.View(
        arguments.file.name,
        session.targets,
        series.columns(session.targets),
        None if series.times_ns is None else np.asarray(series.times_ns, dtype="datetime64[ns]"),
        outcome,
        plot.clip_norm(session),
        arguments.fit_rows is not None,
    )
    plot.draw(arguments.plot, view)
