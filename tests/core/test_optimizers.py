"""Every optimiser against its formula, element by element in Python's floats, as the papers and PyTorch write it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from bptt_core.learner_config import OPTIMIZERS, SCHEDULES
from bptt_core.optimizers import MOMENTS, Settings, apply, scheduled_rate

B, P, STEPS = 3, 5, 12
RATES, BETA1, BETA2, DECAY = (0.1, 0.003, 0.02), (0.9, 0.0, 0.5), (0.999, 0.9, 0.0), (0.0, 2.0, 0.01)


def sgd(rate: float, beta1: float, beta2: float) -> Iterator[float]:
    change = 0.0
    while True:
        gradient = yield change
        change = -rate * gradient


def momentum(rate: float, beta1: float, beta2: float, nesterov: bool = False) -> Iterator[float]:
    gradient = yield 0.0
    velocity = gradient
    while True:
        direction = gradient + beta1 * velocity if nesterov else velocity
        gradient = yield -rate * direction
        velocity = beta1 * velocity + gradient


def nesterov(rate: float, beta1: float, beta2: float) -> Iterator[float]:
    return momentum(rate, beta1, beta2, nesterov=True)


def rmsprop(rate: float, beta1: float, beta2: float) -> Iterator[float]:
    mean_square, change = 0.0, 0.0
    while True:
        gradient = yield change
        mean_square = beta2 * mean_square + (1 - beta2) * gradient**2
        change = -rate * gradient / (math.sqrt(mean_square) + 1e-8)


def adam(rate: float, beta1: float, beta2: float) -> Iterator[float]:
    """The bias-corrected means written out as the weighted means of the gradients that they are."""
    past: list[float] = []
    change = 0.0
    while True:
        past.append((yield change))
        weights1, weights2 = ([b**k for k in range(len(past))][::-1] for b in (beta1, beta2))
        mean = sum(w * g for w, g in zip(weights1, past, strict=True)) / sum(weights1)
        square = sum(w * g * g for w, g in zip(weights2, past, strict=True)) / sum(weights2)
        change = -rate * mean / (math.sqrt(square) + 1e-8)


RULES: dict[str, Callable[[float, float, float], Iterator[float]]] = {
    "sgd": sgd, "momentum": momentum, "nesterov": nesterov, "rmsprop": rmsprop, "adam": adam, "adamw": adam,
}  # fmt: skip


def settings(steps: int, rate: tuple[float, ...] = RATES, decay: tuple[float, ...] = DECAY) -> Settings:
    columns = (np.array(values[: len(rate)]) for values in (rate, BETA1, BETA2, decay))
    return Settings(*columns, np.full(len(rate), steps))


def test_every_optimiser_has_its_rule_here() -> None:
    assert set(RULES) == set(OPTIMIZERS) == set(MOMENTS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learners_with_settings_of_their_own_take_the_steps_of_the_formula(name: str) -> None:
    rng = np.random.default_rng(1)
    params = rng.standard_normal((B, P))
    expected = params.copy()
    rules = [[RULES[name](RATES[b], BETA1[b], BETA2[b]) for _ in range(P)] for b in range(B)]
    for row in rules:
        for rule in row:
            next(rule)
    moments = [np.zeros((B, P)) for _ in range(MOMENTS[name])]
    for steps in range(1, STEPS + 1):
        gradient = rng.standard_normal((B, P)) * 10 ** rng.uniform(-3, 3, (B, P))
        given = gradient.copy()
        apply(np, name, params, gradient, moments, settings(steps))
        assert (gradient == given).all()
        for b, p in np.ndindex(B, P):
            expected[b, p] *= 1 - RATES[b] * DECAY[b]  # decoupled: the rule never sees it
            expected[b, p] += rules[b][p].send(gradient[b, p])
        np.testing.assert_allclose(params, expected, rtol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learner_is_not_touched_by_its_neighbours(name: str) -> None:
    rng = np.random.default_rng(2)
    params = rng.standard_normal((B, 999)).astype(np.float32)
    alone = [params[b : b + 1].copy() for b in range(B)]
    moments = [np.zeros_like(params) for _ in range(MOMENTS[name])]
    own = [[np.zeros_like(row) for _ in moments] for row in alone]
    for steps in range(1, 4):
        gradient = rng.standard_normal(params.shape).astype(np.float32)
        everyone = settings(steps)
        apply(np, name, params, gradient, moments, everyone)
        for b in range(B):
            apply(np, name, alone[b], gradient[b : b + 1], own[b], Settings(*(part[b : b + 1] for part in everyone)))
    assert [row.tobytes() for row in params] == [row.tobytes() for row in alone]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_by_a_known_factor_whatever_the_gradient_is(name: str) -> None:
    gradient = np.ones((1, P))
    ends = []
    for decay in (0.0, 0.5):
        params = np.full((1, P), 4.0)
        moments = [np.zeros((1, P)) for _ in range(MOMENTS[name])]
        apply(np, name, params, gradient, moments, settings(1, (0.2,), (decay,)))
        ends.append(params)
    np.testing.assert_allclose(ends[0] - ends[1], 4.0 * 0.2 * 0.5, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if MOMENTS[name]])
def test_moments_that_have_all_but_vanished_become_zero(name: str) -> None:
    params = np.zeros((1, 4), np.float32)
    moments = [np.array([[1e-38, -1e-38, 1e-20, 1.0]], np.float32) for _ in range(MOMENTS[name])]
    if name == "rmsprop" or len(moments) == 2:
        moments[-1][:] = abs(moments[-1])  # a mean of squares
    usual = Settings(np.array([0.1]), np.array([0.9]), np.array([0.999]), np.zeros(1), np.array([7]))
    apply(np, name, params, np.zeros_like(params), moments, usual)
    for moment in moments:
        assert (moment == 0).tolist() == [[True, True, False, False]]
    assert np.isfinite(params).all()


def rates(schedule: str, steps: list[int], warmup: float = 0, decay: float = 100, floor: float = 0.1) -> list[float]:
    columns = (np.full(len(steps), value) for value in (0.5, warmup, decay, floor))
    return scheduled_rate(schedule, *columns, np.array(steps)).tolist()


STEPS_SEEN = [1, 2, 10, 101, 301, 901, 5_000, 10**9]


def test_a_constant_rate_is_constant() -> None:
    assert rates("constant", STEPS_SEEN) == [0.5] * len(STEPS_SEEN)


@pytest.mark.parametrize(("schedule", "power"), [("inverse_sqrt", 0.5), ("inverse", 1.0)])
def test_a_rate_decays_as_its_formula_down_to_the_floor(schedule: str, power: float) -> None:
    expected = [0.5 * max(0.1, (1 + (n - 1) / 100) ** -power) for n in STEPS_SEEN]
    np.testing.assert_allclose(rates(schedule, STEPS_SEEN), expected, rtol=1e-12)
    assert rates(schedule, [101])[0] == pytest.approx(0.5 * 2**-power)  # t = decay
    assert rates(schedule, [10**9])[0] == 0.05
    assert rates(schedule, [10**9], floor=0)[0] < 2e-4


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_rises_linearly_to_the_rate_of_the_schedule(schedule: str) -> None:
    plain, warm = rates(schedule, STEPS_SEEN), rates(schedule, STEPS_SEEN, warmup=10)
    shares = [w / p for w, p in zip(warm, plain, strict=True)]
    np.testing.assert_allclose(shares, [0.1, 0.2, *[1.0] * 6], rtol=1e-12)


def test_each_learner_has_a_schedule_of_its_own() -> None:
    together = scheduled_rate(
        "inverse", np.array([1.0, 2.0]), np.array([0.0, 4.0]), np.array([10.0, 1.0]), np.array([0.0, 0.5]),
        np.array([11, 2]),
    )  # fmt: skip
    np.testing.assert_allclose(together, [0.5, 2 * 0.5 * 0.5], rtol=1e-12)
