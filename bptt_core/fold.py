"""The fold: (state, events) → (state, outcomes), for many sessions in one call.

What happens to sessions other than events: they are made, read, copied, configured, saved and forgotten. Their state
lies in a `Store`, and `stepping` takes events. A call that raises has changed nothing; and none reads a clock, the
environment or a random source, so the same events give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from bptt_core import checkpoint, scaling, scores, soundness, state, stepping, tbptt, timeline
from bptt_core.arrays import to_host
from bptt_core.backends import Backend
from bptt_core.checks import FieldError
from bptt_core.config import SessionConfig
from bptt_core.events import Events, Labelled, Labels, SessionStatus, UpdateCounts
from bptt_core.initializers import initial_parameters
from bptt_core.learner_config import check_learning_rate
from bptt_core.outcomes import Outcomes
from bptt_core.shape import Shape, field_name
from bptt_core.slab import Rows
from bptt_core.store import Slot, Store, Team
from bptt_core.warm_start import Pupil, WarmUp


class Fold:
    """Owns the state of many sessions. Not safe for use by several threads at once."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._store = Store(backend.xp, backend.order)

    def step(self, work: list[tuple[Slot, Events]]) -> list[Outcomes]:
        """Takes the events of each session (at most once each), and returns the outcomes in the same order.

        The events must have passed `check_events`. How they are spread over calls changes no bit of the result.
        """
        return stepping.step(self.backend, self._store, work)

    def label(self, slot: Slot, labels: Labels) -> Labelled:
        """Takes labels of events folded before: scores them, and leaves those whose step is still in the window for
        the next update. They must have passed `check_labels` and must not be known yet (NaN excepted)."""
        shape = slot.shape
        host, (team,) = self._store.take([slot])
        ring = (labels.sequences - 1) % shape.label_slots
        back = host["steps_taken"][0] - 1 - host["event_step"][0][ring]
        with np.errstate(all="ignore"):
            targets = scaling.late(shape.scaling, host, ring, labels.values)
            scaled = self.backend.xp.asarray(targets.astype(team.device["params"].dtype))
            trainable = tbptt.late_labels(shape.learner, team.device, team.book, back, scaled)
            shape.serving.late(shape.served, host, ring, labels.values)
        self._store.put([slot], host, [team])
        known = ~np.isnan(labels.values)
        return Labelled(int(known.sum()), int(known[trainable].sum()))

    def warm_start(self, slot: Slot, history: Events, per_pass: bool = False) -> WarmUp:
        """Begins to train a session that has had no event on a history, which must have passed `check_events`.

        Call `run_pass` on what is returned once per pass and then `finish`; until then the session is as it was, and
        it must be left alone. `per_pass`: one update per pass in place of one per sequence. Raises FieldError if the
        history is too long for the memory that full backpropagation through it takes.
        """
        if int(self._store.get(slot, "last_sequence")) > 0:
            raise ValueError("the session has had an event")
        host, teams = self._store.take([slot])
        pupils = [Pupil(*member) for member in _members(slot.shape, teams)]

        def store() -> None:
            for group, team in enumerate(teams):
                for row, k in enumerate(slot.shape.groups[group].members):
                    for mine, rows in ((team.device, pupils[k].device), (team.book, pupils[k].book)):
                        for name, array in mine.items():
                            array[row] = rows[name][0]
                if "good" in team.device:
                    team.device["good"][...] = team.device["params"]
            self._store.put([slot], host, teams)

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
        slot = self._store.allocate(config, shape)
        self._store.set(slot, "timeline", timeline.Timeline(period_ns=config.period_ns or 0).row())
        for k, learner in enumerate(config.portfolio):
            layout = shape.learner_shape(k).layout
            row = initial_parameters(layout, learner) if parameters is None else parameters
            for name in ("params", "good"):
                if self._store.has(slot, field_name(k, name)):
                    self._store.set(slot, field_name(k, name), row)
        for name, value in state.settings(config, learning).items():
            if self._store.has(slot, name):
                self._store.set(slot, name, value)
        return slot

    def fork(self, slot: Slot) -> Slot:
        """A copy of the session, to the bit."""
        copy = self._store.allocate(slot.config, slot.shape)
        for name in self._store.names(slot):
            self._store.set(copy, name, self._store.get(slot, name))
        return copy

    def parameters(self, slot: Slot) -> NDArray[np.float32]:
        """A copy of the parameters of a session's single network, a row [P] of `session_layout`."""
        if slot.shape.learners > 1:
            raise ValueError(f"the session has {slot.shape.learners} networks")
        row: NDArray[np.float32] = np.array(to_host(self._store.get(slot, field_name(0, "params"))))
        return row

    def delete(self, slot: Slot) -> None:
        """Forgets the session."""
        self._store.release(slot)

    def configure(self, slot: Slot, *, learning: bool | None = None, learning_rate: float | None = None) -> None:
        """Changes what may change while a session lives; a rate only where there is a single learner. Raises
        FieldError."""
        if learning_rate is not None:
            single = slot.config.learner
            if single is None:
                raise FieldError("learning_rate", learning_rate, "none, as the session has a portfolio of learners")
            check_learning_rate(learning_rate, single.weight_decay or 0.0)
            self._store.set(slot, field_name(0, "learning_rate"), learning_rate)
            self._store.set(slot, field_name(0, "rate_factor"), 1.0)
        if learning is not None:
            for k in range(slot.shape.learners):
                self._store.set(slot, field_name(k, "learning"), learning)

    def latest(self, slot: Slot) -> Outcomes | None:
        """The outcome of the last event; None before the first."""
        sequence = int(self._store.get(slot, "last_sequence"))
        if sequence == 0:
            return None
        rows = [np.array(self._store.get(slot, f.name))[None] for f in slot.shape.outcome]
        return Outcomes(sequence, *rows)

    def status(self, slot: Slot, scores: bool = True) -> SessionStatus:
        """Counters, time and, unless they are not wanted, scores and experts."""
        clock = timeline.Timeline.of_row(self._store.get(slot, "timeline"))
        shape, config = slot.shape, slot.config
        counts = [self._counts(slot, k) for k in range(shape.learners)]
        total = {f.name: sum(getattr(count, f.name) for count in counts) for f in fields(UpdateCounts)}
        row = self._store.row(slot) if scores else {}
        experts = shape.serving.read_experts(shape.served, row) if scores else []
        factors = [float(self._store.get(slot, field_name(k, "rate_factor"))) for k in range(shape.learners)]
        for k, (count, factor) in enumerate(zip(counts, factors, strict=True)):
            if experts:
                experts[k] = replace(experts[k], updates=count, rate_factor=factor)
        return SessionStatus(
            last_sequence=int(self._store.get(slot, "last_sequence")),
            last_timestamp_ns=clock.last_ns if clock.timed == 1 else None,
            period_ns=clock.period_ns if clock.timed == 1 and clock.period_ns else None,
            timed=None if clock.timed == timeline.UNKNOWN else bool(clock.timed),
            learning=bool(self._store.get(slot, field_name(0, "learning"))),
            learning_rate=float(self._store.get(slot, field_name(0, "learning_rate"))) if config.learner else None,
            parameters=sum(len(group.members) * group.learner.layout.size for group in shape.groups),
            updates=UpdateCounts(**total),
            carry_resets=sum(int(self._store.get(slot, field_name(k, "carry_resets"))) for k in range(shape.learners)),
            drifts=int(self._store.get(slot, "drift_count")) if self._store.has(slot, "drift_count") else 0,
            seasons=() if shape.scaling.seasons is None else tuple(self._store.get(slot, "season_period").tolist()),
            scores=shape.serving.read_scores(shape.served, row) if scores else None,
            experts=tuple(experts),
        )

    def backend_of(self, slot: Slot) -> str:
        """Who steps the session: the backend, or the backend for its networks and NumPy for the rest."""
        return self.backend.name_for(slot.shape)

    def skills(self) -> NDArray[np.float64]:
        """1 − mean squared error over persistence's, mean over the pairs, of every session that forecasts numbers and
        has met a value for which persistence was wrong; in no order."""
        name = "score_square"
        slabs = [slab for slab in self._store.slabs.values() if name in slab]
        skills = np.concatenate([np.empty(0), *(scores.skill(slab.take(slab.used, (name,))[name]) for slab in slabs)])
        known: NDArray[np.float64] = skills[~np.isnan(skills)]
        return known

    def checkpoint(self, slot: Slot) -> bytes:
        """The whole session as bytes."""
        arrays = {name: to_host(self._store.get(slot, name)) for name in self._store.names(slot)}
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
        slot = self._store.allocate(config, shape)
        for name, array in arrays.items():
            self._store.set(slot, name, array)
        return slot

    def _counts(self, slot: Slot, learner: int) -> UpdateCounts:
        return UpdateCounts(*(int(self._store.get(slot, field_name(learner, f.name))) for f in fields(UpdateCounts)))


def _members(shape: Shape, teams: list[Team]) -> Iterator[tuple[tbptt.LearnerShape, int, Rows, Rows]]:
    """Of every learner of ONE session, in the order of the portfolio: shape, anchor, and copies of its rows."""
    found: dict[int, tuple[tbptt.LearnerShape, int, Rows, Rows]] = {}
    for group, team in zip(shape.groups, teams, strict=True):
        for row, (k, anchor) in enumerate(zip(group.members, group.anchors, strict=True)):
            device, book = ({n: a[row : row + 1].copy() for n, a in rows.items()} for rows in (team.device, team.book))
            found[k] = group.learner, anchor, device, book
    yield from (found[k] for k in sorted(found))
