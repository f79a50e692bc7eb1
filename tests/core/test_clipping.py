"""Every clip against its definition, and what it says of itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bptt_core.clipping import FEWEST, RING, clip, global_norm, quantile_limit, remember
from bptt_core.learner_config import CLIPS

DTYPES = [np.float32, np.float64]


def gradient(norms: list[float], dtype: type = np.float64, size: int = 50, seed: int = 1) -> np.ndarray:
    """Rows of these norms."""
    rows = np.random.default_rng(seed).standard_normal((len(norms), size))
    return (rows / np.linalg.norm(rows, axis=1)[:, None] * np.array(norms)[:, None]).astype(dtype)


def clipped(kind: str, rows: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """What is left of `rows`, and the reported scale."""
    left = rows.copy()
    return left, clip(np, kind, left, global_norm(np, rows), np.full(len(rows), limit))


def test_the_norm_is_summed_over_all_parameters_of_a_learner() -> None:
    rows = np.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [1e-3, 1e3, 0.0]], np.float32)
    expected = [math.sqrt(sum(float(x) ** 2 for x in row)) for row in rows]
    assert global_norm(np, rows).dtype == np.float64
    np.testing.assert_allclose(global_norm(np, rows), expected, rtol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_by_norm_it_scales_as_pytorch_does(dtype: type) -> None:
    rows = gradient([0.5, 2.0, 8.0, 1e8], dtype)
    left, scale = clipped("norm", rows, 2.0)
    factors = [min(1.0, 2.0 / (n + 1e-6)) for n in np.linalg.norm(rows.astype(np.float64), axis=1)]
    np.testing.assert_allclose(left, rows * np.array(factors)[:, None], rtol=1e-6 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(scale, factors, rtol=1e-6)
    assert (np.linalg.norm(left, axis=1) <= 2.0 * (1 + 1e-6)).all()
    assert left[0].tobytes() == rows[0].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_by_value_every_element_keeps_its_sign_and_within_the_range_its_value(dtype: type) -> None:
    rows = gradient([0.1, 20.0, 1e9], dtype)
    left, scale = clipped("value", rows, 0.7)
    for old, new in zip(rows.flat, left.flat, strict=True):
        assert new == (old if abs(old) <= 0.7 else np.copysign(dtype(0.7), old))
    ratio = np.linalg.norm(left.astype(np.float64), axis=1) / np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(scale, ratio, rtol=1e-6)
    assert scale[0] == 1


def test_off_it_changes_nothing_and_says_so() -> None:
    rows = gradient([1.0, 1e9])
    left, scale = clipped("off", rows, 0.0)
    assert left.tobytes() == rows.tobytes()
    assert scale.tolist() == [1.0, 1.0]


def test_by_quantile_what_is_longer_is_scaled_down_to_it() -> None:
    rows = gradient([1e-9, 0.5, 2.0, 8.0])
    left, scale = clipped("quantile", rows, 2.0)
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), [1e-9, 0.5, 2.0, 2.0], rtol=1e-12)
    np.testing.assert_allclose(scale, [1, 1, 1, 0.25], rtol=1e-6)
    assert clipped("quantile", gradient([1.0]), 0.0)[1] == 0
    assert clipped("quantile", gradient([5.0]), np.inf)[1] == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", CLIPS)
def test_the_scale_is_one_exactly_where_nothing_was_changed(kind: str, dtype: type) -> None:
    """Also where the change is smaller than float32 can say."""
    close = [1 - 1e-6, 1.0, *(1 + 10.0**-k for k in range(3, 17))]
    rows = np.zeros((len(close), 4), dtype)
    rows[:, 1] = close
    left, scale = clipped(kind, rows, 1.0)
    assert scale.dtype == np.float32
    assert (scale == 1).tolist() == (left == rows).all(axis=1).tolist()
    assert ((scale <= 1) & (scale > 0.99)).all()


@pytest.mark.parametrize("kind", [kind for kind in CLIPS if kind != "off"])
def test_an_exploding_gradient_does_not_pass(kind: str) -> None:
    rows = gradient([1.0] * 20 + [1e12])
    ring, count = np.full((1, RING), np.nan), np.zeros(1, np.int64)
    for row in rows[:-1]:
        remember(ring, count, global_norm(np, row[None]))
    limit = quantile_limit(ring, count, np.array([0.9]))[0] if kind == "quantile" else 1.0
    left, scale = clipped(kind, rows[-1:], limit)
    assert np.linalg.norm(left) <= math.sqrt(rows.shape[1]) * (1 + 1e-9)  # by value: each element may be 1
    assert scale[0] < 1e-10


@pytest.mark.parametrize("quantile", [0.01, 0.25, 0.9, 1.0])
def test_the_limit_is_the_quantile_of_the_last_norms(quantile: float) -> None:
    rng = np.random.default_rng(3)
    norms: list[float] = []
    ring, count = np.full((1, RING), np.nan), np.zeros(1, np.int64)
    for k in range(3 * RING):
        limit = quantile_limit(ring, count, np.array([quantile]))[0]
        if k < FEWEST:
            assert limit == np.inf
        else:
            assert limit == pytest.approx(np.quantile(norms[-RING:], quantile), rel=1e-12)
        norms.append(float(10 ** rng.uniform(-6, 6)))
        remember(ring, count, np.array(norms[-1:]))
    assert sorted(ring[0]) == sorted(norms[-RING:])


def test_every_learner_has_a_ring_of_its_own() -> None:
    ring, count = np.full((3, RING), np.nan), np.array([0, 0, 0])
    for k in range(20):
        remember(ring[:2], count[:2], np.array([1.0 + k, 100.0]))
    limit = quantile_limit(ring, count, np.array([0.5, 0.9, 0.9]))
    assert limit.tolist() == [10.5, 100.0, np.inf]
    assert count.tolist() == [20, 20, 0]
