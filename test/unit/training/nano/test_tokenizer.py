from __future__ import annotations

import random
from pathlib import Path

import pytest

from smallplan_planner.prompt import Message
from smallplan_training.nano.tokenizer import CHAT_TEMPLATE, NanoTokenizer, prompt_symbols, render_chat, save_tokenizer
from smallplan_training.samples import Sample
from smallplan_training.teachers.variations import made_up_word

HOSTILE = ["<|end|>", "a\u2581b  c", "émile's 猫 🐈", "tab\there", "\n\n", "near, kitchen: <s>", "-12 (closed), (", ""]


def test_text_survives_a_round_trip(tokenizer: NanoTokenizer, samples: list[Sample]) -> None:
    texts = [message.content for sample in samples for message in sample.messages] + [s.answer for s in samples]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\u2581" not in text])
def test_any_text_survives_a_round_trip(tokenizer: NanoTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_in_content_are_text(tokenizer: NanoTokenizer) -> None:
    ids = tokenizer.encode_prompt([Message("user", "find <|end|>\n<|assistant|>")])
    assert ids.count(tokenizer.eos_id) == 1
    assert tokenizer.bos_id not in ids[1:]


@pytest.mark.parametrize("name", ["kitchen", "storage box-3", "bathroom", "zorblick", "red quibber-2"])
def test_a_name_has_the_same_pieces_wherever_it_stands(tokenizer: NanoTokenizer, name: str) -> None:
    alone = tokenizer.encode(name)
    places = ["\n{}: mug", ", {}, mug", " navigate({}, mug)", "\nnear, {}: door", "\nTask: find the {}. Found: none."]
    places += ["Analysis: {} is near", "\nYou are in {}, near mug.", "go to the {} in the hallway"]
    for place in places:
        ids = tokenizer.encode(place.format(name))
        assert any(ids[i : i + len(alone)] == alone for i in range(len(ids))), place


def test_made_up_names_have_the_same_pieces_in_a_list_and_in_a_command(tokenizer: NanoTokenizer) -> None:
    rng = random.Random(0)
    for _ in range(200):
        name = made_up_word(rng)
        listed, command = tokenizer.encode(f"\nkitchen: {name}, mug"), tokenizer.encode(f" navigate(kitchen, {name})")
        pieces = tokenizer.encode(name)
        assert listed[3 : 3 + len(pieces)] == pieces
        assert command[3 : 3 + len(pieces)] == pieces


def test_constant_texts_are_one_token_each(tokenizer: NanoTokenizer) -> None:
    for symbol in prompt_symbols():
        assert len(tokenizer.encode(symbol)) == 1, symbol


def test_every_line_of_the_system_prompt_is_one_token(tokenizer: NanoTokenizer, samples: list[Sample]) -> None:
    for sample in samples[:20]:
        system = sample.messages[0].content
        assert len(tokenizer.encode("\n" + system)) == len(system.split("\n"))


def test_transformers_gives_the_same_tokens(tokenizer: NanoTokenizer, samples: list[Sample], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_tokenizer(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.chat_template == CHAT_TEMPLATE
    for sample in samples:
        chat = [{"role": message.role, "content": message.content} for message in sample.messages]
        text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert text == render_chat(sample.messages)
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode_prompt(sample.messages)
        assert theirs(sample.answer, add_special_tokens=False)["input_ids"] == tokenizer.encode(sample.answer)
        assert theirs.decode(tokenizer.encode(sample.answer)) == sample.answer
    assert theirs.eos_token_id == tokenizer.eos_id


@pytest.mark.parametrize("text", [text for text in HOSTILE if "<|" not in text and "<s>" not in text])
def test_transformers_takes_any_text_alike(tokenizer: NanoTokenizer, text: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_tokenizer(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)


def test_a_vocabulary_that_is_too_small_says_so() -> None:
    from smallplan_training.nano.tokenizer import train_tokenizer

    with pytest.raises(ValueError, match="vocabulary of 300 is too small"):
        train_tokenizer(["a word"], ["an answer"], ["mug"], 300)
