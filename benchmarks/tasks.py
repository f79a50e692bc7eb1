"""Streams made by a formula, so that the best score is known: does backpropagation through time learn what it should?

    python benchmarks/tasks.py [--seeds 3] [--only add grammar] [--jobs 2] [--backend numpy]

Each task is a function of a seed and a length and returns the stream, the session that learns it, what its forecasts
are held against and the scores to hold theirs beside: exact floors and naive forecasts. The tests of the core run short
versions of these (tests/core/test_formula_tasks*.py); the command runs longer and harder ones with several cells,
windows and seeds and prints the table of benchmarks/README.md. All forecasts are scored as they were served, each
before its target was looked at, over the last part of one pass. Knows nothing of how a session learns.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import math
import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from bptt_core import Categorical, Events, Fold, LearnerConfig, Outcomes, SessionConfig, select_backend

Floats = NDArray[np.float64]
CALL_EVENTS: Final = 1000


# A learner for streams of some ten thousand events: it starts fast, and ends slow to come close to the floor.
BRISK: Final = LearnerConfig(
    stride=8,
    input_init="glorot",
    learning_rate=1e-2,
    beta2=0.99,
    schedule="inverse",
    decay_updates=400,
    rate_floor=0.02,
)


@dataclass(frozen=True)
class Task:
    """A stream, and how what is forecast of it is scored."""

    seed: int
    events: Events
    session: SessionConfig  # its learner is not read
    truth: Floats  # [n] what the forecast made at each event is held against; NaN: nothing
    unit: str  # of the score: nats (of cross-entropy), MSE, NMSE (÷ variance) or NRMSE (its root)
    beside: dict[str, float]  # scores of others: exact floors, naive forecasts
    floor: float = 0.0  # nats: the entropy
    ideal: Floats | None = None  # [n] nats that who knows the formula pays for what came true; `floor` in the mean

    def first(self, length: int) -> Task:
        """The same stream, cut."""
        ideal = None if self.ideal is None else self.ideal[:length]
        return replace(self, events=self.events.rows(0, length), truth=self.truth[:length], ideal=ideal)

    def score(self, outcomes: Outcomes, events: slice) -> float:
        """Of the forecasts made at these events, if they are held against something.

        Nats are the floor and what was paid above the ideal forecaster on the same events: in the mean that is the
        cross-entropy, without the luck of the draw that both share.
        """
        held = np.zeros(len(self.truth), bool)
        held[events] = ~np.isnan(self.truth[events])
        truth, mean = self.truth[held], outcomes.mean[held, 0, 0]
        if self.unit != "nats":
            return normalised(float(((mean - truth) ** 2).mean()), truth, self.unit)
        assert self.ideal is not None
        served = np.where(truth == 1, mean, 1 - mean)
        if outcomes.distribution.shape[-1]:
            served = outcomes.distribution[held, 0, 0][np.arange(len(truth)), truth.astype(int)]
        return self.floor + float((-np.log(np.maximum(served, 1e-12)) - self.ideal[held]).mean())


def normalised(mse: float, truth: Floats, unit: str) -> float:
    """A mean squared error in the given unit."""
    if unit == "MSE":
        return mse
    return mse / float(truth.var()) if unit == "NMSE" else math.sqrt(mse / float(truth.var()))


def learn(tasks: list[Task], learner: LearnerConfig, backend: str = "numpy") -> list[Outcomes]:
    """The outcomes of each task's stream, all of them learned side by side in one pass, each with its own seed."""
    fold = Fold(select_backend(backend))
    slots = [fold.create(replace(t.session, learner=replace(learner, seed=t.seed))) for t in tasks]
    found: list[list[Outcomes]] = [[] for _ in tasks]
    for start in range(0, len(tasks[0].events), CALL_EVENTS):
        work = [(s, t.events.rows(start, start + CALL_EVENTS)) for s, t in zip(slots, tasks, strict=True)]
        for parts, outcomes in zip(found, fold.step(work), strict=True):
            parts.append(outcomes)
    return [Outcomes.joined(parts) for parts in found]


def binary_entropy(p: float) -> float:
    """Nats."""
    return sum(-q * math.log(q) for q in (p, 1 - p) if q > 0)


def add(seed: int, length: int, lags: tuple[int, int] = (3, 5)) -> Task:
    """The online add task: P(y(t) = 1) = ½ + ½·x(t − t1) − ¼·x(t − t2) for coin flips x.

    x is the feature and y the label. Labels are predicted once x(t) is known, so a window of k2 steps holds x(t) back
    to x(t − k2 + 1): both lags need k2 ≥ t2 + 1. Entropy of y: .6616 nats without memory, .5192 given the first lag,
    .4544 given both. After S. Pitis, "Styles of truncated backpropagation" (2016), with his coefficients.
    """
    rng = np.random.default_rng(seed)
    x = (rng.random(length + max(lags)) < 0.5).astype(float)
    first, second = (x[max(lags) - lag :][:length] for lag in lags)
    chance = 0.5 + 0.5 * first - 0.25 * second
    y = (rng.random(length) < chance).astype(float)
    given_both = [binary_entropy(0.5 + 0.5 * a - 0.25 * b) for a in (0, 1) for b in (0, 1)]
    given_first = [binary_entropy(0.5 + 0.5 * a - 0.125) for a in (0, 1)]
    floors = {"no memory": binary_entropy(0.625), "first lag": sum(given_first) / 2, "both lags": sum(given_both) / 4}
    session = SessionConfig(("x",), task="classify", labels=("y",))
    events = Events(x[max(lags) :, None], None, y[:, None])
    ideal = -np.log(np.where(y == 1, chance, 1 - chance))
    return Task(seed, events, session, y, "nats", floors, floors["both lags"], ideal)


def delayed_xor(seed: int, length: int, delay: int = 2) -> Task:
    """y(t) = x(t − d) xor x(t − d − 1) for coin flips x: no single lag says anything about y, both say everything.

    x is the feature and y the label; k2 ≥ d + 2. Chance is ln 2 = .693 nats, and so is the best linear readout of the
    past; solved it is 0. After the temporal XOR of Elman, "Finding structure in time" (1990).
    """
    rng = np.random.default_rng(seed)
    x = (rng.random(length + delay + 1) < 0.5).astype(float)
    y = np.abs(x[1 : length + 1] - x[:length])
    session = SessionConfig(("x",), task="classify", labels=("y",))
    events = Events(x[delay + 1 :, None], None, y[:, None])
    return Task(seed, events, session, y, "nats", {"chance": math.log(2)}, 0.0, np.zeros(length))


def mackey_glass(seed: int, length: int) -> Task:
    """dx/dt = 0.2·x(t − 17) / (1 + x(t − 17)^10) − 0.1·x(t): chaotic, smooth, forecast one step ahead.

    Runge–Kutta of the fourth order with steps of 0.1 (the delayed value in the middle of a step is the mean of its
    ends), sampled at every 1; the first 300 samples are dropped and the seed sets where it starts. Mackey & Glass
    (1977). NRMSE of persistence and of the line through the last two points stand beside: .032 the latter.
    """
    per_sample, delay = 10, 170
    start = 0.5 + float(np.random.default_rng(seed).random())
    path = [start] * (delay + 1)
    step = 1 / per_sample
    for _ in range((length + 300) * per_sample):
        x, early, late = path[-1], path[-delay - 1], path[-delay]
        inflow = [0.2 * d / (1 + d**10) for d in (early, (early + late) / 2, late)]
        k1 = inflow[0] - 0.1 * x
        k2 = inflow[1] - 0.1 * (x + step / 2 * k1)
        k3 = inflow[1] - 0.1 * (x + step / 2 * k2)
        k4 = inflow[2] - 0.1 * (x + step * k3)
        path.append(x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    values = np.array(path[::-per_sample][:length][::-1])
    truth = np.append(values[1:], np.nan)
    persistence = float(((values[1:] - values[:-1]) ** 2).mean())
    line = float(((values[2:] - 2 * values[1:-1] + values[:-2]) ** 2).mean())
    beside = {
        "persistence": normalised(persistence, values, "NRMSE"),
        "line through two points": normalised(line, values, "NRMSE"),
    }
    return Task(seed, Events(values[:, None]), SessionConfig(("x",)), truth, "NRMSE", beside)


def narma10(seed: int, length: int) -> Task:
    """y(t + 1) = 0.3·y(t) + 0.05·y(t)·Σ y(t − i) + 1.5·u(t − 9)·u(t) + 0.1, i = 0..9, u uniform in [0, ½].

    u is the feature and y(t + 1) the label of event t; y itself is never an input. Atiya & Parlos (2000). Where it
    diverges (y above 1.2, every 300,000 events or so) it starts again from a past of zeros. Beside: persistence, and
    the least-squares fit of the last 20 inputs.
    """
    u = np.random.default_rng(seed).uniform(0, 0.5, length + 209)
    past, y = collections.deque([0.0] * 10, 10), []
    for now, before in zip(u[9:].tolist(), u.tolist(), strict=False):
        value = _narma_next(past, before * now)
        if value > 1.2:
            past.extend([0.0] * 10)
            value = _narma_next(past, before * now)
        past.append(value)
        y.append(value)
    label, inputs = np.array(y[-length:]), u[-length:]
    last = np.stack([u[len(u) - length - lag :][:length] for lag in range(20)] + [np.ones(length)], axis=1)
    fit = last @ np.linalg.lstsq(last, label, rcond=None)[0]
    beside = {
        "persistence": normalised(float(np.mean(np.diff(label) ** 2)), label, "NMSE"),
        "best linear": normalised(float(((fit - label) ** 2).mean()), label, "NMSE"),
    }
    session = SessionConfig(("u",), task="regress", labels=("y",))
    return Task(seed, Events(inputs[:, None], None, label[:, None]), session, label, "NMSE", beside)


def _narma_next(past: collections.deque[float], product: float) -> float:
    return 0.3 * past[-1] + 0.05 * past[-1] * sum(past) + 1.5 * product + 0.1


Grammar = dict[str, tuple[str, ...]]  # of each state the ways out, all equally probable: a symbol, then the next state

SYMBOLS: Final = "BTPSXVE"
REBER: Final[Grammar] = {
    "0": ("B1",),
    "1": ("T2", "P3"),
    "2": ("S2", "X4"),
    "3": ("T3", "V5"),
    "4": ("X3", "S6"),
    "5": ("P4", "V6"),
    "6": ("E0",),
}


def embedded_reber() -> Grammar:
    """B, then T or P, then a word of Reber's grammar, then the same T or P again, then E."""
    states: Grammar = {"0": ("B1",), "1": ("TT0", "PP0"), "end": ("E0",)}
    for first in "TP":
        for state, ways in REBER.items():
            states[first + state] = tuple(f"{w[0]}{first}{w[1:]}" if w != "E0" else f"E{first}7" for w in ways)
        states[first + "7"] = (first + "end",)
    return states


def grammar(seed: int, length: int, states: Grammar = REBER) -> Task:
    """Words of a finite-state grammar one after the other, without a pause; the next symbol is forecast.

    Reber (1967); as a stream, and with words embedded in others: Gers, Schmidhuber & Cummins (2000). The symbols so far
    tell the state, so the entropy is exactly the stationary mean of the states' own. Beside it: the entropies given
    the last few symbols alone. In embedded words the second symbol must be remembered until the last but one.
    """
    state, symbols, choices = "0", [], []
    for draw in np.random.default_rng(seed).random(length):
        ways = states[state]
        choices.append(len(ways))
        way = ways[int(draw * len(ways))]
        symbols.append(float(SYMBOLS.index(way[0])))
        state = way[1:]
    values, truth = np.array(symbols), np.array([*symbols[1:], np.nan])
    session = SessionConfig(("s",), task="classify", categories=(Categorical("s", tuple(SYMBOLS)),))
    beside = {f"last {k} symbols": entropy(states, k) for k in (2, 5)} | {"entropy": entropy(states)}
    ideal = np.log([*choices[1:], 1])
    return Task(seed, Events(values[:, None]), session, truth, "nats", beside, beside["entropy"], ideal)


def entropy(states: Grammar, memory: int | None = None) -> float:
    """Nats per symbol given the state, or given no more than the last `memory` symbols."""
    names = list(states)
    moves = np.zeros((len(names), len(names)))
    for state, ways in states.items():
        for way in ways:
            moves[names.index(way[1:]), names.index(state)] += 1 / len(ways)
    system = np.vstack([moves - np.eye(len(names)), np.ones(len(names))])
    share = np.linalg.lstsq(system, np.append(np.zeros(len(names)), 1.0), rcond=None)[0]
    if memory is None:
        return float(sum(p * math.log(len(ways)) for p, ways in zip(share, states.values(), strict=True)))
    paths = {("", state): float(p) for state, p in zip(names, share, strict=True)}
    for _ in range(memory):
        paths = _longer(states, paths)
    context, whole = _by_symbols(paths), _by_symbols(_longer(states, paths))
    return sum(-p * math.log(p / context[symbols[:-1]]) for symbols, p in whole.items())


def _longer(states: Grammar, paths: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Probabilities of symbols and the state after them, one symbol further."""
    found: dict[tuple[str, str], float] = collections.defaultdict(float)
    for (symbols, state), p in paths.items():
        for way in states[state]:
            found[symbols + way[0], way[1:]] += p / len(states[state])
    return found


def _by_symbols(paths: dict[tuple[str, str], float]) -> dict[str, float]:
    found: dict[str, float] = collections.defaultdict(float)
    for (symbols, _), p in paths.items():
        found[symbols] += p
    return found


def adding(seed: int, length: int, steps: int = 20) -> Task:
    """The adding problem: episodes of `steps` events, each a number in [0, 1] and a mark; the sum of the two marked
    numbers, one in each half, is the label of the last event.

    Hochreiter & Schmidhuber (1997), in the form of Le, Jaitly & Hinton (2015). Always saying 1, the mean, costs 1/6.
    """
    rng = np.random.default_rng(seed)
    episodes, half = length // steps, steps // 2
    number = rng.random((episodes, steps))
    mark = np.zeros((episodes, steps))
    each = np.arange(episodes)
    for first, width in ((0, half), (half, steps - half)):
        mark[each, first + rng.integers(0, width, episodes)] = 1
    label = np.full((episodes, steps), np.nan)
    label[:, -1] = (number * mark).sum(axis=1)
    start = np.zeros((episodes, steps), bool)
    start[:, 0] = True
    values = np.stack([number, mark], axis=2).reshape(-1, 2)
    session = SessionConfig(("number", "mark"), task="regress", labels=("sum",))
    events = Events(values, None, label.reshape(-1, 1), start.reshape(-1))
    return Task(seed, events, session, label.reshape(-1), "MSE", {"the mean": 1 / 6})


class Case(NamedTuple):
    """A task as the command runs it, and the learners that are held to it."""

    name: str
    make: Callable[[int, int], Task]
    length: int
    learners: dict[str, LearnerConfig]


def brisk(cells: tuple[str, ...], windows: tuple[int, ...], **given: Any) -> dict[str, LearnerConfig]:
    """The brisk learner with every cell and window, and other fields changed."""
    found = {}
    for cell, window in itertools.product(cells, windows):
        fields: dict[str, Any] = {"cell": cell, "window": window, "stride": min(window, 8)} | given
        found[f"{cell}, k2 = {window}"] = replace(BRISK, **fields)
    return found


GATED: Final = ("gru", "lstm")
PATIENT: Final = {"decay_updates": 4000}  # for what takes long to find
NARMA: Final = {"learning_rate": 3e-3, "beta2": 0.999, "decay_updates": 1000}  # slower, for tanh cells
ADDING: Final = {"stride": 20, "learning_rate": 2e-2}
CASES: Final = (
    Case("add, lags 3 and 5", add, 60_000, brisk(GATED, (2, 4, 6, 16))),
    Case("add, lags 6 and 10", partial(add, lags=(6, 10)), 200_000, brisk(GATED, (4, 8, 24), **PATIENT)),
    Case("xor, 2 back", delayed_xor, 10_000, brisk(("tanh", *GATED), (8,))),
    Case("xor, 8 back", partial(delayed_xor, delay=8), 100_000, brisk(GATED, (8, 24), **PATIENT)),
    Case("Mackey-Glass", mackey_glass, 10_000, {"default": LearnerConfig()} | brisk(("tanh", *GATED), (32,))),
    Case(
        "NARMA-10",
        narma10,
        100_000,
        brisk(GATED, (24,))
        | brisk(("tanh",), (24,), **NARMA)
        | {f"{name}, 2 layers": c for name, c in brisk(("tanh",), (8, 24), layers=2, **NARMA).items()},
    ),
    Case("Reber", grammar, 20_000, brisk(GATED, (16,))),
    Case(
        "embedded Reber", partial(grammar, states=embedded_reber()), 60_000, brisk(GATED, (4, 32), bias_init="chrono")
    ),
    Case("adding, 20 steps", adding, 40_000, brisk(("tanh", *GATED), (20,), **ADDING)),
    Case("adding, 50 steps", partial(adding, steps=50), 200_000, brisk(GATED, (50,), **PATIENT, stride=10)),
    Case("adding, 100 steps", partial(adding, steps=100), 300_000, brisk(GATED, (100,), **PATIENT, stride=20)),
)


def scores(case: Case, learner: LearnerConfig, seeds: int, backend: str) -> list[float]:
    """Of the last quarter of the stream, one per seed."""
    made = [case.make(seed, case.length) for seed in range(1, seeds + 1)]
    return [
        t.score(o, slice(-case.length // 4, None)) for t, o in zip(made, learn(made, learner, backend), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="streams of each task, learned side by side (default 3)")
    parser.add_argument("--only", nargs="+", default=[""], help="tasks whose name contains one of these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--backend", default="auto", help="where sessions compute (default auto)")
    args = parser.parse_args()
    cases = [case for case in CASES if any(text in case.name for text in args.only)]
    chosen = select_backend(args.backend)
    chosen.warm_up()  # once, and not in every process
    versions = f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}"
    print(f"{versions}, {chosen.name}; {args.seeds} seeds")
    print("\n| task | events | learner | mean | worst | beside |\n|---|---|---|---|---|---|")
    with ProcessPoolExecutor(args.jobs) as pool:
        jobs = [
            (c, name, pool.submit(scores, c, l, args.seeds, args.backend))
            for c in cases
            for name, l in c.learners.items()
        ]
        for case, name, job in jobs:
            found, example = job.result(), case.make(1, 4000)
            beside = ", ".join(f"{what} {value:.3f}" for what, value in example.beside.items())
            mean = f"{sum(found) / len(found):.4f} {example.unit}"
            print(f"| {case.name} | {case.length:,} | {name} | {mean} | {max(found):.4f} | {beside} |", flush=True)


if __name__ == "__main__":
    main()
