"""One reader of a session's outcomes: a queue bounded in bytes that drops its oldest, and counts what it dropped."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from bptt_core import Outcomes
from server.errors import Refusal


class Watcher:
    """Filled by the intake, emptied by one `Watch` call, both on the network's thread."""

    def __init__(self, max_bytes: int, max_events: int, dropped: Callable[[int], None]) -> None:
        """Holds at most `max_bytes`; hands out tables of at most `max_events`; `dropped` is told what was lost."""
        self._max_bytes, self._max_events, self._tell = max_bytes, max_events, dropped
        self._queue: deque[Outcomes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._end: Refusal | None = None
        self._wake = asyncio.Event()

    def offer(self, outs: Outcomes) -> None:
        """Queues outcomes, dropping the oldest queued ones if there is no room."""
        for start in range(0, len(outs), self._max_events):
            # In memory of its own, or it would keep the outcomes of all sessions that were stepped with this one.
            piece = outs.rows(start, min(len(outs), start + self._max_events)).copied()
            self._queue.append(piece)
            self._bytes += piece.nbytes
        while self._bytes > self._max_bytes and len(self._queue) > 1:
            lost = self._queue.popleft()
            self._bytes -= lost.nbytes
            self._dropped += len(lost)
            self._tell(len(lost))
        self._wake.set()

    def end(self, reason: Refusal) -> None:
        """No more outcomes will come; the reader gets `reason` after those queued."""
        self._end = reason
        self._wake.set()

    def skip(self, last_sequence: int) -> None:
        """Forgets outcomes up to `last_sequence`, which the reader knows already."""
        while self._queue and self._queue[0].last_sequence <= last_sequence:
            self._bytes -= self._queue.popleft().nbytes

    async def next(self) -> tuple[Outcomes, int]:
        """The next outcomes and how many were dropped before them. Raises the refusal that ended the watch."""
        while not self._queue:
            if self._end is not None:
                raise self._end
            self._wake.clear()
            await self._wake.wait()
        piece, dropped = self._queue.popleft(), self._dropped
        self._bytes -= piece.nbytes
        self._dropped = 0
        return piece, dropped
