"""Anomaly scores: rare on noise of any kind, sure on spikes, never of a sensor that is silent or stuck."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from bptt_core import anomaly
from bptt_core.anomaly import SCORE_LIMIT, SensorState
from bptt_core.slab import Rows, Slab

GAUSS_REACH = 1.6449  # half width of the 90 % interval, in deviations


class Run(NamedTuple):
    score: np.ndarray  # [T, B]
    target_score: np.ndarray  # [T, B, O]
    likelihood: np.ndarray  # [T, B]
    state: np.ndarray  # [T, B, O]
    rows: Rows


def new_rows(shape: anomaly.AnomalyShape, sessions: int) -> Rows:
    slab = Slab(np, anomaly.fields(shape))
    return slab.take(np.array([slab.allocate() for _ in range(sessions)]))


def judge(values: np.ndarray, mean: np.ndarray | float, below: np.ndarray | float, above: np.ndarray | float) -> Run:
    """Runs values [T, B, O] past forecasts `mean` with intervals that reach that far `below` and `above` it."""
    shape = anomaly.AnomalyShape(values.shape[2])
    rows = new_rows(shape, values.shape[1])
    mean, below, above = (np.broadcast_to(part, values.shape) for part in (mean, below, above))
    given = zip(values, mean, mean - below, mean + above, strict=True)
    with np.errstate(all="ignore"):
        steps = [anomaly.step(shape, rows, *parts) for parts in given]
    return Run(*(np.stack(part) for part in zip(*steps, strict=True)), rows)


def noise(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "t3":
        return rng.standard_t(3, shape)
    if kind == "laplace":
        return rng.laplace(size=shape)
    if kind == "counts":
        return rng.poisson(3, shape) - 3.0
    values = rng.standard_normal(shape)
    if kind == "correlated":
        for t in range(1, len(values)):
            values[t] += 0.9 * values[t - 1]
    if kind == "daily":  # seven times as noisy at noon as at midnight
        values *= np.exp(np.sin(np.arange(len(values)) * np.pi / 24))[:, None, None]
    return values


def reach_of(values: np.ndarray) -> tuple[float, float]:
    """How far a constant 90 % interval around 0 reaches below and above it."""
    return -float(np.quantile(values, 0.05)), float(np.quantile(values, 0.95))


KINDS = ["gauss", "laplace", "counts", "correlated", "daily", "t3"]


def judge_all(streams: list[np.ndarray]) -> list[np.ndarray]:
    """Scores [T, B] of several streams [T, B, O] around 0, each with constant 90 % intervals; one run for all."""
    below, above = (
        np.concatenate([np.full((1, x.shape[1], 1), reach_of(x)[side]) for x in streams], axis=1) for side in (0, 1)
    )
    score = judge(np.concatenate(streams, axis=1), 0, below, above).score
    return np.split(score, np.cumsum([x.shape[1] for x in streams])[:-1], axis=1)


@pytest.mark.parametrize("targets", [1, 7])
def test_a_score_above_1_is_rare_on_steady_noise(targets: int) -> None:
    scores = judge_all([noise(kind, (3000, 70 // targets, targets)) for kind in KINDS])
    often = {kind: 1000 * (score[1000:] > 1).mean() for kind, score in zip(KINDS, scores, strict=True)}
    assert often.pop("t3") < (3 if targets == 1 else 9)
    assert max(often.values()) < 2, often
    assert targets > 1 or often["gauss"] > 0.2  # and not so rare that it could never tell


def test_a_spike_of_eight_deviations_is_an_anomaly_and_the_next_one_too() -> None:
    spikes = np.arange(500, 1500, 250)
    streams = [noise(kind, (1500, 40, 1)) for kind in KINDS[:4]]
    for values in streams:
        values[spikes] = 8 * values.std() * np.where(np.arange(40) % 2, 1, -1)[:, None]
    for score in judge_all(streams):
        assert (score[spikes] > 1).all()
        assert (np.delete(score, spikes, axis=0) > 1).mean() < 0.003


def test_spikes_at_every_hundredth_value_are_still_anomalies() -> None:
    values = noise("gauss", (3000, 20, 1))
    values[100::100] = 8
    assert (judge(values, 0, GAUSS_REACH, GAUSS_REACH).score[100::100] > 1).mean() > 0.95


@pytest.mark.parametrize("spike", [1e9, 1e14, 1e100])
def test_a_huge_spike_does_not_blind(spike: float) -> None:
    values = noise("gauss", (1700, 8, 1))
    values[1000], values[1001], values[1600] = spike, -8, 20
    follows = np.zeros(values.shape)
    follows[1001, 4:] = spike  # what was forecast next
    result = judge(values, follows, GAUSS_REACH, GAUSS_REACH)
    assert (result.score[1000] > 100).all()
    assert (result.score[1001] > 1).all()
    assert (result.score[1600] > 1).all()
    assert (result.rows["anomaly_size"] < 1.2).all()


def test_each_side_is_measured_by_its_own_half_width() -> None:
    values = noise("gauss", (800, 20, 1))
    values[values > 0] *= 3
    values[-1, :10], values[-1, 10:] = -20, 20
    score = judge(values, 0, GAUSS_REACH, 3 * GAUSS_REACH).score[-1]
    assert score[:10].mean() > 1.4 * score[10:].mean()
    values[-1, :10], values[-1, 10:] = -20, -20
    score = judge(values, 0, GAUSS_REACH, 3 * GAUSS_REACH).score[-1]
    assert score[:10].mean() < 1.2 * score[10:].mean()


def test_an_interval_of_no_width_makes_nothing_odd() -> None:
    values = noise("gauss", (1000, 20, 1))
    reach = np.full(values.shape, GAUSS_REACH)
    reach[500:] = 0
    score = judge(values, 0, reach, reach).score[500:]
    assert score.max() < 3
    assert (score > 1).mean() < 0.01


def test_a_wide_interval_forgives_what_a_narrow_one_does_not() -> None:
    values = noise("gauss", (1000, 10, 1))
    values[-1] = 8
    reach = np.full(values.shape, GAUSS_REACH)
    assert (judge(values, 0, reach, reach).score[-1] > 1).all()
    reach[-1] *= 5
    assert (judge(values, 0, reach, reach).score[-1] < 1).all()


def test_nothing_is_scored_in_warm_up() -> None:
    values = noise("gauss", (400, 5, 2))
    values[50] = 1e6
    reach = np.full(values.shape, GAUSS_REACH)
    reach[:100] = np.nan  # the intervals' own warm-up
    run = judge(values, 0, reach, reach)
    assert (run.score[:100] == 0).all()
    assert (run.likelihood[:164] == 0).all()
    assert (run.score[100:] > 0).mean() == 1
    late = judge(values, 0, 1.0, 1.0)
    assert (late.score[:64] == 0).all()
    assert (late.score[64:] > 0).all()


def test_the_likelihood_tells_a_run_of_odd_values_from_the_usual() -> None:
    values = noise("gauss", (1200, 60, 1))
    values[1000:1010] *= 3  # none of them need be an anomaly on its own
    run = judge(values, 0, GAUSS_REACH, GAUSS_REACH)
    usual = run.likelihood[300:1000]
    assert ((run.likelihood >= 0) & (run.likelihood <= 1)).all()
    assert 0.4 < np.median(usual) < 0.6
    assert (usual > 0.9999).mean() < 0.002
    assert (run.likelihood[1000:1012].max(axis=0) > 0.9999).mean() > 0.8


def test_a_missing_value_is_a_state_and_moves_nothing_else() -> None:
    values = noise("gauss", (500, 6, 2))
    gaps = values.copy()
    gaps[200, :, 0] = np.nan
    run = judge(gaps, 0, GAUSS_REACH, GAUSS_REACH)
    assert (run.state[200] == [SensorState.MISSING, SensorState.OK]).all()
    assert (run.state[201] == SensorState.OK).all()
    assert (run.target_score[200, :, 0] == 0).all()
    whole = judge(gaps[..., :1], 0, GAUSS_REACH, GAUSS_REACH).rows
    for name, row in judge(np.delete(values[..., :1], 200, axis=0), 0, GAUSS_REACH, GAUSS_REACH).rows.items():
        assert whole[name].tobytes() == row.tobytes(), name


def test_where_nothing_can_be_judged_there_is_no_likelihood() -> None:
    """Neither of a missing event nor of one whose sensors are all stuck; one live sensor is enough."""
    values = noise("gauss", (900, 6, 2))
    values[300:305] = np.nan
    values[310, :, 0] = np.nan
    values[400:450] = values[400]
    values[600:650, :, 1] = values[600, :, 1]
    run = judge(values, 0, GAUSS_REACH, GAUSS_REACH)
    dead = np.r_[300:305, 407:450]
    assert (run.likelihood[dead] == 0).all()
    assert (run.likelihood[np.setdiff1d(np.arange(300, 900), dead)] > 0).all()


def stuck(values: np.ndarray) -> np.ndarray:
    """Where values [T, B] are called stuck."""
    state = judge(values[:, :, None], np.nan, np.nan, np.nan).state[:, :, 0]
    assert (state != SensorState.MISSING).all()
    return state == SensorState.STUCK


def test_a_continuous_sensor_is_stuck_at_the_eighth_equal_value_and_well_at_the_next_other() -> None:
    values = noise("gauss", (300, 4, 1))[:, :, 0]
    values[200:250] = values[200]
    called = stuck(values)
    assert not called[:207].any()
    assert called[207:250].all()
    assert not called[250:].any()


def test_a_sensor_that_was_stuck_for_long_is_caught_again() -> None:
    values = noise("gauss", (900, 4, 1))[:, :, 0]
    values[200:600], values[700:750] = values[200], values[700]
    assert stuck(values)[730:750].all()


def test_a_stuck_sensor_has_no_score_and_teaches_none() -> None:
    values = noise("gauss", (1500, 4, 1))
    values[500:1300] = 5.0
    mean = np.where(np.arange(1500) % 2, 100.0, 0.0)[:, None, None] * (values == 5)
    run = judge(values, mean, GAUSS_REACH, GAUSS_REACH)
    assert (run.score[510:1300] == 0).all()
    assert (run.rows["anomaly_size"] < 1.2).all()
    assert (run.score[1310:] > 1).mean() < 0.01


def test_a_sensor_that_often_repeats_is_not_stuck() -> None:
    rng, n = np.random.default_rng(1), (3000, 25)
    sensors = {
        "counts": rng.poisson(2, n),
        "few": rng.poisson(0.2, n),
        "switch": (rng.random(n) < 0.02).cumsum(axis=0) % 2,
        "duty": np.broadcast_to(np.arange(n[0])[:, None] % 48 < 16, n),
        "coarse": np.round(0.1 * rng.standard_normal(n).cumsum(axis=0)),
        "constant": np.ones(n),
        "rare": (rng.random(n) < 0.002).cumsum(axis=0),
        "counter": (rng.random(n) < 0.3).cumsum(axis=0),
    }
    called = stuck(np.concatenate(list(sensors.values()), axis=1).astype(float))
    for k, sensor in enumerate(sensors):
        assert called[:, 25 * k : 25 * (k + 1)].mean() < 1e-3, sensor


@pytest.mark.parametrize(("day", "learned"), [(48, 0), (400, 5)])
def test_regular_silence_is_learned(day: int, learned: int) -> None:
    rng, t = np.random.default_rng(2), np.arange(9 * day)[:, None]
    called = stuck(np.where(t % day < day // 2, rng.random((len(t), 5)), 0.0))  # light by day, none at night
    assert called[: learned * day].any() == (learned > 0)
    assert not called[learned * day :].any()


def test_a_coarse_sensor_can_be_stuck_too() -> None:
    values = np.random.default_rng(3).poisson(3, (1200, 60)).astype(float)
    values[1100:] = values[1100]
    called = stuck(values)
    assert called[1140:].all()
    assert not called[:1100].any()


def test_odd_streams_give_finite_scores_and_bounded_state() -> None:
    rng = np.random.default_rng(4)
    hostile = rng.standard_normal((1500, 1, 6)) * 10.0 ** rng.integers(-20, 20, (1500, 1, 6))
    hostile[..., 1], hostile[..., 2] = 4.0, np.arange(1500)[:, None] >= 700
    hostile[rng.random(hostile.shape) < 0.2] = np.nan
    hostile[1000:1002, 0, 3] = 1e308, -1e308
    hostile[..., 4] = np.round(rng.random((1500, 1)) * 3)
    mean = np.roll(hostile, 1, axis=0)
    reach = np.where(rng.random(hostile.shape) < 0.5, 0.0, 1e-3)  # of no width at all half of the time
    run = judge(hostile, mean, reach, reach)
    assert np.isfinite(run.target_score).all()
    assert run.score.max() <= SCORE_LIMIT * (1 + 1e-9)
    assert np.isfinite(run.likelihood).all()
    for name, row in run.rows.items():
        assert name == "anomaly_last" or np.isfinite(row).all(), name


def test_a_million_equal_values_do_not_carry_the_threshold_away() -> None:
    shape = anomaly.AnomalyShape(1)
    rows = new_rows(shape, 1)
    one = np.ones((1, 1))
    rows["anomaly_count"][...] = rows["anomaly_scores"][...] = 1_000_000
    rows["anomaly_tail"][...] = np.log(0.5)  # as low as such a time can bring it
    with np.errstate(all="ignore"):
        for _ in range(100):
            anomaly.step(shape, rows, one, one, one, one)
    assert rows["anomaly_tail"].item() == np.log(0.5)


def test_the_unit_of_the_stream_does_not_matter() -> None:
    values = noise("t3", (1500, 4, 2))
    reach = reach_of(values)
    small, large = (judge(k * values, 0, k * reach[0], k * reach[1]).target_score for k in (2.0**-30, 2.0**30))
    np.testing.assert_array_equal(small, large)


def test_neighbours_in_the_call_change_no_bit() -> None:
    values = noise("t3", (400, 13, 5))
    values[::7, 3] = np.nan
    values[100:150, 5] = 1.0
    reach = np.abs(noise("gauss", values.shape, 1)) + 0.5
    together = judge(values, 0, reach, 2 * reach)
    for b in (0, 3, 5, 12):
        own = slice(b, b + 1)
        alone = judge(values[:, own].copy(), 0, reach[:, own], 2 * reach[:, own])
        for name in ("score", "target_score", "likelihood", "state"):
            assert getattr(alone, name).tobytes() == getattr(together, name)[:, own].tobytes(), name
        for name, row in alone.rows.items():
            assert row.tobytes() == together.rows[name][own].tobytes(), name
