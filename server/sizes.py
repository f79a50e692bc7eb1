"""How many bytes things take, on the wire and in memory: what bounds batches, messages and what waits.

Upper bounds, by configuration alone. It knows neither requests nor messages.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from bptt_core import Scores, SessionConfig, Words, lags, session_layout
from server.batches import Batch
from server.errors import invalid_field
from server.sessions import Record, Reply, window_of

_MESSAGE_OVERHEAD_BYTES: Final = 4096
# A session without scores: names, targets and tags at their longest, four bytes per character, and all its learners.
SESSION_BYTES: Final = 128 * 1024
_SCORE_TABLES: Final = len(fields(Scores))
# Of an outcome: anomaly score and likelihood, update result, drift, warm-up, and five numbers of the update.
_REPORT_BYTES: Final = 2 * 8 + 3 * 1 + 5 * 4
_TARGET_BYTES: Final = 8 + 1  # anomaly score and sensor state
_RESET_BYTES: Final = 3 + 11 + 2 + 2  # of a learner at an event: the message's frame, sequence, learner and reason
_POSITION_BYTES: Final = 5


def batch_events(config: SessionConfig, max_message_bytes: int) -> int:
    """Most events of which batch and reply fit one message. Raises Refusal if a reply or the scores never would."""
    pairs, symbols = config.horizon * len(config.predicted), _symbol_bytes(config)
    most = (max_message_bytes - SESSION_BYTES - symbols) // (8 * _SCORE_TABLES)
    if pairs > most:
        allowed = f"at most {max(0, most)}, for messages of {max_message_bytes} bytes and {symbols} bytes of symbols"
        raise invalid_field("horizon × targets", pairs, allowed)
    room, one = max_message_bytes - _MESSAGE_OVERHEAD_BYTES, event_bytes(config)
    if one > room:
        allowed = f"at most {room}, for messages of {max_message_bytes} bytes"
        raise invalid_field("horizon × targets × distribution", Words(f"{one} bytes per reply"), allowed)
    return room // one


def event_bytes(config: SessionConfig) -> int:
    """Bytes that an event takes, on the wire or in memory: the larger of request and full reply."""
    pairs = config.horizon * len(config.predicted)
    report = _REPORT_BYTES + _TARGET_BYTES * len(config.predicted) + _RESET_BYTES * len(config.portfolio)
    reply = 8 * pairs * (3 + distribution_size(config)) + report + 4 * len(lags(window_of(config)))
    return max(reply, 8 * (len(config.features) + len(config.labels) + 1) + _POSITION_BYTES)


def distribution_size(config: SessionConfig) -> int:
    """Numbers per pair in the distribution that is served, at most: probabilities of symbols, or quantiles; none of
    several learners."""
    if config.learner is None:
        return 0
    if config.learner.loss == "softmax":
        return len(config.symbols(config.predicted[0]))
    return len(config.learner.quantiles)


def event_count(record: Record, batch: Batch) -> int:
    """Events in a batch; 1 if it has not even one."""
    return max(1, len(batch.values) // record.features)


def held_bytes(record: Record, batch: Batch, reply: Reply) -> int:
    """Memory that a batch and its reply take until it is answered, at most."""
    if reply is Reply.NONE:
        return batch.nbytes
    if record.event_bytes == 0:
        record.event_bytes = event_bytes(record.created.config)
    return batch.nbytes + record.event_bytes * (event_count(record, batch) if reply is Reply.EVERY else 1)


def history_bytes(record: Record, batch: Batch) -> int:
    """Memory that a warm start takes until it ends: the history, and what each network sees of it (float32), which is
    up to twice as long where gaps in time are filled."""
    config = record.created.config
    layout = session_layout(config)  # all learners of a session have as many inputs and outputs
    seen = len(config.portfolio) * 4 * (layout.inputs + layout.outputs)
    return batch.nbytes + event_count(record, batch) * 2 * seen


def _symbol_bytes(config: SessionConfig) -> int:
    """Bytes that the categories take in a message, at most."""
    texts = [text for c in config.categories for text in (c.channel, *c.symbols)]
    return sum(len(text.encode()) + 8 for text in texts)
