"""Every metric of the server, on a registry of its own.

The only module that declares metrics. No label grows with the number of sessions, known label values exist from the
start, children are bound once, and a value that is not finite is counted apart instead of observed (one NaN would spoil
a histogram's sum for ever). The grpc_server_* names are those of the usual gRPC exporters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from operator import attrgetter
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeHistogramMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.utils import floatToGoString

from bptt_core import Backend, Outcomes, ResetReason, SensorState, UpdateResult
from server.errors import CODES, TABLE
from server.tallies import Count, Tally

_LATENCY_S: Final = (
    0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2,
    0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
_UPDATE_S: Final = (1e-5, 2e-5, 3e-5, 5e-5, 7e-5, 0.0001, *_LATENCY_S)
_NORM: Final = tuple(10.0 ** (k / 2) for k in range(-12, 13))
_NORM_BY_LAG: Final = tuple(10.0**k for k in range(-12, 7))
_LAGS: Final = ("0", *(str(2**k) for k in range(10)), "window")
_RATIO: Final = tuple(10.0 ** (k / 2) for k in range(-16, 3))
_SHARE: Final = (0.001, 0.003, 0.01, 0.03, 0.05, *(k / 10 for k in range(1, 10)), 0.95, 0.99, 1.0)
_LOSS: Final = tuple(10.0 ** (k / 2) for k in range(-10, 9))
_SKILL: Final = (-1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
_COUNTS: Final = tuple(float(2**k) for k in range(15))
_TOLD_TABLES: Final = 16  # outcomes are looked at that many tables at a time, about a ms; or so many bytes
_TOLD_BYTES: Final = 2**20
_KINDS: Final = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}
_RESULTS: Final = {
    UpdateResult.APPLIED: "applied",
    UpdateResult.NO_TARGET: "no_target",
    UpdateResult.NON_FINITE: "non_finite",
    UpdateResult.LEARNING_OFF: "learning_off",
}


@dataclass(slots=True)
class _Folded:
    """A micro-batch whose outcomes were not looked at yet."""

    tables: list[Outcomes]
    sessions: int
    seconds: float
    carry_resets: int


class Metrics:
    """What one server counts. Methods take whole batches and run on the network's thread, `page` on any."""

    def __init__(self, backend: Backend, version: str) -> None:
        disable_created_metrics()
        self.registry = r = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=r)
        info = Gauge("bptt_backend_info", "Where sessions compute; always 1.", ["backend", "version"], registry=r)
        info.labels(backend.name, version).set(1)

        events = Counter(
            "bptt_events_total",
            "Events received for a session or channel that was there, by what became of them.",
            ["outcome"],
            registry=r,
        )
        self._accepted = Count(events.labels("accepted"))
        self._duplicate, self._rejected = map(events.labels, ("duplicate", "rejected"))
        labels = Counter(
            "bptt_labels_total",
            "Labels (not NaN) received with events or later, by what became of them.",
            ["outcome"],
            registry=r,
        )
        self._labels, self._same_labels, self._wrong_labels = map(labels.labels, ("accepted", "duplicate", "rejected"))
        self.warm_starts = Counter(
            "bptt_warm_starts_total", "Sessions trained on a history before their first event.", registry=r
        )
        updates = Counter(
            "bptt_updates_total",
            "Events at which an update was due, by what became of it: the best of the results of a session's learners.",
            ["result"],
            registry=r,
        )
        self._updates: dict[int, Counter] = {result: updates.labels(label) for result, label in _RESULTS.items()}
        self._clipped = Counter(
            "bptt_clipped_updates_total", "Applied updates whose gradient the clip changed.", registry=r
        )
        non_finite = Counter(
            "bptt_non_finite_total",
            "Values that were not finite: loss or norm of an event's updates (none applied), a carry (set to zero).",
            ["kind"],
            registry=r,
        )
        self._non_finite_update = non_finite.labels("update")
        self._non_finite_carry = non_finite.labels("carry")
        self._resets = _by_name(
            Counter(
                "bptt_learner_resets_total",
                "Learners that went back to their last good parameters or began anew, by why.",
                ["reason"],
                registry=r,
            ),
            ResetReason,
        )
        self._sensors = _by_name(
            Counter(
                "bptt_sensor_states_total", "Values of targets folded, by what their sensor did.", ["state"], registry=r
            ),
            SensorState,
        )
        self._anomalous = Counter("bptt_anomalous_events_total", "Events with an anomaly score above 1.", registry=r)
        self._drifts = Counter(
            "bptt_drifts_total", "Events at which a change of the usual error was detected.", registry=r
        )
        self._of_updates = {  # by column of Outcomes
            "gradient_norm": Tally(
                "bptt_gradient_norm", "Global gradient norm of an update, before the clip.", _NORM, r
            ),
            "loss": Tally("bptt_loss", "Loss of an update on scaled residuals, before it was applied.", _LOSS, r),
            "saturation": Tally(
                "bptt_saturated_units_ratio",
                "Share of gate and hidden units whose slope was below a tenth of its largest, in the forward of an "
                "update.",
                _SHARE,
                r,
            ),
            "update_ratio": Tally(
                "bptt_update_ratio", "Norm of an update's change of the parameters over their norm.", _RATIO, r
            ),
        }
        self._norm_by_lag = Tally(
            "bptt_gradient_norm_by_lag",
            "Norm of the gradient of the newest trained step alone, so many steps back, at every 64th update of a "
            "session; window: as far back as its window goes.",
            _NORM_BY_LAG,
            r,
            "lag",
            _LAGS,
        )
        self._update_seconds = Tally(
            "bptt_update_seconds",
            "Time of a micro-batch in the fold over the updates it applied, observed once if it applied any.",
            _UPDATE_S,
            r,
        )
        self._batch_seconds = Tally("bptt_micro_batch_seconds", "Time one micro-batch took in the fold.", _LATENCY_S, r)
        self.ingest_reply = Tally(
            "bptt_ingest_reply_seconds", "Time from the admission of a batch to its acknowledgement.", _LATENCY_S, r
        )
        self._batch_sessions = Tally("bptt_micro_batch_sessions", "Sessions stepped in one micro-batch.", _COUNTS, r)
        self._batch_events = Tally("bptt_micro_batch_events", "Events folded in one micro-batch.", _COUNTS, r)
        self.loop_delay = Tally(
            "bptt_event_loop_delay_seconds",
            "How late the network's loop ran a call that was due, measured 20 times a second.",
            _LATENCY_S,
            r,
        )
        self._untold: list[_Folded] = []
        self._untold_tables = self._untold_bytes = 0
        self._telling = Lock()
        self._queue = Gauge("bptt_queue_events", "Events admitted and not yet folded.", registry=r)
        self._sessions = Gauge("bptt_sessions", "Live sessions.", registry=r)
        self.skill = Skill(r)
        self.streams = Gauge("bptt_streams", "Open streams.", registry=r)
        self.watchers = Gauge("bptt_watchers", "Open watches.", registry=r)
        self.watch_dropped = Counter(
            "bptt_watch_dropped_events_total", "Outcomes not sent to a watch because its reader was slow.", registry=r
        )
        self._draining = Gauge("bptt_draining", "1 while the server refuses new work and finishes.", registry=r)
        errors = Counter("bptt_errors_total", "Refused calls, batches and opens, by reason.", ["reason"], registry=r)
        self.errors = {reason: errors.labels(reason) for reason in TABLE}
        self.calls = Calls(r)

    def follow(self, queue: Callable[[], int], sessions: Callable[[], int], draining: Callable[[], bool]) -> None:
        """Reads these gauges from the server's own state whenever they are asked for."""
        self._queue.set_function(queue)
        self._sessions.set_function(sessions)
        self._draining.set_function(draining)

    def admitted(self, new: int, duplicates: int) -> None:
        """A batch passed."""
        self._accepted.add(new)
        if duplicates:
            self._duplicate.inc(duplicates)

    def rejected(self, events: int, labels: int) -> None:
        """A batch was refused, or late labels were (of no event)."""
        self._rejected.inc(events)
        self._wrong_labels.inc(labels)

    def labelled(self, new: int, duplicates: int) -> None:
        """Labels passed."""
        self._labels.inc(new)
        self._same_labels.inc(duplicates)

    def folded(self, outcomes: list[Outcomes], seconds: float, carry_resets: int) -> None:
        """A micro-batch went through the fold. What its outcomes say is counted some micro-batches at a time."""
        tables: dict[int, Outcomes] = {}  # a table holds rows of this micro-batch only, so it is counted as it lies
        for outs in outcomes:
            tables.setdefault(id(outs.source), outs)
        whole = [outs.table for outs in tables.values()]
        with self._telling:
            self._untold.append(_Folded(whole, len(outcomes), seconds, carry_resets))
            self._untold_tables += len(whole)
            self._untold_bytes += sum(table.nbytes for table in whole)
            if self._untold_tables >= _TOLD_TABLES or self._untold_bytes >= _TOLD_BYTES:
                self._tell()

    def _tell(self) -> None:
        """Counts what the outcomes of the last micro-batches say."""
        batches, self._untold = self._untold, []
        self._untold_tables = self._untold_bytes = 0
        tables = [outs for batch in batches for outs in batch.tables]
        if not tables:
            return

        def column(name: str) -> NDArray[Any]:
            return np.concatenate(list(map(attrgetter(name), tables)))

        def flat(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(outs, name).ravel() for outs in tables])

        results = column("update_result")
        applied = results == UpdateResult.APPLIED
        self._tell_batches(batches, applied)
        _add(self._updates, results)
        _add(self._resets, flat("learner_reset"))
        _add(self._sensors, flat("sensor_state"))
        self._anomalous.inc(int(np.count_nonzero(column("anomaly_score") > 1)))
        self._drifts.inc(int(np.count_nonzero(column("drift"))))
        self._non_finite_update.inc(int(np.count_nonzero(results == UpdateResult.NON_FINITE)))
        if applied.any():
            self._clipped.inc(int(np.count_nonzero(column("clip_scale")[applied] < 1)))
            for name, tally in self._of_updates.items():
                tally.observe_all(column(name)[applied])
        by_lag: dict[int, list[NDArray[np.float32]]] = {}
        for outs in tables:
            by_lag.setdefault(outs.norm_by_lag.shape[1], []).append(outs.norm_by_lag)
        for parts in by_lag.values():
            self._fading(np.concatenate(parts))

    def _tell_batches(self, batches: list[_Folded], applied: NDArray[np.bool_]) -> None:
        """Counts the micro-batches themselves; `applied` has the events of all of them."""
        first = 0
        for batch in batches:
            count = sum(map(len, batch.tables))
            self._batch_sessions.observe(batch.sessions)
            self._batch_events.observe(count)
            self._batch_seconds.observe(batch.seconds)
            self._non_finite_carry.inc(batch.carry_resets)
            updates = int(np.count_nonzero(applied[first : first + count]))
            if updates:
                self._update_seconds.observe(batch.seconds / updates)
            first += count

    def _fading(self, table: NDArray[np.float32]) -> None:
        """Observes gradients by lag, [n, lags]; the last column is the window's."""
        for norms in table[~np.isnan(table).all(axis=1)].tolist():
            for child, norm in enumerate(norms[:-1]):
                self._norm_by_lag.observe(norm, child)
            self._norm_by_lag.observe(norms[-1], len(_LAGS) - 1)

    def page(self) -> bytes:
        """The registry as Prometheus text. Called from the HTTP threads."""
        with self._telling:
            self._tell()
            self._accepted.tell()
            self.calls.tell()
        return generate_latest(self.registry)


class Skill:
    """The distribution of skill over sessions, as it was when last told."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tell(np.zeros(0))
        registry.register(self)

    def tell(self, skills: NDArray[np.float64]) -> None:
        """The skill of every session that has any; NaN counts for none."""
        known = np.clip(skills[~np.isnan(skills)], _SKILL[0], _SKILL[-1])
        buckets = [(floatToGoString(bound), int((known <= bound).sum())) for bound in (*_SKILL, math.inf)]
        self._told = buckets, float(known.sum())

    def collect(self) -> Iterator[GaugeHistogramMetricFamily]:
        """Called by the registry, on a thread of the HTTP server."""
        buckets, total = self._told
        text = (
            "Skill of the sessions that have settled pairs: 1 less the running squared error over that of persistence; "
            "-1 stands for all below."
        )
        yield GaugeHistogramMetricFamily("bptt_session_skill", text, buckets=buckets, gsum_value=total)


class Calls:
    """The grpc_server_* families."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        self._started = Counter("grpc_server_started_total", "Calls started.", labels, registry=registry)
        self._handled = Counter(
            "grpc_server_handled_total", "Calls completed, by status code.", [*labels, "grpc_code"], registry=registry
        )
        self._received = Counter(
            "grpc_server_msg_received_total", "Messages received on calls.", labels, registry=registry
        )
        self._sent = Counter("grpc_server_msg_sent_total", "Messages sent on calls.", labels, registry=registry)
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "Time calls took.", labels, buckets=_LATENCY_S, registry=registry
        )
        self._bound: dict[tuple[str, str, str], Method] = {}

    def method(self, client_streaming: bool, server_streaming: bool, service: str, method: str) -> Method:
        """The counters of one method, all codes at 0 from the start. Only for methods that exist."""
        key = (_KINDS[client_streaming, server_streaming], service, method)
        if key not in self._bound:
            self._bound[key] = Method(
                self._started.labels(*key),
                self._received.labels(*key),
                self._sent.labels(*key),
                self._seconds.labels(*key),
                {code: self._handled.labels(*key, code) for code in CODES},
                lambda code: self._handled.labels(*key, code),
            )
        return self._bound[key]

    def tell(self) -> None:
        """Brings the counts of messages up to date."""
        for method in list(self._bound.values()):
            method.received.tell()
            method.sent.tell()


class Method:
    """The counters of one method."""

    def __init__(
        self,
        started: Counter,
        received: Counter,
        sent: Counter,
        seconds: Histogram,
        handled: dict[str, Counter],
        other: Callable[[str], Counter],
    ) -> None:
        self.started, self.seconds = started, seconds
        self.received, self.sent = Count(received), Count(sent)
        self._handled, self._other = handled, other

    def finished(self, code: str, seconds: float) -> None:
        """A call ended with `code`."""
        if code not in self._handled:
            self._handled[code] = self._other(code)
        self._handled[code].inc()
        self.seconds.observe(seconds)


def _by_name(counter: Counter, kinds: type[IntEnum]) -> dict[int, Counter]:
    """A counter's children, one for each kind."""
    return {kind: counter.labels(kind.name.lower()) for kind in kinds}


def _add(counters: dict[int, Counter], numbers: NDArray[np.int8]) -> None:
    """Counts the numbers of kinds."""
    found = np.bincount(numbers, minlength=max(counters) + 1)
    for kind, counter in counters.items():
        if found[kind]:
            counter.inc(int(found[kind]))
