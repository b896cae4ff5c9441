"""PPO with real (tiny, random) models: what is rewarded becomes likelier, and the reference pulls back."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch

from smallplan_training.base_model import BaseOptions, LanguageModel, load_language_model
from smallplan_training.batch_generation import BatchGenerator
from smallplan_training.ppo import PpoConfig, TurnBatch, assign_credit, ppo_loss
from smallplan_training.sample_tokens import pack_pairs
from smallplan_training.token_batches import Batch, make_batch
from unit.training.tiny_models import FAMILIES, OTHER_PROMPT, PROMPT, save_tiny

GOOD, BAD = "Command: done()", "Command: explore(kitchen)"


@pytest.fixture(params=FAMILIES)
def each_lm(request: pytest.FixtureRequest, tmp_path: Path) -> LanguageModel:
    return load(request.param, tmp_path)


@pytest.fixture
def lm(tmp_path: Path) -> LanguageModel:
    return load("qwen2.5", tmp_path)


def load(family: str, folder: Path) -> LanguageModel:
    save_tiny(family, folder)
    return load_language_model(BaseOptions(str(folder), device="cpu", dtype="float32"))


def bandit(lm: LanguageModel) -> Batch:
    """One prompt, two answers."""
    prompt = lm.chat.encode_prompt(PROMPT)
    pairs = [(prompt, lm.chat.encode_answer(answer)) for answer in (GOOD, BAD)]
    return make_batch(pack_pairs(pairs), [0, 1], lm.chat.pad_id)


def train(lm: LanguageModel, config: PpoConfig, rewards: list[float], rollouts: int) -> tuple[float, float]:
    """Some rollouts of both answers; (log-odds of the good one, KL to the reference) afterwards."""
    batch = bandit(lm)
    optimizer = torch.optim.AdamW(lm.trainable_parameters(), lr=0.005)
    for _ in range(rollouts):
        with torch.no_grad():
            old = lm(batch)
        with lm.reference():
            reference = lm(batch)
        credit = assign_credit(config, [[reward] for reward in rewards], [[float(v)] for v in old.values])
        turns = TurnBatch(
            old.logprobs, reference.logprobs, batch.weights > 0, old.values, credit.advantages, credit.returns
        )
        for _ in range(config.epochs):
            scores = lm(batch, entropy=True)
            loss, stats = ppo_loss(config, turns, scores.logprobs, scores.values, scores.entropy)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        sums = lm(batch).logprobs.sum(dim=1)
    return float(sums[0] - sums[1]), stats.kl


@pytest.mark.parametrize("credit", ["step", "gae"])
def test_the_rewarded_answer_becomes_likelier(each_lm: LanguageModel, credit: str) -> None:
    config = PpoConfig(credit=credit, kl_coef=0.0, epochs=2)
    with torch.no_grad():
        sums = each_lm(bandit(each_lm)).logprobs.sum(dim=1)
    before = float(sums[0] - sums[1])
    after, _ = train(each_lm, config, [5.0, -0.4], 4)
    assert after > before + 1.0


def test_the_value_head_learns_the_outlook(lm: LanguageModel) -> None:
    train(lm, PpoConfig(credit="step", value_clip=0.0, value_coef=1.0, epochs=4), [2.0, 2.0], 12)
    with torch.no_grad():
        values = lm(bandit(lm)).values
    assert values.tolist() == pytest.approx([2.0, 2.0], abs=0.7)


def test_the_reference_pulls_back(lm: LanguageModel) -> None:
    free = PpoConfig(credit="step", kl_coef=0.0, epochs=2)
    held = PpoConfig(credit="step", kl_coef=2.0, epochs=2, normalise=False)
    _, far = train(lm, free, [5.0, -0.4], 8)
    _, near = train(lm, held, [0.0, 0.0], 20)
    assert far > 0.02
    assert near < 0.5 * far


def test_what_a_rollout_says_of_itself_is_what_a_pass_over_it_says(each_lm: LanguageModel) -> None:
    """Log-probabilities and values come from the generation: PPO makes no pass of its own for them."""
    torch.manual_seed(3)
    torch.nn.init.normal_(each_lm.value_head.linear.weight, std=0.1)
    for name, parameter in each_lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    generator = BatchGenerator(
        each_lm.model, each_lm.chat, temperature=0.7, max_tokens=6, value_head=each_lm.value_head
    )
    made = generator.generate([PROMPT, OTHER_PROMPT], [(1,), (2,)])
    batch = make_batch(pack_pairs([(one.prompt_ids, one.ids) for one in made]), [0, 1], each_lm.chat.pad_id)
    with torch.no_grad():
        scores = each_lm(batch, temperature=0.7)
    for row, one in enumerate(made):
        assert one.value == pytest.approx(float(scores.values[row]), abs=1e-3)
        assert one.logprobs == pytest.approx(scores.logprobs[row, : len(one.ids)].tolist(), abs=1e-3)
    assert made[0].value != pytest.approx(made[1].value, abs=1e-3)
