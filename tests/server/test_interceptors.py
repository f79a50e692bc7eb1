"""A fault of the server: INTERNAL, counted, logged once with its traceback, and private on the wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from bptt_core import select_backend
from server.errors import Refusal
from server.interceptors import Calls
from server.metrics import Metrics

SECRET = "the password is swordfish"


def serve(handler: Any, ask: Callable[[grpc.aio.Channel], Awaitable[Any]]) -> tuple[Any, Metrics]:
    """Runs `ask` against a server with one method, /t.T/M, and returns what it returned."""
    metrics = Metrics(select_backend("numpy"), "test")

    async def run() -> Any:
        server = grpc.aio.server(interceptors=[Calls(metrics, {})])
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", {"M": handler})])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                return await ask(channel)
        finally:
            await server.stop(None)

    return asyncio.run(run()), metrics


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def unary(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    return await failed(channel.unary_unary("/t.T/M")(b"", timeout=30))


async def streamed(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    call = channel.stream_stream("/t.T/M")(timeout=30)
    return await failed(call.read())


async def sent(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    return await failed(channel.stream_unary("/t.T/M")(iter([b""]), timeout=30))


async def _broken_unary(request: bytes, context: Any) -> bytes:
    raise ValueError(SECRET)


async def _broken_stream(requests: Any, context: Any) -> None:
    raise ValueError(SECRET)


@pytest.mark.parametrize(
    ("handler", "ask", "kind"),
    [
        (grpc.unary_unary_rpc_method_handler(_broken_unary), unary, "unary"),
        (grpc.stream_stream_rpc_method_handler(_broken_stream), streamed, "bidi_stream"),
        (grpc.stream_unary_rpc_method_handler(_broken_stream), sent, "client_stream"),
    ],
)
def test_an_unknown_exception_is_internal_logged_once_and_private(
    handler: Any, ask: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        error, metrics = serve(handler, ask)
    assert error.code().name == "INTERNAL"
    assert SECRET not in str(error)
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == len(caplog.records) == 1
    assert SECRET in caplog.text
    page = metrics.page().decode()
    labels = f'grpc_method="M",grpc_service="t.T",grpc_type="{kind}"'
    assert f'grpc_server_handled_total{{grpc_code="INTERNAL",{labels}}} 1.0' in page
    assert 'bptt_errors_total{reason="INTERNAL"} 1.0' in page


def test_a_refusal_is_its_row_and_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def refusing(request: bytes, context: Any) -> bytes:
        raise Refusal("SESSION_LIMIT", "full", limit=3)

    with caplog.at_level(logging.INFO):
        error, metrics = serve(grpc.unary_unary_rpc_method_handler(refusing), unary)
    assert (error.code().name, error.details()) == ("RESOURCE_EXHAUSTED", "full")
    assert not caplog.records
    assert 'bptt_errors_total{reason="SESSION_LIMIT"} 1.0' in metrics.page().decode()


def test_a_caller_that_goes_away_counts_as_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    entered = asyncio.Event()

    async def waiting(request: bytes, context: Any) -> bytes:
        entered.set()
        await asyncio.sleep(3600)
        return b""

    async def leave(channel: grpc.aio.Channel) -> None:
        call = channel.unary_unary("/t.T/M")(b"")
        await entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    with caplog.at_level(logging.WARNING):
        _, metrics = serve(grpc.unary_unary_rpc_method_handler(waiting), leave)
    assert not caplog.records
    assert 'grpc_server_handled_total{grpc_code="CANCELLED"' in metrics.page().decode()


def test_two_servers_of_one_process_count_apart() -> None:
    one, two = (Metrics(select_backend("numpy"), "test") for _ in range(2))
    one.rejected(5, 0)
    assert b'bptt_events_total{outcome="rejected"} 5.0' in one.page()
    assert b'bptt_events_total{outcome="rejected"} 0.0' in two.page()
