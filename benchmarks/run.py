"""All benchmarks of speed one after the other, on two cores: `make bench`, or `make bench ARGS=--quick` in a minute.

    python benchmarks/run.py [--quick] [--only kernels sessions service] [--json build/bench.json]

Each is a program of its own: `kernels.py` (a learner's update beside PyTorch and C), `sessions.py` (the core, and what
a session costs) and `service.py` (the service beside a bare echo). What is compared takes turns within one run of one
of them. This one holds all to the same two cores, prints which goals were met, and writes every figure to one file,
which is no part of the repository: what is worth keeping is in benchmarks/README.md, with the machine named. It needs
Linux, which lets one choose cores and tells how large a process is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from findings import Finding, lines, machine

HERE: Final = Path(__file__).resolve().parent
CORES: Final = 2
QUICK: Final = {
    "kernels": ["--rounds", "2", "--hidden", "32", "--cells", "lstm"],
    "sessions": ["--rounds", "2", "--most", "1000"],
    "service": ["--rounds", "1", "--seconds", "0.5"],
}


def part(name: str, arguments: list[str]) -> tuple[Any, float]:
    """Runs one of the programs: what it found, and the seconds it took."""
    print(f"\n{name}.py {' '.join(arguments)}".rstrip(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found, start = Path(folder, "found.json"), time.perf_counter()
        subprocess.run([sys.executable, HERE / f"{name}.py", *arguments, "--json", found], check=True)
        return json.loads(found.read_text()), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds and rows, to see that all of it runs")
    parser.add_argument("--only", nargs="+", default=list(QUICK), choices=list(QUICK), help="default: all")
    parser.add_argument("--json", type=Path, default=HERE.parent / "build" / "bench.json", help="where figures go")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # and of everything begun from here
    print(f"{machine()}; load average {os.getloadavg()[0]:.1f} at the start")
    everything: dict[str, Any] = {"machine": machine(), "load_average": os.getloadavg(), "quick": args.quick}
    goals: list[Finding] = []
    for name in args.only:
        everything[name], seconds = part(name, QUICK[name] if args.quick else [])
        print(f"{seconds:.0f} s", flush=True)
        found = everything[name]["findings"] if name == "kernels" else everything[name]
        goals += [finding for finding in found if "goal" in finding]
    print("", "Goals", *lines(goals), sep="\n")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(everything, indent=2) + "\n")
    print(f"\nAll figures: {args.json}")


if __name__ == "__main__":
    main()
