"""Causal attention block by block: on a CPU it never touches most of what lies above the diagonal.

torch's own kernel for CPUs spends several times as long on the backward pass. Exact.
Shapes: B samples, H query heads, K key/value heads, Q query positions, T positions, C width of a head.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_BLOCK = 64  # query positions that attend at a time
_BLOCKS = 64  # whose masks are kept: a model's layers all ask for the same


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """q (B, H, T, C) over k, v (B, K, T, C) that stand no later: (B, H, T, C). `scale`: of the scores, C ** -0.5."""
    length, groups = q.shape[2], q.shape[1] // k.shape[1]
    blocks = []
    for begin in range(0, length, _BLOCK):
        end = min(begin + _BLOCK, length)
        bias = _causal_bias(begin, end, groups, q.dtype, q.device)
        blocks.append(_attend(q[:, :, begin:end], k[:, :, :end], v[:, :, :end], bias, scale))
    return torch.cat(blocks, dim=2)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, scale: float | None = None) -> Tensor:
    """q (B, H, Q, C) over k, v (B, K, T, C); hidden (Q, T) or (B, 1, Q, T) is True where a key does not count."""
    batch, heads = q.shape[:2]
    kv_heads, keys = k.shape[1:3]
    bias = _bias(hidden, q.dtype)
    if hidden.dim() == 2:
        bias = bias.repeat(heads // kv_heads, 1).unsqueeze(0)
    else:
        bias = bias.expand(-1, heads, -1, -1).reshape(batch * kv_heads, -1, keys)
    return _attend(q, k, v, bias, scale)


@lru_cache(maxsize=_BLOCKS)
def _causal_bias(begin: int, end: int, groups: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, groups * Q, end) of the query positions `begin` to `end`."""
    with torch.inference_mode(False):  # it outlives the call, and may serve training afterwards
        hidden = torch.ones(end - begin, end, dtype=torch.bool, device=device).triu(begin + 1)
        return _bias(hidden, dtype).repeat(groups, 1).unsqueeze(0)


def _bias(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: minus infinity where `hidden`, else 0."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float | None) -> Tensor:
    """`bias` (1 or B * K, H / K * Q, T) is added within the product: filling afterwards costs two more passes."""
    batch, heads, queries, width = q.shape
    kv_heads, keys = k.shape[1:3]
    flat = (q * (width**-0.5 if scale is None else scale)).reshape(batch * kv_heads, -1, width)
    scores = torch.baddbmm(bias, flat, k.reshape(batch * kv_heads, keys, width).transpose(1, 2))
    made = torch.bmm(scores.softmax(-1).to(v.dtype), v.reshape(batch * kv_heads, keys, v.shape[-1]))
    return made.view(batch, heads, queries, v.shape[-1])
