"""The compiled search for seasons finds what the reference finds, in every kind of window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt_core import periods

pytest.importorskip("numba", reason="compiled code needs numba")

from bptt_core.backends.jit import periods as compiled
from bptt_core.backends.jit.memory import entry

FIND = entry(compiled.find.py_func)

Values = Any
Rng = np.random.Generator
NONE = (0, 0)
WIDEST = 9  # targets, one more than are looked at
SIZES = (64, 65, 100, 256, 256, 512, 1024, 2048)


def season(rng: Rng, steps: Values, shortest: int = 4, longest: int = 725) -> Values:
    period = int(np.exp(rng.uniform(np.log(shortest), np.log(longest))))
    return rng.standard_normal(period)[steps % period]


def two_seasons(rng: Rng, steps: Values) -> Values:
    day, week = [(24, 168), (48, 336), (7, 364), (12, 300), (5, 8)][rng.integers(5)]
    return rng.standard_normal(day)[steps % day] + rng.uniform(0.3, 1.5) * rng.standard_normal(week)[steps % week]


def noise(rng: Rng, steps: Values) -> Values:
    return rng.standard_normal(len(steps))


def two_waves(rng: Rng, steps: Values) -> Values:
    day = rng.uniform(4, 30)
    return np.sin(2 * np.pi * steps / day) + np.sin(2 * np.pi * steps / (day * rng.uniform(2, 12)))


STREAMS: dict[str, Callable[[Rng, Values], Values]] = {
    "noise": noise,
    "walk": lambda rng, steps: noise(rng, steps).cumsum(),
    "heavy tails": lambda rng, steps: rng.standard_t(1.5, len(steps)),
    "constant": lambda rng, steps: np.full(len(steps), rng.standard_normal()),
    "season": season,
    "noisy season": lambda rng, steps: season(rng, steps) + rng.uniform(0, 2) * noise(rng, steps),
    "sine": lambda rng, steps: np.sin(steps / rng.uniform(1, 100)) + rng.uniform(0, 1.5) * noise(rng, steps),
    "season on a walk": lambda rng, steps: 3 * season(rng, steps) + noise(rng, steps).cumsum(),
    "season on a trend": lambda rng, steps: season(rng, steps) + rng.standard_normal() * steps,
    "two seasons": two_seasons,
    "two waves": lambda rng, steps: two_waves(rng, steps) + rng.uniform(0, 1) * noise(rng, steps),
    "two noisy seasons": lambda rng, steps: two_seasons(rng, steps) + rng.uniform(0, 1) * noise(rng, steps),
}


def target(rng: Rng, kind: str, size: int) -> Values:
    """A stream of that kind, perhaps whole numbers, with spikes or with up to six tenths missing, of any size."""
    values = STREAMS[kind](rng, np.arange(size))
    if rng.random() < 0.15:
        values = np.round(values)
    if rng.random() < 0.2:
        values = np.where(rng.random(size) < 0.01, values * 1e6, values)
    if rng.random() < 0.5:
        values = np.where(rng.random(size) < rng.uniform(0, 0.6), np.nan, values)
    return values * 10.0 ** rng.integers(-20, 20)


def windows(kind: str, count: int) -> list[tuple[Values, tuple[int, int]]]:
    """Windows whose first target is of that kind, beside up to eight of any, and the seasons that were found before."""
    rng = np.random.default_rng(sum(kind.encode()))
    found = []
    for _ in range(count):
        size, others = int(rng.choice(SIZES)), rng.choice(list(STREAMS), rng.choice([0, 0, 0, 1, 2, WIDEST - 1]))
        columns = [target(rng, name, size) for name in (kind, *others)]
        window = np.stack(columns, axis=1)
        found.append((window, near(rng, *periods.find(window, NONE))))
    return found


def near(rng: Rng, first: int, second: int) -> tuple[int, int]:
    """Seasons that were found before: none, others, or more or less those that are there now."""
    kind = rng.integers(4)
    if kind == 0 or not first:
        return NONE if rng.random() < 0.5 else (int(rng.choice([7, 24, 48, 700])), int(rng.choice([0, 168])))
    if kind == 1:
        return first * 2, second and second * 2
    return first + int(rng.integers(-1, 2)), second and second + int(rng.integers(-2, 3)) * (first if kind == 2 else 1)


def scratch() -> Values:
    """As big as it must be and poisoned."""
    return np.full(compiled.scratch_bytes(WIDEST) // 8, np.nan)


def find(window: Values, current: tuple[int, int], block: Values) -> tuple[int, int]:
    window = np.ascontiguousarray(window)
    first, second = FIND(window.ctypes.data, *window.shape, *current, block.ctypes.data)
    return first, second


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """As the fold calls the reference."""
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("kind", STREAMS)
def test_the_compiled_search_finds_the_seasons_of_the_reference(kind: str) -> None:
    for number, (window, current) in enumerate(windows(kind, 50)):
        assert find(window, current, scratch()) == periods.find(window, current), (number, window.shape, current)


@pytest.mark.parametrize(
    ("seed", "kind", "rule"),
    [
        (72030, "sine", "of many dips only the first are tried"),
        (1234, "two waves", "a second season is whole first ones, the nearest"),
        (12414, "sine", "few pairs make no dip"),
    ],
)
def test_rules_that_seldom_decide_are_the_reference_s_too(seed: int, kind: str, rule: str) -> None:
    rng = np.random.default_rng(seed)
    window = target(rng, kind, int(rng.choice(SIZES)))[:, None]
    assert find(window, NONE, scratch()) == periods.find(window, NONE), rule


def test_all_sorts_of_seasons_are_among_those_windows() -> None:
    found = [(periods.find(*case), case[1]) for kind in STREAMS for case in windows(kind, 50)]
    assert sum(new == NONE for new, _ in found) > 30
    assert sum(new == old != NONE for new, old in found) > 30, "kept"
    assert sum(new != old != NONE for new, old in found) > 30, "replaced"
    assert sum(new[1] > 0 and old == NONE for new, old in found) > 10, "two found"


@pytest.mark.parametrize("size", [64, 67, 1024, periods.WINDOW])
@pytest.mark.parametrize("missing", [0.0, 0.01, 0.6, 1.0])
def test_the_difference_function_is_the_reference_s(size: int, missing: float) -> None:
    rng = np.random.default_rng(size)
    window = np.where(rng.random((size, 2)) < missing, np.nan, rng.standard_normal((size, 2)).cumsum(axis=0))
    block = scratch()
    find(window, NONE, block)
    wanted, stride = periods._Lags.of(periods._channels(window)), size + compiled.SPARE
    channels = len(wanted.difference)
    rows = block[: stride * 3 * channels].reshape(3, channels, stride)[:, :, :size]
    assert np.array_equal(rows[2], wanted.pairs)
    np.testing.assert_allclose(rows[1], wanted.difference, rtol=1e-10, atol=1e-13)


def test_values_beyond_measure_are_no_season() -> None:
    steps = np.arange(256)
    for size in (1e200, 1e307, 1.7e308):
        for values in (np.where(steps % 2, size, -size), np.where(steps % 24, 1.0, size)):
            assert find(values[:, None], NONE, scratch()) == periods.find(values[:, None], NONE), size
