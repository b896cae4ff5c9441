"""Checkpoints that are whole or not there: written beside, then renamed; in parts that stay below 16 MiB."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from smallplan_training.errors import UserError

PART_BYTES = 15 * 2**20
_INDEX = "index.json"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder`. A crash at any moment leaves the old one or the new one.

    Raises `UserError` that names the file and the remedy when it can't be written (a full disk); the old one stays.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    path = new = folder.with_name(folder.name + ".new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        parts = range(0, len(data), PART_BYTES)
        for number, begin in enumerate(parts):
            path = new / f"part-{number:03d}"
            _write(path, data[begin : begin + PART_BYTES])
        path = new / _INDEX
        index = {"parts": len(parts), "sha256": hashlib.sha256(data).hexdigest()}
        _write(path, json.dumps(index).encode())
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        kept = f"the one before it is whole in {folder}" if folder.exists() else "there is none before it"
        raise UserError(
            f"can't write the checkpoint {path} ({len(data) / 2**20:.1f} MiB in all): {error.strerror}; {kept}. "
            "Make room on that disk and run the same command again: it goes on from there"
        ) from error
    replace_folder(folder, new)


def replace_folder(folder: Path, new: Path) -> None:
    """Put a finished folder in the place of another; a crash at any moment leaves one of the two, whole."""
    old = folder.with_name(folder.name + ".old")
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


def _write(path: Path, data: bytes | memoryview) -> None:
    """Write and sync: a disk that is full says so now, and not when the old checkpoint is gone."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
