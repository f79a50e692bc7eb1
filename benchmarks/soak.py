"""Many producers at once for a while: `python benchmarks/soak.py --seconds 60`.

Eight threads, each with a client and sessions of its own of several shapes, send single events and batches, ask and
fork and delete, all at the same time. At the end nothing may have been aborted or lost, the server must stop cleanly,
and its memory must not have grown since the first quarter.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from bptt_client import Client

PRODUCERS: Final = 8
SHAPES: Final[tuple[dict[str, Any], ...]] = (
    {"learner": {"hidden": 16}},
    {"learner": {"hidden": 32, "cell": "gru"}, "horizon": 4},
    {"learner": {"hidden": 8, "cell": "tanh"}, "horizon": 2},
    {},
)


def produce(address: str, number: int, until_s: float, counts: list[int], failures: list[BaseException]) -> None:
    """One producer: rounds of events on a session that is then deleted, until the time is over."""
    rng, turn = random.Random(number), 0
    try:
        with closing(Client(address)) as client:
            while time.monotonic() < until_s:
                turn += 1
                shape = SHAPES[(number + turn) % len(SHAPES)]
                session = client.create_session(f"soak/{number}/{turn}", features=["x", "y"], **shape)
                rows = [[rng.gauss(0, 1), rng.gauss(0, 1)] for _ in range(200)]
                for row in rows[:20]:
                    session.learn_one(row)
                session.learn_many(rows[20:], batch=rng.choice((1, 16, 64)), reply="every")
                session.forecast()
                if client.get_session(f"soak/{number}/{turn}").last_sequence != len(rows):
                    raise AssertionError("events were lost")
                counts[number] += len(rows)
                session.delete()
    except BaseException as error:  # noqa: BLE001 - told at the end, by the thread that waits for all
        failures.append(error)


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def soak(seconds: float, backend: str) -> dict[str, Any]:
    """What came of it. Raises what a producer raised."""
    with tempfile.TemporaryDirectory() as folder:
        ports = Path(folder, "ports.json")
        flags = ["--port", "0", "--http-port", "0", "--data", f"{folder}/data", "--ports-file", str(ports)]
        process = subprocess.Popen([sys.executable, "-m", "server", "--backend", backend, *flags])
        try:
            while not ports.exists():
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with code {process.returncode}")
                time.sleep(0.05)
            address = f"127.0.0.1:{json.loads(ports.read_text())['grpc']}"
            counts, failures, memory = [0] * PRODUCERS, list[BaseException](), list[float]()
            until_s = time.monotonic() + seconds
            threads = [
                threading.Thread(target=produce, args=(address, number, until_s, counts, failures))
                for number in range(PRODUCERS)
            ]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and process.poll() is None:
                memory.append(memory_mib(process.pid))
                time.sleep(0.25)
            for thread in threads:
                thread.join(timeout=60)
            if failures:
                raise failures[0]
            process.terminate()
            code = process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
    quarter = memory[len(memory) // 4]
    return {
        "seconds": seconds,
        "events": sum(counts),
        "least_events_of_a_producer": min(counts),
        "exit_code": code,
        "memory_mib_after_a_quarter": quarter,
        "memory_mib_at_the_end": memory[-1],
        "stuck_threads": sum(thread.is_alive() for thread in threads),
    }


def main() -> int:
    """The command line. Returns 0 if all was well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--backend", default="auto", help="where sessions compute (default auto)")
    parser.add_argument("--growth-mib", type=float, default=64.0, help="growth that is too much (default 64)")
    args = parser.parse_args()
    found = soak(args.seconds, args.backend)
    print(json.dumps(found, indent=2))
    grown = found["memory_mib_at_the_end"] - found["memory_mib_after_a_quarter"]
    return int(found["exit_code"] != 0 or found["stuck_threads"] > 0 or grown > args.growth_mib)


if __name__ == "__main__":
    sys.exit(main())
