"""What a run came to: as JSON for programs and as a table that a stranger can read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bptt_client.cli.running import Run
from bptt_client.cli.scoring import Scorer

MOST_HORIZON_LINES = 8
Means = dict[str, float | None]


def as_json(run: Run, targets: tuple[str, ...], horizon: int, task: str = "forecast") -> dict[str, Any]:
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
        "updates": {
            "count": run.updates["applied"],
            "skipped": run.skipped,
            "clipped": run.clipped,
            "saturation": _median(run.saturation),
            "update_ratio": _median(run.update_ratio),
            "gradient_by_lag": _by_lag(run.gradient_by_lag),
        },
        "events_per_second": run.events / run.seconds if run.seconds > 0.0 else None,
        "latency_ms": {f"p{q}": float(np.percentile(trips, q)) if len(trips) else None for q in (50, 99)},
        **({} if task == "forecast" else {"task": task}),
    }


def finite(values: Iterable[float]) -> list[float | None]:
    """The same with null for what is not a finite number, as JSON wants it."""
    return [value if math.isfinite(value) else None for value in values]


def _median(values: Iterable[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else None


def _by_lag(measured: Sequence[Mapping[int, float]]) -> dict[str, dict[str, float | None]]:
    """Norms by lag: those measured last, and the median of each over the run."""
    lags = measured[-1] if measured else {}
    return {
        "last": {str(lag): _median([norm]) for lag, norm in lags.items()},
        "median": {str(lag): _median([norms.get(lag, math.nan) for norms in measured]) for lag in lags},
    }


def write(path: Path, report: dict[str, Any]) -> None:
    """Writes the report as a JSON file."""
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def show(console: Console, report: dict[str, Any], scorer: Scorer, title: str, fitted: str | None, batch: int) -> None:
    """Prints the report as a table and what its words mean. `fitted` says over what the deviations were taken that
    errors are measured in (" over the first 100 rows"; None: errors are in the targets' own units).
    """
    overall, labelled = report["overall"], scorer.ahead == 0
    if overall[scorer.MEASURES[0]] is None:
        console.print(f"{title}: {report['rows']:,} events, none of them scored (no forecast met a value in the span).")
    elif "log_loss" in overall:
        console.print(_symbol_table(report, title, labelled))
        console.print(_symbol_words(labelled), style="dim")
    else:
        mixed = fitted is None and len(report["targets"]) > 1
        console.print(_table(report, scorer, title, mixed))
        console.print(_words(overall, fitted, mixed, labelled), style="dim")
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


def _caption(report: dict[str, Any], title: str, labelled: bool) -> str:
    ahead = "1 step ahead" if report["horizon"] == 1 else f"1 to {report['horizon']} steps ahead"
    what = "predictions of labels" if labelled else f"forecasts {ahead}"
    return f"{title}: {report['rows']:,} events, {what}, {report['scored']:,} scored"


def _table(report: dict[str, Any], scorer: Scorer, title: str, mixed: bool) -> Table:
    """`mixed`: errors of targets that have different units, of which there is no mean."""
    horizon, overall, labelled = report["horizon"], report["overall"], scorer.ahead == 0
    table = Table(title=_caption(report, title, labelled), title_justify="left")
    seasonal = overall["seasonal_mse"] is not None
    table.add_column("")
    for name in (
        "model",
        "last label" if labelled else "last value",
        *(["last season"] if seasonal else []),
        "model vs naive",
        "inside",
        "width",
    ):
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


def _symbol_table(report: dict[str, Any], title: str, labelled: bool) -> Table:
    table = Table(title=_caption(report, title, labelled), title_justify="left")
    table.add_column("")
    for name in ("model", "frequencies", "model vs naive", "wrong", "frequencies wrong"):
        table.add_column(name, justify="right")
    for name, means in report["per_target"].items():
        table.add_row(name, *_symbol_cells(means))
    if report["horizon"] > 1:
        table.add_section()
        for step in _steps(report["horizon"]):
            table.add_row(f"{step} ahead", *_symbol_cells(report["per_horizon"][str(step)]))
    table.add_section()
    table.add_row("overall", *_symbol_cells(report["overall"]), style="bold")
    return table


def _symbol_cells(means: Means) -> list[str]:
    loss, naive = means["log_loss"], means["naive_log_loss"]
    wrong = (
        "-" if rate is None else f"{100.0 * rate:.1f} %" for rate in (means["error_rate"], means["naive_error_rate"])
    )
    return [_short(loss), _short(naive), _versus([loss / naive] if loss is not None and naive else []), *wrong]


def _steps(horizon: int) -> list[int]:
    """At most eight horizons, evenly spread, the first and the last among them."""
    if horizon <= MOST_HORIZON_LINES:
        return list(range(1, horizon + 1))
    return sorted({round(1 + i * (horizon - 1) / (MOST_HORIZON_LINES - 1)) for i in range(MOST_HORIZON_LINES)})


def _cells(means: Means, seasonal: bool, parts: list[Means] | None = None) -> list[str]:
    """`parts`: what these are means of, if only their ratios can be averaged."""
    ratios = [ratio for part in parts or [means] if (ratio := _ratio(part)) is not None]
    errors = [means["mse"], means["persistence_mse"], *([means["seasonal_mse"]] if seasonal else []), means["width"]]
    *columns, width = ("-" if parts else _short(value) for value in errors)
    inside = "-" if means["coverage"] is None else f"{100.0 * means['coverage']:.1f} %"
    return [*columns, _versus(ratios), inside, width]


def _versus(ratios: list[float]) -> str:
    """How much less or more than the naive error, by the mean of ratios; none: it is not known."""
    if not ratios:
        return "-"
    change = 100.0 * (sum(ratios) / len(ratios) - 1.0)
    return f"[green]{change:+.1f} %[/]" if change < 0 else f"[red]{change:+.1f} %[/]"


def _ratio(means: Means) -> float | None:
    """The model's error as a share of the best naive one's; None where there is none."""
    naive = [value for value in (means["persistence_mse"], means["seasonal_mse"]) if value is not None]
    return means["mse"] / min(naive) if naive and min(naive) > 0.0 and means["mse"] is not None else None


def _short(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if 0.001 <= abs(value) < 10_000 or value == 0 else f"{value:.3g}"


def _words(overall: Means, fitted: str | None, mixed: bool, labelled: bool) -> str:
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
    last = "`last label` repeats the newest label known" if labelled else "`last value` repeats the newest value"
    return (
        f"Mean squared errors, {errors}; lower is better. {last}{seasonal}; `model vs "
        f"naive` compares with {naive}. `inside`: how often the value fell into the forecast's interval; `width`: how "
        f"wide that was, {width}. {_honest(labelled)}{hint}"
    )


def _symbol_words(labelled: bool) -> str:
    return (
        "Mean cross-entropies in nats; lower is better, 0 is certain and right. `frequencies` says of every symbol how "
        "often it came so far; `wrong`: how often the most probable symbol was not the one that came. "
        f"{_honest(labelled)}"
    )


def _honest(labelled: bool) -> str:
    made, came = ("prediction", "label was known") if labelled else ("forecast", "value arrived")
    return f"Every {made} was made before its {came}."
