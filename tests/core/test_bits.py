"""A session's bits depend on its own events alone: not on batches, not on neighbours, not on the future."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bptt_core import CELLS, Backend, Events, Fold, Outcomes, SessionConfig

N = 128
HOUR = 3_600_000_000_000

EACH_KIND = pytest.mark.parametrize(
    "kind",
    [
        *({"cell": cell, "horizon": horizon} for cell in CELLS for horizon in (1, 5)),
        {"cell": "lstm", "horizon": 1, "stride": 3, "loss_span": 20, "loss": "huber", "seasons": (7,)},
        # One output over many pairs and one hidden unit: sums whose order must not depend on the memory's layout.
        {"cell": "gru", "hidden": 1, "loss_span": 16, "features": 1, "targets": ("f0",), "optimizer": "sgd"},
        {"cell": "tanh", "hidden": 1, "loss_span": 16, "horizon": 2, "targets": ("f2",)},
        {"cell": "lstm", "hidden": 8, "loss_span": 16, "stride": 2, "targets": ("f2",), "anchor": "none"},
    ],
    ids=lambda kind: "-".join(map(str, kind.values())),
)


@pytest.fixture
def fold_backend(each_backend: Backend) -> Backend:
    return each_backend


def config_of(make_config: Callable[..., SessionConfig], kind: dict[str, Any], **more: Any) -> SessionConfig:
    return make_config(**{"features": 3, "targets": ("f2", "f0"), "hidden": 5, "learning_rate": 0.01} | kind | more)


def stream_of(random_walks: Callable[..., np.ndarray], config: SessionConfig, seed: int, n: int = N) -> np.ndarray:
    return random_walks(n, len(config.features), seed=seed, missing=0.05)


@EACH_KIND
def test_sixty_four_batches_of_one_and_one_batch_of_sixty_four(
    kind: dict[str, Any], new_fold: Any, make_config: Any, random_walks: Any, run: Any, outcome_bits: Any
) -> None:
    config = config_of(make_config, kind)
    values = stream_of(random_walks, config, 1)
    results = []
    for batch in (1, 64, 7):
        fold = new_fold()
        slot = fold.create(config)
        results.append((outcome_bits(run(fold, slot, values, batch)), fold.checkpoint(slot)))
    assert results[0] == results[1] == results[2]


def test_batching_does_not_matter_where_time_has_gaps(
    new_fold: Any, make_config: Any, random_walks: Any, run: Any, outcome_bits: Any
) -> None:
    rng = np.random.default_rng(3)
    times = HOUR * rng.choice([0, 1, 1, 1, 2, 5, 400], N).cumsum()
    results = []
    for batch in (1, 64, 10):
        fold = new_fold()
        slot = fold.create(make_config(2, horizon=3, seasons=(24,), window=8))
        results.append((outcome_bits(run(fold, slot, random_walks(N, 2), batch, times)), fold.checkpoint(slot)))
    assert results[0] == results[1] == results[2]


@EACH_KIND
def test_nothing_of_the_future_is_in_an_outcome(
    kind: dict[str, Any], new_fold: Any, make_config: Any, random_walks: Any, run: Any, outcome_bits: Any
) -> None:
    """Two streams agree up to event n, in the middle of a batch, and differ in everything after."""
    config = config_of(make_config, kind)
    values = stream_of(random_walks, config, 2, 128)
    common = 64 + 29
    results = []
    for future in (values[common:], -1e6 * values[common:][::-1], np.full_like(values[common:], np.nan)):
        fold = new_fold()
        slot = fold.create(config)
        results.append(outcome_bits(run(fold, slot, np.concatenate([values[:common], future]))))
    assert results[0][:common] == results[1][:common] == results[2][:common]
    assert len({result[common] for result in results}) == 3


@EACH_KIND
def test_neighbours_do_not_matter(
    kind: dict[str, Any], new_fold: Any, make_config: Any, random_walks: Any, run: Any, outcome_bits: Any
) -> None:
    config = config_of(make_config, kind)
    values = stream_of(random_walks, config, 4)
    alone_fold = new_fold()
    alone_slot = alone_fold.create(config)
    alone = outcome_bits(run(alone_fold, alone_slot, values))

    fold = new_fold()
    seeded = [config_of(make_config, kind, seed=seed) for seed in range(1, 6)]
    before = [fold.create(other) for other in seeded[:3]]
    fold.delete(before.pop(1))
    slot = fold.create(config)  # in a slot that another session has left
    before.append(fold.create(seeded[3]))
    after = fold.create(seeded[4], learning=False)
    silence, huge = np.full_like(values, np.nan), 1e99 * values
    other = stream_of(random_walks, config, 5)
    found: list[bytes] = []
    for start in range(0, N, 16):
        here = slice(start, start + 16)
        work = [
            (before[0], Events(silence[here])),
            (after, Events(other[start : start + 3])),
            (slot, Events(values[here])),
            (before[1], Events(huge[here])),
        ]
        if start % 32:  # not always the same company, and not always in the same place
            work = [*work[::-1], (before[2], Events(other[start : start + 24]))]
        mine = [position for position, (at, _) in enumerate(work) if at == slot]
        found += outcome_bits(fold.step(work)[mine[0]])
    assert found == alone
    assert fold.checkpoint(slot) == alone_fold.checkpoint(alone_slot)


@pytest.mark.parametrize("cell", CELLS)
def test_checkpoints_continue_to_the_same_bits(
    cell: str, new_fold: Any, make_config: Any, random_walks: Any, run: Any, outcome_bits: Any
) -> None:
    """Sessions restored from several moments of one, in another fold, go on side by side to what became of it."""
    config = config_of(make_config, {"cell": cell, "horizon": 2, "seasons": (5,)})
    values, times = random_walks(N, 3, missing=0.1), HOUR * np.arange(N)
    times[70:] += 3 * HOUR
    fold, other, start = new_fold(), new_fold(), 0
    slot, found, restored = fold.create(config), [], {}
    other.create(replace(config, learner=replace(config.learner, seed=9)))  # the restored ones get other slots
    for stop in (1, 2, 31, 64, 101):
        found += outcome_bits(run(fold, slot, values[start:stop], times=times[start:stop]))
        saved, start = fold.checkpoint(slot), stop
        restored[stop] = other.restore(saved)
        assert other.checkpoint(restored[stop]) == saved
        assert other.status(restored[stop]).last_sequence == stop
    found += outcome_bits(run(fold, slot, values[start:], times=times[start:]))
    rests = other.step([(moved, Events(values[stop:], times[stop:])) for stop, moved in restored.items()])
    for (stop, moved), rest in zip(restored.items(), rests, strict=True):
        assert outcome_bits(rest) == found[stop:], stop
        assert other.checkpoint(moved) == fold.checkpoint(slot), stop


def test_a_checkpoint_before_the_first_event_is_a_new_session(fold: Fold, make_config: Any) -> None:
    slot = fold.create(make_config(2))
    saved = fold.checkpoint(slot)
    restored = fold.restore(saved)
    assert fold.checkpoint(restored) == saved
    assert fold.latest(restored) is None


def test_reading_changes_nothing(fold: Fold, make_config: Any, random_walks: Any, run: Any, outcome_bits: Any) -> None:
    slot = fold.create(make_config(2, horizon=3, seasons=(4,)))
    last = run(fold, slot, random_walks(50, 2)).last()
    before = fold.checkpoint(slot)
    latest, status = fold.latest(slot), fold.status(slot)
    assert isinstance(latest, Outcomes)
    assert outcome_bits(latest) == outcome_bits(last)
    assert latest.last_sequence == last.last_sequence == status.last_sequence == 50
    assert status.scores is not None
    latest.mean[...] = status.scores.mse[...] = status.scores.count[...] = 7  # copies: nobody else sees this
    assert fold.checkpoint(slot) == before


def test_a_call_that_is_refused_changes_nothing(fold: Fold, make_config: Any, random_walks: Any) -> None:
    one, two = fold.create(make_config()), fold.create(make_config(2))
    events = [Events(random_walks(5, features)) for features in (1, 2)]
    before = [fold.checkpoint(slot) for slot in (one, two)]
    with pytest.raises(ValueError, match="only once"):
        fold.step([(one, events[0]), (two, events[1]), (two, events[1])])
    assert [fold.checkpoint(slot) for slot in (one, two)] == before
    assert fold.step([]) == []


def test_equal_seeds_are_equal_and_others_are_not(
    fold: Fold, make_config: Any, random_walks: Any, run: Any, outcome_bits: Any
) -> None:
    values = random_walks(60, 2)
    slots = [fold.create(make_config(2, seed=seed, learning_rate=0.01)) for seed in (1, 1, 2)]
    one, same, other = (outcome_bits(run(fold, slot, values)) for slot in slots)
    assert one == same
    assert one != other


def test_changed_settings_are_in_the_checkpoint_and_act(
    new_fold: Any, make_config: Any, random_walks: Any, run: Any, outcome_bits: Any
) -> None:
    values = random_walks(80)
    folds = [new_fold() for _ in range(3)]
    slots = [fold.create(make_config()) for fold in folds]
    for fold, slot in zip(folds, slots, strict=True):
        run(fold, slot, values[:40])
    folds[1].configure(slots[1], learning_rate=0.1)
    folds[2].configure(slots[2], learning=False)
    slots[1], slots[2] = (folds[k].restore(folds[k].checkpoint(slots[k])) for k in (1, 2))
    ends = [outcome_bits(run(fold, slot, values[40:])) for fold, slot in zip(folds, slots, strict=True)]
    status = [fold.status(slot) for fold, slot in zip(folds, slots, strict=True)]
    assert len({tuple(end) for end in ends}) == 3
    assert [s.learning_rate for s in status] == [1e-3, 0.1, 1e-3]
    assert [s.learning for s in status] == [True, True, False]
    assert [(s.updates.applied, s.updates.learning_off) for s in status] == [(78, 0), (78, 0), (38, 40)]
    assert [s.updates.no_target for s in status] == [2, 2, 2]  # the second event is the first to have a scale
