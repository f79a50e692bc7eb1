"""Writes the golden vectors beside this file: `make torch`, then `.venv/bin/python tests/golden/make.py`.

One file per cell, one vector per depth and loss, in the order that `cases.pack` gives the results of the oracle.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cases
import numpy as np
import oracle


def vector(case: cases.Case) -> np.ndarray:
    data = cases.window(case)
    window = oracle.window(case, data)
    gradient = np.concatenate([window[f"d{name}"].reshape(case.learners, -1) for name in case.shapes()], axis=1)
    updates = oracle.updates(case, gradient, data["params"], cases.update(case), cases.STORED_PAIRS)
    alone = replace(case, learners=1)
    return np.concatenate([cases.pack(part) for part in (window, updates, oracle.stream(alone, cases.stream(alone)))])


def main() -> None:
    for cell in cases.CELLS:
        vectors = {case.name: vector(case) for case in cases.all_cases() if case.cell == cell}
        path = Path(__file__).with_name(f"{cell}.npz")
        np.savez_compressed(path, **vectors)
        print(f"{path.name}: {len(vectors)} cases, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
