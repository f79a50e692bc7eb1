"""gRPC's health service: set on the server's side, asked by `--health` on the other.

The wire form of `grpc.health.v1` is known here only.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

NAME: Final = health.SERVICE_NAME
_TIMEOUT_S: Final = 5.0


class Health:
    """The health of the whole server and of its services, which is one and the same."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._servicer = health.aio.HealthServicer()
        self._services = ("", *services)

    def attach(self, server: grpc.aio.Server) -> None:
        """Adds the health service to a server."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def serving(self) -> None:
        """Takes work."""
        for service in self._services:
            await self._servicer.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def leaving(self) -> None:
        """Not serving, for good."""
        await self._servicer.enter_graceful_shutdown()


def check(target: str) -> tuple[bool, str]:
    """Whether the server at `target` takes work, and a sentence about it."""
    with grpc.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return False, f"{target} does not answer: {error.code().name} {error.details()}"
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    return response.status == health_pb2.HealthCheckResponse.SERVING, f"{target} is {name}"
