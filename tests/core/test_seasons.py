"""The memory of seasons says what was observed one season before each horizon, whatever is missing or jumped over."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from bptt_core import periods, seasons
from bptt_core.seasons import Seasonal, SeasonShape

Values = Any


def new_rows(shape: SeasonShape, sessions: int) -> dict[str, Any]:
    return {f.name: np.full((sessions, *f.shape), f.start, f.dtype) for f in seasons.fields(shape)}


def walk(shape: SeasonShape, values: Values, jumps: dict[int, Values] | None = None) -> tuple[list[Seasonal], Any]:
    """Steps sessions through `values` [T, B, O]; `jumps` [B] happen before the step they are listed for."""
    rows, last, said = new_rows(shape, values.shape[1]), np.full(values.shape[1:], np.nan), []
    for t, observed in enumerate(values):
        last = np.where(np.isnan(observed), last, observed)
        if jumps and t in jumps:
            seasons.skip(shape, rows, jumps[t], jumps[t] > 0)
        with np.errstate(all="ignore"):
            said.append(seasons.step(shape, rows, observed, last))
    return said, rows


def oracle(history: dict[int, float], now: int, P: int, h: int, last: float) -> float:
    """x[now + h − P⌈h/P⌉], one season earlier, or the last value, from a table of what was observed at which time."""
    newest = now + h - P * -(-h // P)
    assert now - P < newest <= now
    for time in (newest, newest - P):
        if not np.isnan(history.get(time, np.nan)):
            return history[time]
    return last


@pytest.mark.parametrize("given", [(7,), (3, 10), (10, 3)])
def test_the_naive_forecast_is_the_formula_with_gaps_missing_values_and_jumps(given: tuple[int, ...]) -> None:
    """Of a jump what is left of whole seasons counts."""
    rng = np.random.default_rng(0)
    T, B, O, H = 90, 3, 2, 12
    values = rng.standard_normal((T, B, O))
    values[rng.random((T, B, O)) < 0.3] = np.nan
    values[40:46] = np.nan  # a gap in time is missing steps
    jumps = {20: np.array([0, 4, 0]), 55: np.array([5, 42, 10**15 + 1]), 70: np.array([0, 1, 2])}
    said, _ = walk(SeasonShape(O, H, given, True), values, jumps)
    for b in range(B):
        now, last = -1, np.full(O, np.nan)
        history: list[dict[int, float]] = [{} for _ in range(O)]
        for t in range(T):
            now += 1 + int(jumps[t][b] if t in jumps else 0) % math.lcm(*given)
            for o in range(O):
                history[o][now] = values[t, b, o]
            last = np.where(np.isnan(values[t, b]), last, values[t, b])
            for slot, P in enumerate(given):
                expected = [[oracle(history[o], now, P, h, last[o]) for o in range(O)] for h in range(1, H + 1)]
                np.testing.assert_array_equal(said[t].naive[b, slot], expected)
                ago = [
                    next((v for k in (1, 2) if (v := history[o].get(now - k * P, np.nan)) == v), last[o])
                    for o in range(O)
                ]
                np.testing.assert_array_equal(said[t].ago[b, slot], ago)
            if len(given) == 1:
                np.testing.assert_array_equal(said[t].naive[b, 1], np.repeat(last[None], H, 0))
                np.testing.assert_array_equal(said[t].ago[b, 1], last)


def test_a_given_season_counts_once_a_whole_one_was_seen() -> None:
    said, _ = walk(SeasonShape(1, 1, (4, 6), False), np.arange(10.0)[:, None, None])
    assert [s.period[0].tolist() for s in said] == [[0, 0]] * 4 + [[4, 0]] * 2 + [[4, 6]] * 4
    assert [t for t, s in enumerate(said) if s.changed[0].any()] == [4, 6]
    assert said[4].ago[0, :, 0].tolist() == [0, 4], "x[t − 4], and before there is a season the last value"


def test_without_seasons_everything_is_the_last_value() -> None:
    shape = SeasonShape(2, 3, (), False)
    said, rows = walk(shape, np.array([[[np.nan, 1.0]], [[2.0, np.nan]]]))
    assert rows["season_ring"].size == 2
    np.testing.assert_array_equal(said[0].naive[0], np.broadcast_to([np.nan, 1], (2, 3, 2)))
    np.testing.assert_array_equal(said[1].naive[0], np.broadcast_to([2.0, 1], (2, 3, 2)))
    assert not said[1].period.any()
    assert not said[1].changed.any()


def test_a_found_season_is_served_and_reported_once() -> None:
    """A day of 12 and a week of 84 steps, beside a stream of noise that has none."""
    rng, t = np.random.default_rng(1), np.arange(1100)
    week = np.sin(2 * np.pi * t / 12) * np.where(t // 12 % 7 >= 5, 0.3, 1.0) + 0.1 * rng.standard_normal(len(t))
    values = np.stack([week, rng.standard_normal(len(t))], axis=1)[:, :, None]
    said, _ = walk(SeasonShape(1, 2, (), True), values)
    assert said[-1].period.tolist() == [[12, 84], [0, 0]]
    before = np.zeros((2, 2), np.int64)
    for now in said:
        np.testing.assert_array_equal(now.changed, now.period != before)
        before = now.period
    assert sum(now.changed.sum() for now in said) == 2
    np.testing.assert_array_equal(said[-1].naive[0, :, :, 0], [week[-12:-10], week[-84:-82]])
    np.testing.assert_array_equal(said[-1].ago[0, :, 0], week[[-13, -85]])


@pytest.mark.parametrize("jump", [3, 10, 47, 2**40, 10**17 + 9])
@pytest.mark.parametrize("found", [False, True])
def test_after_a_jump_of_any_length_the_naive_forecast_is_that_of_the_phase(found: bool, jump: int) -> None:
    """A stream of season 10, found or given: what came in the last season that was seen, from the first step on."""
    shape = SeasonShape(1, 3, () if found else (10,), found)
    phases = np.random.default_rng(3).standard_normal(10)
    _, rows = walk(shape, phases[np.arange(200) % 10, None, None])
    assert rows["season_period"].tolist() == [[10, 0]]
    seasons.skip(shape, rows, np.array([jump]), np.array([True]))
    for now in range(200 + jump, 212 + jump):
        observed = phases[[[now % 10]]]
        said = seasons.step(shape, rows, observed, observed)
        assert said.period.tolist() == [[10, 0]]
        assert not said.changed.any()
        assert said.naive[0, 0, :, 0].tolist() == phases[np.arange(now + 1, now + 4) % 10].tolist()
        assert said.ago[0, 0] == phases[now % 10]


def test_what_is_jumped_over_in_one_session_moves_no_other() -> None:
    shape = SeasonShape(1, 1, (3,), False)
    _, rows = walk(shape, np.arange(8.0)[:, None, None].repeat(2, axis=1))
    before = {name: row.copy() for name, row in rows.items()}
    seasons.skip(shape, rows, np.array([5, 2]), np.array([False, True]))
    for name, row in rows.items():
        np.testing.assert_array_equal(row[0], before[name][0])
    assert np.isnan(rows["season_ring"][1]).sum() == np.isnan(before["season_ring"][1]).sum() + 2


def test_the_bits_of_a_session_do_not_depend_on_its_neighbours() -> None:
    rng, t = np.random.default_rng(2), np.arange(600)[:, None, None]
    values = np.sin(2 * np.pi * t / np.array([9, 20, 33])[:, None]) + 0.3 * rng.standard_normal((600, 3, 2))
    values[rng.random(values.shape) < 0.2] = np.nan
    shape = SeasonShape(2, 5, (), True)
    together, rows = walk(shape, values)
    assert (rows["season_period"][:, 0] > 0).all(), "or nothing is compared"
    for b in range(3):
        alone, own = walk(shape, values[:, b : b + 1])
        for name, row in own.items():
            assert row.tobytes() == rows[name][b : b + 1].tobytes()
        for one, all_of_them in zip(alone, together, strict=True):
            for mine, ours in zip(one, all_of_them, strict=True):
                assert mine.tobytes() == np.ascontiguousarray(ours[b : b + 1]).tobytes()


def test_searches_become_rare_and_stop_at_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their cost for each step is bounded: a search is as dear as its window is long."""
    searched: list[int] = []

    def count(window: Values, current: tuple[int, int]) -> tuple[int, int]:
        searched.append(len(window))
        return current

    monkeypatch.setattr(periods, "find", count)
    shape = SeasonShape(1, 1, (), True)
    _, rows = walk(shape, np.zeros((6000, 1, 1)))
    assert max(searched) == periods.WINDOW <= shape.length
    assert all(size <= after for size, after in pairwise(searched))
    assert searched.count(periods.WINDOW) == 1024 // 128 + (6000 - 2048) // 512
    assert rows["season_ring"].shape == (1, shape.length, 1)
