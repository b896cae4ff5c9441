"""Choosing the next token: the likeliest or a drawn one, among all or among those that a grammar allows."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import llama_cpp
import numpy as np

from smallplan_planner.generation import SlmError
from smallplan_planner.grammar import ChoiceGrammar
from smallplan_planner.slm_context import ModelContext
from smallplan_planner.slm_log import last_errors

_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])


class Sampler:
    """Chooses by temperature: 0 is always the likeliest token. Draws go on from call to call.

    Raises `SlmError` for a temperature out of range.
    """

    def __init__(self, temperature: float, seed: int) -> None:
        if not 0.0 <= temperature < 100.0:
            raise SlmError(f"temperature is {temperature}; expected 0 (always the likeliest token) or more, below 100")
        self._chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self._takes_likeliest = temperature == 0.0
        if self._takes_likeliest:
            llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_greedy())
        else:
            llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_temp(temperature))
            llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_dist(seed % 2**32))

    def free(self) -> None:
        llama_cpp.llama_sampler_free(self._chain)

    def sample(self, context: ModelContext, index: int = -1) -> int:
        """The token behind the one at `index` of the last evaluation, -1: its last one."""
        if self._takes_likeliest:  # llama.cpp would make a list of all candidates first, for every token
            return int(context.logits(index).argmax())
        return int(llama_cpp.llama_sampler_sample(self._chain, context.handle, index))

    def choose(self, candidates: llama_cpp.llama_token_data_array) -> int:
        """A token of these candidates."""
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        return int(candidates.data[candidates.selected].id)

    def choose_among(self, context: ModelContext, tokens: Sequence[int], index: int = -1) -> int:
        """As `sample`, one of these tokens."""
        logits = context.logits(index)
        data = (llama_cpp.llama_token_data * len(tokens))(*((token, logits[token], 0.0) for token in tokens))
        return self.choose(llama_cpp.llama_token_data_array(data, len(tokens), -1, False))


class GrammarState:
    """Where an answer stands in a grammar. Use as a context manager. Raises `SlmError` when it can't be read.

    llama.cpp reads the grammar only when `sample` is first called: where the model's free choice is always allowed,
    which `ChoiceGrammar.allows` tells, it is never needed.
    """

    def __init__(self, vocab: Any, grammar: ChoiceGrammar) -> None:
        self._vocab = vocab
        self._grammar = grammar
        self._sampler: Any = None
        self._unread: list[int] = []  # tokens of the answer that llama.cpp's grammar has not seen

    def __enter__(self) -> GrammarState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sampler is not None:
            llama_cpp.llama_sampler_free(self._sampler)

    def accept(self, token: int) -> None:
        """The answer goes on with this token, which has to be allowed."""
        self._unread.append(token)

    def sample(self, sampler: Sampler, context: ModelContext, index: int = -1) -> int | None:
        """The choice among the tokens that the grammar allows; None when the vocabulary has none of them."""
        self._catch_up()
        logits = context.logits(index)
        vocabulary = len(logits)
        candidates = np.zeros(vocabulary, _CANDIDATE)
        candidates["id"] = np.arange(vocabulary)
        candidates["logit"] = logits
        array = llama_cpp.llama_token_data_array(
            data=candidates.ctypes.data_as(llama_cpp.llama_token_data_p), size=vocabulary, selected=-1, sorted=False
        )
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        if not np.isfinite(candidates["logit"]).any():
            return None
        return sampler.choose(array)

    def _catch_up(self) -> None:
        """Let llama.cpp's grammar read itself, the first time, and what was written since the last."""
        if self._sampler is None:
            gbnf = self._grammar.gbnf
            self._sampler = llama_cpp.llama_sampler_init_grammar(self._vocab, gbnf.encode(), b"root")
            if not self._sampler:
                self._sampler = None
                raise SlmError(f"llama.cpp can't read a grammar of {len(gbnf)} characters: {last_errors()}")
        for token in self._unread:
            llama_cpp.llama_sampler_accept(self._sampler, token)
        self._unread.clear()
