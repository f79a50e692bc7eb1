"""The linear expert equals weighted least squares over all that ever happened, and stays sane where that would not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from bptt_core import autoregression
from bptt_core.autoregression import FADE, LAGS, RIDGE, AutoregressionShape

Rows = dict[str, np.ndarray]


def begin(shape: AutoregressionShape, sessions: int) -> Rows:
    return {f.name: np.full((sessions, *f.shape), f.start, f.dtype) for f in autoregression.fields(shape)}


class Stream:
    """What the expert is told of values [n, B, O]: held last values, levels and scales from all values so far, and the
    seasonal naive forecasts of one period (0: none)."""

    def __init__(self, values: np.ndarray, horizon: int, context: np.ndarray | None = None, period: int = 0) -> None:
        n, B, O = values.shape
        self.values, self.horizon, self.period = values, horizon, period
        self.last = values.copy()
        for t in range(1, n):
            self.last[t] = np.where(np.isnan(values[t]), self.last[t - 1], values[t])
        count = np.arange(1, n + 1)[:, None, None]
        mean = self.last.cumsum(axis=0) / count
        deviation = np.sqrt(((self.last - mean) ** 2).cumsum(axis=0) / count)
        self.level = (self.last - mean) / (deviation + 1e-300)
        self.scale = np.full((n, B, horizon, O), np.nan)
        for h in range(1, min(horizon, n - 1) + 1):
            squares = (self.last[h:] - self.last[:-h]) ** 2
            self.scale[h:, :, h - 1] = np.sqrt(squares.cumsum(axis=0) / count[: n - h]) + 1e-13
        self.context = np.zeros((n, B, O, 0)) if context is None else context
        self.seasonal = np.full((n, B, 2, horizon, O), np.nan)
        for h in range(1, horizon + 1 if period else 0):
            back = period * -(-h // period) - h
            self.seasonal[back:, :, 0, h - 1] = self.last[: n - back]

    def told(self, t: int) -> tuple[np.ndarray, ...]:
        columns = (self.values, self.last, self.level, self.scale, self.context, self.seasonal)
        return tuple(column[t] for column in columns)

    def run(self, shape: AutoregressionShape, rows: Rows, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Forecasts [n, B, H, O]."""
        steps = range(start, len(self.values) if stop is None else stop)
        return np.array([autoregression.step(shape, rows, *self.told(t)) for t in steps])

    def errors(self, forecasts: np.ndarray, since: int) -> np.ndarray:
        """Mean squared errors [H] of the pairs made from step `since` on."""
        n = len(self.values)
        made = [(forecasts[since : n - h, :, h - 1], h) for h in range(1, self.horizon + 1)]
        return np.array([np.mean((forecast - self.values[since + h :]) ** 2) for forecast, h in made])


def shape_of(stream: Stream) -> AutoregressionShape:
    _, _, O, C = stream.context.shape
    return AutoregressionShape(targets=O, horizon=stream.horizon, context=C)


def regressors(stream: Stream, t: int, o: int) -> np.ndarray:
    """u of session 0, written out."""
    last, unit = stream.last[:, 0], stream.scale[t, 0, 0]

    def change(target: int, newer: int, older: int) -> float:
        return (
            0
            if older > t
            else (last[t - newer, target] - last[t - older, target]) / unit[target] / (older - newer) ** 0.5
        )

    own = [change(o, newer, older) for newer, older in pairwise(LAGS)]
    others = [change(k, 0, 1) for k in range(last.shape[1]) if k != o]
    u = [*own, 1, stream.level[t, 0, o], *others, *stream.context[t, 0, o]]
    return np.clip(np.nan_to_num(u), -5, 5)


def least_squares(rows: list[tuple[int, np.ndarray, float]], now: int) -> np.ndarray:
    """The weights that fit all rows (step, regressors, value) best, a row of `k` steps ago weighing FADE^k."""
    weight = np.array([FADE ** ((now - step) / 2) for step, _, _ in rows])
    A, y = np.array([u for _, u, _ in rows]), np.array([value for _, _, value in rows])
    return np.linalg.lstsq(A * weight[:, None], y * weight, rcond=None)[0]


def by_least_squares(stream: Stream, o: int, h: int) -> list[float]:
    """Forecasts of session 0 for target o and horizon h, every one from scratch by a fit to all pairs so far."""
    q = shape_of(stream).regressors
    axes = np.eye(q)
    values: list[tuple[int, np.ndarray, float]] = [(-1, RIDGE**0.5 * axis, 0) for axis in axes]
    seasons = [list(values), list(values)]
    w, V = np.zeros(q), np.zeros((2, q))
    u, left, forecasts, taught = [], [], [], 0
    moment, product = np.zeros((2, 2)), np.zeros(2)
    y, scale = stream.values[:, 0, o], stream.scale[:, 0, h - 1, o]
    for t in range(len(y)):
        s = t - h
        if s >= 0 and not np.isnan(y[s]):
            target = (y[t] - y[s]) / scale[s]
            if not np.isnan(target):
                error = np.clip(target - w @ u[s], -4, 4)
                moment = FADE * moment + np.outer(left[s], left[s])
                product = FADE * product + left[s] * error
            else:
                error = 0
            # A row that asks for what is there already: it moves nothing but makes the weight surer of itself.
            axis = axes[s % q] * ((1 - FADE) * q * RIDGE) ** 0.5
            values += [(taught - 1, axis, axis @ w), (taught, u[s], w @ u[s] + error)]
            w = least_squares(values, taught)
            taught += 1
        u.append(regressors(stream, t, o))
        said = np.nan_to_num((stream.seasonal[t, 0, :, h - 1, o] - stream.last[t, 0, o]) / scale[t])
        left.append(np.clip(said, -5, 5) - V @ u[t])
        if not np.isnan(y[t]):
            step = int((~np.isnan(y[:t])).sum())
            axis = axes[t % q] * ((1 - FADE) * q * RIDGE) ** 0.5
            for k, season in enumerate(seasons):
                season += [(step - 1, axis, axis @ V[k]), (step, u[t], V[k] @ u[t] + left[t][k])]
                V[k] = least_squares(season, step)
        theta = np.linalg.solve(moment + RIDGE * np.eye(2), product)
        ahead = scale[t] * (w @ u[t] + theta @ left[t])
        forecasts.append(stream.last[t, 0, o] + (0 if np.isnan(ahead) else ahead))
    return forecasts


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_every_horizon_equals_weighted_least_squares_over_all_its_pairs(missing: float) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((70, 1, 2)).cumsum(axis=0) + 3 * np.sin(np.arange(70) / 2)[:, None, None]
    values[1:][rng.random((69, 1, 2)) < missing] = np.nan
    stream = Stream(values, horizon=4, context=rng.standard_normal((70, 1, 2, 1)), period=3)
    stream.seasonal[:, :, 1] = stream.seasonal[:, :, 0] + rng.standard_normal((70, 1, 4, 2))
    forecasts = stream.run(shape_of(stream), begin(shape_of(stream), 1))
    for o in range(2):
        for h in (1, 3, 4):
            expected = by_least_squares(stream, o, h)
            assert np.abs(np.subtract(expected, stream.last[:, 0, o])).max() > 0.3  # it has something to say
            np.testing.assert_allclose(forecasts[:, 0, h - 1, o], expected, rtol=0, atol=1e-9)


def autoregressive(noise: np.ndarray, first: float, second: float) -> np.ndarray:
    values = noise.copy()
    for t in range(2, len(values)):
        values[t] += first * values[t - 1] + second * values[t - 2]
    return values


def test_what_is_linear_is_forecast_nearly_as_well_as_it_can_be() -> None:
    noise = np.random.default_rng(0).standard_normal((2000, 6, 1))
    cases: list[tuple[np.ndarray, float, float]] = [  # values, best possible one-step error, allowed factor
        (autoregressive(noise, 1.6, -0.8), 1.0, 1.03),
        (noise + 5, 1.0, 1.02),
        (noise.cumsum(axis=0), 1.0, 1.02),
    ]
    for values, best, factor in cases:
        stream = Stream(values, horizon=1)
        rows = begin(shape_of(stream), values.shape[1])
        assert stream.errors(stream.run(shape_of(stream), rows), since=600)[0] < factor * best * np.mean(
            noise[600:] ** 2
        )


def test_a_season_is_followed_at_every_horizon_from_where_the_stream_is() -> None:
    rng = np.random.default_rng(1)
    day = rng.standard_normal(12) * 4
    values = day[np.arange(1500) % 12][:, None, None] + autoregressive(rng.standard_normal((1500, 2, 1)), 0.9, 0)
    stream = Stream(values, horizon=12, period=12)
    errors = stream.errors(stream.run(shape_of(stream), begin(shape_of(stream), 2)), since=500)
    naive = stream.errors(stream.seasonal[:, :, 0], since=500)
    assert (errors < 0.75 * naive).all()


def test_a_target_that_follows_another_is_forecast_by_it() -> None:
    rng = np.random.default_rng(2)
    leader = rng.standard_normal((1000, 4)).cumsum(axis=0)
    values = np.stack([leader, np.roll(leader, 1, axis=0) + 0.1 * rng.standard_normal((1000, 4))], axis=2)
    stream = Stream(values, horizon=1)
    forecasts = stream.run(shape_of(stream), begin(shape_of(stream), 4))
    follower = np.mean((forecasts[300:-1, :, 0, 1] - values[301:, :, 1]) ** 2)
    assert follower < 0.1  # persistence: 1
    many = AutoregressionShape(targets=17, horizon=1, context=0)
    assert many.regressors == AutoregressionShape(targets=1, horizon=1, context=0).regressors


def test_a_long_rest_ends_in_the_ignorance_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoregression, "FADE", 0.98)  # 2,000 steps are forty memories
    noise = np.random.default_rng(4).standard_normal((600, 1, 1))
    lively = autoregressive(noise, 1.6, -0.8)
    values = np.concatenate([lively, np.repeat(lively[-1:], 2000, axis=0), lively + 1e6])
    stream = Stream(values, horizon=2)
    stream.scale[600:2600] = 1e-13  # as little as can be
    stream.scale[2600:] = stream.scale[599]
    shape = shape_of(stream)
    rows = begin(shape, 1)
    stream.run(shape, rows, stop=2600)
    inverse = rows["linear_inverse"][0, 0]
    assert np.diag(inverse).max() < 1.5 / RIDGE
    np.testing.assert_array_equal(inverse, inverse.T)
    assert np.linalg.eigvalsh(inverse).min() > 0
    forecasts = stream.run(shape, rows, start=2600)
    error = np.mean((forecasts[200:-1, 0, 0] - values[2801:, 0]) ** 2)
    assert error < 1.3 * np.mean(noise[201:] ** 2)


def test_values_times_a_number_are_forecast_as_that_many_times_as_much(random_walks: Callable[..., np.ndarray]) -> None:
    values = random_walks(150, features=2, missing=0.1)[:, None]
    plain = Stream(values, horizon=3, period=5)
    forecasts = plain.run(shape_of(plain), begin(shape_of(plain), 1))
    for factor in (2.0**-300, 2.0**300):
        stream = Stream(values * factor, horizon=3, period=5)
        stream.level, stream.scale = plain.level, plain.scale * factor
        scaled = stream.run(shape_of(stream), begin(shape_of(stream), 1))
        np.testing.assert_array_equal(scaled, forecasts * factor)


def test_absurd_values_neither_break_nor_blind_it() -> None:
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((1500, 4, 1))
    values = autoregressive(noise, 1.6, -0.8)
    spiked = values.copy()
    spiked[::100] += 1e3
    stream, clean = Stream(spiked, horizon=1), Stream(values, horizon=1)
    stream.scale, stream.level = clean.scale, clean.level  # as of statistics that do not let a spike move them much
    forecasts = stream.run(shape_of(stream), begin(shape_of(stream), 4))
    assert np.isfinite(forecasts).all()
    calm = [t for t in range(700, 1499) if 26 < t % 100 < 99]
    error = np.mean((forecasts[calm, :, 0] - values[np.add(calm, 1)]) ** 2)
    assert error < 1.6  # persistence: 2.9


def test_nothing_known_is_nothing_said_and_no_scale_is_the_last_value() -> None:
    stream = Stream(np.full((6, 1, 2), np.nan), horizon=2)
    stream.values[2:, 0, 0] = stream.last[2:, 0, 0] = 7.0
    stream.scale[4:, 0, :, 0] = 1.0
    forecasts = stream.run(shape_of(stream), begin(shape_of(stream), 1))
    assert np.isnan(forecasts[..., 1]).all()
    assert np.isnan(forecasts[:2, ..., 0]).all()
    np.testing.assert_array_equal(forecasts[2:, ..., 0], 7.0)


def test_after_a_break_nothing_connects_to_what_was_before(random_walks: Callable[..., np.ndarray]) -> None:
    stream = Stream(random_walks(60, features=2)[:, None], horizon=3)
    shape = shape_of(stream)
    rows = begin(shape, 1)
    stream.run(shape, rows, stop=40)
    unbroken = {name: row.copy() for name, row in rows.items()}
    autoregression.clear(shape, rows, np.array([True]))
    autoregression.clear(shape, unbroken, np.array([False]))
    learned = rows["linear_weights"][:, :, 0].copy()
    elsewhere = {name: row.copy() for name, row in unbroken.items()}
    elsewhere["linear_past"] += 100
    autoregression.clear(shape, elsewhere, np.array([True]))
    moved_there = stream.run(shape, elsewhere, start=40)
    np.testing.assert_array_equal(moved_there, stream.run(shape, {n: r.copy() for n, r in rows.items()}, start=40))
    for changed in (rows, unbroken):
        stream.run(shape, changed, start=40, stop=41)
    assert not np.array_equal(unbroken["linear_weights"][:, :, 0], learned)
    np.testing.assert_array_equal(rows["linear_weights"][:, :, 0], learned)
    stream.run(shape, rows, start=41, stop=42)
    moved = (rows["linear_weights"][:, :, 0] != learned).any(axis=(0, 1, 3))
    assert moved.tolist() == [True, False, False]  # the first pair since: one step ahead


@pytest.mark.parametrize("slot", [0, 1])
def test_a_season_that_changes_is_forgotten_and_nothing_else(
    random_walks: Callable[..., np.ndarray], slot: int
) -> None:
    values = random_walks(90, features=2)[:, None]
    told, untold = Stream(values, horizon=3, period=4), Stream(values, horizon=3, period=4)
    told.seasonal[:, :, 1] = Stream(values, horizon=3, period=6).seasonal[:, :, 0]
    untold.seasonal[:, :, 1 - slot] = told.seasonal[:, :, 1 - slot]
    untold.seasonal[:, :, slot] = np.nan
    shape = shape_of(told)
    rows, plain = begin(shape, 1), begin(shape, 1)
    followed, alone = (s.run(shape, r, stop=60) for s, r in ((told, rows), (untold, plain)))
    assert not np.array_equal(followed, alone)
    autoregression.change_season(shape, rows, np.array([[slot == 0, slot == 1]]))
    np.testing.assert_array_equal(told.run(shape, rows, 60), told.run(shape, plain, 60))  # as if for the first time


def test_the_bits_of_a_session_do_not_depend_on_its_neighbours(random_walks: Callable[..., np.ndarray]) -> None:
    values = random_walks(80, features=15, missing=0.1).reshape(80, 5, 3)
    context = np.random.default_rng(6).standard_normal((80, 5, 3, 2))
    stream = Stream(values, horizon=5, context=context, period=7)
    shape = shape_of(stream)
    rows = begin(shape, 5)
    together = stream.run(shape, rows)
    for k in range(5):
        alone = Stream(values[:, k : k + 1], horizon=5, context=context[:, k : k + 1], period=7)
        own = begin(shape, 1)
        assert alone.run(shape, own)[:, 0].tobytes() == together[:, k].tobytes()
        assert all(own[name][0].tobytes() == row[k].tobytes() for name, row in rows.items())
