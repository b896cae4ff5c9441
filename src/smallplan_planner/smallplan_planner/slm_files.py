"""Model files before llama.cpp sees them: is it a GGUF at all, is it the one that was meant. No llama.cpp in here."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from smallplan_planner.generation import SlmError

_BLOCK = 1 << 20  # bytes read at once
_SAMPLES, _SAMPLE = 256, 1 << 16  # blocks of a large file that its fingerprint covers, and the bytes of each


def check_gguf(path: Path, what: str = "model file") -> None:
    """Say in plain words what is wrong with a file that can't be a GGUF. Raises `SlmError`."""
    if not path.exists():
        raise SlmError(f"the {what} {path} does not exist")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise SlmError(f"the {what} {path} is {kind}; expected a .gguf file")
    try:
        with path.open("rb") as file:
            start = file.read(24)
    except OSError as error:
        raise SlmError(f"the {what} {path} can't be read: {error}") from error
    if not start:
        raise SlmError(f"the {what} {path} is empty")
    if start.startswith(b"version https://git-lfs"[:24]):
        raise SlmError(f"the {what} {path} is a Git LFS pointer, not the file itself; run `git lfs pull`")
    if not start.startswith(b"GGUF"):
        raise SlmError(f"the {what} {path} is not a GGUF: it starts with {start[:4]!r} instead of b'GGUF'")
    if len(start) < 24:
        raise SlmError(f"the {what} {path} is truncated: {len(start)} bytes, less than a GGUF header")


def check_sha256(path: Path, expected: str) -> None:
    """Compare a file with its SHA-256 in hex digits, in either case. Raises `SlmError` when they differ."""
    wanted = expected.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", wanted):
        raise SlmError(
            f"the model's SHA-256 is configured as {expected!r}; expected 64 hex digits, as `sha256sum` says"
        )
    try:
        found = sha256(path)
    except OSError as error:
        raise SlmError(f"the model file {path} can't be read: {error}") from error
    if found != wanted:
        raise SlmError(
            f"the model file {path} has the SHA-256 {found}, configured is {wanted}: it is damaged or another model; "
            "fetch the right file, or correct model_sha256"
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(path: Path) -> str:
    """A short name of a file's content: files that differ have different ones.

    A large file is not read whole, which would take seconds at each start: its size and 256 blocks evenly spread
    over it tell models apart, as training changes every block. It is no protection against forgery.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _SAMPLES * _SAMPLE:
            digest.update(file.read())
        else:
            for index in range(_SAMPLES):
                file.seek(index * (size - _SAMPLE) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:32]
