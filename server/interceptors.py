"""What happens around every call: counting, and turning whatever is raised into a status.

A `Refusal` becomes its row's code with details. Anything else is a fault of the server: INTERNAL, logged once with its
traceback, and private on the wire. It knows no service.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError

from bptt_core import Words
from server import details
from server.errors import CANCELLED, OK, Refusal, invalid_field
from server.metrics import Method, Metrics

_LOG: Final = logging.getLogger("server.calls")
if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]


class Calls(grpc.aio.ServerInterceptor):
    """Wraps every handler of the server."""

    def __init__(self, metrics: Metrics, request_bytes: Mapping[str, int]) -> None:
        """`request_bytes`: the largest request of a service, by its name, where that is less than a message may be."""
        self._metrics, self._request_bytes = metrics, request_bytes

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """The handler of the call with counting and error handling around it; None for an unknown method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        _, service, name = handler_call_details.method.split("/")
        streaming = (handler.request_streaming, handler.response_streaming)
        method = self._metrics.calls.method(*streaming, service, name)
        behaviour = handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary
        decode = partial(_decoded, handler.request_deserializer, self._request_bytes.get(service))

        async def call(request: Any, context: Any) -> Any:
            return await self._run(behaviour, handler, decode, method, request, _Context(context, method))

        # The messages of a stream are decoded as they are read, by whom they are read.
        wrapped: _Handler = _WRAP[streaming](
            call, decode if handler.request_streaming else None, partial(_encoded, handler.response_serializer)
        )
        return wrapped

    async def _run(
        self,
        behaviour: Any,
        handler: _Handler,
        decode: Callable[[bytes], Any],
        method: Method,
        request: Any,
        context: _Context,
    ) -> Any:
        started, code = time.perf_counter(), OK
        method.started.inc()
        try:
            if not handler.request_streaming:
                method.received.add(1)
                request = decode(request)
            if inspect.isasyncgenfunction(behaviour):
                async for message in behaviour(_Counted(request, method), context):
                    await context.write(message)
                return None
            response = await behaviour(request, context)
            if not handler.response_streaming:
                method.sent.add(1)
            return response
        except Refusal as refusal:
            code = refusal.row.code.name
            self._metrics.errors[refusal.reason].inc()
            return await context.abort_with_status(details.status(refusal))
        except grpc.aio.AbortError:
            code = context.code().name
            raise
        except asyncio.CancelledError:
            code = CANCELLED
            raise
        except Exception:  # noqa: BLE001 - the last line of defence; logged with its traceback
            _LOG.exception("a call failed unexpectedly")
            internal = Refusal("INTERNAL", "the server failed; its log has the reason")
            code = internal.row.code.name
            self._metrics.errors[internal.reason].inc()
            return await context.abort_with_status(details.status(internal))
        finally:
            method.finished(code, time.perf_counter() - started)


class _Context:
    """A servicer context that counts messages, and says with a cancellation that the caller is gone."""

    def __init__(self, context: Any, method: Method) -> None:
        self._context, self._method = context, method

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """The next message, or EOF."""
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._method.received.add(1)
        return message

    async def write(self, message: Any) -> None:
        """Sends a message."""
        try:
            await self._context.write(message)
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None
        self._method.sent.add(1)


class _Counted:
    """An iterator of requests that counts them."""

    def __init__(self, requests: Any, method: Method) -> None:
        self._requests, self._method = requests, method

    async def __aiter__(self) -> Any:
        async for message in self._requests:
            self._method.received.add(1)
            yield message


_WRAP: Final[dict[tuple[bool, bool], Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _encoded(serializer: Callable[[Any], bytes] | None, response: Any) -> bytes:
    """The bytes of a response; a handler may have made them itself."""
    encoded: bytes = response if serializer is None or isinstance(response, bytes) else serializer(response)
    return encoded


def _decoded(deserializer: Callable[[bytes], Any] | None, most_bytes: int | None, raw: bytes) -> Any:
    """The request that `raw` is. Raises Refusal if it is none, or longer than it may be."""
    if most_bytes is not None and len(raw) > most_bytes:
        raise invalid_field("request", Words(f"{len(raw)} bytes"), f"at most {most_bytes} bytes")
    try:
        return deserializer(raw) if deserializer else raw
    except DecodeError:
        raise invalid_field("request", Words("bytes"), "a message of the method's request type") from None
