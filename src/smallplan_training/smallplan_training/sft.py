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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from smallplan_training.base_model import Scores
from smallplan_training.chat import Chat
from smallplan_training.samples import Sample
from smallplan_training.token_batches import Batch, SampleSet, pack

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokeniseStats:
    """What became of the samples."""

    kept: int
    too_long: int  # longer than max_tokens, left out
    tokens: int  # prompts and answers of the kept ones
    answer_tokens: int
    longest: int  # tokens of the longest sample, left out or not


def tokenise(samples: Iterable[Sample], chat: Chat, max_tokens: int) -> tuple[SampleSet, TokeniseStats]:
    """Samples as token ids. Those longer than `max_tokens` are left out, counted, and told in a warning."""
    pairs, too_long, longest = [], 0, 0
    for sample in samples:
        pair = chat.encode_prompt(sample.messages), chat.encode_answer(sample.answer)
        length = len(pair[0]) + len(pair[1])
        longest = max(longest, length)
        if length > max_tokens:
            too_long += 1
        else:
            pairs.append(pair)
    if too_long:
        logger.warning(
            "%d of %d samples are longer than %d tokens and are left out (the longest has %d)",
            too_long,
            too_long + len(pairs),
            max_tokens,
            longest,
        )
    answers = sum(len(answer) for _, answer in pairs)
    total = answers + sum(len(prompt) for prompt, _ in pairs)
    return pack_pairs(pairs), TokeniseStats(len(pairs), too_long, total, answers, longest)


def pack_pairs(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> SampleSet:
    """Pairs of prompt and answer ids (the end token included) as a sample set. Raises ValueError for an empty one."""
    for index, (prompt, answer) in enumerate(pairs):
        if not len(prompt) or not len(answer):
            raise ValueError(
                f"pair {index}: {len(prompt)} prompt and {len(answer)} answer ids; expected at least one each"
            )
    ids = [np.asarray([*prompt, *answer], dtype=np.int32) for prompt, answer in pairs]
    return pack(ids, [len(prompt) for prompt, _ in pairs])


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
