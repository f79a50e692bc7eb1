"""The service over loopback beside a bare gRPC echo of the same messages: `python benchmarks/service.py`.

Server, echo and load generators are processes of their own, all of them on the same two cores. The load generator sends
prepared bytes and looks at nothing, so that what is measured is the other side; the echo is the least that grpc.aio can
do, reading bytes and sending back others of the size that the service answers with. Rounds are interleaved, medians
count, and a ratio is the median of the ratios of neighbouring rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from findings import lines

from bptt.v1 import config_pb2, forecast_pb2, session_pb2, session_pb2_grpc

STREAM: Final = "/bptt.v1.ForecastService/Stream"
STREAMS: Final = 16
WINDOW: Final = 8  # messages in flight per stream
LEARNER: Final = {"hidden": 16}
END: Final = forecast_pb2.StreamRequest(end=forecast_pb2.StreamEnd()).SerializeToString()
LONE_PAUSE_S: Final = 0.003
EVERY: Final = 1


# ---- what is measured against ----


async def echo(port_file: str) -> None:
    """Answers every message with as many bytes as the session id of the first one says: "echo/128"."""
    opened = forecast_pb2.StreamResponse(opened=forecast_pb2.StreamOpened(channel=1)).SerializeToString()

    async def answer(requests: object, context: Any) -> None:
        first = forecast_pb2.StreamRequest.FromString(await context.read())
        reply = bytes(int(first.open.session_id.partition("/")[2]))
        await context.write(opened)
        while (message := await context.read()) is not grpc.aio.EOF and message != END:
            await context.write(reply)
        await context.write(b"")

    handler = grpc.stream_stream_rpc_method_handler(answer)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("bptt.v1.ForecastService", {"Stream": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _write(port_file, json.dumps({"grpc": port}))
    await server.wait_for_termination()


def engine(backend: str, sessions: int, seconds: float) -> float:
    """Events per second of the fold alone: sessions together, 64 events of each in a call."""
    from bptt_core import Events, Fold, LearnerConfig, SessionConfig, select_backend

    chosen = select_backend(backend, len(os.sched_getaffinity(0)))
    chosen.warm_up()
    fold = Fold(chosen)
    config = SessionConfig(("x",), learner=LearnerConfig(**LEARNER))  # type: ignore[arg-type]
    slots = [fold.create(config) for _ in range(sessions)]
    work = [(slot, Events(np.random.default_rng(0).normal(size=(64, 1)))) for slot in slots]
    for _ in range(3):
        fold.step(work)
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        fold.step(work)
        calls += 1
    return calls * sessions * 64 / (time.perf_counter() - started)


# ---- the load ----


@dataclass
class Channels:
    """Streams to one address, a session each, and how far these have come."""

    channel: grpc.aio.Channel
    names: list[str]
    sent: list[int]


class Load:
    """A load generator: a process that does what it is told, line by line."""

    def __init__(self) -> None:
        self._opened: dict[str, Channels] = {}

    async def setup(self, key: str, target: str, names: list[str], create: bool) -> None:
        """Makes the sessions of what will be called `key`."""
        channel = grpc.aio.insecure_channel(target)
        if create:
            stub = session_pb2_grpc.SessionServiceStub(channel)
            learner = config_pb2.LearnerConfig(**LEARNER)  # type: ignore[arg-type]
            config = config_pb2.SessionConfig(features=["x"], learner=learner)
            for name in names:
                await stub.CreateSession(session_pb2.CreateSessionRequest(session_id=name, config=config))
        self._opened[key] = Channels(channel, names, [0] * len(names))

    async def pump(self, key: str, size: int, count: int, rate: float) -> dict[str, float]:
        """Sends `count` messages of `size` events on every stream, as fast as they are answered or at `rate` messages
        per second over all. Events per second, and bytes of the last reply."""
        opened = self._opened[key]
        batches = [_messages(count, size, sent) for sent in opened.sent]
        opened.sent = [sent + count * size for sent in opened.sent]
        calls = [await _open(opened.channel, name) for name in opened.names]
        gap_s = len(calls) / rate if rate else 0.0
        started = time.perf_counter()
        replies = await asyncio.gather(
            *(
                _pump(call, messages, gap_s, gap_s * k / len(calls))
                for k, (call, messages) in enumerate(zip(calls, batches, strict=True))
            )
        )
        seconds = time.perf_counter() - started
        for call in calls:
            await _close(call)
        return {"events_per_s": len(calls) * count * size / seconds, "reply_bytes": len(replies[0])}

    async def lone(self, key: str, count: int) -> list[float]:
        """Seconds that each of `count` single events took, with a pause between them."""
        opened = self._opened[key]
        messages = _messages(count, 1, opened.sent[0])
        opened.sent[0] += count
        call = await _open(opened.channel, opened.names[0])
        times = []
        for message in messages:
            started = time.perf_counter()
            await call.write(message)
            await call.read()
            times.append(time.perf_counter() - started)
            await asyncio.sleep(LONE_PAUSE_S)
        await _close(call)
        return times

    async def serve(self) -> None:
        """Takes commands, a JSON list [name, arguments] per line, and answers each with a line."""
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            name, arguments = json.loads(line)
            result = await getattr(self, name)(**arguments)
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()


def _messages(count: int, size: int, sent: int) -> list[bytes]:
    """Prepared batches of a stream that has sent so many events before."""
    values = np.random.default_rng(sent).normal(size=(count, size))
    return [
        forecast_pb2.StreamRequest(
            events=forecast_pb2.StreamEvents(
                channel=1, batch=forecast_pb2.EventBatch(first_sequence=sent + 1 + k * size, values=values[k])
            )
        ).SerializeToString()
        for k in range(count)
    ]


async def _open(channel: grpc.aio.Channel, name: str) -> Any:
    call: Any = channel.stream_stream(STREAM)()
    opened = forecast_pb2.StreamOpen(channel=1, session_id=name, reply_mode=EVERY)  # type: ignore[arg-type]
    await call.write(forecast_pb2.StreamRequest(open=opened).SerializeToString())
    _check(await call.read(), "opened")
    return call


async def _pump(call: Any, messages: list[bytes], gap_s: float, delay_s: float) -> bytes:
    """Keeps WINDOW messages in flight, no two sent within `gap_s`, the first after a delay. The last reply."""
    room, reply = asyncio.Semaphore(WINDOW), b""

    async def read() -> None:
        nonlocal reply
        for _ in messages:
            reply = await call.read()
            room.release()

    reader, due = asyncio.ensure_future(read()), time.perf_counter() + delay_s
    await asyncio.sleep(delay_s)
    for message in messages:
        await room.acquire()
        await call.write(message)
        if gap_s:
            due += gap_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await reader
    return reply


async def _close(call: Any) -> None:
    await call.write(END)
    await call.read()
    await call.done_writing()


def _check(data: bytes, kind: str) -> None:
    answer = forecast_pb2.StreamResponse.FromString(data)
    if answer.WhichOneof("response") != kind:
        raise SystemExit(f"the server answered {answer}")


# ---- the measurement ----


class Process:
    """A load generator, told what to do from here."""

    def __init__(self, stack: ExitStack) -> None:
        command = [sys.executable, __file__, "--role", "load"]
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self._process.kill)

    def tell(self, command: str, **arguments: Any) -> None:
        """Begins something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """Waits for what came of it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a load generator ended")
        return json.loads(line)

    def do(self, command: str, **arguments: Any) -> Any:
        """Both."""
        self.tell(command, **arguments)
        return self.result()


@contextmanager
def running(*command: str) -> Iterator[str]:
    """A process that writes its port into the file named last; yields its address."""
    with tempfile.TemporaryDirectory() as folder:
        ports = Path(folder, "ports.json")
        flags = [part.format(folder=folder, ports=ports) for part in command]
        process = subprocess.Popen([sys.executable, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not ports.exists():
                if process.poll() is not None:
                    raise SystemExit(f"ended with code {process.returncode}: {' '.join(flags)}")
                time.sleep(0.05)
            yield f"127.0.0.1:{json.loads(ports.read_text())['grpc']}"
        finally:
            process.terminate()
            process.wait()


def _write(path: str, text: str) -> None:
    beside = Path(f"{path}.tmp")
    beside.write_text(text)
    beside.rename(path)


def measure(backend: str = "auto", rounds: int = 5, seconds: float = 2.0) -> list[dict[str, Any]]:
    """Rows of the table: what, its value, and where there is one the goal."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:2])  # everything begun from here inherits it
    try:
        with ExitStack() as stack:
            flags = ["-m", "server", "--backend", backend, "--port", "0", "--http-port", "0", "--data", "{folder}/data"]
            service = stack.enter_context(running(*flags, "--ports-file", "{ports}"))
            bare = stack.enter_context(running(__file__, "--role", "echo", "--ports-file", "{ports}"))
            load, background = Process(stack), Process(stack)
            single = _against_echo(load, service, bare, rounds, seconds)
            return [
                *single,
                *_against_engine(load, service, backend, rounds, seconds),
                *_latency(load, background, service, single[0]["value"], rounds, seconds),
            ]
    finally:
        os.sched_setaffinity(0, cores)


def _against_echo(load: Process, service: str, bare: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    load.do("setup", key="one", target=service, names=[f"one/{k}" for k in range(STREAMS)], create=True)
    first = load.do("pump", key="one", size=1, count=200, rate=0)
    load.do("setup", key="echo", target=bare, names=[f"echo/{first['reply_bytes']}"] * STREAMS, create=False)
    load.do("pump", key="echo", size=1, count=200, rate=0)
    found: dict[str, list[float]] = {"one": [], "echo": []}
    rate = first["events_per_s"]
    for _ in range(rounds):
        for key, rates in found.items():
            count = max(50, int(rate * seconds / STREAMS))
            rates.append(load.do("pump", key=key, size=1, count=count, rate=0)["events_per_s"])
    ratio = statistics.median(ours / echoed for ours, echoed in zip(found["one"], found["echo"], strict=True))
    what = f"one event per message, {STREAMS} streams"
    return [
        {"what": f"{what}: service", "value": statistics.median(found["one"]), "unit": "events/s"},
        {"what": f"{what}: bare echo", "value": statistics.median(found["echo"]), "unit": "events/s"},
        {"what": f"{what}: service ÷ bare echo", "value": ratio, "unit": "", "goal": "≥ 0.70"},
    ]


def _against_engine(load: Process, service: str, backend: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for streams in (1, STREAMS):
        key, what = f"many{streams}", f"64 events per message, {streams} stream{'s' * (streams > 1)}"
        load.do("setup", key=key, target=service, names=[f"{key}/{k}" for k in range(streams)], create=True)
        rate = load.do("pump", key=key, size=64, count=20, rate=0)["events_per_s"]
        ours, alone = [], []
        for _ in range(rounds):
            count = max(10, int(rate * seconds / 64 / streams))
            ours.append(load.do("pump", key=key, size=64, count=count, rate=0)["events_per_s"])
            command = [sys.executable, __file__, "--role", "engine", "--backend", backend]
            arguments = ["--streams", str(streams), "--seconds", str(seconds)]
            alone.append(float(subprocess.run([*command, *arguments], capture_output=True, check=True).stdout))
        ratio = statistics.median(one / other for one, other in zip(ours, alone, strict=True))
        rows += [
            {"what": f"{what}: service", "value": statistics.median(ours), "unit": "events/s"},
            {"what": f"{what}: engine alone", "value": statistics.median(alone), "unit": "events/s"},
            {"what": f"{what}: service ÷ engine alone", "value": ratio, "unit": "", "goal": "≥ 0.80"},
        ]
    return rows


def _latency(
    load: Process, background: Process, service: str, capacity: float, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    load.do("setup", key="lone", target=service, names=["lone"], create=True)
    background.do("setup", key="back", target=service, names=[f"back/{k}" for k in range(STREAMS)], create=True)
    load.do("lone", key="lone", count=50)
    count = max(50, int(seconds / (2 * LONE_PAUSE_S)))
    times: dict[str, list[float]] = {"alone": [], "at half load": []}
    for _ in range(rounds):
        times["alone"] += load.do("lone", key="lone", count=count)
        messages = int(capacity / 2 * (seconds * 4 + 1) / STREAMS)
        background.tell("pump", key="back", size=1, count=messages, rate=capacity / 2)
        time.sleep(0.5)
        times["at half load"] += load.do("lone", key="lone", count=count)
        background.result()
    rows: list[dict[str, Any]] = []
    for how, found in times.items():
        p50, p99 = np.percentile(np.array(found) * 1e3, [50, 99])
        rows += [
            {"what": f"lone stream {how}: p50", "value": p50, "unit": "ms"},
            {"what": f"lone stream {how}: p99", "value": p99, "unit": "ms"},
        ]
    rows.append({"what": "lone stream at half load: p99 ÷ p50", "value": p99 / p50, "unit": "", "goal": "≤ 4"})
    return rows


def main() -> None:
    """The command line; with --role one of the processes that the measurement consists of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="auto", help="where sessions compute (default auto)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one row in one round, about (default 2)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--role", choices=("echo", "load", "engine"), help=argparse.SUPPRESS)
    parser.add_argument("--ports-file", help=argparse.SUPPRESS)
    parser.add_argument("--streams", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "echo":
        asyncio.run(echo(args.ports_file))
    elif args.role == "load":
        asyncio.run(Load().serve())
    elif args.role == "engine":
        print(engine(args.backend, args.streams, args.seconds))
    else:
        rows = measure(args.backend, args.rounds, args.seconds)
        print("\n".join(lines(rows)))
        if args.json:
            args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
