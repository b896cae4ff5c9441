"""The training bench runs the trainer itself, batched and serially, and reports what the logs say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

from transformers import AutoModelForCausalLM, AutoTokenizer

from smallplan_planner.prompt import ObjectView, PromptView, RoomView, render
from smallplan_planner.response import parse_response
from smallplan_training.batch_generation import BatchGenerator
from smallplan_training.bench_training import TrainingBench, base_of_gguf, run_training_bench, throughput
from smallplan_training.chat import Chat
from smallplan_training.errors import UserError
from smallplan_training.model_recipes import load_recipe
from smallplan_training.scenes import default_model
from unit.training.tiny_models import save_tiny

LINE = {"turns": 5.0, "episodes": 4.0, "rollout_s": 2.0, "ppo_s": 1.0, "sft_s": 1.0}


def test_throughput_is_all_samples_over_the_time_of_all_parts() -> None:
    made = throughput([LINE, {**LINE, "turns": 10.0, "rollout_s": 6.0}])
    assert made["samples_per_s"] == {"overall": 5.0, "min": 5.0, "max": 5.0, "all": [5.0, 5.0]}
    assert made["rollout"] == {"overall": 7.5, "min": 6.667, "max": 10.0, "all": [10.0, 6.667]}
    assert made["ppo"] == made["sft"] == {"overall": 30.0, "min": 20.0, "max": 40.0, "all": [20.0, 40.0]}


def test_an_iteration_without_samples_is_named() -> None:
    with pytest.raises(UserError, match="another --seed"):
        throughput([{**LINE, "turns": 0.0}])


def test_the_trainer_is_measured_batched_and_one_by_one(tmp_path: Path, house_file: Path) -> None:
    settings = {
        "lora": {"rank": 2, "alpha": 4},
        "tasks": {"scenes": [str(house_file)], "generated": 0.0, "max_steps": 2},
        "rollouts": {"max_tokens": 2},
        "ppo": {"epochs": 1, "minibatch_tokens": 8192},
    }
    config = tmp_path / "training.yaml"
    config.write_text(yaml.safe_dump({"base": "unused", **settings}), encoding="utf-8")
    base = save_tiny("llama-3.2", tmp_path / "base", spare=0)
    bench = TrainingBench(base, config, batched=(1, 2), serial=(2, 1), device="cpu")
    report = run_training_bench(bench, tmp_path)

    logs = {
        name: [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("batched", "serial")
    }
    assert [len(lines) for lines in logs.values()] == [2, 3], "the first iteration of each does not count"
    for line in logs["serial"]:
        samples = round(line["turns"] * line["episodes"])
        assert line["episodes"] == 1 and line["ppo_steps"] == samples, "a step for each sample"
    for line in logs["batched"]:
        assert line["episodes"] == 2 and line["ppo_steps"] < line["turns"] * line["episodes"]
    for name, lines in logs.items():
        assert report[name] == throughput(lines[1:])
        assert {"samples_per_s", "rollout", "ppo", "sft"} == set(report[name])
    ratio = report["batched"]["samples_per_s"]["overall"] / report["serial"]["samples_per_s"]["overall"]
    assert report["training_speedup"] == pytest.approx(ratio, rel=0.02)
    low, high = report["training_speedup_range"]
    assert low <= report["training_speedup"] <= high
    assert report["settings"]["serial"]["rollouts.cache"] is False


def test_the_shipped_model_becomes_a_base_that_answers_as_it_was_trained(tmp_path: Path) -> None:
    base_of_gguf(default_model(), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0]
    kitchen = RoomView("kitchen", (ObjectView("fridge", "closed"), ObjectView("mug")))
    view = PromptView("mug", "normal", (), (kitchen,), "kitchen", matches=(("kitchen", "mug"),))
    chat = Chat(tokenizer, load_recipe("smallplan-nano"))
    answer = BatchGenerator(model, chat, temperature=0.0).generate([render(view)])[0]
    assert answer.finished and parse_response(answer.text).command


def test_a_model_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--base"):
        base_of_gguf(tmp_path / "none.gguf", tmp_path / "base")
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(UserError, match="can't load"):
        base_of_gguf(tmp_path / "text.gguf", tmp_path / "base")
    with pytest.raises(UserError, match="at least 1"):
        TrainingBench(tmp_path, tmp_path, batched=(0, 1))
