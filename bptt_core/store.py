"""Where the state of sessions lies: one slab for the sessions of a shape, two for the learners of a shape.

The state of a session is its row in one slab of NumPy's arrays, and the rows of its learners in two slabs for each
shape of learner: one of the backend's arrays, one of NumPy's. Knows where every field is and how to copy rows, and
nothing of what the numbers mean. A backend may keep parameters in an order of its own; here they go in and out in the
canonical one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt_core import state, tbptt
from bptt_core.arrays import to_host
from bptt_core.config import SessionConfig
from bptt_core.shape import Group, Shape
from bptt_core.shape import fields as session_fields
from bptt_core.slab import Rows, Slab


@dataclass(frozen=True, slots=True)
class Slot:
    """A session inside a Fold: where its rows are. Opaque to everyone else, and good until `Fold.delete`."""

    shape: Shape
    index: int
    learners: tuple[tuple[int, ...], ...]  # by group of the shape, the slots of its members
    config: SessionConfig


@dataclass(frozen=True)
class Team:
    """Copies of the rows of one group's learners of several sessions, session by session."""

    device: Rows
    book: Rows


@dataclass(frozen=True, slots=True)
class School:
    """The slabs of the learners of one shape."""

    device: Slab
    host: Slab
    order: NDArray[np.int64] | None  # canonical index of each parameter as it lies on the device; None: they lie so

    def is_ordered(self, name: str) -> bool:
        """Whether a field of the device's lies in the order of its own."""
        return self.order is not None and (name in ("params", "good") or name.startswith("moment"))


class Store:
    """All slabs. Not safe for use by several threads at once."""

    def __init__(self, xp: Any, order: Callable[[tbptt.LearnerShape], NDArray[np.int64] | None]) -> None:
        self.xp, self._order = xp, order
        self.slabs: dict[Shape, Slab] = {}
        self._shapes: dict[Shape, Shape] = {}  # equal shapes of slots are one object, which is compared at once
        self.schools: dict[tbptt.LearnerShape, School] = {}

    def allocate(self, config: SessionConfig, shape: Shape) -> Slot:
        """Rows for a session, all fields at their start values; changes nothing if there is no memory for it."""
        shape = self._shapes.setdefault(shape, shape)
        if shape not in self.slabs:
            self.slabs[shape] = Slab(np, session_fields(shape))
        for group in shape.groups:
            if group.learner not in self.schools:
                device, host = tbptt.device_fields(group.learner), tbptt.host_fields(group.learner)
                order = self._order(group.learner)
                self.schools[group.learner] = School(Slab(self.xp, device), Slab(np, host), order)
        taken: list[tuple[Slab, int]] = []

        def take(slab: Slab) -> int:
            taken.append((slab, slab.allocate()))
            return taken[-1][1]

        try:
            index, learners = take(self.slabs[shape]), []
            for group in shape.groups:
                school = self.schools[group.learner]
                learners.append(tuple(_paired(take(school.host), take(school.device)) for _ in group.members))
        except BaseException:
            for slab, slot in taken:
                slab.release(slot)
            raise
        return Slot(shape, index, tuple(learners), config)

    def release(self, slot: Slot) -> None:
        """Forgets a session."""
        slab = self.slabs[slot.shape]
        slab.release(slot.index)
        if slab.empty:
            del self.slabs[slot.shape], self._shapes[slot.shape]
        for group, indices in zip(slot.shape.groups, slot.learners, strict=True):
            school = self.schools[group.learner]
            for index in indices:
                school.device.release(index)
                school.host.release(index)
            if school.host.empty:
                del self.schools[group.learner]

    def get(self, slot: Slot, name: str) -> Any:
        """One field of a session: a view, a copy or a scalar. KeyError if it has no such field."""
        slab, index, own, order = self._place(slot, name)
        value = slab.get(own, index)
        if order is None:
            return value
        canonical = np.empty(len(order), np.float32)
        canonical[order] = to_host(value)
        return canonical

    def set(self, slot: Slot, name: str, value: Any) -> None:
        """Writes one field of a session."""
        slab, index, own, order = self._place(slot, name)
        slab.set(own, index, value if order is None else np.asarray(value)[order])

    def has(self, slot: Slot, name: str) -> bool:
        """Whether a session has such a field."""
        try:
            return bool(self._place(slot, name))
        except KeyError:
            return False

    def names(self, slot: Slot) -> list[str]:
        """Every field of a session and its learners."""
        return [f.name for f in state.all_fields(slot.shape)]

    def row(self, slot: Slot) -> dict[str, Any]:
        """The session's own arrays, by name; copies."""
        return {name: rows[0] for name, rows in self.slabs[slot.shape].take(np.array([slot.index])).items()}

    def take(self, slots: list[Slot]) -> tuple[Rows, list[Team]]:
        """Copies of the rows of sessions of one shape, and of their learners, session by session."""
        host = self.slabs[slots[0].shape].take(np.array([slot.index for slot in slots]))
        return host, [self.take_team(slots, group) for group in range(len(slots[0].shape.groups))]

    def put(self, slots: list[Slot], host: Rows, teams: list[Team]) -> None:
        """Writes back what `take` took."""
        self.put_sessions(slots, host)
        for group, team in enumerate(teams):
            self.put_team(slots, group, team)

    def put_sessions(self, slots: list[Slot], host: Rows) -> None:
        """Writes back the rows of sessions of one shape alone."""
        self.slabs[slots[0].shape].put(np.array([slot.index for slot in slots]), host)

    def take_team(self, slots: list[Slot], group: int) -> Team:
        """Copies of the rows of the learners of one group."""
        school, index = self.learners(slots, group)
        device = school.device.take(index)
        if school.order is not None:
            canonical = self.xp.asarray(np.argsort(school.order))
            device |= {name: device[name][:, canonical] for name in device if school.is_ordered(name)}
        return Team(device, school.host.take(index))

    def put_team(self, slots: list[Slot], group: int, team: Team) -> None:
        """Writes back what `take_team` took."""
        school, index = self.learners(slots, group)
        device = team.device
        if school.order is not None:
            order = self.xp.asarray(school.order)
            device = device | {name: device[name][:, order] for name in device if school.is_ordered(name)}
        school.device.put(index, device)
        school.host.put(index, team.book)

    def learners(self, slots: list[Slot], group: int) -> tuple[School, NDArray[np.int64]]:
        """Of one group of the sessions' shape the slabs, and the slots of its learners, session by session."""
        school = self.schools[slots[0].shape.groups[group].learner]
        return school, np.array([slot.learners[group] for slot in slots]).ravel()

    def _place(self, slot: Slot, name: str) -> tuple[Slab, int, str, NDArray[np.int64] | None]:
        """Slab, slot and name there of one of a session's fields, and the order that it lies in."""
        prefix, _, own = name.rpartition(".")
        order = None
        if not prefix:
            slab, index = self.slabs[slot.shape], slot.index
        else:
            group, index = _learner_place(slot, int(prefix.removeprefix("learner")))
            school = self.schools[group.learner]
            slab = school.device if own in school.device else school.host
            order = school.order if school.is_ordered(own) else None
        if own not in slab:
            raise KeyError(name)
        return slab, index, own, order


def _paired(host: int, device: int) -> int:
    """The slot that a learner has in both of its slabs, which are allocated and released alike."""
    assert host == device
    return host


def _learner_place(slot: Slot, learner: int) -> tuple[Group, int]:
    """The group of one of a session's learners, and its slot there."""
    for group, indices in zip(slot.shape.groups, slot.learners, strict=True):
        if learner in group.members:
            return group, indices[group.members.index(learner)]
    raise KeyError(learner)
