"""One condition that many sources of events ring, so that a search can wait for several things at once."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Bell:
    """Whoever changes something that a search may wait for rings afterwards; whoever waits looks again then."""

    def __init__(self) -> None:
        self._condition = threading.Condition()

    def ring(self, *_: object) -> None:
        """Wake all who wait. Arguments are ignored, so that it serves as a callback of futures."""
        with self._condition:
            self._condition.notify_all()

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Wait until `predicate` holds, at most `timeout` seconds; returns whether it holds."""
        with self._condition:
            return self._condition.wait_for(predicate, max(0.0, timeout))
