"""Batched generation against the plain way: one prompt, no cache, a whole forward pass for each token."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from smallplan_planner.prompt import Message  # noqa: E402
from smallplan_training import batch_generation  # noqa: E402
from smallplan_training.batch_generation import BatchGenerator, Completion, like_lengths  # noqa: E402
from smallplan_training.chat import Chat  # noqa: E402
from smallplan_training.errors import UserError  # noqa: E402
from smallplan_training.model_recipes import load_recipe  # noqa: E402
from unit.training.tiny_models import OTHER_PROMPT, PROMPT, save_tiny  # noqa: E402

FAMILIES = ("qwen2.5", "llama-3.2", "phi-4-mini", "other")
PROMPTS = [PROMPT, (Message("user", "mug?"),), OTHER_PROMPT, (*PROMPT[:1], Message("user", "Task: find it.\n" * 4))]


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Chat]:
    return load(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Chat]:
    return load("llama-3.2", tmp_path_factory.mktemp("llama"))


def load(family: str, folder: Path) -> tuple[Any, Chat]:
    save_tiny(family, folder, spare=0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    recipe = load_recipe("generic" if family == "other" else family)
    return model, Chat(AutoTokenizer.from_pretrained(folder), recipe)


def recomputed(model: Any, completion: Completion, temperature: float = 1.0) -> list[float]:
    """Logprobs of a completion by one forward pass over prompt and answer."""
    ids = torch.tensor([[*completion.prompt_ids, *completion.ids]])
    with torch.no_grad():
        logprobs = (model(input_ids=ids).logits[0, :-1].float() / temperature).log_softmax(-1)
    chosen = logprobs.gather(1, ids[0, 1:, None])[:, 0]
    return chosen[len(completion.prompt_ids) - 1 :].tolist()  # type: ignore[no-any-return]


def test_greedy_answers_are_those_of_one_prompt_without_a_cache(tiny: tuple[Any, Chat]) -> None:
    model, chat = tiny
    batched = BatchGenerator(model, chat, temperature=0.0, max_tokens=12, batch=4).generate(PROMPTS)
    plain = BatchGenerator(model, chat, temperature=0.0, max_tokens=12, batch=1, use_cache=False).generate(PROMPTS)
    for one, other, messages in zip(batched, plain, PROMPTS, strict=True):
        assert one.ids == other.ids and one.text == other.text
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert list(one.prompt_ids) == chat.encode_prompt(messages)
        ids = list(one.prompt_ids)
        for token in one.ids:  # by hand: the likeliest token after all that stands before
            with torch.no_grad():
                assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


@pytest.mark.parametrize("temperature", (1.0, 0.5))
def test_logprobs_are_those_of_the_distribution_that_was_drawn_from(tiny: tuple[Any, Chat], temperature: float) -> None:
    model, chat = tiny
    made = BatchGenerator(model, chat, temperature=temperature, max_tokens=10, batch=4, seed=3).generate(PROMPTS)
    for completion in made:
        assert completion.logprobs == pytest.approx(recomputed(model, completion, temperature), abs=1e-4)


def test_what_is_drawn_follows_the_distribution(llama: tuple[Any, Chat]) -> None:
    model, chat = llama
    draws = 600
    made = BatchGenerator(model, chat, max_tokens=1, batch=200).generate([PROMPT] * draws)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([made[0].prompt_ids])).logits[0, -1].softmax(-1)
    likely = expected.topk(3)
    for token, share in zip(likely.indices.tolist(), likely.values.tolist(), strict=True):
        count = sum(completion.ids == (token,) for completion in made)
        assert count / draws == pytest.approx(share, abs=4 * (share * (1 - share) / draws) ** 0.5 + 1e-3)


def test_the_same_seed_draws_the_same_whatever_else_is_in_the_batch(llama: tuple[Any, Chat]) -> None:
    model, chat = llama
    seeds = [(7, index) for index in range(len(PROMPTS))]
    together = BatchGenerator(model, chat, max_tokens=10, batch=4).generate(PROMPTS, seeds)
    again = BatchGenerator(model, chat, max_tokens=10, batch=4).generate(PROMPTS, seeds)
    backwards = BatchGenerator(model, chat, max_tokens=10, batch=3).generate(PROMPTS[::-1], seeds[::-1])
    others = BatchGenerator(model, chat, max_tokens=10, batch=4).generate(PROMPTS, [(8, i) for i in range(4)])
    assert together == again
    assert [one.ids for one in together] == [one.ids for one in backwards[::-1]]
    assert [one.ids for one in together] != [one.ids for one in others]


def test_without_seeds_each_call_draws_anew_and_a_rerun_repeats_it(llama: tuple[Any, Chat]) -> None:
    model, chat = llama
    first, second = (BatchGenerator(model, chat, max_tokens=8, seed=5) for _ in range(2))
    made = first.generate([PROMPT, PROMPT])
    assert made[0].ids != made[1].ids
    assert first.generate([PROMPT])[0].ids not in {one.ids for one in made}
    assert second.generate([PROMPT, PROMPT]) == made


def test_each_row_stops_by_itself(llama: tuple[Any, Chat]) -> None:
    """Among many draws, answers end at different lengths; each is what it would be alone."""
    model, chat = llama
    chat_ends = frozenset(range(0, chat.vocab_size, 9))  # every ninth token ends an answer, so that rows end early

    class Ends:
        end_ids, pad_id = chat_ends, chat.pad_id
        encode_prompt, decode = staticmethod(chat.encode_prompt), staticmethod(chat.decode)

    prompts = PROMPTS * 4
    seeds = [(1, index) for index in range(len(prompts))]
    made = BatchGenerator(model, Ends(), max_tokens=30, batch=16).generate(prompts, seeds)  # type: ignore[arg-type]
    assert len({len(completion.ids) for completion in made}) > 3
    for prompt, seed, completion in zip(prompts, seeds, made, strict=True):
        ends = [token in chat_ends for token in completion.ids]
        assert not any(ends[:-1]) and len(ends) == len(completion.logprobs)
        assert completion.finished == ends[-1] and (completion.finished or len(ends) == 30)
        alone = BatchGenerator(model, Ends(), max_tokens=30, batch=1).generate([prompt], [seed])  # type: ignore[arg-type]
        assert alone[0].ids == completion.ids


def test_adapters_count_and_the_weights_are_the_same_to_the_bit_afterwards(
    llama: tuple[Any, Chat], tmp_path: Path
) -> None:
    _, chat = llama
    base = AutoModelForCausalLM.from_pretrained(save_tiny("llama-3.2", tmp_path, spare=0), dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    made = BatchGenerator(model, chat, max_tokens=8, batch=4).generate(PROMPTS)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model.eval()
    for completion in made:
        assert completion.logprobs == pytest.approx(recomputed(model, completion), abs=1e-4)
    with model.disable_adapter():
        assert recomputed(model, made[0]) != pytest.approx(made[0].logprobs, abs=1e-2)


def test_prompts_that_are_read_in_parts_are_answered_as_those_that_are_read_at_once(
    tiny: tuple[Any, Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, chat = tiny
    head = functools.partial(torch.sum, dim=-1)
    generator = BatchGenerator(model, chat, temperature=0.0, max_tokens=8, batch=8, value_head=head)
    monkeypatch.setattr(batch_generation, "_READ_TOKENS", 10**6)
    at_once = generator.generate(PROMPTS * 2)
    monkeypatch.setattr(batch_generation, "_READ_TOKENS", 1)
    for one, other in zip(generator.generate(PROMPTS * 2), at_once, strict=True):
        assert one.ids == other.ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.value == pytest.approx(other.value, abs=1e-3)


def test_like_lengths_are_put_together() -> None:
    assert like_lengths([3, 4, 4, 9, 10, 30], 20) == [slice(0, 3), slice(3, 5), slice(5, 6)]
    assert like_lengths([5], 1) == [slice(0, 1)]


def test_answers_of_a_session_are_those_of_single_calls(llama: tuple[Any, Chat], tmp_path: Path) -> None:
    _, chat = llama
    base = AutoModelForCausalLM.from_pretrained(save_tiny("llama-3.2", tmp_path, spare=0), dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    generator = BatchGenerator(model, chat, temperature=0.0, max_tokens=8)
    single = [generator.generate([prompt]) for prompt in PROMPTS]
    with pytest.raises(ZeroDivisionError), generator.session():
        assert not model.training and not any("lora" in name for name, _ in model.named_parameters())
        assert [generator.generate([prompt]) for prompt in PROMPTS] == single
        assert generator.greedy(8).generate(PROMPTS[:1]) == single[0]
        raise ZeroDivisionError
    assert all(module.training for module in model.modules())
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_diverged_weights_are_named(tmp_path: Path) -> None:
    model, chat = load("llama-3.2", tmp_path)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(UserError, match="diverged"):
        BatchGenerator(model, chat, max_tokens=4).generate([PROMPT])


def test_settings_out_of_range_are_named(llama: tuple[Any, Chat]) -> None:
    for wrong in ({"temperature": -1.0}, {"temperature": float("nan")}, {"max_tokens": 0}, {"batch": 0}):
        with pytest.raises(ValueError, match="expected"):
            BatchGenerator(*llama, **wrong)
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        BatchGenerator(*llama).generate([PROMPT, PROMPT], [(1,)])
