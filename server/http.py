"""/metrics, /healthz and /readyz, in threads of their own so that scraping never stalls a reply.

It is told how to answer by functions; it knows nothing of what they look at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any, Final

_MAX_CONNECTIONS: Final = 32
_TIMEOUT_S: Final = 10.0
_PLAIN: Final = "text/plain; charset=utf-8"
_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"

Answer = Callable[[], tuple[bool, str]]


class HttpServer:
    """Serves from `start` to `stop`. `healthy` and `ready` give yes or no and a sentence."""

    def __init__(self, host: str, port: int, page: Callable[[], bytes], healthy: Answer, ready: Answer) -> None:
        """Binds; raises OSError."""

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._reply(200, page(), _METRICS)
                elif path in ("/healthz", "/readyz"):
                    good, text = healthy() if path == "/healthz" else ready()
                    self._reply(200 if good else 503, f"{text}\n".encode(), _PLAIN)
                else:
                    self._reply(404, b"there are /metrics, /healthz and /readyz\n", _PLAIN)

            def do_HEAD(self) -> None:
                self.do_GET()

            def _reply(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
                """Requests are not worth a line."""

        self._server = _Bounded((host, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stops answering and closes the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Bounded(ThreadingHTTPServer):
    """Closes connections beyond a limit at once."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A scraper that went away is not an error of ours."""
