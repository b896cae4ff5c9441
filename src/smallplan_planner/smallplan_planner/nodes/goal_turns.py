"""Who searches when several goals come: one at a time, the newest wins."""

from __future__ import annotations

import threading

from smallplan_planner.nodes.search_runner import SearchRunner
from smallplan_planner.search import ResultCode


class GoalTurns:
    """Lets one search run; a newer one stops those before it and waits until the running one has ended."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: SearchRunner | None = None
        self._waiting: SearchRunner | None = None

    @property
    def running(self) -> SearchRunner | None:
        return self._running

    @property
    def busy(self) -> bool:
        return self._running is not None or self._waiting is not None

    def begin(self, runner: SearchRunner, timeout: float) -> bool:
        """Wait for the turn of `runner`, at most `timeout` s; call `end` afterwards in any case.

        False: it was stopped meanwhile, or the search before it did not end in time.
        """
        with self._changed:
            for other in (self._running, self._waiting):
                if other is not None:
                    other.stop(ResultCode.PREEMPTED, "a newer goal took over")
            self._waiting = runner
            self._changed.notify_all()
            free = self._changed.wait_for(lambda: self._running is None or self._waiting is not runner, timeout)
            if self._waiting is not runner:
                return False
            self._waiting = None
            if not free:
                runner.stop(ResultCode.TIMEOUT, f"the search before this one did not end within {timeout} s")
                return False
            self._running = runner
            return True

    def end(self, runner: SearchRunner) -> None:
        with self._changed:
            if self._running is runner:
                self._running = None
            if self._waiting is runner:
                self._waiting = None
            self._changed.notify_all()

    def stop_all(self, code: ResultCode, message: str, timeout: float) -> bool:
        """Stop what runs and what waits; returns whether all had ended within `timeout` seconds."""
        with self._changed:
            for runner in (self._running, self._waiting):
                if runner is not None:
                    runner.stop(code, message)
            return self._changed.wait_for(lambda: not self.busy, timeout)
