"""A scripted server that does to a client what a real one cannot be asked to do, and both faces behind one set of
names.

The fake keeps the contract (sequences, repeats, skips after an error, the explicit end) over a plain list of
events, and before each batch of a stream takes the next entry of `script`: what to do to the connection instead of
answering.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from bptt.v1 import error_pb2, forecast_pb2, forecast_pb2_grpc, session_pb2, session_pb2_grpc
from bptt_client import AsyncClient, Client, Resume

FAST = Resume(attempts=6, first_delay_s=0.01, longest_delay_s=0.05)


class Refused(Exception):
    """An answer of the error table."""

    def __init__(self, code: int, reason: str, delay_s: float | None = None, **facts: Any) -> None:
        super().__init__(reason)
        self.error = error_pb2.Error(
            code=code, reason=reason, message=reason.lower(), metadata={k: str(v) for k, v in facts.items()}
        )
        if delay_s is not None:
            self.error.retry_delay.FromMilliseconds(int(delay_s * 1000))


@dataclass
class Kept:
    """One session of the fake: events by sequence (index + 1), and what the client may see of it."""

    session: session_pb2.Session
    events: list[tuple[int | None, tuple[str, ...]]] = field(default_factory=list)


class FakeService(session_pb2_grpc.SessionServiceServicer, forecast_pb2_grpc.ForecastServiceServicer):
    def __init__(self) -> None:
        self.sessions: dict[str, Kept] = {}
        self.script: deque[str] = deque()
        self.credit_events, self.max_batch_events = 64, 16
        self.opens, self.ends, self.batches = 0, 0, list[tuple[int, int]]()
        self.unary_script: deque[Refused] = deque()
        self.asked: list[Any] = []  # requests for forks, labels and warm starts
        self.may_answer = threading.Event()  # unary batches are taken at once and answered once this is set
        self.may_answer.set()

    def refuse_next(self, code: int, reason: str, **facts: Any) -> None:
        """The next unary batch is answered with this row of the error table."""
        self.unary_script.append(Refused(code, reason, **facts))

    # Sessions.

    def CreateSession(self, request, context):
        if request.session_id not in self.sessions:
            session = session_pb2.Session(session_id=request.session_id, config=request.config, tags=request.tags)
            session.uid = f"uid-{len(self.sessions)}"
            session.config.horizon = request.config.horizon or 1
            session.limits.credit_events = 1024
            if not session.config.targets and not session.config.labels:
                session.config.targets.extend(request.config.features)
            self.sessions[request.session_id] = Kept(session)
        return session_pb2.CreateSessionResponse(session=self._view(request.session_id), created=True)

    def GetSession(self, request, context):
        if request.session_id not in self.sessions:
            refuse(context, Refused(code_pb2.NOT_FOUND, "SESSION_NOT_FOUND", session_id=request.session_id))
        return session_pb2.GetSessionResponse(session=self._view(request.session_id))

    def ListSessions(self, request, context):
        names = sorted(n for n in self.sessions if n > request.page_token)
        page = [self._view(name) for name in names[:2]]
        return session_pb2.ListSessionsResponse(sessions=page, next_page_token=names[1] if len(names) > 2 else "")

    def ForkSession(self, request, context):
        self.asked.append(request)
        if self.unary_script:
            refuse(context, self.unary_script.popleft())
        original = self.sessions[request.session_id]
        copy = session_pb2.Session()
        copy.CopyFrom(original.session)
        copy.session_id, copy.uid = request.fork_id, f"uid-{len(self.sessions)}"
        self.sessions[request.fork_id] = Kept(copy, list(original.events))
        return session_pb2.ForkSessionResponse(session=self._view(request.fork_id))

    def _view(self, session_id: str) -> session_pb2.Session:
        kept = self.sessions[session_id]
        kept.session.last_sequence = len(kept.events)
        return kept.session

    # Events.

    def Ingest(self, request, context):
        try:
            if self.unary_script:
                raise self.unary_script.popleft()
            kept = self.sessions[request.session_id]
            result = self._apply(kept, request.batch, request.reply_mode)
            self.may_answer.wait(20)
            return forecast_pb2.IngestResponse(session_uid=kept.session.uid, result=result)
        except Refused as refused:
            refuse(context, refused)

    def Label(self, request, context):
        return self._unary(context, request, forecast_pb2.LabelResponse(accepted=len(request.sequences)))

    def WarmStart(self, request, context):
        return self._unary(context, request, forecast_pb2.WarmStartResponse(loss=[0.5], applied=1))

    def _unary(self, context, request, answer):
        self.asked.append(request)
        if self.unary_script:
            refuse(context, self.unary_script.popleft())
        return answer

    def Watch(self, request, context):
        yield forecast_pb2.WatchResponse(session=self._view(request.session_id))
        over = threading.Event()
        if context.add_callback(over.set):
            over.wait(20)

    def Stream(self, requests, context):
        self.opens += 1
        kept, mode, failed = None, 0, False
        for request in requests:
            match request.WhichOneof("request"):
                case "open":
                    name, mode = request.open.session_id, request.open.reply_mode
                    if name not in self.sessions:
                        refused = Refused(code_pb2.NOT_FOUND, "SESSION_NOT_FOUND", session_id=name)
                        yield self._error(Kept(session_pb2.Session()), refused, 0, closed=True)
                        continue
                    kept = self.sessions[name]
                    if request.open.session_uid not in ("", kept.session.uid):
                        refused = Refused(code_pb2.FAILED_PRECONDITION, "UID_MISMATCH", session_uid=kept.session.uid)
                        yield self._error(kept, refused, 0, closed=True)
                        continue
                    yield forecast_pb2.StreamResponse(
                        opened=forecast_pb2.StreamOpened(
                            channel=request.open.channel,
                            session_uid=kept.session.uid,
                            last_sequence=len(kept.events),
                            credit_events=self.credit_events,
                            max_batch_events=self.max_batch_events,
                        )
                    )
                case "events":
                    batch = request.events.batch
                    trick = self.script.popleft() if self.script else "answer"
                    try:
                        if failed and batch.first_sequence != len(kept.events) + 1:
                            raise Refused(code_pb2.ABORTED, "SKIPPED")
                        failed = False
                        result = self._play(trick, kept, batch, mode, context)
                    except Refused as refused:
                        failed = True
                        closed = refused.error.reason == "SUPERSEDED"
                        yield self._error(kept, refused, batch.first_sequence * (not closed), closed)
                        continue
                    if trick == "end of stream":
                        return
                    if trick == "drain":
                        draining = forecast_pb2.StreamDraining(
                            resume_points=[forecast_pb2.ResumePoint(channel=1, last_sequence=len(kept.events))]
                        )
                        yield forecast_pb2.StreamResponse(result=forecast_pb2.StreamResult(channel=1, result=result))
                        yield forecast_pb2.StreamResponse(draining=draining)
                        context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
                    yield forecast_pb2.StreamResponse(result=forecast_pb2.StreamResult(channel=1, result=result))
                case "end":
                    self.ends += 1
                    yield forecast_pb2.StreamResponse(ended=forecast_pb2.StreamEnded())
                    return

    def _play(self, trick, kept, batch, mode, context):
        """Carries out one entry of the script; whatever does not end the connection is answered."""
        if trick == "break before":
            context.abort(grpc.StatusCode.UNAVAILABLE, "broken before the batch was taken")
        if trick == "overload":
            raise Refused(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", delay_s=0.01)
        if trick == "supersede":
            raise Refused(code_pb2.ABORTED, "SUPERSEDED")
        if trick == "refuse":
            raise Refused(code_pb2.INVALID_ARGUMENT, "INVALID_FIELD", field="values[0][0]", value="inf", allowed="NaN")
        if trick == "vanish":
            del self.sessions[kept.session.session_id]
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarted without the session")
        if trick == "recreate":
            kept.session.uid += "-again"
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone and made anew")
        result = self._apply(kept, batch, mode)
        if trick == "break after":
            context.abort(grpc.StatusCode.UNAVAILABLE, "broken after the batch was taken")
        if trick == "forget":
            del kept.events[len(kept.events) // 4 :]
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarted from an old state")
        return result

    def _apply(self, kept: Kept, batch: forecast_pb2.EventBatch, mode: int) -> forecast_pb2.BatchResult:
        width = len(kept.session.config.features)
        times = list(batch.timestamps_ns) or [None] * (len(batch.values) // width)
        rows = [tuple(map(repr, batch.values[i * width : (i + 1) * width])) for i in range(len(times))]
        self.batches.append((batch.first_sequence, len(rows)))
        if batch.first_sequence > len(kept.events) + 1:
            raise Refused(code_pb2.OUT_OF_RANGE, "SEQUENCE_GAP", last_sequence=len(kept.events))
        duplicates = 0
        for sequence, event in enumerate(zip(times, rows, strict=True), batch.first_sequence):
            if sequence > len(kept.events):
                kept.events.append(event)
            elif kept.events[sequence - 1] != event:
                raise Refused(code_pb2.ABORTED, "SEQUENCE_CONFLICT", last_sequence=len(kept.events))
            else:
                duplicates += 1
        result = forecast_pb2.BatchResult(
            first_sequence=batch.first_sequence, last_sequence=len(kept.events), duplicates=duplicates
        )
        first, last = batch.first_sequence + duplicates, batch.first_sequence + len(rows) - 1
        if first > last == len(kept.events) or mode == forecast_pb2.REPLY_MODE_LAST:
            first = last
        if mode != forecast_pb2.REPLY_MODE_NONE and first <= last:
            result.outcomes.CopyFrom(outcomes(kept.session.config, first, last - first + 1))
        return result

    def _error(self, kept: Kept, refused: Refused, first_sequence: int, closed: bool):
        return forecast_pb2.StreamResponse(
            error=forecast_pb2.StreamError(
                channel=1,
                error=refused.error,
                last_sequence=len(kept.events),
                first_sequence=first_sequence,
                closed=closed,
            )
        )


def outcomes(config: Any, first: int, count: int) -> forecast_pb2.Outcomes:
    """Outcomes whose numbers say where they belong: mean = 1000 · sequence + 10 · horizon + target, all from their
    first.
    """
    horizon, targets = config.horizon, len(config.targets)
    mean = [1000.0 * (first + i) + 10.0 * h + o for i in range(count) for h in range(horizon) for o in range(targets)]
    return forecast_pb2.Outcomes(
        first_sequence=first,
        count=count,
        horizon=horizon,
        targets=targets,
        mean=mean,
        lower=[value - 1.0 for value in mean],
        upper=[value + 1.0 for value in mean],
        anomaly_score=[0.5] * count,
        update_results=[1 if (first + i) % 2 else 2 for i in range(count)],
        loss=[0.25] * count,
        gradient_norm=[3.0] * count,
        clip_scale=[1.0] * count,
        saturation=[0.125] * count,
        update_ratio=[0.5] * count,
        target_anomaly_score=[0.5] * (count * targets),
        anomaly_likelihood=[0.25] * count,
        sensor_states=[1] * (count * targets),
        drift=[False] * count,
        warming_up=[False] * count,
    )


def refuse(context: grpc.ServicerContext, refused: Refused) -> None:
    """Ends a unary call with `google.rpc` details."""
    error, details = refused.error, [any_pb2.Any(), any_pb2.Any()]
    details[0].Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain="bptt", metadata=error.metadata))
    details[1].Pack(error_details_pb2.RetryInfo(retry_delay=error.retry_delay))
    kept = details if error.HasField("retry_delay") else details[:1]
    context.abort_with_status(
        rpc_status.to_status(status_pb2.Status(code=error.code, message=error.message, details=kept))
    )


class Blocking:
    """The asynchronous face under the blocking names: every awaitable is run to its end on a loop of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, inner: Any) -> None:
        self._loop, self._inner = loop, inner

    def _wrap(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            value = self._loop.run_until_complete(value)
        return Blocking(self._loop, value) if type(value).__module__.startswith("bptt_client.aio") else value

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        async def inside(*args: Any, **kwargs: Any) -> Any:
            return value(*args, **kwargs)  # gRPC wants a running loop wherever a call begins

        def call(*args: Any, **kwargs: Any) -> Any:
            made = self._loop.run_until_complete(inside(*args, **kwargs))
            return self._iterate(made) if inspect.isasyncgen(made) else self._wrap(made)

        return call

    def _iterate(self, iterator: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._loop.run_until_complete(anext(iterator))
            except StopAsyncIteration:
                return

    def __iter__(self) -> Iterator[Any]:
        return self._iterate(aiter(self._inner))

    def __enter__(self) -> Any:
        return self._wrap(self._inner.__aenter__())

    def __exit__(self, *facts: Any) -> None:
        self._loop.run_until_complete(self._inner.__aexit__(*facts))


async def settled() -> None:
    """Lets gRPC's own tasks of cancelled calls end."""
    for _ in range(200):
        if len(asyncio.all_tasks()) == 1:
            return
        await asyncio.sleep(0.01)


@pytest.fixture
def fake() -> Iterator[Any]:
    """The scripted server; `.target` is its address."""
    service = FakeService()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=(("grpc.so_reuseport", 0),))
    session_pb2_grpc.add_SessionServiceServicer_to_server(service, server)
    forecast_pb2_grpc.add_ForecastServiceServicer_to_server(service, server)
    service.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    server.stop(None).wait()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes a client of either face for an address; both have the blocking names."""
    loop = asyncio.new_event_loop()
    made: list[Any] = []

    def make(target: str, resume: Resume = FAST, timeout_s: float = 20.0) -> Any:
        if request.param == "sync":
            made.append(Client(target, timeout_s=timeout_s, resume=resume))
        else:

            async def connected() -> AsyncClient:
                return AsyncClient(target, timeout_s=timeout_s, resume=resume)

            made.append(Blocking(loop, loop.run_until_complete(connected())))
        return made[-1]

    yield make
    for client in made:
        client.close()
    loop.run_until_complete(settled())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert not asyncio.all_tasks(loop), "the client left tasks behind"
    loop.close()
    assert not [t for t in threading.enumerate() if t.name == "bptt-stream"], "the client left threads behind"
