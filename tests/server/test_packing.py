"""Outcomes written by column are the message that the generated classes make of them, field by field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bptt.v1 import forecast_pb2
from bptt_core import Categorical, Events, Fold, LearnerConfig, Outcomes, SessionConfig, lags, select_backend
from bptt_core.outcomes import COLUMNS, Columns, Table
from bptt_core.slab import Field
from server.packing import packed, packed_run, stream_result, varint

CONFIGS = {
    "plain": SessionConfig(("x", "y"), horizon=3, learner=LearnerConfig(hidden=2, window=5)),
    "quantiles": SessionConfig(
        ("x",), learner=LearnerConfig(hidden=2, window=5, loss="pinball", quantiles=(0.1, 0.5, 0.9))
    ),
    "labels": SessionConfig(("x",), task="regress", labels=("p", "q"), learner=LearnerConfig(hidden=2, window=5)),
    "symbols": SessionConfig(
        ("x",), task="classify", categories=(Categorical("x", ("a", "b")),), learner=LearnerConfig(hidden=2, window=5)
    ),
    "portfolio": SessionConfig(("x",), horizon=2),
}


def built(outs: Outcomes, window: int) -> forecast_pb2.Outcomes:
    """The same by the generated classes, number by number."""

    def flat(name: str) -> list[Any]:
        values: list[Any] = getattr(outs, name).ravel().tolist()
        return values

    plain = ("mean", "lower", "upper", "distribution", "anomaly_score", "target_anomaly_score", "anomaly_likelihood")
    plain += ("loss", "gradient_norm", "clip_scale", "saturation", "update_ratio", "drift", "warming_up")
    message = forecast_pb2.Outcomes(
        first_sequence=outs.first_sequence,
        count=len(outs),
        horizon=outs.mean.shape[1],
        targets=outs.mean.shape[2],
        distribution_size=outs.distribution.shape[3],
        update_results=flat("update_result"),
        sensor_states=flat("sensor_state"),
        **{name: flat(name) for name in plain},
    )
    for row, norms in enumerate(outs.norm_by_lag):
        if not np.isnan(norms).all():
            message.gradient_by_lag.add(sequence=outs.first_sequence + row, lag=lags(window), norm=norms.tolist())
    for row, learner in np.argwhere(outs.learner_reset).tolist():
        reason = int(outs.learner_reset[row, learner])
        message.learner_resets.add(sequence=outs.first_sequence + row, learner=learner, reason=reason)  # type: ignore[arg-type]
    return message


def same(data: bytes, message: forecast_pb2.Outcomes) -> bool:
    """Bit for bit, so that NaN equals NaN."""
    return forecast_pb2.Outcomes.FromString(data).SerializeToString() == message.SerializeToString()


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_outcomes_are_the_message(name: str) -> None:
    config = CONFIGS[name].validated()
    window = config.portfolio[0].window
    assert window is not None
    fold = Fold(select_backend("numpy"))
    values = np.random.default_rng(0).integers(0, 2, (70, len(config.features))).astype(float)
    labels = np.ones((70, len(config.labels))) if config.labels else None
    (outs,) = fold.step([(fold.create(config), Events(values, None, labels))])
    assert len(built(outs, window).gradient_by_lag) == 1
    pieces = [outs, outs.last(), outs.rows(0, 1), outs.rows(60, 66)]
    outs.learner_reset[3] = 2
    for table in (*pieces, outs.rows(2, 5)):
        assert same(packed(table, window), built(table, window))


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1, 2), (3, 1)])
def test_cuts_of_a_table_are_packed_like_tables_of_their_own(rows: int, lengths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(rows)
    kinds = {"mean": (2, 1), "lower": (2, 1), "upper": (2, 1), "distribution": (2, 1, 3), "target_anomaly_score": (1,)}
    kinds |= {"sensor_state": (1,), "norm_by_lag": (len(lags(5)),), "learner_reset": (2,)}
    small = {"sensor_state", "update_result", "learner_reset"}
    flags = {"drift", "warming_up"}
    floats = {"loss", "gradient_norm", "clip_scale", "saturation", "update_ratio", "norm_by_lag"}
    fields = []
    for name in COLUMNS:
        kind = np.int8 if name in small else np.bool_ if name in flags else np.float32 if name in floats else np.float64
        fields.append(Field(name, kinds.get(name, ()), kind))
    table = Table(Columns(fields), rows)
    for place, name in enumerate(COLUMNS):
        table.column(place)[...] = rng.normal(0, 3, table.column(place).shape).astype(int) % 2
        if name == "norm_by_lag":
            table.column(place)[rng.random(rows) < 0.7] = np.nan
    cuts: list[Outcomes] = []
    start = 0
    while start < rows:
        stop = min(rows, start + lengths[len(cuts) % len(lengths)])
        cuts.append(table.cut(start + 1, start, stop))
        start = stop
    for cut in cuts:
        assert same(packed(cut, 5), built(cut, 5))
        assert same(packed_run([cut.rows(k, k + 1) for k in range(len(cut))], 5), built(cut, 5))
        assert same(packed(cut.last(), 5), built(cut.last(), 5))


def test_numbers_at_the_ends_of_their_range_are_packed() -> None:
    fold = Fold(select_backend("numpy"))
    config = CONFIGS["plain"].validated()
    (outs,) = fold.step([(fold.create(config), Events(np.full((2, 2), np.nan)))])
    for first in (1, 127, 128, 2**32, 2**63):
        table = Outcomes(first, *(getattr(outs, name) for name in outs.__slots__[1:]))
        assert same(packed(table, 5), built(table, 5))


@pytest.mark.parametrize("outcomes", [None, b"", forecast_pb2.Outcomes(first_sequence=7).SerializeToString()])
def test_a_result_is_the_message(outcomes: bytes | None) -> None:
    response = forecast_pb2.StreamResponse.FromString(stream_result(300, 7, 2**40, 2, outcomes))
    result = response.result
    assert response.WhichOneof("response") == "result"
    assert (result.channel, result.result.first_sequence, result.result.last_sequence) == (300, 7, 2**40)
    assert result.result.duplicates == 2
    assert result.result.HasField("outcomes") == (outcomes is not None)
    assert result.result.outcomes.SerializeToString() == (outcomes or b"")


def test_a_varint_is_as_protobuf_writes_it() -> None:
    for number in (0, 1, 127, 128, 300, 2**14 - 1, 2**14, 2**35, 2**63, 2**64 - 1):
        written = forecast_pb2.EventBatch(first_sequence=number).SerializeToString()
        assert written == (b"\x10" + varint(number) if number else b"")
