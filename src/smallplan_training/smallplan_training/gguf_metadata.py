"""Metadata of GGUF files: read it, complete it, name files by it.

llama.cpp's converter writes the keys that it knows and passes over all others, a licence and our own among them. Keys
of our own stand under `smallplan.`: those that the planner reads are in its `slm_identity.py`; two more say where a
file comes from, `smallplan.training_run` (the name of the run) and `smallplan.strategy` (how it trained).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf

from smallplan_training.errors import UserError

TRAINING_RUN_KEY = "smallplan.training_run"
STRATEGY_KEY = "smallplan.strategy"

Value = str | bool | int | float

_TYPES = {
    str: gguf.GGUFValueType.STRING,
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
}
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]*")
_VERSION = re.compile(r"v\d+(\.\d+)*")


@dataclass(frozen=True)
class FileName:
    """The parts of a file's name by GGUF's convention. Raises `UserError` for one that no file should be called by."""

    basename: str
    size_label: str
    finetune: str = ""
    version: str = "v1.0"  # what the convention assumes where none is given

    def __post_init__(self) -> None:
        for name, part in (("basename", self.basename), ("fine-tune", self.finetune)):
            if not _PART.fullmatch(part) and not (name == "fine-tune" and not part):
                raise UserError(
                    f"the {name} {part!r} can't be in a file name; expected letters, digits, spaces, '.', '_', '+', '-'"
                )
        if not _VERSION.fullmatch(self.version):
            raise UserError(f"the version {self.version!r} is none; expected v1.0, v2, ...")

    def of(self, file_type: str, kind: str = "") -> str:
        """`BaseName-SizeLabel-FineTune-Version-Encoding[-LoRA].gguf`; `kind` is '' or 'LoRA'."""
        finetune = self.finetune or None
        parts = (None, self.basename, finetune, self.version, self.size_label, file_type, kind or None)
        return f"{gguf.naming_convention(*parts)}.gguf"

    def keys(self) -> dict[str, Value]:
        """The parts as metadata."""
        parts = {"basename": self.basename, "size_label": self.size_label, "version": self.version}
        parts |= {"finetune": self.finetune} if self.finetune else {}
        return {f"general.{name}": part for name, part in parts.items()}


def name_parts(name: str, parameters: int) -> tuple[str, str]:
    """(basename, fine-tune) of a model's name: `Qwen2.5-3B-Instruct` is `Qwen2.5` and `Instruct`."""
    plain = name.rpartition("/")[2].replace(" ", "-")
    _, _, basename, finetune, _, _ = gguf.Metadata.get_model_id_components(plain, parameters)
    return (basename, finetune or "") if basename else (plain, "")


def size_label(parameters: int) -> str:
    """A number of parameters as file names have it: `3.1B`."""
    return str(gguf.size_label(parameters, parameters, 0, 0))


def read_metadata(path: Path) -> dict[str, Value]:
    """The keys of a file, lists (the vocabulary) apart. Raises `UserError`."""
    return _scalars(_read(path))


def set_metadata(path: Path, keys: Mapping[str, Value]) -> None:
    """Put keys into a file, in the place of those of that name; the tensors stay as they are. Raises `UserError`.

    Nothing is written when all of them are there. Whole numbers are stored as uint32.
    """
    reader = _read(path)
    there = _scalars(reader)
    new = {key: value for key, value in keys.items() if there.get(key) != value}
    if not new:
        return
    part = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(part, str(there[gguf.Keys.General.ARCHITECTURE]))
    writer.data_alignment = int(reader.alignment)
    for name, field in reader.fields.items():
        if name not in new and name != gguf.Keys.General.ARCHITECTURE and not name.startswith("GGUF."):
            item = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], item)
    for name, value in new.items():
        writer.add_key_value(name, value, _TYPES[type(value)])
    for tensor in reader.tensors:
        data = tensor.data
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in reader.tensors:
            writer.write_tensor_data(tensor.data)
        writer.close()
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"can't write {path}: {error.strerror}; make room on that disk and run it again") from error


def _read(path: Path) -> gguf.GGUFReader:
    try:
        return gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UserError(f"{path} is no GGUF file that can be read: {error}") from error


def _scalars(reader: gguf.GGUFReader) -> dict[str, Value]:
    array = gguf.GGUFValueType.ARRAY
    fields = reader.fields.items()
    return {name: f.contents() for name, f in fields if f.types[0] is not array and not name.startswith("GGUF.")}
