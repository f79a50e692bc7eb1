"""What a run came to: as JSON for programs and as a table that a stranger can read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bptt_client import Session
from bptt_client.cli.running import Run
from bptt_client.cli.scoring import Scorer
from bptt_client.replies import RESET_NAMES

MOST_HORIZON_LINES = 8
MOST_EXPERTS = 5
ORIGINS = {"found": "found, or the calendar's", "given": "given"}  # of seasons, by seasonality
Means = dict[str, float | None]


def as_json(run: Run, session: Session) -> dict[str, Any]:
    """The report of a run through the session, given as it is at the end. Errors are in the units that the scorer was
    given; null is what could not be known.
    """
    scorer, horizon, task = run.scorer, session.horizon, session.config.get("task", "forecast")
    trips = np.asarray(run.round_trips_s) * 1000.0
    return {
        "rows": run.events,
        "scored": scorer.scored,
        "horizon": horizon,
        "targets": list(session.targets),
        "overall": _with_skill(scorer.overall()),
        "per_target": {name: _with_skill(scorer.by_target(i)) for i, name in enumerate(session.targets)},
        "per_horizon": {str(step): _with_skill(scorer.by_horizon(step)) for step in range(1, horizon + 1)},
        "updates": {
            "count": run.updates["applied"],
            "skipped": run.skipped,
            "clipped": run.clipped,
            "saturation": _median(run.saturation),
            "update_ratio": _median(run.update_ratio),
            "gradient_by_lag": _by_lag(run.gradient_by_lag),
            "resets": {name: run.resets[name] for name in RESET_NAMES},
        },
        "events_per_second": run.events / run.seconds if run.seconds > 0.0 else None,
        "latency_ms": {f"p{q}": float(np.percentile(trips, q)) if len(trips) else None for q in (50, 99)},
        "anomalies": run.anomalies,
        "drifts": run.drifts,
        "seasonality": session.config.get("seasonality"),
        "seasons": [season for season in session.seasons if season],
        "experts": [
            {"name": expert.name, "weight": expert.weight, "relative_error": _finite(expert.relative_error)}
            for expert in sorted(session.experts, key=lambda expert: -expert.weight)
        ],
        **({} if task == "forecast" else {"task": task}),
    }


def _with_skill(means: Means) -> Means:
    """With 1 - the model's squared error over persistence's, where errors are of numbers."""
    if "mse" not in means:
        return means
    model, naive = means["mse"], means["persistence_mse"]
    return {**means, "skill": 1.0 - model / naive if model is not None and naive else None}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def finite(values: Iterable[float]) -> list[float | None]:
    """The same with null for what is not a finite number, as JSON wants it."""
    return [_finite(value) for value in values]


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
        console.print(_words(report, scorer.season, fitted, mixed, labelled), style="dim")
    updates, latency = report["updates"], report["latency_ms"]
    console.print(
        f"Learning: {updates['count']:,} updates applied ({updates['clipped']:,} with a clipped gradient), "
        f"{updates['skipped']:,} skipped; resets of learners: {sum(updates['resets'].values()):,}."
    )
    for line in _findings(report):
        console.print(line, soft_wrap=True, markup=False)
    if report["events_per_second"] is not None and latency["p50"] is not None:
        console.print(
            f"Speed: {report['events_per_second']:,.0f} events/s; round trip of a batch of up to {batch}: "
            f"median {latency['p50']:.1f} ms, 99th percentile {latency['p99']:.1f} ms."
        )


def _findings(report: dict[str, Any]) -> Iterator[str]:
    """What the session noticed, by itself."""
    if "log_loss" not in report["overall"]:
        yield f"Anomalous events: {report['anomalies']:,}; changes of the usual error (drifts): {report['drifts']:,}."
    origin = ORIGINS.get(report["seasonality"])
    if origin:
        seasons = " and ".join(f"{season:,}" for season in report["seasons"])
        yield f"Seasons in force at the end: {f'{seasons} steps ({origin})' if seasons else 'none'}."
    experts, shown = report["experts"], report["experts"][:MOST_EXPERTS]
    if experts:
        words = [f"{expert['name']} {100.0 * expert['weight']:.0f} %" for expert in shown]
        rest = 100.0 * sum(expert["weight"] for expert in experts[MOST_EXPERTS:])
        others = [f"others {rest:.0f} %"] if len(experts) > len(shown) else []
        yield f"Weights of the experts at the end: {', '.join([*words, *others])}."


def caption(report: dict[str, Any], title: str, labelled: bool) -> str:
    """What a table is about; `labelled`: labels are predicted."""
    ahead = "1 step ahead" if report["horizon"] == 1 else f"1 to {report['horizon']} steps ahead"
    what = "predictions of labels" if labelled else f"forecasts {ahead}"
    return f"{title}: {report['rows']:,} events, {what}, {report['scored']:,} scored"


def table_of(title: str, *names: str) -> Table:
    """An empty table: columns of numbers, which are never cut, and before them what they are of."""
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold", min_width=7)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _table(report: dict[str, Any], scorer: Scorer, title: str, mixed: bool) -> Table:
    """`mixed`: errors of targets that have different units, of which there is no mean."""
    horizon, overall, labelled = report["horizon"], report["overall"], scorer.ahead == 0
    seasonal = overall["seasonal_mse"] is not None
    names = ["model", "last\nlabel" if labelled else "last\nvalue", *(["last\nseason"] if seasonal else [])]
    table = table_of(caption(report, title, labelled), *names, "model\nvs naive", "inside", "width", "interval\nscore")
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
    names = ("model", "frequencies", "model\nvs naive", "wrong", "frequencies\nwrong")
    table = table_of(caption(report, title, labelled), *names)
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
    wrong = (percent(means["error_rate"]), percent(means["naive_error_rate"]))
    return [short(loss), short(naive), versus(_ratios([means])), *wrong]


def _steps(horizon: int) -> list[int]:
    """At most eight horizons, evenly spread, the first and the last among them."""
    if horizon <= MOST_HORIZON_LINES:
        return list(range(1, horizon + 1))
    return sorted({round(1 + i * (horizon - 1) / (MOST_HORIZON_LINES - 1)) for i in range(MOST_HORIZON_LINES)})


def _cells(means: Means, seasonal: bool, parts: list[Means] | None = None) -> list[str]:
    """`parts`: what these are means of, if only their ratios can be averaged."""
    names = ["mse", "persistence_mse", *(["seasonal_mse"] if seasonal else []), "width", "interval_score"]
    *columns, width, interval_score = ("-" if parts else short(means[name]) for name in names)
    return [*columns, versus(_ratios(parts or [means])), percent(means["coverage"]), width, interval_score]


def ratios(scorer: Scorer, targets: int, mixed: bool) -> list[float]:
    """The model's error as a share of the best naive one's; `mixed`: of each target."""
    return _ratios([scorer.by_target(i) for i in range(targets)] if mixed else [scorer.overall()])


def versus(ratios: list[float]) -> str:
    """How much less or more than the naive error, by the mean of ratios; none: it is not known."""
    if not ratios:
        return "-"
    change = 100.0 * (sum(ratios) / len(ratios) - 1.0)
    return f"[green]{change:+.1f} %[/]" if change < 0 else f"[red]{change:+.1f} %[/]"


def _ratios(parts: Iterable[Means]) -> list[float]:
    """The model's error as a share of the best naive one's, where there is one."""
    made = []
    for means in parts:
        symbols = "log_loss" in means
        model = means["log_loss" if symbols else "mse"]
        names = ("naive_log_loss",) if symbols else ("persistence_mse", "seasonal_mse")
        naive = [value for name in names if (value := means[name]) is not None]
        if model is not None and naive and min(naive) > 0.0:
            made.append(model / min(naive))
    return made


def percent(share: float | None) -> str:
    """A share in words."""
    return "-" if share is None else f"{100.0 * share:.1f} %"


def short(value: float | None) -> str:
    """A number in words: three digits after the point, fewer where four before it say enough."""
    if value is None or not math.isfinite(value):
        return "-"
    size = abs(value)
    if size >= 1e6 or 0 < size < 0.001:
        return f"{value:.3g}"
    return f"{value:.{3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0}f}"


def _words(report: dict[str, Any], season: int | None, fitted: str | None, mixed: bool, labelled: bool) -> str:
    naive, seasonal = "the naive forecast", ""
    if season is not None:
        naive, seasonal = "the better of the naive forecasts", f", `last season` the value {season:,} steps before"
        if report["seasonality"] == "found":
            seasonal += " (with hindsight: from the first row on by the season that was known at the end)"
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
        f"wide that was, {width}; `interval score`: the width plus what values outside cost, lower is better. "
        f"{_honest(labelled)}{hint}"
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
