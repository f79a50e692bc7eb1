"""A simulated pumping plant, seeded: three sensors read every quarter of an hour.

With t the event, N their number, e, f, g, … independent normal noise of unit variance:

    daily cycle        c(t) = 0.6 + 0.22 sin(2πt/96) + 0.08 sin(4πt/96 + 1)
    demand             a(t) = 0.95 a(t-1) + 0.02 e(t)
    load               l(t) = c(t) + a(t), kept within 0.05..1.2                              (share of full load)
    drift              k(t) = 40 + 10 t/N                                    (fouling: the same load heats more)
    temperature        T(t) = T(t-1) + (18 + k(t) l(t) - T(t-1)) (0.03 + 0.15 l(t))                        (°C)
                       load-dependent dynamics: the more the pump runs, the faster it follows
    shaft              s(t) = r(t) s(t-1) - q(t) s(t-2) + 3 (l(t) - l(t-1)) + 0.05 f(t)
                       a damped oscillation that every change of load sets off
    vibration          v(t) = 0.8 + 1.2 l(t)² + s(t)                                                     (mm/s)
    regime change      at t = 0.6 N a bearing wears: (r, q) goes from (1.55, 0.80) to (-0.50, 0.80)
    sensors            each value plus noise of 0.01 (load), 0.15 (temperature), 0.05 (vibration); 1 % are missing
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FEATURES: Final = ("load", "temp", "vibration")
DAY: Final = 96
PERIOD_NS: Final = 900 * 10**9
CHANGE: Final = 0.6
_NOISE: Final = (0.01, 0.15, 0.05)


def simulate(events: int, seed: int) -> NDArray[np.float64]:
    """The sensors' values, float64 [event, feature], NaN where missing."""
    random = np.random.default_rng(seed)
    e, f = random.standard_normal((2, events))
    load = _load(events, e)
    true = np.column_stack([load, _temperature(load), _vibration(load, f)])
    seen = true + random.standard_normal(true.shape) * _NOISE
    seen[random.random(true.shape) < 0.01] = np.nan
    return seen


def _load(events: int, e: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.arange(events)
    demand = np.zeros(events)
    for i in range(1, events):
        demand[i] = 0.95 * demand[i - 1] + 0.02 * e[i]
    cycle = 0.6 + 0.22 * np.sin(2 * np.pi * t / DAY) + 0.08 * np.sin(4 * np.pi * t / DAY + 1)
    return np.clip(cycle + demand, 0.05, 1.2)


def _temperature(load: NDArray[np.float64]) -> NDArray[np.float64]:
    temperature = np.full(len(load), 18 + 40 * load[0])
    for i in range(1, len(load)):
        target = 18 + (40 + 10 * i / len(load)) * load[i]
        temperature[i] = temperature[i - 1] + (target - temperature[i - 1]) * (0.03 + 0.15 * load[i])
    return temperature


def _vibration(load: NDArray[np.float64], f: NDArray[np.float64]) -> NDArray[np.float64]:
    shaft = np.zeros(len(load))
    for i in range(2, len(load)):
        r, q = (1.55, 0.80) if i < CHANGE * len(load) else (-0.50, 0.80)
        shaft[i] = r * shaft[i - 1] - q * shaft[i - 2] + 3 * (load[i] - load[i - 1]) + 0.05 * f[i]
    return 0.8 + 1.2 * load**2 + shaft
