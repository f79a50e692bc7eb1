"""What every copy of a session with labels owes, whether it was forked or exported and imported."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_labels_are_remembered(rpc: Any, refused: Any, name: str, copy: str, events: np.ndarray, every: int) -> None:
    """`copy` was made of `name` after 30 of its 40 events, when the labels of events 22 and 25 had come late.

    It knows the labels that came, and the two go on to the same answers. `every`: the reply mode of every event.
    """
    labels = np.where(np.arange(40) % 3, events.sum(axis=1), np.nan)
    again = rpc.label(copy, [22, 24], events.sum(axis=1)[[21, 23]])
    assert (again.accepted, again.duplicates) == (0, 2)
    assert refused(lambda: rpc.label(copy, [25], [9.0])).reason == "LABEL_CONFLICT"
    assert refused(lambda: rpc.label(copy, [16], [9.0])).reason == "LABEL_TOO_OLD"
    found = []
    for session in (name, copy):
        assert rpc.label(session, [28], [0.5]).accepted == 1
        result = rpc.ingest(session, 31, events[30:], labels=labels[30:], reply=every)
        found.append(result.SerializeToString(deterministic=True))
    assert found[0] == found[1]
