"""Causal attention block by block: on a CPU it never touches most of what lies above the diagonal.

torch's own kernel for CPUs spends several times as long on the backward pass. Exact.
Shapes: B samples, H query heads, K key/value heads, Q query positions, T positions, C width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 64  # query positions that attend at a time


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """q (B, H, T, C) over k, v (B, K, T, C) that stand no later: (B, H, T, C). `scale`: of the scores, C ** -0.5."""
    length = q.shape[2]
    above = torch.ones(_BLOCK, _BLOCK, dtype=torch.bool, device=q.device).triu(1)
    blocks = []
    for begin in range(0, length, _BLOCK):
        end = min(begin + _BLOCK, length)
        hidden = functional.pad(above[: end - begin, : end - begin], (begin, 0))
        blocks.append(masked_attention(q[:, :, begin:end], k[:, :, :end], v[:, :, :end], hidden, scale))
    return torch.cat(blocks, dim=2)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, scale: float | None = None) -> Tensor:
    """q (B, H, Q, C) over k, v (B, K, T, C); hidden (Q, T) or (B, 1, Q, T) is True where a key does not count."""
    batch, heads, queries, width = q.shape
    kv_heads, keys = k.shape[1:3]
    groups = heads // kv_heads
    flat = (q * (width**-0.5 if scale is None else scale)).reshape(batch * kv_heads, groups * queries, width)
    # added within the product: filling afterwards costs two more passes over the scores
    bias = torch.zeros(hidden.shape, dtype=flat.dtype, device=q.device).masked_fill_(hidden, -torch.inf)
    if hidden.dim() == 2:
        bias = bias.repeat(groups, 1).unsqueeze(0)
    else:
        bias = bias.expand(-1, heads, -1, -1).reshape(batch * kv_heads, groups * queries, keys)
    scores = torch.baddbmm(bias, flat, k.reshape(batch * kv_heads, keys, width).transpose(1, 2))
    made = torch.bmm(scores.softmax(-1).to(v.dtype), v.reshape(batch * kv_heads, keys, v.shape[-1]))
    return made.view(batch, heads, queries, v.shape[-1])
