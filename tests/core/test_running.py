"""Running mean squares that come down: never poisoned, not lifted by spikes, soon right again when all is smaller."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from bptt_core.running import RECENT, track_square

MEMORY, FLOOR = 2000, 1e-30


class Track(NamedTuple):
    count: np.ndarray  # [T, B]
    square: np.ndarray
    recent: np.ndarray


def track(values: np.ndarray, comes_down: bool = True) -> Track:
    """The state after each of values [T, B]."""
    B = values.shape[1]
    count, square, recent = np.zeros(B, np.int64), np.zeros(B), np.zeros(B)
    floor, after = np.full(B, FLOOR), []
    with np.errstate(all="ignore"):
        for value in values:
            track_square(count, square, value, floor, MEMORY, recent if comes_down else None)
            after.append([count.copy(), square.copy(), recent.copy()])
    return Track(*(np.array(column) for column in zip(*after, strict=True)))


def noise(n: int, streams: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, streams))


@pytest.mark.parametrize("smaller", [10.0, 1e3, 1e6])
def test_a_scale_follows_values_that_have_become_smaller(smaller: float) -> None:
    """Of its excess over five units an e-th goes in RECENT values, after as long as the latest take to tell; with its
    whole memory that would be a hundred times longer."""
    n = 2000
    values = noise(n + 2000)
    values[n:] /= smaller
    scale = np.sqrt(track(values).square) * smaller
    there = n + int(RECENT * 2 * np.log(smaller)) + 2 * RECENT
    assert (scale[n - 1] / smaller > 0.9).all()
    assert (scale[there:] < 6).all()
    assert (scale[-1] < 2).all()
    assert (np.sqrt(track(values, comes_down=False).square[there]) * smaller > 0.5 * smaller).all()


@pytest.mark.parametrize("law", ["gauss", "laplace", "t3"])
def test_of_values_of_one_size_it_is_the_mean_square_as_if_it_could_not_come_down(law: str) -> None:
    rng, shape = np.random.default_rng(1), (6000, 20)
    values = {"gauss": rng.standard_normal, "laplace": rng.laplace, "t3": lambda size: rng.standard_t(3, size)}[law](
        size=shape
    )
    moved, plain = track(values), track(values, comes_down=False)
    np.testing.assert_array_equal(moved.square, plain.square)
    np.testing.assert_array_equal(moved.count, plain.count)


@pytest.mark.parametrize("extreme", [1e14, -1e100])
def test_spikes_do_not_lift_it(extreme: float) -> None:
    """Each by at most 25 / memory of itself, and what is recent by less than twofold; soon both are as they were."""
    n = 2000
    values = noise(n + 300)
    usual = track(values)
    values[n] = extreme
    struck = track(values)
    assert (struck.square[n] <= usual.square[n - 1] * (1 + 25 / MEMORY)).all()
    assert (struck.recent[n] <= usual.recent[n - 1] * (1 + 25 / RECENT)).all()
    np.testing.assert_allclose(struck.square[-1], usual.square[-1], rtol=0.02)
    np.testing.assert_allclose(struck.recent[-1], usual.recent[-1], rtol=0.02)


def test_a_standstill_is_no_smaller_size() -> None:
    """Differences of 0 say nothing of those to come: the scale fades as slowly as ever, and 0 is not where it ends."""
    n = 2000
    values = noise(n + 500)
    values[n:] = 0
    standing = track(values)
    np.testing.assert_array_equal(standing.recent[-1], standing.recent[n - 1])
    np.testing.assert_allclose(standing.square[-1], standing.square[n - 1] * (1 - 1 / MEMORY) ** 500, rtol=1e-9)


def test_a_missing_value_moves_nothing() -> None:
    values = noise(300)
    gaps = np.insert(values, [0, 100, 100, 200], np.nan, axis=0)
    for whole, holey in zip(track(values), track(gaps), strict=True):
        assert whole[-1].tobytes() == holey[-1].tobytes()


def test_nothing_poisons_it() -> None:
    """Sizes over 200 orders of magnitude, zeros and missing values; then it is right again."""
    rng = np.random.default_rng(2)
    values = rng.standard_normal((1500, 20)) * 10.0 ** rng.integers(-100, 100, (1500, 20))
    values[rng.random(values.shape) < 0.1] = np.nan
    values[rng.random(values.shape) < 0.1] = 0
    wild = track(values)
    for column in wild:
        assert np.isfinite(column).all()
        assert (column >= 0).all()
    after = track(np.concatenate([values, noise(20_000)]))
    scale = np.sqrt(after.square[-1])
    assert ((scale > 0.5) & (scale < 6)).all()
