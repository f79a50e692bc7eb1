"""One watch: bounded in bytes, oldest dropped and counted."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from bptt_core import Events, Fold, LearnerConfig, Outcomes, SessionConfig, select_backend
from server.errors import Refusal
from server.packing import packed
from server.watch import Watcher


def table(first: int, n: int) -> Outcomes:
    wide = np.arange(first, first + n, dtype=float).reshape(n, 1, 1)
    columns: dict[str, Any] = {f.name: wide.ravel() for f in fields(Outcomes)} | {"first_sequence": first}
    columns |= dict.fromkeys(("mean", "lower", "upper"), wide) | {"distribution": np.zeros((n, 1, 1, 0))}
    return Outcomes(**columns)


def watcher(max_bytes: int, max_events: int = 100) -> tuple[Watcher, list[int]]:
    dropped: list[int] = []
    return Watcher(max_bytes, max_events, dropped.append), dropped


def test_outcomes_come_in_order_in_pieces_that_fit() -> None:
    async def run() -> None:
        one, dropped = watcher(10**6, max_events=4)
        one.offer(table(1, 6))
        one.offer(table(7, 1))
        pieces = [await one.next() for _ in range(3)]
        assert [(piece.first_sequence, len(piece), lost) for piece, lost in pieces] == [(1, 4, 0), (5, 2, 0), (7, 1, 0)]
        assert Outcomes.joined([piece for piece, _ in pieces]).mean.ravel().tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert not dropped

    asyncio.run(run())


def test_the_oldest_are_dropped_at_the_limit_and_counted_once() -> None:
    async def run() -> None:
        one, dropped = watcher(3 * table(1, 2).nbytes)
        for first in (1, 3, 5):
            one.offer(table(first, 2))
        assert not dropped
        for first in (7, 9):
            one.offer(table(first, 2))
        assert dropped == [2, 2]
        piece, lost = await one.next()
        assert (piece.first_sequence, lost) == (5, 4)
        assert (await one.next())[1] == 0

    asyncio.run(run())


def test_what_the_reader_knows_is_skipped() -> None:
    async def run() -> None:
        one, dropped = watcher(10**6)
        for first in (1, 3, 5):
            one.offer(table(first, 2))
        one.skip(4)
        assert (await one.next())[0].first_sequence == 5
        assert not dropped

    asyncio.run(run())


def test_the_end_comes_after_what_is_queued() -> None:
    async def run() -> None:
        one, _ = watcher(10**6)
        waiting = asyncio.ensure_future(one.next())
        await asyncio.sleep(0)
        one.offer(table(1, 1))
        one.end(Refusal("DRAINING", "over"))
        assert (await waiting)[0].first_sequence == 1
        with pytest.raises(Refusal, match="over"):
            await one.next()

    asyncio.run(run())


def test_rows_are_cut_with_their_sequence() -> None:
    cut = table(10, 5).rows(2, 4)
    assert (cut.first_sequence, cut.last_sequence, cut.mean.ravel().tolist()) == (12, 13, [12, 13])


def test_what_waits_does_not_keep_the_outcomes_of_others() -> None:
    """A cut of a table that many sessions share is copied, and counted as what it is."""
    fold = Fold(select_backend("auto"))
    slots = [fold.create(SessionConfig(("x",), learner=LearnerConfig(hidden=2))) for _ in range(50)]
    one, _ = watcher(10**6)
    told = []
    for _ in range(3):
        cut = fold.step([(slot, Events(np.ones((1, 1)))) for slot in slots])[7]
        told.append(packed(cut, 8))
        one.offer(cut)
    for expected in told:
        piece, _ = asyncio.run(one.next())
        assert packed(piece, 8) == expected
        assert len(piece.table) == 1
