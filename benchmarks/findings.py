"""What a benchmark found, as rows of text: a figure each, and beside it the goal it is held to, if it has one.

Used by all benchmarks of speed; knows nothing of what they measure.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Finding = dict[str, Any]  # what, value, unit; and where there is one the goal: "≥ 80" or "≤ 1.4"


def finding(what: str, value: float, unit: str = "", goal: str | None = None) -> Finding:
    """One of them."""
    found: Finding = {"what": what, "value": value, "unit": unit}
    return found if goal is None else found | {"goal": goal}


def met(finding: Finding) -> bool:
    """Whether a figure that has a goal reached it."""
    sign, number = finding["goal"].split()
    return bool(finding["value"] >= float(number) if sign == "≥" else finding["value"] <= float(number))


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The table."""
    width = 2 + max((len(finding["what"]) for finding in findings), default=0)
    for finding in findings:
        held = f"{finding['goal']:10}{'met' if met(finding) else 'not met'}" if "goal" in finding else ""
        yield f"{finding['what']:{width}}{rounded(finding['value']):>10} {finding['unit']:12}{held}".rstrip()


def rounded(value: float) -> str:
    """To three digits, and no part of a large number left out."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def machine() -> str:
    """What the figures were taken on, and on how many of its cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        known = (line.partition(":") for line in info.read_text().splitlines())
        model = next((value.strip() for name, _, value in known if name.startswith("model name")), model)
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    return f"{model}, {cores}, Python {platform.python_version()}, NumPy {np.__version__}"
