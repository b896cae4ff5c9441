"""One of llama.cpp's contexts with its KV cache: what was read, and how more is read.

The KV cache of the prompt's common beginning is reused between calls. A token's state must not depend on what was asked
before, so that answers at temperature 0 don't either: what is reused are whole chunks that always start at the same
positions, unless a trial has shown that it makes no difference where a text is cut (`makes_nothing_of_cuts`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from smallplan_planner.generation import SlmError
from smallplan_planner.grammar import common_length
from smallplan_planner.slm_interrupt import StopFlag, Stopped
from smallplan_planner.slm_log import forget_errors, last_errors

CACHE_TYPES = {
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}
"""How keys and values are kept: 16, 8.5 or 4.5 bits a number. The latter two need flash attention."""

FLASH_ATTENTION = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}

_CUTS = (2, 3, 5, 7, 11, 13, 17, 29)
_TRIAL_CHUNKS = 3
_LEAST = 2  # tokens read together at the least: one alone llama.cpp computes otherwise, to the last bits
_ABORTED = 2  # what llama_decode returns when the abort callback stopped it
_logits_address = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int32)(
    ctypes.cast(llama_cpp.llama_get_logits_ith, ctypes.c_void_p).value or 0
)  # the same function, whose result need not be taken apart


@dataclass(frozen=True)
class ContextSettings:
    """What contexts of one model have in common."""

    chunk: int  # tokens evaluated at once, of which whole ones are reused
    n_threads: int
    batch: int = 0  # tokens of one call of llama.cpp, which evaluates them chunk by chunk; 0: a chunk
    cache_type: str = "f16"  # of `CACHE_TYPES`
    flash_attention: str = "auto"  # of `FLASH_ATTENTION`
    outputs: int = 1  # tokens of one evaluation whose logits may be asked for

    @property
    def layout(self) -> str:
        """What a KV cache has to agree in, to be taken over by another context of the same model."""
        return f"chunk {self.chunk}, cache {self.cache_type}, flash attention {self.flash_attention}"


def check_cache(cache_type: str, flash_attention: str) -> None:
    """Raise `SlmError` for settings that don't exist or contradict each other."""
    if cache_type not in CACHE_TYPES:
        raise SlmError(f"cache_type is {cache_type!r}; expected one of {', '.join(CACHE_TYPES)}")
    if flash_attention not in FLASH_ATTENTION:
        raise SlmError(f"flash_attention is {flash_attention!r}; expected one of {', '.join(FLASH_ATTENTION)}")
    if cache_type != "f16" and flash_attention == "off":
        raise SlmError(f"cache_type is {cache_type}, which needs flash attention, and flash_attention is off")


def resolve_flash_attention(asked: str, cache_type: str, n_gpu_layers: int) -> str:
    """What `auto` comes to: a quantised cache needs it, and on a CPU it is slower in small chunks."""
    if cache_type != "f16":
        return "on"
    return "off" if asked == "auto" and not n_gpu_layers else asked


def can_go_back(model: Any) -> bool:
    """Whether what was read last can be forgotten without all that was read before."""
    return not (llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model))


class ModelContext:
    """The context, with the KV cache of the prompt that was read last, and of the answer behind it.

    Raises `SlmError` when it can't be made, for want of memory for instance.
    """

    def __init__(self, model: Any, path: Path, n_ctx: int, settings: ContextSettings) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = max(settings.chunk, settings.batch)
        params.n_ubatch = settings.chunk
        params.n_outputs_max = settings.outputs  # logits of a whole chunk would take as much memory as the KV cache
        params.n_threads = params.n_threads_batch = settings.n_threads
        params.type_k = params.type_v = CACHE_TYPES[settings.cache_type]
        params.flash_attn_type = FLASH_ATTENTION[settings.flash_attention]
        params.no_perf = False
        forget_errors()
        self.handle = llama_cpp.llama_init_from_model(model, params)
        if self.handle is None:
            raise SlmError(
                f"{path}: no context of {n_ctx} tokens can be made: {last_errors()}; where memory is short, lower n_ctx"
            )
        self.size: int = llama_cpp.llama_n_ctx(self.handle)  # tokens
        self.evaluated: list[int] = []  # the prompt's tokens that may be reused
        self.length = 0  # tokens in the KV cache, those of the answer included
        self.adapter: Any = None
        self.stop = StopFlag()
        self._path = path
        self._chunk = settings.chunk
        self.reuses_any_part = False  # not only whole chunks, as long as there is no adapter
        self._batch: int = llama_cpp.llama_n_batch(self.handle)
        self._goes_back = can_go_back(model)
        self._memory = llama_cpp.llama_get_memory(self.handle)
        self._tokens = (llama_cpp.llama_token * max(self._batch, settings.outputs))()
        vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._logits = ctypes.c_float * vocabulary
        self._logits_at: dict[int, NDArray[np.float32]] = {}  # by address: making one takes longer than to look
        wanted = (ctypes.c_int8 * settings.outputs)(*([1] * settings.outputs))
        self._last = llama_cpp.llama_batch(token=self._tokens)  # the logits of its last token alone
        self._each = llama_cpp.llama_batch(token=self._tokens, logits=wanted)

    def free(self) -> None:
        llama_cpp.llama_free(self.handle)

    def arm(self) -> StopFlag:
        """A new stop flag, which this context looks at from now on."""
        self.stop = StopFlag()
        self.stop.attach(self.handle)
        return self.stop

    def use_adapter(self, adapter: Any) -> None:
        """Compute with a LoRA adapter, or with None; a change makes the KV cache void. Raises `SlmError`."""
        if adapter == self.adapter:
            return
        count = 0 if adapter is None else 1
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        forget_errors()
        if llama_cpp.llama_set_adapters_lora(self.handle, adapters, count, (ctypes.c_float * 1)(1.0)) != 0:
            raise SlmError(f"a LoRA adapter can't be applied to {self._path}: {last_errors()}")
        self.adapter = adapter
        self.clear()

    def clear(self) -> None:
        """Forget everything that was read."""
        llama_cpp.llama_memory_clear(self._memory, True)
        self.evaluated.clear()
        self.length = 0

    def truncate(self, length: int) -> None:
        """Forget what was read beyond `length` tokens; all of it where the model can't go back."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, 0, length, -1):  # recurrent models
            self.clear()
            return
        del self.evaluated[length:]
        self.length = length

    def reusable(self, tokens: Sequence[int]) -> int:
        """How many of a prompt's tokens need not be read again: those up to the first chunk that differs."""
        return self._whole(max(0, min(common_length(tokens, self.evaluated), len(tokens) - _LEAST)))

    def prefill(self, tokens: Sequence[int]) -> int:
        """Read a prompt as far as it is not `reusable`; returns the tokens reused. Raises `Stopped` and `SlmError`.

        Stopped in the middle, it keeps the chunks that it has read.
        """
        self.truncate(self.reusable(tokens))
        reused = self.length
        would_be_alone = (len(tokens) - reused) % self._chunk == 1  # the last one, behind whole chunks
        cut = len(tokens) - _LEAST if would_be_alone and self._cuts_anywhere() else len(tokens)
        try:
            self.evaluate(tokens[reused:cut])
            self.evaluate(tokens[cut:])
        finally:
            self.evaluated += tokens[reused : self._whole(self.length)]
        return reused

    def makes_nothing_of_cuts(self) -> bool:
        """Whether a text gives the same logits to the last bit wherever it is cut in two, each part read by itself.

        llama.cpp may compute a few tokens together in another order than many. Forgets what was read.
        """
        tokens = [1 + 7 * place % (self._logits._length_ - 1) for place in range(_TRIAL_CHUNKS * self._chunk)]
        before, self.reuses_any_part = self.reuses_any_part, True
        found = set()
        for cut in (0, *(cut for cut in _CUTS if cut < self._chunk)):
            self.clear()
            self.prefill(tokens[:cut])
            self.prefill(tokens)
            found.add(self.logits(-1).tobytes())
        self.clear()
        self.reuses_any_part = before
        return len(found) == 1

    def _whole(self, length: int) -> int:
        """So many of the first tokens that are reused of `length`."""
        return length if self._cuts_anywhere() else length // self._chunk * self._chunk

    def _cuts_anywhere(self) -> bool:
        return self.reuses_any_part and self.adapter is None

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Append tokens; afterwards the next one can be sampled. Raises `Stopped` and `SlmError`."""
        for begin in range(0, len(tokens), self._batch):
            self._decode(tokens[begin : begin + self._batch], self._last)

    def evaluate_each(self, tokens: Sequence[int]) -> None:
        """Append a few tokens (as many as `ContextSettings.outputs`) of which each one's successor can be sampled."""
        self._decode(tokens, self._each)

    def logits(self, index: int) -> NDArray[np.float32]:
        """(vocabulary,) behind a token of the last evaluation (-1: its last one); llama.cpp's own memory."""
        address = _logits_address(self.handle, index)
        if address not in self._logits_at:
            self._logits_at[address] = np.frombuffer(self._logits.from_address(address), dtype=np.float32)
        return self._logits_at[address]

    def reset_clock(self) -> None:
        llama_cpp.llama_synchronize(self.handle)  # the clock of a call runs until then, of one that was stopped, too
        llama_cpp.llama_perf_context_reset(self.handle)

    @property
    def eval_time(self) -> float:
        """Seconds that llama.cpp computed since `reset_clock`."""
        llama_cpp.llama_synchronize(self.handle)
        perf = llama_cpp.llama_perf_context(self.handle)
        return float(perf.t_p_eval_ms + perf.t_eval_ms) / 1000

    def state(self) -> bytes:
        """The KV cache of `evaluated`, in a form of llama.cpp's that another context of the same kind can take over."""
        self.truncate(len(self.evaluated))
        size = llama_cpp.llama_state_seq_get_size(self.handle, 0)
        data = (ctypes.c_uint8 * size)()
        written = llama_cpp.llama_state_seq_get_data(self.handle, data, size, 0)
        return bytes(memoryview(data)[:written])

    def restore(self, tokens: Sequence[int], state: bytes) -> bool:
        """Take over a KV cache of these tokens; returns whether llama.cpp could. It has to come from such a context."""
        self.clear()
        data = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if len(tokens) > self.size or not llama_cpp.llama_state_seq_set_data(self.handle, data, len(state), 0):
            self.clear()
            return False
        self.evaluated = list(tokens)
        self.length = len(tokens)
        return True

    def _decode(self, tokens: Sequence[int], batch: llama_cpp.llama_batch) -> None:
        """One call of llama.cpp, with one of the two batches."""
        if self.stop.is_set():
            raise Stopped
        self._tokens[: len(tokens)] = tokens
        batch.n_tokens = len(tokens)
        status = llama_cpp.llama_decode(self.handle, batch)
        if status == _ABORTED:
            self._keep_what_was_read()
            raise Stopped
        if status != 0:
            raise SlmError(f"{self._path}: llama_decode failed with {status}: {last_errors()}")
        self.length += len(tokens)

    def _keep_what_was_read(self) -> None:
        """After a call that was stopped: llama.cpp keeps the chunks that it was through with."""
        if self._goes_back:
            self.length = llama_cpp.llama_memory_seq_pos_max(self._memory, 0) + 1
        else:
            self.clear()  # it holds a part of the chunk in which it was stopped
