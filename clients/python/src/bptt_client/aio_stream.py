"""The stream for asyncio: one task drives the connection, `feed.Feed` decides everything, this file only waits and
wakes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import grpc

from bptt_client import answers
from bptt_client.events import Given
from bptt_client.feed import Feed, Step
from bptt_client.replies import BatchResult, Reply
from bptt_client.rows import Row, Time

OpenCall = Callable[[AsyncIterator[Any]], Any]


class AsyncStream:
    """A live feed into one session, open between `async with` and its end. It comes back by itself after a broken
    connection.

    One task sends; the same or another may read. Leaving the block waits until everything sent is acknowledged;
    leaving it by an exception drops what is not.
    """

    def __init__(self, open_call: OpenCall, feed: Feed) -> None:
        self._open_call, self._feed = open_call, feed
        self._changed = asyncio.Condition()
        self._driver: asyncio.Task[None] | None = None
        self._outbox: asyncio.Queue[Any] = asyncio.Queue()
        self._failure: BaseException | None = None
        self._over = True

    async def __aenter__(self) -> AsyncStream:
        self._over = False
        self._driver = asyncio.create_task(self._drive(), name="bptt-stream")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.abort()

    @property
    def reconnects(self) -> int:
        """How often the connection had to be made again."""
        return self._feed.reconnects

    @property
    def dropped_results(self) -> int:
        """Results nobody read in time, dropped to bound the memory; their events are acknowledged all the same."""
        return self._feed.dropped_results

    async def send(
        self, row: Row, timestamp: Time | None = None, labels: Row | None = None, new_episode: bool = False
    ) -> None:
        """Sends the next event; waits while the server's credit is used up. Raises what ended the stream, if it
        ended.
        """
        event = self._feed.encode(Given(row, timestamp, labels, new_episode))
        await self._wait(lambda: not self._over and self._feed.has_room())
        self._feed.add(event)
        self._post()

    async def flush(self) -> None:
        """Waits until everything sent so far is acknowledged."""
        self._feed.flush()
        self._post()
        await self._wait(self._feed.settled)

    def results(self) -> list[BatchResult]:
        """Batches acknowledged since the last time. Does not wait."""
        return self._feed.take()

    async def replies(self) -> AsyncIterator[Reply]:
        """The replies to everything sent so far that were not read yet; waits for them."""
        await self.flush()
        for result in self.results():
            for reply in result.outcomes or ():
                yield reply

    async def __aiter__(self) -> AsyncIterator[Reply]:
        """Replies as they arrive, until the stream is closed (by another task, or before)."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._feed.has_results() or self._over)
            taken = self._feed.take()
            if not taken and self._failure is not None:
                raise self._failure
            if not taken:
                return
            for result in taken:
                for reply in result.outcomes or ():
                    yield reply

    async def close(self) -> None:
        """Waits until everything is acknowledged, says goodbye and ends the task. Raises what ended the stream."""
        try:
            if not self._over:
                self._feed.finish()
                self._post()
            async with self._changed:
                await self._changed.wait_for(lambda: self._over)
        finally:
            await self.abort()
        if self._failure is not None:
            raise self._failure

    async def abort(self) -> None:
        """Ends the stream now. What is not acknowledged may have been taken or not: call the handle's refresh() before
        sending anything else.
        """
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.wait([self._driver])

    async def _wait(self, condition: Callable[[], bool]) -> None:
        if not condition():
            async with self._changed:
                await self._changed.wait_for(lambda: self._over or condition())
        if self._failure is not None:
            raise self._failure
        if not condition():
            raise RuntimeError("the stream is not open: use it in an `async with`")

    def _post(self) -> None:
        for request in self._feed.requests(time.monotonic()):
            self._outbox.put_nowait(request)

    # The task.

    async def _drive(self) -> None:
        try:
            while True:
                step = await self._converse()
                if not step.reconnect:
                    break
        except Exception as error:  # noqa: BLE001 - whatever ended the stream is raised in the caller's task
            self._failure = error
        finally:
            self._over = True
            async with self._changed:
                self._changed.notify_all()

    async def _converse(self) -> Step:
        """One connection, from opening to its end and the wait after it."""
        self._outbox = outbox = asyncio.Queue[Any]()
        outbox.put_nowait(self._feed.opening())
        call = self._open_call(_until_none(outbox))
        try:
            step = await self._listen(call)
        finally:
            outbox.put_nowait(None)
            call.cancel()
        await asyncio.sleep(step.pause_s)
        return step

    async def _listen(self, call: Any) -> Step:
        error = None
        try:
            async for message in call:
                step = self._feed.receive(message, time.monotonic())
                async with self._changed:
                    self._changed.notify_all()
                if step.reconnect:
                    return step
                await asyncio.sleep(step.pause_s)
                self._post()
        except grpc.RpcError as failed:
            error = answers.failure(failed, self._feed.known)
        except asyncio.CancelledError:
            if being_cancelled():
                raise
        return self._feed.lost(error)


def being_cancelled() -> bool:
    """Whether a CancelledError is meant for the running task; otherwise only its call was cancelled, by closing the
    client.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _until_none(outbox: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while (request := await outbox.get()) is not None:
        yield request
