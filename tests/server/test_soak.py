"""Eight producers at once: nothing is lost, mixed up or kept, and each gets what it would get alone."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

PRODUCERS, EVENTS, ROUNDS = 8, 60, 2
EVERY = 1
SHAPES = ({"hidden": 4}, {"hidden": 3, "cell": 2, "horizon": 3}, {"hidden": 5, "cell": 1})


def produce(rpc: Any, name: str, number: int, events: Any) -> bytes:
    """A session from its making to its last forecast: single events on a stream, then batches between them."""
    rpc.create(name, **SHAPES[number % len(SHAPES)])
    stream = rpc.stream()
    stream.open(name, reply=EVERY)
    stream.next()
    half = len(events) // 2
    for at in range(half):
        stream.send(at + 1, events[at : at + 1])
    for at in range(half):
        assert stream.next().result.last_sequence == at + 1
    for at in range(half, len(events), 10):
        assert rpc.ingest(name, at + 1, events[at : at + 10]).last_sequence == at + 10
    stream.end()
    assert stream.rest()[1] == "OK"
    return last_outcome(rpc, name)


def last_outcome(rpc: Any, name: str) -> bytes:
    outcome: bytes = rpc.forecast(name).outcome.SerializeToString()
    return outcome


def resident_mib(pid: int) -> float:
    return next(
        int(line.split()[1]) / 1024
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
def test_eight_producers_at_once_get_what_each_alone_would_and_memory_stays(
    start_server: Any, connect: Any, noise: Any
) -> None:
    server = start_server()
    rpcs = [connect(server.target) for _ in range(PRODUCERS)]
    found: dict[tuple[int, int], bytes] = {}

    def work(number: int) -> None:
        for turn in range(ROUNDS):
            name = f"{number}/{turn}"
            found[number, turn] = produce(rpcs[number], name, number, noise(EVENTS, seed=number))
            rpcs[number].delete(name)

    memory = []
    for _ in range(2):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(PRODUCERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in threads)
        memory.append(resident_mib(server.process.pid))
    assert len(found) == PRODUCERS * ROUNDS
    for number in range(PRODUCERS):
        rpcs[0].create(f"alone/{number}", **SHAPES[number % len(SHAPES)])
        rpcs[0].ingest(f"alone/{number}", 1, noise(EVENTS, seed=number))
        alone = last_outcome(rpcs[0], f"alone/{number}")
        assert {found[number, turn] for turn in range(ROUNDS)} == {alone}
    assert memory[1] - memory[0] < 16
    assert server.stop() == 0
    assert "Traceback" not in server.log()
