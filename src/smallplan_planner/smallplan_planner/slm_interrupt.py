"""Stopping llama.cpp at any point, in the middle of an evaluation too."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp

_POLL = 0.02  # s between looks at the cancel event while llama.cpp computes

# llama.cpp asks this callback again and again whether to stop. `strlen` of a flag (a byte and a zero) answers
# without Python, whose interpreter lock would cost more than a small model's tokens.
_is_flag_set = llama_cpp.ggml_abort_callback(("strlen", ctypes.CDLL(None)))


class Stopped(Exception):
    """The stop flag was seen."""


class StopFlag:
    """Asks an evaluation to stop; on the CPU llama.cpp looks at it between two operations, on a GPU between calls."""

    def __init__(self) -> None:
        self._bytes = ctypes.create_string_buffer(2)

    def set(self) -> None:
        self._bytes[0] = b"\x01"

    def is_set(self) -> bool:
        return self._bytes[0] != b"\x00"

    def attach(self, context: Any) -> None:
        """Have one of llama.cpp's contexts look at this flag, which has to live as long as it does so."""
        llama_cpp.llama_set_abort_callback(context, _is_flag_set, ctypes.cast(self._bytes, ctypes.c_void_p))


@contextmanager
def stopping(flag: StopFlag, end: float | None, cancel: threading.Event | None) -> Iterator[None]:
    """Sets the flag when `end` (s, `time.monotonic`) has passed or `cancel` is set, from a thread of its own."""

    def is_due() -> bool:
        return (cancel is not None and cancel.is_set()) or (end is not None and time.monotonic() >= end)

    if cancel is None and end is None:
        yield
        return
    if is_due():
        flag.set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL if end is None else min(_POLL, max(0.0, end - time.monotonic()))):
            if is_due():
                flag.set()
                return

    watcher = threading.Thread(target=watch, name="slm-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
