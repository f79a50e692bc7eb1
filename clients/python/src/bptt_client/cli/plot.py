"""A run as one picture: forecast against truth, error against the naive forecast's over time, gradient norm over
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import dates, ticker
from matplotlib.backend_bases import FigureCanvasBase
from numpy.typing import NDArray

from bptt_client import Session
from bptt_client.cli.problems import Problem
from bptt_client.cli.running import Run

Array = NDArray[np.float64]
STRETCH = 240
# Okabe and Ito's palette: told apart with every kind of colour vision, and in grey.
INK, BLUE, ORANGE, GREEN, GREY = "#222222", "#0072B2", "#D55E00", "#009E73", "#8A8A8A"


@dataclass(frozen=True, slots=True)
class View:
    """What is drawn: `truth` [row, target], `times` [row] or None for row numbers; `clip_norm` None: gradients are not
    clipped by their norm; `mark` names a row worth a line.
    """

    title: str
    targets: tuple[str, ...]
    truth: Array
    times: NDArray[np.datetime64] | None
    run: Run
    clip_norm: float | None
    standardised: bool
    mark: tuple[int, str] | None = None


def clip_norm(session: Session) -> float | None:
    """The norm that gradients of all its learners are clipped to; None: there is no such norm."""
    norms = {float(one["clip_norm"]) if one["clip"] == "norm" else None for one in session.learners}
    return norms.pop() if len(norms) == 1 else None


def check_format(path: Path) -> None:
    """Raises Problem unless the file's ending names a format of pictures."""
    formats = FigureCanvasBase.filetypes
    if path.suffix[1:].lower() not in formats:
        raise Problem(f"{path} ends in {path.suffix!r}; allowed: {', '.join(f'.{name}' for name in formats)}")


def draw(path: Path, view: View) -> None:
    """Writes the picture; the file's ending chooses its format."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style: dict[Any, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
    }
    with plt.rc_context(style):
        figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(11, 10.5), layout="constrained")
        figure.suptitle(view.title, x=0.01, ha="left", fontsize=14, fontweight="bold")
        _forecast(top, view)
        _errors(middle, view)
        _gradient(bottom, view)
        for axes in (top, middle, bottom):
            _dates(axes, view)
        if view.mark is not None:
            _mark((middle, bottom), view, *view.mark)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _x(view: View) -> tuple[Any, str]:
    if view.times is not None:
        return view.times, "time (UTC)"
    return np.arange(len(view.truth)), "row"


def _forecast(axes: Any, view: View) -> None:
    x, label = _x(view)
    target, ahead = _liveliest(view), view.run.scorer.ahead
    known = np.flatnonzero(np.isfinite(view.run.next_mean[:, target]))
    known = known[view.run.scorer.meets_next(known)]
    known = known[known >= known[-1] - STRETCH] if len(known) else known
    if len(known):
        made, met = known, known + ahead  # the forecast made at a row is drawn at the row it speaks of
        made_when = ("predicted before the label was known", "forecast made one row before")[ahead]
        gaps = np.flatnonzero(np.diff(known) > 1) + 1  # nothing is drawn across them
        columns = (view.run.next_lower, view.run.next_upper, view.run.next_mean)
        lower, upper, mean = (np.insert(column[made, target], gaps, np.nan) for column in columns)
        came, when = np.insert(view.truth[met, target], gaps, np.nan), np.insert(x[met], gaps, x[met][gaps])
        axes.fill_between(when, lower, upper, color=BLUE, alpha=0.18, linewidth=0, label="forecast interval")
        axes.plot(when, came, color=INK, linewidth=1.6, label="what came")
        axes.plot(when, mean, color=BLUE, linewidth=1.3, label=made_when)
        odd = view.run.anomaly_score[met, target] > 1.0
        if odd.any():
            axes.plot(x[met][odd], view.truth[met, target][odd], "o", color=ORANGE, fillstyle="none", label="anomalous")
        axes.legend(loc="upper left", ncols=4, frameon=False, bbox_to_anchor=(0, 1.02), borderaxespad=0)
        axes.margins(x=0.01, y=0.2)
    what = ("Prediction of the label", "Forecast one step ahead")[ahead]
    axes.set_title(f"{what}: {view.targets[target]}, the newest {len(known)} rows", pad=14)
    axes.set_xlabel(label)
    axes.set_ylabel(f"{view.targets[target]} (its own units)")


def _liveliest(view: View) -> int:
    """The target that has most values; the first of equals."""
    return int(np.isfinite(view.truth).sum(0).argmax())


def _errors(axes: Any, view: View) -> None:
    x, label = _x(view)
    rows = max(50, len(view.truth) // 40)
    looks = {
        "persistence": ("last value repeated", ORANGE, "-", 1.3),
        "seasonal": ("last season repeated", GREEN, "-", 1.3),
        "model": ("model", BLUE, "-", 2.0),
    }
    for name, (words, colour, line, width) in looks.items():
        smooth = _rolling_mean(view.run.scorer.by_row[name], rows)
        if np.isfinite(smooth).any():
            axes.plot(x, smooth, line, color=colour, linewidth=width, label=words)
    _log_scale(axes)
    axes.legend(loc="upper right", framealpha=0.85, edgecolor="none")
    axes.set_xlim(x[0], x[-1])
    axes.set_title(f"Error over time, mean over the {rows:,} rows before (lower is better)")
    axes.set_xlabel(label)
    units = "standard deviations²" if view.standardised else "units²"
    axes.set_ylabel(f"mean squared error ({units})")
    axes.grid(axis="y", which="both", color="#E6E6E6", linewidth=0.6)


def _gradient(axes: Any, view: View) -> None:
    x, label = _x(view)
    norm = np.where(view.run.gradient_norm > 0.0, view.run.gradient_norm, np.nan)
    if np.isfinite(norm).any():
        with np.errstate(all="ignore"):
            smooth = np.exp(_rolling_mean(np.log(norm), max(20, len(norm) // 100)))
        axes.scatter(x, norm, s=2, color=GREY, alpha=0.25, linewidths=0, rasterized=True, label="each update")
        axes.plot(x, smooth, color=BLUE, linewidth=1.6, label="running geometric mean")
        if view.clip_norm is not None:
            axes.axhline(view.clip_norm, color=ORANGE, linewidth=1.2, linestyle="--", label="clipped above this")
        axes.legend(loc="best", framealpha=0.85, edgecolor="none", markerscale=5)
    _log_scale(axes)
    axes.set_xlim(x[0], x[-1])
    axes.set_title("Gradient norm before the clip: large when there is something to learn")
    axes.set_xlabel(label)
    axes.set_ylabel("norm (no unit)")


def _dates(axes: Any, view: View) -> None:
    if view.times is not None:
        untyped: Any = dates
        locator = untyped.AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator))


def _mark(panels: tuple[Any, ...], view: View, row: int, words: str) -> None:
    x, _ = _x(view)
    for axes in panels:
        axes.axvline(x[row], color=INK, linewidth=1.0, linestyle=":")
        axes.annotate(words, (x[row], 1.0), (4, -12), xycoords=("data", "axes fraction"), textcoords="offset points")


def _log_scale(axes: Any) -> None:
    """Logarithmic, with plain numbers, also between the powers of ten where there is little else."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(ticker.LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.6)))


def _rolling_mean(values: Array, rows: int) -> Array:
    """Mean over the `rows` values up to each one, gaps left out; NaN until half of them are there."""
    seen = np.isfinite(values)
    totals = np.concatenate([[0.0], np.cumsum(np.where(seen, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(seen)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - rows, 0)
    count = counts[ends] - counts[starts]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count * 2 >= rows, (totals[ends] - totals[starts]) / count, np.nan)
