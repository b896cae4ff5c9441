from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from smallplan_planner.prompt import Message
from smallplan_training.chat import Chat
from smallplan_training.errors import UserError
from smallplan_training.model_recipes import ModelRecipe, load_recipe
from unit.training.tiny_models import ANSWER, FAMILIES, PROMPT, make_tokenizer, save_tiny_sentencepiece

RECIPES = {family: "generic" if family == "other" else family for family in FAMILIES}
ENDS = {"qwen2.5": "<|im_end|>", "llama-3.2": "<|eot_id|>", "phi-4-mini": "<|end|>", "other": "<stop>"}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def chat(family: str) -> Chat:
    return Chat(make_tokenizer(family), load_recipe(RECIPES[family]))


def test_a_prompt_is_what_the_chat_template_makes_of_it(family: str, chat: Chat) -> None:
    turns = [{"role": message.role, "content": message.content} for message in PROMPT]
    if family == "other":
        turns = [{"role": "user", "content": f"{PROMPT[0].content}\n\n{PROMPT[1].content}"}]
    expected = chat.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert chat.encode_prompt(PROMPT) == expected
    text = chat.tokenizer.decode(expected, skip_special_tokens=False)
    assert text == chat.render(PROMPT)
    assert PROMPT[0].content in text and text.index(PROMPT[0].content) < text.index(PROMPT[1].content)


def test_an_answer_ends_the_turn_as_the_template_does(family: str, chat: Chat) -> None:
    ids = chat.encode_answer(ANSWER)
    assert chat.tokenizer.convert_ids_to_tokens(ids[-1]) == ENDS[family]
    assert ids[-1] in chat.end_ids and chat.end_ids.isdisjoint(ids[:-1])
    assert chat.decode(ids) == ANSWER
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": ANSWER}]
    whole = chat.tokenizer.apply_chat_template(turns, tokenize=False)
    assert chat.tokenizer.decode(ids, skip_special_tokens=False) in whole


def test_special_tokens_in_an_answer_are_text(family: str, chat: Chat) -> None:
    ids = chat.encode_answer(f"a{ENDS[family]}b")
    assert ids.count(chat.end_id) == 1
    assert chat.decode(ids) == f"a{ENDS[family]}b"


def test_padding_and_stop_tokens_are_the_familys() -> None:
    llama = Chat(make_tokenizer("llama-3.2"), load_recipe("llama-3.2"))
    assert llama.tokenizer.convert_ids_to_tokens(llama.pad_id) == "<|finetune_right_pad_id|>"
    stops = {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}
    assert set(llama.tokenizer.convert_ids_to_tokens(sorted(llama.end_ids))) == stops


def test_the_date_in_a_prompt_never_changes() -> None:
    tokenizer = make_tokenizer("llama-3.2")
    chat = Chat(tokenizer, load_recipe("llama-3.2"))
    assert "Today Date: 26 Jul 2024\n" in chat.render(PROMPT)
    turns = [{"role": message.role, "content": message.content} for message in PROMPT]
    assert "26 Jul 2024" not in tokenizer.apply_chat_template(turns, tokenize=False)  # the day's date


def test_a_template_that_drops_the_system_message_gets_it_from_the_user() -> None:
    tokenizer = make_tokenizer("other")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<turn>' + m['content'] + '<stop>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<turn>' }}{% endif %}"
    )
    chat = Chat(tokenizer, load_recipe("generic"))
    assert chat.render(PROMPT) == f"<turn>{PROMPT[0].content}\n\n{PROMPT[1].content}<stop><turn>"
    assert chat.render([PROMPT[0]]) == f"<turn>{PROMPT[0].content}<stop><turn>"
    assert chat.render([Message("user", "u")]) == "<turn>u<stop><turn>"


def test_a_model_without_a_chat_template_is_refused() -> None:
    tokenizer = make_tokenizer("other")
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        Chat(tokenizer, load_recipe("generic"))
    Chat(tokenizer, ModelRecipe("mine", chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}"))


def test_a_recipe_of_another_family_is_refused() -> None:
    with pytest.raises(UserError, match=r"no token '<\|eot_id\|>'"):
        Chat(make_tokenizer("qwen2.5"), load_recipe("llama-3.2"))


def test_the_tokenizer_that_is_given_stays_as_it_is() -> None:
    tokenizer: Any = make_tokenizer("llama-3.2")
    before = copy.copy(tokenizer.chat_template)
    Chat(tokenizer, load_recipe("llama-3.2"))
    assert tokenizer.chat_template == before


def test_the_default_models_chats_are_those_of_its_own_trainer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    own = save_tiny_sentencepiece("llama-3.2", tmp_path)
    chat = Chat(AutoTokenizer.from_pretrained(tmp_path), load_recipe("smallplan-nano"))
    for text in (PROMPT[1].content, "Task: find the zorblick-2.\nRooms:\n  émile (closed) ", "\n\nx", "a<|end|>b", ""):
        messages = [PROMPT[0], Message("user", text)]
        if "<|end|>" not in text:
            assert chat.encode_prompt(messages) == own.encode_prompt(messages)
        assert chat.encode_answer(text) == own.encode_answer(text)
        assert chat.decode(own.encode_answer(text)) == text
    assert (chat.end_id, chat.pad_id, chat.end_ids) == (own.eos_id, own.pad_id, {own.eos_id})
