"""The untrained copy keeps everything of a model but what it has learned, and llama.cpp runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

from smallplan_planner.prompt import Message
from smallplan_training.untrained import STANDARD_DEVIATION, untrained_copy

Q8 = GGMLQuantizationType.Q8_0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.note", "kept")
    matrix = np.linspace(-1, 1, 64 * 96, dtype=np.float32).reshape(64, 96)
    writer.add_tensor("blk.0.attn_q.weight", quantize(matrix, Q8), raw_dtype=Q8)
    writer.add_tensor("token_embd.weight", matrix.astype(np.float16))
    writer.add_tensor("blk.0.attn_norm.weight", np.full(96, 3, dtype=np.float32))
    writer.add_tensor("blk.0.attn_q.bias", np.full(64, 3, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights(path: Path) -> dict[str, np.ndarray]:
    return {t.name: np.asarray(dequantize(t.data, t.tensor_type)) for t in GGUFReader(path).tensors}


def test_weights_are_random_and_the_rest_is_kept(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    copy = untrained_copy(model, cache=tmp_path / "cache")
    assert model.read_bytes() == before
    assert GGUFReader(copy).fields["general.note"].contents() == "kept"
    old, new = weights(model), weights(copy)
    assert {name: value.shape for name, value in old.items()} == {name: value.shape for name, value in new.items()}
    for name in ("blk.0.attn_q.weight", "token_embd.weight"):
        assert new[name].std() == pytest.approx(STANDARD_DEVIATION, rel=0.05)
        assert abs(new[name].mean()) < 0.001
        assert abs(np.corrcoef(new[name].ravel(), old[name].ravel())[0, 1]) < 0.1
    assert (new["blk.0.attn_norm.weight"] == 1).all()
    assert (new["blk.0.attn_q.bias"] == 0).all()


def test_made_once_for_each_seed(model: Path, tmp_path: Path) -> None:
    first, again, other = (untrained_copy(model, seed, tmp_path) for seed in (0, 0, 1))
    assert first == again != other
    assert first.read_bytes() != other.read_bytes()


def test_llama_runs_it(tmp_path: Path) -> None:
    from fixtures.tiny_gguf import write_tiny_gguf
    from smallplan_planner.slm import Slm

    write_tiny_gguf(tmp_path / "tiny.gguf")
    copy = untrained_copy(tmp_path / "tiny.gguf", cache=tmp_path)
    with Slm(copy, n_ctx=512, n_threads=1) as slm:
        assert slm.generate([Message("user", "find the mug")]).generated_tokens > 0
