"""Choosing the next token: the likeliest or a drawn one, among all or among those that a grammar allows."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any

import llama_cpp
import numpy as np

from smallplan_planner.generation import SlmError
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
        if temperature == 0.0:
            llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_greedy())
        else:
            llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_temp(temperature))
            llama_cpp.llama_sampler_chain_add(self._chain, llama_cpp.llama_sampler_init_dist(seed % 2**32))

    def free(self) -> None:
        llama_cpp.llama_sampler_free(self._chain)

    def sample(self, context: ModelContext, index: int = -1) -> int:
        """The token behind the one at `index` of the last evaluation, -1: its last one."""
        return int(llama_cpp.llama_sampler_sample(self._chain, context.handle, index))

    def choose(self, candidates: llama_cpp.llama_token_data_array) -> int:
        """A token of these candidates."""
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        return int(candidates.data[candidates.selected].id)


class GrammarState:
    """Where an answer stands in a GBNF grammar. Use as a context manager. Raises `SlmError` when it can't be read."""

    def __init__(self, vocab: Any, gbnf: str) -> None:
        self._vocabulary: int = llama_cpp.llama_vocab_n_tokens(vocab)
        self._grammar = llama_cpp.llama_sampler_init_grammar(vocab, gbnf.encode(), b"root")
        if not self._grammar:
            raise SlmError(f"llama.cpp can't read a grammar of {len(gbnf)} characters: {last_errors()}")

    def __enter__(self) -> GrammarState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        llama_cpp.llama_sampler_free(self._grammar)

    def allows(self, token: int) -> bool:
        candidates = np.zeros(1, _CANDIDATE)
        candidates["id"] = token
        self._apply(_token_array(candidates))
        return bool(np.isfinite(candidates["logit"][0]))

    def accept(self, token: int) -> None:
        """The answer goes on with this token, which has to be allowed."""
        llama_cpp.llama_sampler_accept(self._grammar, token)

    def sample(self, sampler: Sampler, context: ModelContext, index: int = -1) -> int | None:
        """The choice among the tokens that the grammar allows; None when the vocabulary has none of them."""
        candidates = np.zeros(self._vocabulary, _CANDIDATE)
        candidates["id"] = np.arange(self._vocabulary)
        candidates["logit"] = np.ctypeslib.as_array(context.logits(index), (self._vocabulary,))
        array = _token_array(candidates)
        self._apply(array)
        token = sampler.choose(array)
        return token if self.allows(token) else None

    def _apply(self, array: llama_cpp.llama_token_data_array) -> None:
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))


def _token_array(candidates: np.ndarray) -> llama_cpp.llama_token_data_array:
    data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
    return llama_cpp.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
