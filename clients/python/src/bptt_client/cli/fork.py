"""`bptt fork`: a challenger with another configuration beside a champion on the same rows, and who of the two wins.

The champion is a session that exists, or a fresh one with the default configuration. Where only its learning changes
the challenger is a fork of it; otherwise it is a new session with the settings laid over the champion's configuration.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console

from bptt_client import Client, Session, SessionHandle, config
from bptt_client.cli import duel, report
from bptt_client.cli.outputs import check_writable
from bptt_client.cli.plan import Plan, plan
from bptt_client.cli.prepare import compare_with_season, deleted_afterwards, fresh_session, scorer_for, server_for
from bptt_client.cli.problems import Problem
from bptt_client.cli.progress import progress
from bptt_client.cli.running import Run, Source, stream_in_turn
from bptt_client.cli.settings import settings

# What both must have in common, or there would be nothing to compare.
COMMON: Final = (
    "features", "targets", "horizon", "labels", "task", "categories", "label_age", "coverage", "period_ns",
)  # fmt: skip
_FROM_CHAMPION: Final = {"features": "all", "targets": "all", "labels": None, "horizon": 1}  # and their defaults


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be different in the challenger; `learning` None: nothing was said of it."""

    configuration: Mapping[str, Any]
    learning: bool | None

    def changes(self, champion: Session) -> dict[str, Any] | None:
        """What a fork of the champion would have to change; None if a fork cannot."""
        learner = dict(self.configuration.get("learner", {}))
        made = {} if self.learning is None else {"learning": self.learning}
        if "learning_rate" in learner and len(champion.learners) == 1:
            made["learning_rate"] = learner.pop("learning_rate")
        return None if learner or self.configuration.keys() - {"learner"} else made


def run(arguments: argparse.Namespace) -> None:
    """Runs the command. Raises Problem for what the user can put right."""
    wanted = _wanted(arguments.challenger)
    check_writable(arguments.report)
    _check_flags(arguments)
    err = Console(stderr=True, highlight=False)
    if arguments.session is None:
        planned = _told(plan(arguments), err)
        with (
            server_for(arguments.server) as target,
            Client(target) as client,
            fresh_session(client, arguments, planned) as champion,
        ):
            _compete(arguments, planned, client, champion, wanted, err)
        return
    with Client(arguments.server) as client:
        champion = client.session(arguments.session)
        planned = _told(_plan_of(client.get_session(arguments.session), arguments), err)
        _compete(arguments, planned, client, champion, wanted, err)


def _wanted(texts: list[str]) -> Wanted:
    if not texts:
        raise Problem("--set is missing; allowed: at least one setting of the challenger")
    learning = None
    for text in [text for text in texts if text.startswith("learning=")]:
        value = text.partition("=")[2]
        if value not in config.SWITCH:
            raise Problem(f"--set learning is {value!r}; allowed: {', '.join(config.SWITCH)}")
        learning = config.SWITCH[value]
    given = settings([text for text in texts if not text.startswith("learning=")])
    for name in given.keys() & COMMON:
        raise Problem(f"--set {name}; allowed: settings of how the challenger learns, as both predict the same")
    return Wanted(given, learning)


def _check_flags(arguments: argparse.Namespace) -> None:
    if arguments.session is None:
        if arguments.keep and arguments.server is None:
            raise Problem("--keep without --server; allowed: both, as the server of this run ends with it")
        return
    if arguments.server is None:
        raise Problem("--session without --server; allowed: both, or neither")
    for name, default in _FROM_CHAMPION.items():
        if getattr(arguments, name) != default:
            raise Problem(f"--{name} with --session; allowed: without, as the champion's configuration says it")


def _plan_of(champion: Session, arguments: argparse.Namespace) -> Plan:
    """The plan for rows as a session that exists wants them."""
    own = {
        "features": ",".join(champion.features),
        "targets": "all" if champion.labels else ",".join(champion.targets),
        "labels": ",".join(champion.labels) or None,
        "horizon": champion.horizon,
    }
    given = {name: champion.config[name] for name in ("task", "categories") if name in champion.config}
    return plan(argparse.Namespace(**{**vars(arguments), **own}), given)


def _told(planned: Plan, err: Console) -> Plan:
    for note in planned.series.notes:
        err.print(f"note: {note}", style="yellow", markup=False)
    return planned


def _compete(
    arguments: argparse.Namespace, planned: Plan, client: Client, champion: SessionHandle, wanted: Wanted, err: Console
) -> None:
    before, series = champion.refresh(), planned.series
    with _challenger(arguments, planned, client, before, wanted) as (challenger, head_start):
        if head_start:
            words = f"the champion has {head_start:,} events behind it, the challenger begins with the first row"
            err.print(f"note: {words}", style="yellow", soft_wrap=True)
        sides = (champion, challenger)
        scorers = [scorer_for(arguments, planned, side.refresh()) for side in sides]
        runs = [Run.empty(scorer, len(series), len(champion.targets)) for scorer in scorers]
        source = Source(series.values, series.times_ns, series.label_values, planned.label_delay)
        pairs = list(zip(sides, runs, strict=True))
        with progress(err, arguments.file.name, len(series), planned.start, *scorers) as told:
            stream_in_turn(pairs, source, start=planned.start, batch=planned.batch, rate=arguments.rate, progress=told)
        after = [side.refresh() for side in sides]
    for scorer in scorers:
        compare_with_season(scorer, after[0])
    mixed = arguments.fit_rows is None and planned.task != "classify" and len(champion.targets) > 1
    made = duel.Duel((runs[0], runs[1]), (after[0], after[1]), mixed)
    result = {"settings": arguments.challenger, "head_start": head_start, **made.as_json()}
    made.show(Console(highlight=False), result, arguments.file.name)
    if arguments.keep:
        err.print(f"the challenger is kept: {challenger.session_id}", soft_wrap=True, markup=False)
    if arguments.report is not None:
        report.write(arguments.report, result)
        err.print(f"report written to {arguments.report}", soft_wrap=True)


@contextmanager
def _challenger(
    arguments: argparse.Namespace, planned: Plan, client: Client, champion: Session, wanted: Wanted
) -> Iterator[tuple[SessionHandle, int]]:
    """The challenger, and how many events more than it the champion has had."""
    name = f"{champion.session_id[:100]}-challenger-{secrets.token_hex(4)}"
    tags = {"champion": champion.session_id}
    changes = wanted.changes(champion)
    if changes is not None:
        uid = champion.uid
        made, head_start = client.fork_session(champion.session_id, name, session_uid=uid, tags=tags, **changes), 0
    else:
        base = planned.configuration if arguments.session is None else {**champion.config}
        if champion.period_ns is not None:
            base["period_ns"] = champion.period_ns  # both must see the same steps
        configuration = laid_over(base, wanted.configuration)
        made = client.create_session(name, tags=tags, learning=wanted.learning, **configuration)
        head_start = champion.last_sequence
    with nullcontext() if arguments.keep else deleted_afterwards(made):
        yield made, head_start


def laid_over(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration `given` on top of `base`, of which what does not go with it is left out: one learner or
    several, with the seasonality that several have, seasons that are given or found.
    """
    left_out = {"learner": {"learners"}, "learners": {"learner"}, "seasons": {"seasonality"}}
    without = set[str]().union(*(names for name, names in left_out.items() if name in given))
    if "learner" in given and "learners" in base:
        without.add("seasonality")  # a single learner has the default of its own
    if given.get("seasonality") == "found":
        without.add("seasons")
    return config.merged({name: value for name, value in base.items() if name not in without}, [given])
