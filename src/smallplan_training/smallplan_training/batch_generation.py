"""Answers of a causal language model to many prompts at once: batched, with a KV cache, reproducible.

Prompts are sorted by length and padded on the left; those of like length are read together, so that a long one does
not make the others cost. The cache is allocated once for a batch, and rows that have ended are dropped from it, so
that a long answer does not either. What a row draws depends on its own seed alone, not on who else is in the batch
(rounding apart, which a batch's shape may change in the last digit).

It decodes by hand around `model(...)`: for the small models that run here, the bookkeeping of transformers'
`generate` costs more than the model.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from smallplan_planner.generation import PromptBudget
from smallplan_planner.grammar import Grammar
from smallplan_planner.prompt import Message
from smallplan_training.chat import Chat
from smallplan_training.errors import UserError
from smallplan_training.merged_adapters import merged_adapters

_DROP = 0.25  # share of a batch's rows that must have ended before they are dropped, which copies the cache
_READ_TOKENS, _READ_TOKENS_GPU = 512, 8192  # of prompts that are read together, padding included


@dataclass(frozen=True)
class Completion:
    """An answer as tokens and text.

    `logprobs` are natural, one for each of `ids`, under the very distribution that they were drawn from: the softmax
    of logits / temperature (temperature 0 draws none: then of the logits). Whoever recomputes them divides likewise.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]  # the end token included when it came
    logprobs: tuple[float, ...]
    text: str  # without special tokens
    finished: bool  # an end token came before `max_tokens`
    value: float = 0.0  # the value head's before answering; 0 without one


class BatchGenerator:
    """Generates answers with `model`, a causal language model of transformers (peft's wrapper included).

    Args:
        chat: the model's tokens, `chat.Chat`.
        temperature: 0 is greedy; at 1 the model's own distribution is drawn from.
        max_tokens: of an answer.
        batch: rows of one forward pass.
        use_cache: without, each token costs a pass over all that stands before it, with the model as it is: the plain
            way, to compare with.
        seed: of prompts that are given no seed of their own.
        value_head: last hidden states (B, D) at the prompts' ends to values (B,), which stand in the completions.
        prompt_tokens: of the longest prompt that it should be asked, see `prompt_budget`; None: there is no limit.
    """

    def __init__(
        self,
        model: Any,
        chat: Chat,
        *,
        temperature: float = 1.0,
        max_tokens: int = 160,
        batch: int = 32,
        use_cache: bool = True,
        seed: int = 0,
        value_head: Callable[[Tensor], Tensor] | None = None,
        prompt_tokens: int | None = None,
    ) -> None:
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}; expected a number of at least 0")
        if max_tokens < 1 or batch < 1:
            raise ValueError(f"max_tokens {max_tokens}, batch {batch}; expected at least 1 of each")
        self.model, self.chat = model, chat
        self.temperature, self.max_tokens, self.batch, self.use_cache = temperature, max_tokens, batch, use_cache
        self.value_head = value_head
        self.prompt_tokens = prompt_tokens
        self._seed = seed
        self._drawn = 0  # prompts that were given a seed here
        self._config = model.config
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model  # without peft's wrapper
        takes = inspect.signature(self.base.forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def greedy(self, max_tokens: int) -> BatchGenerator:
        """Another generator of the same model, which answers greedily."""
        return BatchGenerator(
            self.model,
            self.chat,
            temperature=0.0,
            max_tokens=max_tokens,
            batch=self.batch,
            use_cache=self.use_cache,
            prompt_tokens=self.prompt_tokens,
        )

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """As `PromptReader.count_tokens`."""
        return len(self.chat.encode_prompt(messages))

    def prompt_budget(self, grammar: Grammar | None = None) -> PromptBudget:
        """As `PromptReader.prompt_budget`: nothing is too long to be read here, it only is nothing to train with."""
        return PromptBudget(sys.maxsize, self.prompt_tokens or sys.maxsize)

    def generate(
        self, prompts: Sequence[Sequence[Message]], seeds: Sequence[Sequence[int]] | None = None
    ) -> list[Completion]:
        """Answers in the order of `prompts`. The same seed draws the same answer to the same prompt.

        `seeds`: whole numbers of at least 0, some for each prompt; without, they follow from the generator's own seed
        and how many it has drawn. The model is in evaluation mode meanwhile. Raises `UserError` when the model's
        output is no number.
        """
        if seeds is None:
            rows: list[tuple[int, ...]] = [(self._seed, self._drawn + i) for i in range(len(prompts))]
            self._drawn += len(prompts)
        elif len(seeds) != len(prompts):
            raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts; expected one for each")
        else:
            rows = [tuple(seed) for seed in seeds]
        encoded = [self.chat.encode_prompt(messages) for messages in prompts]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        made: dict[int, Completion] = {}
        with _evaluating(self.model), self.session():
            for start in range(0, len(order), self.batch):
                part = order[start : start + self.batch]
                batch = _Batch(self, [encoded[i] for i in part], [rows[i] for i in part])
                made.update(zip(part, batch.run(), strict=True))
        return [made[i] for i in range(len(prompts))]

    @contextmanager
    def session(self) -> Iterator[None]:
        """Meanwhile `generate` finds the model as it needs it, where it otherwise prepares it each time; don't train
        inside. The plain way, without a cache, is without that too."""
        if not self.use_cache:
            yield
            return
        with _evaluating(self.model), merged_adapters(self.model):
            yield

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache for `rows` sequences of up to `capacity` tokens, of the kinds of layers that the model has."""
        cache = DynamicCache(config=self._config)
        plain = [
            type(layer) is DynamicLayer
            or (type(layer) is DynamicSlidingWindowLayer and layer.sliding_window >= capacity)
            for layer in cache.layers
        ]
        if plain and all(plain):
            return Cache(layers=[_AllocatedLayer(rows, capacity) for _ in plain])
        return cache


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Meanwhile the model is in evaluation mode; setting that costs more than to ask whether it is."""
    training = model.training
    if any(module.training for module in model.modules()):
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


class _AllocatedLayer(DynamicLayer):
    """Keys and values (B, heads, T, D) in memory that is allocated once: a new token is written, nothing is copied.

    It may be opened as the cache of some of the rows, from some slot on; what stands before that slot is 0.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self._shape = rows, capacity
        self.open(slice(None))

    def open(self, rows: slice, begin: int = 0, length: int = 0) -> None:
        """Be the cache of `rows` alone, from the slot `begin` on, of which `length` slots are filled."""
        self._rows, self._begin, self._length = rows, begin, length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = self._room(key_states), self._room(value_states)
        self.is_initialized = True

    def _room(self, states: Tensor) -> Tensor:
        rows, capacity = self._shape
        return states.new_zeros(rows, states.shape[1], capacity, states.shape[-1])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, self._length = self._length, self._length + key_states.shape[-2]
        slots = slice(self._begin, self._begin + self._length)
        keys, values = self.keys[self._rows, :, slots], self.values[self._rows, :, slots]
        keys[:, :, begin:], values[:, :, begin:] = key_states, value_states
        return keys, values

    def get_seq_length(self) -> int:
        return self._length


def like_lengths(lengths: Sequence[int], tokens: int) -> list[slice]:
    """Rising `lengths` in parts of at most `tokens`, padding included; a longer one is alone."""
    begins = [0]
    for row, length in enumerate(lengths):
        if row > begins[-1] and (row + 1 - begins[-1]) * length > tokens:
            begins.append(row)
    return [slice(begin, end) for begin, end in pairwise([*begins, len(lengths)])]


class _Batch:
    """One batch under way. N rows at its start, B of them still there; T slots of prompt and answer, padded left."""

    def __init__(self, generator: BatchGenerator, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]):
        self._generator, self._prompts = generator, prompts
        self._device = generator.model.device
        chat, limit = generator.chat, generator.max_tokens
        self._ends = torch.tensor(sorted(chat.end_ids), device=self._device)
        width = max(len(prompt) for prompt in prompts)
        padded = [[chat.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        self._input = torch.tensor(padded, device=self._device)  # (B, new tokens); (B, T) without a cache
        mask = torch.ones(len(prompts), width + limit, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            mask[row, : width - len(prompt)] = 0
        self._mask = mask.to(self._device)  # (B, slots)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)  # (B, slots)
        self._cache = generator.new_cache(len(prompts), width + limit) if generator.use_cache else None
        self._can_drop = self._cache is None or all(isinstance(layer, DynamicLayer) for layer in self._cache.layers)
        self._slots = width  # that are filled
        self._alive = torch.arange(len(prompts), device=self._device)  # (B,) numbers of the rows that are still there
        self._ended = torch.zeros(len(prompts), dtype=torch.bool, device=self._device)  # (B,)
        if generator.temperature > 0:
            draws = np.stack([np.random.default_rng(list(seed)).random(limit, np.float32) for seed in seeds])
            self._draws: Tensor | None = torch.from_numpy(draws).to(self._device)  # (N, max_tokens) in [0, 1)
        else:
            self._draws = None
        self._ids: list[tuple[Tensor, Tensor, Tensor]] = []  # for each step: numbers of its rows, tokens, logprobs
        self._values = torch.zeros(len(prompts))  # (N,)

    @torch.inference_mode()
    def run(self) -> list[Completion]:
        """Generate until every row has ended."""
        for step in range(self._generator.max_tokens):
            logits = self._forward() if step else self._read_prompts()
            tokens, logprobs = self._choose(logits, step)
            live = ~self._ended
            self._ids.append((self._alive[live], tokens[live], logprobs[live]))
            self._ended |= torch.isin(tokens, self._ends)
            ended = int(self._ended.sum())
            if ended == len(self._ended):
                break
            new = tokens[:, None]
            self._input = new if self._cache is not None else torch.cat([self._input, new], dim=1)
            self._slots += 1
            if self._can_drop and ended >= _DROP * len(self._ended):
                self._drop()
        return self._completions()

    def _read_prompts(self) -> Tensor:
        """Logits (B, V) of the first token, and on the way the prompts' values."""
        head = self._generator.value_head
        if head is None:
            return self._read()
        hidden: list[Tensor] = []
        output = self._generator.base.get_output_embeddings()
        hook = output.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0][:, -1]))
        try:
            logits = self._read()
        finally:
            hook.remove()
        self._values = head(torch.cat(hidden)).float().cpu()
        return logits

    def _read(self) -> Tensor:
        """Logits (B, V) of the first token. A cache that can be filled in parts is: prompts of like length together."""
        layers = self._cache.layers if self._cache is not None else []
        allocated = [layer for layer in layers if isinstance(layer, _AllocatedLayer)]
        if not allocated:
            return self._forward()
        tokens = _READ_TOKENS if self._device.type == "cpu" else _READ_TOKENS_GPU
        lengths = [len(prompt) for prompt in self._prompts]
        logits = []
        for rows in like_lengths(lengths, tokens):
            begin = self._slots - max(lengths[rows])
            for layer in allocated:
                layer.open(rows, begin)
            logits.append(self._forward(rows, begin))
        for layer in allocated:
            layer.open(slice(None), length=self._slots)
        return torch.cat(logits)

    def _forward(self, rows: slice = slice(None), begin: int = 0) -> Tensor:
        """Logits (B, V) of the next token, float32; of some rows, whose slots before `begin` are padding."""
        generator, slots = self._generator, self._slots
        first = max(begin, slots - self._input.shape[1])
        made = generator.model(
            input_ids=self._input[rows, first - slots :],
            attention_mask=self._mask[rows, begin:slots],
            position_ids=self._positions[rows, first:slots],
            past_key_values=self._cache,
            use_cache=self._cache is not None,
            **generator._last_only,
        )
        return made.logits[:, -1].float()  # type: ignore[no-any-return]

    def _choose(self, logits: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(tokens (B,), their logprobs (B,)) from logits (B, V)."""
        if self._draws is None:
            logprobs = logits.log_softmax(-1)
            tokens = logits.argmax(-1)
        else:
            logprobs = (logits / self._generator.temperature).log_softmax(-1)
            cumulated = logprobs.exp().cumsum(-1)
            draws = self._draws[self._alive, step] * cumulated[:, -1]
            tokens = torch.searchsorted(cumulated, draws[:, None], right=True)[:, 0]
            tokens = tokens.clamp(max=logits.shape[-1] - 1)
        chosen = logprobs.gather(-1, tokens[:, None])[:, 0]
        if not bool(torch.isfinite(chosen).all()):
            raise UserError(
                "the model's output is not a number or infinite; its weights have diverged: go back to an earlier "
                "checkpoint, and lower the learning rate"
            )
        return tokens, chosen

    def _drop(self) -> None:
        """Go on without the rows that have ended."""
        left = (~self._ended).nonzero()[:, 0]
        self._input, self._mask, self._positions = self._input[left], self._mask[left], self._positions[left]
        self._alive, self._ended = self._alive[left], self._ended[left]
        if self._cache is not None:
            self._cache.batch_select_indices(left)

    def _completions(self) -> list[Completion]:
        ids: list[list[int]] = [[] for _ in self._prompts]
        logprobs: list[list[float]] = [[] for _ in self._prompts]
        rows, tokens, values = (torch.cat(parts).tolist() for parts in zip(*self._ids, strict=True))
        for row, token, value in zip(rows, tokens, values, strict=True):
            ids[row].append(token)
            logprobs[row].append(value)
        chat = self._generator.chat
        return [
            Completion(
                prompt_ids=tuple(prompt),
                ids=tuple(ids[row]),
                logprobs=tuple(logprobs[row]),
                text=chat.decode(ids[row]),
                finished=ids[row][-1] in chat.end_ids,
                value=float(self._values[row]),
            )
            for row, prompt in enumerate(self._prompts)
        ]
