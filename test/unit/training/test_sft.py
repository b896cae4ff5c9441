from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from torch import Tensor

from smallplan_training.base_model import BaseOptions, LanguageModel, load_language_model
from smallplan_training.sample_tokens import pack_pairs
from smallplan_training.samples import Sample
from smallplan_training.sft import answer_tokens, sft_loss, tokenise
from smallplan_training.token_batches import BatchStream, make_batch, padding_share, plan_epoch
from unit.training.tiny_models import (
    ANSWER,
    FAMILIES,
    OTHER_ANSWER,
    OTHER_PROMPT,
    PROMPT,
    save_tiny,
)

SAMPLES = [Sample(PROMPT, ANSWER), Sample(OTHER_PROMPT, OTHER_ANSWER)]


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = save_tiny(request.param, tmp_path_factory.mktemp("base") / request.param)
    return load_language_model(BaseOptions(str(folder), device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = save_tiny("qwen2.5", tmp_path_factory.mktemp("base") / "qwen")
    return load_language_model(BaseOptions(str(folder), device="cpu", dtype="float32"))


def test_only_answers_are_learnt(qwen: LanguageModel) -> None:
    data, stats = tokenise(SAMPLES, qwen.chat, 512)
    batch = make_batch(data, [0, 1], qwen.chat.pad_id)
    for row, sample in enumerate(SAMPLES):
        answer = batch.targets[row][batch.weights[row] > 0].tolist()
        assert answer == qwen.chat.encode_answer(sample.answer)
    assert answer_tokens(batch) == stats.answer_tokens
    assert stats.tokens == int(data.lengths.sum())


def test_two_samples_are_learnt_by_heart(lm: LanguageModel) -> None:
    short = [Sample(PROMPT, "Command: explore(kitchen)"), Sample(OTHER_PROMPT, "Command: done()")]
    data, _ = tokenise(short, lm.chat, 512)
    batch = make_batch(data, [0, 1], lm.chat.pad_id)
    optimizer = torch.optim.AdamW(lm.trainable_parameters(), lr=0.005)
    first = None
    for _ in range(60):
        loss, stats = sft_loss(lm, batch)
        first = first or stats
        if stats.accuracy == 1.0:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first is not None and first.accuracy < 0.2
    assert stats.accuracy == 1.0 and stats.loss < 0.2 * first.loss
    with lm.reference():  # the base has not moved
        assert sft_loss(lm, batch)[1].loss == pytest.approx(first.loss, abs=1e-4)


def test_the_value_head_gets_a_gradient_of_zero(qwen: LanguageModel) -> None:
    data, _ = tokenise(SAMPLES, qwen.chat, 512)
    qwen.zero_grad()
    sft_loss(qwen, make_batch(data, [0], qwen.chat.pad_id))[0].backward()
    gradients = [parameter.grad for parameter in qwen.value_head.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_accumulated_batches_give_the_gradient_of_one(qwen: LanguageModel) -> None:
    data, stats = tokenise(SAMPLES, qwen.chat, 512)

    def gradients(parts: list[list[int]]) -> list[Tensor]:
        qwen.zero_grad()
        for part in parts:
            loss, _ = sft_loss(qwen, make_batch(data, part, qwen.chat.pad_id), stats.answer_tokens)
            loss.backward()
        return [parameter.grad.clone() for parameter in qwen.trainable_parameters() if parameter.grad is not None]

    whole, parts = gradients([[0, 1]]), gradients([[0], [1]])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, parts, strict=True))
    assert any(float(gradient.abs().max()) > 0 for gradient in whole)


def test_samples_that_are_too_long_are_counted(qwen: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    lengths = tokenise(SAMPLES, qwen.chat, 512)[0].lengths
    with caplog.at_level(logging.WARNING):
        data, stats = tokenise(SAMPLES, qwen.chat, int(max(lengths)) - 1)
    assert len(data) == stats.kept == 1
    assert (stats.too_long, stats.longest) == (1, max(lengths))
    assert "1 of 2 samples are longer than" in caplog.text


def test_ids_beyond_65535_stay_themselves(tmp_path: Path) -> None:
    data = pack_pairs([([151_643, 7], [100_000])])
    assert data.ids.tolist() == [151_643, 7, 100_000]
    data.save(tmp_path / "set.npz")
    assert type(data).load(tmp_path / "set.npz").ids.tolist() == data.ids.tolist()


def test_a_pair_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="pair 1: 2 prompt and 0 answer ids"):
        pack_pairs([([1], [2]), ([1, 2], [])])


def random_set(samples: int = 150) -> tuple[np.ndarray, BatchStream, BatchStream]:
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(5, 90, rng.integers(20, 200)), rng.integers(5, 90, 20)) for _ in range(samples)]
    data = pack_pairs([(p.tolist(), a.tolist()) for p, a in pairs])
    first, second = (BatchStream(data, 2048, seed=3, pad_id=0, shard=(k, 2)) for k in (0, 1))
    return data.lengths, first, second


def test_like_lengths_are_batched_so_that_little_is_padding() -> None:
    lengths, _, _ = random_set()
    plan = plan_epoch(lengths, 2048, 0, 0)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    assert padding_share(lengths, plan) < 0.12
    unsorted = [list(range(begin, begin + 10)) for begin in range(0, 150, 10)]
    assert padding_share(lengths, unsorted) > 0.2
    assert padding_share(np.array([8, 4]), [[0, 1]]) == pytest.approx(4 / 16)


def test_shards_share_an_epoch_and_can_be_resumed() -> None:
    lengths, first, second = random_set()
    assert len(first) == len(second)
    seen = [tuple(row.tolist()) for stream in (first, second) for _ in range(len(first)) for row in next(stream).ids]
    assert first.epoch == second.epoch == 0
    assert len({tuple(token for token in row if token) for row in seen}) == len(lengths)
    assert len(seen) - len(lengths) <= max(batch.samples for batch in [next(first)])

    _, again, _ = random_set()
    again.restore(first.state)
    assert all(torch.equal(next(first).ids, next(again).ids) for _ in range(5))


def test_a_shard_beyond_their_number_is_refused() -> None:
    with pytest.raises(ValueError, match="shard 2 of 2"):
        BatchStream(pack_pairs([([1], [2])]), 64, 0, 0, shard=(2, 2))
