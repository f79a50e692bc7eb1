"""Raw stubs with short names, and refusals unpacked, for the tests of this folder."""

from __future__ import annotations

import queue
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from bptt.v1 import config_pb2, forecast_pb2, forecast_pb2_grpc, session_pb2, session_pb2_grpc

TIMEOUT_S = 60.0
DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.QuotaFailure,
    error_details_pb2.ResourceInfo,
    error_details_pb2.RetryInfo,
)


@dataclass(frozen=True)
class Refused:
    """What a failed call said: its code, message, the facts of ErrorInfo, and the names of all details."""

    code: str
    message: str
    reason: str
    facts: dict[str, str]
    details: frozenset[str]


class Stream:
    """One bidirectional stream; `send` never blocks, `next` waits for the next answer."""

    def __init__(self, stub: Any) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.call = stub.Stream(iter(self._requests.get, None), timeout=TIMEOUT_S)

    def open(self, session_id: str, channel: int = 1, uid: str = "", reply: int = 2) -> None:
        opened = forecast_pb2.StreamOpen(channel=channel, session_id=session_id, session_uid=uid, reply_mode=reply)
        self._requests.put(forecast_pb2.StreamRequest(open=opened))

    def send(self, first: int, values: Any, channel: int = 1, **more: Any) -> None:
        events = forecast_pb2.StreamEvents(channel=channel, batch=batch(first, values, **more))
        self._requests.put(forecast_pb2.StreamRequest(events=events))

    def raw(self, request: forecast_pb2.StreamRequest) -> None:
        self._requests.put(request)

    def end(self) -> None:
        self._requests.put(forecast_pb2.StreamRequest(end=forecast_pb2.StreamEnd()))

    def half_close(self) -> None:
        self._requests.put(None)

    def next(self) -> Any:
        """The next answer's only field."""
        response = next(self.call)
        return getattr(response, response.WhichOneof("response"))

    def rest(self) -> tuple[list[Any], str]:
        """All further answers and the code the stream ended with."""
        answers = []
        try:
            while True:
                answers.append(self.next())
        except (StopIteration, grpc.RpcError):
            self.half_close()
            return answers, self.call.code().name


class Rpc:
    """Stubs of one server."""

    def __init__(self, target: str, max_bytes: int = 64 * 2**20) -> None:
        options = [("grpc.max_receive_message_length", max_bytes), ("grpc.max_send_message_length", max_bytes)]
        self.channel = grpc.insecure_channel(target, options=options)
        self.sessions = session_pb2_grpc.SessionServiceStub(self.channel)
        self.forecasts = forecast_pb2_grpc.ForecastServiceStub(self.channel)

    def create(self, session_id: str, features: Sequence[str] = ("x", "y"), **more: Any) -> Any:
        """A session with a single small learner, so that it is fast, unless `learners` are given. Keywords: fields of
        CreateSessionRequest, else of LearnerConfig, else of SessionConfig."""
        learner = {
            name: more.pop(name) for name in [*more] if name in config_pb2.LearnerConfig.DESCRIPTOR.fields_by_name
        }
        outer = {name: more.pop(name) for name in [*more] if name in ("tags", "learning", "limits")}
        config = config_pb2.SessionConfig(features=features, **more)
        if not config.learners:
            config.learner.CopyFrom(config_pb2.LearnerConfig(**{"hidden": 4, "window": 8, **learner}))
        request = session_pb2.CreateSessionRequest(session_id=session_id, config=config, **outer)
        return self.sessions.CreateSession(request, timeout=TIMEOUT_S)

    def get(self, session_id: str) -> Any:
        request = session_pb2.GetSessionRequest(session_id=session_id)
        return self.sessions.GetSession(request, timeout=TIMEOUT_S).session

    def fork(
        self, session_id: str, fork_id: str, uid: str = "", mask: Sequence[str] | None = None, **changes: Any
    ) -> Any:
        """Keywords: fields of SessionChanges, all of them in the mask unless that is given."""
        return self.sessions.ForkSession(
            self.fork_request(session_id, fork_id, uid, mask, **changes), timeout=TIMEOUT_S
        ).session

    @staticmethod
    def fork_request(
        session_id: str, fork_id: str, uid: str = "", mask: Sequence[str] | None = None, **changes: Any
    ) -> Any:
        request = session_pb2.ForkSessionRequest(
            session_id=session_id, session_uid=uid, fork_id=fork_id, changes=session_pb2.SessionChanges(**changes)
        )
        request.fork_mask.paths.extend([*changes] if mask is None else mask)
        return request

    @staticmethod
    def plain(session: Any) -> Any:
        """A session without what is its own: id, uid and when it was made."""
        copy = session_pb2.Session()
        copy.CopyFrom(session)
        for name in ("session_id", "uid", "create_time"):
            copy.ClearField(name)
        return copy

    def delete(self, session_id: str, uid: str = "") -> Any:
        request = session_pb2.DeleteSessionRequest(session_id=session_id, session_uid=uid)
        return self.sessions.DeleteSession(request, timeout=TIMEOUT_S)

    def ingest(self, session_id: str, first: int, values: Any, reply: int = 2, **more: Any) -> Any:
        request = forecast_pb2.IngestRequest(
            session_id=session_id, batch=batch(first, values, **more), reply_mode=reply
        )
        return self.forecasts.Ingest(request, timeout=TIMEOUT_S).result

    def label(self, session_id: str, sequences: Sequence[int], labels: Any, uid: str = "") -> Any:
        flat = np.asarray(labels, float).ravel()
        request = forecast_pb2.LabelRequest(session_id=session_id, session_uid=uid, sequences=sequences, labels=flat)
        return self.forecasts.Label(request, timeout=TIMEOUT_S)

    def warm_start(self, session_id: str, values: Any, uid: str = "", passes: int = 3, **more: Any) -> Any:
        """Keywords: `updates`, else of `batch`."""
        updates = more.pop("updates", 0)
        request = forecast_pb2.WarmStartRequest(
            session_id=session_id, session_uid=uid, passes=passes, updates=updates, history=batch(0, values, **more)
        )
        return self.forecasts.WarmStart(request, timeout=TIMEOUT_S)

    def forecast(self, session_id: str, **more: Any) -> Any:
        return self.forecasts.Forecast(forecast_pb2.ForecastRequest(session_id=session_id, **more), timeout=TIMEOUT_S)

    def stream(self) -> Stream:
        return Stream(self.forecasts)


def batch(
    first: int,
    values: Any,
    times: Sequence[int] = (),
    uid: str = "",
    labels: Any = (),
    starts: Sequence[int] = (),
) -> forecast_pb2.EventBatch:
    return forecast_pb2.EventBatch(
        session_uid=uid,
        first_sequence=first,
        timestamps_ns=times,
        values=np.asarray(values, float).ravel(),
        labels=np.asarray(labels, float).ravel(),
        episode_starts=starts,
    )


@pytest.fixture
def connect() -> Iterator[Callable[..., Rpc]]:
    """`connect(target)`: stubs, closed at the end of the test."""
    opened: list[Rpc] = []

    def make(target: str, **more: Any) -> Rpc:
        opened.append(Rpc(target, **more))
        return opened[-1]

    yield make
    for rpc in opened:
        rpc.channel.close()


@pytest.fixture
def rpc(server: Any, connect: Callable[..., Rpc]) -> Rpc:
    """Stubs of the shared server."""
    return connect(server.target)


@pytest.fixture
def refused() -> Callable[[Callable[[], Any]], Refused]:
    """`refused(call)`: what the call was refused with; fails if it was not."""

    def run(call: Callable[[], Any]) -> Refused:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        error: Any = caught.value
        status = rpc_status.from_call(error)
        found: dict[str, Any] = {}
        for packed in [] if status is None else status.details:
            for kind in DETAILS:
                detail = kind()
                if packed.Unpack(detail):
                    found[kind.__name__] = detail
        info = found.get("ErrorInfo", error_details_pb2.ErrorInfo())
        return Refused(error.code().name, error.details(), info.reason, dict(info.metadata), frozenset(found))

    return run


@pytest.fixture
def noise() -> Callable[..., Any]:
    """`noise(n)`: n events of two features, the same every time for the same n and seed."""
    return lambda n, seed=0, d=2: np.random.default_rng(seed).normal(size=(n, d))


@pytest.fixture
def fetch() -> Any:
    """`fetch(url)`: status and text of an HTTP answer."""

    def get(url: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return get


class Gate:
    """Holds a server's fold back until `open`: start the server with `prelude`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.prelude = f"""
import pathlib, time, bptt_core
gate, step = pathlib.Path({str(path)!r}), bptt_core.Fold.step
def held(self, work):
    while not gate.exists():
        time.sleep(0.005)
    return step(self, work)
bptt_core.Fold.step = held
"""

    def open(self) -> None:
        self._path.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A gate before the fold, closed."""
    return Gate(tmp_path / "gate")


@pytest.fixture
def wait_for(fetch: Any) -> Callable[..., None]:
    """`wait_for(server, line)`: until the metrics page has that line."""

    def wait(server: Any, line: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while line not in fetch(server.http_url + "/metrics")[1].splitlines():
            assert time.monotonic() < deadline, line
            time.sleep(0.005)

    return wait
