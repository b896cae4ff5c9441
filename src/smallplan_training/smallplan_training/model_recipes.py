"""What is to be known of a base model besides its weights: a data file in `config/models` for each family.

model_types         `model_type` of config.json that the recipe is for; [] = any
names               patterns of which one should be found in the base's name (decides between recipes that fit)
end_of_turn         the token behind an answer; '' = the one that the chat template writes there
stop_tokens         tokens that end an answer when it is generated; those that the tokenizer lacks are passed over
pad_token           '' = the tokenizer's own
chat_template       '' = the tokenizer's own
template_constants  variables of the chat template that are fixed, such as a date
max_tokens          longest sample, prompt and answer
lora                target_modules (a list, or "all-linear"), rank, alpha, dropout
quantisation        of the base on a GPU: nf4 or none
cpu_dtype           of the base on a CPU: bfloat16 or float32
gradient_checkpointing  activations are computed twice instead of kept: less memory, a third more time
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from smallplan_planner.resources import resource
from smallplan_training.errors import UserError

GENERIC = "generic"
QUANTISATIONS = ("nf4", "none")
DTYPES = ("bfloat16", "float32")


@dataclass(frozen=True)
class LoraRecipe:
    """Low-rank adapters: which linear layers, and how large. Raises ValueError."""

    target_modules: tuple[str, ...] | str = "all-linear"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.target_modules or (isinstance(self.target_modules, str) and self.target_modules != "all-linear"):
            raise ValueError(f"lora.target_modules is {self.target_modules!r}; expected a list of names or all-linear")
        for name in ("rank", "alpha"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"lora.{name} is {getattr(self, name)!r}; expected a whole number of at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout is {self.dropout}; expected 0 up to 1")


@dataclass(frozen=True)
class ModelRecipe:
    """One data file; for the fields see the top of this module. Raises ValueError."""

    name: str
    model_types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    end_of_turn: str = ""
    stop_tokens: tuple[str, ...] = ()
    pad_token: str = ""
    chat_template: str = ""
    template_constants: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int = 2048
    lora: LoraRecipe = LoraRecipe()
    quantisation: str = "nf4"
    cpu_dtype: str = "bfloat16"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("quantisation", QUANTISATIONS), ("cpu_dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(allowed)}")
        if not isinstance(self.max_tokens, int) or self.max_tokens < 16:
            raise ValueError(f"max_tokens is {self.max_tokens!r}; expected a whole number of at least 16")
        if self.end_of_turn and self.end_of_turn not in self.stop_tokens:
            raise ValueError(f"end_of_turn {self.end_of_turn!r} is not among stop_tokens {list(self.stop_tokens)}")

    def fits(self, model_type: str, vocabulary: Collection[str]) -> bool:
        """Whether it is for such a model, and the tokenizer has the token that ends a turn."""
        if self.model_types and model_type not in self.model_types:
            return False
        return not self.end_of_turn or self.end_of_turn in vocabulary


def load_recipe(name_or_path: str) -> ModelRecipe:
    """The recipe of a name (a file of `config/models`) or of a path; raises `UserError`."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = _folder() / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _folder().glob("*.yaml")))
        raise UserError(
            f"there is no model recipe {name_or_path!r}; expected a path of a .yaml file, or one of {known}"
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _parse(path.stem, data)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error


def find_recipe(base: str, model_type: str, vocabulary: Collection[str]) -> ModelRecipe:
    """The recipe that fits a base model best: by its type and tokens, then by its name; else the generic one."""
    recipes = [load_recipe(str(path)) for path in sorted(_folder().glob("*.yaml")) if path.stem != GENERIC]
    fitting = [recipe for recipe in recipes if recipe.fits(model_type, vocabulary)]
    named = [r for r in fitting if any(re.search(pattern, base, re.IGNORECASE) for pattern in r.names)]
    return (named or fitting or [load_recipe(GENERIC)])[0]


def _folder() -> Path:
    return resource("config", "models")


def _parse(name: str, data: Any) -> ModelRecipe:
    if not isinstance(data, dict):
        raise ValueError(f"expected a mapping of fields, got {type(data).__name__}")
    values = {"name": name, **data}
    if "lora" in values:
        values["lora"] = LoraRecipe(**_known("lora.", LoraRecipe, values["lora"]))
    return ModelRecipe(**_known("", ModelRecipe, values))


def _known(prefix: str, kind: type, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{prefix[:-1]} is {values!r}; expected a mapping")
    names = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ValueError(f"unknown field {prefix}{unknown[0]}; expected one of {', '.join(sorted(names))}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
