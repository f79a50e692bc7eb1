"""What becomes of forecasts, intervals and sensor states when a stream changes, in the default configuration.

The streams are those of `benchmarks/streams.py`; figures beside the thresholds were measured when those were set.
"""

from __future__ import annotations

import accuracy
import numpy as np
import pytest
import streams
from folds import FASTEST

from bptt_core import Outcomes, SensorState, SessionConfig

AT = 700  # event of the change


def squares(values: np.ndarray, outcomes: Outcomes) -> np.ndarray:
    """Squared errors [n, D] of the forecasts one event ahead, by the event they were made for; NaN: the first."""
    error = np.full(values.shape, np.nan)
    error[1:] = (values[1:] - outcomes.mean[:-1, 0]) ** 2
    return error


def widths(outcomes: Outcomes) -> np.ndarray:
    """[n] of the interval one event ahead, by the event it was made at."""
    return (outcomes.upper - outcomes.lower)[:, 0, 0]


def test_after_a_level_shift_the_forecast_is_right_again_within_three_events_and_the_interval_soon() -> None:
    """A jump by 14 deviations is one anomaly. The noise has variance 1 before and after it; measured over 50 events
    from the third after the jump on: 1.3 and 1.7. The interval is 1.3 times as wide then, and 1.1 times 300 later."""
    tables = [streams.level_shift(seed, 1300, AT) for seed in range(2)]
    *_, outcomes = accuracy.forecast(tables, [SessionConfig(("x",))] * 2, backend=FASTEST)
    for values, served in zip(tables, outcomes, strict=True):
        error, width = squares(values, served)[:, 0], widths(served)
        assert error[AT] > 100, "nobody knew"
        assert served.anomaly_score[AT] > 1
        assert (served.anomaly_score[AT + 1 : AT + 100] > 1).sum() <= 1
        assert error[AT + 3 : AT + 53].mean() <= 2
        assert error[AT + 300 :].mean() <= 1.25
        usual = np.median(width[AT - 300 : AT])
        assert width[AT] > 1.1 * usual
        assert np.median(width[AT + 300 :]) < 1.25 * usual


def test_when_the_noise_grows_fivefold_it_is_noticed_and_the_interval_follows() -> None:
    """Half a hundred events after the change the interval is five times as wide, within 30 the drift is told, and
    of the next hundred intervals as many hold as should."""
    tables = [streams.variance_change(seed, 1300, AT) for seed in range(2)]
    *_, outcomes = accuracy.forecast(tables, [SessionConfig(("x",))] * 2, backend=FASTEST)
    for values, served in zip(tables, outcomes, strict=True):
        width = widths(served)
        usual = np.median(width[AT - 300 : AT])
        assert width[AT + 50 : AT + 100].min() > 3 * usual
        assert 4 < np.median(width[AT + 300 :]) / usual < 7
        inside = np.abs(values[1:, 0] - (served.lower + served.upper)[:-1, 0, 0] / 2) <= width[:-1] / 2
        assert inside[AT : AT + 50].mean() >= 0.5
        assert 0.8 <= inside[AT + 50 : AT + 150].mean() <= 1
        assert abs(inside[AT + 150 :].mean() - 0.9) <= 0.04
        drifts = np.flatnonzero(served.drift)
        assert len(drifts) == 1
        assert AT < drifts[0] <= AT + 30


@pytest.mark.parametrize("backend", sorted({FASTEST, "numpy"}))
def test_a_dead_sensor_is_named_and_hurts_no_other(backend: str) -> None:
    """One channel of three repeats a value, or is missing, from some event on: the other two are forecast as well as
    in the stream where it lives (within 2 %), and the state says which of the two it is."""
    alive = streams.related_channels(0, 1000)
    stuck, gone = alive.copy(), alive.copy()
    stuck[AT:, 1], gone[AT:, 1] = alive[AT, 1], np.nan
    config = SessionConfig(("a", "b", "c"))
    *_, (whole, repeating, missing) = accuracy.forecast([alive, stuck, gone], [config] * 3, backend=backend)
    others = [0, 2]
    usual = squares(alive, whole)[AT:, others].mean(axis=0)
    for values, served, state in ((stuck, repeating, SensorState.STUCK), (gone, missing, SensorState.MISSING)):
        assert (squares(values, served)[AT:, others].mean(axis=0) <= 1.02 * usual).all()
        assert (served.sensor_state[:AT] == SensorState.OK).all()
        assert (served.sensor_state[AT + 8 :, 1] == state).all()
        assert (served.sensor_state[:, others] == SensorState.OK).all()
        assert (served.target_anomaly_score[AT + 8 :, 1] == 0).all()
        assert np.isfinite(served.mean).all()
    assert np.abs(repeating.mean[AT + 100 :, 0, 1] - alive[AT, 1]).max() < 0.3, "what is stuck is forecast to stay"
