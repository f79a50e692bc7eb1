"""What a run came to: as JSON for programs and as a table that a stranger can read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bptt_client.cli.running import Run
from bptt_client.cli.scoring import Scorer

MOST_HORIZON_LINES = 8
Means = dict[str, float | None]


def as_json(run: Run, targets: tuple[str, ...], horizon: int) -> dict[str, Any]:
    """The report. Errors are in the units the scorer was given; null is what could not be known."""
    scorer = run.scorer
    trips = np.asarray(run.round_trips_s) * 1000.0
    return {
        "rows": run.events,
        "scored": scorer.scored,
        "horizon": horizon,
        "targets": list(targets),
        "overall": scorer.overall(),
        "per_target": {name: scorer.by_target(i) for i, name in enumerate(targets)},
        "per_horizon": {str(step): scorer.by_horizon(step) for step in range(1, horizon + 1)},
        "updates": {"count": run.updates["applied"], "skipped": run.skipped, "clipped": run.clipped},
        "events_per_second": run.events / run.seconds if run.seconds > 0.0 else None,
        "latency_ms": {f"p{q}": float(np.percentile(trips, q)) if len(trips) else None for q in (50, 99)},
    }


def write(path: Path, report: dict[str, Any]) -> None:
    """Writes the report as a JSON file."""
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def show(console: Console, report: dict[str, Any], scorer: Scorer, title: str, fitted: str | None, batch: int) -> None:
    """Prints the report as a table and what its words mean. `fitted` says over what the deviations were taken that
    errors are measured in (" over the first 100 rows"; None: errors are in the targets' own units).
    """
    overall = report["overall"]
    if overall["mse"] is None:
        console.print(f"{title}: {report['rows']:,} events, none of them scored (no forecast met a value in the span).")
    else:
        mixed = fitted is None and len(report["targets"]) > 1
        console.print(_table(report, scorer, title, mixed))
        console.print(_words(overall, fitted, mixed), style="dim")
    updates, latency = report["updates"], report["latency_ms"]
    console.print(
        f"Learning: {updates['count']:,} updates applied ({updates['clipped']:,} with a clipped gradient), "
        f"{updates['skipped']:,} skipped."
    )
    if report["events_per_second"] is not None and latency["p50"] is not None:
        console.print(
            f"Speed: {report['events_per_second']:,.0f} events/s; round trip of a batch of up to {batch}: "
            f"median {latency['p50']:.1f} ms, 99th percentile {latency['p99']:.1f} ms."
        )


def _table(report: dict[str, Any], scorer: Scorer, title: str, mixed: bool) -> Table:
    """`mixed`: errors of targets that have different units, of which there is no mean."""
    horizon, overall = report["horizon"], report["overall"]
    ahead = "1 step ahead" if horizon == 1 else f"1 to {horizon} steps ahead"
    caption = f"{title}: {report['rows']:,} events, forecasts {ahead}, {report['scored']:,} scored"
    table = Table(
        title=caption,
        title_justify="left",
    )
    seasonal = overall["seasonal_mse"] is not None
    table.add_column("")
    for name in ("model", "last value", *(["last season"] if seasonal else []), "model vs naive", "inside", "width"):
        table.add_column(name, justify="right")
    for name, means in report["per_target"].items():
        table.add_row(name, *_cells(means, seasonal))
    count = range(len(report["targets"]))
    if horizon > 1:
        table.add_section()
        for step in _steps(horizon):
            parts = [scorer.of(index, step) for index in count] if mixed else None
            table.add_row(f"{step} ahead", *_cells(report["per_horizon"][str(step)], seasonal, parts))
    table.add_section()
    parts = [scorer.by_target(index) for index in count] if mixed else None
    table.add_row("overall", *_cells(overall, seasonal, parts), style="bold")
    return table


def _steps(horizon: int) -> list[int]:
    """At most eight horizons, evenly spread, the first and the last among them."""
    if horizon <= MOST_HORIZON_LINES:
        return list(range(1, horizon + 1))
    return sorted({round(1 + i * (horizon - 1) / (MOST_HORIZON_LINES - 1)) for i in range(MOST_HORIZON_LINES)})


def _cells(means: Means, seasonal: bool, parts: list[Means] | None = None) -> list[str]:
    """`parts`: what these are means of, if only their ratios can be averaged."""
    ratios = [ratio for part in parts or [means] if (ratio := _ratio(part)) is not None]
    versus = "-"
    if ratios:
        change = 100.0 * (sum(ratios) / len(ratios) - 1.0)
        versus = f"[green]{change:+.1f} %[/]" if change < 0 else f"[red]{change:+.1f} %[/]"
    errors = [means["mse"], means["persistence_mse"], *([means["seasonal_mse"]] if seasonal else []), means["width"]]
    *columns, width = ("-" if parts else _short(value) for value in errors)
    inside = "-" if means["coverage"] is None else f"{100.0 * means['coverage']:.1f} %"
    return [*columns, versus, inside, width]


def _ratio(means: Means) -> float | None:
    """The model's error as a share of the best naive one's; None where there is none."""
    naive = [value for value in (means["persistence_mse"], means["seasonal_mse"]) if value is not None]
    return means["mse"] / min(naive) if naive and min(naive) > 0.0 and means["mse"] is not None else None


def _short(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if 0.001 <= abs(value) < 10_000 or value == 0 else f"{value:.3g}"


def _words(overall: Means, fitted: str | None, mixed: bool) -> str:
    naive, seasonal = "the naive forecast", ""
    if overall["seasonal_mse"] is not None:
        naive, seasonal = "the better of the naive forecasts", ", `last season` the value one season before"
    errors, width, hint = "in squares of the targets' own units", "in those units", ""
    if fitted is not None:
        errors, width = f"in squared standard deviations of each target{fitted}", "in standard deviations"
    if mixed:
        hint = (
            " Errors of different targets have no mean (-), the comparison has one; with --fit-rows N errors are "
            "measured in standard deviations and have one too."
        )
    return (
        f"Mean squared errors, {errors}; lower is better. `last value` repeats the newest value{seasonal}; `model vs "
        f"naive` compares with {naive}. `inside`: how often the value fell into the forecast's interval; `width`: how "
        f"wide that was, {width}. Every forecast was made before its value arrived.{hint}"
    )
