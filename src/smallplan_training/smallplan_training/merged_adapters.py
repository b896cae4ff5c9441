"""LoRA adapters folded into the weights while a model generates, and taken out again to the bit.

An adapter costs two more products for each linear layer: for a small model, and for one new token at a time, that is
most of the work. Its wrapper, which then would only hand on to the linear layer, stands aside too. Only float32
weights are folded: in bfloat16 or 4 bits a small adapter would be rounded away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer


@contextmanager
def merged_adapters(model: torch.nn.Module) -> Iterator[None]:
    """Meanwhile the adapters that are on are part of the weights, where these are float32; don't train inside."""
    places = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, BaseTunerLayer)
    ]
    if not all(_can_merge(layer) for _, _, layer in places):
        yield
        return
    with torch.no_grad():
        before = [layer.get_base_layer().weight.clone() for _, _, layer in places]
    try:
        for parent, name, layer in places:
            layer.merge()
            setattr(parent, name, layer.get_base_layer())
        yield
    finally:
        for (parent, name, layer), weight in zip(places, before, strict=True):
            setattr(parent, name, layer)
            layer.unmerge()
            layer.get_base_layer().weight.data.copy_(weight)  # what was added and subtracted is not the same number


def _can_merge(layer: BaseTunerLayer) -> bool:
    base = layer.get_base_layer()
    weight = getattr(base, "weight", None)
    usable = isinstance(base, torch.nn.Linear) and weight is not None and weight.dtype == torch.float32
    return usable and not layer.disable_adapters and not layer.merged
