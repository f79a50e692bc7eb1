"""One report of a session's updates out of those of its learners: against a plain loop over them."""

from __future__ import annotations

import numpy as np
import pytest

from bptt_core import ResetReason, UpdateResult, reports
from bptt_core.tbptt import StepReport

NUMBERS = ("loss", "gradient_norm", "clip_scale", "saturation", "update_ratio")
BEST_LAST = (
    UpdateResult.NOT_DUE,
    UpdateResult.LEARNING_OFF,
    UpdateResult.NO_TARGET,
    UpdateResult.NON_FINITE,
    UpdateResult.APPLIED,
)


def random_report(rng: np.random.Generator, learners: int) -> StepReport:
    """Of a group; numbers are there where an update was applied."""
    result = rng.choice(np.array(list(UpdateResult), np.int8), learners)
    numbers = [np.where(result == UpdateResult.APPLIED, rng.random(learners), np.nan) for _ in NUMBERS]
    lags = rng.random((learners, 4)).astype(np.float32)
    reset = rng.integers(0, max(ResetReason) + 1, learners).astype(np.int8)
    return StepReport(result, *(column.astype(np.float32) for column in numbers), lags, reset)


@pytest.mark.parametrize("members", [((0,), (1,)), ((0, 2), (1, 3)), ((0, 1, 2),), ((0, 3), (1,), (2,))])
def test_the_best_result_and_means_over_what_was_applied(members: tuple[tuple[int, ...], ...]) -> None:
    rng, sessions = np.random.default_rng(0), 40
    groups = [random_report(rng, sessions * len(places)) for places in members]
    with np.errstate(all="ignore"):
        told = reports.of_sessions(members, groups)
    seen = set()
    for b in range(sessions):
        row = {}  # by the learner's position: its report's columns
        for places, group in zip(members, groups, strict=True):
            for k, place in enumerate(places):
                row[place] = {name: getattr(group, name)[b * len(places) + k] for name in group._fields}
        results = [row[place]["result"] for place in sorted(row)]
        assert told.result[b] == max(results, key=BEST_LAST.index)
        seen.add(int(told.result[b]))
        assert told.reset[b].tolist() == [row[place]["reset"] for place in sorted(row)]
        assert told.norm_by_lag[b].tobytes() == row[0]["norm_by_lag"].tobytes()
        for name in NUMBERS:
            applied = [row[place][name] for place in row if row[place]["result"] == UpdateResult.APPLIED]
            expected = np.mean(applied) if applied else np.nan
            assert getattr(told, name).dtype == np.float32
            np.testing.assert_allclose(getattr(told, name)[b], expected, rtol=1e-6)
    assert len(seen) > 1
    for name, column in told._asdict().items():
        assert len(column) == sessions, name


def test_one_learner_is_reported_as_it_is() -> None:
    report = random_report(np.random.default_rng(1), 9)
    told = reports.of_sessions(((0,),), [report])
    for name in set(report._fields) - {"reset"}:
        assert getattr(told, name).tobytes() == getattr(report, name).tobytes(), name
    assert told.reset.tolist() == report.reset[:, None].tolist()
