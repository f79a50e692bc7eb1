"""Both faces of the client against the real server: symbols, labels, episodes, warm starts, and sessions as files."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bptt_client

SMALL = {"hidden": 4, "window": 8}
ROWS = [[math.sin(i / 3), math.cos(i / 5)] for i in range(120)]
LABELS = [0.5 * a - b for a, b in ROWS]


@pytest.fixture
def client(server, connect):
    return connect(server.target)


@pytest.fixture
def made(client, new_id):
    """Makes sessions that are gone after the test."""
    handles = []

    def make(**fields):
        handles.append(client.create_session(new_id(), **{"learner": SMALL, **fields}))
        return handles[-1]

    yield make
    for handle in handles:
        with contextlib.suppress(bptt_client.SessionNotFound):
            client.delete_session(handle.session_id)


def same(one, other):
    """Whether two forecasts have equal numbers, missing ones included."""
    return repr((one.mean, one.lower, one.upper, one.distribution)) == repr(
        (other.mean, other.lower, other.upper, other.distribution)
    )


# Symbols.


def test_text_is_learned_and_scored_as_its_replies_say(client, made):
    text = "the cat and the hat " * 12
    session = made(
        features=["char"],
        categories={"char": sorted(set(text))},
        task="classify",
        learner={"cell": "gru", "hidden": 12, "learning_rate": 0.02},
    )
    replies = []
    session.learn_many(text, reply="every", on_reply=replies.append)
    assert (session.targets, session.labels, session.horizon) == (("char",), (), 1)
    predictions = [reply.forecast["char"] for reply in replies]
    for prediction in predictions:
        (probabilities,) = prediction.probabilities
        assert sum(probabilities.values()) == pytest.approx(1)
        assert max(probabilities, key=probabilities.get) == prediction.symbol[0]
    losses = [-math.log(p.probabilities[0][came]) for p, came in zip(predictions, text[1:], strict=False)]
    wrong = [p.symbol[0] != came for p, came in zip(predictions, text[1:], strict=False)]
    scores = client.get_session(session.session_id).scores
    assert scores.count == [[len(losses)]]
    assert scores.log_loss[0][0] == pytest.approx(sum(losses) / len(losses))
    assert scores.error_rate[0][0] == pytest.approx(sum(wrong) / len(wrong))
    assert scores.log_loss[0][0] < scores.naive_log_loss[0][0]
    assert (scores.mse, scores.persistence_mse, scores.coverage) == (None, None, None)
    assert same(session.forecast(), replies[-1].forecast)
    with pytest.raises(ValueError, match="char is '!'; allowed: ' ', 'a'"):
        session.learn_one("!")


def test_symbols_and_their_positions_are_the_same_events(made):
    forecasts = []
    for name in (("idle", "run", "stop"), (0, 1, 2)):
        session = made(features=["x", "state"], targets=["x"], categories={"state": ["idle", "run", "stop"]})
        session.learn_many([[i / 7, name[i % 3] if i % 5 else None] for i in range(60)])
        forecasts.append(session.forecast())
    assert same(*forecasts)


def test_a_session_is_made_again_from_its_own_configuration(client, made, new_id):
    first = made(
        features=["x", "digit"], labels=["y"], categories={"digit": 10}, task="regress", label_age=9, scaling="fixed",
        means=[1.0, 0.0, 2.0], deviations=[2.0, 1.0, 3.0],
        learner={**SMALL, "loss": "pinball", "quantiles": [0.2, 0.8]},
    )  # fmt: skip
    session = client.get_session(first.session_id)
    assert session.config["categories"] == {"digit": list("0123456789")}
    assert session.config["learner"]["quantiles"] == [0.2, 0.8]
    twin = client.create_session(new_id(), **session.config)
    assert client.get_session(twin.session_id).config == session.config
    twin.delete()


# Labels.


def test_labels_may_come_with_the_event_or_later_and_are_scored_as_the_replies_say(client, made):
    session = made(features=["a", "b"], labels=["y"], task="regress")
    predicted = []
    for i, (row, label) in enumerate(zip(ROWS, LABELS, strict=True)):
        reply = session.learn_one(row, labels={"y": label} if i % 2 else None)
        predicted.append(reply.forecast["y"].mean[0])
        if i % 2 == 0:
            assert session.label(i + 1, label) == bptt_client.LabelResult(1, 0, 1)
    errors = [p - label for p, label in zip(predicted, LABELS, strict=True)]
    naive = [before - label for before, label in itertools.pairwise(LABELS)]
    scores = client.get_session(session.session_id).scores
    assert scores.count == [[len(ROWS) - 1]]  # before the first label there is no naive prediction to compare with
    assert scores.mse[0][0] == pytest.approx(sum(e * e for e in errors[1:]) / len(naive))
    assert scores.persistence_mse[0][0] == pytest.approx(sum(e * e for e in naive) / len(naive))
    assert scores.log_loss is None


def test_late_labels_are_known_once_and_refused_by_name(made):
    session = made(features=["a", "b"], labels=["y", "z"], task="regress", label_age=20)
    session.learn_many(ROWS[:50], labels=[None] * 50)
    told = {sequence: [sequence / 10, None] for sequence in range(31, 51)}
    result = session.label_many(told)
    assert (result.accepted, result.duplicates, result.trainable) == (
        20,
        0,
        7,
    )  # of 8 steps, the next event pushes one out
    assert session.label_many(told) == bptt_client.LabelResult(0, 20, 0)
    assert session.label(50, {"z": 1.0}).accepted == 1
    assert session.label_many({}) == bptt_client.LabelResult(0, 0, 0)
    for sequence, labels, kind in [
        (31, [9.9, None], bptt_client.LabelConflict),
        (29, [1.0, 1.0], bptt_client.LabelTooOld),
        (51, [1.0, 1.0], bptt_client.LabelUnknownSequence),
    ]:
        with pytest.raises(kind) as caught:
            session.label(sequence, labels)
        assert (caught.value.sequence, caught.value.last_sequence) == (sequence, 50)
    with pytest.raises(bptt_client.InvalidRequest, match=r"^sequence 45: z is inf; allowed: ") as caught:
        session.label_many({44: [None, 1.0], 45: [None, math.inf]})
    assert caught.value.sequence == 45
    with pytest.raises(bptt_client.InvalidRequest, match=r"^row 1 \(sequence 52\): y is inf; allowed: "):
        session.learn_many(ROWS[50:53], labels=[[1.0, 1.0], [math.inf, 1.0], None])
    with pytest.raises(ValueError, match="'w' is not a label; labels: y, z"):
        session.label(50, {"w": 1.0})


def test_more_labels_than_fit_one_call_are_told_all_the_same(made):
    session = made(features=["a"], labels=["y"], task="regress", label_age=1000)
    session.learn_many([[float(i)] for i in range(600)], reply="none")
    assert session.label_many({i: float(i) for i in range(1, 601)}).accepted == 600


def test_one_by_one_by_stream_and_in_batches_learn_the_same_from_labels_and_episodes(made):
    forecasts, starts = [], (0, 30, 31, 77)
    labels = [[label, None] if i % 3 else None for i, label in enumerate(LABELS)]
    for way in ("one", "many", "stream"):
        session = made(features=["a", "b"], labels=["y", "z"], task="regress")
        if way == "one":
            for i, (row, label) in enumerate(zip(ROWS, labels, strict=True)):
                session.learn_one(row, labels=label, new_episode=i in starts)
        elif way == "many":
            session.learn_many(ROWS[:40], labels=labels[:40], episode_starts=[0, 30, 31], batch=7)
            session.learn_many(iter(ROWS), labels=iter(labels), episode_starts=starts, start=40, batch=64)
        else:
            with session.stream(reply="last") as stream:
                for i, (row, label) in enumerate(zip(ROWS, labels, strict=True)):
                    stream.send(row, labels=label, new_episode=i in starts)
        forecasts.append(session.forecast())
    assert same(forecasts[0], forecasts[1])
    assert same(forecasts[0], forecasts[2])
    other = made(features=["a", "b"], labels=["y", "z"], task="regress")
    other.learn_many(ROWS, labels=labels)
    assert not same(forecasts[0], other.forecast())


# Distributions and health.


@pytest.mark.parametrize("loss", ["pinball", "gaussian"])
def test_quantiles_are_served_at_the_levels_asked_for(made, loss):
    session = made(
        features=["a"], horizon=2, learner={**SMALL, "window": 12, "loss": loss, "quantiles": [0.1, 0.5, 0.9]}
    )
    session.learn_many([[row[0]] for row in ROWS])
    forecast = session.forecast()
    low, middle, high = (forecast["a"].quantiles[level] for level in (0.1, 0.5, 0.9))
    assert all(a < b < c for a, b, c in zip(low, middle, high, strict=True))
    assert len(middle) == forecast.horizon == 2
    assert forecast.distribution[1][0] == [low[1], middle[1], high[1]]


def test_every_64th_update_tells_its_gradient_by_lag(made):
    session = made(features=["a", "b"], learner={"hidden": 4, "window": 12})
    replies = []
    session.learn_many([*ROWS, *ROWS], reply="every", on_reply=replies.append)
    updates = [reply.update for reply in replies if reply.update.applied]
    measured = [number for number, update in enumerate(updates, 1) if update.gradient_by_lag is not None]
    assert measured == [64, 128, 192]
    assert list(updates[127].gradient_by_lag) == [0, 1, 2, 4, 8, 12]
    assert all(norm > 0 for norm in list(updates[127].gradient_by_lag.values())[:5])
    assert all(0 <= update.saturation <= 1 and 0 < update.update_ratio < 1 for update in updates)


# Warm starts.


def test_a_warm_start_trains_once_and_before_the_first_event(client, made):
    session = made(features=["a", "b"], learner={**SMALL, "learning_rate": 0.01})
    result = session.warm_start(ROWS, episode_starts=[60], passes=5, timestamps=range(0, 1200, 10))
    assert len(result.loss) == 5
    assert result.loss[-1] < result.loss[0]
    assert result.applied == 10  # two sequences in five passes
    with pytest.raises(bptt_client.AlreadyStarted):
        session.warm_start(ROWS)
    assert client.get_session(session.session_id).last_sequence == session.last_sequence == 0
    with pytest.raises(bptt_client.InvalidRequest, match="timestamps_ns is 5"):
        session.learn_one(ROWS[0], timestamp=5)
    assert session.learn_one(ROWS[0], timestamp=1200).sequence == 1
    late = made(features=["a", "b"])
    late.learn_one(ROWS[0])
    with pytest.raises(bptt_client.AlreadyStarted) as caught:
        late.warm_start(ROWS)
    assert caught.value.last_sequence == 1


def test_a_warm_start_learns_from_labels_once_per_pass_if_asked(made):
    session = made(features=["a", "b"], labels=["y"], task="regress", learner={**SMALL, "learning_rate": 0.01})
    result = session.warm_start(ROWS, labels=LABELS, episode_starts=[60], passes=20, updates="per_pass")
    assert result.applied == 20
    assert result.loss[-1] < 0.9 * result.loss[0]


def test_a_refused_history_is_placed_in_the_callers_rows(made):
    session = made(features=["a", "b"])
    with pytest.raises(bptt_client.InvalidRequest, match=r"^row 7: b is inf; allowed: ") as caught:
        session.warm_start([*ROWS[:7], [1.0, math.inf], *ROWS[8:]])
    assert caught.value.row == 7
    with pytest.raises(bptt_client.InvalidRequest, match=r"^passes is 0; allowed: 1\.\.1000"):
        session.warm_start(ROWS, passes=0)
    assert session.warm_start(ROWS, passes=1).applied == 1


# Files.


def test_a_checkpoint_goes_on_to_the_same_bits(client, made, new_id):
    session = made(features=["a", "b"], targets=["a"], tags={"site": "north"})
    session.learn_many(ROWS[:60])
    data = session.export()
    copy = client.import_session(data, new_id())
    assert (copy.last_sequence, copy.targets) == (60, ("a",))
    assert client.get_session(copy.session_id).tags == {"site": "north"}
    for handle in (session, copy):
        handle.learn_many(ROWS, start=60)
    assert same(session.forecast(), copy.forecast())
    assert copy.uid != session.uid
    with pytest.raises(bptt_client.SessionExists):
        client.import_session(data, copy.session_id)
    other = client.import_session(data, new_id(), tags={"kind": "copy"}, learning=False, credit_events=9)
    facts = client.get_session(other.session_id)
    assert (facts.tags, facts.learning, facts.credit_events) == ({"kind": "copy"}, False, 9)
    for handle in (copy, other):
        handle.delete()


def tensors(data):
    """Name → type, shape and bytes, by the format's own description: a length, a header, the numbers."""
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], data[size + entry["data_offsets"][0] : size + entry["data_offsets"][1]])
        for name, entry in header.items()
    }


def test_a_network_leaves_as_safetensors_and_learns_on_elsewhere(client, made, new_id):
    session = made(features=["a", "b"], targets=["a"], learner={"cell": "gru", "hidden": 5, "layers": 2, "seed": 3})
    session.learn_many(ROWS[:60])
    data = client.export_session(session.session_id, "safetensors")
    assert tensors(data) == tensors(session.export("safetensors"))
    assert "rnn.weight_ih_l1" in tensors(data)
    inputs = {"features": ["a", "b"], "targets": ["a"], "learner": {"cell": "gru"}}
    copy = client.import_session(data, new_id(), "safetensors", **inputs)
    learner = client.get_session(copy.session_id).config["learner"]
    assert (learner["cell"], learner["hidden"], learner["layers"]) == ("gru", 5, 2)
    assert tensors(copy.export("safetensors")) == tensors(data)
    assert copy.learn_one(ROWS[0]).sequence == 1
    copy.delete()
    with pytest.raises(bptt_client.InvalidRequest):
        client.import_session(data, new_id(), "safetensors", features=["a"])
    for wrong in (b"", b"no such file", data):
        with pytest.raises(bptt_client.InvalidRequest):
            client.import_session(wrong, new_id())


def test_an_export_of_another_incarnation_is_refused(client, made):
    session = made(features=["a"])
    client.delete_session(session.session_id)
    again = client.create_session(session.session_id, features=["a"])
    with pytest.raises(bptt_client.UidMismatch):
        session.export()
    again.delete()
    with pytest.raises(bptt_client.SessionNotFound):
        client.export_session(session.session_id)


# The guide.


@pytest.mark.parametrize(("number", "printed"), list(enumerate([1, 3, 2, 1, 1, 2])))
def test_the_examples_of_the_guide_run(server, new_id, number, printed):
    guide = (Path(bptt_client.__file__).parents[2] / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(examples) == 6
    name = new_id()
    ids = r'((?:create_session|get_session|fork)\(|import_session\(network, )"'
    example = re.sub(ids, rf'\1"{name}-', examples[number])
    example = example.replace("localhost:50051", server.target)
    lines = subprocess.check_output([sys.executable, "-c", example], text=True).splitlines()
    assert len(lines) == printed
    with bptt_client.Client(server.target) as client:
        for session in [s for s in client.list_sessions() if s.session_id.startswith(name)]:
            client.delete_session(session.session_id)
