"""GGUF files of random weights in the architecture and size of known models, to measure memory and speed with.

What such a model writes makes no sense, but llama.cpp loads, computes and samples as with the real one: the same
tensors in the same types, those of Q4_K_M. Blocks are drawn as bytes, so that a file of 2 GB takes seconds, and scaled
so that weights have the spread with which a model is initialised. The tokenizer is that of a model at hand, filled up
with pieces that stand in no prompt.

    write_random_gguf(Path("qwen.gguf"), SHAPES["qwen2.5-3b"], tokenizer=default_model())
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from smallplan_planner.prompt import PROMPT_VERSION
from smallplan_planner.slm_identity import PROMPT_VERSION_KEY
from smallplan_training.errors import UserError

_FILLER = "\u00b7{:x}"  # a middle dot and a number: no prompt holds it
_SUPER_BLOCK = 256  # weights that K-quants hold together


@dataclass(frozen=True)
class Shape:
    """The sizes of a model with grouped-query attention, gated feed-forward and tied embeddings."""

    architecture: str  # of llama.cpp: llama, qwen2 (biases in attention) or phi3 (fused projections)
    layers: int
    dim: int
    heads: int
    kv_heads: int
    hidden: int  # of the feed-forward
    vocabulary: int
    context: int  # tokens
    rope_base: float
    head_dim: int = 128
    rotated: int = 128  # dimensions of a head that positions rotate
    epsilon: float = 1e-5


SHAPES = {
    "qwen2.5-3b": Shape("qwen2", 36, 2048, 16, 2, 11008, 151936, 32768, 1e6, epsilon=1e-6),
    "llama-3.2-3b": Shape("llama", 28, 3072, 24, 8, 8192, 128256, 131072, 5e5),
    "phi-4-mini": Shape("phi3", 32, 3072, 24, 8, 8192, 200064, 131072, 1e4, rotated=96),
}
"""Qwen2.5-3B-Instruct, Llama-3.2-3B-Instruct and Phi-4-mini-instruct, by their published configurations."""


@dataclass(frozen=True)
class _Block:
    """How 256 or 32 weights lie in a block: where its factors (f16) stand, and what random bytes make of them.

    A weight is `factor * (scale * quant)`, less `minimum * scale` where a type has one; `spread` is the standard
    deviation of that for random bytes and a factor of 1, `centre` the factor's multiple for which its mean is 0.
    """

    factor_at: int
    spread: float
    minimum_at: int | None = None
    centre: float = 0.0


_BLOCKS = {
    Type.Q4_K: _Block(0, 258.2, minimum_at=2, centre=7.5),
    Type.Q5_K: _Block(0, 526.7, minimum_at=2, centre=15.5),
    Type.Q6_K: _Block(208, 1365.0),
    Type.Q8_0: _Block(0, 73.9),
}


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]  # (rows, columns), or (length,) of what is not quantised
    kind: Type
    value: float = 0.0  # of all elements, of what is not quantised


def write_random_gguf(path: Path, shape: Shape, tokenizer: Path, seed: int = 0) -> None:
    """Write the model; `tokenizer` is a GGUF whose tokenizer and chat template it takes.

    Tensors are made one at a time, so memory holds the largest of them. Raises `UserError` when the tokenizer has
    more pieces than the shape's vocabulary.
    """
    writer = gguf.GGUFWriter(path, shape.architecture)
    _add_sizes(writer, shape, path.stem)
    _add_tokenizer(writer, tokenizer, shape.vocabulary)
    tensors = list(_tensors(shape))
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, _stored_shape(tensor), np.dtype(_stored_type(tensor)), _stored_bytes(tensor), tensor.kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(seed)
    for tensor in tensors:
        writer.write_tensor_data(_draw(tensor, random))
    writer.close()


def _tensors(shape: Shape) -> Iterator[_Tensor]:
    """All tensors with the types that Q4_K_M gives them (of llama.cpp's `llama_model_quantize`)."""
    dim, heads, kv = shape.dim, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def matrix(name: str, rows: int, columns: int, kind: Type = Type.Q4_K) -> _Tensor:
        return _Tensor(f"{name}.weight", (rows, columns), kind if columns % _SUPER_BLOCK == 0 else Type.Q8_0)

    def vector(name: str, length: int, value: float) -> _Tensor:
        return _Tensor(name, (length,), Type.F32, value)

    yield matrix("token_embd", shape.vocabulary, dim, Type.Q6_K)
    yield vector("output_norm.weight", dim, 1.0)
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        precise = Type.Q6_K if _is_precise(layer, shape.layers) else Type.Q4_K
        yield vector(f"{prefix}attn_norm.weight", dim, 1.0)
        yield vector(f"{prefix}ffn_norm.weight", dim, 1.0)
        if shape.architecture == "phi3":
            yield matrix(f"{prefix}attn_qkv", heads + 2 * kv, dim, Type.Q5_K)
            yield matrix(f"{prefix}ffn_up", 2 * shape.hidden, dim)
        else:
            yield matrix(f"{prefix}attn_q", heads, dim)
            yield matrix(f"{prefix}attn_k", kv, dim)
            yield matrix(f"{prefix}attn_v", kv, dim, precise)
            yield matrix(f"{prefix}ffn_gate", shape.hidden, dim)
            yield matrix(f"{prefix}ffn_up", shape.hidden, dim)
        if shape.architecture == "qwen2":
            for name, length in (("q", heads), ("k", kv), ("v", kv)):
                yield vector(f"{prefix}attn_{name}.bias", length, 0.0)
        yield matrix(f"{prefix}attn_output", dim, heads)
        yield matrix(f"{prefix}ffn_down", dim, shape.hidden, precise)


def _is_precise(layer: int, layers: int) -> bool:
    """The layers to which Q4_K_M gives more bits: the first and last eighth, and every third between them."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _draw(tensor: _Tensor, random: np.random.Generator) -> np.ndarray:
    if tensor.kind is Type.F32:
        return np.full(tensor.shape, tensor.value, np.float32)
    rows, columns = tensor.shape
    block = _BLOCKS[tensor.kind]
    weights, size = gguf.GGML_QUANT_SIZES[tensor.kind]
    data = random.integers(0, 256, (rows * columns // weights, size), np.uint8)
    factor = 1.0 / (block.spread * columns**0.5)
    _put(data, block.factor_at, factor)
    if block.minimum_at is not None:
        _put(data, block.minimum_at, factor * block.centre)
    return data.reshape(_stored_shape(tensor))


def _put(blocks: np.ndarray, at: int, value: float) -> None:
    """Write a number as f16 into all blocks (N, bytes of a block)."""
    blocks[:, at : at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)


def _stored_shape(tensor: _Tensor) -> tuple[int, ...]:
    """In elements of the array that is written: bytes of quantised rows."""
    if tensor.kind is Type.F32:
        return tensor.shape
    weights, size = gguf.GGML_QUANT_SIZES[tensor.kind]
    return (tensor.shape[0], tensor.shape[1] // weights * size)


def _stored_type(tensor: _Tensor) -> type:
    return np.float32 if tensor.kind is Type.F32 else np.uint8


def _stored_bytes(tensor: _Tensor) -> int:
    return int(np.prod(_stored_shape(tensor))) * np.dtype(_stored_type(tensor)).itemsize


def _add_sizes(writer: gguf.GGUFWriter, shape: Shape, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.rotated)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_string(PROMPT_VERSION_KEY, PROMPT_VERSION)


def _add_tokenizer(writer: gguf.GGUFWriter, source: Path, vocabulary: int) -> None:
    fields = gguf.GGUFReader(source).fields
    read: dict[str, Any] = {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}
    pieces = read["tokenizer.ggml.tokens"]
    missing = vocabulary - len(pieces)
    if missing < 0:
        raise UserError(f"{source} has {len(pieces)} pieces, the model only {vocabulary}; take a smaller tokenizer")
    writer.add_tokenizer_model(read["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(read.get("tokenizer.ggml.pre", "default"))
    writer.add_token_list([*pieces, *(_FILLER.format(index) for index in range(missing))])
    writer.add_token_scores([*read["tokenizer.ggml.scores"], *([-1e4] * missing)])
    writer.add_token_types([*read["tokenizer.ggml.token_type"], *([gguf.TokenType.NORMAL] * missing)])
    for key, value in read.items():
        if key.endswith("_token_id"):
            writer.add_uint32(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
    writer.add_chat_template(read["tokenizer.chat_template"])
