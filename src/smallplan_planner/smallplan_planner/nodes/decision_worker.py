"""The thread on which policies decide, so that nothing else in the node waits for a language model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from smallplan_planner.nodes.bell import Bell

Made = TypeVar("Made")


@dataclass
class PendingDecision(Generic[Made]):
    """A decision under way: `answer` or `error` is set when `finished` is. Setting `cancel` asks it to stop."""

    cancel: threading.Event = field(default_factory=threading.Event)
    answer: Made | None = None
    error: Exception | None = None
    finished: bool = False


class DecisionWorker:
    """Runs one decision at a time. `busy` stays true while one that was given up still runs."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._jobs: queue.SimpleQueue[tuple[Callable[[threading.Event], Any], PendingDecision[Any]] | None]
        self._jobs = queue.SimpleQueue()
        self._current: PendingDecision[Any] | None = None
        self._thread = threading.Thread(target=self._work, name="decisions", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._current is not None and not self._current.finished

    def start(self, decide: Callable[[threading.Event], Made]) -> PendingDecision[Made]:
        """Begin a decision; `decide` is given the event that asks it to stop. Raises RuntimeError while busy."""
        if self.busy:
            raise RuntimeError("a decision is under way; wait until the worker is not busy")
        pending = self._current = PendingDecision[Made]()
        self._jobs.put((decide, pending))
        return pending

    def close(self, timeout: float) -> bool:
        """Cancel what runs and end the thread; returns whether it ended within `timeout` seconds."""
        if self._current is not None:
            self._current.cancel.set()
        self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            decide, pending = job
            try:
                pending.answer = decide(pending.cancel)
            except Exception as error:  # handed to whoever waits for the decision
                pending.error = error
            pending.finished = True
            self._bell.ring()
