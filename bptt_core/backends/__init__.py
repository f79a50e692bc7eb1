"""The compute seam: who steps sessions and learners here, and how to name the machine that their bits belong to.

The reference runs on any array module. Compiled code steps whole sessions on the CPU where Numba is installed; a GPU
gives lessons to the learners of the shapes it has kernels for. Every backend can do without those.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bptt_core.checks import FieldError
from bptt_core.events import Events
from bptt_core.learner import LearnerShape
from bptt_core.lessons import Learned, Lesson
from bptt_core.outcomes import Outcomes
from bptt_core.shape import Shape
from bptt_core.slab import Slab

BACKENDS = ("auto", "numpy", "numba", "cupy")


@dataclass(frozen=True)
class Task:
    """What sessions of one shape do in one call: their events, session after session, and the addresses of their rows
    in NumPy's memory."""

    shape: Shape
    events: Events
    counts: list[int]  # [S] events of each
    rows: NDArray[np.int64]  # [S]
    learners: NDArray[np.int64]  # [S, M, 2] device and host row of each learner, in the order of the portfolio


class Begun(Protocol):
    """Sessions whose events were scaled, and whose learners are taught elsewhere."""

    def lesson(self, group: int) -> Lesson:
        """What the learners of a group of the shape are given, session by session."""

    def finish(self, learned: list[Learned]) -> list[Outcomes]:
        """Serves what the groups' learners gave back; the outcomes of each session."""


class Engine(Protocol):
    """Steps whole sessions, or scales and serves them."""

    def supports(self, shape: Shape) -> bool:
        """Whether sessions of this shape can be stepped here."""

    def step(self, tasks: Sequence[Task]) -> list[list[Outcomes]]:
        """Takes the events of the sessions of every task, in place on their rows; their outcomes in the same order."""

    def begin(self, task: Task, room_bytes: int | None) -> Begun | None:
        """Scales the events of a task's sessions, in place on their rows; where their learners lie is not looked at.
        None, and nothing has changed, if the steps that the events become do not fit so much memory."""

    def warm_up(self) -> None:
        """Compiles what the first call would otherwise wait for."""


class Learning(Protocol):
    """Gives lessons to learners."""

    def can_teach(self, shape: LearnerShape) -> bool:
        """Whether learners of this shape can be taught here; the reference teaches the others."""

    def learn(self, shape: LearnerShape, device: Slab, host: Slab, slots: NDArray[np.int64], lesson: Lesson) -> Learned:
        """Gives the learners in `slots` [n] of both slabs, each at most once, a lesson, in place on their rows."""

    def order(self, shape: LearnerShape) -> NDArray[np.int64] | None:
        """The canonical index [P] of each parameter as it lies in the device's rows; None: in canonical order."""


@dataclass(frozen=True, slots=True)
class Backend:
    """An array module, whoever is faster than the reference, and their identity. Bits are the same wherever
    `fingerprint` is the same."""

    name: str
    xp: Any
    fingerprint: str
    detail: str
    engine: Engine | None = None
    learning: Learning | None = None

    def warm_up(self) -> None:
        """Compiles what the first events would otherwise wait for: up to a minute, once on a machine. (Kernels of a GPU
        are compiled for a shape when its first learner is taught.)"""
        if self.engine is not None:
            self.engine.warm_up()

    @property
    def whole(self) -> bool:
        """Whether the engine steps whole sessions: it does where it is the learners' teacher, too."""
        engine: object = self.engine
        return engine is not None and engine is self.learning

    def name_for(self, shape: Shape) -> str:
        """Who steps sessions of this shape."""
        whole = self.engine is None or self.engine.supports(shape)
        return self.name if whole else f"{self.name}+numpy"

    def order(self, shape: LearnerShape) -> NDArray[np.int64] | None:
        """The order in which learners of this shape keep their parameters; None: the canonical one."""
        return None if self.learning is None or not self.learning.can_teach(shape) else self.learning.order(shape)


def select_backend(name: str = "auto", threads: int = 1) -> Backend:
    """The backend of that name, computing on so many threads at most. "auto" takes CuPy if one real allocation on a GPU
    succeeds, else Numba if it is installed, else NumPy.

    Raises FieldError for a name that does not exist or a backend that does not work here.
    """
    if name not in BACKENDS:
        raise FieldError("backend", name, ", ".join(BACKENDS))
    if name == "numpy":
        return _numpy("asked for")
    if name == "numba":
        return _numba(name, threads, "asked for")
    from bptt_core.backends import cupy_backend

    try:
        gpu = cupy_backend.open_backend()
    except cupy_backend.UnavailableError as error:
        if name == "cupy":
            raise FieldError("backend", name, f"auto, numba or numpy on this machine ({error})") from error
        return _numba(name, threads, f"no GPU answers: {error}")
    rest = _numba("auto", threads, gpu.detail)  # what is not the learners'
    return replace(gpu, fingerprint=f"{gpu.fingerprint}/{rest.fingerprint}", detail=rest.detail, engine=rest.engine)


def _numba(name: str, threads: int, detail: str) -> Backend:
    """Compiled code, or NumPy where Numba is not installed and `name` leaves the choice."""
    try:
        from bptt_core.backends.jit import engine
    except ImportError as error:
        if name == "numba":
            raise FieldError("backend", name, f"auto or numpy without Numba ({error})") from error
        return _numpy(f"{detail}; no compiled code: {error}")
    fold = engine.CompiledFold(threads)
    fingerprint = f"numba/{engine.VERSION}/{engine.CPU}/{_numpy('').fingerprint}"
    return Backend("numba", np, fingerprint, f"{detail}; {threads} threads", fold, fold)


def _numpy(detail: str) -> Backend:
    features = getattr(getattr(np, "_core", None), "_multiarray_umath", None)
    simd = "+".join(name for name, has in getattr(features, "__cpu_features__", {}).items() if has)
    fingerprint = (
        f"numpy/{np.__version__}/{platform.machine()}/{simd}/python{sys.version_info[0]}.{sys.version_info[1]}"
    )
    return Backend("numpy", np, fingerprint, detail)
