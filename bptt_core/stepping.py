"""Stepping sessions: whoever computes fastest on this machine gets the sessions of a call that it can compute.

Sessions of one shape are stepped together. The compiled engine steps whole sessions where the learners are its own, and
scales and serves where they are on a device; of sessions it does not know, stages of the reference do, and whoever is
fastest gives the learners their lessons. The stages work on copies of the sessions' rows that are written back at the
end, and what is changed in place is copied before, so that a call that raises has changed nothing. (Only an
interruption from the keyboard may find some of the sessions stepped and others not.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bptt_core import reference, stages, timeline
from bptt_core.backends import Backend, Engine, Learning, Task
from bptt_core.events import Events
from bptt_core.lessons import Learned, Lesson
from bptt_core.outcomes import Outcomes
from bptt_core.shape import Shape
from bptt_core.slab import Rows
from bptt_core.store import School, Slot, Store, Team

Work = list[tuple[Slot, Events]]

ROOM_BYTES: Final = 2**26  # for the steps of a call whose learners are on a device


def step(backend: Backend, store: Store, work: Work) -> list[Outcomes]:
    """Takes the events of each session (at most once each), and returns the outcomes in the same order."""
    if len({(slot.shape, slot.index) for slot, _ in work}) < len(work):
        raise ValueError("a session may appear only once in a call")
    alike: dict[tuple[Shape, bool], list[int]] = {}
    for position, (slot, events) in enumerate(work):
        alike.setdefault((slot.shape, events.timestamps_ns is None), []).append(position)
    whole: list[list[int]] = []
    split: list[list[int]] = []
    staged: dict[Shape, list[int]] = {}
    for (shape, _), positions in alike.items():
        if backend.engine is None or not backend.engine.supports(shape):
            staged.setdefault(shape, []).extend(positions)
        else:
            (whole if backend.whole else split).append(positions)
    outcomes: dict[int, Outcomes] = {}
    changed: list[_Staged | _Split] = []
    try:
        for kind, groups in ((_Staged, staged.values()), (_Split, split)):
            for positions in groups:
                changed.append(kind(backend, store, [work[position] for position in positions]))
                with np.errstate(all="ignore"):
                    outcomes |= zip(positions, changed[-1].run(), strict=True)
        if whole:
            assert backend.engine is not None
            outcomes |= _step_whole(backend.engine, store, work, whole)
    except BaseException:
        for part in changed:
            part.undo()
        raise
    for part in changed:
        part.put()
    return [outcomes[position] for position in range(len(work))]


def _step_whole(engine: Engine, store: Store, work: Work, groups: list[list[int]]) -> dict[int, Outcomes]:
    """Sessions that are stepped in place from end to end, each group of one shape and either timed or not."""
    tasks = []
    for positions in groups:
        task = _task(store, [work[position] for position in positions])
        slots = [work[position][0] for position in positions]
        for g, group in enumerate(task.shape.groups):
            school, own = store.learners(slots, g)
            for side, rows in enumerate((school.device, school.host)):
                task.learners[:, group.members, side] = rows.addresses(own).reshape(len(slots), -1)
        tasks.append(task)
    found = engine.step(tasks)
    return {
        position: outcome
        for positions, outcomes in zip(groups, found, strict=True)
        for position, outcome in zip(positions, outcomes, strict=True)
    }


def _task(store: Store, work: Work) -> Task:
    """Of sessions of one shape; where their learners lie is still to be filled in."""
    shape, events = work[0][0].shape, [own for _, own in work]
    for own in events:
        sizes = {len(own), *(len(c) for c in (own.timestamps_ns, own.episode_start) if c is not None)}
        if own.values.shape[1:] != (shape.scaling.features,) or len(sizes) > 1 or len(own) == 0:
            raise ValueError(
                f"{own.values.shape} values for {shape.scaling.features} features, columns of {sizes} events"
            )
    rows = store.slabs[shape].addresses(np.array([slot.index for slot, _ in work]))
    learners = np.zeros((len(work), shape.learners, 2), np.int64)
    return Task(shape, Events.joined(events), [len(own) for own in events], rows, learners)


def _halves(task: Task) -> tuple[Task, Task]:
    """The first half of every session's events, and the rest."""
    counts = np.array(task.counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    early = within < np.repeat((counts + 1) // 2, counts)
    first, second = (
        replace(task, events=task.events.chosen(rows), counts=[int(n) for n in sizes])
        for rows, sizes in ((early, (counts + 1) // 2), (~early, counts // 2))
    )
    return first, second


def _pupils(backend: Backend, store: Store, slots: list[Slot]) -> list[_Pupils | _Copies]:
    """The learners of sessions of one shape, group by group."""
    teams: list[_Pupils | _Copies] = []
    for place, group in enumerate(slots[0].shape.groups):
        if backend.learning is not None and backend.learning.can_teach(group.learner):
            school, index = store.learners(slots, place)
            teams.append(_Pupils(backend.learning, group.learner, school, index))
        else:
            teams.append(_Copies(backend.xp, group.learner, store, slots, place))
    return teams


class _Split:
    """The sessions of one shape, scaled and served by the compiled engine, in place."""

    def __init__(self, backend: Backend, store: Store, work: Work) -> None:
        assert backend.engine is not None
        self._engine, self._task = backend.engine, _task(store, work)
        self._slab = store.slabs[self._task.shape]
        slots = [slot for slot, _ in work]
        self._index = np.array([slot.index for slot in slots])
        self._before = self._slab.rows[self._index].copy()
        self._teams = _pupils(backend, store, slots)

    def run(self) -> list[Outcomes]:
        """The outcomes in the order of the work."""
        return self._run(self._task)

    def _run(self, task: Task) -> list[Outcomes]:
        begun = self._engine.begin(task, ROOM_BYTES if max(task.counts) > 1 else None)
        if begun is None:  # where events lie behind long gaps
            halves = [self._run(half) for half in _halves(task)]
            return [Outcomes.joined(list(parts)) for parts in zip(*halves, strict=True)]
        return begun.finish([team.learn(begun.lesson(g)) for g, team in enumerate(self._teams)])

    def put(self) -> None:
        """Writes back what is not changed in place."""
        for team in self._teams:
            team.put()

    def undo(self) -> None:
        """Takes back what was changed in place."""
        self._slab.rows[self._index] = self._before
        for team in self._teams:
            team.undo()


class _Staged:
    """The sessions of one shape, stage by stage."""

    def __init__(self, backend: Backend, store: Store, work: Work) -> None:
        self._store, self._shape = store, work[0][0].shape
        shape, slab = self._shape, store.slabs[self._shape]
        clocks = np.stack([slab.get("timeline", slot.index) for slot, _ in work])
        steps = []
        for row, (_, events) in zip(clocks, work, strict=True):
            clock, own = timeline.steps_of(timeline.Timeline.of_row(row), events, shape.longest_gap, shape.labels)
            row[...] = clock.row()
            steps.append(own)
        # Longest first: the sessions that still have a step are then always the first ones, and views suffice.
        self._order = np.argsort([-len(s) for s in steps], kind="stable")
        self._slots = [work[k][0] for k in self._order]
        self._steps = [steps[k] for k in self._order]
        self._host: Rows = slab.take(np.array([slot.index for slot in self._slots]))
        self._host["timeline"] = clocks[self._order]
        self._teams = _pupils(backend, store, self._slots)

    def run(self) -> list[Outcomes]:
        """The outcomes in the order of the work; the sessions' rows are changed by `put`."""
        outcomes = stages.run(self._shape, self._host, [team.learn for team in self._teams], self._steps)
        return [outcomes[k] for k in np.argsort(self._order, kind="stable")]

    def put(self) -> None:
        """Writes back what is not changed in place."""
        self._store.put_sessions(self._slots, self._host)
        for team in self._teams:
            team.put()

    def undo(self) -> None:
        """Takes back what was changed in place."""
        for team in self._teams:
            team.undo()


class _Pupils:
    """Learners that are given lessons in place on their rows."""

    def __init__(self, learning: Learning, shape: Any, school: School, index: NDArray[np.int64]) -> None:
        self._learning, self._shape, self._school, self._index = learning, shape, school, index
        self._before = [slab.rows[slab.xp.asarray(index)].copy() for slab in (school.device, school.host)]

    def learn(self, lesson: Lesson) -> Learned:
        return self._learning.learn(self._shape, self._school.device, self._school.host, self._index, lesson)

    def put(self) -> None:
        """They are there already."""

    def undo(self) -> None:
        for slab, rows in zip((self._school.device, self._school.host), self._before, strict=True):
            slab.rows[slab.xp.asarray(self._index)] = rows


class _Copies:
    """Learners that the reference gives lessons, on copies of their rows."""

    def __init__(self, xp: Any, shape: Any, store: Store, slots: list[Slot], group: int) -> None:
        self._xp, self._shape, self._store, self._slots, self._group = xp, shape, store, slots, group
        self._team: Team = store.take_team(slots, group)

    def learn(self, lesson: Lesson) -> Learned:
        return reference.learn(self._xp, self._shape, self._team.device, self._team.book, lesson)

    def put(self) -> None:
        self._store.put_team(self._slots, self._group, self._team)

    def undo(self) -> None:
        """Nothing was changed."""
