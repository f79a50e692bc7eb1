"""`bptt sessions` and `bptt watch`: what is there, and what happens to it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bptt_client import Client, Reply, Session, SessionNotFound, TargetForecast
from bptt_client.cli.problems import Problem

COLUMNS: Final = (
    "session", "events", "updates", "features", "targets", "horizon", "learning", "learners", "drifts", "skill", "tags",
)  # fmt: skip
_NUMBERS: Final = ("events", "updates", "horizon", "drifts", "skill")
_WIDEST: Final = 100_000  # characters


def run_sessions(arguments: argparse.Namespace) -> None:
    """Lists sessions as a table, as lines for other programs, or as one JSON object per line."""
    tags = _tags(arguments.tag)
    with Client(arguments.server) as client:
        found = list(_with_scores(client, tags) if arguments.scores else client.list_sessions(tags=tags))
    if arguments.json:
        for session in found:
            print(json.dumps(_finite(dataclasses.asdict(session)), default=str))
        return
    if not found:
        print(f"no sessions at {arguments.server}" + (f" with {tags}" if tags else ""), file=sys.stderr)
        return
    show(Console(highlight=False), [_row(session) for session in found])


def _with_scores(client: Client, tags: dict[str, str]) -> Iterator[Session]:
    for session in client.list_sessions(tags=tags):
        with suppress(SessionNotFound):  # deleted since it was listed
            yield client.get_session(session.session_id)


def show(console: Console, rows: list[list[str]]) -> None:
    """A table on a terminal; elsewhere a line per row, tabs between columns. Nothing is cut off: a narrow terminal
    breaks the lines.
    """
    if not console.is_terminal:
        for row in rows:
            console.file.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
        return
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.width = _WIDEST
    console.print(table, soft_wrap=True)


def run_watch(arguments: argparse.Namespace) -> None:
    """Prints outcomes as they are acknowledged, one line each, until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        _watch(arguments)


def _watch(arguments: argparse.Namespace) -> None:
    console, dropped, shown = Console(highlight=False), 0, 0
    with Client(arguments.server) as client, client.session(arguments.session).watch() as watch:
        for reply in watch:
            lost = watch.dropped_events - dropped
            if lost and not arguments.json:
                console.print(f"({lost:,} outcomes came too fast and were left out)", style="dim")
            dropped = watch.dropped_events
            if arguments.json:
                print(json.dumps(_finite(dataclasses.asdict(reply))), flush=True)
            else:
                if not shown and watch.session is not None:
                    print(_state(watch.session), file=sys.stderr)
                labelled = watch.session is not None and bool(watch.session.labels)
                console.print(_line(reply, "label" if labelled else "next"), soft_wrap=True, markup=False)
            shown += 1
            if shown == arguments.count:
                return


def _tags(pairs: list[str]) -> dict[str, str]:
    tags = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Problem(f"--tag {pair!r}; allowed: KEY=VALUE")
        tags[key] = value
    return tags


def _row(session: Session) -> list[str]:
    task = session.config.get("task", "forecast")
    return [
        session.session_id,
        f"{session.last_sequence:,}",
        f"{session.updates.applied:,}",
        _few(session.features),
        _few(session.targets) + ("" if task == "forecast" else f" ({task})"),
        str(session.horizon),
        "on" if session.learning else "off",
        _networks(session),
        f"{session.drifts:,}",
        _skill(session),
        " ".join(f"{key}={value}" for key, value in session.tags.items()),
    ]


def _networks(session: Session) -> str:
    counts = Counter(map(_network, session.learners))
    return ", ".join(words if count == 1 else f"{count} of {words}" for words, count in counts.items())


def _network(learner: Mapping[str, Any]) -> str:
    layers = learner.get("layers", 1)
    return f"{learner['cell']} {learner['hidden']}" + (f" × {layers}" if layers > 1 else "")


def _skill(session: Session) -> str:
    """The mean skill over horizons and targets; "-": not known, or none."""
    pairs = session.scores.skill if session.scores is not None else None
    known = [skill for row in pairs or () for skill in row if math.isfinite(skill)]
    return f"{100.0 * sum(known) / len(known):.1f} %" if known else "-"


def _state(session: Session) -> str:
    """How a session that is watched has done so far."""
    seasons = ", ".join(f"{season:,}" for season in session.seasons if season)
    return (
        f"{session.session_id} at event {session.last_sequence:,}: skill {_skill(session)}, drifts {session.drifts:,}, "
        f"resets of learners {session.updates.resets:,}, seasons {seasons or 'none'}"
    )


def _few(names: tuple[str, ...], most: int = 4) -> str:
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])}, … ({len(names)})"


def _line(reply: Reply, what: str) -> str:
    """One outcome; `what` it speaks of: what comes next, or the event's own label."""
    ahead = [f"{name} {_soonest(reply.forecast[name])}" for name in reply.forecast.targets]
    odd = "".join(f"  {words}" for words in _odd(reply))
    return f"{reply.sequence:>8}  {what}: {', '.join(ahead)}{_update(reply)}{odd}"


def _odd(reply: Reply) -> Iterator[str]:
    """What is out of the ordinary about an event."""
    if reply.anomaly_score > 1.0:
        names = [name for name, score in reply.target_anomaly_score.items() if score > 1.0]
        yield f"anomaly {reply.anomaly_score:.2f} ({_few(tuple(names))})"
    for name, state in reply.sensor_states.items():
        if state != "ok":
            yield f"{name} {state}"
    if reply.drift:
        yield "drift"
    for reset in reply.learner_resets:
        yield f"learner {reset.learner} reset: {reset.reason}"


def _soonest(forecast: TargetForecast) -> str:
    if forecast.symbol and forecast.probabilities:
        return f"{forecast.symbol[0]!r} {100.0 * max(forecast.probabilities[0].values()):.0f} %"
    low, high = forecast.lower[0], forecast.upper[0]
    interval = f" [{low:.4g}..{high:.4g}]" if math.isfinite(low) else ""
    return f"{forecast.mean[0]:.4g}{interval}"


def _update(reply: Reply) -> str:
    if reply.update is None:
        return ""
    if not reply.update.applied:
        return f"  update skipped: {reply.update.result}"
    return f"  loss {reply.update.loss:.4g}  gradient {reply.update.gradient_norm:.3g}"


def _finite(value: Any) -> Any:
    """The same with null for what is not a finite number, as JSON wants it."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
