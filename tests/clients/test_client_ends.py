"""What becomes of calls, streams and watches when the client is closed or its caller gives up."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import bptt_client
from bptt_client import AsyncClient, AsyncSessionHandle, Client, SessionHandle

PAIR = {"features": ["a", "b"], "targets": ["b"], "horizon": 2}


def stream(handle):
    with handle.stream() as opened:
        opened.send([1.0, 2.0])


@pytest.mark.parametrize(
    "attempt",
    [
        lambda client, handle: client.get_session("s"),
        lambda client, handle: list(client.list_sessions()),
        lambda client, handle: handle.learn_one([1.0, 2.0]),
        lambda client, handle: handle.learn_many([[1.0, 2.0]]),
        lambda client, handle: handle.forecast(),
        lambda client, handle: stream(handle),
        lambda client, handle: list(handle.watch()),
    ],
)
def test_a_closed_client_says_so_whatever_it_is_asked(fake, connect, attempt):
    client = connect(fake.target)
    handle = client.create_session("s", **PAIR)
    client.close()
    with pytest.raises(bptt_client.ClientClosed, match="the client was closed"):
        attempt(client, handle)


def test_a_call_in_flight_when_the_client_is_closed_says_so(fake):
    fake.may_answer.clear()
    raised = []
    with Client(fake.target) as client:
        handle = client.create_session("s", **PAIR)
        caller = threading.Thread(target=lambda: raised.append(_raised(lambda: handle.learn_one([1.0, 2.0]))))
        caller.start()
        while not fake.batches:
            time.sleep(0.01)
    caller.join()
    fake.may_answer.set()
    assert raised == [bptt_client.ClientClosed]


def _raised(call):
    try:
        call()
    except Exception as error:  # noqa: BLE001 - its kind is what is tested
        return type(error)


async def _awaited(awaitable):
    """The kind of exception, as `_raised`; also a CancelledError nobody asked for."""
    try:
        await awaitable
    except BaseException as error:  # noqa: BLE001 - its kind is what is tested
        return type(error)


async def _until(true):
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("give_up", "kind"), [(False, bptt_client.ClientClosed), (True, asyncio.CancelledError)])
def test_a_cancelled_caller_is_told_apart_from_a_closed_client(fake, give_up, kind):
    fake.may_answer.clear()

    async def main():
        async with AsyncClient(fake.target) as client:
            handle = await client.create_session("s", **PAIR)
            caller = asyncio.create_task(_awaited(handle.learn_one([1.0, 2.0])))
            await _until(lambda: fake.batches)
            if give_up:
                caller.cancel()
                return await caller
        return await caller

    assert asyncio.run(main()) is kind
    fake.may_answer.set()


@pytest.mark.parametrize("closed", ["watch", "client"])
def test_a_watch_ends_quietly_when_it_or_its_client_is_closed(fake, closed):
    with Client(fake.target) as client:
        watch = client.create_session("s", **PAIR).watch()
        ends = []
        reader = threading.Thread(target=lambda: ends.append(_raised(lambda: list(watch))))
        reader.start()
        while watch.session is None:
            time.sleep(0.01)
        {"watch": watch, "client": client}[closed].close()
        reader.join()
    assert ends == [None]


@pytest.mark.parametrize(("closed", "kind"), [("watch", None), ("client", None), ("task", asyncio.CancelledError)])
def test_a_watch_of_asyncio_ends_quietly_unless_its_task_is_cancelled(fake, closed, kind):
    async def read(watch):
        async for _ in watch:
            pass

    async def main():
        async with AsyncClient(fake.target) as client:
            watch = (await client.create_session("s", **PAIR)).watch()
            reader = asyncio.create_task(_awaited(read(watch)))
            await _until(lambda: watch.session)
            if closed == "task":
                reader.cancel()
            else:
                await {"watch": watch, "client": client}[closed].close()
            return await reader

    assert asyncio.run(main()) is kind


def test_after_a_timeout_the_same_row_or_a_refresh_comes_first_and_the_words_say_so(fake, connect):
    connect(fake.target).create_session("s", **PAIR)
    handle = connect(fake.target, timeout_s=0.2).session("s")
    fake.may_answer.clear()
    with pytest.raises(bptt_client.DeadlineExceeded):
        handle.learn_one([1.0, 2.0])
    fake.may_answer.set()
    with pytest.raises(bptt_client.SequenceConflict):
        handle.learn_one([3.0, 4.0])
    assert handle.refresh().last_sequence == 1
    assert handle.learn_one([3.0, 4.0]).sequence == 2
    for name in ("learn_one", "learn_many"):
        words = getattr(SessionHandle, name).__doc__
        assert "call refresh()" in words
        assert words == getattr(AsyncSessionHandle, name).__doc__
