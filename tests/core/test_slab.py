"""Slabs give back what they took, and a failed allocation leaves them as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt_core import Backend, Events, Fold, LearnerConfig, SessionConfig, session_bytes

CONFIG = SessionConfig(("x", "y"), learner=LearnerConfig(hidden=4))


class Scarce:
    """NumPy with room for so many more arrays on the "device"."""

    def __init__(self) -> None:
        self.arrays_left = 10**9

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, *args: Any) -> np.ndarray:
        self.arrays_left -= 1
        if self.arrays_left < 0:
            raise MemoryError
        return np.empty(*args)


@pytest.mark.parametrize("arrays", range(12))
def test_a_session_that_finds_no_memory_disturbs_nobody(arrays: int) -> None:
    xp = Scarce()
    fold = Fold(Backend("numpy", xp, "scarce", ""))
    there = fold.create(CONFIG)
    before = fold.checkpoint(there)
    xp.arrays_left = arrays
    try:
        fold.create(CONFIG)
    except MemoryError:
        xp.arrays_left = 10**9
        fold.create(CONFIG)
    xp.arrays_left = 10**9
    assert fold.checkpoint(there) == before
    others = [fold.create(CONFIG) for _ in range(5)]
    fold.step([(slot, Events(np.ones((3, 2)))) for slot in (there, *others)])
    assert len({fold.checkpoint(slot) for slot in (there, *others)}) == 1


def test_the_memory_of_a_shape_goes_with_its_last_session(new_fold: Callable[[], Fold]) -> None:
    fold = new_fold()
    first, second = fold.create(CONFIG), fold.create(CONFIG)
    fold.delete(first)
    assert len(fold._store.slabs) == 1
    fold.delete(second)
    assert len(fold._store.slabs) == 0


def test_session_bytes_is_the_size_of_the_checkpointed_arrays(new_fold: Callable[[], Fold]) -> None:
    fold = new_fold()
    data = fold.checkpoint(fold.create(CONFIG))
    assert 0 <= len(data) - session_bytes(CONFIG) < 8192, "the rest is the header"
