"""The contexts of one model: one for decisions, one for short answers, so that neither's KV cache throws out the
other's. They can be saved to disk and taken over by the next run.

Sequences of one context would do as well, but tokens of one would lie between those of the other, and what was asked
before would change the last digits of an answer's numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp

from smallplan_planner.slm_context import ContextSettings, ModelContext
from smallplan_planner.slm_log import last_errors
from smallplan_planner.slm_state import SavedState, read_state, state_file, write_state

logger = logging.getLogger(__name__)

_SHORT_CONTEXT = 512  # tokens: contexts for short answers are multiples of it


class ContextPool:
    """Makes contexts where they are needed. That of decisions has `n_ctx` tokens (0: what the model was trained with)
    from the start, or as many as the model was trained with where these are fewer: longer prompts are read only where
    they can't be shorter. It grows then, as that of short answers does. Raises `SlmError` when one can't be made."""

    def __init__(self, model: Any, path: Path, n_ctx: int, settings: ContextSettings) -> None:
        self._model = model
        self._path = path
        self._settings = settings
        self.contexts: dict[bool, ModelContext] = {}  # by whether they are for short answers
        self._reuse_any_part = False
        usual = min(n_ctx, llama_cpp.llama_model_n_ctx_train(model))
        self.n_ctx = max(n_ctx, self._make(False, usual).size)  # tokens

    def free(self) -> None:
        for context in self.contexts.values():
            context.free()
        self.contexts.clear()

    def try_cuts(self) -> None:
        """Find out whether more than whole chunks can be reused (`ModelContext.makes_nothing_of_cuts`).

        To be called first of all, without an adapter.
        """
        context = self.contexts[False]
        context.reuses_any_part = self._reuse_any_part = context.makes_nothing_of_cuts()

    def take(self, short: bool, needed: int, adapter: Any) -> ModelContext:
        """The context for an answer that takes `needed` tokens (at most `n_ctx`), with this LoRA adapter or None."""
        context = self.contexts.get(short)
        if context is not None and needed > context.size:
            self.contexts.pop(short).free()
            context = None
        context = context or self._make(short, min(self.n_ctx, -(-needed // _SHORT_CONTEXT) * _SHORT_CONTEXT))
        context.use_adapter(adapter)
        return context

    def save(self, folder: Path, identity: Sequence[str], adapter: Any) -> None:
        """Write the KV caches that were read with this adapter; `identity` tells model and adapter. Raises OSError."""
        for short, context in self.contexts.items():
            if context.evaluated and context.adapter == adapter:
                state = SavedState(tuple(context.evaluated), context.state())
                write_state(self._file(folder, identity, short), state)

    def restore(self, folder: Path, identity: Sequence[str], adapter: Any) -> int:
        """Take over what `save` wrote for the same model, adapter and settings, where nothing was read yet; returns its
        tokens, 0 without any."""
        restored = 0
        for short in (False, True):
            context = self.contexts.get(short)
            if context is not None and context.evaluated and context.adapter == adapter:
                continue  # it is newer
            state = read_state(self._file(folder, identity, short))
            if state is None or len(state.tokens) > self.n_ctx:
                continue
            if self.take(short, len(state.tokens), adapter).restore(state.tokens, state.data):
                restored += len(state.tokens)
            else:
                logger.warning("llama.cpp can't take over the KV cache in %s: %s", folder, last_errors())
        return restored

    def _make(self, short: bool, n_ctx: int) -> ModelContext:
        context = self.contexts[short] = ModelContext(self._model, self._path, n_ctx, self._settings)
        context.reuses_any_part = self._reuse_any_part
        return context

    def _file(self, folder: Path, identity: Sequence[str], short: bool) -> Path:
        kind = "short answers" if short else "decisions"
        return state_file(folder, [*identity, llama_cpp.__version__, self._settings.layout, kind])
