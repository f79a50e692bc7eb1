"""What a run needs before its first row, and how it is put away afterwards: a server, a session, a scorer."""

from __future__ import annotations

import argparse
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from bptt_client import BpttError, Client, Session, SessionHandle
from bptt_client.cli import grid
from bptt_client.cli.local_server import local_server
from bptt_client.cli.plan import Plan
from bptt_client.cli.running import known_labels
from bptt_client.cli.scoring import NumberScorer, Scorer, Span, standard_deviations
from bptt_client.cli.symbol_scoring import SymbolScorer


@contextmanager
def server_for(target: str | None) -> Iterator[str]:
    """The address of a server: the one named, or one that is started, and stopped afterwards."""
    if target is not None:
        yield target
        return
    with local_server() as server:
        yield server.target


@contextmanager
def fresh_session(client: Client, arguments: argparse.Namespace, planned: Plan) -> Iterator[SessionHandle]:
    """A session of the plan under a name of its own, deleted afterwards."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", arguments.file.stem)[:64]
    session_id = f"replay-{stem}-{secrets.token_hex(4)}"
    tags = {"file": arguments.file.name[:256]}
    with deleted_afterwards(client.create_session(session_id, tags=tags, **planned.configuration)) as handle:
        yield handle


@contextmanager
def deleted_afterwards(handle: SessionHandle) -> Iterator[SessionHandle]:
    """The session, which is gone when the block is left in whatever way."""
    try:
        yield handle
    except BaseException:
        with suppress(BpttError):  # what went wrong first is what the user should read
            handle.delete()
        raise
    handle.delete()


def scorer_for(arguments: argparse.Namespace, planned: Plan, session: Session) -> Scorer:
    """What scores the forecasts of the session on the rows of the plan."""
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
    scale = standard_deviations(truth, arguments.fit_rows)
    return NumberScorer(truth, session.horizon, session.config["coverage"], scale, span, steps, known)


def compare_with_season(scorer: Scorer, session: Session) -> None:
    """Scores the seasonal forecast, too, by the longest season that the session has in the end; if it has one."""
    in_force = [season for season in session.seasons if season]
    season = max(in_force, default=0) or next(iter(session.config.get("seasons", ())), 0)
    if season and isinstance(scorer, NumberScorer):
        scorer.compare_with_season(season)
