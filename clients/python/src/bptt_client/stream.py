"""The blocking stream: one thread drives the connection, `feed.Feed` decides everything, this file only waits and
wakes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from bptt_client import answers
from bptt_client.events import Given
from bptt_client.feed import OVER, Feed, Step
from bptt_client.replies import BatchResult, Reply
from bptt_client.rows import Row, Time

OpenCall = Callable[[Iterator[Any]], Any]


class Stream:
    """A live feed into one session, open between `with` and its end. It comes back by itself after a broken connection.

    One thread sends; the same or another may read. Leaving the `with` block waits until everything sent is
    acknowledged; leaving it by an exception drops what is not.
    """

    def __init__(self, open_call: OpenCall, feed: Feed) -> None:
        self._open_call, self._feed = open_call, feed
        self._changed = threading.Condition()
        self._driver = threading.Thread(target=self._drive, name="bptt-stream", daemon=True)
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call: Any = None
        self._failure: BaseException | None = None
        self._aborted, self._over = False, True

    def __enter__(self) -> Stream:
        self._over = False
        self._driver.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    @property
    def reconnects(self) -> int:
        """How often the connection had to be made again."""
        return self._feed.reconnects

    @property
    def dropped_results(self) -> int:
        """Results nobody read in time, dropped to bound the memory; their events are acknowledged all the same."""
        return self._feed.dropped_results

    def send(
        self, row: Row, timestamp: Time | None = None, labels: Row | None = None, new_episode: bool = False
    ) -> None:
        """Sends the next event; waits while the server's credit is used up. Raises what ended the stream, if it
        ended.
        """
        event = self._feed.encode(Given(row, timestamp, labels, new_episode))
        with self._changed:
            self._wait(lambda: not self._over and self._feed.has_room())
            self._feed.add(event)
            self._post()

    def flush(self) -> None:
        """Waits until everything sent so far is acknowledged."""
        with self._changed:
            self._feed.flush()
            self._post()
            self._wait(self._feed.settled)

    def results(self) -> list[BatchResult]:
        """Batches acknowledged since the last time. Does not wait."""
        with self._changed:
            return self._feed.take()

    def replies(self) -> Iterator[Reply]:
        """The replies to everything sent so far that were not read yet; waits for them."""
        self.flush()
        for result in self.results():
            yield from result.outcomes or ()

    def __iter__(self) -> Iterator[Reply]:
        """Replies as they arrive, until the stream is closed (by another thread, or before)."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._feed.has_results() or self._over)
                taken = self._feed.take()
                if not taken and self._failure is not None:
                    raise self._failure
            if not taken:
                return
            for result in taken:
                yield from result.outcomes or ()

    def close(self) -> None:
        """Waits until everything is acknowledged, says goodbye and ends the thread. Raises what ended the stream."""
        try:
            with self._changed:
                if not self._over:
                    self._feed.finish()
                    self._post()
                self._changed.wait_for(lambda: self._over)
        finally:
            self.abort()
        if self._failure is not None:
            raise self._failure

    def abort(self) -> None:
        """Ends the stream now. What is not acknowledged may have been taken or not: call the handle's refresh() before
        sending anything else.
        """
        with self._changed:
            self._aborted = True
            if self._call is not None:
                self._call.cancel()
            self._changed.notify_all()
        if self._driver.ident is not None:
            self._driver.join()

    def _wait(self, condition: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._over or condition())
        if self._failure is not None:
            raise self._failure
        if not condition():
            raise RuntimeError("the stream is not open: use it in a `with`")

    def _post(self) -> None:
        for request in self._feed.requests(time.monotonic()):
            self._outbox.put(request)

    # The thread.

    def _drive(self) -> None:
        try:
            step = self._converse()
            while step.reconnect and not self._aborted:
                step = self._converse()
        except Exception as error:  # noqa: BLE001 - whatever ended the stream is raised in the caller's thread
            self._failure = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _converse(self) -> Step:
        """One connection, from opening to its end and the wait after it."""
        outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._changed:
            if self._aborted:
                return OVER
            outbox.put(self._feed.opening())
            self._outbox = outbox
            self._call = call = self._open_call(iter(outbox.get, None))
        try:
            step = self._listen(call)
        finally:
            outbox.put(None)
            call.cancel()
        self._pause(step)
        return step

    def _listen(self, call: Any) -> Step:
        error = None
        try:
            for message in call:
                with self._changed:
                    step = self._feed.receive(message, time.monotonic())
                    self._changed.notify_all()
                if step.reconnect:
                    return step
                self._pause(step)
                with self._changed:
                    self._post()
        except grpc.RpcError as failed:
            error = answers.failure(failed, self._feed.known)
        with self._changed:
            return OVER if self._aborted else self._feed.lost(error)

    def _pause(self, step: Step) -> None:
        if step.pause_s > 0.0:
            with self._changed:
                self._changed.wait_for(lambda: self._aborted, step.pause_s)
