"""The picture of docs/forecasts.md: a session that is told nothing meets a level shift and a dead sensor.

    python docs/shift_and_dead_sensor.py [--out docs/shift_and_dead_sensor.png]

A meter is read every half hour for nine weeks: a daily pattern that is stronger on some days of the week than on
others, and noise that fades within hours. After six weeks and a half the level rises for good; in the ninth week the
sensor repeats one value for a day, and later it is silent for three hours. The session has the default configuration
and timestamps. Drawn are the one-step forecast that was served, its interval, the anomaly score and likelihood, and how
the weights of the experts moved. What was detected, and how good the forecasts were, is printed, too.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from bptt_core import Events, Fold, Outcomes, SensorState, SessionConfig, select_backend

Floats = NDArray[np.float64]

HALF_HOUR_NS, DAY, WEEK = 1800 * 10**9, 48, 7 * 48
MONDAY_NS = 1_704_067_200 * 10**9
EVENTS, HORIZON, CALL = 9 * WEEK, 4, 12
SHIFT, DEAD, SILENT = 6 * WEEK + 3 * DAY + 20, 8 * WEEK + 2 * DAY + 18, 8 * WEEK + 4 * DAY + 24
WINDOWS = {"the level rises": SHIFT, "the sensor dies": DEAD}


def readings(seed: int) -> Floats:
    """[EVENTS]: what the meter says, NaN where it is silent."""
    rng, t = np.random.default_rng(seed), np.arange(EVENTS)
    day = np.sin(2 * np.pi * t / DAY - 2) + 0.4 * np.sin(4 * np.pi * t / DAY)
    week = 1 + 0.4 * np.sin(2 * np.pi * t / WEEK)
    noise = np.zeros(EVENTS)
    for k in range(1, EVENTS):
        noise[k] = 0.8 * noise[k - 1] + rng.standard_normal()
    values = 60 + 20 * day * week + 2 * noise + np.where(t >= SHIFT, 25.0, 0.0)
    values[DEAD : DEAD + DAY] = values[DEAD]
    values[SILENT : SILENT + 6] = np.nan
    return values


def streamed(values: Floats) -> tuple[Outcomes, list[str], Floats, list[tuple[int, ...]]]:
    """The outcomes of all events; names of the experts, their weights [calls, K] and the seasons after each call."""
    fold = Fold(select_backend("numpy"))
    slot = fold.create(SessionConfig(("meter",), horizon=HORIZON))
    times = MONDAY_NS + HALF_HOUR_NS * np.arange(EVENTS, dtype=np.int64)
    parts, names, weights, seasons = [], [], [], []
    for start in range(0, EVENTS, CALL):
        here = slice(start, start + CALL)
        parts += fold.step([(slot, Events(values[here, None], times[here]))])
        status = fold.status(slot)
        names = [expert.name for expert in status.experts]
        weights.append([expert.weight for expert in status.experts])
        seasons.append(status.seasons)
    return Outcomes.joined(parts), names, np.array(weights), seasons


def tell(values: Floats, outcomes: Outcomes, seasons: list[tuple[int, ...]]) -> None:
    """Prints what was detected, and the errors."""
    for k, (before, now) in enumerate(zip([(0, 0), *seasons], seasons, strict=False)):
        if now != before:
            print(f"event {(k + 1) * CALL:>5}: seasons {now}")
    for k in np.flatnonzero(outcomes.drift):
        print(f"event {k + 1:>5}: drift ({k - SHIFT} after the shift)")
    for name in ("MISSING", "STUCK"):
        found = np.flatnonzero(outcomes.sensor_state[:, 0] == SensorState[name])
        if len(found):
            print(f"events {found[0] + 1} to {found[-1] + 1}: {name.lower()}, {len(found)} of them")
    print(f"events with a score above 1: {(np.flatnonzero(outcomes.anomaly_score > 1) + 1).tolist()}")
    truth, made = values[1:], slice(0, EVENTS - 1)
    naive = {"last value": values[:-1], "a week ago": np.concatenate([np.full(WEEK - 1, np.nan), values[:-WEEK]])}
    for title, part in (
        ("before the shift", slice(2 * WEEK, SHIFT - 1)),
        ("the week after it", slice(SHIFT, SHIFT + WEEK)),
    ):
        errors = {"session": outcomes.mean[made, 0, 0] - truth} | {name: x - truth for name, x in naive.items()}
        words = ", ".join(f"{name} {np.nanmean(e[part] ** 2):.2f}" for name, e in errors.items())
        inside = (outcomes.lower[made, 0, 0] <= truth) & (truth <= outcomes.upper[made, 0, 0])
        print(f"{title}: squared error {words}; inside the interval {100 * inside[part].mean():.1f} %")


def draw_window(panels: tuple[Any, Any], title: str, at: int, values: Floats, outcomes: Outcomes) -> None:
    """Forecast and interval above, score and likelihood below, some days around event `at`."""
    here = np.arange(at - 2 * DAY, at + 3 * DAY)
    days, made = here / DAY, here - 1
    above, below = panels
    bounds = outcomes.lower[made, 0, 0], outcomes.upper[made, 0, 0]
    above.fill_between(days, *bounds, color="C0", alpha=0.25, linewidth=0, label="interval, 90 %")
    above.plot(days, outcomes.mean[made, 0, 0], color="C0", linewidth=1.2, label="forecast, one step ahead")
    above.plot(days, values[here], color="black", linewidth=0.9, label="what came")
    state = outcomes.sensor_state[here, 0]
    for name, color in (("STUCK", "C3"), ("MISSING", "C1")):
        marked = state == SensorState[name]
        if marked.any():
            above.fill_between(
                days,
                0,
                1,
                marked,
                transform=above.get_xaxis_transform(),
                color=color,
                alpha=0.2,
                linewidth=0,
                label=f"sensor {name.lower()}",
            )
    above.set(title=title, xlim=(days[0], days[-1]), ylim=(15, 165))
    above.legend(fontsize=7, loc="upper left", ncols=3)
    below.plot(days, outcomes.anomaly_score[here], color="C3", linewidth=1.0, label="anomaly score")
    below.axhline(1, color="C3", linewidth=0.8, linestyle=":")
    below.plot(days, outcomes.anomaly_likelihood[here], color="C2", linewidth=1.0, label="anomaly likelihood")
    for k, drifted in enumerate(here[outcomes.drift[here]]):
        below.axvline(drifted / DAY, color="C4", linewidth=1.2, label="drift" if k == 0 else None)
    below.set(ylim=(0, 4), xlabel="day")
    below.legend(fontsize=7, loc="upper left", ncols=3)


def draw_weights(panel: Any, names: list[str], weights: Floats) -> None:
    """All experts' weights, one upon the other, from the first event to the last."""
    learners = sum(name.startswith("learner") for name in names)
    blues = mpl.colormaps["Blues"](np.linspace(0.35, 0.9, learners))
    others = ["0.3", "C1", "C4", "0.75", "C2"]
    days = CALL * np.arange(1, len(weights) + 1) / DAY
    panel.stackplot(days, weights.T, labels=names, colors=[*blues, *others], linewidth=0)
    for at in WINDOWS.values():
        panel.axvline(at / DAY, color="black", linewidth=0.8, linestyle=":")
    panel.set(xlim=(days[0], days[-1]), ylim=(0, 1), xlabel="day", ylabel="weight, mean over 4 horizons")
    panel.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    out = parser.parse_args().out
    values = readings(0)
    outcomes, names, weights, seasons = streamed(values)
    tell(values, outcomes, seasons)
    figure = plt.figure(figsize=(11, 8), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=(3, 2, 3))
    for column, (title, at) in enumerate(WINDOWS.items()):
        above = figure.add_subplot(grid[0, column])
        below = figure.add_subplot(grid[1, column], sharex=above)
        draw_window((above, below), title, at, values, outcomes)
    draw_weights(figure.add_subplot(grid[2, :]), names, weights)
    figure.savefig(out, dpi=130)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
