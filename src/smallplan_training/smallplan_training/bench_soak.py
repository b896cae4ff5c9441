"""Soak: thousands of decisions over the situations of real searches, in one process, as a robot's long shift.

    make soak                                # smallplan bench --soak --json build/soak.json

The searches are gone through again and again, each time from their first observation. What must not happen is that
memory grows, or that decisions get slower: so the first and the last thousand are the same situations where their
number divides 1,000, as it does by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np

from smallplan_training.bench_process import resident_mb
from smallplan_training.bench_searches import DEADLINE, RecordedSearch, loaded, replay
from smallplan_training.errors import UserError

DECISIONS = 5000
SITUATIONS = 500
"""Different ones, which are gone through again and again."""
_SPAN = 1000  # decisions that one p95 is taken of
_LOOKS = 20  # at the memory, evenly spread


@dataclass(frozen=True)
class SoakTask:
    """What is run. `deadline` is in s for one answer, as the node gives it. Memory is first looked at after `warm_up`
    decisions, as buffers are allocated when they are first needed."""

    model: Path
    searches: Sequence[RecordedSearch]
    decisions: int = DECISIONS
    n_threads: int = 0
    deadline: float = DEADLINE
    warm_up: int = 100


@dataclass(frozen=True)
class SoakFigures:
    """What changed. Memory in units of 10^6 bytes, times in milliseconds."""

    decisions: int
    situations: int
    rss_mb: tuple[float, ...]  # after the warm-up, then evenly spread, the last one at the end
    rss_growth_mb: float  # from the first to the last
    decision_ms_p50: float  # of all
    p95_ms: tuple[float, ...]  # of each thousand
    p95_first_ms: float
    p95_last_ms: float
    p95_rise: float  # last over first, less 1


def check_decisions(decisions: int, warm_up: int = SoakTask.warm_up) -> None:
    """Raise `UserError` for fewer than twice the warm-up."""
    if decisions < 2 * warm_up:
        raise UserError(f"{decisions} decisions are too few to see a change; expected {2 * warm_up} or more")


def run_soak(task: SoakTask) -> SoakFigures:
    """Decide so many times in this process. Raises `UserError` for fewer than twice the warm-up, or a failing model."""
    check_decisions(task.decisions, task.warm_up)
    looks = np.unique(np.linspace(task.warm_up, task.decisions, _LOOKS).round())
    seconds, memory = np.zeros(task.decisions), []
    with loaded(task.model, n_threads=task.n_threads) as slm:
        again = chain.from_iterable(replay(slm, task.searches, task.deadline) for _ in repeat(None))
        for index, decision in enumerate(islice(again, task.decisions)):
            seconds[index] = decision.seconds
            if index + 1 in looks:
                memory.append(round(resident_mb(), 2))
    span = min(_SPAN, task.decisions // 2)
    p95 = [_p95(seconds[first : first + span]) for first in range(0, task.decisions - span + 1, span)]
    last = _p95(seconds[-span:])
    return SoakFigures(
        decisions=task.decisions,
        situations=sum(search.decisions for search in task.searches),
        rss_mb=tuple(memory),
        rss_growth_mb=round(memory[-1] - memory[0], 2),
        decision_ms_p50=round(1000 * float(np.median(seconds)), 2),
        p95_ms=tuple(p95),
        p95_first_ms=p95[0],
        p95_last_ms=last,
        p95_rise=round(last / p95[0] - 1, 3),
    )


def _p95(seconds: np.ndarray) -> float:
    return round(1000 * float(np.percentile(seconds, 95)), 2)
