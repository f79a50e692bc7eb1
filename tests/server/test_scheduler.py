"""The choice of micro-batches: order, fairness, limits."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from bptt_core import LearnerConfig, SessionConfig, session_bytes
from server.scheduler import Lane, Scheduler, Turn, Work, pace, share


def rows(turns: list[Turn]) -> dict[str, int]:
    return {str(turn.lane.key): turn.rows for turn in turns}


def everything(scheduler: Scheduler, limit: int = 1000) -> list[list[Turn]]:
    batches = []
    while scheduler:
        batches.append(scheduler.next())
        assert len(batches) < limit
    return batches


def test_nothing_waits_nothing_runs() -> None:
    scheduler = Scheduler(100, 10)
    assert not scheduler
    assert scheduler.next() == []


def test_lanes_of_one_shape_share_a_micro_batch_and_others_wait() -> None:
    scheduler = Scheduler(100, 10)
    lanes = [Lane(name, shape) for name, shape in (("a", 1), ("b", 2), ("c", 1), ("d", 2))]
    for lane in lanes:
        scheduler.add(lane, Work(3))
    assert [rows(turns) for turns in everything(scheduler)] == [{"a": 3, "c": 3}, {"b": 3, "d": 3}]


def test_a_turn_joins_small_works_and_splits_a_large_one() -> None:
    scheduler = Scheduler(100, 10)
    lane = Lane("a", 1)
    works = [Work(4), Work(4), Work(25)]
    for work in works:
        scheduler.add(lane, work)
    spans = [
        [(works.index(s.work), s.start, s.stop, s.done) for s in turns[0].spans] for turns in everything(scheduler)
    ]
    assert spans == [
        [(0, 0, 4, True), (1, 0, 4, True), (2, 0, 2, False)],
        [(2, 2, 12, False)],
        [(2, 12, 22, False)],
        [(2, 22, 25, True)],
    ]


def test_the_micro_batch_is_bounded_over_all_lanes() -> None:
    scheduler = Scheduler(25, 10)
    for name in "abcd":
        scheduler.add(Lane(name, 1), Work(10))
    assert [rows(turns) for turns in everything(scheduler)] == [{"a": 10, "b": 10, "c": 5}, {"d": 10, "c": 5}]


def test_lanes_with_a_share_have_that_part_of_both_limits_and_a_row_at_least() -> None:
    scheduler = Scheduler(100, 10)
    for shape, part in ((1, 1.0), (2, 0.2), (3, 0.001)):
        for name in "ab":
            scheduler.add(Lane(f"{name}{shape}", shape, share=part), Work(12))
    batches = [rows(turns) for turns in everything(scheduler)]
    assert batches[:3] == [{"a1": 10, "b1": 10}, {"a2": 2, "b2": 2}, {"a3": 1}]
    assert max(sum(batch.values()) for batch in batches if "a2" in batch) == 4
    assert {sum(batch.values()) for batch in batches if batch.keys() <= {"a3", "b3"}} == {1}


def test_the_share_falls_with_what_a_row_costs() -> None:
    def part(**learner: Any) -> float:
        config = SessionConfig(("x",), learner=LearnerConfig(**learner)).validated()
        parameters = 4 * config.learner.hidden * (config.learner.hidden + 4) + config.learner.hidden + 1
        assert config.learner.window is not None
        return share(config.learner.window, 1, parameters, session_bytes(config))

    assert part() == 1.0
    assert part(hidden=16, window=64) == 1.0
    shares = [part(), part(hidden=64), part(hidden=128), part(hidden=128, window=256), part(hidden=512, window=1024)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] * 4096 < 1
    assert part(hidden=1, window=1024) * 64 < 10


def test_a_portfolio_has_the_share_of_all_its_learners_together() -> None:
    assert share(256, 1, 20_000, 0) == 8 * share(256, 8, 160_000, 0)


def test_a_busy_lane_starves_nobody_of_its_shape_or_another() -> None:
    scheduler = Scheduler(30, 10)
    busy = [Lane(f"busy{n}", 1) for n in range(5)]
    rare = Lane("rare", 2)
    for lane in busy:
        scheduler.add(lane, Work(100_000))
    scheduler.add(rare, Work(1))
    served: Counter[str] = Counter()
    for batch in range(50):
        served.update(rows(scheduler.next()))
        assert batch < 4 or served["rare"] == 1
    shares = [served[lane.key] for lane in busy]
    assert max(shares) - min(shares) <= 10


def test_a_late_comer_of_another_shape_waits_for_one_round_at_most() -> None:
    scheduler = Scheduler(1000, 10)
    scheduler.add(Lane("long", 1), Work(10_000))
    scheduler.next()
    scheduler.add(Lane("late", 2), Work(1))
    assert "late" in {**rows(scheduler.next()), **rows(scheduler.next())}


def test_work_without_rows_is_reached_with_what_is_before_it() -> None:
    scheduler = Scheduler(100, 10)
    lane = Lane("a", 1)
    barrier = Work()
    for work in (Work(10), barrier, Work(1)):
        scheduler.add(lane, work)
    first = scheduler.next()[0]
    assert first.spans[-1].work is barrier
    assert first.spans[-1].done
    assert first.rows == 10


def test_a_call_runs_between_the_rows_before_and_after_it() -> None:
    scheduler = Scheduler(100, 10)
    lane = Lane("a", 1)
    called: list[str] = []
    for work in (Work(2), Work(call=lambda: called.append("now")), Work(3)):
        scheduler.add(lane, work)
    first, second = everything(scheduler)
    assert (first[0].rows, len(first[0].calls)) == (2, 0)
    assert (second[0].rows, len(second[0].calls)) == (3, 1)


def test_calls_take_room_as_rows_do() -> None:
    scheduler = Scheduler(100, 10)
    lane = Lane("a", 1)
    for _ in range(23):
        scheduler.add(lane, Work(call=lambda: None))
    scheduler.add(lane, Work(9))
    assert [(len(turn.calls), turn.rows) for (turn,) in everything(scheduler)] == [(10, 0), (10, 0), (3, 7), (0, 2)]


def test_a_long_call_is_alone_and_those_who_came_meanwhile_are_served_before_the_next() -> None:
    scheduler = Scheduler(100, 10)
    long, other, late, far = Lane("long", 1), Lane("other", 1), Lane("late", 1), Lane("far", 2)
    for _ in range(3):
        scheduler.add(long, Work(call=lambda: None, alone=True))
    scheduler.add(long, Work(5))
    scheduler.add(other, Work(4))
    turns: list[list[str]] = []

    def serve() -> None:
        turns.append([f"{turn.lane.key} {len(turn.calls)} {turn.rows}" for turn in scheduler.next()])

    serve()
    scheduler.add(late, Work(1))
    scheduler.add(far, Work(1))
    while scheduler:
        serve()
    assert turns == [
        ["long 1 0"], ["other 0 4", "late 0 1"], ["far 0 1"], ["long 1 0"], ["long 1 0"], ["long 0 5"]
    ]  # fmt: skip


def test_long_calls_of_several_lanes_take_turns_and_others_never_wait_for_two() -> None:
    scheduler = Scheduler(100, 10)
    for name in "abc":
        long = Lane(name, "own" if name == "a" else 1)
        for _ in range(2):
            scheduler.add(long, Work(call=lambda: None, alone=True))
    near, far = Lane("near", 1), Lane("far", 2)
    served = []
    while scheduler:
        served.append("".join(str(turn.lane.key)[0] for turn in scheduler.next()))
        if served[-1] in set("abc"):
            for lane in (near, far):
                scheduler.add(lane, Work(1))
    assert served == [turn for name in "abcabc" for turn in (name, "n", "f")]


def test_a_lane_between_two_long_calls_can_be_removed_or_get_more() -> None:
    scheduler = Scheduler(100, 10)
    lane = Lane("a", 1)
    works = [Work(call=lambda: None, alone=True) for _ in range(3)]
    for work in works[:2]:
        scheduler.add(lane, work)
    scheduler.next()
    scheduler.add(lane, works[2])
    assert scheduler
    assert [turn.lane.key for turn in scheduler.next()] == ["a"]
    assert scheduler.remove(lane) == works[2:]
    assert not scheduler
    assert scheduler.next() == []


def test_a_removed_lane_gives_its_work_back_and_is_not_served() -> None:
    scheduler = Scheduler(100, 10)
    gone, stays = Lane("gone", 1), Lane("stays", 1)
    work = Work(30)
    scheduler.add(gone, work)
    scheduler.add(stays, Work(1))
    scheduler.next()
    assert scheduler.remove(gone) == [work]
    assert work.taken == 10
    assert not scheduler
    scheduler.add(stays, Work(1))
    assert rows(scheduler.next()) == {"stays": 1}


def test_every_row_is_handed_out_once_and_in_order() -> None:
    scheduler = Scheduler(17, 5)
    lanes = [Lane(n, n % 3) for n in range(7)]
    works = {lane.key: [Work(size) for size in (1, 0, 12, 7, 0, 3)] for lane in lanes}
    for number in range(6):
        for lane in lanes:
            scheduler.add(lane, works[lane.key][number])
    seen: dict[object, list[tuple[int, int, int]]] = {lane.key: [] for lane in lanes}
    for turns in everything(scheduler):
        assert len({turn.lane.shape for turn in turns}) == 1
        assert len({turn.lane.key for turn in turns}) == len(turns)
        assert sum(turn.rows for turn in turns) <= 17
        for turn in turns:
            assert turn.rows <= 5
            seen[turn.lane.key] += [(works[turn.lane.key].index(s.work), s.start, s.stop) for s in turn.spans]
    for spans in seen.values():
        for (work, _, stop), (following, start, _) in pairwise(spans):
            assert (following, start) in ((work, stop), (work + 1, 0))
        assert sum(stop - start for _, start, stop in spans) == 23


def test_a_lane_paces_itself_by_how_long_its_turns_take() -> None:
    assert pace(8, 8, seconds=0.01) == 16, "a full turn that was quick"
    assert pace(3, 8, seconds=0.01) == 8, "a turn that was not full says little"
    assert pace(8, 8, seconds=0.2) == 8
    assert pace(8, 8, seconds=5) == 4
    assert pace(1, 1, seconds=5) == 1
    scheduler = Scheduler(batch_rows=100, turn_rows=64)
    slow, quick = Lane("slow", 1, pace=2), Lane("quick", 1, pace=64)
    for lane in (slow, quick):
        scheduler.add(lane, Work(50))
    assert [turn.rows for turn in scheduler.next()] == [2, 50]
