"""The fold: (state, events) → (state, outcomes), for many sessions in one call.

Data flows one way, scale → learners → forecasts, and each stage runs over the steps of all sessions of the call that
have one shape. The state of a session is its row in one slab of NumPy's arrays, and the rows of its learners in two
slabs for each shape of learner (one of the backend's arrays, one of NumPy's). A call works on copies of the rows and
writes them back at its end, so a call that raises has changed nothing; and it reads no clock, no environment and no
random source, so the same events give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt_core import checkpoint, scaling, scores, soundness, stages, state, tbptt, timeline
from bptt_core.backends import Backend
from bptt_core.checks import FieldError
from bptt_core.config import SessionConfig
from bptt_core.events import Events, Labelled, Labels, Outcomes, SessionStatus, UpdateCounts
from bptt_core.initializers import initial_parameters
from bptt_core.learner_config import check_learning_rate
from bptt_core.shape import Group, Shape, field_name
from bptt_core.shape import fields as session_fields
from bptt_core.slab import Rows, Slab
from bptt_core.stages import Team
from bptt_core.warm_start import Pupil, WarmUp


@dataclass(frozen=True, slots=True)
class Slot:
    """A session inside a Fold: where its rows are. Opaque to everyone else, and good until `Fold.delete`."""

    shape: Shape
    index: int
    learners: tuple[tuple[int, ...], ...]  # by group of the shape, the slots of its members
    config: SessionConfig


@dataclass(frozen=True, slots=True)
class _School:
    """The slabs of the learners of one shape."""

    device: Slab
    host: Slab


class Fold:
    """Owns the state of many sessions. Not safe for use by several threads at once."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._slabs: dict[Shape, Slab] = {}
        self._schools: dict[tbptt.LearnerShape, _School] = {}

    def step(self, work: list[tuple[Slot, Events]]) -> list[Outcomes]:
        """Takes the events of each session (at most once each), and returns the outcomes in the same order.

        The events must have passed `check_events`. How they are spread over calls changes no bit of the result.
        """
        if len({(slot.shape, slot.index) for slot, _ in work}) < len(work):
            raise ValueError("a session may appear only once in a call")
        by_shape: dict[Shape, list[int]] = {}
        for position, (slot, _) in enumerate(work):
            by_shape.setdefault(slot.shape, []).append(position)
        outcomes: dict[int, Outcomes] = {}
        done: list[tuple[list[Slot], Rows, list[Team]]] = []
        for shape, positions in by_shape.items():
            group = [work[position] for position in positions]
            with np.errstate(all="ignore"):
                found, rows = self._step_shape(shape, group)
            outcomes |= zip(positions, found, strict=True)
            done.append(rows)
        for slots, host, teams in done:
            self._put(slots, host, teams)
        return [outcomes[position] for position in range(len(work))]

    def label(self, slot: Slot, labels: Labels) -> Labelled:
        """Takes labels of events folded before: scores them, and leaves those whose step is still in the window for
        the next update. They must have passed `check_labels` and must not be known yet (NaN excepted)."""
        shape = slot.shape
        host, (team,) = self._take([slot])
        ring = (labels.sequences - 1) % shape.label_slots
        back = host["steps_taken"][0] - 1 - host["event_step"][0][ring]
        with np.errstate(all="ignore"):
            targets = scaling.late(shape.scaling, host, ring, labels.values)
            scaled = self.backend.xp.asarray(targets.astype(team.device["params"].dtype))
            trainable = tbptt.late_labels(shape.learner, team.device, team.book, back, scaled)
            shape.serving.late(shape.served, host, ring, labels.values)
        self._put([slot], host, [team])
        known = ~np.isnan(labels.values)
        return Labelled(int(known.sum()), int(known[trainable].sum()))

    def warm_start(self, slot: Slot, history: Events, per_pass: bool = False) -> WarmUp:
        """Begins to train a session that has had no event on a history, which must have passed `check_events`.

        Call `run_pass` on what is returned once per pass and then `finish`; until then the session is as it was, and
        it must be left alone. `per_pass`: one update per pass in place of one per sequence. Raises FieldError if the
        history is too long for the memory that full backpropagation through it takes.
        """
        if int(self._get(slot, "last_sequence")) > 0:
            raise ValueError("the session has had an event")
        host, teams = self._take([slot])
        pupils = [Pupil(*member) for member in _members(slot.shape, teams)]

        def store() -> None:
            for group, team in enumerate(teams):
                for row, k in enumerate(slot.shape.groups[group].members):
                    for mine, rows in ((team.device, pupils[k].device), (team.book, pupils[k].book)):
                        for name, array in mine.items():
                            array[row] = rows[name][0]
                if "good" in team.device:
                    team.device["good"][...] = team.device["params"]
            self._put([slot], host, teams)

        return WarmUp(self.backend.xp, slot.shape, host, pupils, history, per_pass, store)

    def create(
        self, config: SessionConfig, learning: bool = True, parameters: NDArray[np.float32] | None = None
    ) -> Slot:
        """A new session. Its networks are drawn from their seeds; or the single one is `parameters`, a row [P] of
        `session_layout`. Raises FieldError."""
        config = config.validated()
        shape = Shape.of(config)
        if parameters is not None and (shape.learners > 1 or parameters.shape != (shape.learner.layout.size,)):
            raise ValueError(f"{parameters.shape} parameters for {shape.learners} networks")
        slot = self._allocate(config, shape)
        self._set(slot, "timeline", timeline.Timeline(period_ns=config.period_ns or 0).row())
        for k, learner in enumerate(config.portfolio):
            layout = shape.learner_shape(k).layout
            row = initial_parameters(layout, learner) if parameters is None else parameters
            for name in ("params", "good"):
                if self._has(slot, field_name(k, name)):
                    self._set(slot, field_name(k, name), row)
        for name, value in state.settings(config, learning).items():
            if self._has(slot, name):
                self._set(slot, name, value)
        return slot

    def fork(self, slot: Slot) -> Slot:
        """A copy of the session, to the bit."""
        copy = self._allocate(slot.config, slot.shape)
        for name in self._names(slot):
            self._set(copy, name, self._get(slot, name))
        return copy

    def parameters(self, slot: Slot) -> NDArray[np.float32]:
        """A copy of the parameters of a session's single network, a row [P] of `session_layout`."""
        if slot.shape.learners > 1:
            raise ValueError(f"the session has {slot.shape.learners} networks")
        row: NDArray[np.float32] = np.array(tbptt.to_host(self._get(slot, field_name(0, "params"))))
        return row

    def delete(self, slot: Slot) -> None:
        """Forgets the session."""
        slab = self._slabs[slot.shape]
        slab.release(slot.index)
        if slab.empty:
            del self._slabs[slot.shape]
        for group, indices in zip(slot.shape.groups, slot.learners, strict=True):
            school = self._schools[group.learner]
            for index in indices:
                school.device.release(index)
                school.host.release(index)
            if school.host.empty:
                del self._schools[group.learner]

    def configure(self, slot: Slot, *, learning: bool | None = None, learning_rate: float | None = None) -> None:
        """Changes what may change while a session lives; a rate only where there is a single learner. Raises
        FieldError."""
        if learning_rate is not None:
            single = slot.config.learner
            if single is None:
                raise FieldError("learning_rate", learning_rate, "none, as the session has a portfolio of learners")
            check_learning_rate(learning_rate, single.weight_decay or 0.0)
            self._set(slot, field_name(0, "learning_rate"), learning_rate)
            self._set(slot, field_name(0, "rate_factor"), 1.0)
        if learning is not None:
            for k in range(slot.shape.learners):
                self._set(slot, field_name(k, "learning"), learning)

    def latest(self, slot: Slot) -> Outcomes | None:
        """The outcome of the last event; None before the first."""
        sequence = int(self._get(slot, "last_sequence"))
        if sequence == 0:
            return None
        rows = [np.array(self._get(slot, f.name))[None] for f in slot.shape.outcome]
        return Outcomes(sequence, *rows)

    def status(self, slot: Slot, scores: bool = True) -> SessionStatus:
        """Counters, time and, unless they are not wanted, scores and experts."""
        clock = timeline.Timeline.of_row(self._get(slot, "timeline"))
        shape, config = slot.shape, slot.config
        counts = [self._counts(slot, k) for k in range(shape.learners)]
        total = {f.name: sum(getattr(count, f.name) for count in counts) for f in fields(UpdateCounts)}
        row = self._host_row(slot) if scores else {}
        experts = shape.serving.read_experts(shape.served, row) if scores else []
        factors = [float(self._get(slot, field_name(k, "rate_factor"))) for k in range(shape.learners)]
        for k, (count, factor) in enumerate(zip(counts, factors, strict=True)):
            if experts:
                experts[k] = replace(experts[k], updates=count, rate_factor=factor)
        return SessionStatus(
            last_sequence=int(self._get(slot, "last_sequence")),
            last_timestamp_ns=clock.last_ns if clock.timed == 1 else None,
            period_ns=clock.period_ns if clock.timed == 1 and clock.period_ns else None,
            timed=None if clock.timed == timeline.UNKNOWN else bool(clock.timed),
            learning=bool(self._get(slot, field_name(0, "learning"))),
            learning_rate=float(self._get(slot, field_name(0, "learning_rate"))) if config.learner else None,
            parameters=sum(len(group.members) * group.learner.layout.size for group in shape.groups),
            updates=UpdateCounts(**total),
            carry_resets=sum(int(self._get(slot, field_name(k, "carry_resets"))) for k in range(shape.learners)),
            drifts=int(self._get(slot, "drift_count")) if self._has(slot, "drift_count") else 0,
            seasons=() if shape.scaling.seasons is None else tuple(self._get(slot, "season_period").tolist()),
            scores=shape.serving.read_scores(shape.served, row) if scores else None,
            experts=tuple(experts),
        )

    def skills(self) -> NDArray[np.float64]:
        """1 − mean squared error over persistence's, mean over the pairs, of every session that forecasts numbers and
        has met a value for which persistence was wrong; in no order."""
        name = "score_square"
        slabs = [slab for slab in self._slabs.values() if name in slab]
        skills = np.concatenate([np.empty(0), *(scores.skill(slab.take(slab.used, (name,))[name]) for slab in slabs)])
        known: NDArray[np.float64] = skills[~np.isnan(skills)]
        return known

    def checkpoint(self, slot: Slot) -> bytes:
        """The whole session as bytes."""
        arrays = {name: tbptt.to_host(self._get(slot, name)) for name in self._names(slot)}
        return checkpoint.dump(slot.config, self.backend.fingerprint, arrays)

    def restore(self, data: bytes) -> Slot:
        """A session from `checkpoint`'s bytes, whoever wrote them. Raises CheckpointError; nothing is made then."""
        config, arrays = checkpoint.load(data)
        try:
            config = config.validated()
        except FieldError as error:
            raise checkpoint.CheckpointError(f"its configuration is not valid: {error}") from error
        shape = Shape.of(config)
        checkpoint.check_arrays(arrays, state.all_fields(shape))
        soundness.check(shape, state.settings(config, learning=True), arrays)
        slot = self._allocate(config, shape)
        for name, array in arrays.items():
            self._set(slot, name, array)
        return slot

    def _allocate(self, config: SessionConfig, shape: Shape) -> Slot:
        if shape not in self._slabs:
            self._slabs[shape] = Slab(np, session_fields(shape))
        for group in shape.groups:
            if group.learner not in self._schools:
                device, host = tbptt.device_fields(group.learner), tbptt.host_fields(group.learner)
                self._schools[group.learner] = _School(Slab(self.backend.xp, device), Slab(np, host))
        taken: list[tuple[Slab, int]] = []

        def take(slab: Slab) -> int:
            taken.append((slab, slab.allocate()))
            return taken[-1][1]

        try:
            index, learners = take(self._slabs[shape]), []
            for group in shape.groups:
                school = self._schools[group.learner]
                learners.append(tuple(_paired(take(school.host), take(school.device)) for _ in group.members))
        except BaseException:
            for slab, slot in taken:
                slab.release(slot)
            raise
        return Slot(shape, index, tuple(learners), config)

    def _place(self, slot: Slot, name: str) -> tuple[Slab, int, str]:
        """Slab, slot and name there of one of a session's fields; KeyError if it has no such field."""
        prefix, _, own = name.rpartition(".")
        if not prefix:
            slab, index = self._slabs[slot.shape], slot.index
        else:
            group, index = _learner_place(slot, int(prefix.removeprefix("learner")))
            school = self._schools[group.learner]
            slab = school.device if own in school.device else school.host
        if own not in slab:
            raise KeyError(name)
        return slab, index, own

    def _get(self, slot: Slot, name: str) -> Any:
        slab, index, own = self._place(slot, name)
        return slab.get(own, index)

    def _set(self, slot: Slot, name: str, value: Any) -> None:
        slab, index, own = self._place(slot, name)
        slab.set(own, index, value)

    def _has(self, slot: Slot, name: str) -> bool:
        try:
            return bool(self._place(slot, name))
        except KeyError:
            return False

    def _names(self, slot: Slot) -> list[str]:
        return [f.name for f in state.all_fields(slot.shape)]

    def _counts(self, slot: Slot, learner: int) -> UpdateCounts:
        return UpdateCounts(*(int(self._get(slot, field_name(learner, f.name))) for f in fields(UpdateCounts)))

    def _host_row(self, slot: Slot) -> dict[str, Any]:
        """The session's own arrays, by name; copies."""
        return {name: rows[0] for name, rows in self._slabs[slot.shape].take(np.array([slot.index])).items()}

    def _take(self, slots: list[Slot]) -> tuple[Rows, list[Team]]:
        """Copies of the rows of sessions of one shape, and of their learners, session by session."""
        shape = slots[0].shape
        host = self._slabs[shape].take(np.array([slot.index for slot in slots]))
        teams = []
        for school, index in self._learners(slots):
            teams.append(Team(school.device.take(index), school.host.take(index)))
        return host, teams

    def _put(self, slots: list[Slot], host: Rows, teams: list[Team]) -> None:
        """Writes back what `_take` took."""
        self._slabs[slots[0].shape].put(np.array([slot.index for slot in slots]), host)
        for (school, index), team in zip(self._learners(slots), teams, strict=True):
            school.device.put(index, team.device)
            school.host.put(index, team.book)

    def _learners(self, slots: list[Slot]) -> Iterator[tuple[_School, NDArray[np.int64]]]:
        """For each group of the sessions' shape its slabs and the slots of its learners, session by session."""
        for g, group in enumerate(slots[0].shape.groups):
            yield self._schools[group.learner], np.array([slot.learners[g] for slot in slots]).ravel()

    def _step_shape(
        self, shape: Shape, work: list[tuple[Slot, Events]]
    ) -> tuple[list[Outcomes], tuple[list[Slot], Rows, list[Team]]]:
        """One call's events of all sessions of one shape: their outcomes, and what is to be written back."""
        slab = self._slabs[shape]
        clocks = np.stack([slab.get("timeline", slot.index) for slot, _ in work])
        steps = []
        for row, (_, events) in zip(clocks, work, strict=True):
            clock, session_steps = timeline.steps_of(
                timeline.Timeline.of_row(row), events, shape.longest_gap, shape.labels
            )
            row[...] = clock.row()
            steps.append(session_steps)
        # Longest first: the sessions that still have a step are then always the first ones, and views suffice.
        order = np.argsort([-len(s) for s in steps], kind="stable")
        slots = [work[k][0] for k in order]
        host, teams = self._take(slots)
        host["timeline"] = clocks[order]
        outcomes = stages.run(self.backend.xp, shape, host, teams, [steps[k] for k in order])
        return [outcomes[k] for k in np.argsort(order, kind="stable")], (slots, host, teams)


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


def _members(shape: Shape, teams: list[Team]) -> Iterator[tuple[tbptt.LearnerShape, int, Rows, Rows]]:
    """Of every learner of ONE session, in the order of the portfolio: shape, anchor, and copies of its rows."""
    found: dict[int, tuple[tbptt.LearnerShape, int, Rows, Rows]] = {}
    for group, team in zip(shape.groups, teams, strict=True):
        for row, (k, anchor) in enumerate(zip(group.members, group.anchors, strict=True)):
            device, book = ({n: a[row : row + 1].copy() for n, a in rows.items()} for rows in (team.device, team.book))
            found[k] = group.learner, anchor, device, book
    yield from (found[k] for k in sorted(found))
