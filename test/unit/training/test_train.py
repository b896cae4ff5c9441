"""`smallplan train` from end to end with tiny random models: every stage, every strategy, exact resumption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import yaml  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from smallplan_training import checkpoint, cli, ppo, train_rl  # noqa: E402
from smallplan_training.samples import Sample, SampleFile  # noqa: E402
from smallplan_training.simulators.house.env import HouseSearchEnv  # noqa: E402
from smallplan_training.simulators.search_env import EpisodeLost  # noqa: E402
from smallplan_training.teachers.teacher import ExpertAdapter  # noqa: E402
from smallplan_training.train import FILE_TYPES  # noqa: E402
from unit.training.tiny_models import ANSWER, OTHER_ANSWER, OTHER_PROMPT, PROMPT, save_tiny  # noqa: E402

FAMILIES = ("qwen2.5", "llama-3.2", "phi-4-mini")
TINY: dict[str, Any] = {
    "bf16": False,
    "checkpoint_minutes": 0.0,
    "lora": {"rank": 2, "alpha": 4},
    "few_shot": {"epochs": 1, "batch_tokens": 256, "steps": {"learning_rate": 1e-3, "warm_up": 1}},
    "tasks": {"generated": 0.0, "saver": 0.5, "max_steps": 2, "max_retries": 1},
    "rollouts": {"iterations": 1, "episodes": 1, "max_tokens": 4},
    "ppo": {"epochs": 1, "minibatch_tokens": 4096},
    "ppo_steps": {"learning_rate": 1e-3, "warm_up": 1},
    "distill": {"batch_tokens": 4096, "steps": {"learning_rate": 1e-3, "warm_up": 1}},
}
"""As small as a run can be."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: save_tiny(family, folder / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "samples.jsonl"
    file = SampleFile(path, ExpertAdapter())
    meta = {"teacher": "expert", "model": ""}
    for number in range(3):
        for prompt, answer in ((PROMPT, ANSWER), (OTHER_PROMPT, OTHER_ANSWER)):
            system, user = prompt
            file.add(Sample((system, type(user)("user", f"{user.content} {number}")), answer, meta))
    file.close()
    return path


@pytest.fixture
def config(tmp_path: Path, bases: dict[str, Path], samples: Path, house_file: Path) -> Path:
    """A file with the tiny configuration of the Qwen2 model; `--set` and options change it."""
    data = {**TINY, "base": str(bases["qwen2.5"])}
    data["few_shot"] = {**TINY["few_shot"], "samples": [str(samples)]}
    data["tasks"] = {**TINY["tasks"], "scenes": [str(house_file)]}
    data["validation"] = {"scenes": [str(house_file)], "episodes": 1}
    path = tmp_path / "training.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def train(config: Path, folder: Path, *more: str) -> int:
    return cli.main(["train", "--config", str(config), "--folder", str(folder), "--cpu", *more])


def log(folder: Path, stage: str = "") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if stage in ("", line["stage"])]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for name in ("adapter_model.safetensors", "value_head.safetensors"):
        found |= load_file(folder / "adapter" / name)
    return found


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_goes_through_every_stage(
    family: str, bases: dict[str, Path], config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert train(config, folder, "--base", str(bases[family])) == 0
    assert [line["stage"] for line in log(folder)] == ["few_shot"] * len(log(folder, "few_shot")) + ["reinforce"]
    (stage_2,) = log(folder, "reinforce")
    for name in ("reward_total", "reward_success", "reward_executable", "reward_explore", "reward_efficiency",
                 "reward_format", "kl", "clip_fraction", "policy_loss", "value_loss", "sft_loss", "samples_per_s",
                 "success", "unparsable"):  # fmt: skip
        assert isinstance(stage_2[name], (int, float)), name
    assert stage_2["unparsable"] > 0  # what a random model writes is no answer
    assert stage_2["reward_format"] < 0
    trained = weights(folder)
    assert any(bool(tensor.abs().sum() > 0) for name, tensor in trained.items() if "lora_B" in name)
    assert bool(trained["linear.bias"].abs() > 0)  # the value head has learnt that things go badly
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged")
    base = AutoModelForCausalLM.from_pretrained(bases[family])
    moved = [not torch.equal(a, b) for a, b in zip(merged.parameters(), base.parameters(), strict=True)]
    assert any(moved)
    assert len(AutoTokenizer.from_pretrained(folder / "merged")) <= merged.get_input_embeddings().weight.shape[0]


def test_sft_alone_ends_with_stage_1_and_lowers_the_loss(config: Path, tmp_path: Path) -> None:
    more = ("--set", "few_shot.epochs=6", "--set", "few_shot.steps.decay=0", "--set", "lora={rank: 8}")
    more += ("--set", "few_shot.steps.learning_rate=0.01")
    assert train(config, tmp_path / "run", "--strategy", "sft", *more) == 0
    losses = [line["loss"] for line in log(tmp_path / "run")]
    assert {line["stage"] for line in log(tmp_path / "run")} == {"few_shot"}
    assert losses[-1] < losses[0] - 0.1
    assert (tmp_path / "run" / "merged" / "model.safetensors").is_file()


def test_rl_alone_runs_only_when_it_is_asked_for_twice(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(config, tmp_path / "run", "--strategy", "rl") == cli.USER_ERROR
    assert "discouraged" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert train(config, tmp_path / "run", "--strategy", "rl", "--discouraged-rl-alone") == 0
    assert "sft_loss" not in log(tmp_path / "run", "reinforce")[0]


def test_no_stage_1_when_it_has_no_epochs_and_the_plus_costs_more(config: Path, tmp_path: Path) -> None:
    more = ("--set", "few_shot.epochs=0", "--set", "ppo.credit=step", "--set", "tasks.saver=0")
    assert train(config, tmp_path / "run", "--strategy", "rl-sft+", *more) == 0
    assert [line["stage"] for line in log(tmp_path / "run")] == ["reinforce"]


def test_met_situations_are_varied_and_earlier_samples_replayed(config: Path, samples: Path, tmp_path: Path) -> None:
    assert train(config, tmp_path / "plain", "--set", "few_shot.epochs=0") == 0
    more = ["--set", "distill.variations=2", "--set", f"distill.replay=[{samples}]", "--set"]
    more.append("distill.replay_share=0.5")
    assert train(config, tmp_path / "rich", "--set", "few_shot.epochs=0", *more) == 0
    plain, rich = (log(tmp_path / name)[0]["sft_samples"] for name in ("plain", "rich"))
    assert rich == plain * 3 * 2


def test_validation_is_logged_and_changes_nothing(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_rl, "score_suites", lambda answer, pairs: {"copy": 25.0 * pairs})
    assert train(config, tmp_path / "without") == 0
    assert train(config, tmp_path / "with", "--set", "validation.every=1", "--set", "validation.pairs=2") == 0
    (line,) = log(tmp_path / "with", "validation")
    assert line["episodes"] == 1
    assert 0 <= line["success"] <= 1
    assert line["probe_copy"] == 0.5  # a share, as success is
    assert_same(weights(tmp_path / "without"), weights(tmp_path / "with"))


def killed_after(config: Path, folder: Path, lines: int, threads: int) -> None:
    """Run the command in a process of its own and kill it when the log has so many lines."""
    path = folder / "log.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(threads)}
    command = ["-m", "smallplan_training.cli", "train", "--config", str(config), "--folder", str(folder), "--cpu"]
    process = subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        if path.is_file() and path.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    assert process.stderr is not None
    assert process.returncode == -signal.SIGKILL, process.stderr.read()
    process.stderr.close()


@pytest.mark.parametrize(("dropout", "threads"), [(0.1, 1), (0.0, 2)])  # random numbers, shared batches
def test_a_run_that_is_killed_in_either_stage_ends_in_the_same_weights(
    config: Path, tmp_path: Path, dropout: float, threads: int
) -> None:
    torch.set_num_threads(threads)
    data = yaml.safe_load(config.read_text(encoding="utf-8"))
    data["lora"] = {"rank": 2, "dropout": dropout}
    data["rollouts"] |= {"iterations": 3}
    config.write_text(yaml.safe_dump(data), encoding="utf-8")
    assert train(config, tmp_path / "whole") == 0
    steps = len(log(tmp_path / "whole", "few_shot"))
    assert steps >= 3
    killed_after(config, tmp_path / "parts", 2, threads)
    assert 2 <= len(log(tmp_path / "parts")) < steps + 3
    killed_after(config, tmp_path / "parts", steps + 2, threads)
    assert train(config, tmp_path / "parts") == 0
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    places = [[(line["stage"], line["step"]) for line in log(tmp_path / name)] for name in ("whole", "parts")]
    assert places[0] == places[1]


def test_a_full_disk_ends_the_run_and_loses_only_what_was_after_the_last_checkpoint(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(config, tmp_path / "whole", "--strategy", "sft") == 0
    folder, real, saved = tmp_path / "run", checkpoint._write, []

    def write(path: Path, data: bytes) -> None:
        saved.append(path)
        if len(saved) > 4:
            raise OSError(28, "No space left on device")
        real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_write", write)
        assert train(config, folder, "--strategy", "sft") == cli.USER_ERROR
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert str(folder / "checkpoint.new") in told
    assert train(config, folder, "--strategy", "sft") == 0
    assert_same(weights(tmp_path / "whole"), weights(folder))


def test_a_finished_run_is_not_trained_again_and_says_so(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train(config, folder) == 0
    before, merged = (folder / "log.jsonl").read_bytes(), folder / "merged"
    assert "this run has ended" not in capsys.readouterr().out
    (merged / "mark").touch()
    assert train(config, folder, "--iterations", "9") == 0
    told = capsys.readouterr().out
    assert f"{folder}: this run has ended, stage 2 after iteration 1, and is not trained on" in told
    assert f"--base {merged} " in told
    assert (folder / "log.jsonl").read_bytes() == before
    assert (merged / "mark").exists()  # it is not written again
    shutil.rmtree(merged)
    assert train(folder / "config.json", folder) == 0  # where the run wrote down its settings
    assert (merged / "model.safetensors").is_file()


def test_what_is_missing_is_said_before_a_model_is_loaded(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: object) -> None:
        pytest.fail("a model is loaded")

    monkeypatch.setattr("smallplan_training.train_state.load_language_model", load)
    for setting, named in (
        ("tasks.scenes=[moon]", "no scene 'moon'"),
        ("validation={every: 1, scenes: [mars]}", "no scene 'mars'"),
        ("distill.replay=[gone.jsonl]", "gone.jsonl to replay"),
        ("few_shot.samples=[gone.jsonl]", "can't read gone.jsonl"),
    ):
        assert train(config, tmp_path / "run", "--set", setting) == cli.USER_ERROR
        assert named in capsys.readouterr().err
    assert train(config, tmp_path / "run", "--export", str(config / "model.gguf")) == cli.USER_ERROR
    assert f"can't write {config / 'model.gguf'}" in capsys.readouterr().err


def test_weights_that_diverge_and_a_full_memory_are_told_with_the_remedy(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> str:
        def reinforce(*_: object) -> None:
            raise error

        monkeypatch.setattr(train_rl, "reinforce", reinforce)
        assert train(config, tmp_path / "run") == cli.USER_ERROR
        return capsys.readouterr().err

    assert "stage 2: values: 1 of 2 numbers" in fail(ppo.NotFinite("values: 1 of 2 numbers are not finite"))
    told = fail(torch.OutOfMemoryError("CUDA out of memory"))
    for setting in ("rollouts.batch (32)", "ppo.minibatch_tokens (4096)", "distill.batch_tokens (4096)"):
        assert setting in told
    monkeypatch.undo()
    assert train(config, tmp_path / "run", "--set", "ppo.minibatch_tokens=1024") == 0  # the remedy is allowed
    assert "goes on in stage 2 after iteration 0" in capsys.readouterr().out


def test_searches_that_the_simulator_loses_teach_nothing(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reset, to_lose = HouseSearchEnv.reset, 1

    def lose(self: HouseSearchEnv, **arguments: Any) -> Any:
        nonlocal to_lose
        to_lose -= 1
        if to_lose >= 0:
            raise EpisodeLost("the worker ended with code 7")
        return reset(self, **arguments)

    monkeypatch.setattr(HouseSearchEnv, "reset", lose)
    assert train(config, tmp_path / "run", "--set", "rollouts.episodes=2") == 0
    (stage_2,) = log(tmp_path / "run", "reinforce")
    assert stage_2["episodes"] == 1
    to_lose = 2
    assert train(config, tmp_path / "other", "--set", "rollouts.episodes=2") == cli.USER_ERROR
    assert "the simulator lost all of 2 searches" in capsys.readouterr().err


def test_the_exports_types_are_those_that_export_knows() -> None:
    export = pytest.importorskip("smallplan_training.export")
    assert set(export.FILE_TYPES) == set(FILE_TYPES)


def test_bad_input_is_named(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*more: str, folder: str = "run") -> str:
        assert train(config, tmp_path / folder, *more) == cli.USER_ERROR
        return capsys.readouterr().err

    broken = tmp_path / "broken.jsonl"
    good = {"role": "user", "content": "x"}
    broken.write_text(json.dumps({"messages": [good, good, good], "meta": {}}) + "\n", encoding="utf-8")
    assert f"{broken}:1: the roles are" in told("--samples", str(broken))
    broken.write_text("{\n", encoding="utf-8")
    assert f"{broken}:1: not JSON" in told("--samples", str(broken), folder="run2")
    assert "collect" in told("--set", "few_shot.samples=[]", folder="run3")
    assert str(tmp_path / "nowhere") in told("--base", str(tmp_path / "nowhere"), folder="run4")
    assert "nowhere.npz" in told("--set", "few_shot.epochs=0", "--set", "distill.replay=[nowhere.npz]", folder="run5")


def test_a_run_goes_on_only_as_it_began(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert train(config, folder, "--base", str(tmp_path / "nowhere")) == cli.USER_ERROR
    assert train(config, folder, "--strategy", "sft") == 0  # what never began is no run
    capsys.readouterr()
    assert train(config, folder, "--strategy", "sft", "--seed", "5", "--set", "ppo.clip=0.3") == cli.USER_ERROR
    told = capsys.readouterr().err
    assert "ppo.clip: 0.2, 0.3" in told
    assert "seed: 0, 5" in told
    assert train(config, folder, "--strategy", "sft", "--iterations", "9") == 0


TWO_PROCESSES = """
import sys
from accelerate.utils import gather_object
from accelerate import Accelerator
from pathlib import Path
from smallplan_training.train_config import TrainConfig, read_config
from smallplan_training.train_stages import train
from smallplan_training.train_state import Run
run = Run(read_config(TrainConfig, Path(sys.argv[1])), Path(sys.argv[2]), Accelerator(cpu=True))
train(run)
weights = gather_object([{name: tensor.tolist() for name, tensor in run.lm.trainable_state().items()}])
if run.is_main:
    print("SAME" if weights[0] == weights[1] else "DIFFERENT", run.processes)
"""


@pytest.mark.slow
def test_two_processes_have_one_policy_and_the_gradient_of_both(config: Path, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO_PROCESSES, encoding="utf-8")
    data = yaml.safe_load(config.read_text(encoding="utf-8"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "two.py")]
    for strategy in ("rl-sft", "sft"):
        config.write_text(yaml.safe_dump({**data, "strategy": strategy}), encoding="utf-8")
        command = [*launch, str(config), str(tmp_path / strategy)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert "SAME 2" in done.stdout, done.stderr
    assert log(tmp_path / "rl-sft", "reinforce")[0]["episodes"] == 2
    assert train(config, tmp_path / "one", "--set", "few_shot.steps.accumulate=2") == 0
    alone, together = (log(tmp_path / name, "few_shot")[0]["grad_norm"] for name in ("one", "sft"))
    assert alone == pytest.approx(together, rel=1e-3)
