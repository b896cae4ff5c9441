"""What is measured in a process of its own holds that process's memory alone."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fixtures.memory_use import hold_and_forget
from smallplan_training.bench_process import in_own_process, peak_resident_mb, resident_mb
from smallplan_training.errors import UserError

SIZE = 80_000_000  # bytes


def test_memory_is_that_of_the_process_at_its_most() -> None:
    held = np.ones(2 * SIZE, np.uint8)
    process, resident, peak = in_own_process(hold_and_forget, SIZE)
    assert process != os.getpid()
    assert peak - resident > 0.9 * SIZE / 1e6
    assert resident_mb() > held.size / 1e6
    assert peak < peak_resident_mb()


def test_a_process_that_is_killed_is_told() -> None:
    with pytest.raises(UserError, match="the process that measured _exit was killed"):
        in_own_process(os._exit, 9)
