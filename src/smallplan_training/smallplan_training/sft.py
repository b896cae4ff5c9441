"""Supervised fine-tuning: samples to token ids, and the loss on their answers.

    samples, stats = tokenise(read_samples(path), lm.chat, lm.recipe.max_tokens)
    stream = BatchStream(samples, batch_tokens, seed, lm.chat.pad_id)      # like lengths together; resumable
    batches = [next(stream) for _ in range(accumulate)]
    tokens = sum(answer_tokens(batch) for batch in batches)
    for batch in batches:
        loss, stats = sft_loss(lm, batch.to(lm.device), tokens); loss.backward()

Batches that are accumulated give the same gradient as one large batch: the mean over all their answers' tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from smallplan_training import sample_tokens
from smallplan_training.base_model import Scores
from smallplan_training.sample_tokens import ChatEncoder, TokeniseStats
from smallplan_training.samples import Sample
from smallplan_training.token_batches import Batch, SampleSet

logger = logging.getLogger(__name__)


def tokenise(samples: Iterable[Sample], chat: ChatEncoder, max_tokens: int) -> tuple[SampleSet, TokeniseStats]:
    """As `sample_tokens.tokenise`; a warning tells of samples that are left out."""
    data, stats = sample_tokens.tokenise(samples, chat, max_tokens)
    if stats.too_long:
        logger.warning(
            "%d of %d samples are longer than %d tokens and are left out (the longest has %d)",
            stats.too_long,
            stats.too_long + stats.kept,
            max_tokens,
            stats.longest,
        )
    return data, stats


@dataclass(frozen=True)
class SftStats:
    """Means over the batch's answer tokens."""

    loss: float  # nats for each token
    accuracy: float  # share of tokens that are the model's likeliest
    tokens: int
    samples: int


def answer_tokens(batch: Batch) -> int:
    """Scored tokens of a batch."""
    return int((batch.weights > 0).sum())


def sft_loss(model: Callable[[Batch], Scores], batch: Batch, tokens: int | None = None) -> tuple[Tensor, SftStats]:
    """Cross entropy of the answers. `model` is a `LanguageModel`, or what accelerate wraps it in.

    `tokens` is the number of answer tokens of all batches whose gradients are summed; None: of this one.
    """
    scores = model(batch)
    count = answer_tokens(batch)
    total = -scores.logprobs.sum()
    # The value head has no part in it; data parallelism wants a gradient for every parameter all the same.
    loss = total / (tokens or count) + 0.0 * scores.values.sum()
    accuracy = float(scores.likeliest.sum()) / count
    return loss, SftStats(float(total.detach()) / count, accuracy, count, batch.samples)
