"""The choice of micro-batches: order, fairness in time, limits."""

from __future__ import annotations

from itertools import pairwise

import pytest

from server.scheduler import Lane, Scheduler, Turn, Work, guess

MS = 1e-3


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


def lane(name: object, row_s: float = 1e-6) -> Lane:
    return Lane(name, row_s=row_s)


def test_whatever_waits_is_in_the_next_micro_batch_oldest_first() -> None:
    scheduler = Scheduler(100, 10)
    for name in "abcd":
        scheduler.add(lane(name), Work(3))
    assert [list(rows(turns).items()) for turns in everything(scheduler)] == [[("a", 3), ("b", 3), ("c", 3), ("d", 3)]]


def test_a_turn_joins_small_works_and_splits_a_large_one() -> None:
    scheduler = Scheduler(100, 10)
    one = lane("a")
    works = [Work(4), Work(4), Work(25)]
    for work in works:
        scheduler.add(one, work)
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
        scheduler.add(lane(name), Work(10))
    assert [rows(turns) for turns in everything(scheduler)] == [{"a": 10, "b": 10, "c": 5}, {"d": 10, "c": 5}]


def test_a_micro_batch_is_as_long_as_it_may_take_by_what_rows_are_thought_to_cost() -> None:
    scheduler = Scheduler(1000, 100, batch_s=10 * MS)
    for number in range(20):
        scheduler.add(lane(number, MS / (1 + number)), Work(50))
    batches = everything(scheduler)
    costs = [sum(turn.rows * turn.lane.row_s for turn in turns) for turns in batches]
    assert max(costs) <= 10.001 * MS
    assert min(costs[:-1]) >= 6 * MS
    assert len(batches[0]) >= 8, "threads have something to share"


def test_a_turn_ends_a_batch_of_events_that_takes_somewhat_more_than_its_share() -> None:
    scheduler = Scheduler(4096, 256, batch_s=4 * MS)
    for number in range(16):
        scheduler.add(lane(number, MS / 128), Work(64))  # a sixteenth of a micro-batch is 32 rows
    batches = everything(scheduler)
    assert [n for turns in batches for n in rows(turns).values()] == [64] * 16
    assert [len(turns) for turns in batches] == [8, 8]


def test_a_row_that_costs_more_than_a_micro_batch_may_is_folded_alone() -> None:
    scheduler = Scheduler(1000, 100, batch_s=10 * MS)
    for name in ("huge", "small", "huge too"):
        scheduler.add(lane(name, MS if name == "small" else 100 * MS), Work(2))
    assert [rows(turns) for turns in everything(scheduler)] == [
        {"small": 2}, {"huge": 1}, {"huge too": 1}, {"huge": 1}, {"huge too": 1},
    ]  # fmt: skip


def test_lanes_share_the_time_whatever_their_rows_cost() -> None:
    scheduler = Scheduler(10_000, 10_000, batch_s=10 * MS)
    had = dict.fromkeys(("dear", "cheap", "middling"), 0.0)
    for name, row_s in zip(had, (2 * MS, 0.01 * MS, 0.1 * MS), strict=True):
        scheduler.add(lane(name, row_s), Work(10**6))
    for _ in range(1000):
        for turn in scheduler.next():
            had[str(turn.lane.key)] += turn.rows * turn.lane.row_s
    assert min(had.values()) > max(had.values()) / 2, "but for what is left over of a turn"


@pytest.mark.parametrize("busy_row_s", [0.01 * MS, MS, 30 * MS])
def test_a_lone_event_waits_for_one_micro_batch_however_many_lanes_are_busy(busy_row_s: float) -> None:
    scheduler = Scheduler(4096, 64, batch_s=4 * MS)
    for number in range(200):
        scheduler.add(lane(f"busy{number}", busy_row_s), Work(10_000))
    rare = lane("rare", 0.01 * MS)
    for _ in range(50):
        scheduler.next()
        scheduler.add(rare, Work(1))
        assert "rare" in rows(scheduler.next()) or "rare" in rows(scheduler.next())


def test_a_lane_that_was_away_has_no_right_to_the_time_it_did_not_want() -> None:
    scheduler = Scheduler(4096, 64, batch_s=4 * MS)
    for number in range(20):
        scheduler.add(lane(number, MS), Work(10**6))
    for _ in range(500):
        scheduler.next()
    scheduler.add(lane("back", MS), Work(10**6))
    served = sum("back" in rows(scheduler.next()) for _ in range(100))
    assert 10 < served < 40, "4 lanes of 21 are served at a time"


def test_single_events_that_keep_coming_do_not_starve_a_dear_row() -> None:
    scheduler = Scheduler(4096, 64, batch_s=4 * MS)
    scheduler.add(lane("dear", 30 * MS), Work(1))
    for number in range(1000):
        for k in range(8):
            scheduler.add(lane(f"{number}/{k}", 0.5 * MS), Work(1))
        if "dear" in rows(scheduler.next()):
            break
    assert number < 200


def test_what_rows_cost_is_learned_from_how_long_they_took() -> None:
    scheduler = Scheduler(1000, 1000, batch_s=4 * MS)
    cheap, dear = lane("cheap", MS), lane("dear", 0.001 * MS)
    for one, true_s in ((cheap, 0.02 * MS), (dear, 0.5 * MS)):
        scheduler.add(one, Work(10**6))
        for _ in range(40):
            turns = scheduler.next()
            scheduler.took(turns, turns[0].rows * true_s)
        scheduler.remove(one)
        assert one.row_s == pytest.approx(true_s, rel=0.01)
    scheduler.took([Turn(cheap, [], [])], 1.0)
    assert cheap.row_s == pytest.approx(0.02 * MS, rel=0.01), "no rows say nothing"


def test_calls_that_cost_next_to_nothing_per_row_together_find_how_many_rows_fit() -> None:
    """Where a call costs as much for one row as for many, the rows of a micro-batch grow until it is long enough."""
    scheduler = Scheduler(10_000, 64, batch_s=4 * MS)
    for number in range(100):
        scheduler.add(lane(number, 1.5 * MS), Work(10_000))
    for _ in range(1000):
        turns = scheduler.next()
        seconds = 1.5 * MS + 0.01 * MS * sum(turn.rows for turn in turns)
        scheduler.took(turns, seconds)
    assert 2 * MS < seconds < 8 * MS


def test_the_guess_rises_with_window_learners_and_parameters() -> None:
    assert guess(8, 1, 100) < guess(32, 1, 100) < guess(32, 1, 10_000) < guess(32, 6, 60_000)


def test_work_without_rows_is_reached_with_what_is_before_it() -> None:
    scheduler = Scheduler(100, 10)
    one = lane("a")
    barrier = Work()
    for work in (Work(10), barrier, Work(1)):
        scheduler.add(one, work)
    first = scheduler.next()[0]
    assert first.spans[-1].work is barrier
    assert first.spans[-1].done
    assert first.rows == 10


def test_a_call_runs_between_the_rows_before_and_after_it() -> None:
    scheduler = Scheduler(100, 10)
    one = lane("a")
    called: list[str] = []
    for work in (Work(2), Work(call=lambda: called.append("now")), Work(3)):
        scheduler.add(one, work)
    first, second = everything(scheduler)
    assert (first[0].rows, len(first[0].calls)) == (2, 0)
    assert (second[0].rows, len(second[0].calls)) == (3, 1)


def test_calls_take_room_as_rows_do() -> None:
    scheduler = Scheduler(100, 10)
    one = lane("a")
    for _ in range(23):
        scheduler.add(one, Work(call=lambda: None))
    scheduler.add(one, Work(9))
    assert [(len(turn.calls), turn.rows) for (turn,) in everything(scheduler)] == [(10, 0), (10, 0), (3, 7), (0, 2)]


def test_a_long_call_is_alone_and_those_who_came_meanwhile_are_served_before_the_next() -> None:
    scheduler = Scheduler(100, 10)
    long, other, late, far = lane("long"), lane("other"), lane("late"), lane("far")
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
        ["long 1 0"], ["late 0 1", "far 0 1", "other 0 4"], ["long 1 0"], ["long 1 0"], ["long 0 5"]
    ]  # fmt: skip


def test_long_calls_of_several_lanes_take_turns_and_others_never_wait_for_two() -> None:
    scheduler = Scheduler(100, 10)
    for name in "abc":
        long = lane(name)
        for _ in range(2):
            scheduler.add(long, Work(call=lambda: None, alone=True))
    near, far = lane("near"), lane("far")
    served = []
    while scheduler:
        served.append("".join(str(turn.lane.key)[0] for turn in scheduler.next()))
        if served[-1] in set("abc"):
            for one in (near, far):
                scheduler.add(one, Work(1))
    assert served == [turn for name in "abcabc" for turn in (name, "nf")]


def test_a_lane_between_two_long_calls_can_be_removed_or_get_more() -> None:
    scheduler = Scheduler(100, 10)
    one = lane("a")
    works = [Work(call=lambda: None, alone=True) for _ in range(3)]
    for work in works[:2]:
        scheduler.add(one, work)
    scheduler.next()
    scheduler.add(one, works[2])
    assert scheduler
    assert [turn.lane.key for turn in scheduler.next()] == ["a"]
    assert scheduler.remove(one) == works[2:]
    assert not scheduler
    assert scheduler.next() == []


def test_a_removed_lane_gives_its_work_back_and_is_not_served() -> None:
    scheduler = Scheduler(100, 10)
    gone, stays = lane("gone"), lane("stays")
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
    lanes = [lane(n, (1 + n % 3) * 1e-4) for n in range(7)]
    works = {one.key: [Work(size) for size in (1, 0, 12, 7, 0, 3)] for one in lanes}
    for number in range(6):
        for one in lanes:
            scheduler.add(one, works[one.key][number])
    seen: dict[object, list[tuple[int, int, int]]] = {one.key: [] for one in lanes}
    for turns in everything(scheduler):
        assert len({turn.lane.key for turn in turns}) == len(turns)
        assert sum(turn.rows for turn in turns) <= 17
        for turn in turns:
            assert turn.rows <= 5
            seen[turn.lane.key] += [(works[turn.lane.key].index(s.work), s.start, s.stop) for s in turn.spans]
    for spans in seen.values():
        for (work, _, stop), (following, start, _) in pairwise(spans):
            assert (following, start) in ((work, stop), (work + 1, 0))
        assert sum(stop - start for _, start, stop in spans) == 23


@pytest.mark.parametrize(("busy", "rows"), [(200, 1), (200, 8), (1000, 8)])
def test_a_single_event_waits_for_few_micro_batches_whatever_was_guessed(busy: int, rows: int) -> None:
    """Equal sessions that always have work, which costs a fiftieth of the guess, and one that sends single events."""
    scheduler = Scheduler(4096, 256, batch_s=4 * MS)
    lanes = [lane(number, 2.2 * MS) for number in range(busy)]

    def micro_batch() -> list[Turn]:
        for one in lanes:
            if not one.waiting:
                scheduler.add(one, Work(rows))
        turns = scheduler.next()
        scheduler.took(turns, 0.1 * MS + 0.043 * MS * sum(turn.rows for turn in turns))
        return turns

    for _ in range(2000):
        micro_batch()
    new = lane("new", 2.2 * MS)
    for _ in range(20):
        scheduler.add(new, Work(1))
        waited = 1
        while not any(turn.lane is new for turn in micro_batch()):
            waited += 1
        assert waited <= 4


def test_cleared_lanes_keep_their_work_and_may_come_again() -> None:
    scheduler = Scheduler(100, 10)
    lanes = [lane(number) for number in range(3)]
    for one in lanes:
        scheduler.add(one, Work(3))
    scheduler.add(lanes[0], Work(call=lambda: None, alone=True))
    scheduler.clear()
    assert not scheduler
    assert scheduler.next() == []
    assert [len(scheduler.remove(one)) for one in lanes] == [2, 1, 1]
    scheduler.add(lanes[1], Work(2))
    assert [turn.lane for turn in scheduler.next()] == [lanes[1]]
