from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from smallplan_planner.priors import load_priors  # noqa: E402
from smallplan_training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from smallplan_training.nano.checkpoint_folder import load_folder, save_folder  # noqa: E402
from smallplan_training.nano.model import ModelConfig, NanoModel  # noqa: E402
from smallplan_training.nano.situations import imagined_samples  # noqa: E402
from smallplan_training.nano.tokenizer import NanoTokenizer  # noqa: E402
from smallplan_training.nano.train import TrainConfig, Trainer  # noqa: E402
from smallplan_training.sample_tokens import tokenise  # noqa: E402
from smallplan_training.token_batches import SampleSet  # noqa: E402

CONFIG = TrainConfig(
    steps=8, batch_tokens=4096, warm_up=2, decay=0.5, workers=2, device="cpu", log_every=2, validate_every=4
)


def trainer(folder: Path, data: SampleSet, tiny: ModelConfig, tokenizer: NanoTokenizer, seed: int = 0) -> Trainer:
    torch.manual_seed(seed)
    rest, held_out = data.split(20, 0)
    command = tokenizer.encode("\nCommand:")[0]
    return Trainer(NanoModel(tiny), rest, held_out, folder, CONFIG, tokenizer.pad_id, command)


def weights(run: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


def test_a_resumed_run_ends_at_the_same_bits(
    sample_set: SampleSet, tiny: ModelConfig, tokenizer: NanoTokenizer, tmp_path: Path
) -> None:
    whole = trainer(tmp_path / "whole", sample_set, tiny, tokenizer)
    whole.train()
    first = trainer(tmp_path / "parts", sample_set, tiny, tokenizer)
    first.train(until_step=5)
    second = trainer(tmp_path / "parts", sample_set, tiny, tokenizer, seed=99)
    assert second.step == 5
    second.train()
    assert second.step == 8
    assert torch.equal(weights(whole), weights(second))
    assert whole.validate() == second.validate()


def test_training_lowers_the_loss_and_logs_it(
    sample_set: SampleSet, tiny: ModelConfig, tokenizer: NanoTokenizer, tmp_path: Path
) -> None:
    run = trainer(tmp_path, sample_set, tiny, tokenizer)
    before = run.validate()["val_loss"]
    run.train()
    assert run.validate()["val_loss"] < before - 0.5
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
    assert "val_command_accuracy" in lines[-1]


def test_a_finished_run_is_not_trained_again(
    sample_set: SampleSet, tiny: ModelConfig, tokenizer: NanoTokenizer, tmp_path: Path
) -> None:
    run = trainer(tmp_path, sample_set, tiny, tokenizer)
    run.train()
    again = trainer(tmp_path, sample_set, tiny, tokenizer, seed=5)
    again.train()
    assert again.step == 8
    assert torch.equal(weights(run), weights(again))


def test_the_learning_rate_warms_up_stays_and_falls(
    sample_set: SampleSet, tiny: ModelConfig, tokenizer: NanoTokenizer, tmp_path: Path
) -> None:
    run = trainer(tmp_path, sample_set, tiny, tokenizer)
    rates = []
    for run.step in range(9):
        rates.append(run.learning_rate() / CONFIG.learning_rate)
    assert rates[0] == pytest.approx(0.5)
    assert rates[1:5] == [1.0] * 4
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[8] == pytest.approx(0.05)


def test_a_wall_clock_limit_ends_a_run(
    sample_set: SampleSet, tiny: ModelConfig, tokenizer: NanoTokenizer, tmp_path: Path
) -> None:
    run = Trainer(
        NanoModel(tiny),
        sample_set,
        sample_set.split(4, 0)[1],
        tmp_path,
        TrainConfig(minutes=1e-4, batch_tokens=2048, workers=1, device="cpu"),
        tokenizer.pad_id,
        0,
    )
    run.train()
    assert 1 <= run.step < 50
    assert run.progress == 1.0


def test_checkpoints_come_in_parts_and_damage_is_told(tmp_path: Path) -> None:
    state = {"weights": torch.arange(5_000_000, dtype=torch.float32), "step": 3}
    save_checkpoint(tmp_path / "c", state)
    save_checkpoint(tmp_path / "c", state | {"step": 4})
    parts = sorted((tmp_path / "c").glob("part-*"))
    assert len(parts) == 2
    assert max(part.stat().st_size for part in parts) < 16 * 2**20
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded is not None and loaded["step"] == 4 and torch.equal(loaded["weights"], state["weights"])
    parts[1].write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(tmp_path / "c")


def test_a_crash_between_the_renames_leaves_the_new_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"step": 1})
    (tmp_path / "c").rename(tmp_path / "c.new")
    assert load_checkpoint(tmp_path / "c") == {"step": 1}
    assert load_checkpoint(tmp_path / "other") is None


def test_a_checkpoint_folder_gives_the_model_back(tiny: ModelConfig, tokenizer: NanoTokenizer, tmp_path: Path) -> None:
    model = NanoModel(tiny)
    save_folder(model, tokenizer, tmp_path)
    again = load_folder(tmp_path)
    assert again.config == tiny
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 2.0}, {"prompt_weight": -1.0}, {"batch_tokens": 1}])
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TrainConfig(**wrong)


def test_marks_are_learnt_beside_the_answers(tiny: ModelConfig, tokenizer: NanoTokenizer, tmp_path: Path) -> None:
    samples = islice(imagined_samples(load_priors(), 2), 400)
    data = tokenise(samples, tokenizer, 300, tokenizer.locate_marks)[0]
    command = tokenizer.encode("\nCommand:")[0]
    rest, held_out = data.split(20, 0)
    accuracy = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        config = replace(CONFIG, steps=60, learning_rate=0.01, mark_weight=weight, mark_layer=1)
        run = Trainer(NanoModel(tiny), rest, held_out, tmp_path / str(weight), config, tokenizer.pad_id, command)
        run.train()
        accuracy[weight] = run.validate()["val_mark_accuracy"]
        names = {name for name, _ in load_checkpoint(tmp_path / str(weight) / "checkpoint")["model"].items()}
        assert not any("reader" in name for name in names), "the reader is no part of the model"
    assert accuracy[1.0] > max(0.4, accuracy[0.0] + 0.1)


def test_a_mark_layer_that_the_model_lacks_is_refused(
    sample_set: SampleSet, tiny: ModelConfig, tokenizer: NanoTokenizer, tmp_path: Path
) -> None:
    config = replace(CONFIG, mark_layer=2)
    with pytest.raises(ValueError, match="mark_layer is 2, and the model has 2 layers"):
        Trainer(NanoModel(tiny), sample_set, sample_set, tmp_path, config, tokenizer.pad_id, 0)
