"""Models of random weights have the tensors of the real ones, and llama.cpp and the planner take them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from fixtures.tiny_gguf import write_tiny_gguf
from smallplan_planner.slm import Slm
from smallplan_training import bench
from smallplan_training.bench_shapes import ShapeTask, decide_in_time, measure_named_shape
from smallplan_training.errors import UserError
from smallplan_training.random_gguf import SHAPES, Shape, write_random_gguf

SMALL = {
    name: replace(
        shape,
        layers=8,
        dim=256,
        heads=4,
        kv_heads=2,
        hidden=512,
        vocabulary=1024,
        head_dim=64,
        rotated=shape.rotated // 2,
    )
    for name, shape in SHAPES.items()
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_the_planner_decides_with_each_architecture(name: str, tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.gguf"
    write_random_gguf(path, replace(SMALL[name], layers=2), tokenizer)
    with Slm(tokenizer) as slm:
        _, searches = bench.lead_searches(slm, 1, seed=0)
    figures = decide_in_time(ShapeTask(path, searches, n_ctx=2048, n_threads=1))
    assert figures.decisions == 1 and figures.usual.in_time == 1
    assert figures.rss_mb > figures.file_mb == pytest.approx(path.stat().st_size / 1e6, abs=0.1)
    assert figures.prompt_tps > 0 and figures.generation_tps > 0


def test_tensors_have_the_types_of_q4_k_m_and_a_spread_that_signals_survive(tokenizer: Path, tmp_path: Path) -> None:
    shape = SMALL["llama-3.2-3b"]
    write_random_gguf(tmp_path / "small.gguf", shape, tokenizer)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "small.gguf").tensors}
    types = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    assert types["token_embd.weight"] == "Q6_K" and types["blk.0.attn_q.weight"] == "Q4_K"
    downs = [types[f"blk.{layer}.ffn_down.weight"] for layer in range(shape.layers)]
    assert downs == ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K"]
    for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight"):
        tensor = tensors[name]
        weights = dequantize(tensor.data, tensor.tensor_type)
        columns = weights.shape[1]
        assert weights.std() == pytest.approx(columns**-0.5, rel=0.1)
        assert abs(weights.mean()) < 0.1 * columns**-0.5
        assert np.isfinite(weights).all()


def test_prompts_are_read_as_by_the_model_that_lends_its_tokenizer(tokenizer: Path, tmp_path: Path) -> None:
    write_random_gguf(tmp_path / "small.gguf", SMALL["qwen2.5-3b"], tokenizer)
    with Slm(tokenizer) as lender, Slm(tmp_path / "small.gguf") as slm:
        text = "kitchen: fridge (closed), mug\nTask: find the mug."
        assert slm._chat.tokenize(text) == lender._chat.tokenize(text)
        assert slm._chat.size == 1024 > lender._chat.size
    with pytest.raises(UserError, match="the model only 100"):
        write_random_gguf(tmp_path / "none.gguf", replace(SMALL["qwen2.5-3b"], vocabulary=100), tokenizer)


@pytest.mark.parametrize(("name", "billions", "file"), [("qwen2.5-3b", 3.09, 1.93), ("phi-4-mini", 3.84, 2.49)])
def test_shapes_have_the_size_of_their_models(name: str, billions: float, file: float) -> None:
    """Parameters, and bytes of the file (in 10^9) that others publish for Q4_K_M."""
    parameters, size = count(SHAPES[name])
    assert parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert size / 1e9 == pytest.approx(file, rel=0.03)


def count(shape: Shape) -> tuple[int, int]:
    from smallplan_training.random_gguf import _stored_bytes, _tensors

    tensors = list(_tensors(shape))
    return sum(int(np.prod(tensor.shape)) for tensor in tensors), sum(map(_stored_bytes, tensors))


def test_a_shape_that_is_none_is_refused(tokenizer: Path) -> None:
    with pytest.raises(UserError, match="there is no shape 'gpt'; expected one of qwen2"):
        measure_named_shape("gpt", (), tokenizer, 1)
