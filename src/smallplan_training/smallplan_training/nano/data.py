"""The default model's samples as token ids; what is made of them is in `token_batches.py`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from smallplan_training.nano.tokenizer import NanoTokenizer
from smallplan_training.samples import Sample
from smallplan_training.token_batches import SampleSet, pack


def tokenise(samples: Iterable[Sample], tokenizer: NanoTokenizer, max_tokens: int) -> SampleSet:
    """Samples as token ids; those longer than `max_tokens` are left out."""
    parts, prompts = [], []
    for sample in samples:
        prompt = tokenizer.encode_prompt(sample.messages)
        ids = prompt + tokenizer.encode_answer(sample.answer)
        if len(ids) <= max_tokens:
            parts.append(np.asarray(ids, dtype=np.uint16))
            prompts.append(len(prompt))
    return pack(parts, prompts)
