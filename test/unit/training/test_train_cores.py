from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from torch import Tensor, nn

from smallplan_training.base_model import BaseOptions, LanguageModel, load_language_model
from smallplan_training.samples import Sample
from smallplan_training.sft import SftStats, answer_tokens, sft_loss, tokenise
from smallplan_training.token_batches import Batch, make_batch
from smallplan_training.train_cores import Cores
from unit.training.tiny_models import ANSWER, FAMILIES, OTHER_ANSWER, OTHER_PROMPT, PROMPT, save_tiny

CPU = torch.device("cpu")
SAMPLES = [Sample(PROMPT, ANSWER), Sample(OTHER_PROMPT, OTHER_ANSWER)] * 3


@pytest.fixture(params=FAMILIES)
def lm(request: pytest.FixtureRequest, tmp_path: Path) -> LanguageModel:
    folder = save_tiny(request.param, tmp_path / request.param)
    return load_language_model(BaseOptions(str(folder), device="cpu", dtype="float32"))


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def gradients(lm: LanguageModel, cores: Cores, parts: list[Batch], tokens: int) -> list[Tensor]:
    def loss(part: Batch) -> tuple[Tensor, SftStats]:
        return sft_loss(lm, part, tokens)

    lm.zero_grad()
    assert sum(stats.samples for stats in cores.differentiate(loss, parts)) == len(SAMPLES)
    return [parameter.grad.clone() for parameter in lm.trainable_parameters() if parameter.grad is not None]


@pytest.mark.usefixtures("three_threads")
def test_parts_on_cores_give_the_gradient_of_the_batch_and_the_same_bits_each_time(lm: LanguageModel) -> None:
    batch = make_batch(tokenise(SAMPLES, lm.chat, 512)[0], range(len(SAMPLES)), lm.chat.pad_id)
    cores, tokens = Cores(lm, CPU), answer_tokens(batch)
    lm.train()
    whole = gradients(lm, cores, [batch], tokens)
    shared = [gradients(lm, cores, batch.split(cores.count), tokens) for _ in range(5)]
    assert any(float(gradient.abs().max()) > 0 for gradient in whole)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, shared[0], strict=True))
    for again in shared[1:]:
        assert all(torch.equal(a, b) for a, b in zip(shared[0], again, strict=True))


@pytest.mark.usefixtures("three_threads")
def test_parts_are_worked_on_at_once_each_with_one_thread() -> None:
    cores = Cores(nn.Module(), CPU)
    assert cores.count == 3 and Cores(nn.Module(), CPU, count=5).count == 5
    together = threading.Barrier(3, timeout=60)

    def work(part: int) -> tuple[int, int]:
        together.wait()
        return part, torch.get_num_threads()

    assert list(cores.map(work, [5, 6, 7])) == [(5, 1), (6, 1), (7, 1)]
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_a_single_part_has_all_threads() -> None:
    assert list(Cores(nn.Module(), CPU).map(lambda part: (part, torch.get_num_threads()), [1])) == [(1, 3)]


@pytest.mark.usefixtures("three_threads")
def test_a_model_that_draws_random_numbers_has_whole_batches() -> None:
    assert Cores(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.1)), CPU).count == 1
    assert Cores(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.0)), CPU).count == 3


@pytest.mark.usefixtures("three_threads")
def test_a_failure_in_a_part_is_raised_and_what_came_before_it_is_added() -> None:
    weight = nn.Parameter(torch.tensor(2.0))

    def loss(part: int) -> tuple[Tensor, int]:
        if part == 1:
            raise ValueError("part 1")
        return weight * part, part

    with pytest.raises(ValueError, match="part 1"):
        list(Cores(nn.ParameterList([weight]), CPU).differentiate(loss, [3, 1, 4]))
    assert weight.grad is not None and float(weight.grad) == 3.0


def test_gradients_are_added_to_those_that_are_there_and_unused_parameters_get_none() -> None:
    used, unused = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    used.grad = torch.tensor(10.0)
    list(Cores(nn.ParameterList([used, unused]), CPU).differentiate(lambda part: (used * part, None), [2, 5]))
    assert float(used.grad) == 17.0 and unused.grad is None


def test_a_batch_is_split_into_as_equal_parts_as_it_can_be() -> None:
    rows = torch.arange(5).unsqueeze(1)
    batch = Batch(rows, rows, rows, rows.float(), rows.to(torch.uint8))
    assert [part.ids.flatten().tolist() for part in batch.split(2)] == [[0, 1, 2], [3, 4]]
    assert [part.samples for part in batch.split(9)] == [1] * 5
    assert all(part.weights.shape == part.marks.shape == part.ids.shape for part in batch.split(2))
