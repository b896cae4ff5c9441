"""Freed memory stays with the process that simulates."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from smallplan_training.memory import keep_freed_memory

FAULTS = """
import resource
import numpy as np
from smallplan_training.memory import keep_freed_memory

kept = keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    arrays = [np.ones(100_000) for _ in range(8)]  # 6.4 MB: 1600 pages
    del arrays
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_arrays_come_from_memory_that_was_used_before() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=60)
    kept, faults = done.stdout.split()
    if kept == "False":
        pytest.skip("this libc has no mallopt")
    assert int(faults) < 5 * 1600, "the pages of the first rounds serve all others"


def test_another_libc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory.__wrapped__() is False
