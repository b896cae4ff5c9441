from __future__ import annotations

from pathlib import Path

import pytest

from smallplan_planner.resources import resource
from smallplan_training.errors import UserError
from smallplan_training.model_recipes import find_recipe, load_recipe

FILES = sorted(path.stem for path in resource("config", "models").glob("*.yaml"))


def test_the_models_of_the_paper_and_the_default_one_have_a_recipe() -> None:
    assert {"qwen2.5", "llama-3.2", "phi-4-mini", "smallplan-nano", "generic"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_data_file_is_a_valid_recipe(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.lora.rank >= 1


@pytest.mark.parametrize(
    ("base", "model_type", "tokens", "expected"),
    [
        ("Qwen/Qwen2.5-3B-Instruct", "qwen2", {"<|im_end|>"}, "qwen2.5"),
        ("meta-llama/Llama-3.2-3B-Instruct", "llama", {"<|eot_id|>"}, "llama-3.2"),
        ("microsoft/Phi-4-mini-instruct", "phi3", {"<|end|>"}, "phi-4-mini"),
        ("/models/mine", "llama", {"<|eot_id|>"}, "llama-3.2"),
        ("/models/mine", "llama", {"<|end|>"}, "smallplan-nano"),
        ("/models/qwen2.5-of-my-own", "llama", {"</s>"}, "generic"),
        ("google/gemma-2-2b-it", "gemma2", {"<end_of_turn>"}, "generic"),
    ],
)
def test_a_recipe_is_found_by_type_tokens_and_name(base: str, model_type: str, tokens: set[str], expected: str) -> None:
    assert find_recipe(base, model_type, tokens).name == expected


def test_a_file_of_ones_own_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("lora: {target_modules: [q_proj], rank: 2, alpha: 4}\nmax_tokens: 64\n")
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.lora.target_modules, recipe.lora.rank, recipe.max_tokens) == (
        "mine",
        ("q_proj",),
        2,
        64,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora: {ranks: 2}", "unknown field lora.ranks; expected one of alpha, dropout, rank, target_modules"),
        ("lora: {rank: 0}", "lora.rank is 0"),
        ("lora: {target_modules: everything}", "lora.target_modules is 'everything'"),
        ("colour: blue", "unknown field colour"),
        ("quantisation: int3", "quantisation is 'int3'; expected nf4 or none"),
        ("max_tokens: many", "max_tokens is 'many'"),
        ("end_of_turn: <x>", "end_of_turn '<x>' is not among stop_tokens"),
        ("- a list", "expected a mapping of fields, got list"),
        ("lora: [", "mine.yaml: while parsing"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(str(path))
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no model recipe 'gpt-9'.*phi-4-mini"):
        load_recipe("gpt-9")
