"""The configuration of `smallplan train`: what is right comes through, what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from smallplan_planner.resources import resource
from smallplan_training.errors import UserError
from smallplan_training.train_config import TrainConfig, build, differences, plain, read_config


def write(folder: Path, text: str) -> Path:
    path = folder / "training.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_projects_configuration_is_the_papers() -> None:
    config = read_config(TrainConfig, resource("config", "training.yaml"))
    assert (config.few_shot.limit, config.few_shot.epochs) == (500, 3)
    assert config.few_shot.steps.learning_rate == pytest.approx(1e-5)
    assert config.ppo_steps.learning_rate == pytest.approx(1e-5)
    assert (config.reward.success, config.reward.efficiency) == (5.0, 0.3)
    assert config.strategy == "rl-sft"
    assert config.tasks.scenes == ("train",)


def test_options_and_settings_go_before_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "base: a\nrollouts: {episodes: 3, iterations: 7}\n")
    config = read_config(
        TrainConfig, path, {"rollouts.iterations": 8, "few_shot.samples": ["x: y.jsonl"]}, ["rollouts.episodes=4"]
    )
    assert (config.rollouts.episodes, config.rollouts.iterations) == (4, 8)
    assert config.few_shot.samples == ("x: y.jsonl",)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, "base: a\nppo_steps: {learning_rate: 1e-5}\nlora: {rank: 8}\n")
    config = read_config(TrainConfig, path)
    assert config.ppo_steps.learning_rate == 1e-5
    assert config.lora.rank == 8
    assert config.lora.alpha is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("base: a\nrollout: {}\n", ("rollout", "rollouts")),
        ("base: a\nppo: {clipping: 1}\n", ("clipping", "in ppo", "clip")),
        ("base: a\nppo: {credit: all}\n", ("ppo", "'all'", "step, gae")),
        ("base: a\nrollouts: {episodes: many}\n", ("rollouts.episodes", "'many'", "whole number")),
        ("base: a\nfew_shot: {steps: {learning_rate: fast}}\n", ("few_shot.steps.learning_rate", "'fast'")),
        ("base: a\nrollouts: {temperature: 0}\n", ("rollouts", "temperature is 0")),
        ("base: a\nbf16: maybe\n", ("bf16", "'maybe'")),
        ("base: a\nfew_shot: {samples: 3}\n", ("few_shot.samples", "list")),
        ("base: a\nrollouts: 3\n", ("rollouts is 3", "fields")),
        ("strategy: sft\n", ("base is empty",)),
        ("base: a\nstrategy: ppo\n", ("'ppo'", "rl-sft+")),
        ("base: a\nteacher: {name: gguf}\ndistill: {variations: 2}\n", ("variations", "'gguf'", "expert")),
        ("base: a\nteacher: {name: openai}\n", ("teacher.model",)),
        ("base: a\nquantisation: int8\n", ("'int8'", "auto, nf4, none")),
        ("base: a\nrollouts: {workers: 0}\n", ("workers is 0",)),
        ("base: a\nrollouts: {gpus: 0.5}\n", ("gpus is 0.5 without ray",)),
        ("- base\n", ("list", "config/training.yaml")),
        ("base: [\n", ("not YAML",)),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, text: str, told: tuple[str, ...]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_config(TrainConfig, path)
    for words in (str(path), *told):
        assert words in str(caught.value)


@pytest.mark.parametrize("setting", ["rollouts", "=3", "a..b=3", "seed.deep=3", "seed=["])
def test_a_setting_that_is_none_is_named(tmp_path: Path, setting: str) -> None:
    path = write(tmp_path, "base: a\nseed: 1\n")
    with pytest.raises(UserError):
        read_config(TrainConfig, path, settings=[setting])


def test_a_configuration_is_the_same_after_json() -> None:
    config = build(TrainConfig, {"base": "a", "distill": {"replay": ["x", "y"]}})
    assert build(TrainConfig, plain(config)) == config
    assert differences(plain(config), plain(config)) == []


def test_differences_name_the_field_and_both_values() -> None:
    one = plain(build(TrainConfig, {"base": "a", "ppo": {"clip": 0.1}}))
    other = plain(build(TrainConfig, {"base": "a", "ppo": {"clip": 0.3}, "seed": 2}))
    assert differences(one, other) == ["ppo.clip: 0.1, 0.3", "seed: 0, 2"]


def test_the_default_models_configuration_is_valid() -> None:
    config = read_config(TrainConfig, resource("config", "training-nano.yaml"))
    assert config.distills
    assert config.teacher.name == "expert"
