"""What `smallplan export` is given: an adapter folder of PEFT, or a whole model folder; where it comes from, and how a
folder is made of it that llama.cpp's converter and transformers read alike.

    source = find_source("build/training/adapter")
    prepared = prepare(source, scratch)      # merged in float32, with the chat template that it was trained with
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer

from smallplan_training.base_files import copy_tokenizer, find_base, read_config, save_model, write_folder
from smallplan_training.base_model import ADAPTER_BASE, ADAPTER_CONFIG, BaseOptions, Chat, load_language_model
from smallplan_training.errors import UserError
from smallplan_training.model_recipes import ModelRecipe, find_recipe, load_recipe
from smallplan_training.train_config import TrainConfig, build

_CONFIG = "config.json"
_LINKED = ("*.safetensors", "*.safetensors.index.json", _CONFIG, "generation_config.json")
_HUB_FOLDER = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/")


@dataclass(frozen=True)
class Source:
    """What is exported. `base` of a whole model is '' when nothing says what it was trained from."""

    folder: Path
    is_adapter: bool
    base: str  # a folder or a name on the hub
    recipe: str = ""  # of the chat; '' = the one that fits
    run: str = ""  # name of the training run, '' = unknown
    strategy: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)  # of the run; {} = unknown

    @property
    def weights(self) -> Path:
        """The folder of the whole weights: the base's, or its own."""
        return find_base(self.base) if self.is_adapter else self.folder

    @property
    def base_name(self) -> str:
        """What the base is called: `Qwen/Qwen2.5-3B-Instruct`, or the name of its folder; '' = unknown."""
        return _name_of(self.base) if self.base else ""

    @property
    def own_name(self) -> str:
        """What a model is called that comes from no run: as its folder is."""
        return _name_of(str(self.folder))


@dataclass(frozen=True)
class Prepared:
    """Folders that converters and transformers read, with one chat template."""

    model: Path  # base and adapter merged, float32; or the model as it is
    base: Path  # without the adapter; the same where there is none
    chat: Chat


def find_source(given: str, base: str | None = None, recipe: str = "") -> Source:
    """Recognise an adapter folder, or a model (a folder, or a name on the hub).

    Args:
        base: of the adapter, where it is not the one that it names itself.
        recipe: of the chat, where it is not the training run's.
    Raises: UserError: the folder is neither; or the adapter was trained on another base.
    """
    folder = Path(given).expanduser()
    if folder.is_dir() and not (folder / ADAPTER_CONFIG).is_file() and not (folder / _CONFIG).is_file():
        inner = [name for name in ("adapter", "merged") if (folder / name).is_dir()]
        hint = f"; give one of {', '.join(str(folder / name) for name in inner)}" if inner else ""
        raise UserError(
            f"{folder} is neither an adapter nor a model; expected a folder with {ADAPTER_CONFIG} or {_CONFIG}{hint}"
        )
    run = _run_of(folder) if folder.is_dir() else {}
    settings: dict[str, Any] = {
        "recipe": recipe or str(run.get("recipe") or ""),
        "run": folder.resolve().parent.name if run else "",
        "strategy": str(run.get("strategy") or ""),
        "config": run,
    }
    if not (folder / ADAPTER_CONFIG).is_file():
        if base is not None:
            raise UserError(f"{given} is a whole model, which has no base; leave --base out")
        return Source(find_base(given), False, str(run.get("base") or ""), **settings)
    trained_on = str(_read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or run.get("base") or "")
    if not base and not trained_on:
        raise UserError(f"{folder / ADAPTER_CONFIG} does not name the base of the adapter; give it with --base")
    source = Source(folder, True, base or trained_on, **settings)
    _check_name(source, trained_on)
    if not base:
        try:
            find_base(trained_on)
        except UserError as error:
            raise UserError(f"{folder} names its base, but {error}; give it with --base") from error
    _check_architecture(source)
    return source


def prompt_tokens(source: Source) -> int | None:
    """Of the longest prompts of a source's training run; None when nothing tells. Raises `UserError`."""
    try:
        config = build(TrainConfig, source.config)
    except ValueError:  # of no run, or of another version
        return None
    recipe = _recipe_of(source.weights, source.recipe, _tokenizer_of(source.weights))
    return config.prompt_tokens(recipe.max_tokens)


def count_parameters(folder: Path) -> int:
    """The parameters of a model folder, from the headers of its files. Raises `UserError`."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no *.safetensors; expected a model folder as transformers writes it")
    tied = bool(getattr(read_config(folder), "tie_word_embeddings", False))
    count = 0
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} can't be read: {error}; it is damaged, fetch or save the model anew") from error
        count += sum(math.prod(shape) for name, shape in shapes.items() if not (tied and name == "lm_head.weight"))
    return count


def find_licence(folder: Path) -> str:
    """The licence that a model card in a folder tells, '' where none does."""
    licence = gguf.Metadata.load_model_card(folder).get("license")
    return licence if isinstance(licence, str) else ""


def prepare(source: Source, scratch: Path) -> Prepared:
    """Make the folders below `scratch`. An adapter is merged in float32, so that nothing of it is rounded away.

    Raises `UserError` when the adapter does not fit its base, or something is missing.
    """
    if not source.is_adapter:
        chat = chat_of(source.folder, source.recipe)
        _link_model(source.folder, chat, scratch / "model")
        return Prepared(scratch / "model", scratch / "model", chat)
    options = BaseOptions(
        source.base, recipe=source.recipe, adapter=source.folder, device="cpu", dtype="float32", quantisation="none"
    )
    lm = load_language_model(options)
    save_model(lm.model.merge_and_unload(), lm.folder, lm.chat.tokenizer, scratch / "model")
    _link_model(lm.folder, lm.chat, scratch / "base")
    return Prepared(scratch / "model", scratch / "base", lm.chat)


def _link_model(model: Path, chat: Chat, folder: Path) -> None:
    """A folder with links to a model's weights, its tokenizer, and the chat template that `chat` uses."""
    with write_folder(folder) as new:
        for pattern in _LINKED:
            for path in model.glob(pattern):
                (new / path.name).symlink_to(path.resolve())
        copy_tokenizer(model, chat.tokenizer, new)


def chat_of(folder: Path, recipe: str = "") -> Chat:
    """The chat of a model folder; `recipe` '': by the one that fits. Raises `UserError`."""
    tokenizer = _tokenizer_of(folder)
    return Chat(tokenizer, _recipe_of(folder, recipe, tokenizer))


def _recipe_of(folder: Path, name: str, tokenizer: Any) -> ModelRecipe:
    if name:
        return load_recipe(name)
    return find_recipe(str(folder), read_config(folder).model_type, tokenizer.get_vocab())


def _tokenizer_of(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} has no tokenizer that transformers can load: {error}") from error


def _check_name(source: Source, trained_on: str) -> None:
    """Two models of the hub are not the same, even when their shapes are; of folders the name tells nothing."""
    names = (_name_of(trained_on), source.base_name)
    if all("/" in name and not name.startswith(("/", ".", "~")) for name in names) and names[0] != names[1]:
        raise UserError(
            f"the adapter in {source.folder} was trained on {names[0]}, not on {names[1]}; give that with --base"
        )


def _check_architecture(source: Source) -> None:
    """Layers of two architectures may have the same names and sizes; the kind of model tells them apart."""
    path = source.folder / ADAPTER_BASE
    there = _read_json(path).get("model_type") if path.is_file() else None
    here = read_config(source.weights).model_type
    if there is not None and there != here:
        raise UserError(
            f"the adapter in {source.folder} was trained on a base of the type {there}, {source.base} is of the type "
            f"{here}; give the base that it was trained on with --base"
        )


def _run_of(folder: Path) -> dict[str, Any]:
    """The configuration of the training run in whose folder this one is, {} when it is in none."""
    path = folder.resolve().parent / _CONFIG
    if not path.is_file():
        return {}
    config = _read_json(path)
    return config if "strategy" in config else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}; expected an object")
    return data


def _name_of(base: str) -> str:
    found = _HUB_FOLDER.search(base)
    if found:
        return f"{found[1]}/{found[2]}"
    return Path(base).resolve().name if Path(base).expanduser().is_dir() else base
