"""Two runs over the same rows side by side: their errors, and the verdict on them. Knows no server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from rich.console import Console

from bptt_client import Session
from bptt_client.cli import report
from bptt_client.cli.running import Run
from bptt_client.cli.scoring import means_of
from bptt_client.cli.verdict import LEVEL, judge

SIDES: Final = ("champion", "challenger")
_ERRORS: Final = {"mse": "squared error", "mae": "absolute error"}
_INTERVALS: Final = {"width": "width", "interval_score": "interval score"}
_SYMBOLS: Final = {"log_loss": "cross-entropy"}
_SHARES: Final = {"coverage": "inside", "error_rate": "wrong"}


@dataclass(frozen=True, slots=True)
class Duel:
    """The runs of champion and challenger, and their sessions as they were at the end. `mixed`: errors of several
    targets in units of their own.
    """

    runs: tuple[Run, Run]
    sessions: tuple[Session, Session]
    mixed: bool

    def as_json(self) -> dict[str, Any]:
        """The reports of both, and the verdict; `winner` is null where it is not clear."""
        made = [report.as_json(run, session) for run, session in zip(self.runs, self.sessions, strict=True)]
        return {**dict(zip(SIDES, made, strict=True)), "verdict": self._verdict()}

    def _verdict(self) -> dict[str, Any]:
        """On the losses step by step, mean over horizons and targets; where these have units of their own, as shares of
        persistence's mean squared error.
        """
        first, second = (run.scorer for run in self.runs)
        differences = first.loss - second.loss
        if self.mixed:
            naive = [first.by_target(i)["persistence_mse"] or np.nan for i in range(differences.shape[1])]
            differences = differences / np.array(naive)
        by_step = means_of(differences, axis=1)
        found = judge(by_step[np.isfinite(by_step)], self.sessions[0].horizon)
        statistic, p_value, difference = report.finite((found.statistic, found.p_value, found.difference))
        return {
            "winner": (None, "challenger", "champion")[found.better],
            "level": LEVEL,
            "p_value": p_value,
            "statistic": statistic,
            "difference": difference,
            "steps": found.steps,
            "lags": found.lags,
        }

    def show(self, console: Console, result: dict[str, Any], title: str) -> None:
        """Prints what `as_json` gave: both side by side, and the verdict."""
        caption = report.caption(result["champion"], title, self.runs[0].scorer.ahead == 0)
        table = report.table_of(caption, *SIDES, "change")
        for row in self._rows(*(result[side] for side in SIDES)):
            table.add_row(*row)
        console.print(table)
        for words in self._unlike():
            console.print(words, style="yellow", soft_wrap=True)
        console.print(_verdict_words(result["verdict"]), style="bold", soft_wrap=True)
        console.print(_explanation(self.mixed), style="dim")

    def _unlike(self) -> Iterator[str]:
        """What the table does not show: that only one of the two has several experts."""
        alone = [not session.experts for session in self.sessions]
        if alone[0] != alone[1]:
            yield f"Note: the {SIDES[alone.index(True)]} is a single learner without other experts."

    def _rows(self, *reports: dict[str, Any]) -> Iterator[tuple[str, ...]]:
        overall, targets = [made["overall"] for made in reports], reports[0]["targets"]
        errors = _SYMBOLS if "log_loss" in overall[0] else _ERRORS
        for name in targets if len(targets) > 1 else ():
            measure, words = next(iter(errors.items()))
            yield _row(f"{name}: {words}", *(made["per_target"][name][measure] for made in reports))
        for measure, words in () if self.mixed else errors.items():
            yield _row(words, *(means[measure] for means in overall))
        for measure, words in _SHARES.items():
            if measure in overall[0]:
                yield (words, *(report.percent(means[measure]) for means in overall), "")
        for measure, words in () if self.mixed or errors is _SYMBOLS else _INTERVALS.items():
            yield _row(words, *(means[measure] for means in overall))
        ratios = (report.ratios(run.scorer, len(targets), self.mixed) for run in self.runs)
        yield ("model vs naive", *map(report.versus, ratios), "")
        yield _row("events/s", *(made["events_per_second"] for made in reports))


def _row(words: str, champion: float | None, challenger: float | None) -> tuple[str, ...]:
    change = f"{100.0 * (challenger / champion - 1.0):+.1f} %" if champion and challenger is not None else "-"
    return words, report.short(champion), report.short(challenger), change


def _verdict_words(verdict: dict[str, Any]) -> str:
    if verdict["p_value"] is None:
        return f"Verdict: no clear winner, as {verdict['steps']:,} steps are too few to tell."
    who = f"the {verdict['winner']} wins" if verdict["winner"] else "no clear winner"
    return f"Verdict: {who} (p = {verdict['p_value']:.2g})."


def _explanation(mixed: bool) -> str:
    units = ", each target's as a share of its naive forecast's mean" if mixed else ""
    return (
        f"The verdict compares the losses step by step{units}, by Diebold and Mariano's test with a variance that "
        f"allows for their autocorrelation; a winner is named where p is below {LEVEL}."
    )
