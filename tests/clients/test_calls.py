"""Unary calls, rows, times, failures and public names: what a request says, what an answer becomes, on both faces."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.rpc import code_pb2

import bptt_client
from bptt.v1 import forecast_pb2
from bptt_client import aio, aio_stream, answers, calls, client, config, errors, events, rows, stream
from bptt_client.rows import Channels

PUBLIC = [
    "AlreadyStarted",
    "AsyncClient",
    "AsyncSessionHandle",
    "AsyncStream",
    "AsyncWatch",
    "BatchResult",
    "BpttError",
    "Client",
    "ClientClosed",
    "CreditExceeded",
    "DeadlineExceeded",
    "Expert",
    "Forecast",
    "InvalidRequest",
    "LabelConflict",
    "LabelError",
    "LabelResult",
    "LabelTooOld",
    "LabelUnknownSequence",
    "LearnerReset",
    "LimitReached",
    "MessageTooLarge",
    "NoEvents",
    "Outcomes",
    "Overloaded",
    "ProtocolError",
    "Reply",
    "Resume",
    "Scores",
    "SequenceConflict",
    "SequenceError",
    "SequenceGap",
    "SequenceTooOld",
    "ServerDraining",
    "ServerError",
    "Session",
    "SessionExists",
    "SessionHandle",
    "SessionNotFound",
    "SessionRewound",
    "SessionSuperseded",
    "Stream",
    "Summary",
    "TargetForecast",
    "UidMismatch",
    "Unavailable",
    "Update",
    "UpdateCounts",
    "WarmStartResult",
    "Watch",
]


def test_public_names_are_pinned():
    assert sorted(bptt_client.__all__) == sorted(PUBLIC)
    assert all(hasattr(bptt_client, name) for name in PUBLIC)


@pytest.mark.parametrize(
    ("blocking", "other"),
    [
        (client.Client, aio.AsyncClient),
        (client.SessionHandle, aio.AsyncSessionHandle),
        (client.Watch, aio.AsyncWatch),
        (stream.Stream, aio_stream.AsyncStream),
    ],
)
def test_both_faces_have_the_same_names_parameters_and_words(blocking, other):
    def face(kind):
        members = {name: m for name, m in vars(kind).items() if not name.startswith("_")}
        return {
            name: list(inspect.signature(m).parameters.items())
            and [(p.name, p.kind, p.default) for p in inspect.signature(m).parameters.values()]
            if callable(m)
            else "property"
            for name, m in members.items()
        }

    assert face(blocking) == face(other)


def test_the_sdk_needs_no_numpy_and_no_server():
    code = "import sys, bptt_client; print([m for m in ('numpy', 'rich', 'server', 'bptt_core') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_tree_in_the_docstring_names_every_exception():
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert all(name in errors.__doc__ for name in kinds)
    assert kinds <= set(bptt_client.__all__)


# Rows and times.


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"a": 1, "b": 2.5}, [1.0, 2.5]),
        ({"b": 2}, [math.nan, 2.0]),
        ({"a": None, "b": math.nan}, [math.nan, math.nan]),
        ([1, None], [1.0, math.nan]),
        ((1.0, 2.0), [1.0, 2.0]),
        ((float(i) for i in range(2)), [0.0, 1.0]),
    ],
)
def test_rows_become_values_in_feature_order(row, expected):
    assert rows.encode_row(row, Channels(("a", "b"))).tolist() == pytest.approx(expected, nan_ok=True)


def test_a_bare_number_is_a_row_of_one_feature():
    assert rows.encode_row(7, Channels(("a",))).tolist() == [7.0]


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ({"a": 1, "c": 2}, ValueError, "'c' is not a feature; features: a, b"),
        ({"a": "1.5"}, TypeError, "a is '1.5'"),
        ({1.0, 2.0}, TypeError, "not set, which has no order"),
        (None, TypeError, "a row of features is a mapping, a sequence of numbers or a number, not NoneType"),
        ([10**400, 1], ValueError, "a is beyond 1e308"),
        ({"b": -(10**400)}, ValueError, "b is beyond 1e308"),
        ((x for x in [1, "x"]), TypeError, "b is 'x'"),
        ([1, "x"], TypeError, "b is 'x'"),
        ([1], ValueError, "1 values; allowed: 2"),
        ([1, 2, 3], ValueError, "3 values; allowed: 2"),
        (7, ValueError, "1 values; allowed: 2"),
        ("12", TypeError, "not str"),
        (b"12", TypeError, "not bytes"),
    ],
)
def test_a_bad_row_is_refused_by_name(row, kind, words):
    with pytest.raises(kind, match=words):
        rows.encode_row(row, Channels(("a", "b")))


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (None, None),
        (5, 5),
        (datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC), 1_000_001_000),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
        (datetime(2116, 2, 20, 23, 53, 38, 427387, tzinfo=UTC), 4611686018427387000),
        (-(2**62), -(2**62)),
        (datetime(1969, 12, 31, tzinfo=UTC), -86_400_000_000_000),
    ],
)
def test_times_are_exact_nanoseconds(time, expected):
    assert rows.encode_time(time) == expected


@pytest.mark.parametrize(
    ("time", "kind"),
    [
        (1.5, TypeError),
        ("2020-01-01", TypeError),
        (True, TypeError),
        (datetime(2020, 1, 1), ValueError),  # noqa: DTZ001
        (2**62 + 1, ValueError),
        (datetime(2116, 2, 20, 23, 53, 38, 427388, tzinfo=UTC), ValueError),
        (datetime(1, 1, 1, tzinfo=UTC), ValueError),
        (datetime(9999, 12, 31, tzinfo=timezone(timedelta(hours=-9))), ValueError),
    ],
)
def test_a_time_that_cannot_be_exact_is_refused(time, kind):
    with pytest.raises(kind):
        rows.encode_time(time)


@pytest.mark.parametrize(
    ("given", "timestamps", "words"),
    [
        ([1, 2, 3], [1], "1 timestamps for 3 rows"),
        ([1, 2], [1, 2, 3], "3 timestamps for 2 rows"),
        (iter([1, 2, 3]), [1], "1 timestamps for more rows than 1"),
        ([1, 2], iter([1, 2, 3]), "more timestamps than 2 for 2 rows"),
    ],
)
def test_rows_and_timestamps_that_differ_in_number_are_counted(given, timestamps, words):
    taken = []
    with pytest.raises(ValueError, match=f"{words}; allowed: one per row"):
        taken.extend(row for row, *_ in events.paired(given, timestamps))
    assert not (taken and isinstance(given, list) and isinstance(timestamps, list))


# Configuration.


def test_a_configuration_survives_the_way_there_and_back():
    given = {"features": ["a", "b"], "targets": ["b"], "horizon": 3, "seasons": [24], "coverage": 0.8}
    given["learner"] = {"cell": "gru", "hidden": 16, "anchor": "none", "learning_rate": 0.01, "guard": False}
    assert config.as_mapping(config.session_config({**given, "period_ns": None})) == given
    several = {"features": ["a"], "learners": [{"hidden": 16}, {}, {"cell": "gru", "anchor": "season"}]}
    several["seasonality"] = "found"
    assert config.as_mapping(config.session_config(several)) == several


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"features": "abc"}, TypeError, "features is 'abc'; allowed: a list"),
        ({"horizons": 1}, ValueError, "'horizons' is not a field; allowed: features, targets, horizon"),
        ({"learner": {"cells": 1}}, ValueError, "'learner.cells' is not a field; allowed: cell, hidden"),
        ({"learner": {"cell": "rnn"}}, ValueError, "learner.cell is 'rnn'; allowed: tanh, gru, lstm, relu"),
        ({"learner": {"cell": ["gru"]}}, ValueError, "allowed: tanh, gru, lstm, relu"),
        ({"learner": 5}, TypeError, "allowed: a mapping"),
        ({"horizon": 1.5}, TypeError, "horizon is 1.5; allowed: a whole number"),
        ({"horizon": -1}, ValueError, "horizon is -1"),
        ({"coverage": "0.9"}, TypeError, "coverage is '0.9'; allowed: a number"),
        ({"features": [1]}, TypeError, "features is 1; allowed: text"),
        ({"features": {"a": 1}}, TypeError, "features is {'a': 1}; allowed: a list"),
        ({"learner": {"guard": 1}}, TypeError, "learner.guard is 1; allowed: True, False"),
        ({"learners": {"hidden": 4}}, TypeError, "learners is {'hidden': 4}; allowed: a list"),
        ({"learners": [4]}, TypeError, r"learners\[0\] is 4; allowed: a mapping"),
        ({"learners": [{}, {"cell": "rnn"}]}, ValueError, r"learners\[1\].cell is 'rnn'; allowed: tanh, gru"),
        ({"seasonality": "on"}, ValueError, "seasonality is 'on'; allowed: found, given, off"),
    ],
)
def test_a_bad_configuration_is_refused_by_name(given, kind, words):
    with pytest.raises(kind, match=words):
        config.session_config(given)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("horizon=24", {"horizon": 24}),
        ("seasons=24", {"seasons": [24]}),
        ("targets=a,b", {"targets": ["a", "b"]}),
        ("hidden=64", {"learner": {"hidden": 64}}),
        ("learner.hidden=64", {"learner": {"hidden": 64}}),
        ("cell=gru", {"learner": {"cell": "gru"}}),
        ("learning_rate=1e-3", {"learner": {"learning_rate": 1e-3}}),
        ("seasonality=off", {"seasonality": "off"}),
        ("guard=off", {"learner": {"guard": False}}),
        ('learners=[{"hidden": 16}, {"cell": "gru"}]', {"learners": [{"hidden": 16}, {"cell": "gru"}]}),
    ],
)
def test_a_setting_finds_its_field(text, expected):
    assert config.setting(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "horizon",
        "=1",
        "nothing=1",
        "learner.horizon=1",
        "learner=1",
        "hidden=many",
        "x.hidden=1",
        "guard=no",
        "learners=16",
        "learners=[",
        "learners.hidden=1",
    ],
)
def test_a_bad_setting_names_what_is_allowed(text):
    with pytest.raises((TypeError, ValueError), match="allowed"):
        config.session_config(config.setting(text))


def test_later_settings_win_field_by_field():
    entries = [config.setting(text) for text in ("hidden=8", "cell=gru", "hidden=9", "horizon=2")]
    assert config.merged({"horizon": 1}, entries) == {"horizon": 2, "learner": {"hidden": 9, "cell": "gru"}}


# Calls against a server.


@pytest.fixture
def handle(fake, connect):
    return connect(fake.target).create_session("s", features=["a", "b"], targets=["b"], horizon=2)


def test_learn_one_numbers_events_and_reads_the_reply(handle):
    assert handle.learn_one({"a": 1.0}).sequence == 1
    reply = handle.learn_one([1.0, 2.0])
    assert reply.sequence == handle.last_sequence == 2
    assert reply.forecast["b"].mean == [2000.0, 2010.0]
    assert reply.forecast.lower == [[1999.0], [2009.0]]
    assert (reply.forecast.horizon, reply.anomaly_score) == (2, 0.5)
    assert reply.update == bptt_client.Update("applied", 0.25, 3.0, 1.0, 0.125, 0.5)
    assert reply.update.applied
    assert handle.learn_one([3.0, 4.0]).update is None
    with pytest.raises(KeyError, match="targets: b"):
        reply.forecast["a"]


def test_a_reply_lost_on_the_way_comes_again_when_the_row_is_repeated(fake, handle):
    handle.learn_one([1.0, 2.0], timestamp=5)
    handle._known.last_sequence -= 1
    assert handle.learn_one([1.0, 2.0], timestamp=5).sequence == 1
    handle._known.last_sequence -= 1
    with pytest.raises(bptt_client.SequenceConflict) as caught:
        handle.learn_one([1.0, 3.0], timestamp=5)
    assert caught.value.last_sequence == 1
    assert len(fake.sessions["s"].events) == 1


def test_a_server_that_lost_acknowledged_events_is_a_rewind_not_a_gap(fake, handle):
    for row in ([1.0, 2.0], [3.0, 4.0]):
        handle.learn_one(row)
    fake.sessions["s"].events.clear()
    with pytest.raises(bptt_client.SessionRewound) as caught:
        handle.learn_one([5.0, 6.0])
    assert (caught.value.acknowledged, caught.value.last_sequence) == (2, 0)


def test_an_unavailable_server_is_asked_again_but_nothing_else_is(fake, handle):
    fake.refuse_next(code_pb2.UNAVAILABLE, "DRAINING")
    assert handle.learn_one([1.0, 2.0]).sequence == 1
    fake.refuse_next(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", delay_s=0.25)
    with pytest.raises(bptt_client.Overloaded) as caught:
        handle.learn_one([1.0, 2.0])
    assert caught.value.retry_delay_s == 0.25
    assert handle.learn_one([1.0, 2.0]).sequence == 2


def test_a_call_that_a_stopping_server_cancelled_is_asked_again_and_then_unavailable(fake, handle):
    fake.refuse_next(code_pb2.CANCELLED, "")
    assert handle.learn_one([1.0, 2.0]).sequence == 1
    for _ in range(5):
        fake.refuse_next(code_pb2.CANCELLED, "")
    with pytest.raises(bptt_client.Unavailable) as caught:
        handle.learn_one([1.0, 2.0])
    assert caught.value.code == "CANCELLED"


def test_sessions_are_listed_over_all_pages(fake, connect):
    made = connect(fake.target)
    for name in "edcba":
        made.create_session(name, features=["x"])
    assert [session.session_id for session in made.list_sessions()] == list("abcde")


def test_a_session_that_is_not_there_is_named(fake, connect):
    with pytest.raises(bptt_client.SessionNotFound) as caught:
        connect(fake.target).session("nowhere")
    assert (caught.value.session_id, caught.value.code, caught.value.reason) == (
        "nowhere",
        "NOT_FOUND",
        "SESSION_NOT_FOUND",
    )


# Failures.


@pytest.mark.parametrize(("reason", "kind"), sorted(errors.BY_REASON.items()))
def test_every_reason_has_its_exception_in_streams(reason, kind):
    from bptt.v1 import error_pb2

    message = error_pb2.Error(code=code_pb2.ABORTED, reason=reason, message="why", metadata={"last_sequence": "7"})
    message.retry_delay.FromMilliseconds(250)
    error = answers.stream_failure(message)
    assert type(error) is kind
    assert (str(error), error.code, error.retry_delay_s, error.metadata) == (
        "why",
        "ABORTED",
        0.25,
        {"last_sequence": "7"},
    )


def test_an_unknown_reason_falls_back_to_its_code():
    assert type(errors.from_facts("RESOURCE_EXHAUSTED", "NEW_ROW", "m", {}, None)) is errors.Overloaded
    assert type(errors.from_facts("ABORTED", "NEW_ROW", "m", {}, None)) is errors.BpttError
    too_large = errors.from_facts("RESOURCE_EXHAUSTED", "", "Sent message larger than max (5 vs. 4)", {}, None)
    assert type(too_large) is errors.MessageTooLarge


def test_an_answer_whose_columns_do_not_fit_is_a_protocol_error():
    with pytest.raises(bptt_client.ProtocolError):
        answers.read_outcomes(
            forecast_pb2.Outcomes(first_sequence=1, count=2, horizon=1, targets=1, mean=[1.0]), ("a",)
        )


def test_a_changed_field_is_checked_by_name():
    with pytest.raises(ValueError, match="allowed: learning, learning_rate, tags, credit_events"):
        calls.update_session("s", "", {"hidden": 3})
    request = calls.update_session("s", "u", {"learning": False, "tags": None, "credit_events": 9}).request
    assert list(request.update_mask.paths) == ["learning", "tags", "limits"]
    assert request.changes.limits.credit_events == 9
