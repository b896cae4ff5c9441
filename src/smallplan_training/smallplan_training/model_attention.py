"""The attention of the models that are trained, in place of transformers' SDPA where that is slow.

One new token over a cache: transformers repeats keys and values for every query head of a group when there is a mask,
at each token and layer; here the heads of a group are computed together, without a copy. Whole texts on a CPU: see
`block_attention`. Everything else is left to SDPA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from smallplan_training.block_attention import causal_attention

_NAME = "smallplan"
_SPECIAL = ("position_bias", "sliding_window", "s_aux", "softcap")  # what asks for more than plain attention


def use_fast_attention(model: Any) -> None:
    """Let a model of transformers attend this way from now on, if it uses SDPA."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_NAME)


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """As transformers' attention functions: query (B, heads, Q, D), key and value (B, groups, T, D), mask (B, 1, Q, T).

    Returns (B, Q, heads, D).
    """
    plain = not kwargs.get("dropout") and all(kwargs.get(name) is None for name in _SPECIAL)
    length, groups = query.shape[2], key.shape[1]
    if plain and length == 1 and groups < query.shape[1] and key.shape == value.shape:
        return _attend_once(query, key, value, attention_mask, kwargs.get("scaling")), None
    causal = kwargs.get("is_causal") is not False and getattr(module, "is_causal", True)
    if plain and causal and attention_mask is None and query.device.type == "cpu" and key.shape[2] == length > 1:
        return causal_attention(query, key, value, kwargs.get("scaling")).transpose(1, 2), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _attend_once(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    rows, heads, _, width = query.shape
    groups = key.shape[1]
    together = query.reshape(rows, groups, heads // groups, width)
    if mask is not None:
        mask = mask.expand(rows, -1, heads // groups, -1)
    made = torch.nn.functional.scaled_dot_product_attention(together, key, value, attn_mask=mask, scale=scale)
    return made.reshape(rows, 1, heads, width)


AttentionInterface.register(_NAME, attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
