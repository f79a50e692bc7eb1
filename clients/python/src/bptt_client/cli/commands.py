"""What can be asked of `bptt`, and what becomes of what goes wrong. The commands themselves are modules beside this
one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bptt_client import calls, errors
from bptt_client.cli import demo, files, fork, replay, sessions
from bptt_client.cli.problems import Problem

DEFAULT_SERVER = "localhost:50051"

_SETTINGS = (
    "Settings for --set are the fields of the session and its learner by name, e.g. --set hidden=64 --set cell=gru "
    "--set seasons=24 --set seasonality=off --set learning_rate=3e-3 (learner.hidden=64 means the same as hidden=64). "
    "A field of the learner makes a session with a single learner; several are a list as JSON: --set "
    '\'learners=[{"hidden": 16}, {"hidden": 32, "anchor": "season"}]\'. Lists are joined by commas: --set '
    "quantiles=0.1,0.5,0.9. Symbols of a channel: --set 'categories=state:idle|run|stop', or categories=digit:10 for 0 "
    "to 9."
)


def run(argv: Sequence[str] | None = None) -> int:
    """Parses and runs one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except Problem as problem:
        return _say(str(problem), 2)
    except errors.InvalidRequest as error:
        return _say(f"the server refused it: {error}", 2)
    except errors.BpttError as error:
        return _say(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, e.g. `| head`
        return 1
    except OSError as error:
        return _say(str(error), 1)
    return 0


def _say(text: str, code: int) -> int:
    print(f"bptt: {text}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bptt",
        description="Streams that learn: events to a bptt server, forecasts back, and how good they were.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _replay(commands)
    _fork(commands)
    _sessions(commands)
    _watch(commands)
    _export(commands)
    _import(commands)
    _demo(commands)
    return parser


def _replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "stream a CSV file through a server and say honestly how good the forecasts were"
    command = commands.add_parser("replay", help=text, description=text[0].upper() + text[1:] + ".", epilog=_SETTINGS)
    command.set_defaults(run=replay.run)
    add = command.add_argument
    add("--session", metavar="ID", help="session to use and keep (default: a fresh one, deleted afterwards)")
    add("--set", metavar="KEY=VALUE", action="append", default=[], dest="settings", help="session setting; see below")
    add(
        "--warm-rows",
        type=_AtLeast(2),
        metavar="N",
        help="train on the first N rows by full backpropagation before the others are streamed; they are not scored",
    )
    add("--warm-passes", type=_AtLeast(1), metavar="N", help="passes over those rows (default 10)")
    add("--plot", type=Path, metavar="OUT.png", help="draw forecast, error and gradient norm over time (of numbers)")
    _rows(command)


def _fork(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "stream a CSV file through a champion and a challenger with other settings, and say who forecasts better"
    command = commands.add_parser(
        "fork",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. The champion is a fresh session with the default configuration, or "
        "with --session one that exists, which then learns from the rows as from any others. Where the settings are "
        "only learning=on|off, or the learning_rate of a single learner, the challenger is a fork of the champion and "
        "knows all it knows; otherwise it is a new session with the settings on top of the champion's configuration. "
        "A field of the learner makes it a single network without other experts, as --set hidden=64 does.",
        epilog=_SETTINGS,
    )
    command.set_defaults(run=fork.run, settings=[], warm_rows=None, warm_passes=None, plot=None)
    add = command.add_argument
    add(
        "--session",
        metavar="ID",
        help="champion on --server; it is never deleted, but it DOES take the events, for good; features, targets, "
        "labels and horizon are its own (default: a fresh one, deleted afterwards)",
    )
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="challenger",
        help="setting of the challenger, at least one; see below",
    )
    add("--keep", action="store_true", help="keep the challenger on --server (default: it is deleted at the end)")
    _rows(command)


def _rows(command: argparse.ArgumentParser) -> None:
    """What is sent, how, and how it is scored."""
    add = command.add_argument
    add("file", type=Path, metavar="FILE.csv", help="comma-separated, one header line, one event per row, oldest first")
    add(
        "--server",
        metavar="HOST:PORT",
        help="server to use (default: one started for this run, in a temporary directory)",
    )
    add(
        "--time",
        metavar="COLUMN",
        help="column of times, UTC unless they name a zone (default: events are unit steps)",
    )
    add(
        "--time-format",
        metavar="FORMAT",
        help="strptime format of --time, one per file (default: ISO 8601 or year first, else month first: m/d/yy H:M)",
    )
    add(
        "--features",
        metavar="all|A,B",
        default="all",
        help="columns to send; all: every column but --time and --labels, those without a number left out unless a few "
        "texts come again and again in them (default all)",
    )
    add(
        "--targets",
        metavar="all|A,B",
        default="all",
        help="features to forecast; a column of text: its next symbol (default: all numeric ones)",
    )
    add(
        "--labels",
        metavar="A,B",
        help="columns to predict from the features of the same row before they are looked at: numbers, or one of text",
    )
    add(
        "--categorical",
        metavar="A,B",
        help="columns to read as text although they hold numbers (a column without a number is text anyway)",
    )
    add(
        "--label-delay",
        type=_AtLeast(0),
        metavar="N",
        help="send labels N rows after their row, one row at a time unless --batch says more (default: with the row)",
    )
    add("--horizon", type=_AtLeast(1), metavar="H", default=1, help="events ahead to forecast (default 1)")
    add("--fit-rows", type=_AtLeast(1), metavar="N", help="measure errors in standard deviations of the first N rows")
    add(
        "--score-from",
        type=_AtLeast(0),
        metavar="ROW",
        default=0,
        help="score forecasts of rows from here on (first: 0)",
    )
    add("--score-to", type=_AtLeast(0), metavar="ROW", help="and before here (default: the end)")
    add("--missing", metavar="CODE", action="append", default=[], help="a value that means missing; may be repeated")
    add("--start", type=_AtLeast(0), metavar="ROW", default=0, help="first row to send, to go on with a --session")
    add(
        "--batch",
        type=_AtLeast(1),
        metavar="N",
        help=f"events per message (default {calls.DEFAULT_BATCH}; 1 with --label-delay)",
    )
    add("--rate", type=_rate, metavar="EVENTS_PER_S", help="send no faster (default: as fast as the server learns)")
    add("--report", type=Path, metavar="OUT.json", help="write the scores as JSON")


def _sessions(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "list the sessions of a server"
    command = commands.add_parser("sessions", help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=sessions.run_sessions)
    _server(command)
    command.add_argument(
        "--tag", metavar="KEY=VALUE", action="append", default=[], help="only sessions with this tag; may be repeated"
    )
    command.add_argument(
        "--scores", action="store_true", help="ask each session for its scores, too, and show its skill"
    )
    command.add_argument("--json", action="store_true", help="one JSON object per line, configuration included")


def _watch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "follow the outcomes of a session, whoever sends its events; end with Ctrl-C"
    command = commands.add_parser("watch", help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=sessions.run_watch)
    _server(command)
    command.add_argument("session", metavar="SESSION", help="id of the session")
    command.add_argument("--count", type=_AtLeast(1), metavar="N", help="stop after N outcomes")
    command.add_argument("--json", action="store_true", help="one JSON object per outcome")


def _export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "write a session, or its network alone, to a file"
    command = commands.add_parser("export", help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=files.run_export)
    _server(command)
    command.add_argument("session", metavar="SESSION", help="id of the session")
    command.add_argument("file", type=Path, metavar="FILE", help="file to write")
    _format(command)


def _import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "make a session of a file that `bptt export` or PyTorch wrote"
    command = commands.add_parser("import", help=text, description=text[0].upper() + text[1:] + ".", epilog=_SETTINGS)
    command.set_defaults(run=files.run_import)
    _server(command)
    add = command.add_argument
    add("file", type=Path, metavar="FILE", help="file to read")
    add("--session", metavar="ID", required=True, help="id of the session to make; it must be free")
    _format(command)
    add("--features", metavar="A,B", help="names of the network's inputs in order; with safetensors only, needed there")
    add("--set", metavar="KEY=VALUE", action="append", default=[], dest="settings", help="session setting; see below")


def _format(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format",
        choices=list(calls.EXPORT_FORMATS),
        help="checkpoint: all of the session; safetensors: its network, named as in a PyTorch state dict (default: by "
        "the ending .safetensors, else checkpoint)",
    )


def _demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "start a server, stream a simulated plant through it and watch it learn"
    command = commands.add_parser("demo", help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=demo.run)
    command.add_argument("--events", type=_AtLeast(500), metavar="N", default=demo.EVENTS, help="events to simulate")
    command.add_argument("--seed", type=_AtLeast(0), metavar="N", default=0, help="seed of the simulation (default 0)")
    command.add_argument(
        "--plot", type=Path, metavar="OUT.png", default=Path("demo-plot.png"), help="picture to write (demo-plot.png)"
    )


def _server(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--server", metavar="HOST:PORT", default=DEFAULT_SERVER, help=f"server to ask (default {DEFAULT_SERVER})"
    )


class _AtLeast:
    """Whole numbers from `least` on, for argparse."""

    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = self._least - 1
        if number < self._least:
            raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number, at least {self._least}")
        return number


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number above 0")
    return rate
