"""The compiled fold as the rest of the core sees it: which sessions it can step, and stepping them on all threads.

It turns shapes into plans, once each, and a call's work into tables of addresses; the sessions of a call are spread
over a fixed pool of threads, each of which stays in compiled code without the interpreter's lock until its share is
done. Sessions are stepped in place: whatever can fail is done before the first is touched.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Final

import llvmlite.binding
import numba
import numpy as np
from numpy.typing import NDArray

from bptt_core.backends import Task
from bptt_core.backends.jit import driver, forecasts, learner, scaling, timeline
from bptt_core.backends.jit.calls import NO_ROWS, Addresses, Begun, Call, SessionPlan
from bptt_core.backends.jit.plan import Plan, table
from bptt_core.backends.jit.steps import step_fields
from bptt_core.learner import LearnerShape, device_fields, host_fields
from bptt_core.learner_config import SEASON_ANCHORS
from bptt_core.lessons import Learned, Lesson, report_width
from bptt_core.outcomes import COLUMNS, Columns, Outcomes
from bptt_core.shape import Shape
from bptt_core.shape import fields as session_fields
from bptt_core.slab import LINE, Field, Layout, Slab

WORTH_A_THREAD: Final = 1.2e7  # multiply-adds, about half a ms: with less, waiting for a thread takes longer
MOST_PLANS: Final = 4096  # of tens of kilobytes each; a plan in use outlives its place here
VERSION: Final = str(numba.__version__)
CPU: Final = str(llvmlite.binding.get_host_cpu_name())


@dataclass(frozen=True)
class _LearnerPlan:
    """Of learners of one shape."""

    plan: Plan
    scratch: int
    cost: float  # multiply-adds of a step

    @classmethod
    def of(cls, shape: LearnerShape) -> _LearnerPlan:
        at = Layout.of(device_fields(shape)).offsets
        plan, scratch = learner.learner_plan(shape, at, Layout.of(host_fields(shape)).offsets)
        return cls(plan, scratch, 3.0 * shape.rows * shape.layout.size / shape.stride)


class CompiledFold:
    """Steps sessions and learners in compiled code. Used by one thread at a time."""

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._run: Callable[..., None] = driver.compiled(_digest())
        self._pool = ThreadPoolExecutor(self.threads - 1, "fold") if self.threads > 1 else None
        self._sessions: dict[Shape, SessionPlan] = {}
        self._learners: dict[LearnerShape, _LearnerPlan] = {}
        self._blocks = [np.empty(0, np.uint8) for _ in range(self.threads)]

    def supports(self, shape: Shape) -> bool:
        """Whether whole sessions of this shape are stepped here; of the others the learners are."""
        return scaling.supports(shape) and forecasts.supports(shape)

    def warm_up(self) -> None:
        """Compiles, or reads what was compiled before."""
        numbers = np.zeros(0, np.int64)
        plans = [table([Plan(names)]) for names in (driver.NAMES, scaling.NAMES, learner.NAMES, forecasts.NAMES)]
        given = *plans, NO_ROWS, NO_ROWS, NO_ROWS[None], NO_ROWS, numbers, NO_ROWS, driver.WHOLE, 0, 0
        try:
            self._run(numbers, *given)
        except OSError:  # it is compiled, and there was no room to keep it
            self._run(numbers, *given)

    def step(self, tasks: Sequence[Task]) -> list[list[Outcomes]]:
        """Takes the events of the sessions of every task, in place on their rows; their outcomes in the same order."""
        calls = [Call(self._run, self._plan(task.shape), task) for task in tasks]
        self._spread([(call.whole, call.costs) for call in calls], max(call.plan.scratch for call in calls))
        return [call.outcomes() for call in calls]

    def begin(self, task: Task, room_bytes: int | None) -> Begun | None:
        """Scales the events of a task's sessions, in place on their rows. None, and nothing has changed, if the steps
        that the events become do not fit so much memory."""
        call = Call(self._run, self._plan(task.shape), task)
        self._spread([(call.count, call.costs)], call.plan.scratch)
        if room_bytes is not None and call.step_bytes > room_bytes:
            return None
        call.make_steps()
        self._spread([(call.scale, call.costs)], call.plan.scratch)
        return Begun(call, lambda: self._spread([(call.serve, call.costs)], call.plan.scratch))

    def can_teach(self, shape: LearnerShape) -> bool:
        """All learners can be taught here."""
        return True

    def order(self, shape: LearnerShape) -> None:
        """Parameters lie in canonical order."""

    def learn(self, shape: LearnerShape, device: Slab, host: Slab, slots: Addresses, lesson: Lesson) -> Learned:
        """Gives the learners in `slots` [n] of both slabs, each at most once, a lesson, in place on their rows."""
        plan = self._learner_plan(shape)
        total, width = int(lesson.count.sum()), report_width(shape)
        ys = np.empty((total, shape.outputs), np.float32)
        reports = np.empty((total, width), np.float32)
        inputs, arrived, flags = (np.ascontiguousarray(a) for a in (lesson.inputs, lesson.arrived, lesson.flags))
        columns = lesson.start, lesson.count, lesson.anchor, lesson.season, lesson.first_output
        numbers = np.empty(driver.REPORT_WIDTH + 1, np.int64)
        for place, array in zip(driver.LESSON_ARRAYS, (inputs, arrived, flags, ys, reports), strict=True):
            numbers[place] = array.ctypes.data
        sizes = shape.inputs, arrived.shape[1], shape.pairs, shape.outputs, width
        numbers[[driver.WIDTH, driver.ANCHORS, driver.PAIRS, driver.OUTPUTS, driver.REPORT_WIDTH]] = sizes
        given = np.stack(columns, axis=1).astype(np.int64), numbers
        learners = np.stack([device.addresses(slots), host.addresses(slots)], axis=1)[:, None]
        records = [table([Plan(names)]) for names in (driver.NAMES, scaling.NAMES)]
        records += [table([plan.plan]), table([Plan(forecasts.NAMES)])]

        def run(chosen: Addresses, block: int) -> None:
            self._run(
                chosen, *records, NO_ROWS, NO_ROWS, learners, NO_ROWS, given[1], given[0], driver.LESSON, 0, block
            )

        self._spread([(run, lesson.count.astype(np.float64) * plan.cost)], plan.scratch)
        return Learned(ys, reports)

    def _spread(self, shares: list[tuple[Callable[[Addresses, int], None], NDArray[np.float64]]], scratch: int) -> None:
        """Runs every share's items, given what each costs, on as many threads as it is worth."""
        items = [(float(cost), s, k) for s, (_, costs) in enumerate(shares) for k, cost in enumerate(costs.tolist())]
        threads = min(self.threads, len(items), 1 + int(sum(cost for cost, _, _ in items) / WORTH_A_THREAD))
        for thread in range(threads):
            if len(self._blocks[thread]) < scratch + LINE:
                self._blocks[thread] = np.zeros(scratch + LINE, np.uint8)
        if threads <= 1:
            self._work([(run, np.arange(len(costs))) for run, costs in shares], 0)
            return
        lists: list[dict[int, list[int]]] = [{} for _ in range(threads)]
        loads = [0.0] * threads
        for cost, s, k in sorted(items, reverse=True):  # the dearest first, each to whom has the least to do
            thread = loads.index(min(loads))
            loads[thread] += cost
            lists[thread].setdefault(s, []).append(k)
        parts = [[(shares[s][0], np.array(chosen)) for s, chosen in share.items()] for share in lists]
        assert self._pool is not None
        futures: list[Future[None]] = []
        try:
            for thread, part in enumerate(parts[1:], start=1):
                try:
                    futures.append(self._pool.submit(self._work, part, thread))
                except RuntimeError:  # the machine has no thread left
                    self._work(part, thread)
            self._work(parts[0], 0)
        finally:
            _wait(futures)
        for future in futures:
            future.result()

    def _work(self, parts: list[tuple[Callable[[Addresses, int], None], Addresses]], thread: int) -> None:
        """What one thread does, in the block of memory that is its own."""
        block = -(-self._blocks[thread].ctypes.data // LINE) * LINE
        for run, chosen in parts:
            run(chosen, block)

    def _plan(self, shape: Shape) -> SessionPlan:
        if shape not in self._sessions:
            if len(self._sessions) >= MOST_PLANS:
                self._sessions.clear()
            self._sessions[shape] = self._planned(shape)
        return self._sessions[shape]

    def _learner_plan(self, shape: LearnerShape) -> _LearnerPlan:
        if shape not in self._learners:
            if len(self._learners) >= MOST_PLANS:
                self._learners.clear()
            self._learners[shape] = _LearnerPlan.of(shape)
        return self._learners[shape]

    def _planned(self, shape: Shape) -> SessionPlan:
        at, to = Layout.of(session_fields(shape)), Layout.of(step_fields(shape))
        groups = [self._learner_plan(group.learner) for group in shape.groups]
        scale, scale_scratch = scaling.scale_plan(shape, at.offsets, to.offsets)
        serve, serve_scratch = forecasts.serve_plan(shape, at.offsets, to.offsets)
        missing = Layout.of([Field("missing", (shape.scaling.features,), np.float64)]).bytes
        plan = Plan(driver.NAMES)
        plan.set(
            features=shape.scaling.features,
            members=shape.learners,
            pairs=shape.learner.pairs,
            outputs=shape.learner.outputs,
            report_width=max(report_width(group.learner) for group in shape.groups),
            lag_count=shape.outcome[-2].shape[0],
            longest_gap=shape.longest_gap,
            last_sequence=at.offsets["last_sequence"],
            timeline=at.offsets["timeline"],
            seasonal=int(shape.scaling.seasons is not None),
            step_bytes=to.bytes,
            missing_bytes=missing,
            **{f"to_{name}": to.offsets[name] for name in driver.STEP},
        )
        outcomes = [
            (0, f.bytes, to.offsets.get(name, -1), at.offsets[f.name])
            for f, name in zip(shape.outcome, COLUMNS, strict=True)
        ]
        scratch = max(scale_scratch, serve_scratch, *(group.scratch for group in groups))
        return SessionPlan(
            plans=table([plan]),
            scale=table([scale]),
            learn=table([group.plan for group in groups]),
            serve=table([serve]),
            members=_members(shape),
            columns=Columns(shape.outcome),
            outcomes=np.array(outcomes, np.int64),
            steps=to,
            scratch=to.bytes + missing + max(scratch, 8 * timeline.SIZE),
            cost=sum(len(g.members) * p.cost for g, p in zip(shape.groups, groups, strict=True)),
            keep=(plan, scale, serve, *(group.plan for group in groups)),
        )


def _wait(futures: list[Future[None]]) -> None:
    """Until all are done. They write to rows of the slabs, so an interruption is passed on only then."""
    interruption: BaseException | None = None
    while not all(future.done() for future in futures):
        try:
            wait(futures)
        except BaseException as error:  # noqa: BLE001 - raised below
            interruption = error
    if interruption is not None:
        raise interruption


def _members(shape: Shape) -> NDArray[np.int64]:
    """Group, anchor and season slot of every learner, in the order of the portfolio."""
    rows = np.empty((shape.learners, 3), np.int64)
    for g, group in enumerate(shape.groups):
        for place, anchor in zip(group.members, group.anchors, strict=True):
            name = shape.scaling.anchors[anchor]
            rows[place] = g, anchor, SEASON_ANCHORS.index(name) if name in SEASON_ANCHORS else -1
    return rows


def _digest() -> int:
    """Of the sources of everything that may be compiled, or whose constants are."""
    text = b"".join(_sources(importlib.resources.files(__name__.partition(".")[0])))
    return int.from_bytes(hashlib.sha256(text).digest()[:7]) | 1


def _sources(folder: Traversable) -> Iterator[bytes]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _sources(entry)
        elif entry.name.endswith(".py"):
            yield entry.read_bytes()
