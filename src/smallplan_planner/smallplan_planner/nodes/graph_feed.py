"""The scene graphs that arrive: the newest that can be planned on, and what was wrong with those that can't."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from smallplan_planner.nodes.bell import Bell
from smallplan_planner.scene_graph import SceneGraph


@dataclass(frozen=True)
class Arrival:
    """A good graph and when it came, in seconds of the steady clock."""

    graph: SceneGraph
    at: float


class GraphFeed:
    """Filled by a subscription, read by a search; safe to use from several threads."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._lock = threading.Lock()
        self._newest: Arrival | None = None
        self._problem = ""
        self.accepted = 0
        self.rejected = 0

    def put(self, graph: SceneGraph) -> None:
        """Take in a validated graph."""
        with self._lock:
            self._newest = Arrival(graph, time.monotonic())
            self._problem = ""
            self.accepted += 1
        self._bell.ring()

    def reject(self, problem: str) -> None:
        """Note that a graph came that can't be planned on; the newest good one stays."""
        with self._lock:
            self._problem = problem
            self.rejected += 1
        self._bell.ring()

    def clear(self) -> None:
        """Forget all graphs, as when the subscription ends."""
        with self._lock:
            self._newest, self._problem = None, ""

    @property
    def newest(self) -> Arrival | None:
        """The newest graph that can be planned on, None when none came yet."""
        with self._lock:
            return self._newest

    @property
    def problem(self) -> str:
        """Why the graph that arrived last can't be planned on, '' when it can or none came."""
        with self._lock:
            return self._problem
