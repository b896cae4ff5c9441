"""LoRA adapters over one base model: loaded once, checked, and chosen between without loading the base again."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from smallplan_planner.generation import SlmError
from smallplan_planner.slm_files import check_gguf, fingerprint
from smallplan_planner.slm_identity import check_base
from smallplan_planner.slm_log import forget_errors, last_errors

_VALUE = 1 << 12  # bytes of a metadata value at first; longer ones are asked for again
_OWN_KEYS = ("general.", "smallplan.")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in memory."""

    path: Path
    handle: Any
    metadata: Mapping[str, str]
    fingerprint: str


class Adapters:
    """The adapters of a model, which frees them when it is freed itself."""

    def __init__(self, model: Any, path: Path, metadata: Mapping[str, str]) -> None:
        self._model = model
        self._path = path
        self._metadata = metadata
        self._loaded: dict[tuple[Path, int, int], Adapter] = {}  # by path, size and time of the last change

    @property
    def loaded(self) -> tuple[Path, ...]:
        """The files in memory, in the order of loading."""
        return tuple(path for path, _, _ in self._loaded)

    def load(self, path: Path) -> Adapter:
        """An adapter of a file, in memory from now on. Raises `SlmError` when it is none, or is for another model."""
        check_gguf(path, "LoRA adapter")
        status = path.stat()
        key = (path.resolve(), status.st_size, status.st_mtime_ns)
        if key not in self._loaded:
            self._loaded[key] = self._read(path)
        return self._loaded[key]

    def load_folder(self, folder: Path) -> list[Adapter]:
        """All adapters (*.gguf) of a folder, by name. Raises `SlmError` when there is none, or one can't be loaded."""
        if not folder.is_dir():
            raise SlmError(f"the folder of LoRA adapters {folder} does not exist")
        paths = sorted(folder.glob("*.gguf"))
        if not paths:
            raise SlmError(f"the folder of LoRA adapters {folder} holds no file *.gguf")
        return [self.load(path) for path in paths]

    def _read(self, path: Path) -> Adapter:
        forget_errors()
        handle = llama_cpp.llama_adapter_lora_init(self._model, str(path).encode())
        if not handle:
            raise SlmError(f"{path} is not a LoRA adapter for {self._path}: {last_errors()}")
        count = llama_cpp.llama_adapter_meta_count(handle)
        metadata = read_metadata(
            count,
            lambda index, buffer, size: llama_cpp.llama_adapter_meta_key_by_index(handle, index, buffer, size),
            lambda index, buffer, size: llama_cpp.llama_adapter_meta_val_str_by_index(handle, index, buffer, size),
        )
        try:
            check_base(self._path, self._metadata, path, metadata)
            return Adapter(path, handle, metadata, fingerprint(path))
        except (SlmError, OSError):
            llama_cpp.llama_adapter_lora_free(handle)
            raise


def model_metadata(model: Any) -> dict[str, str]:
    """What a model's GGUF says of itself, as text: `general.*` and our own keys."""
    return read_metadata(
        llama_cpp.llama_model_meta_count(model),
        lambda index, buffer, size: llama_cpp.llama_model_meta_key_by_index(model, index, buffer, size),
        lambda index, buffer, size: llama_cpp.llama_model_meta_val_str_by_index(model, index, buffer, size),
    )


Read = Callable[[int, Any, int], int]
"""Writes a text into a buffer of a size; returns the bytes that the whole text takes, below 0 without one."""


def read_metadata(count: int, read_key: Read, read_value: Read) -> dict[str, str]:
    """`general.*` and our own keys of `count` keys; values of others may be huge, a vocabulary for instance."""
    keys = [_text(read_key, index) for index in range(count)]
    return {key: _text(read_value, index) for index, key in enumerate(keys) if key.startswith(_OWN_KEYS)}


def _text(read: Read, index: int) -> str:
    size = _VALUE
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = read(index, buffer, size)
        if length < size:
            return buffer.value.decode("utf-8", "replace")
        size = length + 1
