"""A warm start as a number of turns of the engine: to begin, to read the history, and one for each pass over it.

It says when it is over and how it ended. It knows neither sessions nor queues, and runs on the engine's thread.
"""

from __future__ import annotations

from collections.abc import Callable

from bptt_core import Slot, WarmStart, WarmUp
from server.errors import Refusal


class Training:
    """One warm start, from beginning to end."""

    def __init__(self, check: Callable[[], Slot], begin: Callable[[Slot], WarmUp], passes: int) -> None:
        """`check` raises if the session may not be trained any more; `begin` makes the fold's part."""
        self._check, self._begin = check, begin
        self._passes = passes
        self.turns = self._left = 1 + WarmUp.pieces + passes
        self._warm_up: WarmUp | None = None
        self._failure: BaseException | None = None

    @property
    def over(self) -> bool:
        """Every turn was taken, or one failed."""
        return self._left == 0

    @property
    def failed(self) -> bool:
        """`result` will raise."""
        return self._failure is not None

    def turn(self) -> bool:
        """Takes the next turn. Returns whether it was the last one."""
        try:
            slot = self._check()
            if self._warm_up is None:
                self._warm_up = self._begin(slot)
            elif self._left > self._passes:
                self._warm_up.read_piece()
            else:
                self._warm_up.run_pass()
            self._left -= 1
        except MemoryError:
            self._fail(Refusal("OVERLOADED", "no memory for a warm start", limit="memory"))
        except BaseException as error:  # noqa: BLE001 - raised by `result`, to who asked for the warm start
            self._fail(error)
        return self.over

    def result(self) -> WarmStart:
        """Leaves the session trained, or raises what went wrong."""
        if self._failure is not None:
            raise self._failure
        assert self._warm_up is not None
        return self._warm_up.finish()

    def _fail(self, error: BaseException) -> None:
        self._failure, self._left, self._warm_up = error, 0, None
