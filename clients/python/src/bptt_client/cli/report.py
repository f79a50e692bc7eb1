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

MOST_HORIZON_LINES = 8


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


def show(console: Console, report: dict[str, Any], title: str, units: str, batch: int) -> None:
    """Prints the report as a table and what its words mean."""
    overall = report["overall"]
    if overall["mse"] is None:
        console.print(f"{title}: {report['rows']:,} events, none of them scored (no forecast met a value in the span).")
    else:
        console.print(_table(report, title))
        console.print(_words(overall, units), style="dim")
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


def _table(report: dict[str, Any], title: str) -> Table:
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
    if horizon > 1:
        table.add_section()
        for step in _steps(horizon):
            table.add_row(f"{step} ahead", *_cells(report["per_horizon"][str(step)], seasonal))
    table.add_section()
    table.add_row("overall", *_cells(overall, seasonal), style="bold")
    return table


def _steps(horizon: int) -> list[int]:
    """At most eight horizons, evenly spread, the first and the last among them."""
    if horizon <= MOST_HORIZON_LINES:
        return list(range(1, horizon + 1))
    return sorted({round(1 + i * (horizon - 1) / (MOST_HORIZON_LINES - 1)) for i in range(MOST_HORIZON_LINES)})


def _cells(means: dict[str, float | None], seasonal: bool) -> list[str]:
    naive = [means["persistence_mse"]] + ([means["seasonal_mse"]] if seasonal else [])
    best = min((value for value in naive if value is not None), default=None)
    versus = "-"
    if best and means["mse"] is not None:
        change = 100.0 * (means["mse"] / best - 1.0)
        versus = f"[green]{change:+.1f} %[/]" if change < 0 else f"[red]{change:+.1f} %[/]"
    inside = "-" if means["coverage"] is None else f"{100.0 * means['coverage']:.1f} %"
    return [_short(means["mse"]), *map(_short, naive), versus, inside, _short(means["width"])]


def _short(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if 0.001 <= abs(value) < 10_000 or value == 0 else f"{value:.3g}"


def _words(overall: dict[str, float | None], units: str) -> str:
    naive, seasonal = "the naive forecast", ""
    if overall["seasonal_mse"] is not None:
        naive, seasonal = "the better of the naive forecasts", ", `last season` the value one season before"
    return (
        f"Mean squared errors, {units}; lower is better. `last value` repeats the newest value{seasonal}; `model vs "
        f"naive` compares with {naive}. `inside`: how often the value fell into the forecast's interval; `width`: how "
        f"wide that was. Every forecast was made before its value arrived."
    )
