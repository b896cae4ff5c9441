"""Imports ProcTHOR houses (AI2-THOR's house JSON)."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def is_procthor(data: Any) -> bool:
    """Whether parsed JSON is a ProcTHOR house, by its keys."""
    return isinstance(data, dict) and {"rooms", "walls", "doors", "objects", "proceduralParameters"} <= data.keys()
