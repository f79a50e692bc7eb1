"""Which of the server's threads give way to others that work."""

from __future__ import annotations

import os
from typing import Any

import pytest

usual = hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.skipif(not usual, reason="threads are not scheduled here as they usually are on Linux")
def test_the_threads_of_grpc_give_way_and_those_of_the_server_do_not(start_server: Any) -> None:
    process = start_server().process.pid
    policies = {int(thread): os.sched_getscheduler(int(thread)) for thread in os.listdir(f"/proc/{process}/task")}
    assert policies.pop(process) == os.SCHED_OTHER, "the network's loop"
    found = list(policies.values())
    assert os.SCHED_OTHER in found, "the engine"
    assert found.count(os.SCHED_BATCH) >= 2, "who waits for completions and who waits for packets"


def test_where_it_is_not_allowed_they_are_like_all_others(start_server: Any, fetch: Any) -> None:
    refused = (
        "import os\ndef no(*_):\n    raise OSError(38, 'not here')\nos.sched_getscheduler = os.sched_setscheduler = no"
    )
    server = start_server(prelude=refused)
    assert fetch(server.http_url + "/readyz") == (200, "ready\n")
