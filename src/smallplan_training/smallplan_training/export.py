"""Export: Hugging Face folders, and LoRA adapters, to GGUF by llama.cpp's own converters; and quantised.

The converter is not on PyPI by itself. It lies in the source archive of llama-cpp-python, from which
`converter_dir` takes the one that fits the installed version, once (about 75 MB of download, 2 MB kept).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import llama_cpp

from smallplan_planner.resources import user_cache
from smallplan_planner.slm_log import capture_log, forget_errors, last_errors
from smallplan_training.errors import UserError
from smallplan_training.gguf_metadata import Value, read_metadata, set_metadata

_WANTED = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "conversion/", "gguf-py/")
_VENDOR = "vendor/llama.cpp/"
_DOWNLOAD_SECONDS = 600
_CONVERT_SECONDS = 1800
_SPACE_KEY = "tokenizer.ggml.add_space_prefix"
FILE_TYPES = {
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "F32": llama_cpp.LLAMA_FTYPE_ALL_F32,
}
ADAPTER_TYPES = ("F16", "F32", "Q8_0")
"""What `convert_adapter` can write."""


def converter_dir() -> Path:
    """The folder with llama.cpp's converter scripts; raises `UserError` that says what to do when it can't be got.

    The environment variable SMALLPLAN_CONVERTER names a folder to use instead.
    """
    override = os.environ.get("SMALLPLAN_CONVERTER")
    if override:
        if not (Path(override) / _WANTED[0]).is_file():
            raise UserError(f"SMALLPLAN_CONVERTER is {override}; expected a llama.cpp folder with {_WANTED[0]}")
        return Path(override)
    version = llama_cpp.__version__
    cache = user_cache()
    folder = cache / f"llama.cpp-of-llama-cpp-python-{version}"
    if not (folder / _WANTED[0]).is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            archive = _download_sources(version, Path(scratch))
            _unpack(archive, Path(scratch) / "converter")
            shutil.rmtree(folder, ignore_errors=True)
            (Path(scratch) / "converter").rename(folder)
    return folder


def _download_sources(version: str, folder: Path) -> Path:
    package = "llama-cpp-python"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", package]
    command += ["--dest", str(folder), f"{package}=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS)
        problem = "" if done.returncode == 0 else done.stderr[-1000:].strip()
    except subprocess.TimeoutExpired:
        problem = f"no answer within {_DOWNLOAD_SECONDS} s"
    archives = sorted(folder.glob("*.tar.gz"))
    if problem or not archives:
        raise UserError(
            f"llama.cpp's converter can't be had: `{' '.join(command)}` failed: {problem or 'no archive'}. "
            "Check the network, or set SMALLPLAN_CONVERTER to a folder of llama.cpp's sources."
        )
    return archives[0]


def _unpack(archive: Path, folder: Path) -> None:
    """The converter's files out of a source archive; nothing is written outside `folder`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.partition(_VENDOR)[2]
            if not member.isfile() or not name.startswith(_WANTED) or ".." in Path(name).parts:
                continue
            source = tar.extractfile(member)
            assert source is not None  # it is a file
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())
    if not (folder / _WANTED[0]).is_file():
        raise UserError(f"{archive.name} holds no {_VENDOR}{_WANTED[0]}; expected the sources of llama-cpp-python")


def convert(checkpoint: Path, gguf: Path, metadata: Mapping[str, Value] | None = None, precision: str = "f32") -> None:
    """Convert a Hugging Face checkpoint folder to a GGUF file; `metadata` are keys such as `general.license`.

    Raises `UserError` with the converter's last words when it fails.
    """
    keys = dict(metadata or {})
    with tempfile.TemporaryDirectory() as scratch:
        known = Path(scratch) / "metadata.json"
        known.write_text(json.dumps(keys), encoding="utf-8")
        command = [_WANTED[0], str(checkpoint), "--outtype", precision, "--metadata", str(known)]
        part = _run_converter(command, gguf, str(checkpoint))
    # it takes in few of the keys that it is given
    _finish(part, gguf, keys | _tokenizer_keys(checkpoint, part))


def convert_adapter(
    adapter: Path, base: Path, gguf: Path, metadata: Mapping[str, Value] | None = None, file_type: str = "F16"
) -> None:
    """Convert an adapter folder of PEFT to a GGUF LoRA; `base` is the Hugging Face folder that it was trained on.

    Raises `UserError` with the converter's last words when it fails.
    """
    if file_type not in ADAPTER_TYPES:
        raise UserError(f"an adapter can't be of type {file_type!r}; expected one of {', '.join(ADAPTER_TYPES)}")
    command = [_WANTED[1], str(adapter), "--outtype", file_type.lower(), "--base", str(base)]
    part = _run_converter(command, gguf, str(adapter))
    _finish(part, gguf, dict(metadata or {}))


def _run_converter(command: Sequence[str], gguf: Path, source: str) -> Path:
    """Run one of the converter's scripts (the first word) into a file beside `gguf`; returns that file."""
    script = converter_dir() / command[0]
    if not script.is_file():
        raise UserError(f"{script.parent} holds no {script.name}; expected a folder of llama.cpp's sources")
    gguf.parent.mkdir(parents=True, exist_ok=True)
    part = gguf.with_name(gguf.stem + ".part.gguf")
    words = [sys.executable, str(script), *command[1:], "--outfile", str(part)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_CONVERT_SECONDS)
        problem = "" if done.returncode == 0 and part.is_file() else done.stderr[-2000:].strip() or "it gave no reason"
    except subprocess.TimeoutExpired:
        problem = f"it was not done within {_CONVERT_SECONDS} s"
    if problem:
        part.unlink(missing_ok=True)
        raise UserError(f"llama.cpp's converter refused {source}: {problem}")
    return part


def _finish(part: Path, gguf: Path, keys: Mapping[str, Value]) -> None:
    """Complete the metadata and give the file its name."""
    try:
        set_metadata(part, keys)
        part.replace(gguf)
    finally:
        part.unlink(missing_ok=True)


def _tokenizer_keys(checkpoint: Path, part: Path) -> dict[str, Value]:
    """What the converter notes for some architectures only: that a SentencePiece tokenizer puts no space in front."""
    path = checkpoint / "tokenizer_config.json"
    there = read_metadata(part)
    if there.get("tokenizer.ggml.model") != "llama" or _SPACE_KEY in there or not path.is_file():
        return {}
    config = json.loads(path.read_text(encoding="utf-8"))
    return {_SPACE_KEY: False} if config.get("add_prefix_space") is False else {}


def quantise(source: Path, target: Path, file_type: str = "Q8_0") -> None:
    """Quantise a GGUF file, token embeddings included. Raises `UserError` when llama.cpp refuses it."""
    if file_type not in FILE_TYPES:
        raise UserError(f"there is no file type {file_type!r} here; expected one of {', '.join(FILE_TYPES)}")
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[file_type]
    parameters.nthread = len(os.sched_getaffinity(0))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.stem + ".part.gguf")
    capture_log()
    forget_errors()
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), parameters)
    if status != 0:
        part.unlink(missing_ok=True)
        raise UserError(f"llama.cpp could not quantise {source} to {file_type}: {last_errors()}")
    part.replace(target)
