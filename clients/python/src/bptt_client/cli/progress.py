"""How a run is going: a bar on a terminal, a line every tenth of the way elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bptt_client.cli.scoring import Scorer

RUNNING_ROWS = 1_000


@contextmanager
def progress(console: Console, label: str, rows: int, start: int, *scorers: Scorer) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told how many rows are done; it shows each running error against the naive forecast's."""
    began = time.perf_counter()

    def words(done: int) -> str:
        rate = (done - start) / max(time.perf_counter() - began, 1e-9)
        ratios = " against ".join(_ratio(scorer, done - 1) for scorer in scorers)
        return f"error {ratios} × naive over the last {RUNNING_ROWS:,} rows, {rate:,.0f} events/s"

    if console.is_terminal:
        columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
        with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task(label, total=rows, completed=start, words="")
            yield lambda done: bar.update(task, completed=done, words=words(done))
        return
    shown = start

    def line(done: int) -> None:
        nonlocal shown
        if (done - shown) * 10 >= rows - start or done == rows:
            shown = done
            console.print(f"{label}: {done:,} of {rows:,} rows, {words(done)}", soft_wrap=True)

    yield line


def _ratio(scorer: Scorer, row: int) -> str:
    model, naive = (scorer.running(name, row, RUNNING_ROWS) for name in ("model", "persistence"))
    return f"{model / naive:.2f}" if naive > 0.0 and math.isfinite(model) else "-"
