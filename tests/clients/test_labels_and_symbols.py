"""Symbols, labels and episodes without a server: what a request says of them, what an answer says in their words."""

from __future__ import annotations

import asyncio
import math

import pytest
from google.rpc import code_pb2

import bptt_client
from bptt.v1 import config_pb2, error_pb2, forecast_pb2, session_pb2
from bptt_client import answers, calls, config, errors, events, rows
from bptt_client.answers import Known, Numbering
from bptt_client.events import Given
from bptt_client.feed import Feed, Resume
from bptt_client.rows import Channels
from server.errors import TABLE

LETTERS = Channels(("char",), {"char": {"a": 0, "b": 1, " ": 2}})
MIXED = Channels(("temp", "state"), {"state": {"idle": 0, "run": 1}})
NAN = math.nan


def known(**facts):
    first = {"session_id": "s", "uid": "u", "features": MIXED, "labels": Channels(("y", "z"), word="label")}
    then = {"targets": ("y", "z"), "symbols": (), "levels": (), "horizon": 1, "credit_events": 1024, "last_sequence": 0}
    return Known(**{**first, **then, **facts})


# Rows.


@pytest.mark.parametrize(
    ("row", "channels", "expected"),
    [
        ({"temp": 1.5, "state": "run"}, MIXED, [1.5, 1.0]),
        ({"temp": 1.5, "state": 1}, MIXED, [1.5, 1.0]),
        ([None, "idle"], MIXED, [NAN, 0.0]),
        ([3, None], MIXED, [3.0, NAN]),
        ("b", LETTERS, [1.0]),
        (" ", LETTERS, [2.0]),
        (["a"], LETTERS, [0.0]),
        (None, LETTERS, [NAN]),
    ],
)
def test_a_symbol_travels_as_its_position(row, channels, expected):
    assert rows.encode_row(row, channels).tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("row", "channels", "kind", "words"),
    [
        ({"state": "stop"}, MIXED, ValueError, "state is 'stop'; allowed: 'idle', 'run', or None where it is missing"),
        ("c", LETTERS, ValueError, "char is 'c'; allowed: 'a', 'b', ' '"),
        ("ab", LETTERS, ValueError, "char is 'ab'"),
        ({"temp": "hot"}, MIXED, TypeError, "temp is 'hot'; allowed: a number"),
        ("idle", MIXED, TypeError, "a row of features is a mapping, a sequence of numbers or a number, not str"),
        ({"w": 1}, Channels(("y",), word="label"), ValueError, "'w' is not a label; labels: y"),
        ([1, 2], Channels(("y",), word="label"), ValueError, r"2 values; allowed: 1, one per label \(y\)"),
    ],
)
def test_what_is_no_symbol_is_refused_by_name(row, channels, kind, words):
    with pytest.raises(kind, match=words):
        rows.encode_row(row, channels)


def test_many_symbols_are_shown_shortened():
    digits = Channels(("d",), {"d": {str(i): i for i in range(100)}})
    with pytest.raises(ValueError, match=r"^d is 'x'; allowed: '0', '1', .*'7', … \(100\), or None"):
        rows.encode_row("x", digits)


# Configuration.


def test_categories_are_a_mapping_both_ways():
    given = {"features": ["c", "d"], "categories": {"c": ["x", "y"], "d": 3}, "task": "classify", "label_age": 5}
    message = config.session_config(given)
    assert [(entry.channel, list(entry.symbols)) for entry in message.categories] == [
        ("c", ["x", "y"]),
        ("d", ["0", "1", "2"]),
    ]
    back = config.as_mapping(message)
    assert back == {**given, "categories": {"c": ["x", "y"], "d": ["0", "1", "2"]}}
    assert config.session_config(back) == message


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"categories": ["c"]}, TypeError, "categories is .*; allowed: a mapping from channel to symbols"),
        ({"categories": {"c": "abc"}}, TypeError, r"categories\[c\].symbols is 'abc'; allowed: a list"),
        ({"categories": {"c": [1]}}, TypeError, "is 1; allowed: text"),
        ({"task": "guess"}, ValueError, "task is 'guess'; allowed: forecast, regress, classify"),
        ({"scaling": "none"}, ValueError, "allowed: online, fixed"),
    ],
)
def test_a_bad_category_or_task_is_refused_by_name(given, kind, words):
    with pytest.raises(kind, match=words):
        config.session_config(given)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("categories=state:idle|run", {"categories": {"state": ["idle", "run"]}}),
        ("categories=state:idle|run,digit:10", {"categories": {"state": ["idle", "run"], "digit": 10}}),
        ("categories=a:b:x|y", {"categories": {"a:b": ["x", "y"]}}),
        ("labels=y,z", {"labels": ["y", "z"]}),
        ("means=1,-2.5", {"means": [1.0, -2.5]}),
        ("quantiles=0.1,0.9", {"learner": {"quantiles": [0.1, 0.9]}}),
        ("clip=quantile", {"learner": {"clip": "quantile"}}),
        ("layers=2", {"learner": {"layers": 2}}),
    ],
)
def test_a_setting_of_a_new_kind_finds_its_field(text, expected):
    assert config.setting(text) == expected
    config.session_config(expected)


@pytest.mark.parametrize("text", ["categories=state", "categories=:a|b", "categories=state:", "learner.task=regress"])
def test_a_bad_setting_of_a_new_kind_names_what_is_allowed(text):
    with pytest.raises(ValueError, match="allowed"):
        config.setting(text)


def test_categories_are_merged_channel_by_channel():
    entries = [config.setting(text) for text in ("categories=a:x|y", "categories=b:2", "categories=a:3")]
    assert config.merged({}, entries) == {"categories": {"a": 3, "b": 2}}


def test_the_parameters_of_a_new_session_are_the_fields_of_the_contract():
    fields = {field.name for field in config_pb2.SessionConfig.DESCRIPTOR.fields}
    assert {"features", *calls.Configuration.__annotations__} == fields


# Rows with what belongs to them.


def test_rows_meet_their_times_labels_and_episodes():
    made = list(events.paired([1, 2, 3, 4], [10, 20, 30, 40], ["a", None, "c", "d"], [0, 2], start=1))
    assert made == [Given(2, 20, None, False), Given(3, 30, "c", True), Given(4, 40, "d", False)]
    assert list(events.paired(iter([1, 2]), labels=iter([5, 6]))) == [Given(1, None, 5), Given(2, None, 6)]


@pytest.mark.parametrize(
    ("given", "columns", "kind", "words"),
    [
        ([1, 2, 3], {"labels": [1]}, ValueError, "1 labels for 3 rows; allowed: one per row"),
        (iter([1, 2, 3]), {"labels": [1]}, ValueError, "1 labels for more rows than 1"),
        ([1, 2], {"labels": iter([1, 2, 3])}, ValueError, "more labels than 2 for 2 rows"),
        ([1, 2], {"episode_starts": [2]}, ValueError, r"an episode starts at row 2; allowed: 0\.\.1"),
        (iter([1, 2]), {"episode_starts": [0, 5]}, ValueError, r"an episode starts at row 5; allowed: 0\.\.1"),
        ([1, 2], {"episode_starts": [-1]}, ValueError, "an episode starts at row -1"),
        ([1, 2], {"episode_starts": [True, False]}, TypeError, "an episode start is True; allowed: numbers of rows"),
        ([1, 2], {"episode_starts": [1.0]}, TypeError, "an episode start is 1.0"),
    ],
)
def test_what_does_not_fit_the_rows_is_refused(given, columns, kind, words):
    with pytest.raises(kind, match=words):
        list(events.paired(given, **columns))


def test_rows_that_arrive_one_by_one_have_episodes_but_no_columns():
    async def arriving():
        for number in range(3):
            yield number

    async def gathered(**columns):
        whole = {"timestamps": None, "labels": None, "episode_starts": None, "start": 1, **columns}
        return [given async for given in events.paired_async(arriving(), **whole)]

    assert asyncio.run(gathered(episode_starts=[2])) == [Given(1), Given(2, new_episode=True)]
    with pytest.raises(TypeError, match=r"labels with rows that arrive one by one; allowed: stream\(\)"):
        asyncio.run(gathered(labels=[1, 2, 3]))
    with pytest.raises(ValueError, match="an episode starts at row 9"):
        asyncio.run(gathered(episode_starts=[9]))


def test_labels_of_a_session_without_are_refused():
    with pytest.raises(ValueError, match="allowed: none, as the session has no labels"):
        events.encode(Given([1, "run"], labels=[2]), known(labels=Channels(()), targets=("temp",)))
    with pytest.raises(ValueError, match="as the session has no labels"):
        calls.label(known(labels=Channels(()), targets=("temp",)), {1: [2]})


def batch_of(count, starts=()):
    given = [
        Given([float(i), "run"], timestamp=i, labels=None if i % 3 == 1 else [i, -i], new_episode=i in starts)
        for i in range(count)
    ]
    return events.gathered(known(), 5, given)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 20])
def test_a_cut_batch_keeps_labels_and_episodes_with_their_events(most):
    whole = batch_of(7, starts=(0, 3, 6))
    parts = [part.message("u") for part in whole.split(most)]
    joined = forecast_pb2.EventBatch(session_uid="u", first_sequence=5)
    for part in parts:
        done = part.first_sequence - joined.first_sequence
        assert 1 <= len(part.timestamps_ns) <= most
        assert done == len(joined.timestamps_ns)
        joined.timestamps_ns.extend(part.timestamps_ns)
        joined.values.extend(part.values)
        joined.labels.extend(part.labels)
        joined.episode_starts.extend(done + start for start in part.episode_starts)
    expected = whole.message("u")
    assert repr(joined) == repr(expected)  # NaN is not equal to itself
    assert list(expected.episode_starts) == [0, 3, 6]
    assert [math.isnan(label) for label in expected.labels[:6]] == [False, False, True, True, False, False]


def test_what_is_sent_again_is_what_was_sent():
    feed = Feed(known(), "none", 4, False, None, Resume())

    def opened(credit):
        feed.opening()
        message = forecast_pb2.StreamOpened(channel=1, session_uid="u", credit_events=credit, max_batch_events=credit)
        feed.receive(forecast_pb2.StreamResponse(opened=message), 0.0)
        batches = [request.events.batch for request in feed.requests(0.0)]
        return [
            (batch.first_sequence + i, *batch.values[2 * i : 2 * i + 2], *batch.labels[2 * i : 2 * i + 2],
             i in batch.episode_starts)
            for batch in batches for i in range(len(batch.values) // 2)
        ]  # fmt: skip

    for i in range(4):
        feed.add(feed.encode(Given([i, "idle"], labels=[10 * i, 20 * i], new_episode=i == 2)))
    before = opened(credit=64)
    feed.lost(None)
    assert before == [(i + 1, float(i), 0.0, 10.0 * i, 20.0 * i, i == 2) for i in range(4)]
    assert opened(credit=3) == before[:3]


# Calls.


def test_late_labels_leave_in_order_and_in_pieces():
    most = calls.MOST_LABELLED
    labels = {sequence: [sequence, None] for sequence in range(most + 10, 0, -1)}
    first, second = (call.request for call in calls.label(known(), labels))
    assert list(first.sequences) == list(range(1, most + 1))
    assert list(second.sequences) == list(range(most + 1, most + 11))
    assert [second.labels[0], math.isnan(second.labels[1])] == [most + 1, True]
    assert [len(c.request.sequences) for c in calls.label(known(credit_events=4), dict(list(labels.items())[:6]))] == [
        4,
        2,
    ]
    assert calls.label(known(), {}) == []


@pytest.mark.parametrize(
    ("sequence", "kind"), [(-1, ValueError), (2**64, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_what_is_no_sequence_is_refused_by_name(sequence, kind):
    with pytest.raises(kind, match=f"sequence is {sequence}; allowed: "):
        calls.label(known(), {sequence: [1.0, 2.0]})


@pytest.mark.parametrize(("passes", "kind"), [(-1, ValueError), (2**32, ValueError), ("3", TypeError)])
def test_what_is_no_number_of_passes_is_refused_by_name(passes, kind):
    with pytest.raises(kind, match=f"passes is {passes!r}; allowed: "):
        calls.warm_start(known(), [], passes, None)


def test_a_file_leaves_as_its_terms_and_pieces_of_64_kib():
    data = bytes(range(256)) * 520
    call = calls.import_session(data, "s", "safetensors", {"features": ["a"], "horizon": None}, {"k": "v"}, False, 7)
    first, *pieces = call.request
    assert first.terms == session_pb2.ImportTerms(
        session_id="s",
        format="EXPORT_FORMAT_SAFETENSORS",
        config=config_pb2.SessionConfig(features=["a"]),
        tags={"k": "v"},
        learning=False,
        limits=session_pb2.SessionLimits(credit_events=7),
    )
    assert [len(piece.data) for piece in pieces] == [65536, 65536, 520 * 256 - 2 * 65536]
    assert b"".join(piece.data for piece in pieces) == data
    whole = calls.import_session(data, "s", "checkpoint", {"features": None}, None, None, None)
    assert not next(whole.request).terms.HasField("config")
    with pytest.raises(ValueError, match="format is 'onnx'; allowed: checkpoint, safetensors"):
        calls.export_session("s", "", "onnx")


@pytest.mark.parametrize("data", ["a.session", [1, 2], None, object()])
def test_a_file_is_given_as_its_bytes(data):
    with pytest.raises(TypeError, match=r"data is .*; allowed: bytes"):
        calls.import_session(data, "s", "checkpoint", {}, None, None, None)


def test_labels_are_told_again_after_a_break_and_a_warm_start_is_not(fake, connect):
    client = connect(fake.target)
    handle = client.create_session("s", features=["a"], labels=["y"], task="regress")
    fake.refuse_next(code_pb2.UNAVAILABLE, "DRAINING")
    assert handle.label_many({3: [1.0], 4: [2.0]}) == bptt_client.LabelResult(2, 0, 0)
    assert [list(request.sequences) for request in fake.asked] == [[3, 4], [3, 4]]
    fake.refuse_next(code_pb2.UNAVAILABLE, "DRAINING")
    with pytest.raises(bptt_client.ServerDraining):
        handle.warm_start([1.0, 2.0], labels=[1.0, 2.0])
    assert len(fake.asked) == 3
    assert handle.warm_start([1.0, 2.0], updates="per_pass", passes=4) == bptt_client.WarmStartResult([0.5], 1)
    request = fake.asked[-1]
    assert (request.passes, request.updates) == (4, forecast_pb2.WARM_START_UPDATES_PER_PASS)
    assert list(request.history.values) == [1.0, 2.0]
    with pytest.raises(ValueError, match="updates is 'often'; allowed: per_sequence, per_pass"):
        handle.warm_start([1.0, 2.0], updates="often")
    assert (handle.labels, handle.targets) == (("y",), ("y",))


# Answers.


def outcomes(**columns):
    plain = {name: [1.0, 2.0] for name in ("anomaly_score", "loss", "gradient_norm", "clip_scale")}
    more = {"saturation": [0.25, 0.5], "update_ratio": [0.125, 0.25], "update_results": [2, 2]}
    more |= {"target_anomaly_score": [1.0, 2.0], "anomaly_likelihood": [0.5, 0.75]}
    more |= {"drift": [False, True], "warming_up": [True, False]}
    shape = {"first_sequence": 7, "count": 2, "horizon": 2, "targets": 1}
    pairs = {name: [0.0, 1.0, 2.0, NAN] for name in ("mean", "lower", "upper")}
    return forecast_pb2.Outcomes(**{**shape, **plain, **more, **pairs, **columns})


def test_probabilities_have_the_names_of_the_symbols():
    numbers = [0.7, 0.2, 0.1, 0.1, 0.8, 0.1, 0.2, 0.2, 0.6, 0.3, 0.3, 0.4]
    message = outcomes(distribution=numbers, distribution_size=3)
    first, second = answers.read_outcomes(message, known(targets=("char",), symbols=("a", "b", "c")))
    assert first.forecast.distribution == [[[0.7, 0.2, 0.1]], [[0.1, 0.8, 0.1]]]
    char = first.forecast["char"]
    assert char.symbol == ["a", "b"]
    assert char.probabilities == [{"a": 0.7, "b": 0.2, "c": 0.1}, {"a": 0.1, "b": 0.8, "c": 0.1}]
    assert char.quantiles == {}
    assert second.forecast["char"].symbol == ["c", None]
    assert second.forecast["char"].probabilities[1] == {"a": 0.3, "b": 0.3, "c": 0.4}


def test_quantiles_have_the_names_of_their_levels():
    message = outcomes(distribution=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], distribution_size=2)
    first, second = answers.read_outcomes(message, known(targets=("x",), levels=(0.1, 0.9)))
    assert first.forecast["x"].quantiles == {0.1: [1.0, 3.0], 0.9: [2.0, 4.0]}
    assert second.forecast["x"].quantiles == {0.1: [5.0, 7.0], 0.9: [6.0, 8.0]}
    assert (first.forecast["x"].probabilities, first.forecast["x"].symbol) == ([], [])


def test_without_a_distribution_there_is_none():
    first, _ = answers.read_outcomes(outcomes(), known(targets=("x",), levels=(0.1, 0.9)))
    assert first.forecast.distribution is None
    assert (first.forecast["x"].quantiles, first.forecast["x"].probabilities) == ({}, [])


def test_the_health_of_a_gradient_is_with_its_update():
    measured = forecast_pb2.GradientByLag(sequence=8, lag=[0, 1, 2, 4], norm=[2.0, 1.0, 0.5, NAN])
    first, second = answers.read_outcomes(outcomes(gradient_by_lag=[measured]), known(targets=("x",)))
    assert (first.update.saturation, first.update.update_ratio, first.update.gradient_by_lag) == (0.25, 0.125, None)
    assert list(second.update.gradient_by_lag.items())[:3] == [(0, 2.0), (1, 1.0), (2, 0.5)]
    assert math.isnan(second.update.gradient_by_lag[4])


@pytest.mark.parametrize(
    "columns",
    [
        {"saturation": [0.5]},
        {"update_ratio": []},
        {"target_anomaly_score": [1.0]},
        {"anomaly_likelihood": []},
        {"sensor_states": [1]},
        {"drift": [True]},
        {"warming_up": []},
        {"distribution": [0.5] * 7, "distribution_size": 2},
        {"distribution": [0.5] * 12, "distribution_size": 3},
        {"gradient_by_lag": [forecast_pb2.GradientByLag(sequence=7, lag=[0, 1], norm=[1.0])]},
        {"targets": 2},
    ],
)
def test_columns_that_do_not_fit_are_a_protocol_error(columns):
    with pytest.raises(bptt_client.ProtocolError):
        answers.read_outcomes(outcomes(**columns), known(targets=("x",), levels=(0.1, 0.9)))


def test_scores_of_numbers_and_of_symbols_leave_out_each_others():
    session = session_pb2.Session(config=config_pb2.SessionConfig(features=["a"], labels=["y", "z"], horizon=1))
    for name in ("count", "log_loss", "naive_log_loss", "error_rate", "naive_error_rate"):
        getattr(session.scores, name).extend([1, 2])
    scores = answers.read_session(session).scores
    assert (scores.count, scores.log_loss, scores.naive_error_rate) == ([[1, 2]], [[1.0, 2.0]], [[1.0, 2.0]])
    assert (scores.mse, scores.persistence_mae, scores.seasonal_mse, scores.coverage, scores.width) == (None,) * 5


# Failures.


def test_there_is_an_exception_for_every_row_of_the_servers_table():
    assert set(errors.BY_REASON) == set(TABLE)


def test_a_refused_label_names_its_event():
    facts = {"sequence": "5", "last_sequence": "9"}
    for reason, kind in errors.BY_REASON.items():
        if issubclass(kind, bptt_client.LabelError):
            error = answers.stream_failure(error_pb2.Error(code=10, reason=reason, message="m", metadata=facts))
            assert (error.sequence, error.last_sequence) == (5, 9)
    error = errors.from_facts("FAILED_PRECONDITION", "ALREADY_STARTED", "m", facts, None)
    assert (type(error), error.last_sequence) == (bptt_client.AlreadyStarted, 9)


@pytest.mark.parametrize(
    ("field", "numbering", "words", "row", "sequence"),
    [
        ("labels[1][0]", Numbering(sequences=[4, 9]), "sequence 9: y is inf", None, 9),
        ("values[1][1]", Numbering(rows=range(2)), "row 1: state is inf", 1, None),
        ("labels[0][1]", Numbering(range(5, 7), range(3, 5)), "row 3 (sequence 5): z is inf", 3, 5),
        ("passes", Numbering(rows=range(2)), "passes is inf", None, None),
        (
            "episode_starts",
            Numbering(range(5, 7), range(3, 5), whole=True),
            "rows 3..4: episode_starts is inf",
            None,
            None,
        ),
    ],
)
def test_a_refused_value_is_placed_where_the_caller_put_it(field, numbering, words, row, sequence):
    message = f"{field} is inf; allowed: less"
    error = errors.from_facts("INVALID_ARGUMENT", "INVALID_FIELD", message, {"field": field}, None)
    placed = answers.located(error, known(), numbering)
    assert str(placed) == f"{words}; allowed: less"
    assert (placed.row, placed.sequence) == (row, sequence)
