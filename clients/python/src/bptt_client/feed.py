"""One session's side of a stream, without the stream: what to send next, what is acknowledged, when to come back.

Rows go in, messages come out; messages go in, results come out. A batch is kept until it is acknowledged and sent again
under the same sequences after a broken connection, so the server can tell a repeat from an event. The end of a
connection says nothing about what was sent on it; only an answer does. Knows no socket, thread or clock:
`stream.py` and `aio_stream.py` bring those.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Final

from bptt.v1 import forecast_pb2
from bptt_client import answers, calls, errors
from bptt_client.answers import Known
from bptt_client.events import Batch, Event, Given, encode, timed_as_before
from bptt_client.replies import BatchResult

CHANNEL: Final = 1
# The server recognises repeats of this many events, so no more may be unacknowledged when a connection breaks.
MAX_UNACKNOWLEDGED: Final = 4096
# Results nobody has read; beyond it the oldest are dropped and counted.
MAX_UNREAD_RESULTS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Resume:
    """How a stream comes back after a broken connection or an overloaded server: at most `attempts` times without one
    event being acknowledged in between, waiting `first_delay_s`, then twice as long each time up to `longest_delay_s`,
    each wait shortened at random by up to half; never shorter than the server asks for. 0 attempts: never.
    """

    attempts: int = 10
    first_delay_s: float = 0.1
    longest_delay_s: float = 10.0

    def delay_s(self, attempt: int, asked_s: float | None) -> float:
        """Seconds to wait before `attempt`, counted from 1."""
        longest = min(self.longest_delay_s, self.first_delay_s * 2.0 ** min(attempt - 1, 60))
        return max(longest * random.uniform(0.5, 1.0), asked_s or 0.0)


@dataclass(frozen=True, slots=True)
class Step:
    """What the owner of the connection does next: wait `pause_s`, and then read on, or `reconnect`."""

    pause_s: float = 0.0
    reconnect: bool = False


GO_ON: Final = Step()
OVER: Final = Step()


class Feed:
    """The decisions of one stream of one session.

    `live`: do not wait for a full batch while nothing is in flight. `in_flight`: a bound of the caller's own on
    events sent and not acknowledged, within the server's credit. `first_row`: the caller's number of the first row.
    """

    def __init__(
        self,
        known: Known,
        reply: calls.ReplyMode,
        batch: int,
        live: bool,
        in_flight: int | None,
        resume: Resume,
        first_row: int = 0,
    ) -> None:
        if reply not in calls.REPLY_MODES:
            raise ValueError(f"reply is {reply!r}; allowed: {', '.join(calls.REPLY_MODES)}")
        if batch < 1 or (in_flight is not None and in_flight < 1):
            raise ValueError(f"batch is {batch}, in_flight {in_flight}; allowed: 1 or more")
        self.known, self.dropped_results = known, 0
        self._mode, self._batch, self._live, self._resume = calls.REPLY_MODES[reply], batch, live, resume
        self._own_limit = min(in_flight or MAX_UNACKNOWLEDGED, MAX_UNACKNOWLEDGED)
        self._limit, self._most = min(batch, self._own_limit), batch
        self._open = Batch(known.last_sequence + 1)
        self._row_of_sequence_0 = first_row - self._open.first
        self._waiting: deque[Batch] = deque()  # complete, not sent on this connection
        self._sent: deque[Batch] = deque()  # sent on this connection, no answer yet
        self._again: list[Batch] = []  # refused on this connection, to be sent again once every answer is in
        self._results: deque[BatchResult] = deque()
        self._unacknowledged = 0
        self._timed: bool | None = None
        self._connected = self._finishing = self._end_sent = False
        self._connections = self._failures = 0

    # Rows in.

    def encode(self, given: Given) -> Event:
        """The columns of one event. Raises TypeError or ValueError."""
        return encode(given, self.known)

    def has_room(self) -> bool:
        """Whether one more event may be added now."""
        return self._unacknowledged < self._limit

    def add(self, event: Event) -> None:
        """Takes the next event; `has_room` must hold. Raises ValueError if only some events have a time."""
        if self._finishing:
            raise RuntimeError("the stream is closing")
        self._timed = timed_as_before(self._timed, event)
        self._open.add(event)
        self._unacknowledged += 1
        if self._open.count >= min(self._batch, self._limit):
            self.flush()

    def flush(self) -> None:
        """Ends the batch being filled, so that it can be sent."""
        if self._open.count:
            self._waiting.append(self._open)
            self._open = Batch(self._open.last + 1)

    def finish(self) -> None:
        """No more rows: once everything is acknowledged the end message follows."""
        self.flush()
        self._finishing = True

    def settled(self) -> bool:
        """Whether every event taken has been acknowledged."""
        return self._unacknowledged == 0

    # Results out.

    @property
    def reconnects(self) -> int:
        """How often the connection had to be made again."""
        return max(0, self._connections - 1)

    def has_results(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._results)

    def take(self) -> list[BatchResult]:
        """The batches acknowledged since the last time."""
        taken = list(self._results)
        self._results.clear()
        return taken

    # Messages out.

    def opening(self) -> forecast_pb2.StreamRequest:
        """First message of a new connection; whatever was in flight on the one before will be sent again."""
        self._put_back()
        self._connections += 1
        self._connected = self._end_sent = False
        known = self.known
        return forecast_pb2.StreamRequest(
            open=forecast_pb2.StreamOpen(
                channel=CHANNEL, session_id=known.session_id, session_uid=known.uid, reply_mode=self._mode
            )
        )

    def requests(self, now: float) -> list[forecast_pb2.StreamRequest]:
        """What may be sent now, within the credit."""
        if not self._connected or self._again:
            return []
        if self._live and not self._sent and not self._waiting:
            self.flush()
        out = []
        in_flight = sum(batch.count for batch in self._sent)
        while self._waiting and in_flight + self._waiting[0].count <= self._limit:
            batch = self._waiting.popleft()
            batch.sent_at = now
            in_flight += batch.count
            self._sent.append(batch)
            out.append(self._message(batch))
        if self._finishing and self.settled() and not self._end_sent:
            self._end_sent = True
            out.append(forecast_pb2.StreamRequest(end=forecast_pb2.StreamEnd()))
        return out

    def _message(self, batch: Batch) -> forecast_pb2.StreamRequest:
        events = forecast_pb2.StreamEvents(channel=CHANNEL, batch=batch.message(self.known.uid))
        return forecast_pb2.StreamRequest(events=events)

    # Messages in.

    def receive(self, message: forecast_pb2.StreamResponse, now: float) -> Step:
        """Takes one message of the server. Raises the exception of an error that trying again does not mend."""
        match message.WhichOneof("response"):
            case "opened":
                self._on_opened(message.opened)
            case "result":
                self._on_result(message.result.result, now)
            case "error":
                return self._on_error(message.error)
            case "ended":
                if not self._end_sent:
                    raise errors.ProtocolError("the server ended a stream that was not finished", code="INTERNAL")
        return GO_ON  # after `ended` and `draining` the server closes the connection

    def _on_opened(self, opened: forecast_pb2.StreamOpened) -> None:
        known = self.known
        if opened.last_sequence < known.last_sequence:
            raise errors.SessionRewound(known.session_id, known.last_sequence, opened.last_sequence)
        self._limit = max(1, min(self._own_limit, opened.credit_events))
        self._most = max(1, min(opened.max_batch_events, self._limit))
        self._batch = min(self._batch, self._most)
        self._waiting = deque(part for batch in self._waiting for part in batch.split(self._most))
        if self._open.count >= self._batch:
            self._waiting.extend(self._open.split(self._most))
            self._open = Batch(self._open.last + 1)
        self._connected = True

    def _on_result(self, result: forecast_pb2.BatchResult, now: float) -> None:
        batch = self._answered(result.first_sequence)
        if result.last_sequence < batch.last:
            raise errors.ProtocolError("an acknowledgement stops short of its batch", code="INTERNAL")
        read = answers.read_result(result, self.known, now - batch.sent_at)
        # An answer names the session's last sequence, which may be ahead of a repeated batch.
        self._results.append(
            BatchResult(read.first_sequence, batch.last, read.duplicates, read.outcomes, read.round_trip_s)
        )
        self.known.last_sequence = max(self.known.last_sequence, batch.last)
        self._unacknowledged -= batch.count
        self._failures = 0
        if len(self._results) > MAX_UNREAD_RESULTS:
            self._results.popleft()
            self.dropped_results += 1

    def _on_error(self, message: forecast_pb2.StreamError) -> Step:
        error = answers.rewound(answers.stream_failure(message.error), self.known)
        if message.first_sequence == 0 or message.closed:
            return Step(self._retry_after(self._gone(error)), reconnect=True)
        skipped = message.error.reason == "SKIPPED"
        out_of_step = skipped and not self._again
        batch = self._answered(message.first_sequence)
        sequences = range(batch.first, batch.last + 1)
        rows = range(self._row_of_sequence_0 + batch.first, self._row_of_sequence_0 + batch.last + 1)
        error = answers.located(error, self.known, answers.Numbering(sequences, rows, whole=True))
        self._again.append(batch)
        pause = 0.0
        if out_of_step:
            pause = self._retry_after(errors.Unavailable(str(error), code="UNAVAILABLE", reason="SKIPPED"))
        elif not skipped:
            pause = self._retry_after(error)
        # After an error the server takes nothing but what follows its last sequence. A repeat would be skipped for
        # ever; a new connection forgets the error.
        if out_of_step or (not skipped and batch.first != message.last_sequence + 1):
            return Step(pause, reconnect=True)
        if not self._sent:
            self._put_back()
        return Step(pause)

    def _gone(self, error: errors.BpttError) -> errors.BpttError:
        """A session that a connection before this one had, and that was acknowledged to have events, was lost."""
        acknowledged = self.known.last_sequence
        lost = isinstance(error, errors.SessionNotFound) and self.reconnects and not self._connected and acknowledged
        return errors.SessionRewound(self.known.session_id, acknowledged, 0, exists=False) if lost else error

    def _answered(self, first_sequence: int) -> Batch:
        if not self._sent or self._sent[0].first != first_sequence:
            raise errors.ProtocolError(f"an answer to sequence {first_sequence} that was not due", code="INTERNAL")
        return self._sent.popleft()

    def _put_back(self) -> None:
        again = [*self._again, *self._sent]
        self._waiting.extendleft(reversed(again))
        self._again.clear()
        self._sent.clear()

    def lost(self, error: errors.BpttError | None) -> Step:
        """The connection is gone, with `error` or (None) as if it had ended well. Raises when it is not to be
        remade.
        """
        if self._finishing and self.settled():
            return OVER  # nothing was left to say but goodbye
        if error is None or (error.reason == "" and error.code in ("UNKNOWN", "INTERNAL")):
            text = "the connection ended early" if error is None else f"the connection broke: {error}"
            error = errors.Unavailable(text, code="UNAVAILABLE")
        return Step(self._retry_after(error), reconnect=True)

    def _retry_after(self, error: errors.BpttError) -> float:
        """Seconds to wait before trying again. Raises `error` if that does not help, or was done often enough."""
        if error.retry_delay_s is None and not isinstance(error, errors.Unavailable):
            raise error
        self._failures += 1
        if self._failures > self._resume.attempts:
            raise error
        return self._resume.delay_s(self._failures, error.retry_delay_s)
