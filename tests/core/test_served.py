"""Outputs of each kind of loss become forecasts by their formula; predictions of labels wait for them, however late."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from bptt_core import forecasts, intervals
from bptt_core.forecasts import ForecastShape
from bptt_core.scales import Scaled
from bptt_core.serving import Served
from bptt_core.slab import Rows, Slab

EVENT, STEP = np.array([True]), np.array([False])
LEVELS = (0.05, 0.4, 0.9)


def shape_of(loss: str = "squared", horizon: int = 1, targets: int = 1, labels: bool = False, **more: Any) -> Any:
    quantiles = LEVELS if loss in {"pinball", "gaussian"} else ()
    per_pair = {"pinball": len(quantiles), "gaussian": 2}.get(loss, 1)
    given = {"slots": 8 if labels else horizon, "clamp": True, "quantiles": quantiles} | more
    return ForecastShape(horizon=horizon, targets=targets, ahead=int(not labels), per_pair=per_pair, loss=loss, **given)


def new_rows(shape: ForecastShape, sessions: int = 1) -> Rows:
    slab = Slab(np, forecasts.fields(shape))
    rows = slab.take(np.array([slab.allocate() for _ in range(sessions)]))
    rows["coverage_target"][...] = 0.9
    rows["interval_reach"][...] = intervals.initial_reach(0.9)
    return rows


def scaled_of(
    shape: ForecastShape, observed: Any, anchor: Any = 0.0, scale: Any = 1.0, last: Any = 0.0, sessions: int = 1
) -> Scaled:
    """A step whose pairs have one anchor, and had the scale that the next ones have."""
    came, start, known = (
        np.broadcast_to(np.asarray(v, float), (sessions, shape.targets)).copy() for v in (observed, anchor, last)
    )
    pairs = (sessions, shape.horizon, 1, shape.targets)
    scales = np.broadcast_to(np.asarray(scale, float), (sessions, shape.horizon, shape.targets)).reshape(pairs).copy()
    anchors = np.broadcast_to(start[:, None, None], pairs).copy()
    nothing, level = np.empty((sessions, 0)), np.zeros_like(came)
    residual = came[:, None, None] - anchors
    return Scaled(
        nothing,
        came,
        residual,
        scales,
        anchors,
        scales,
        known,
        level,
        level + 1,
        None,
        nothing[:, None].repeat(shape.targets, axis=1),
    )


def step(shape: ForecastShape, rows: Rows, scaled: Scaled, ys: Any, event: Any = EVENT) -> Served:
    with np.errstate(all="ignore"):
        return forecasts.step(shape, rows, scaled, np.asarray(ys, float).reshape(len(event), 1, -1), event)


def late(shape: ForecastShape, rows: Rows, events: list[int], observed: Any) -> None:
    with np.errstate(all="ignore"):
        forecasts.late(shape, rows, np.array(events) % shape.slots, np.asarray(observed, float))


def test_learned_quantiles_are_served_sorted() -> None:
    shape = shape_of("pinball", horizon=2, targets=2)
    ys = np.random.default_rng(0).standard_normal((2, 2, 3))
    anchor, scale = np.array([10.0, -3.0]), np.array([[2.0, 0.5], [3.0, 1e-3]])
    served = step(shape, new_rows(shape), scaled_of(shape, np.nan, anchor, scale), ys)
    expected = anchor[:, None] + scale[..., None] * np.sort(ys, axis=-1)
    np.testing.assert_allclose(served.distribution[0], expected, rtol=1e-12)
    np.testing.assert_allclose(served.mean[0], expected[..., 1], rtol=1e-12)  # 0.4 is the level nearest to 0.5


def test_a_gaussians_quantiles_are_those_of_its_mean_and_variance() -> None:
    shape = shape_of("gaussian", horizon=2, targets=2)
    ys = np.random.default_rng(1).standard_normal((2, 2, 2))
    anchor, scale = np.array([10.0, -3.0]), np.array([[2.0, 0.5], [3.0, 1e-3]])
    served = step(shape, new_rows(shape), scaled_of(shape, np.nan, anchor, scale), ys)
    for h in range(2):
        for o in range(2):
            law = NormalDist(anchor[o] + scale[h, o] * ys[h, o, 0], scale[h, o] * np.exp(ys[h, o, 1] / 2))
            np.testing.assert_allclose(served.distribution[0, h, o], [law.inv_cdf(level) for level in LEVELS])
            np.testing.assert_allclose(served.mean[0, h, o], law.mean)


def test_a_variance_beyond_belief_is_limited_as_in_the_loss() -> None:
    shape = shape_of("gaussian")
    for log_variance, sigma in ((300.0, np.exp(6)), (-300.0, np.exp(-6))):
        served = step(shape, new_rows(shape), scaled_of(shape, np.nan), [0.0, log_variance])
        expected = [sigma * NormalDist().inv_cdf(level) for level in LEVELS]
        np.testing.assert_allclose(served.distribution[0, 0, 0], expected)


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("loss", ["squared", "pinball", "gaussian"])
def test_outputs_far_out_are_limited_only_with_online_scaling(loss: str, clamp: bool) -> None:
    shape = shape_of(loss, clamp=clamp)
    ys = {"squared": [9.0], "pinball": [8.0, 9.0, 70.0], "gaussian": [9.0, 0.0]}[loss]
    served = step(shape, new_rows(shape), scaled_of(shape, np.nan, anchor=1.0, scale=2.0), ys)
    assert served.mean.item() == (1 + 2 * 4 if clamp else 1 + 2 * 9)
    if loss == "pinball":
        assert served.distribution.ravel().tolist() == [17.0, 19.0, 21.0 if clamp else 141.0]
    assert served.distribution.shape == (1, 1, 1, len(shape.quantiles))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("loss", ["squared", "pinball", "gaussian"])
def test_persistence_stands_for_an_output_beyond_all_targets(loss: str, sign: float) -> None:
    """Scaled targets lie within 10: a learner that says 11 is not to be limited but not to be believed."""
    ys = {"squared": [11.0 * sign], "pinball": [11.0 * sign] * 3, "gaussian": [11.0 * sign, 0.0]}[loss]
    served = step(shape_of(loss), new_rows(shape_of(loss)), scaled_of(shape_of(loss), np.nan, 1.0, 2.0, 7.0), ys)
    assert served.mean.item() == 7
    assert (served.distribution == 7).all()
    own = step(shape_of(loss, clamp=False), new_rows(shape_of(loss)), scaled_of(shape_of(loss), np.nan, 1.0, 2.0), ys)
    assert own.mean.item() == 1 + 2 * 11 * sign, "whoever brings the scaling along answers for it"


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("loss", "outputs"), [("squared", 1), ("pinball", 3), ("gaussian", 2)])
def test_persistence_stands_for_a_pair_with_a_broken_output(
    loss: str, outputs: int, broken: float, clamp: bool
) -> None:
    shape = shape_of(loss, targets=2, clamp=clamp)
    for position in range(outputs):
        ys = np.ones((2, outputs))
        ys[0, position] = broken
        served = step(shape, new_rows(shape), scaled_of(shape, np.nan, anchor=5.0, last=7.0), ys)
        assert served.mean[0, 0, 0] == 7
        assert (served.distribution[0, 0, 0] == 7).all()
        assert served.mean[0, 0, 1] == 6, "the other target is as it was"


def test_intervals_follow_a_learned_variance() -> None:
    """A process whose deviation changes by a factor of 20, told by the learner: covered as often when quiet as loud."""
    shape, n = shape_of("gaussian"), 6000
    rng = np.random.default_rng(2)
    sigma = np.where(np.sin(np.arange(n) / 25) > 0, 10.0, 0.5)
    values = sigma * rng.standard_normal(n)
    rows, served = new_rows(shape), []
    for t in range(n):
        # The outputs at t describe the value at t + 1.
        told = [0.0, 2 * np.log(sigma[min(t + 1, n - 1)] / 3)]
        served.append(step(shape, rows, scaled_of(shape, values[t], scale=3.0), told))
    lower, upper = (np.array([getattr(s, side).item() for s in served[:-1]]) for side in ("lower", "upper"))
    inside = (lower <= values[1:]) & (values[1:] <= upper)
    for level in (0.5, 10.0):
        here = (sigma[1:] == level) & (np.arange(n - 1) > 500)
        assert abs(inside[here].mean() - 0.9) < 0.02
        np.testing.assert_allclose(np.median((upper - lower)[here]), 2 * 1.645 * level, rtol=0.15)
    score = np.array([s.anomaly_score.item() for s in served])
    assert abs((score[500:] > 0.5).mean() - 0.0455) < 0.015, "2σ, in the deviation of the moment"


def brute_force(came: list[tuple[Any, float]]) -> dict[str, float]:
    """Scores over (forecast kept at the event: mean, persistence, lower, upper; its label)."""
    model, naive = (np.array([label - kept[k] for kept, label in came]) for k in (0, 1))
    bounded = [(kept, label) for kept, label in came if not np.isnan(kept[2])]
    return {
        "count": len(came), "mse": np.mean(model**2), "mae": np.mean(abs(model)),
        "persistence_mse": np.mean(naive**2), "persistence_mae": np.mean(abs(naive)),
        "coverage": np.mean([kept[2] <= label <= kept[3] for kept, label in bounded]),
        "width": np.mean([kept[3] - kept[2] for kept, _ in bounded]),
    }  # fmt: skip


@pytest.mark.parametrize("loss", ["squared", "gaussian"])
def test_a_label_meets_what_was_predicted_at_its_event(loss: str) -> None:
    """Labels with the event, up to seven events late, over gaps and breaks, or never: each is scored once."""
    n, shape = 300, shape_of(loss, targets=2, labels=True)
    rng = np.random.default_rng(3)
    labels = rng.standard_normal((n, 2)).cumsum(axis=0)
    delay = rng.integers(0, 9, (n, 2))  # 8: never
    rows, kept, came = new_rows(shape), [], ([], [])
    last = np.array([np.nan, np.nan])
    for t in range(n):
        if rng.random() < 0.1:
            step(shape, rows, scaled_of(shape, np.nan, last, last=last), np.zeros((2, shape.per_pair)), STEP)
            forecasts.clear(shape, rows, np.array([True]))
        own = np.where(delay[t] == 0, labels[t], np.nan)
        served = step(shape, rows, scaled_of(shape, own, last, 2.0, last), rng.standard_normal((2, shape.per_pair)) / 4)
        kept.append(np.stack([served.mean[0, 0], last, served.lower[0, 0], served.upper[0, 0]]))
        if t % 3 == 0:
            events = list(range(max(0, t - 7), t + 1))
            due = [[delay[e, o] == t - e or (t - e < delay[e, o] < min(8, t - e + 3)) for o in (0, 1)] for e in events]
            due = np.array(due) & (delay[events] > 0)
            given = np.where(due, labels[events], np.nan)
            late(shape, rows, events, given)
            delay[events] = np.where(due, 8, delay[events])
        else:
            events, given = [], np.empty((0, 2))
        for o in (0, 1):
            for event, label in [(t, own[o]), *zip(events, given[:, o], strict=True)]:
                if not np.isnan(label):
                    if not np.isnan(kept[event][1, o]):
                        came[o].append((kept[event][:, o], label))
                    last = np.where(np.arange(2) == o, label, last)
    scores = forecasts.read_scores(shape, {name: row[0] for name, row in rows.items()})
    for o in (0, 1):
        assert len(came[o]) > 150
        for name, value in brute_force(came[o]).items():
            np.testing.assert_allclose(getattr(scores, name)[0, o], value, rtol=1e-9, err_msg=name)
    assert scores.seasonal_mse is None


def test_forecasts_of_a_missing_step_are_scored_for_nobody() -> None:
    shape = shape_of(horizon=2)
    rows = new_rows(shape)
    step(shape, rows, scaled_of(shape, 1.0), [0.0, 0.0])
    step(shape, rows, scaled_of(shape, np.nan), [0.0, 0.0], STEP)
    step(shape, rows, scaled_of(shape, 3.0), [0.0, 0.0])
    assert rows["settled"].tolist() == [[[0], [1]]]
    assert rows["score_square"][0, :2, 1, 0].tolist() == [9, 9]


def test_intervals_of_labels_hold_their_coverage() -> None:
    """Half of the labels come with the event, half of them five events later."""
    shape, n = shape_of(labels=True), 6000
    labels = np.random.default_rng(4).standard_normal(n)
    rows, inside = new_rows(shape), []
    for t, label in enumerate(labels):
        served = step(shape, rows, scaled_of(shape, np.nan if t % 2 else label, scale=4.0), [0.0])
        inside.append(served.lower.item() <= label <= served.upper.item())
        if t >= 5 and t % 2 == 0:
            late(shape, rows, [t - 5], [[labels[t - 5]]])
    assert abs(np.mean(inside[500:]) - 0.9) < 0.015


def test_the_anomaly_score_of_a_label_is_that_of_its_own_event() -> None:
    shape = shape_of(labels=True)
    labels = np.random.default_rng(5).standard_normal(200)
    labels[150], labels[160] = 40.0, np.nan
    rows = new_rows(shape)
    score = np.array([step(shape, rows, scaled_of(shape, label), [0.0]).anomaly_score.item() for label in labels])
    assert score[150] > 5 > 1 > np.delete(score, 150).max()
    assert (score[:64] == 0).all()
    assert score[64:150].min() > 0
    assert score[160] == 0
    before = rows["interval_count"].copy()
    late(shape, rows, [160], [[2.0]])
    assert rows["interval_count"] == before + 1


def test_late_labels_in_one_call_are_late_labels_in_several() -> None:
    shape = shape_of(targets=2, labels=True, slots=80)
    labels, ys = np.random.default_rng(6).standard_normal((2, 80, 2))
    bits = []
    for cuts in ([80], [1, 2, 80], list(range(1, 81))):
        rows, start = new_rows(shape), 0
        for y in ys:
            step(shape, rows, scaled_of(shape, np.nan), y)
        for stop in cuts:
            late(shape, rows, list(range(start, stop)), labels[start:stop])
            start = stop
        bits.append([rows[name].tobytes() for name in sorted(rows)])
    assert bits[0] == bits[1] == bits[2]


def test_where_persistence_is_not_known_a_forecast_is_served_but_not_compared() -> None:
    """A network that brings its scaling along predicts at once; a mean over other pairs would not compare."""
    shape = shape_of(labels=True, clamp=False)
    rows = new_rows(shape)
    served = step(shape, rows, scaled_of(shape, 3.0, anchor=2.0, last=np.nan), [0.5])
    assert served.mean.item() == 2.5
    assert rows["settled"] == 0
    assert rows["interval_count"] == 1
    step(shape, rows, scaled_of(shape, 4.0, anchor=2.0, last=3.0), [0.5])
    assert rows["settled"] == 1
    assert rows["score_square"][0, :2].ravel().tolist() == [1.5**2, 1.0]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("loss", ["squared", "pinball", "gaussian"])
def test_a_session_does_not_see_its_neighbours(loss: str, labels: bool) -> None:
    shape = shape_of(loss, horizon=1 if labels else 3, targets=2, labels=labels)
    rng = np.random.default_rng(7)
    together, alone = new_rows(shape, 3), new_rows(shape)
    for _ in range(60):
        observed, last = rng.standard_normal((2, 3, 2))
        observed[rng.random((3, 2)) < 0.2] = np.nan
        event, broke = rng.random(3) < 0.9, rng.random(3) < 0.05
        ys = rng.standard_normal((3, shape.horizon * 2 * shape.per_pair)) * [[1], [1], [np.inf]]
        for rows, here in ((together, slice(0, 3)), (alone, slice(1, 2))):
            forecasts.clear(shape, rows, broke[here])
            count = len(broke[here])
            scaled = scaled_of(shape, observed[here], last[here], 2.0, last[here], count)
            served = step(shape, rows, scaled, ys[here], event[here])
            if rows is together:
                expected = served
        for name, value in served._asdict().items():
            assert getattr(expected, name)[1:2].tobytes() == value.tobytes(), name
    for name, row in alone.items():
        assert together[name][1:2].tobytes() == row.tobytes(), name
