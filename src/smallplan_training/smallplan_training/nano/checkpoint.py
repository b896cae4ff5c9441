"""Checkpoints that are whole or not there: written beside, then renamed; in parts that stay below 16 MiB."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch

PART_BYTES = 15 * 2**20
_INDEX = "index.json"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder`. A crash at any moment leaves the old one or the new one."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    parts = range(0, len(data), PART_BYTES)
    for number, begin in enumerate(parts):
        (new / f"part-{number:03d}").write_bytes(data[begin : begin + PART_BYTES])
    index = {"parts": len(parts), "sha256": hashlib.sha256(data).hexdigest()}
    (new / _INDEX).write_text(json.dumps(index), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state of the last complete checkpoint, None when there is none; raises ValueError when it is damaged."""
    candidates = (folder, folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old"))
    found = next((path for path in candidates if (path / _INDEX).is_file()), None)
    if found is None:
        return None
    index = json.loads((found / _INDEX).read_text(encoding="utf-8"))
    parts = [found / f"part-{number:03d}" for number in range(index["parts"])]
    missing = [part.name for part in parts if not part.is_file()]
    data = b"" if missing else b"".join(part.read_bytes() for part in parts)
    if missing or hashlib.sha256(data).hexdigest() != index["sha256"]:
        raise ValueError(f"{found}: the checkpoint is damaged ({missing or 'wrong checksum'}); delete it to start anew")
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return dict(state)
