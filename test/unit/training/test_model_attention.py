"""The models' fast attention says what transformers' own says, and so do its gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from smallplan_training.block_attention import causal_attention
from smallplan_training.model_attention import use_fast_attention
from unit.training.tiny_models import FAMILIES, save_random_model

LENGTH = 150  # more than two blocks


@pytest.fixture(params=FAMILIES)
def models(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    """The same model twice: as transformers attends, and as ours does."""
    save_random_model(request.param, tmp_path, 40)
    plain, fast = (AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa") for _ in range(2))
    use_fast_attention(fast)
    assert fast.config._attn_implementation != plain.config._attn_implementation
    return plain, fast


def test_a_whole_text_has_the_same_logits_and_gradients(models: tuple[Any, Any]) -> None:
    ids = torch.randint(3, 40, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    made = []
    for model in models:
        logits = model(input_ids=ids, use_cache=False).logits
        logits.logsumexp(-1).sum().backward()
        made.append((logits, [p.grad for p in model.parameters() if p.grad is not None]))
    (logits, gradients), (fast_logits, fast_gradients) = made
    torch.testing.assert_close(fast_logits, logits, atol=1e-4, rtol=1e-4)
    assert len(fast_gradients) == len(gradients)
    for ours, theirs in zip(fast_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_new_tokens_over_a_padded_cache_have_the_same_logits(models: tuple[Any, Any]) -> None:
    ids = torch.randint(3, 40, (2, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    def last_logits(model: Any) -> Tensor:
        cache, made = DynamicCache(config=model.config), []
        model.eval()
        with torch.no_grad():
            for begin, end in ((0, 10), (10, 11), (11, 12)):
                part, at = ids[:, begin:end], positions[:, begin:end]
                made.append(model(part, mask[:, :end], position_ids=at, past_key_values=cache).logits[:, -1])
        return torch.stack(made)

    plain, fast = models
    torch.testing.assert_close(last_logits(fast), last_logits(plain), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_blocks_are_causal_attention_with_shared_heads(length: int, scale: float | None) -> None:
    generator = torch.Generator().manual_seed(length)
    q = torch.randn(2, 6, length, 8, generator=generator)
    k, v = (torch.randn(2, 2, length, 8, generator=generator) for _ in range(2))
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), is_causal=True, scale=scale
    )
    torch.testing.assert_close(causal_attention(q, k, v, scale), expected)
