"""How this process gives memory back to the kernel."""

from __future__ import annotations

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGEST_KEPT = 8 << 20  # bytes of one array; those of a house's map are below 1 MB
_MOST_KEPT = 32 << 20  # bytes of a process that are free, yet not given back


@cache
def keep_freed_memory() -> bool:
    """Have malloc keep what numpy frees for the next arrays, in this process; returns whether it does.

    By default glibc maps large arrays anew and trims its heap soon after, so that simulated searches touch about a
    thousand fresh pages a step, most of them as an episode starts. Without that a step takes about 5 % less of the
    CPU, and whole searches 12 %. Where there is no glibc (musl, macOS) nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT))
