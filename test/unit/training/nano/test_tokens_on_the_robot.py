"""The model reads on the robot what it read in training: llama.cpp's tokens are those of the training's tokenizer."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from fixtures.graphs import HOSTILE_LABELS
from fixtures.tiny_gguf import write_tiny_gguf
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message, PromptView, render
from smallplan_planner.slm import Slm
from smallplan_training.nano.tokenizer import CHAT_TEMPLATE, NanoTokenizer, train_tokenizer
from smallplan_training.teachers.expert import ExpertTeacher
from smallplan_training.teachers.imagined import imagine
from smallplan_training.teachers.variations import random_target, rename, retarget

PRIORS = load_priors()


def view(seed: int) -> PromptView:
    rng = random.Random(seed)
    imagined = rename(imagine(PRIORS, rng), rng, PRIORS)
    return retarget(imagined, random_target(imagined, PRIORS, rng), PRIORS)


def answer(seed: int) -> str:
    return ExpertTeacher().answer(view(seed)).render()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NanoTokenizer, Slm]]:
    texts = ["\n".join(message.content for message in render(view(seed))) for seed in range(40)]
    names = [*PRIORS.objects, *PRIORS.furniture, *PRIORS.rooms]
    tokenizer = NanoTokenizer(train_tokenizer(texts, [answer(seed) for seed in range(40)], names, 2560))
    path = tmp_path_factory.mktemp("nano") / "nano.gguf"
    write_tiny_gguf(path, tokenizer=tokenizer._sp, chat_template=CHAT_TEMPLATE)
    with Slm(path, n_threads=1) as slm:
        yield tokenizer, slm


def test_prompts_have_the_same_tokens(both: tuple[NanoTokenizer, Slm]) -> None:
    tokenizer, slm = both
    for seed in range(100):
        messages = render(view(seed))
        assert slm.tokenize_chat(messages) == tokenizer.encode_prompt(messages), seed


@pytest.mark.parametrize("text", HOSTILE_LABELS, ids=range(len(HOSTILE_LABELS)))
def test_hostile_contents_have_the_same_tokens(both: tuple[NanoTokenizer, Slm], text: str) -> None:
    tokenizer, slm = both
    messages = [Message("system", "x"), Message("user", text[:200])]
    assert slm.tokenize_chat(messages) == tokenizer.encode_prompt(messages)


def test_answers_have_the_same_tokens_from_their_first_head_on(both: tuple[NanoTokenizer, Slm]) -> None:
    tokenizer, slm = both
    for seed in range(60):
        text = answer(seed)
        tokens = slm._chat.tokenize(text)
        assert [*tokens, tokenizer.eos_id] == tokenizer.encode_answer(text), seed
        heads = [slm._chat.head_tokens[head] for head in ("Analysis:", "\nReasoning:", "\nCommand:")]
        assert tokens[: len(heads[0])] == heads[0]
        assert all(head[0] in tokens for head in heads)
