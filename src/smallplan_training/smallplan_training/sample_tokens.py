"""Samples to token ids, by whatever knows the model's chat: `chat.Chat`, or the default model's `NanoTokenizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from smallplan_planner.prompt import Message
from smallplan_training.samples import Sample
from smallplan_training.token_batches import SampleSet, pack

_SMALL_IDS = np.iinfo(np.uint16).max


class ChatEncoder(Protocol):
    """Chats to token ids."""

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat, up to where the assistant's answer begins."""

    def encode_answer(self, answer: str) -> list[int]:
        """Token ids of an answer, the end of the turn included."""


@dataclass(frozen=True)
class TokeniseStats:
    """What became of the samples."""

    kept: int
    too_long: int  # longer than max_tokens, left out
    tokens: int  # prompts and answers of the kept ones
    answer_tokens: int
    longest: int  # tokens of the longest sample, left out or not


def tokenise(
    samples: Iterable[Sample],
    chat: ChatEncoder,
    max_tokens: int,
    locate_marks: Callable[[Sample], Sequence[int]] | None = None,
) -> tuple[SampleSet, TokeniseStats]:
    """Samples as token ids. Those longer than `max_tokens` are left out, and counted.

    `locate_marks` says of a sample's prompt what `SampleSet.marks` holds; without it there are none.
    """
    pairs, marks, too_long, longest = [], [], 0, 0
    for sample in samples:
        pair = chat.encode_prompt(sample.messages), chat.encode_answer(sample.answer)
        length = len(pair[0]) + len(pair[1])
        longest = max(longest, length)
        if length > max_tokens:
            too_long += 1
        else:
            pairs.append(pair)
            marks.append(locate_marks(sample) if locate_marks is not None else ())
    answers = sum(len(answer) for _, answer in pairs)
    total = answers + sum(len(prompt) for prompt, _ in pairs)
    return pack_pairs(pairs, marks), TokeniseStats(len(pairs), too_long, total, answers, longest)


def pack_pairs(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], marks: Sequence[Sequence[int]] | None = None
) -> SampleSet:
    """Pairs of prompt and answer ids (the end token included) as a sample set, with marks of the prompts' first ids.

    Raises ValueError for an empty prompt or answer.
    """
    for index, (prompt, answer) in enumerate(pairs):
        if not len(prompt) or not len(answer):
            raise ValueError(
                f"pair {index}: {len(prompt)} prompt and {len(answer)} answer ids; expected at least one each"
            )
    largest = max((max(*prompt, *answer) for prompt, answer in pairs), default=0)
    kind = np.uint16 if largest <= _SMALL_IDS else np.int32
    ids = [np.asarray([*prompt, *answer], dtype=kind) for prompt, answer in pairs]
    return pack(ids, [len(prompt) for prompt, _ in pairs], marks)
