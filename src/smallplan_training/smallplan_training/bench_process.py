"""A process of its own for what is measured, so that its memory holds nothing else, and how much memory that is."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from smallplan_training.errors import UserError
from smallplan_training.processes import die_with_parent

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def in_own_process(function: Callable[[_Task], _Result], task: _Task) -> _Result:
    """The result of an importable function, in a fresh process that ends with it; raises what it raises.

    Raises `UserError` when the process is killed, for want of memory for instance.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), die_with_parent) as pool:
        try:
            return pool.submit(function, task).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"the process that measured {function.__name__} was killed; where memory is short, see `dmesg`, and "
                "measure a smaller model"
            ) from error


def resident_mb() -> float:
    """Resident memory of this process, in units of 10^6 bytes."""
    return _status("VmRSS")


def peak_resident_mb() -> float:
    """The most that this process has had resident, in units of 10^6 bytes."""
    return _status("VmHWM")


def _status(key: str) -> float:
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, f"Linux tells {key} of every process"
    return int(found[1]) * 1024 / 1e6
