"""Each loss against its formula, written down once more for complex numbers: its value is the real part, its slope the
complex step's (Squire & Trapp 1998), both to rounding. Then what is common to all: the mean over active pairs."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import numpy as np
import pytest

from bptt_core import LOSSES
from bptt_core.heads import LOSSES as FUNCTIONS
from bptt_core.heads import masked_loss, per_pair

B, N, R = 3, 40, 4
PARAMETER = np.array([[0.7], [1.5], [4.0]])
LEVELS = (0.05, 0.3, 0.5, 0.9)


def size(e: complex) -> complex:
    return e if e.real >= 0 else -e


def huber(e: complex, delta: float) -> complex:
    return 0.5 * e * e if abs(e.real) <= delta else delta * (size(e) - 0.5 * delta)


def pinball(ys: list[complex], target: float) -> complex:
    d = [target - y for y in ys]
    return sum(max(level * e, (level - 1) * e, key=lambda z: z.real) for level, e in zip(LEVELS, d, strict=True)) / len(
        d
    )


# (outputs, target, parameter) → loss
FORMULAS: dict[str, Callable[[list[complex], float, float], complex]] = {
    "squared": lambda y, t, _: (y[0] - t) ** 2,
    "absolute": lambda y, t, _: size(y[0] - t),
    "huber": lambda y, t, delta: huber(y[0] - t, delta),
    "student_t": lambda y, t, nu: 0.5 * (nu + 1) * cmath.log(1 + (y[0] - t) ** 2 / nu),
    "pinball": lambda y, t, _: pinball(y, t),
    "gaussian": lambda y, t, _: 0.5 * (y[1] + (y[0] - t) ** 2 / cmath.exp(y[1])),
    "softmax": lambda y, t, _: cmath.log(sum(map(cmath.exp, y))) - y[round(t)],
    "sigmoid": lambda y, t, _: cmath.log(1 + cmath.exp(y[0])) - t * y[0],
}


def drawn(loss: str, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Outputs [B, N, R] and targets [B, N]."""
    rng = np.random.default_rng(seed)
    outputs = per_pair(loss, LEVELS, R)
    targets = {"softmax": rng.integers(0, R, (B, N)).astype(float), "sigmoid": rng.random((B, N)).round(1)}
    return 2 * rng.standard_normal((B, N, outputs)), targets.get(loss, rng.standard_normal((B, N)))


def levels_of(loss: str) -> tuple[float, ...]:
    return LEVELS if loss == "pinball" else ()


def test_every_loss_of_the_configuration_is_there() -> None:
    assert set(FUNCTIONS) == set(FORMULAS) == set(LOSSES)


@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_slope_are_those_of_the_formula(loss: str) -> None:
    ys, targets = drawn(loss)
    value, slope = FUNCTIONS[loss](np, ys, targets, PARAMETER, levels_of(loss))
    assert value.shape == (B, N)
    assert slope.shape == ys.shape
    for b, n in np.ndindex(B, N):
        outputs, rest = ys[b, n].tolist(), (float(targets[b, n]), float(PARAMETER[b, 0]))
        assert value[b, n] == pytest.approx(FORMULAS[loss](outputs, *rest).real, rel=1e-12)
        for r in range(len(outputs)):
            moved = [complex(y, 1e-30 * (k == r)) for k, y in enumerate(outputs)]
            exact = FORMULAS[loss](moved, *rest).imag / 1e-30
            assert slope[b, n, r] == pytest.approx(exact, rel=1e-11, abs=1e-15)


def test_both_branches_of_the_huber_loss_are_visited() -> None:
    ys, targets = drawn("huber")
    inside = np.abs(ys[:, :, 0] - targets) <= PARAMETER
    assert inside.any(axis=1).all()
    assert (~inside).any(axis=1).all()


@pytest.mark.parametrize("loss", ["absolute", "pinball"])
def test_the_slope_at_a_kink_is_zero(loss: str) -> None:
    _, slope = FUNCTIONS[loss](np, np.full((1, 1, per_pair(loss, LEVELS)), 0.3), np.full((1, 1), 0.3), None, LEVELS)
    assert not slope.any()


@pytest.mark.parametrize("level", [0.05, 0.5, 0.8])
def test_pinball_is_least_at_the_quantile(level: float) -> None:
    sample = np.random.default_rng(3).standard_normal((1, 1001))
    at = np.sort(sample[0])

    def mean(y: float) -> float:
        value, _ = FUNCTIONS["pinball"](np, np.full((1, 1001, 1), y), sample, PARAMETER, (level,))
        return float(value.mean())

    assert min(range(1001), key=lambda k: mean(at[k])) == round(level * 1000)


def test_the_gaussian_is_least_at_mean_and_log_variance() -> None:
    sample = np.random.default_rng(3).standard_normal((1, 1001)) * 3 + 5
    best = [sample.mean(), math.log(sample.var())]
    _, slope = FUNCTIONS["gaussian"](np, np.tile(best, (1, 1001, 1)), sample, PARAMETER, ())
    np.testing.assert_allclose(slope.mean(axis=(0, 1)), 0, atol=1e-12)


@pytest.mark.parametrize("side", [-1, 1])
def test_the_log_variance_is_limited_and_can_come_back(side: int) -> None:
    """At ±12 and beyond the loss is that of ±12; only a slope that leads back inside is kept."""
    outwards, inwards = (0.0, 1e4) if side < 0 else (1e4, 0.0)  # errors that call for a smaller or larger variance
    for beyond in (0.0, 3.0, 1e30):
        ys = np.array([[[outwards, side * (12 + beyond)], [inwards, side * (12 + beyond)]]])
        value, slope = FUNCTIONS["gaussian"](np, ys, np.zeros((1, 2)), PARAMETER[:1], ())
        exact = [FORMULAS["gaussian"]([error, side * 12.0], 0.0, 0.0).real for error in (outwards, inwards)]
        np.testing.assert_allclose(value[0], exact, rtol=1e-12)
        assert slope[0, 0, 1] == 0
        assert np.sign(slope[0, 1, 1]) == side
        np.testing.assert_allclose(slope[0, :, 0], [outwards * math.exp(-12 * side), inwards * math.exp(-12 * side)])


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_large_logits_do_not_overflow(loss: str) -> None:
    for dtype in (np.float32, np.float64):
        ys = np.array([[[3e4, -3e4], [-3e4, 3e4], [0, 0]]], dtype)[:, :, : per_pair(loss, (), 2)]
        value, slope = FUNCTIONS[loss](np, ys, np.zeros((1, 3), dtype), None, ())
        assert value.dtype == slope.dtype == dtype
        wrong = (0, 6e4) if loss == "softmax" else (3e4, 0)
        np.testing.assert_allclose(value[0], [*wrong, math.log(2)], rtol=1e-6)
        np.testing.assert_allclose(slope[0, :, 0], [-0.0, -1, -0.5] if loss == "softmax" else [1, 0, 0.5], rtol=1e-6)


def of_steps(array: np.ndarray, steps: int) -> np.ndarray:
    """[B, n, …] as [T, B, …]."""
    return array.reshape(B, steps, -1).swapaxes(0, 1)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_mean_runs_over_the_active_pairs(loss: str) -> None:
    """Inactive pairs may hold anything, in targets and in outputs; a learner without an active one has loss 0."""
    ys, targets = drawn(loss)
    active = np.random.default_rng(2).random((B, N)) < 0.6
    active[1] = False
    value, slope = FUNCTIONS[loss](np, ys, targets, PARAMETER, levels_of(loss))
    counts = np.maximum(active.sum(axis=1), 1)
    expected = np.where(active, value, 0).sum(axis=1) / counts
    expected_slope = np.where(active[:, :, None], slope, 0) / counts[:, None, None]
    for junk, output in ((np.nan, 0.0), (np.nan, np.nan), (1e30, 1e30), (-1.0, np.inf)):
        ys[~active], targets[~active] = output, junk
        given = (of_steps(array, 8) for array in (ys, targets, active))
        with np.errstate(all="ignore"):
            found, dys = masked_loss(np, loss, *given, PARAMETER, levels_of(loss))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(dys, of_steps(expected_slope, 8), rtol=1e-12)
    assert found[1] == 0
    assert not dys[:, 1].any()


@pytest.mark.parametrize("pairs", [1, 5])
@pytest.mark.parametrize("loss", LOSSES)
def test_bits_do_not_depend_on_the_company(loss: str, pairs: int) -> None:
    ys, targets = (array.astype(np.float32) for array in drawn(loss))
    active = np.random.default_rng(2).random((B, N)) < 0.6
    parameter = PARAMETER.astype(np.float32)
    given = [of_steps(array, N // pairs) for array in (ys, targets, active)]
    for arrays in (given, [np.ascontiguousarray(array) for array in given]):
        together = masked_loss(np, loss, *arrays, parameter, levels_of(loss))
        for b in range(B):
            part = slice(b, b + 1)
            alone = masked_loss(np, loss, *(array[:, part] for array in arrays), parameter[part], levels_of(loss))
            assert alone[0].dtype == alone[1].dtype == np.float32
            np.testing.assert_array_equal(alone[0], together[0][part])
            np.testing.assert_array_equal(alone[1], together[1][:, part])


def test_outputs_of_a_pair() -> None:
    found = {loss: per_pair(loss, LEVELS, 7) for loss in LOSSES}
    assert found == dict.fromkeys(LOSSES, 1) | {"gaussian": 2, "pinball": 4, "softmax": 7}
