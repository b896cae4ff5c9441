"""Attention of one new token over a cache without copies: query heads that share keys are computed together.

transformers' SDPA attention repeats keys and values for every query head of a group when there is a mask, at each
token and layer: with a batch of cached prompts that copy costs more than the attention itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "smallplan_grouped"


@contextmanager
def grouped_attention(config: Any) -> Iterator[None]:
    """Meanwhile a model of this `config` attends by groups, if it uses SDPA; otherwise nothing changes."""
    before = config._attn_implementation
    if before != "sdpa":
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """As transformers' attention functions: query (B, heads, Q, D), key and value (B, groups, T, D), mask (B, 1, Q, T).

    Returns (B, Q, heads, D). What it is not made for, such as prompts and attention with sinks, is left to SDPA.
    """
    rows, heads, length, width = query.shape
    groups = key.shape[1]
    ordinary = key.shape == value.shape and kwargs.get("position_bias") is None and not module.training
    if length != 1 or groups == heads or not ordinary:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    together = query.reshape(rows, groups, heads // groups, width)
    if attention_mask is not None:
        attention_mask = attention_mask.expand(rows, -1, heads // groups, -1)
    made = torch.nn.functional.scaled_dot_product_attention(
        together, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling")
    )
    return made.reshape(rows, 1, heads, width), None


AttentionInterface.register(_NAME, attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
