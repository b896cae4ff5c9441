"""llama.cpp's log: to `logging`, and its last errors into the messages of ours."""

from __future__ import annotations

import ctypes
import logging
from collections import deque

import llama_cpp

logger = logging.getLogger(__name__)

_WARNING, _ERROR = 3, 4  # ggml_log_level
_lines: deque[str] = deque(maxlen=8)


@llama_cpp.llama_log_callback
def _forward(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").rstrip()
    if line.strip("."):  # dots are llama.cpp's progress bar
        logger.debug("llama.cpp: %s", line)
        if level in (_WARNING, _ERROR):
            _lines.append(line)


def capture_log() -> None:
    """Route llama.cpp's log here; each time a model is loaded, as others in this process may have set theirs."""
    llama_cpp.llama_log_set(_forward, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


def forget_errors() -> None:
    """Before a call that may fail, so that `last_errors` tells of that call alone."""
    _lines.clear()


def last_errors() -> str:
    """llama.cpp's own words on what went wrong."""
    return "; ".join(_lines) or "llama.cpp gave no reason"
