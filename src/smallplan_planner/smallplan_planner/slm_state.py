"""The KV cache on disk, so that a robot that starts again does not read its prompt's beginning again.

A file belongs to one model, adapter, version of llama.cpp and layout of the cache, which its name is made of; a
damaged one is recognised by its digest and counts as none. No llama.cpp in here.

A file is a line `smallplan-kv 1`, a line of JSON (`tokens`: ids of the prompt's tokens, `digest`: SHA-256 of what
follows), and llama.cpp's state of the sequence.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smallplan_planner.resources import oldest_first, user_cache

logger = logging.getLogger(__name__)

_MAGIC = b"smallplan-kv 1\n"
_KEPT = 8  # files of a folder: those of models that nobody loads any more would fill the disk
_UNFINISHED = ".unfinished-"  # how a file's name begins while it is written
_ABANDONED = 3600.0  # s


@dataclass(frozen=True)
class SavedState:
    """The tokens that were read, and llama.cpp's KV cache of them."""

    tokens: tuple[int, ...]
    data: bytes


def default_state_folder() -> Path:
    """Where it is kept when nobody says otherwise."""
    return user_cache() / "kv"


def state_file(folder: Path, identity: Sequence[str]) -> Path:
    """The file of a cache for exactly this: what tells models, adapters and settings apart, in a fixed order."""
    return folder / f"{hashlib.sha256(json.dumps(list(identity)).encode()).hexdigest()[:32]}.kv"


def write_state(path: Path, state: SavedState) -> None:
    """Write a cache; a file that is there is replaced as a whole, the folder's oldest are deleted. Raises OSError."""
    header = json.dumps({"tokens": state.tokens, "digest": hashlib.sha256(state.data).hexdigest()})
    path.parent.mkdir(parents=True, exist_ok=True)
    for written, left in oldest_first(path.parent.glob(f"{_UNFINISHED}*")):  # by a process that was killed
        if time.time() - written > _ABANDONED:
            left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + header.encode() + b"\n" + state.data)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    for _, old in oldest_first(path.parent.glob("*.kv"))[:-_KEPT]:
        old.unlink(missing_ok=True)


def read_state(path: Path) -> SavedState | None:
    """The cache of a file; None, with a line in the log, when there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("the KV cache %s can't be read: %s", path, error)
        return None
    head, _, data = content[len(_MAGIC) :].partition(b"\n")
    try:
        header = json.loads(head)
        tokens, digest = tuple(int(token) for token in header["tokens"]), header["digest"]
    except (ValueError, TypeError, KeyError):
        tokens, digest = (), ""
    if not content.startswith(_MAGIC) or not tokens or hashlib.sha256(data).hexdigest() != digest:
        logger.warning("the KV cache %s is damaged and is not used", path)
        return None
    return SavedState(tokens, data)
