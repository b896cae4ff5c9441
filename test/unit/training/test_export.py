from __future__ import annotations

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import llama_cpp
import torch

from smallplan_planner.actions import ActionKind
from smallplan_planner.prompt import PROMPT_VERSION, ObjectView, PromptView, RoomView
from smallplan_training import export
from smallplan_training.errors import UserError
from smallplan_training.export_source import chat_of
from smallplan_training.nano.checkpoint_folder import save_folder
from smallplan_training.nano.model import ModelConfig, NanoModel
from smallplan_training.nano.tokenizer import NanoTokenizer, train_tokenizer
from smallplan_training.parity import LIMITS, Reference

PROMPT = (
    "<s><|system|>\nAnswer in three lines, Analysis: Reasoning: Command:<|end|>\n<|user|>\nTask: find the blue mug-2.\n"
    "Log:\nkitchen: fridge (closed), zorblick\nYou are in kitchen.<|end|>\n<|assistant|>\n"
)
ANSWER = "Analysis: No mug yet.\nReasoning: fridge in kitchen, so I open it.\nCommand: go_to_and_open(kitchen, fridge)"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = NanoTokenizer(train_tokenizer([PROMPT] * 3, [ANSWER] * 3, ["storage box", "mug"], 700))
    torch.manual_seed(0)
    shape = ModelConfig(vocab_size=700, width=64, layers=2, heads=2, kv_heads=1, feed_forward=96, max_positions=512)
    model = NanoModel(shape)
    with torch.no_grad():
        model.embedding.weight.mul_(8.0)  # so that the likeliest token is clear
    save_folder(model, tokenizer, folder)
    return folder


def test_llama_cpp_computes_what_transformers_computes(converter: Path, checkpoint: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    keys = {"general.name": "Tiny", "general.license": "apache-2.0", "smallplan.prompt_version": PROMPT_VERSION}
    export.convert(checkpoint, whole, keys)
    kitchen = RoomView("kitchen", (ObjectView("fridge", "closed"), ObjectView("zorblick")))
    view = PromptView("blue mug-2", "normal", (ActionKind.DONE,), (kitchen,), robot_room="kitchen")
    views = [view, replace(view, target="émile"), replace(view, rooms=())]
    reference = Reference(checkpoint, chat_of(checkpoint, "smallplan-nano"), views, 3, tmp_path / "logits", graphs=0)
    parity = reference.compare(whole)
    assert parity.equal_tokens == parity.prompts == 3
    assert parity.faults(LIMITS["F32"]) == [] and parity.graphs == 0
    assert parity.largest_difference < 0.05
    shutil.rmtree(tmp_path / "logits")

    small = tmp_path / "new" / "small.gguf"
    export.quantise(whole, small)
    assert small.stat().st_size < 0.5 * whole.stat().st_size
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["small.gguf", "whole.gguf"]
    llama = llama_cpp.Llama(str(small), vocab_only=True, verbose=False)
    assert keys.items() <= llama.metadata.items()  # the converter itself passes over the latter two
    assert llama.metadata["llama.context_length"] == "512"
    assert "<|assistant|>" in llama.metadata["tokenizer.chat_template"]
    assert llama.metadata["tokenizer.ggml.eos_token_id"] == "2"
    llama.close()


def test_a_folder_that_is_no_checkpoint_is_told(converter: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="converter refused"):
        export.convert(tmp_path, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_an_unknown_file_type_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file type 'Q3' here; expected one of Q8_0"):
        export.quantise(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q3")


def test_an_unknown_type_of_adapter_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be of type 'Q4_0'; expected one of F16"):
        export.convert_adapter(tmp_path, tmp_path, tmp_path / "a.gguf", file_type="Q4_0")


def test_a_converter_without_the_script_for_adapters_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLPLAN_CONVERTER", str(tmp_path))
    (tmp_path / "convert_hf_to_gguf.py").touch()
    with pytest.raises(UserError, match=r"holds no convert_lora_to_gguf\.py"):
        export.convert_adapter(tmp_path, tmp_path, tmp_path / "a.gguf")


def test_a_converter_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLPLAN_CONVERTER", str(tmp_path))
    monkeypatch.setattr(export, "_CONVERT_SECONDS", 0.2)
    (tmp_path / "convert_hf_to_gguf.py").write_text("import time; time.sleep(60)", encoding="utf-8")
    with pytest.raises(UserError, match=r"it was not done within 0\.2 s"):
        export.convert(tmp_path, tmp_path / "out.gguf")


def test_a_given_converter_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLPLAN_CONVERTER", str(tmp_path))
    with pytest.raises(UserError, match="SMALLPLAN_CONVERTER"):
        export.converter_dir()
    (tmp_path / "convert_hf_to_gguf.py").touch()
    assert export.converter_dir() == tmp_path


def test_no_download_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMALLPLAN_CONVERTER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(UserError, match="Check the network, or set SMALLPLAN_CONVERTER"):
        export.converter_dir()


def test_nothing_is_unpacked_beside_the_folder(tmp_path: Path) -> None:
    archive = tmp_path / "sources.tar.gz"
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("convert_hf_to_gguf.py", "gguf-py/gguf/__init__.py", "gguf-py/../../../evil.py", "src/llama.cpp"):
            tar.add(tmp_path / "file", f"llama_cpp_python-1/vendor/llama.cpp/{name}")
    export._unpack(archive, tmp_path / "a" / "b" / "converter")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py"))
    assert found == ["a/b/converter/convert_hf_to_gguf.py", "a/b/converter/gguf-py/gguf/__init__.py"]
