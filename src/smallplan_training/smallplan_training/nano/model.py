"""A small Llama: the architecture of transformers' `LlamaForCausalLM`, written for training speed on few cores.

Shapes: B samples, T positions, A answer positions, D width, H query heads, K key/value heads, C width of a head.
What makes it faster than the stock module: the projections of a layer that read the same input are one matrix;
where only the answers are scored the last layer works on the answers' positions alone (its keys and values are
computed for all); on a CPU causal attention goes block by block and never touches most of what lies above the
diagonal. All exact. `to_hugging_face` gives the weights under transformers' names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from smallplan_training.block_attention import causal_attention, masked_attention


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the model. Raises ValueError for shapes that don't fit together."""

    vocab_size: int = 2560
    width: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    feed_forward: int = 640
    max_positions: int = 2048
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} over {self.heads} heads: an even number for each head is expected")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads over {self.kv_heads} kv_heads: a multiple is expected")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def to_hugging_face(self, bos: int, eos: int, pad: int) -> dict[str, Any]:
        """The `config.json` of transformers, and of llama.cpp's converter."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_width,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_epsilon,
            "rope_theta": self.rope_base,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_base},
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "torch_dtype": "float32",
        }

    @classmethod
    def from_hugging_face(cls, data: Mapping[str, Any]) -> ModelConfig:
        """The shape out of a `config.json` that `to_hugging_face` made."""
        return cls(
            vocab_size=data["vocab_size"],
            width=data["hidden_size"],
            layers=data["num_hidden_layers"],
            heads=data["num_attention_heads"],
            kv_heads=data["num_key_value_heads"],
            feed_forward=data["intermediate_size"],
            max_positions=data["max_position_embeddings"],
            rope_base=data["rope_parameters"]["rope_theta"],
            norm_epsilon=data["rms_norm_eps"],
        )


class _Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        kv_width = config.kv_heads * config.head_width
        self.attention_norm = nn.Parameter(torch.ones(config.width))
        self.qkv = nn.Linear(config.width, config.width + 2 * kv_width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.mlp_norm = nn.Parameter(torch.ones(config.width))
        self.gate_up = nn.Linear(config.width, 2 * config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, config.width, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], scored: Tensor | None) -> Tensor:
        """x (B, T, D) to (B, T, D), or to (B, A, D) at the positions `scored` (B, A)."""
        c = self.config
        batch, length, _ = x.shape
        kv_width = c.kv_heads * c.head_width
        h = self._norm(x, self.attention_norm)
        if scored is None:
            qk, v = self.qkv(h).split((c.width + kv_width, kv_width), dim=-1)
            qk = _rotate(qk.view(batch, length, c.heads + c.kv_heads, c.head_width).transpose(1, 2), rope)
            q, k = qk.split((c.heads, c.kv_heads), dim=1)
            a = _attend(q, k, _heads(v, c.kv_heads), None)
        else:
            rows = scored.unsqueeze(-1).expand(-1, -1, c.width)
            weight = self.qkv.weight
            q = functional.linear(h.gather(1, rows), weight[: c.width])
            k, v = functional.linear(h, weight[c.width :]).split((kv_width, kv_width), dim=-1)
            at = (rope[0][scored].unsqueeze(1), rope[1][scored].unsqueeze(1))  # (B, 1, A, C / 2)
            mask = (torch.arange(length, device=x.device) <= scored.unsqueeze(-1)).unsqueeze(1)  # (B, 1, A, T)
            q, k = _rotate(_heads(q, c.heads), at), _rotate(_heads(k, c.kv_heads), rope)
            a = _attend(q, k, _heads(v, c.kv_heads), mask)
            x = x.gather(1, rows)
        x = x + self.out(a.transpose(1, 2).reshape(batch, -1, c.width))
        gate, up = self.gate_up(self._norm(x, self.mlp_norm)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight.to(x.dtype), self.config.norm_epsilon)


class NanoModel(nn.Module):
    """Token ids to logits; input and output embeddings are one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.width))
        angles = torch.outer(
            torch.arange(config.max_positions).float(),
            config.rope_base ** (-torch.arange(0, config.head_width, 2).float() / config.head_width),
        )
        self.register_buffer("cos", angles.cos(), persistent=False)  # (positions, C / 2)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = (2 * config.layers) ** -0.5 if name.endswith(("out.weight", "down.weight")) else 1.0
                nn.init.normal_(parameter, std=scale * config.width**-0.5)

    def forward(self, ids: Tensor, scored: Tensor | None = None) -> Tensor:
        """ids (B, T), padded on the right, to logits (B, T, vocabulary), or (B, A, vocabulary) at `scored` (B, A)."""
        return self.forward_through(ids, scored, 0)[0]

    def forward_through(self, ids: Tensor, scored: Tensor | None, layer: int) -> tuple[Tensor, Tensor]:
        """As `forward`, and what goes into a layer (from 0 on) as (B, T, D)."""
        length = ids.shape[1]
        x = self.embedding(ids)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rope = (self.get_buffer("cos")[:length].to(x.dtype), self.get_buffer("sin")[:length].to(x.dtype))
        before = x
        for index, block in enumerate(self.blocks):
            before = x if index == layer else before
            x = block(x, rope, scored if index == len(self.blocks) - 1 else None)
        x = functional.rms_norm(x, self.norm.shape, self.norm.to(x.dtype), self.config.norm_epsilon)
        return functional.linear(x, self.embedding.weight), before

    def to_hugging_face(self) -> dict[str, Tensor]:
        """The weights under the names of transformers' `LlamaForCausalLM`, in float32."""
        c = self.config
        kv_width = c.kv_heads * c.head_width
        state = {"model.embed_tokens.weight": self.embedding.weight, "model.norm.weight": self.norm}
        for index, block in enumerate(self.blocks):
            assert isinstance(block, _Layer)
            q, k, v = block.qkv.weight.split((c.width, kv_width, kv_width))
            gate, up = block.gate_up.weight.chunk(2)
            parts = {
                "input_layernorm": block.attention_norm,
                "self_attn.q_proj": q,
                "self_attn.k_proj": k,
                "self_attn.v_proj": v,
                "self_attn.o_proj": block.out.weight,
                "post_attention_layernorm": block.mlp_norm,
                "mlp.gate_proj": gate,
                "mlp.up_proj": up,
                "mlp.down_proj": block.down.weight,
            }
            state |= {f"model.layers.{index}.{name}.weight": weight for name, weight in parts.items()}
        return {name: weight.detach().float().cpu().contiguous() for name, weight in state.items()}

    @torch.no_grad()
    def average(self, others: Sequence[NanoModel]) -> None:
        """Set the weights to the mean of them and of others' of the same shape."""
        weights = [model.to_hugging_face() for model in (self, *others)]
        self.load_hugging_face({name: torch.stack([w[name] for w in weights]).mean(0) for name in weights[0]})

    def load_hugging_face(self, state: Mapping[str, Tensor]) -> None:
        """Take over weights that `to_hugging_face` gave; raises KeyError when one is missing."""
        own = {"embedding.weight": state["model.embed_tokens.weight"], "norm": state["model.norm.weight"]}
        for index in range(self.config.layers):
            prefix = f"model.layers.{index}."

            def part(name: str, prefix: str = prefix) -> Tensor:
                return state[f"{prefix}{name}.weight"]

            own |= {
                f"blocks.{index}.attention_norm": part("input_layernorm"),
                f"blocks.{index}.qkv.weight": torch.cat([part(f"self_attn.{n}_proj") for n in "qkv"]),
                f"blocks.{index}.out.weight": part("self_attn.o_proj"),
                f"blocks.{index}.mlp_norm": part("post_attention_layernorm"),
                f"blocks.{index}.gate_up.weight": torch.cat([part("mlp.gate_proj"), part("mlp.up_proj")]),
                f"blocks.{index}.down.weight": part("mlp.down_proj"),
            }
        self.load_state_dict(own)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * C) to (B, heads, T, C)."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q (B, H, Q, C) over k, v (B, K, T, C); mask (B, 1, Q, T) is True where a key counts, None: causal."""
    if q.device.type == "cpu":
        return causal_attention(q, k, v) if mask is None else masked_attention(q, k, v, ~mask)
    grouped = q.shape[1] != k.shape[1]
    return functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=grouped)


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding of x (B, heads, positions, C), halves rotated as in transformers."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
