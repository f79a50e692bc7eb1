"""Aggregation against its formula in plain floats, its regret bound, its symmetries, streams with a known answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from bptt_core import aggregation
from bptt_core.aggregation import MEMORY, SHARE, AggregationShape
from bptt_core.slab import Rows

Adversary = Callable[[int, np.ndarray, np.random.Generator], tuple[np.ndarray, float]]


def new_rows(shape: AggregationShape, sessions: int = 1) -> Rows:
    return {f.name: np.full((sessions, *f.shape), f.start, f.dtype) for f in aggregation.fields(shape)}


@dataclass
class Stream:
    """Sessions fed step by step, with the rings that a fold keeps: what was issued for now, per horizon."""

    shape: AggregationShape
    sessions: int = 1

    def __post_init__(self) -> None:
        H, O, K = self.shape.horizon, self.shape.targets, self.shape.experts
        self.rows = new_rows(self.shape, self.sessions)
        self.forecasts = np.full((self.sessions, H, H, O, K), np.nan)
        self.mixed, self.unit = np.full((2, self.sessions, H, H, O), np.nan)
        self.steps = 0

    def step(self, observed: np.ndarray, forecasts: np.ndarray, unit: float | np.ndarray = 1.0) -> np.ndarray:
        """`observed` [B, O] and the `forecasts` [B, H, O, K] made after it; returns their aggregate [B, H, O]."""
        horizons = np.arange(self.shape.horizon)
        due = (self.steps - 1 - horizons) % self.shape.horizon
        forecast, aggregate, size = (a[:, due, horizons] for a in (self.forecasts, self.mixed, self.unit))
        aggregation.settle(self.shape, self.rows, forecast, aggregate, observed, size)
        mixed = aggregation.mix(aggregation.weights(self.shape, self.rows), forecasts)
        now = self.steps % self.shape.horizon
        self.forecasts[:, now], self.mixed[:, now], self.unit[:, now] = forecasts, mixed, unit
        self.steps += 1
        return mixed

    @property
    def weights(self) -> np.ndarray:
        return aggregation.weights(self.shape, self.rows)


def one_ahead(values: np.ndarray, forecasts: np.ndarray, prior: tuple[float, ...] = ()) -> np.ndarray:
    """Squared errors of the aggregate, forecasts[n] [K] standing for values[n + 1]."""
    stream = Stream(AggregationShape(1, 1, forecasts.shape[1], prior))
    mixed = [stream.step(np.full((1, 1), v), f[None, None, None]) for v, f in zip(values, forecasts, strict=True)]
    errors: np.ndarray = np.array(mixed)[:-1, 0, 0, 0] - values[1:]
    return errors**2


class PlainChain:
    """The rule for one (horizon, target) as the docstring states it, in plain floats and units of the usual error."""

    def __init__(self, horizon: int, prior: list[float]) -> None:
        self.horizon, self.prior, K = horizon, prior, len(prior)
        self.E, self.V, self.R, self.weights = [0.0] * K, [0.0] * K, [0.0] * K, prior

    def settle(self, forecasts: list[float], mixed: float, observed: float, unit: float) -> None:
        fade, K = 1 - 1 / MEMORY, len(forecasts)
        error = min(max(mixed - observed, -10 * unit), 10 * unit)
        regrets = [2 * error * (mixed - forecast) / unit**2 for forecast in forecasts]
        self.E = [max(fade * E, abs(r)) for E, r in zip(self.E, regrets, strict=True)]
        self.E = [max(E, 1e-6 * max(self.E)) for E in self.E]
        potential, etas = [], []
        for k, r in enumerate(regrets):
            self.V[k] = fade * self.V[k] + r * r
            eta = min(1 / (2 * self.E[k]), math.sqrt(math.log(1 + K) / (self.horizon * self.V[k])))
            self.R[k] = fade * self.R[k] + r - eta * r * r
            potential.append(math.log(self.prior[k] * eta) + eta * self.R[k])
            etas.append(eta)
        highest = max(potential)
        for k in range(K):
            least = highest + math.log(SHARE * self.prior[k])
            if potential[k] < least:
                self.R[k] += (least - potential[k]) / etas[k]
                potential[k] = least
        total = sum(math.exp(p - highest) for p in potential)
        self.weights = [math.exp(p - highest) / total for p in potential]


def test_delayed_feedback_is_that_of_a_plain_chain_per_horizon_and_target() -> None:
    H, O, prior = 4, 2, (0.4, 0.3, 0.2, 0.1)
    rng = np.random.default_rng(1)
    stream = Stream(AggregationShape(H, O, len(prior), prior))
    chains = {(h, o): PlainChain(h + 1, list(prior)) for h in range(H) for o in range(O)}
    issued: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for n in range(500):
        observed = 5 + rng.standard_normal(O)
        observed[rng.random(O) < 0.2] = np.nan
        noise = np.array([0.1, 0.5, 1.0, 2.0]) * rng.standard_normal((H, O, 4))
        forecasts, unit = 5 + noise[..., :: -1 if n > 250 else 1], 0.2 + rng.random((H, O))
        mixed = stream.step(observed[None], forecasts[None], unit)
        for (h, o), chain in chains.items():
            if n > h and not math.isnan(observed[o]):
                f, p, u = (array[h, o] for array in issued[n - h - 1])
                chain.settle(f.tolist(), float(p), float(observed[o]), float(u))
            np.testing.assert_allclose(stream.weights[0, h, o], chain.weights, rtol=1e-8)
            assert mixed[0, h, o] == pytest.approx(np.dot(chain.weights, forecasts[h, o]), rel=1e-9)
        issued.append((forecasts, mixed[0], unit))


def _against_the_heaviest(n: int, weight: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    forecasts = np.where(np.arange(len(weight)) == weight.argmax(), 1.0, -1.0) * rng.random(len(weight))
    return forecasts, -1.0 if weight @ forecasts > 0 else 1.0


def _by_turns(n: int, weight: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    return np.where(np.arange(len(weight)) % 2 == n % 2, 1.0, -1.0), 0.7 * (-1) ** n


def _in_blocks(n: int, weight: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    return np.where(np.arange(len(weight)) < len(weight) // 2, 1.0, -1.0), 1.0 if n // 50 % 2 else -1.0


def _drifting(n: int, weight: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    spread = np.linspace(-1, 1, len(weight))
    return spread + 0.1 * rng.standard_normal(len(weight)), math.sin(n / 100)


def _growing(n: int, weight: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    size = 1e-3 * 1.006**n
    return size * rng.standard_normal(len(weight)), size * rng.standard_normal()


@pytest.mark.parametrize("adversary", [_against_the_heaviest, _by_turns, _in_blocks, _drifting, _growing])
@pytest.mark.parametrize(("horizon", "experts"), [(1, 2), (1, 13), (6, 5)])
def test_regret_stays_below_its_bound(adversary: Adversary, horizon: int, experts: int) -> None:
    shape, rng = AggregationShape(horizon, 1, experts), np.random.default_rng(2)
    rows, issued = new_rows(shape), []
    total, square, widest, excess = np.zeros((4, experts))
    patience = horizon * math.log(1 + experts)
    for n in range(1200):
        weight = aggregation.weights(shape, rows)[0, -1, 0]
        forecasts, value = adversary(n, weight, rng)
        issued.append((forecasts, float(aggregation.mix(weight, forecasts)), value))
        if n < horizon - 1:
            continue
        made, mixed, came = issued[n - horizon + 1]
        now = np.full((1, horizon, 1, experts), np.nan)
        now[0, -1, 0] = made
        aggregation.settle(
            shape, rows, now, np.full((1, horizon, 1), mixed), np.full((1, 1), came), np.full((1, horizon, 1), 1e9)
        )
        regret = 2 * (mixed - came) * (mixed - made)
        total, square, widest = total + regret, square + regret**2, np.maximum(widest, np.abs(regret))
        excess += (mixed - came) ** 2 - (made - came) ** 2
        bound = 2.5 * (np.sqrt(patience * square) + patience * widest)
        assert np.all(total <= bound)
        assert np.all(excess <= total + 1e-9)


def _random_run(shape: AggregationShape, steps: int = 300, seed: int = 3, scale: float = 1.0) -> np.ndarray:
    """Weights after steps of random values, all multiplied by `scale`."""
    rng, stream = np.random.default_rng(seed), Stream(shape)
    size = np.geomspace(0.01, 3, shape.experts)
    for _ in range(steps):
        observed = rng.standard_normal((1, shape.targets))
        forecasts = size * rng.standard_normal((1, shape.horizon, shape.targets, shape.experts))
        stream.step(scale * observed, scale * forecasts, scale * 0.5)
    return stream.weights


@pytest.mark.parametrize("scale", [2.0**40, 2.0**-300])
def test_powers_of_two_change_no_bit(scale: float) -> None:
    shape = AggregationShape(2, 2, 5)
    np.testing.assert_array_equal(_random_run(shape, scale=scale), _random_run(shape))


@pytest.mark.parametrize("scale", [3.7, 1e90, 1e-90])
def test_no_unit_changes_a_weight(scale: float) -> None:
    shape = AggregationShape(2, 2, 5)
    np.testing.assert_allclose(_random_run(shape, scale=scale), _random_run(shape), rtol=1e-9)


def test_experts_may_come_in_any_order() -> None:
    prior, order = (0.5, 0.2, 0.15, 0.1, 0.05), [3, 0, 4, 2, 1]
    rng = np.random.default_rng(4)
    straight = Stream(AggregationShape(2, 2, 5, prior))
    shuffled = Stream(AggregationShape(2, 2, 5, tuple(prior[k] for k in order)))
    for _ in range(300):
        observed, forecasts = rng.standard_normal((1, 2)), rng.standard_normal((1, 2, 2, 5)) * np.arange(1, 6)
        expected = straight.step(observed, forecasts)
        np.testing.assert_allclose(shuffled.step(observed, forecasts[..., order]), expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(shuffled.weights, straight.weights[..., order], rtol=1e-8)
    assert np.ptp(straight.weights) > 0.3


@pytest.mark.parametrize(("horizon", "targets", "experts"), [(1, 1, 1), (1, 1, 13), (1, 3, 9), (3, 1, 2), (3, 2, 5)])
def test_neighbours_change_no_bit(horizon: int, targets: int, experts: int) -> None:
    B, shape = 5, AggregationShape(horizon, targets, experts)
    rng, together, alone = np.random.default_rng(5), Stream(shape, B), [Stream(shape) for _ in range(B)]
    for _ in range(60):
        observed = rng.standard_normal((B, targets)) * 10.0 ** np.arange(B)[:, None]
        observed[rng.random((B, targets)) < 0.1] = np.nan
        strided = rng.standard_normal((experts, targets, B, horizon)).transpose(2, 3, 1, 0)
        mixed = together.step(observed, strided)
        for b, one in enumerate(alone):
            np.testing.assert_array_equal(one.step(observed[b : b + 1], strided[b : b + 1].copy())[0], mixed[b])
    for b, one in enumerate(alone):
        for name, row in one.rows.items():
            np.testing.assert_array_equal(row[0], together.rows[name][b])


@pytest.mark.parametrize("missing", ["forecasts", "one forecast", "mixed", "observed", "unit"])
def test_a_pair_that_is_not_there_moves_nothing(missing: str) -> None:
    shape, rng = AggregationShape(2, 3, 4), np.random.default_rng(6)
    stream = Stream(shape)
    for _ in range(50):
        stream.step(rng.standard_normal((1, 3)), rng.standard_normal((1, 2, 3, 4)))
    before = {name: row.copy() for name, row in stream.rows.items()}
    forecasts, observed, unit = rng.standard_normal((1, 2, 3, 4)), rng.standard_normal((1, 3)), np.ones((1, 2, 3))
    mixed = aggregation.mix(stream.weights, forecasts)
    target = {"forecasts": forecasts, "one forecast": forecasts[..., 2], "mixed": mixed, "unit": unit}
    if missing == "observed":
        observed[:, 1] = np.nan
    else:
        target[missing][:, :, 1] = np.nan
    aggregation.settle(shape, stream.rows, forecasts, mixed, observed, unit)
    for name, row in stream.rows.items():
        np.testing.assert_array_equal(row[:, :, 1], before[name][:, :, 1])
        assert np.all(row[:, :, [0, 2]] != before[name][:, :, [0, 2]]) or name == "aggregate_range"
    observed[:] = np.nan
    before = {name: row.copy() for name, row in stream.rows.items()}
    aggregation.settle(shape, stream.rows, forecasts, mixed, observed, unit)
    for name, row in stream.rows.items():
        np.testing.assert_array_equal(row, before[name])


@pytest.mark.parametrize("empty", ["all agree", "no error"])
def test_pairs_that_teach_nothing_do_not_even_fade_what_was_learned(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: with evidence halved by every pair, all of it would be gone after a thousand."""
    monkeypatch.setattr(aggregation, "FADE", 0.5)
    shape, rng, stream = AggregationShape(1, 2, 3), np.random.default_rng(15), Stream(AggregationShape(1, 2, 3))
    for _ in range(50):
        stream.step(rng.standard_normal((1, 2)), rng.standard_normal((1, 1, 2, 3)))
    before = {name: row.copy() for name, row in stream.rows.items()}
    observed, forecasts, unit = np.full((1, 2), 7.0), np.full((1, 1, 2, 3), 8.0), np.ones((1, 1, 2))
    if empty == "no error":
        observed, forecasts = np.full((1, 2), 8.0), forecasts + np.array([-1, 0, 3])
    for _ in range(1500):
        aggregation.settle(shape, stream.rows, forecasts, np.full((1, 1, 2), 8.0), observed, unit)
    for name, row in stream.rows.items():
        np.testing.assert_array_equal(row, before[name], err_msg=name)
    for _ in range(1500):  # one of the two targets alone lives on
        observed[:, 0] = rng.standard_normal()
        forecasts[:, :, 0] = rng.standard_normal(3)
        aggregation.settle(shape, stream.rows, forecasts, forecasts.mean(axis=-1), observed, unit)
    for name, row in stream.rows.items():
        assert np.isfinite(row).all(), name
        assert (row[:, :, 0] != before[name][:, :, 0]).any(), name
        assert empty == "no error" or (row[:, :, 1] == before[name][:, :, 1]).all(), name


def test_evidence_of_a_quiet_time_counts_as_much_as_that_of_a_wild_one() -> None:
    """Errors are in units of what is usual: an expert that is the best while all is much smaller is seen."""
    rng, size = np.random.default_rng(16), np.where(np.arange(1200) < 600, 1.0, 1e-3)
    stream, values = Stream(AggregationShape(1, 1, 2)), rng.standard_normal(1201)
    for n in range(1200):
        sound = values[n + 1] + 0.3 * rng.standard_normal()
        forecasts = size[n] * np.array([sound, 0.0] if n < 600 else [0.0, sound])
        stream.step(np.full((1, 1), size[max(n - 1, 0)] * values[n]), forecasts[None, None, None], size[n])
        assert n != 599 or stream.weights[0, 0, 0, 0] > 0.8
    assert stream.weights[0, 0, 0, 1] > 0.8


def test_a_forecast_is_weighted_with_the_prior_at_first() -> None:
    prior = (0.7, 0.2, 0.1)
    assert aggregation.weights(AggregationShape(2, 1, 4), new_rows(AggregationShape(2, 1, 4))) == pytest.approx(0.25)
    shape = AggregationShape(2, 1, 3, prior)
    np.testing.assert_allclose(aggregation.weights(shape, new_rows(shape))[0, 1, 0], prior, rtol=1e-12)


@pytest.mark.parametrize("prior", [(0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.5, 0.5)])
def test_a_prior_that_is_none_is_refused(prior: tuple[float, ...]) -> None:
    shape = AggregationShape(1, 1, 3, prior)
    with pytest.raises(ValueError, match="no weights of 3 experts"):
        aggregation.weights(shape, new_rows(shape))


def test_experts_that_agree_are_repeated_exactly() -> None:
    stream = Stream(AggregationShape(1, 1, 3))
    for n in range(100):
        value = 1e6 + 0.1 * n
        assert stream.step(np.full((1, 1), value), np.full((1, 1, 1, 3), value)) == value
    assert stream.weights == pytest.approx(1 / 3)


def test_a_single_expert_has_all_the_weight() -> None:
    rng = np.random.default_rng(7)
    values = rng.standard_normal(100)
    forecasts = rng.standard_normal((100, 1))
    np.testing.assert_array_equal(one_ahead(values, forecasts), (forecasts[:-1, 0] - values[1:]) ** 2)


def test_a_perfect_expert_soon_has_nearly_all_the_weight_and_a_constant_stream_keeps_it() -> None:
    rng, stream = np.random.default_rng(8), Stream(AggregationShape(1, 1, 3))
    values = rng.standard_normal(200)
    values[100:] = values[99]
    for n in range(199):
        stream.step(values[n : n + 1, None], np.array([values[n + 1], values[n], 0.0])[None, None, None])
        assert n < 60 or stream.weights[0, 0, 0, 0] > 0.9
    assert np.all(stream.weights > 0)


def test_state_stays_bounded_and_no_weight_reaches_zero_whatever_the_sizes() -> None:
    shape, rng = AggregationShape(1, 1, 6), np.random.default_rng(9)
    rows = new_rows(shape)
    mixed = np.zeros((1, 1, 1))
    for n in range(12_000):
        size = 10.0 ** (rng.uniform(-90, 90) if n % 3 == 0 else 0)
        forecasts = size * np.append(0.0, rng.standard_normal(5))[None, None, None]
        aggregation.settle(shape, rows, forecasts, mixed, np.full((1, 1), size * 0.1), np.full((1, 1, 1), size))
        if n % 100 == 0:
            weights = aggregation.weights(shape, rows)
            assert weights.sum() == pytest.approx(1)
            assert weights.min() > SHARE / 6 / 2
    assert np.abs(rows["aggregate_regret"]).max() <= MEMORY
    assert rows["aggregate_variance"].max() <= MEMORY
    assert np.ptp(rows["aggregate_score"]) <= -math.log(SHARE / 6) + 1e-9


@pytest.mark.parametrize("before", [1_000, 20_000])
def test_it_is_back_within_hundreds_of_events_when_another_expert_becomes_the_best(before: int) -> None:
    rng = np.random.default_rng(10)
    n = before + 1_000
    values, noise = rng.standard_normal(n), 0.3 * rng.standard_normal((n, 3))
    following = np.append(values[1:], 0.0)
    forecasts = noise
    forecasts[:before, 0] += 0.5 * following[:before]
    forecasts[before:, 1] += 0.5 * following[before:]
    errors = one_ahead(values, forecasts)
    best = ((forecasts[:-1, 1] - values[1:]) ** 2)[before + 500 :].mean()
    assert errors[before : before + 100].mean() > 1.5 * best  # it had been sure of the other
    assert errors[before + 500 :].mean() < 1.03 * best


def test_noisy_learners_cost_next_to_nothing_on_a_random_walk() -> None:
    rng = np.random.default_rng(11)
    values = rng.standard_normal(3_000).cumsum()
    noisy = values[:, None] + rng.uniform(0.1, 0.6, 8) * rng.standard_normal((3_000, 8))
    mean = values.cumsum() / np.arange(1, 3_001)
    season = np.concatenate([values[:24], values[:-24]])
    naive = np.stack([season, values + np.clip(mean - values, -4, 4)], axis=1)
    forecasts = np.concatenate([values[:, None], noisy, naive], axis=1)
    persistence = np.diff(values) ** 2
    assert one_ahead(values, forecasts).mean() <= 1.01 * persistence.mean()


def test_noisy_learners_cost_next_to_nothing_on_white_noise() -> None:
    rng = np.random.default_rng(12)
    values = rng.standard_normal(3_000)
    mean = values.cumsum() / np.arange(1, 3_001)
    noisy = mean[:, None] + rng.uniform(0.1, 0.6, 8) * rng.standard_normal((3_000, 8))
    forecasts = np.concatenate([mean[:, None], noisy, values[:, None], np.roll(values, 24)[:, None]], axis=1)
    assert one_ahead(values, forecasts).mean() <= 1.02 * ((mean[:-1] - values[1:]) ** 2).mean()


@pytest.mark.parametrize("poison", ["wild", "high"])
def test_a_poisoned_best_expert_costs_little(poison: str) -> None:
    """Over 1,000 events, beyond what the loss of that expert costs; a clamped forecast is 4 units off at most."""
    rng = np.random.default_rng(13)
    values = rng.standard_normal(3_000).cumsum()
    following = np.append(values[1:], values[-1])
    skill, noise = np.array([0.5, 0.5, 0.4, 0.4, 0.4, 0.3, 0.3, 0.0]), np.array([0.25] + [0.3] * 6 + [0.0])
    sound = values[:, None] + skill * (following - values)[:, None] + noise * rng.standard_normal((3_000, 8))
    poisoned, lost = sound.copy(), sound.copy()
    lost[2_000:, 0] = values[2_000:]
    sign = np.sign(rng.standard_normal(1_000)) if poison == "wild" else 1.0
    poisoned[2_000:, 0] = values[2_000:] + 4 * sign
    after = slice(2_000, None)
    assert one_ahead(values, poisoned)[after].mean() <= 1.05 * one_ahead(values, lost)[after].mean()


def test_an_absurd_value_does_not_bury_the_past() -> None:
    rng = np.random.default_rng(14)
    values = rng.standard_normal(1_600)
    following = np.append(values[1:], 0.0)
    forecasts = np.stack([0.9 * following, 0.3 * following, 0 * following], axis=1) + 0.1
    struck = values.copy()
    struck[1_200] = 1e12
    after = slice(1_200, None)
    errors = [one_ahead(v, forecasts)[after].mean() for v in (values, struck)]
    assert errors[1] <= 1.1 * errors[0]
