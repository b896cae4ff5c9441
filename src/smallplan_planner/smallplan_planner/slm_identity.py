"""Was a model, or an adapter, made for what it is used for? Told by the metadata of its GGUF. No llama.cpp in here.

Keys of our own, which `smallplan export` writes:
- `smallplan.prompt_version`: the version of the prompt that it was trained with (`prompt.PROMPT_VERSION`);
- `smallplan.base_model`, in an adapter: the `general.name` of the model that it was trained on;
- `smallplan.prompt_tokens`: tokens of the longest prompts that it was trained with, where that is worth telling.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from smallplan_planner.generation import SlmError
from smallplan_planner.prompt import PROMPT_VERSION

logger = logging.getLogger(__name__)

PROMPT_VERSION_KEY = "smallplan.prompt_version"
BASE_MODEL_KEY = "smallplan.base_model"
PROMPT_TOKENS_KEY = "smallplan.prompt_tokens"

_NAME = "general.name"


def check_prompt_version(
    path: Path, metadata: Mapping[str, str], adapter_path: Path | None, adapter_metadata: Mapping[str, str]
) -> None:
    """Compare the version of the prompt that a model was trained with to the one that it is going to read.

    An adapter counts before its base: it is what was trained last. Where neither knows, there is a warning.
    Raises `SlmError` when the versions differ.
    """
    trained, source = metadata.get(PROMPT_VERSION_KEY), path
    if adapter_path is not None and PROMPT_VERSION_KEY in adapter_metadata:
        trained, source = adapter_metadata[PROMPT_VERSION_KEY], adapter_path
    if trained is None:
        logger.warning(
            "%s does not say which version of the prompt it was trained with (%s; this planner writes version %s): "
            "if it was trained with another, it answers badly",
            source,
            PROMPT_VERSION_KEY,
            PROMPT_VERSION,
        )
    elif trained != PROMPT_VERSION:
        raise SlmError(
            f"{source} was trained with version {trained} of the prompt, and this planner writes version "
            f"{PROMPT_VERSION}: use a model for version {PROMPT_VERSION} or train it anew, or install the release of "
            f"SmallPlan that writes version {trained}"
        )


def check_base(
    path: Path, metadata: Mapping[str, str], adapter_path: Path, adapter_metadata: Mapping[str, str]
) -> None:
    """Refuse an adapter that says it was trained on a model of another name. Raises `SlmError`.

    llama.cpp refuses another architecture and other sizes by itself; of two models of one shape only the name tells.
    """
    wanted, name = adapter_metadata.get(BASE_MODEL_KEY, ""), metadata.get(_NAME, "")
    if wanted and name and _plain(wanted) != _plain(name):
        raise SlmError(
            f"{adapter_path} is not a LoRA adapter for {path}: it was trained on {wanted!r}, and this model is {name!r}"
        )


def trained_prompt_tokens(metadata: Mapping[str, str], adapter_metadata: Mapping[str, str]) -> int | None:
    """Tokens of the longest prompts that a model, or its adapter, was trained with; None where neither says so."""
    text = adapter_metadata.get(PROMPT_TOKENS_KEY, metadata.get(PROMPT_TOKENS_KEY, ""))
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _plain(name: str) -> str:
    """A model's name without what spellings differ in: `Qwen2.5-3B-Instruct` is `Qwen2.5 3B Instruct`."""
    return "".join(character for character in name.lower() if character.isalnum())
