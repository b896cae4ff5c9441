from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message
from smallplan_planner.room_prompt import render_room
from smallplan_training.nano.situations import imagined_samples
from smallplan_training.nano.tokenizer import (
    CHAT_TEMPLATE,
    PHRASES,
    NanoTokenizer,
    prompt_symbols,
    render_chat,
    save_tokenizer,
)
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
    places += ["\nYou are in {}, near mug.", "\nYou are in kitchen, near {}.", "\nFound: {} in kitchen"]
    places += ["Analysis: {} is in kitchen.", "Analysis: No {} yet. Options: {} in kitchen, near, good; {} in {}, far"]
    places += ["\nReasoning: {} in {}: a usual place of the {}, so I open it.", "\nReasoning: {} in {}: it is near"]
    places += ["\nReasoning: The {} is found, so I stop."]  # these are the expert's sentences
    for place in places:
        ids = tokenizer.encode(place.replace("{}", name))
        assert sum(ids[i : i + len(alone)] == alone for i in range(len(ids))) >= place.count("{}"), place


def test_made_up_names_have_the_same_pieces_in_a_list_and_in_a_command(tokenizer: NanoTokenizer) -> None:
    rng = random.Random(0)
    for _ in range(200):
        name = made_up_word(rng)
        listed, command = tokenizer.encode(f"\nkitchen: {name}, mug"), tokenizer.encode(f" navigate(kitchen, {name})")
        pieces = tokenizer.encode(name)
        assert listed[3 : 3 + len(pieces)] == pieces
        assert command[3 : 3 + len(pieces)] == pieces


def test_constant_texts_are_one_token_each(tokenizer: NanoTokenizer) -> None:
    for symbol in prompt_symbols(load_priors()):
        assert len(tokenizer.encode(symbol)) == 1, symbol


def test_lines_without_names_are_one_token_each(tokenizer: NanoTokenizer, samples: list[Sample]) -> None:
    """Read off real prompts: what they say in constant words, the tokenizer knows."""
    constant = {"Log:", "Usual places: not known."}
    heads = ("Unexplored space", "Closed doors", "Closed containers", "Seen from afar")
    constant |= {f"{head}:" for head in heads} | {f"{head}: none" for head in heads}
    lines = Counter(line for sample in samples for line in sample.messages[1].content.split("\n"))
    assert constant <= lines.keys()
    rules = {line for line in lines if lines[line] == len(samples)} - constant
    assert len(rules) == 1  # the line of rules, which every prompt has
    for line in constant | rules:
        assert len(tokenizer.encode("\n" + line)) == 1, line


def test_every_phrase_is_a_token_of_some_answer(tokenizer: NanoTokenizer) -> None:
    """A phrase that the expert no longer writes is a token that the model never learns."""
    ids = set()
    for sample in islice(imagined_samples(load_priors(), 5), 2500):
        ids.update(tokenizer.encode_answer(sample.answer))
    for phrase in PHRASES:
        assert tokenizer.encode(phrase)[0] in ids, phrase


def test_a_room_question_of_known_words_is_few_tokens(tokenizer: NanoTokenizer) -> None:
    priors = load_priors()
    bare = tokenizer.encode_prompt(render_room(["bed"], priors.rooms))
    words = ["bed", "wardrobe", "coffee table", "desk lamp", "mug", "washing machine"]
    assert len(bare) < 20
    assert all(len(tokenizer.encode(text)) == 1 for text in ("\nSeen: ", "\nRoom type:"))
    assert len(tokenizer.encode_prompt(render_room(words, priors.rooms))) <= len(bare) + 2 * (len(words) - 1)
    assert all(len(tokenizer.encode_answer(answer)) == 2 for answer in priors.rooms)


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
