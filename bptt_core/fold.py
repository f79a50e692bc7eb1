"""The fold: (state, events) → (state, outcomes), for many sessions in one call.

Data flows one way, scale → learners → forecasts, and each stage runs over the steps of all sessions of the call that
have one shape. The state of a session is its rows in two slabs (one of the backend's arrays, one of NumPy's). A call
works on copies of the rows and writes them back at its end, so a call that raises has changed nothing; and it reads
no clock, no environment and no random source, so the same events give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt_core import checkpoint, forecasts, scaling, soundness, stages, tbptt, timeline
from bptt_core.backends import Backend
from bptt_core.checks import FieldError
from bptt_core.config import LearnerConfig, SessionConfig, check_learning_rate
from bptt_core.events import Events, Labelled, Labels, Outcomes, SessionStatus
from bptt_core.initializers import initial_parameters
from bptt_core.parameters import ParameterLayout
from bptt_core.slab import Slab
from bptt_core.stages import Shape
from bptt_core.warm_start import WarmUp


@dataclass(frozen=True, slots=True)
class Slot:
    """A session inside a Fold: where its rows are. Opaque to everyone else, and good until `Fold.delete`."""

    shape: Shape
    index: int
    config: SessionConfig


def session_bytes(config: SessionConfig) -> int:
    """Bytes that the state of one such session takes in a Fold (which reserves for up to twice its sessions)."""
    return sum(f.bytes for fields in stages.fields(Shape.of(config.validated())) for f in fields)


def session_layout(config: SessionConfig) -> ParameterLayout:
    """Shapes of the network of a session with this validated configuration."""
    return Shape.of(config).learner.layout


class Fold:
    """Owns the state of many sessions. Not safe for use by several threads at once."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._slabs: dict[Shape, tuple[Slab, Slab]] = {}

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
        for shape, positions in by_shape.items():
            group = [work[position] for position in positions]
            with np.errstate(all="ignore"):
                outcomes |= zip(positions, self._step_shape(shape, group), strict=True)
        return [outcomes[position] for position in range(len(work))]

    def label(self, slot: Slot, labels: Labels) -> Labelled:
        """Takes labels of events folded before: scores them, and leaves those whose step is still in the window for
        the next update. They must have passed `check_labels` and must not be known yet (NaN excepted)."""
        shape, index = slot.shape, np.array([slot.index])
        device_slab, host_slab = self._slabs[shape]
        device, host = device_slab.take(index), host_slab.take(index)
        ring = (labels.sequences - 1) % shape.label_slots
        back = host["steps_taken"][0] - 1 - host["event_step"][0][ring]
        with np.errstate(all="ignore"):
            targets, residual_scale = scaling.late(shape.scaling, host, ring, labels.values)
            scaled = self.backend.xp.asarray(targets.astype(device["params"].dtype))
            trainable = tbptt.late_labels(shape.learner, device, host, back, scaled)
            shape.serving.late(shape.served, host, ring, labels.values, residual_scale)
        device_slab.put(index, device)
        host_slab.put(index, host)
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
        index = np.array([slot.index])
        device_slab, host_slab = self._slabs[slot.shape]
        rows = device_slab.take(index), host_slab.take(index)

        def store() -> None:
            device_slab.put(index, rows[0])
            host_slab.put(index, rows[1])

        return WarmUp(self.backend.xp, slot.shape, *rows, history, per_pass, store)

    def create(
        self, config: SessionConfig, learning: bool = True, parameters: NDArray[np.float32] | None = None
    ) -> Slot:
        """A new session. Its network is drawn from the seed, or is `parameters`, a row [P] of `session_layout`.

        Raises FieldError.
        """
        config = config.validated()
        layout = session_layout(config)
        if parameters is None:
            parameters = initial_parameters(layout, config.learner)
        elif parameters.shape != (layout.size,):
            raise ValueError(f"{parameters.shape} parameters for a network of {layout.size}")
        slot = self._allocate(config)
        self._set(slot, "params", parameters)
        self._set(slot, "timeline", timeline.Timeline(period_ns=config.period_ns or 0).row())
        for name, value in _settings(config, learning).items():
            if self._has(slot, name):
                self._set(slot, name, value)
        return slot

    def parameters(self, slot: Slot) -> NDArray[np.float32]:
        """A copy of the network's parameters, a row [P] of `session_layout`."""
        row: NDArray[np.float32] = np.array(tbptt.to_host(self._get(slot, "params")))
        return row

    def delete(self, slot: Slot) -> None:
        """Forgets the session."""
        for part in self._slabs[slot.shape]:
            part.release(slot.index)
        if part.empty:
            del self._slabs[slot.shape]

    def configure(self, slot: Slot, *, learning: bool | None = None, learning_rate: float | None = None) -> None:
        """Changes what may change while a session lives. Raises FieldError."""
        if learning_rate is not None:
            check_learning_rate(learning_rate, slot.config.learner.weight_decay or 0.0)
            self._set(slot, "learning_rate", learning_rate)
        if learning is not None:
            self._set(slot, "learning", learning)

    def latest(self, slot: Slot) -> Outcomes | None:
        """The outcome of the last event; None before the first."""
        sequence = int(self._get(slot, "last_sequence"))
        if sequence == 0:
            return None
        rows = [np.array(self._get(slot, f.name))[None] for f in slot.shape.outcome]
        return Outcomes(sequence, *rows)

    def status(self, slot: Slot, scores: bool = True) -> SessionStatus:
        """Counters, time and, unless it is not wanted, scores."""
        clock = timeline.Timeline.of_row(self._get(slot, "timeline"))
        count = {
            name: int(self._get(slot, name)) for name in (*stages.UPDATE_COUNTERS.values(), "clipped", "carry_resets")
        }
        return SessionStatus(
            last_sequence=int(self._get(slot, "last_sequence")),
            last_timestamp_ns=clock.last_ns if clock.timed == 1 else None,
            period_ns=clock.period_ns if clock.timed == 1 and clock.period_ns else None,
            timed=None if clock.timed == timeline.UNKNOWN else bool(clock.timed),
            learning=bool(self._get(slot, "learning")),
            learning_rate=float(self._get(slot, "learning_rate")),
            parameters=slot.shape.learner.layout.size,
            scores=slot.shape.serving.scores(slot.shape.served, self._host_row(slot)) if scores else None,
            **count,
        )

    def checkpoint(self, slot: Slot) -> bytes:
        """The whole session as bytes."""
        arrays: dict[str, Any] = {}
        for part in self._slabs[slot.shape]:
            arrays |= {f.name: tbptt.to_host(part.get(f.name, slot.index)) for f in part.fields}
        return checkpoint.dump(slot.config, self.backend.fingerprint, arrays)

    def restore(self, data: bytes) -> Slot:
        """A session from `checkpoint`'s bytes, whoever wrote them. Raises CheckpointError; nothing is made then."""
        config, arrays = checkpoint.load(data)
        try:
            config = config.validated()
        except FieldError as error:
            raise checkpoint.CheckpointError(f"its configuration is not valid: {error}") from error
        shape = Shape.of(config)
        checkpoint.check_arrays(arrays, [f for fields in stages.fields(shape) for f in fields])
        soundness.check(shape, _settings(config, learning=True), arrays)
        slot = self._allocate(config)
        for part in self._slabs[slot.shape]:
            for f in part.fields:
                part.set(f.name, slot.index, arrays[f.name])
        return slot

    def _allocate(self, config: SessionConfig) -> Slot:
        shape = Shape.of(config)
        if shape not in self._slabs:
            device, host = stages.fields(shape)
            self._slabs[shape] = Slab(self.backend.xp, device), Slab(np, host)
        device_slab, host_slab = self._slabs[shape]
        index = host_slab.allocate()
        try:
            assert device_slab.allocate() == index
        except BaseException:
            host_slab.release(index)
            raise
        return Slot(shape, index, config)

    def _part(self, slot: Slot, name: str) -> Slab:
        device, host = self._slabs[slot.shape]
        return host if any(f.name == name for f in host.fields) else device

    def _get(self, slot: Slot, name: str) -> Any:
        return self._part(slot, name).get(name, slot.index)

    def _set(self, slot: Slot, name: str, value: Any) -> None:
        self._part(slot, name).set(name, slot.index, value)

    def _has(self, slot: Slot, name: str) -> bool:
        return any(f.name == name for part in self._slabs[slot.shape] for f in part.fields)

    def _host_row(self, slot: Slot) -> dict[str, Any]:
        """The session's own arrays on the host, by name; copies."""
        host = self._slabs[slot.shape][1]
        return {name: rows[0] for name, rows in host.take(np.array([slot.index])).items()}

    def _step_shape(self, shape: Shape, work: list[tuple[Slot, Events]]) -> list[Outcomes]:
        """One call's events of all sessions of one shape."""
        device_slab, host_slab = self._slabs[shape]
        slots = np.array([slot.index for slot, _ in work])
        clocks = np.stack([host_slab.get("timeline", slot) for slot in slots])
        steps = []
        for row, (_, events) in zip(clocks, work, strict=True):
            clock, session_steps = timeline.steps_of(
                timeline.Timeline.of_row(row), events, shape.longest_gap, shape.labels
            )
            row[...] = clock.row()
            steps.append(session_steps)
        # Longest first: the sessions that still have a step are then always the first ones, and views suffice.
        order = np.argsort([-len(s) for s in steps], kind="stable")
        sorted_steps = [steps[k] for k in order]
        device, host = device_slab.take(slots[order]), host_slab.take(slots[order])
        host["timeline"] = clocks[order]
        outcomes = stages.run(self.backend.xp, shape, device, host, sorted_steps)
        device_slab.put(slots[order], device)
        host_slab.put(slots[order], host)
        return [outcomes[k] for k in np.argsort(order, kind="stable")]


def _settings(config: SessionConfig, learning: bool) -> dict[str, Any]:
    """Fields that a configuration sets, where the session's shape has them."""
    learner: LearnerConfig = config.learner
    limits = {"norm": learner.clip_norm, "value": learner.clip_value, "quantile": learner.clip_quantile, "off": 0.0}
    return {
        "learning": learning,
        "learning_rate": learner.learning_rate,
        "beta1": learner.beta1,
        "beta2": learner.beta2,
        "weight_decay": learner.weight_decay,
        "warmup_updates": learner.warmup_updates,
        "decay_updates": learner.decay_updates,
        "rate_floor": learner.rate_floor,
        "clip_limit": limits[learner.clip],
        "loss_parameter": learner.student_dof if learner.loss == "student_t" else learner.huber_delta,
        "given_mean": config.means,
        "given_deviation": config.deviations,
        "coverage_target": config.coverage,
        "reach": forecasts.initial_reach(config.coverage),
    }
