from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from fixtures.tiny_gguf import write_tiny_gguf
from smallplan_training.errors import UserError
from smallplan_training.gguf_metadata import FileName, name_parts, read_metadata, set_metadata, size_label

CONVENTION = re.compile(
    r"(?P<base>[A-Za-z0-9.]+(-[A-Za-z.]+)*)-(?P<size>(\d+\.)?\d+[KMBT])(-(?P<finetune>[A-Za-z0-9-]+))?"
    r"-(?P<version>v\d+(\.\d+)*)-(?P<encoding>[A-Z0-9_]+)(-(?P<type>LoRA))?\.gguf"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path)
    return path


def test_keys_are_added_and_replaced_and_nothing_else_changes(model: Path) -> None:
    before = gguf.GGUFReader(model)
    tensors = {t.name: (t.tensor_type, t.data.copy()) for t in before.tensors}
    lists = {name: f.contents() for name, f in before.fields.items() if f.types[0] is gguf.GGUFValueType.ARRAY}
    old = read_metadata(model)
    new = {"general.name": "Another", "general.license": "apache-2.0", "smallplan.prompt_version": "2", "x.count": 3}
    set_metadata(model, new)
    assert read_metadata(model) == {**old, **new}
    after = gguf.GGUFReader(model)
    assert lists and all(after.fields[name].contents() == value for name, value in lists.items())
    assert [t.name for t in after.tensors] == list(tensors)
    for tensor in after.tensors:
        kind, data = tensors[tensor.name]
        assert tensor.tensor_type == kind and np.array_equal(tensor.data, data)
    assert sorted(path.name for path in model.parent.iterdir()) == ["tiny.gguf"]


def test_a_file_that_has_the_keys_is_left_alone(model: Path) -> None:
    set_metadata(model, {"general.license": "mit"})
    inode = model.stat().st_ino
    set_metadata(model, {"general.license": "mit"})
    assert model.stat().st_ino == inode


def test_what_is_no_gguf_is_told(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("no model, only a text that is long enough for a header", encoding="utf-8")
    with pytest.raises(UserError, match=r"text\.gguf is no GGUF file"):
        read_metadata(path)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Qwen/Qwen2.5-3B-Instruct", ("Qwen2.5", "Instruct")),
        ("Llama-3.2-3B-Instruct", ("Llama-3.2", "Instruct")),
        ("microsoft/Phi-4-mini-instruct", ("Phi-4", "instruct")),
        ("checkpoint", ("checkpoint", "")),
    ],
)
def test_a_models_name_is_taken_apart(name: str, parts: tuple[str, str]) -> None:
    assert name_parts(name, 3_100_000_000) == parts


def test_files_are_named_by_the_convention() -> None:
    name = FileName("Qwen2.5", size_label(3_086_000_000), "Instruct-SmallPlan")
    assert name.of("Q4_K_M") == "Qwen2.5-3.1B-Instruct-SmallPlan-v1.0-Q4_K_M.gguf"
    assert name.of("F16", "LoRA") == "Qwen2.5-3.1B-Instruct-SmallPlan-v1.0-F16-LoRA.gguf"
    plain = FileName("SmallPlan-Nano", size_label(2_850_000), version="v2").of("Q8_0")
    assert plain == "SmallPlan-Nano-2.9M-v2-Q8_0.gguf"
    assert all(CONVENTION.fullmatch(file) for file in (name.of("Q4_K_M"), name.of("F16", "LoRA"), plain))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"basename": "../evil"}, "basename"),
        ({"basename": ""}, "basename"),
        ({"finetune": "a/b"}, "fine-tune"),
        ({"version": "new"}, "version"),
    ],
)
def test_a_name_that_no_file_should_have_is_refused(wrong: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        FileName(**{"basename": "Model", "size_label": "1M", **wrong})
