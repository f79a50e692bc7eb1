"""A call's sessions of one shape as tables of addresses, and the parts of the fold that may be run on them.

Whoever has learners elsewhere runs the parts one after another: what the learners see is scaled, they are given a
lesson, and what they give back is served. A row of memory for each step carries it from one part to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core.backends import Task
from bptt_core.backends.jit import driver
from bptt_core.backends.jit.plan import Plan
from bptt_core.lessons import BY_LAG, Learned, Lesson
from bptt_core.outcomes import Columns, Outcomes, Table
from bptt_core.slab import LINE, Layout

Addresses = NDArray[np.int64]

NO_ROWS: Final = np.zeros((0, 1), np.int64)  # in place of a table that a part does not look at


@dataclass(frozen=True)
class SessionPlan:
    """Of sessions of one shape: the records, and where outcomes lie."""

    plans: NDArray[Any]
    scale: NDArray[Any]
    learn: NDArray[Any]
    serve: NDArray[Any]
    members: NDArray[np.int64]
    columns: Columns
    outcomes: NDArray[np.int64]  # [columns, 4], addresses to be filled in
    steps: Layout
    scratch: int  # with the row of a step at its beginning
    cost: float
    keep: tuple[Plan, ...]  # what the records point to lives as long as these


class Call:
    """Each part takes the sessions that are chosen, and the address of a block of memory."""

    def __init__(self, run: Callable[..., None], plan: SessionPlan, task: Task) -> None:
        self._run, self.plan, self.task = run, plan, task
        given = task.events
        values = np.ascontiguousarray(given.values, np.float64)
        times = None if given.timestamps_ns is None else np.ascontiguousarray(given.timestamps_ns, np.int64)
        starts = None if given.episode_start is None else np.ascontiguousarray(given.episode_start, np.bool_)
        self._columns = values, times, starts  # they live as long as this, and their memory is read
        self._events = np.array([0 if column is None else column.ctypes.data for column in self._columns], np.int64)
        counts = np.array(task.counts)
        self.costs = counts * plan.cost
        self.sessions = np.zeros((len(counts), driver.BEFORE + 1), np.int64)
        self.sessions[:, driver.ROW], self.sessions[:, driver.EVENTS] = task.rows, counts
        np.subtract(np.cumsum(counts), counts, out=self.sessions[:, driver.FIRST])
        self.sessions[:, driver.OUT] = self.sessions[:, driver.FIRST]
        self._table = Table(plan.columns, len(values))
        self._outcomes = plan.outcomes.copy()
        starts_of = plan.columns.before[:-1] * len(values)
        np.add(starts_of, self._table.memory.ctypes.data, out=self._outcomes[:, driver.ADDRESS])
        self._memory = np.empty(0, np.uint8)
        self._steps = 0

    def whole(self, chosen: Addresses, block: int) -> None:
        """All stages."""
        self._part(driver.WHOLE, chosen, block, block)

    def count(self, chosen: Addresses, block: int) -> None:
        """How many steps the events become. Changes no session."""
        self._part(driver.COUNT, chosen, 0, block)

    @property
    def step_bytes(self) -> int:
        """What the rows of all steps take; after `count`."""
        return int(self.sessions[:, driver.STEPS].sum()) * self.plan.steps.bytes

    def make_steps(self) -> None:
        """A row for each of them; after `count`."""
        steps = self.sessions[:, driver.STEPS]
        np.subtract(np.cumsum(steps), steps, out=self.sessions[:, driver.FIRST_STEP])
        self._memory = np.zeros(self.step_bytes + LINE, np.uint8)
        self._steps = -(-self._memory.ctypes.data // LINE) * LINE

    def scale(self, chosen: Addresses, block: int) -> None:
        """The first stage; after `make_steps`."""
        self._part(driver.SCALE, chosen, self._steps, block)

    def serve(self, chosen: Addresses, block: int) -> None:
        """The last stage, when what learners gave back is in the rows."""
        self._part(driver.SERVE, chosen, self._steps, block)

    def rows(self, name: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
        """A field of all steps, session after session [steps, …], as a view."""
        first, size = self._steps - self._memory.ctypes.data, self.plan.steps.bytes
        table = self._memory[first:][: self.step_bytes].reshape(-1, size)
        width = int(np.prod(shape)) * np.dtype(dtype).itemsize
        field = table[:, self.plan.steps.offsets[name] :][:, :width]
        return field.view(dtype).reshape(-1, *shape) if width else np.empty((len(table), *shape), dtype)

    def outcomes(self) -> list[Outcomes]:
        """Of each session."""
        told = self.sessions[:, [driver.OUT, driver.EVENTS, driver.BEFORE]].tolist()
        return [self._table.cut(before + 1, out, out + count) for out, count, before in told]

    def _part(self, part: int, chosen: Addresses, step: int, block: int) -> None:
        plan = self.plan
        self._run(
            chosen, plan.plans, plan.scale, plan.learn, plan.serve, self.sessions, plan.members, self.task.learners,
            self._outcomes, self._events, NO_ROWS, part, step, block + plan.steps.bytes,
        )  # fmt: skip


class Begun:
    """Sessions of a task whose events are scaled, and whose learners are taught elsewhere."""

    def __init__(self, call: Call, serve: Callable[[], None]) -> None:
        self._call, self._serve = call, serve
        steps = call.sessions[:, driver.STEPS]
        self._of_session = steps, call.sessions[:, driver.FIRST_STEP]
        shape = call.task.shape
        self._flags = np.ascontiguousarray(call.rows("flags", (), np.int8))
        self._inputs = np.ascontiguousarray(call.rows("inputs", (shape.scaling.inputs,), np.float32))
        anchors = len(shape.scaling.anchors)
        self._arrived = np.ascontiguousarray(call.rows("arrived", (anchors, shape.learner.pairs), np.float32))

    def lesson(self, group: int) -> Lesson:
        """What the learners of a group of the shape are given, session by session."""
        steps, first = self._of_session
        members = list(self._call.task.shape.groups[group].members)
        of_members = self._call.plan.members[members]
        return Lesson(
            start=np.repeat(first, len(members)),
            count=np.repeat(steps, len(members)),
            anchor=np.tile(of_members[:, driver.ANCHOR], len(steps)),
            season=np.tile(of_members[:, driver.SEASON], len(steps)),
            inputs=self._inputs,
            arrived=self._arrived,
            flags=self._flags,
        )

    def finish(self, learned: list[Learned]) -> list[Outcomes]:
        """Serves what the groups' learners gave back, in place on the sessions' rows; the outcomes of each session."""
        shape, (steps, first) = self._call.task.shape, self._of_session
        widths = [told.reports.shape[1] for told in learned]
        ys = self._call.rows("ys", (shape.learners, shape.learner.outputs), np.float32)
        reports = self._call.rows("reports", (shape.learners, max(widths)), np.float32)
        within = np.arange(len(ys)) - np.repeat(first, steps)
        for group, told, width in zip(shape.groups, learned, widths, strict=True):
            assert width >= BY_LAG
            given = first[:, None] * len(group.members) + steps[:, None] * np.arange(len(group.members))
            for place, member in enumerate(group.members):
                rows = np.repeat(given[:, place], steps) + within
                ys[:, member] = told.ys[rows]
                reports[:, member, :width] = told.reports[rows]
        self._serve()
        return self._call.outcomes()
