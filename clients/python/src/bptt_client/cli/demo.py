"""`bptt demo`: a server of its own, the simulated plant of `plant.py` streamed through the SDK, and what came of it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.panel import Panel

from bptt_client import Client, Session, SessionHandle
from bptt_client.cli import plant, plot, report
from bptt_client.cli.local_server import LocalServer, local_server
from bptt_client.cli.outputs import check_writable
from bptt_client.cli.progress import progress
from bptt_client.cli.running import Run, Source, stream_rows
from bptt_client.cli.scoring import NumberScorer, Span, standard_deviations

EVENTS: Final = 8_000
HORIZON: Final = 4
COVERAGE: Final = 0.9
TARGETS: Final = ("temp", "vibration")
BATCH: Final = 64
_START: Final = np.datetime64("2026-01-05T00:00", "ns")
_METRICS: Final = (
    "bptt_events_total", "bptt_updates_total", "bptt_sessions", "bptt_clipped_updates_total", "bptt_non_finite_total",
    "bptt_gradient_norm_count", "bptt_backend_info",
)  # fmt: skip

_INTRODUCTION: Final = """
A pump is measured every quarter of an hour: load, temperature, vibration. After each measurement the server forecasts
temperature and vibration for the next hour (4 steps). It starts knowing nothing: the first forecast simply repeats the
last value. From then on a few small LSTMs learn with every event, by backpropagation through time cut off after a few
dozen steps, and each has as much say as it proves to be worth beside the naive forecasts. At 60 % of the way a bearing
wears and the vibration behaves differently, unannounced.

Watch the error: 1.00 × naive is no better than repeating the last value, below is better."""


def run(arguments: argparse.Namespace) -> None:
    """Runs the demonstration. Raises Problem if no server is installed or the picture cannot be written."""
    plot.check_format(arguments.plot)
    check_writable(arguments.plot)
    console = Console(highlight=False)
    paragraphs = (" ".join(text.split()) for text in _INTRODUCTION.split("\n\n"))
    console.print(Panel("\n\n".join(paragraphs), title="A plant that is learned while it runs", title_align="left"))
    values = plant.simulate(arguments.events, arguments.seed)
    truth = values[:, [plant.FEATURES.index(name) for name in TARGETS]]
    times = _START + np.arange(len(values)) * np.timedelta64(plant.PERIOD_NS, "ns")
    scale = standard_deviations(truth, len(truth))
    scorer = NumberScorer(truth, HORIZON, COVERAGE, scale, Span(0, len(truth)))
    outcome = Run.empty(scorer, len(truth), len(TARGETS))
    console.print("Starting a server …")
    with local_server() as server, Client(server.target) as client:
        console.print(f"It listens on {server.target} (gRPC) and {server.http_url}/metrics.")
        handle = client.create_session(
            "plant", features=plant.FEATURES, targets=TARGETS, horizon=HORIZON, seasons=[plant.DAY], coverage=COVERAGE
        )
        _stream(handle, values, times, outcome, console)
        scorer.compare_with_season(plant.DAY)
        session = client.get_session("plant")
        _show(console, outcome, session, server, arguments.events)
    mark, title = (int(plant.CHANGE * arguments.events), "bearing wears"), "A simulated plant, learned online"
    view = plot.View(title, TARGETS, truth, times, outcome, plot.clip_norm(session), standardised=True, mark=mark)
    plot.draw(arguments.plot, view)
    console.print(f"\nPicture of the run: [bold]{arguments.plot}[/] - forecast, error and gradient norm over time.")
    # `make demo` runs in an environment that the reader's shell knows nothing of.
    program = "bptt" if shutil.which("bptt") else os.path.relpath(Path(sys.executable).with_name("bptt"))
    console.print(f"Your own data next:  {program} replay FILE.csv --time COLUMN --plot out.png", soft_wrap=True)


def _stream(
    handle: SessionHandle, values: plot.Array, times: NDArray[np.datetime64], outcome: Run, console: Console
) -> None:
    with progress(console, "plant", len(values), 0, outcome.scorer) as told:
        stream_rows(
            handle,
            Source(values, times.astype(np.int64).tolist(), np.empty((len(values), 0))),
            outcome,
            start=0,
            batch=BATCH,
            rate=None,
            progress=told,
        )


def _show(console: Console, outcome: Run, session: Session, server: LocalServer, events: int) -> None:
    console.print()
    result = report.as_json(outcome, session)
    report.show(console, result, outcome.scorer, "the simulated plant", "", BATCH)
    console.print("\nHow it learned (squared error as a share of the naive forecast's):")
    change = int(plant.CHANGE * events)
    for words, start, stop in _phases(events, change):
        model, naive = (np.nanmean(outcome.scorer.by_row[name][start:stop]) for name in ("model", "persistence"))
        bar = "█" * round(30 * min(model / naive, 1.5))
        console.print(f"  {words:<34} {model / naive:5.2f}  {bar}")
    console.print("\nWhat the server says about itself (an excerpt of /metrics):")
    for line in _metrics(server.http_url):
        console.print(f"  {line}", markup=False, soft_wrap=True, style="dim")


def _phases(events: int, change: int) -> list[tuple[str, int, int]]:
    step = max(100, events // 16)
    return [
        (f"events 1 to {step:,}, just born", 0, step),
        (f"{change - 2 * step:,} to {change:,}, settled", change - 2 * step, change),
        (f"{change:,} to {change + step // 2:,}, bearing worn", change, change + step // 2),
        (f"{events - 2 * step:,} to {events:,}, learned again", events - 2 * step, events),
    ]


def _metrics(http_url: str) -> list[str]:
    with urllib.request.urlopen(f"{http_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return [line for line in text.splitlines() if line.startswith(_METRICS) and not line.endswith(" 0.0")]
