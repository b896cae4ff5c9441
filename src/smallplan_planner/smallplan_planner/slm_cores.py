"""Which processors compute: those that are configured, so that the model leaves the others to the robot."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from smallplan_planner.generation import SlmError


def check_cores(cores: Collection[int]) -> None:
    """Raise `SlmError` when this process may not use one of them."""
    available = os.sched_getaffinity(0)
    if not available.issuperset(cores):
        raise SlmError(
            f"cores {sorted(set(cores) - available)} are not available; expected some of {sorted(available)}"
        )


def pinned(cores: Collection[int]) -> AbstractContextManager[None]:
    """Keeps this thread on these processors, and with it the threads that llama.cpp starts from it; none: on any."""
    return _pinned(cores) if cores else nullcontext()


@contextmanager
def _pinned(cores: Collection[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
