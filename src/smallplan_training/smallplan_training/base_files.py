"""Files of a base model: where they are, and how a folder like it is written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig

from smallplan_training.checkpoint import replace_folder
from smallplan_training.errors import UserError

_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_CONFIG, _TOKENIZER_CONFIG, _TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"


def find_base(base: str) -> Path:
    """The folder of a base model: itself, or the copy of a model of the Hugging Face hub, fetched once.

    Raises `UserError` when there is none.
    """
    folder = Path(base).expanduser()
    if folder.is_dir():
        if not (folder / _CONFIG).is_file():
            raise UserError(f"{folder} holds no {_CONFIG}; expected a model folder as transformers writes it")
        return folder
    if folder.exists() or folder.is_absolute() or base.startswith((".", "~")) or not _HUB_NAME.fullmatch(base):
        raise UserError(f"there is no model folder {base}; expected a folder with {_CONFIG}, or a name on the hub")
    try:
        return Path(snapshot_download(base, allow_patterns=list(_WANTED), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        pass  # not here yet
    try:
        return Path(snapshot_download(base, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise UserError(
            f"the base model {base} is neither a folder nor in the local cache, and can't be fetched from the hub: "
            f"{reason}. Check the name and the network, log in where a licence has to be accepted (hf auth login), "
            "or give the path of a folder that holds the model"
        ) from error


def read_config(folder: Path) -> Any:
    """transformers' configuration of a model folder; raises `UserError`."""
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / _CONFIG} can't be read by transformers: {error}") from error


@contextlib.contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the place of `folder` when all went well.

    Raises `UserError` when writing fails (a full disk); what was in `folder` then stays.
    """
    new = folder.with_name(folder.name + ".new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
    except (OSError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        raise UserError(
            f"can't write {folder}: {error}; what was there stays. Make room on that disk and run the command again"
        ) from error
    replace_folder(folder, new)


def save_model(model: Any, base: Path, tokenizer: Any, folder: Path) -> None:
    """Write a model of transformers as a folder, whole or not at all: its weights, the tokenizer's files of `base`,
    and `tokenizer`'s chat template. Raises `UserError`."""
    with write_folder(folder) as new:
        model.save_pretrained(str(new))
        copy_tokenizer(base, tokenizer, new)


def copy_tokenizer(base: Path, tokenizer: Any, folder: Path) -> None:
    """The base's tokenizer files as they are (converters read more than transformers writes), and `tokenizer`'s
    chat template in the place of theirs."""
    for name in _TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    if not (folder / _TOKENIZER_CONFIG).is_file():
        tokenizer.save_pretrained(str(folder))
    path = folder / _TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["chat_template"] = tokenizer.chat_template
    path.write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")
    (folder / _TEMPLATE).write_text(tokenizer.chat_template, encoding="utf-8")
