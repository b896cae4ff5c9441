from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import llama_cpp
import torch

from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import PROMPT_VERSION, PromptView
from smallplan_planner.slm import Slm, SlmError
from smallplan_training import cli, parity
from smallplan_training.base_model import BaseOptions, load_language_model
from smallplan_training.errors import UserError
from smallplan_training.export_command import export_run
from smallplan_training.export_source import count_parameters, find_licence, find_source
from smallplan_training.gguf_metadata import read_metadata
from smallplan_training.nano.situations import shrink
from smallplan_training.teachers.imagined import imagine
from smallplan_training.teachers.variations import random_target, retarget
from unit.training.tiny_models import PROMPT, save_tiny, save_tiny_sentencepiece

FAMILIES = ("llama-3.2", "qwen2.5", "phi-4-mini")
ARCHITECTURES = {"llama-3.2": "llama", "qwen2.5": "qwen2", "phi-4-mini": "phi3"}
LENIENT = ("--min-agreement", "90", "--max-kl", "0.1", "--min-actions", "60")
"""For 8 bits of random weights, which are nearly as likely to be one token as another."""


def small_views(count: int) -> list[PromptView]:
    """As `record_views`, but short: tiny models have no words, so that real prompts are thousands of tokens."""
    priors, rng = load_priors(), random.Random(0)
    views = [shrink(imagine(priors, rng), rng) for _ in range(count)]
    return [retarget(view, random_target(view, priors, rng), priors) for view in views]


def save_run(family: str, folder: Path) -> Path:
    """A base in `folder/Tiny-Chat` and a training run beside it; returns its adapter folder."""
    base = folder / "Tiny-Chat"
    if family == "qwen2.5":  # transformers splits text for it in its own way, whatever the tokenizer's file says
        save_tiny(family, base, hidden=64)
    else:
        save_tiny_sentencepiece(family, base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n", encoding="utf-8")
    recipe = "smallplan-nano" if family == "llama-3.2" else "generic"
    lm = load_language_model(BaseOptions(str(base), recipe=recipe, device="cpu", dtype="float32"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    lm.save_adapter(folder / "first" / "adapter")
    run = {"strategy": "rl-sft", "base": str(base), "recipe": recipe, "rollouts": {"max_tokens": 324}}
    (folder / "first" / "config.json").write_text(json.dumps(run), encoding="utf-8")
    return folder / "first" / "adapter"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_run(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture
def no_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter that is there and converts nothing: for what is refused before."""
    folder = tmp_path / "converter"
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text("raise SystemExit('no space left on device')", encoding="utf-8")
    monkeypatch.setenv("SMALLPLAN_CONVERTER", str(folder))


@pytest.fixture(autouse=True)
def short_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "record_views", small_views)


def run_export(source: Path, output: Path, *words: str) -> int:
    return cli.main(["export", str(source), "--output", str(output), "--prompts", "2", "--graphs", "3", *words])


def knows_tiny_tokenizer(converter: Path, folder: Path) -> Path:
    """A copy of the converter that takes a byte-level tokenizer that it has never seen for Qwen2's."""
    shutil.copytree(converter, folder)
    base = folder / "conversion" / "base.py"
    source = base.read_text(encoding="utf-8")
    assert source.count("        res = None\n") == 1
    base.write_text(source.replace("        res = None\n", '        res = "qwen2"\n'), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_becomes_files_that_compute_the_same(
    family: str, runs: dict[str, Path], converter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family == "qwen2.5":
        monkeypatch.setenv("SMALLPLAN_CONVERTER", str(knows_tiny_tokenizer(converter, tmp_path / "converter")))
    if family == "phi-4-mini":  # as if it had been trained for the planner: what it writes counts as its command
        # letters alone: bytes that are no text are shown differently by transformers and llama.cpp
        monkeypatch.setattr(parity, "_command", lambda text: re.sub("[^a-z_]", "", text)[:30] or "no letters")
    output, figures = tmp_path / "out", tmp_path / "report.json"
    types = ("--type", "F32", "--kind", "merged", "--kind", "adapter", "--adapter-type", "F32")
    assert run_export(runs[family], output, *types, "--prompt-tokens", "640", "--json", str(figures)) == 0
    report = json.loads(figures.read_text(encoding="utf-8"))
    size = export_size(runs[family])
    merged, lora = (f"Tiny-{size}-Chat-SmallPlan-v1.0-F32{kind}.gguf" for kind in ("", "-LoRA"))
    assert sorted(path.name for path in output.iterdir()) == sorted([lora, merged])
    assert [item["file"] for item in report["files"]] == [merged, lora] and not report["refused"]
    for item in report["files"]:
        assert item["faults"] == []
        assert item["parity"]["equal_tokens"] == 2 and item["parity"]["agreement"] == 100.0
        assert item["parity"]["largest_difference"] < 0.01 and item["parity"]["equal_actions"] == 100.0
        assert item["parity"]["readable"] == (3 if family == "phi-4-mini" else 0) and item["parity"]["graphs"] == 3
        assert item["sha256"] == hashlib.sha256((output / item["file"]).read_bytes()).hexdigest()
        keys = read_metadata(output / item["file"])
        assert keys["general.architecture"] == ARCHITECTURES[family]
        assert keys["general.name"] == "Tiny Chat SmallPlan" and keys["general.license"] == "apache-2.0"
        assert keys["general.base_model.0.name"] == "Tiny Chat" and keys["general.base_model.count"] == 1
        assert keys["smallplan.prompt_version"] == PROMPT_VERSION and keys["smallplan.prompt_tokens"] == 640
        assert keys["smallplan.training_run"] == "first" and keys["smallplan.strategy"] == "rl-sft"
    keys = read_metadata(output / merged)
    assert keys[f"{ARCHITECTURES[family]}.context_length"] == 512
    assert keys["general.finetune"] == "Chat-SmallPlan" and keys["general.size_label"] == size
    adapter_keys = read_metadata(output / lora)
    assert adapter_keys["general.type"] == "adapter" and adapter_keys["smallplan.base_model"] == "Tiny Chat"
    with pytest.raises(SlmError, match="it was trained on 'Tiny Chat', and this model is 'Tiny Chat SmallPlan'"):
        Slm(output / merged, lora_path=output / lora)
    plain = llama_cpp.Llama(str(output / merged), n_ctx=1024, verbose=False)
    chat = [{"role": message.role, "content": message.content} for message in PROMPT]
    made = plain.create_chat_completion(chat, max_tokens=3, temperature=0.0)
    plain.close()
    assert made["usage"]["prompt_tokens"] > 20 and made["usage"]["completion_tokens"] > 0


def export_size(adapter: Path) -> str:
    from smallplan_training.gguf_metadata import size_label

    return size_label(count_parameters(adapter.parent.parent / "Tiny-Chat"))


@pytest.mark.slow
def test_a_file_too_far_from_its_model_is_refused_and_not_left(
    runs: dict[str, Path], converter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = runs["llama-3.2"].parent.parent / "Tiny-Chat", tmp_path / "out"
    words = ("--type", "F16", "--type", "q4_0", "--recipe", "smallplan-nano", "--json", str(tmp_path / "report.json"))
    assert run_export(source, output, *words, "--min-agreement", "99.9") == 1
    assert not output.exists()
    told = capsys.readouterr().out
    assert "Q4_0.gguf: at" in told and "expected at least 99.9 %" in told and "Nothing was written" in told
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["refused"] and report["base"] == "" and report["name"] == "Tiny Chat"
    assert report["prompt_version"] == ""  # it is no model of a training run, so it may be a base
    fine, bad = report["files"]
    assert fine["faults"] == [] and bad["faults"] and bad["parity"]["mean_kl"] > 10 * fine["parity"]["mean_kl"]

    output.mkdir()
    there = output / "notes.txt"
    there.touch()
    named = ("--name", "Other Name", "--recipe", "smallplan-nano", "--prompt-version", PROMPT_VERSION)
    assert run_export(source, output, *named, *LENIENT) == 0
    made = output / f"Other-Name-{export_size(runs['llama-3.2'])}-v1.0-Q8_0.gguf"
    assert sorted(output.iterdir()) == sorted([made, there])
    keys = read_metadata(made)
    assert keys["general.name"] == "Other Name" and keys["smallplan.prompt_version"] == PROMPT_VERSION
    before = made.stat().st_mtime_ns
    assert run_export(source, output, *named) == cli.USER_ERROR
    assert f"{made.name} is there; remove it, give --overwrite" in capsys.readouterr().err
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{empty}"], "is neither an adapter nor a model"),
        (["{run}"], "give one of {run}/adapter"),
        (["{tmp}/none"], "there is no model folder"),
        (["{base}", "--kind", "adapter"], "is a whole model; --kind adapter expects an adapter folder"),
        (["{base}", "--base", "{base}"], "is a whole model, which has no base"),
        (["{base}", "--graphs", "1"], "2 prompts of 1 graphs"),
        (["{base}", "--model-version", "new"], "the version 'new' is none"),
        (["{base}", "--name", "a/b"], "can't be in a file name"),
        (["{base}", "--prompt-tokens", "0"], "--prompt-tokens is 0"),
        (["{base}", "--base-gguf", "{base}/config.json"], "add --kind adapter"),
        (["{adapter}", "--kind", "adapter", "--base-gguf", "{base}/config.json"], "is not a GGUF"),
        (["{adapter}", "--base", "{tmp}/none"], "there is no model folder"),
        (["{adapter}", "--base", "{other}", "--recipe", "generic"], "was trained on a base with a vocabulary of"),
        (["{adapter}", "--base", "{phi}"], "a base of the type llama, {phi} is of the type phi3"),
        (["{base}", "--json", "{base}/config.json/report.json"], "can't write"),
    ],
)
@pytest.mark.usefixtures("no_converter")
def test_wrong_input_is_told_and_leaves_nothing(
    words: list[str], told: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = runs["llama-3.2"]
    names: dict[str, Any] = {"tmp": tmp_path, "adapter": adapter, "run": adapter.parent, "empty": tmp_path / "empty"}
    names |= {"base": adapter.parent.parent / "Tiny-Chat", "phi": runs["phi-4-mini"].parent.parent / "Tiny-Chat"}
    names["empty"].mkdir()
    if "{run}" in words:
        names["run"] = tmp_path / "run"
        (names["run"] / "adapter").mkdir(parents=True)
    if "{other}" in words:
        names["other"] = save_tiny("llama-3.2", tmp_path / "other", hidden=64)
    output = tmp_path / "out"
    assert run_export(Path(words[0].format(**names)), output, *(w.format(**names) for w in words[1:])) == cli.USER_ERROR
    assert told.format(**names) in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.usefixtures("no_converter")
def test_an_unknown_type_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        run_export(tmp_path, tmp_path / "out", "--type", "Q3_K")
    assert exited.value.code == cli.USER_ERROR
    assert "Q4_K_M" in capsys.readouterr().err


def test_no_converter_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMALLPLAN_CONVERTER", str(tmp_path / "none"))
    assert run_export(tmp_path, tmp_path / "out") == cli.USER_ERROR
    assert "SMALLPLAN_CONVERTER" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_converter")
def test_a_disk_without_room_is_told_before_the_work(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    assert run_export(runs["llama-3.2"], tmp_path / "out") == cli.USER_ERROR
    assert "has 0.0 GB free" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_converter")
def test_what_the_converter_says_is_told(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_export(runs["phi-4-mini"], tmp_path / "out") == cli.USER_ERROR
    assert "no space left on device" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_converter")
def test_an_output_that_is_a_file_is_told(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    assert run_export(runs["llama-3.2"], tmp_path / "out") == cli.USER_ERROR
    assert f"can't write {tmp_path / 'out'}" in capsys.readouterr().err
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_a_source_knows_where_it_comes_from(runs: dict[str, Path], tmp_path: Path) -> None:
    adapter = runs["phi-4-mini"]
    base = adapter.parent.parent / "Tiny-Chat"
    source = find_source(str(adapter))
    assert source.is_adapter and source.weights == base and source.base_name == "Tiny-Chat"
    assert (source.recipe, source.run, source.strategy) == ("generic", "first", "rl-sft")
    assert find_source(str(adapter), recipe="qwen2.5").recipe == "qwen2.5"
    whole = find_source(str(base))
    assert not whole.is_adapter and (whole.base_name, whole.run, whole.own_name) == ("", "", "Tiny-Chat")
    cached = tmp_path / "models--Qwen--Qwen2.5-3B-Instruct" / "snapshots" / "abc"
    shutil.copytree(base, cached)
    assert find_source(str(cached)).own_name == "Qwen/Qwen2.5-3B-Instruct"
    assert find_licence(base) == "apache-2.0" and find_licence(adapter) == ""
    with torch.device("meta"):
        from transformers import AutoConfig, AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    assert count_parameters(base) == model.num_parameters()


def test_an_adapter_of_another_model_of_the_hub_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    adapter, base = tmp_path / "adapter", runs["phi-4-mini"].parent.parent / "Tiny-Chat"
    shutil.copytree(runs["phi-4-mini"], adapter)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))

    def trained_on(name: str | None) -> None:
        changed = json.dumps({**config, "base_model_name_or_path": name})
        (adapter / "adapter_config.json").write_text(changed, encoding="utf-8")

    trained_on("Qwen/Qwen2.5-3B")
    with pytest.raises(UserError, match=r"was trained on Qwen/Qwen2\.5-3B, not on Qwen/Qwen2\.5-3B-Instruct"):
        find_source(str(adapter), "Qwen/Qwen2.5-3B-Instruct")
    assert find_source(str(adapter), str(base)).weights == base  # a folder may be a copy of it
    trained_on("/elsewhere/base")
    with pytest.raises(UserError, match=r"names its base, but .*/elsewhere/base.* give it with --base"):
        find_source(str(adapter))
    trained_on(None)
    with pytest.raises(UserError, match="does not name the base of the adapter; give it with --base"):
        find_source(str(adapter))


def test_damaged_weights_are_told(runs: dict[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(runs["phi-4-mini"].parent.parent / "Tiny-Chat", base)
    (base / "model.safetensors").write_bytes(b"\x00" * 5)
    with pytest.raises(UserError, match=r"model\.safetensors can't be read"):
        count_parameters(base)
    (base / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no \*\.safetensors"):
        count_parameters(base)


@pytest.mark.slow
@pytest.mark.usefixtures("converter")
def test_a_training_run_exports_with_the_same_metadata(runs: dict[str, Path], tmp_path: Path) -> None:
    run = runs["llama-3.2"].parent
    options = BaseOptions(str(run.parent / "Tiny-Chat"), adapter=run / "adapter", recipe="smallplan-nano")
    load_language_model(replace(options, device="cpu", dtype="float32")).merge_and_save(run / "merged")
    export_run(run, tmp_path / "mine.gguf", "F32")
    keys = read_metadata(tmp_path / "mine.gguf")
    assert keys["general.name"] == "Tiny Chat SmallPlan" and keys["general.license"] == "apache-2.0"
    assert keys["smallplan.prompt_version"] == PROMPT_VERSION and keys["smallplan.strategy"] == "rl-sft"
    assert keys["smallplan.training_run"] == "first"
    assert keys["smallplan.prompt_tokens"] == 700, "as long as the run's prompts were, so that the robot cuts alike"
    with Slm(tmp_path / "mine.gguf", n_ctx=4096, n_threads=1) as slm:
        assert slm.prompt_budget().readable == 700
    assert not (run / "merged.gguf").exists()
    shutil.rmtree(run / "merged")
