"""Is it the model that was meant: digests, fingerprints, prompt versions, bases."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from smallplan_planner import slm_files
from smallplan_planner.generation import SlmError
from smallplan_planner.prompt import PROMPT_VERSION
from smallplan_planner.slm_files import check_sha256, fingerprint
from smallplan_planner.slm_identity import BASE_MODEL_KEY, PROMPT_VERSION_KEY, check_base, check_prompt_version

MODEL, ADAPTER = Path("model.gguf"), Path("lora.gguf")


def test_a_model_with_another_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + b"\x01" * 3_000_000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    check_sha256(path, digest)
    check_sha256(path, f" {digest.upper()}\n")
    with pytest.raises(SlmError, match=rf"has the SHA-256 {digest}, configured is {'0' * 64}.*model_sha256"):
        check_sha256(path, "0" * 64)
    with pytest.raises(SlmError, match="expected 64 hex digits"):
        check_sha256(path, "latest")


@pytest.mark.parametrize("block", [1 << 16, 8])  # read whole, and by samples
def test_a_fingerprint_tells_files_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(slm_files, "_SAMPLE", block)
    data = bytearray(range(256)) * 64
    prints = []
    for name, change in (("a", None), ("b", None), ("start", 0), ("end", -1), ("longer", "longer")):
        changed = bytearray(data)
        if isinstance(change, int):
            changed[change] ^= 1
        (tmp_path / name).write_bytes(changed + (b"x" if change == "longer" else b""))
        prints.append(fingerprint(tmp_path / name))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_a_model_for_another_prompt_is_refused_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    check_prompt_version(MODEL, {PROMPT_VERSION_KEY: PROMPT_VERSION}, None, {})
    assert not caplog.records
    check_prompt_version(MODEL, {}, None, {})
    assert "model.gguf does not say which version of the prompt" in caplog.text
    with pytest.raises(SlmError, match=rf"model\.gguf was trained with version 1 .* version {PROMPT_VERSION}: use a"):
        check_prompt_version(MODEL, {PROMPT_VERSION_KEY: "1"}, None, {})


def test_an_adapter_counts_before_its_base(caplog: pytest.LogCaptureFixture) -> None:
    good, bad = {PROMPT_VERSION_KEY: PROMPT_VERSION}, {PROMPT_VERSION_KEY: "1"}
    check_prompt_version(MODEL, {}, ADAPTER, good)
    check_prompt_version(MODEL, bad, ADAPTER, good)
    check_prompt_version(MODEL, good, ADAPTER, {})
    assert not caplog.records
    with pytest.raises(SlmError, match=r"lora\.gguf was trained with version 1"):
        check_prompt_version(MODEL, good, ADAPTER, bad)


def test_an_adapter_of_another_base_is_refused_by_its_name() -> None:
    model = {"general.name": "Qwen2.5 3B Instruct"}
    check_base(MODEL, model, ADAPTER, {BASE_MODEL_KEY: "Qwen2.5-3B-Instruct"})
    check_base(MODEL, model, ADAPTER, {})
    check_base(MODEL, {}, ADAPTER, {BASE_MODEL_KEY: "Qwen2.5-3B-Instruct"})
    with pytest.raises(SlmError, match=r"it was trained on 'Qwen2.5 3B', and this model is 'Qwen2.5 3B Instruct'"):
        check_base(MODEL, model, ADAPTER, {BASE_MODEL_KEY: "Qwen2.5 3B"})
