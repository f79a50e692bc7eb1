"""Labels are looked at after what is known before them, however late they come: against an independent computation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bptt_core import scales, scaling
from bptt_core.slab import Rows, Slab

EVENT, MISSING = np.array([True]), np.array([False])


def shape_of(labels: int = 1, anchor: str = "none", slots: int = 8, **more: Any) -> scales.ScalingShape:
    rest = {"fixed": False, "numeric": True} | more
    return scales.ScalingShape(
        features=1, symbols=(0,), targets=(), labels=labels, horizon=1, anchors=(anchor,), slots=slots, **rest
    )


def new_rows(shape: scales.ScalingShape, sessions: int = 1) -> Rows:
    slab = Slab(np, scales.fields(shape))
    return slab.take(np.array([slab.allocate() for _ in range(sessions)]))


def step(shape: scales.ScalingShape, rows: Rows, label: Any, event: Any = EVENT) -> scales.Scaled:
    with np.errstate(all="ignore"):
        labels = np.asarray(label, float).reshape(len(event), -1)
        return scaling.step(shape, rows, np.zeros((len(event), 1)), labels, event)


def late(shape: scales.ScalingShape, rows: Rows, events: list[int], labels: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return scaling.late(shape, rows, np.array(events) % shape.slots, np.asarray(labels, float))


@dataclass
class Oracle:
    """What is known of one label, from the list of those that came."""

    anchor: str
    came: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)

    def known(self) -> tuple[float, float]:
        """Anchor and scale."""
        if not self.came:
            return np.nan, np.nan
        anchor = self.came[-1] if self.anchor == "last_value" else float(np.mean(self.came))
        return anchor, float(np.sqrt(np.mean(self.squares))) if self.squares else np.nan

    def take(self, label: float, anchor: float) -> None:
        """A label that belongs to an event with this anchor."""
        if not np.isnan(label):
            self.came.append(label)
            if not np.isnan(anchor):
                self.squares.append((label - anchor) ** 2)


@pytest.mark.parametrize("anchor", ["none", "last_value"])
def test_an_event_knows_nothing_of_its_own_label(anchor: str) -> None:
    labels = np.random.default_rng(0).uniform(-1, 1, 200) + 7
    labels[np.random.default_rng(1).random(200) < 0.2] = np.nan
    shape = shape_of(anchor=anchor)
    rows, oracle = new_rows(shape), Oracle(anchor)
    for label in labels:
        expected, scale = oracle.known()
        last = oracle.came[-1] if oracle.came else np.nan
        scaled = step(shape, rows, label)
        np.testing.assert_allclose(scaled.anchor[0, 0, 0, 0], expected, rtol=1e-9)
        np.testing.assert_allclose(scaled.scale[0, 0, 0, 0], scale, rtol=1e-9)
        np.testing.assert_array_equal(scaled.last[0, 0], last)
        np.testing.assert_array_equal(scaled.observed[0, 0], label)
        np.testing.assert_allclose(scaled.residual[0, 0, 0, 0], label - expected, rtol=1e-9)
        np.testing.assert_array_equal(scaled.residual_scale, scaled.scale)
        target = np.clip((label - expected) / scale, -10, 10)
        np.testing.assert_allclose(scaling.learner_targets(shape, scaled)[0, 0], target, rtol=1e-9)
        oracle.take(label, expected)


@pytest.mark.parametrize("anchor", ["none", "last_value"])
def test_a_late_label_meets_what_was_known_at_its_event(anchor: str) -> None:
    """Two labels per event: the first with the event or three later, the second always five later; some never."""
    n, shape = 150, shape_of(2, anchor, slots=6)
    rng = np.random.default_rng(2)
    labels = rng.uniform(-1, 1, (n, 2)) * [1, 30]
    with_event = rng.random(n) < 0.5
    never = rng.random((n, 2)) < 0.1
    rows, oracles = new_rows(shape), (Oracle(anchor), Oracle(anchor))
    known: list[tuple[tuple[float, float], ...]] = []
    for t in range(n):
        known.append(tuple(oracle.known() for oracle in oracles))
        now = np.array([labels[t, 0] if with_event[t] and not never[t, 0] else np.nan, np.nan])
        scaled = step(shape, rows, now)
        np.testing.assert_allclose(scaled.anchor[0, 0, 0], [anchor for anchor, _ in known[t]], rtol=1e-9)
        np.testing.assert_allclose(scaled.scale[0, 0, 0], [scale for _, scale in known[t]], rtol=1e-9)
        oracles[0].take(now[0], known[t][0][0])
        given = np.full((2, 2), np.nan)
        if t >= 5:
            given[0, 1] = np.nan if never[t - 5, 1] else labels[t - 5, 1]
            given[1, 0] = np.nan if never[t - 3, 0] or with_event[t - 3] else labels[t - 3, 0]
            targets = late(shape, rows, [t - 5, t - 3], given)
            for row, event in enumerate((t - 5, t - 3)):
                for o, oracle in enumerate(oracles):
                    base, scale = known[event][o]
                    expected = np.clip((given[row, o] - base) / scale, -10, 10)
                    np.testing.assert_allclose(targets[row, o], expected, rtol=1e-9)
                    oracle.take(given[row, o], base)
    assert min(len(oracle.squares) for oracle in oracles) > 100


def test_labels_in_one_call_are_labels_in_several() -> None:
    shape = shape_of(2, slots=40)
    labels = np.random.default_rng(3).standard_normal((40, 2))
    labels[::7, 1] = np.nan
    bits = []
    for cuts in ([40], [1, 40], list(range(1, 41))):
        rows, found, start = new_rows(shape), [], 0
        for _ in labels:
            step(shape, rows, [np.nan, np.nan])
        for stop in cuts:
            found.append(late(shape, rows, list(range(start, stop)), labels[start:stop]))
            start = stop
        bits.append([np.concatenate(found).tobytes(), *(rows[name].tobytes() for name in sorted(rows))])
    assert bits[0] == bits[1] == bits[2]


def test_missing_steps_and_breaks_take_no_labels_place() -> None:
    """Events are counted, steps are not; and a late label finds its event over a break."""
    shape = shape_of(anchor="last_value", slots=4)
    rows = new_rows(shape)
    for label in (1.0, 2.0, 4.0):
        step(shape, rows, label)
    step(shape, rows, np.nan)  # event 3, its anchor is 4
    before = {name: rows[name].copy() for name in ("anchor_ring", "scale_ring", "label_events", "label_mean")}
    for _ in range(9):
        step(shape, rows, np.nan, MISSING)
    scaling.clear(shape, rows, np.array([True]))
    for name, kept in before.items():
        assert rows[name].tobytes() == kept.tobytes(), name
    step(shape, rows, 100.0)  # event 4
    targets = late(shape, rows, [3], [[4.5]])
    np.testing.assert_allclose(targets, [[0.5 / np.sqrt(np.mean([1.0, 2.0**2]))]])


def test_given_numbers_scale_labels_from_the_first_on() -> None:
    shape = shape_of(2, fixed=True)
    rows = new_rows(shape)
    rows["given_mean"][...], rows["given_deviation"][...] = [0, 5, -1], [1, 10, 0.1]
    scaled = step(shape, rows, [25.0, np.nan])
    np.testing.assert_array_equal(scaled.anchor, [[[[5, -1]]]])
    np.testing.assert_array_equal(scaled.last, [[np.nan, np.nan]])
    np.testing.assert_allclose(scaling.learner_targets(shape, scaled), [[2, np.nan]])
    targets = late(shape, rows, [0, 0], [[np.nan, -1.2], [np.nan, np.nan]])
    np.testing.assert_allclose(targets, [[np.nan, -2], [np.nan, np.nan]])
    np.testing.assert_array_equal(step(shape, rows, [0, 0]).last, [[25, -1.2]])


@pytest.mark.parametrize("fixed", [False, True])
def test_codes_of_labels_stay_codes(fixed: bool) -> None:
    shape = shape_of(1, numeric=False, fixed=fixed)
    rows = new_rows(shape)
    if fixed:
        rows["given_deviation"][...] = 3.0
    for code in (17.0, np.nan, 0.0):
        scaled = step(shape, rows, code)
        np.testing.assert_array_equal(scaling.learner_targets(shape, scaled), [[code]])
    targets = late(shape, rows, [1, 1], [[200.0], [np.nan]])
    np.testing.assert_array_equal(targets, [[200.0], [np.nan]])


@pytest.mark.parametrize("fixed", [False, True])
def test_a_session_does_not_see_its_neighbours(fixed: bool) -> None:
    shape = shape_of(2, slots=3, fixed=fixed)
    rng = np.random.default_rng(4)
    labels, events = rng.standard_normal((60, 3, 2)) * [1, 1e6], rng.random((60, 3)) < 0.8
    labels[~events | (rng.random((60, 3)) < 0.2)] = np.nan
    together, alone = new_rows(shape, 3), new_rows(shape)
    for rows in (together, alone):
        if fixed:
            rows["given_deviation"][...] = 1
    for label, event in zip(labels, events, strict=True):
        all_of_them = step(shape, together, label, event)
        own = step(shape, alone, label[1], event[1:2])
        for name, value in own._asdict().items():
            if value is not None:
                assert getattr(all_of_them, name)[1:2].tobytes() == value.tobytes(), name
    for name, row in alone.items():
        assert together[name][1:2].tobytes() == row.tobytes(), name


@pytest.mark.parametrize("anchor", ["none", "last_value"])
@pytest.mark.parametrize("extreme", [1e14, -1e50])
def test_an_absurd_label_moves_a_scale_by_at_most_five_of_its_units(anchor: str, extreme: float) -> None:
    shape, n = shape_of(anchor=anchor), 40
    rows = new_rows(shape)
    for label in np.random.default_rng(6).standard_normal(n):
        step(shape, rows, label)
    before = {name: rows[name].copy() for name in ("label_square", "residual_square")}
    for times, label in enumerate((extreme, 0.0), start=1):
        step(shape, rows, label)
        for name, square in before.items():
            assert rows[name] <= square * (1 + 25 / (n - 1)) ** times * (1 + 1e-9), name
