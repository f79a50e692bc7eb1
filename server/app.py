"""Composition root: builds everything, starts and stops it in order, and says so in the log.

Nothing else in the server knows how the parts are put together. Start: data directory → fold → sessions from disk →
network → ready. Stop: not ready → refuse new work → answer what is in flight → sessions to disk → close.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

import grpc
from grpc_reflection.v1alpha import reflection

from bptt_core import Backend, FieldError, select_backend
from server import services
from server.book import Book, ask
from server.engine import Engine
from server.exports import Exports
from server.health import NAME as HEALTH_NAME
from server.health import Health
from server.http import HttpServer
from server.intake import Intake
from server.interceptors import Calls
from server.metrics import Metrics
from server.microbatches import MicroBatch
from server.settings import Settings
from server.store import Store, StoreError
from server.streams import Streams
from server.teaching import Teaching

_LOG: Final = logging.getLogger("server")
_BEAT_S: Final = 0.5
_SKILL_S: Final = 5.0
_DELAY_S: Final = 0.05
# Where compiled code computes, the engine needs Python for a moment at a time: the less it interrupts the network, the
# more events it finds. On NumPy it is the network that would wait, so there the entry point's shorter time holds.
_SWITCH_S: Final = 0.002
_CLOSE_S: Final = 1.0
DURABILITY: Final = (
    "an acknowledgement means today: the event is folded, in memory. Sessions are written to disk when the server is "
    "stopped with SIGTERM or SIGINT and are taken up again at the next start; after a crash they continue from the "
    "last such stop, and what was learned since is lost"
)


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit code: 0 after a complete drain."""
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        return asyncio.run(_serve(settings))
    except (StoreError, FieldError, _CannotStart) as error:
        _LOG.error("%s", error)
        return 1


class _CannotStart(Exception):
    """The message says why."""


async def _serve(settings: Settings) -> int:
    with contextlib.closing(Store(settings.data)) as store:
        backend = select_backend(settings.backend, settings.threads)
        if backend.name != "numpy":
            sys.setswitchinterval(_SWITCH_S)
        return await Server(settings, store, backend).serve()


class Server:
    """One server: its parts, wired."""

    def __init__(self, settings: Settings, store: Store, backend: Backend) -> None:
        self._settings, self._backend = settings, backend
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._fatal = False
        self._beat_s = time.monotonic()
        self._metrics = Metrics(backend, version())
        self._engine = Engine(
            backend,
            settings.micro_batch_events,
            settings.turn_events,
            settle=self._settle,
            drop=lambda left: self._intake.drop(left),  # noqa: PLW0108 - the intake is made after the engine
            post=self._post,
            failed=self._failed,
        )
        self._intake = Intake(self._engine.submit, settings.max_pending_events, self._metrics)
        self._teaching = Teaching(self._engine, self._intake, self._metrics)
        self._book = Book(
            self._engine,
            self._intake,
            store,
            settings.max_sessions,
            settings.session_memory_mib,
            settings.credit_events,
            settings.max_message_bytes,
        )
        self._streams = Streams(
            self._book,
            self._intake,
            self._metrics,
            settings.max_streams,
            settings.max_channels,
            settings.max_message_bytes,
            settings.stream_idle_timeout_s,
        )
        self._metrics.follow(
            lambda: self._intake.pending_events, lambda: len(self._book), lambda: self._intake.draining
        )
        self._phase = "starting"
        self._health = Health(services.NAMES)

    async def serve(self) -> int:
        """Runs from start to stop. Returns the exit code."""
        settings = self._settings
        _LOG.info("bptt-server %s", version())
        for line in settings.lines():
            _LOG.info("setting %s", line)
        _LOG.info("backend %s: %s", self._backend.name, self._backend.detail)
        _LOG.info("%s", DURABILITY)
        try:
            http = HttpServer(settings.host, settings.http_port, self._metrics.page, self._healthy, self._is_ready)
        except OSError as error:
            raise _CannotStart(f"cannot listen for HTTP on {settings.host}:{settings.http_port}: {error}") from error
        tasks = [asyncio.ensure_future(task) for task in (self._heartbeat(), self._watch_loop())]
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        http.start()
        try:
            with _yielding_threads():
                server, port = self._grpc_server()
            try:
                code = await self._run(server, port, http.port)
            finally:
                await server.stop(None)  # one that is not stopped complains at length
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(http.stop)
        _LOG.info("stopped with exit code %d", code)
        return code

    async def _run(self, server: grpc.aio.Server, port: int, http_port: int) -> int:
        """From before readiness, when the process is alive and says so, until everything is saved."""
        settings = self._settings
        self._engine.start()
        started = time.monotonic()
        _LOG.info("backend %s gets ready (the first start on a machine compiles for half a minute)", self._backend.name)
        await asyncio.to_thread(self._backend.warm_up)
        _LOG.info("backend %s is warm after %.1f s", self._backend.name, time.monotonic() - started)
        if self._stop.is_set():
            await asyncio.to_thread(self._engine.stop)
            return 0
        restored = await self._book.restore()
        _LOG.info("%d sessions restored from %s", restored, settings.data)
        await self._health.serving()
        with _yielding_threads():
            await server.start()
        self._phase = "ready"
        if settings.ports_file is not None:
            try:
                write_ports(settings.ports_file, port, http_port)
            except OSError as error:
                raise _CannotStart(f"cannot write --ports-file {settings.ports_file}: {error}") from error
        _LOG.info("ready: gRPC on %s:%d, HTTP on %s:%d", settings.host, port, settings.host, http_port)
        skill = asyncio.ensure_future(self._tell_skill())
        await self._stop.wait()
        code = await self._drain(server)
        skill.cancel()
        return code

    def _grpc_server(self) -> tuple[grpc.aio.Server, int]:
        settings = self._settings
        calls = Calls(self._metrics, services.REQUEST_BYTES)
        exports = Exports(self._book, settings.transfer_memory_mib, settings.stream_idle_timeout_s)
        server = grpc.aio.server(interceptors=[calls], options=_options(settings.max_message_bytes))
        services.attach(
            server,
            services.SessionService(self._book, exports, settings.max_message_bytes),
            services.ForecastService(
                self._book,
                self._intake,
                self._teaching,
                self._streams,
                self._metrics,
                settings,
            ),
            self._metrics,
        )
        self._health.attach(server)
        reflection.enable_server_reflection((*services.NAMES, HEALTH_NAME, reflection.SERVICE_NAME), server)
        address = f"{settings.host}:{settings.port}"
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise _CannotStart(f"cannot listen for gRPC on {address}: is the port in use? ({error})") from error
        return server, port

    async def _drain(self, server: grpc.aio.Server) -> int:
        """Finishes and saves. Returns the exit code."""
        self._phase = "stopping"
        await self._health.leaving()
        self._intake.drain()
        self._streams.drain()
        _LOG.info("draining: %d streams open, %d events queued", len(self._streams), self._intake.pending_events)
        await _until(lambda: self._fatal or (self._intake.idle and not self._streams), self._settings.drain_timeout_s)
        halted = self._engine.halt()
        if not self._intake.idle:
            _LOG.warning("%d events are not folded in time and are dropped", self._intake.pending_events)
        await ask(halted)
        await _until(lambda: not self._streams, _CLOSE_S)
        if self._streams:
            _LOG.warning("%d streams did not take their answers in time and are cut off", len(self._streams))
        await server.stop(_CLOSE_S)
        return await self._save()

    async def _save(self) -> int:
        """Returns the exit code: 0 if every session is on disk as the events said."""
        data = self._settings.data
        try:
            written, sessions = await self._book.save()
        except OSError as error:
            _LOG.critical("the sessions could not be written to %s: %s", data, error)
            return 1
        level = logging.INFO if written == sessions else logging.CRITICAL
        _LOG.log(level, "%d of %d sessions written to %s", written, sessions, data)
        await asyncio.to_thread(self._engine.stop)
        return 0 if written == sessions and not self._fatal else 1

    def _post(self, function: Callable[[], None]) -> None:
        """Called from the engine's thread."""
        self._loop.call_soon_threadsafe(function)

    def _settle(self, batch: MicroBatch) -> None:
        try:
            self._intake.settle(batch)
        except Exception as error:  # noqa: BLE001 - the books no longer match the fold
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if not self._fatal:
            _LOG.critical("the engine failed; nothing more is learned, and the server stops", exc_info=error)
        self._fatal = True
        self._stop.set()

    async def _heartbeat(self) -> None:
        while True:
            self._beat_s = time.monotonic()
            await asyncio.sleep(_BEAT_S)

    async def _watch_loop(self) -> None:
        """Measures how late the loop runs what is due: all that holds it up shows here."""
        while True:
            due_s = self._loop.time() + _DELAY_S
            await asyncio.sleep(_DELAY_S)
            self._metrics.loop_delay.observe(self._loop.time() - due_s)

    async def _tell_skill(self) -> None:
        while True:
            self._metrics.skill.tell(await ask(self._engine.skills()))
            await asyncio.sleep(_SKILL_S)

    def _healthy(self) -> tuple[bool, str]:
        """Called from the HTTP threads."""
        if self._fatal:
            return False, "the fold failed"
        now = time.monotonic()
        for name, beat_s in (("network loop", self._beat_s), ("engine", self._engine.beat_s)):
            if now - beat_s > self._settings.heartbeat_timeout_s:
                return False, f"the {name} has been silent for {now - beat_s:.0f} s"
        return True, "alive"

    def _is_ready(self) -> tuple[bool, str]:
        """Called from the HTTP threads. The same truth as the gRPC health service."""
        return self._phase == "ready", self._phase


async def _until(done: Callable[[], bool], longest_s: float) -> None:
    """Waits for `done`, polling, as this happens a few times in a server's life."""
    deadline_s = time.monotonic() + longest_s
    while not done() and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def version() -> str:
    """The installed version; "unknown" when run from a checkout that is not installed."""
    try:
        return metadata.version("bptt-server")
    except metadata.PackageNotFoundError:
        return "unknown"


def write_ports(path: Path, grpc_port: int, http_port: int) -> None:
    """Writes the ports in use, whole or not at all."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps({"grpc": grpc_port, "http": http_port}) + "\n")
    os.replace(beside, path)


@contextlib.contextmanager
def _yielding_threads() -> Iterator[None]:
    """Threads that begin in here, which are gRPC's, wait for a core when they wake up instead of taking it from one
    that works, where the system can do that. A message wakes several of them, in turn with the network's thread, which
    would be interrupted each time."""
    changed = False
    with contextlib.suppress(AttributeError, OSError):  # where it is not there or not allowed, they are like all others
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            changed = True
    try:
        yield
    finally:
        if changed:
            try:
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            except OSError as error:
                _LOG.warning("the network's thread stays one that waits for a core: %s", error)


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Find out within a minute that a peer is gone, and let clients ask as often as every 10 s.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 15_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
