"""llama.cpp: load a GGUF and answer chat messages under a grammar and a deadline.

The answer is three lines, `Analysis: …`, `Reasoning: …`, `Command: …`, or a short one. This module puts the parts
together, each of which has its own: files and whether they are the right ones (`slm_files`, `slm_identity`), LoRA
adapters (`slm_adapters`), processors (`slm_gpu`, `slm_cores`), messages to tokens (`slm_chat`), llama.cpp's contexts
and their KV cache (`slm_context`, `slm_pool`, `slm_state`), stopping (`slm_interrupt`), sampling (`slm_sampling`,
`slm_decoder`), the shape of an answer (`slm_answers`), the time that it takes (`slm_budget`) and how a command is
spelled where that is short (`slm_spelling`). In the planner nothing else imports llama_cpp.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp

from smallplan_planner.generation import Generation, PromptBudget, SlmCancelled, SlmDeadlineError, SlmError
from smallplan_planner.grammar import ChoiceGrammar, CommandGrammar, Grammar
from smallplan_planner.prompt import Message
from smallplan_planner.slm_adapters import Adapter, Adapters, model_metadata
from smallplan_planner.slm_answers import DEFAULT_LIMITS, AnswerLimits, AnswerWriter
from smallplan_planner.slm_budget import Speeds
from smallplan_planner.slm_chat import HEADS, ChatVocabulary
from smallplan_planner.slm_context import (
    ContextSettings,
    ModelContext,
    can_go_back,
    check_cache,
    resolve_flash_attention,
)
from smallplan_planner.slm_cores import check_cores, pinned
from smallplan_planner.slm_decoder import Decoder
from smallplan_planner.slm_files import check_gguf, check_sha256, fingerprint
from smallplan_planner.slm_gpu import check_gpu_layers
from smallplan_planner.slm_identity import check_prompt_version, trained_prompt_tokens
from smallplan_planner.slm_interrupt import Stopped, stopping
from smallplan_planner.slm_log import capture_log, forget_errors, last_errors
from smallplan_planner.slm_pool import ContextPool
from smallplan_planner.slm_sampling import Sampler

__all__ = ["AnswerLimits", "Slm", "SlmCancelled", "SlmDeadlineError", "SlmError"]

logger = logging.getLogger(__name__)

_CHUNK = 64  # tokens of a prompt evaluated at once
_SMALL_CHUNK = 16  # for a small model: larger ones are hardly faster, without flash attention
_BATCH = 1024  # tokens of one call of llama.cpp; on a GPU, which can't be stopped within a call, a chunk
_MAX_THREADS = 4  # the rest is for the other processes of a robot
_MAX_LOOKUP = 16  # tokens
_SMALL_MODEL = 50_000_000  # parameters
_TURN_POLL = 0.1  # s; how late a deadline or a cancellation is noticed while another answer is written
_WARM_UP = 4  # tokens that are generated to allocate, and to measure


class Slm:
    """A model in memory. One generation at a time: others wait for it. Use as a context manager, or `close()`.

    Raises `SlmError` for a file that is missing, empty, truncated or not a GGUF, for a model that is not the one
    configured or was trained with another version of the prompt, and for settings that can't be met.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        model_sha256: str = "",  # hex digits that the file's SHA-256 has to be, '': any
        lora_path: str | Path | None = None,  # a file, or the name of one in `lora_folder`
        lora_folder: str | Path | None = None,  # its adapters (*.gguf) are loaded at once, to be chosen later
        n_ctx: int = 4096,  # tokens of prompt and answer together; 0: what the model was trained with
        n_threads: int = 0,  # 0: by the model's size, 1 for a small one, else one per processor, at most 4
        n_gpu_layers: int = 0,  # -1: all
        temperature: float = 0.0,  # 0: always the likeliest token
        seed: int = 0,  # of the sampling at a temperature above 0; draws go on from call to call
        limits: AnswerLimits = DEFAULT_LIMITS,
        cache_type: str = "f16",  # numbers of the KV cache: f16 | q8_0 | q4_0 (these need flash attention)
        flash_attention: str = "auto",  # auto (on a GPU, where llama.cpp can) | on | off
        lookup_tokens: int = 0,  # tokens that are drafted from the prompt and checked at once, at temperature 0
        cores: Collection[int] = (),  # processors that compute, none: any
        reuse: bool = True,  # of the KV cache from answer to answer; without it, for measurements
    ) -> None:
        self.path = Path(model_path)
        self.speeds = Speeds()
        self._lora_folder = Path(lora_folder) if lora_folder and str(lora_folder) else None
        self._limits = limits
        self._lookup = lookup_tokens
        self._cores = frozenset(cores)
        self._reuse = reuse
        self._lock = threading.Lock()
        self._adapters_lock = threading.Lock()  # never waits for a generation
        self._model: Any = None
        self._adapter: Adapter | None = None
        self._last_chat: tuple[tuple[Message, ...], list[tuple[str, bool]], list[int]] | None = None
        self._pool: ContextPool | None = None
        self._sampler: Sampler | None = None
        self._check_settings(n_ctx, n_threads, n_gpu_layers, cache_type, flash_attention, temperature)
        check_gguf(self.path)
        if model_sha256:
            check_sha256(self.path, model_sha256)
        capture_log()
        try:
            self._load_model(n_gpu_layers)
            self.n_threads = n_threads or self._suitable_threads()
            settings = ContextSettings(
                chunk=_SMALL_CHUNK if self._is_small() else _CHUNK,
                batch=0 if n_gpu_layers else _BATCH,
                n_threads=self.n_threads,
                cache_type=cache_type,
                flash_attention=resolve_flash_attention(flash_attention, cache_type, n_gpu_layers),
                outputs=1 + lookup_tokens,
            )
            if self._lora_folder is not None:
                self._adapters.load_folder(self._lora_folder)
            self.use_adapter(lora_path or "")
            self._sampler = Sampler(temperature, seed)
            if n_ctx > (trained := self._n_ctx_train):
                logger.info("n_ctx is %d, the model was trained with %d, and prompts stay within that", n_ctx, trained)
            self._pool = ContextPool(self._model, self.path, n_ctx, settings)
            self._n_ctx = self._pool.n_ctx
            if self._is_small():  # of a large model the trial takes seconds, and a chunk is little of its prompts
                with pinned(self._cores):
                    self._pool.try_cuts()
            for short in (False, True):
                self._warm_up(self._pool.take(short, _WARM_UP + 1, _handle(self._adapter)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Slm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free model and context, after the generation under way; may be called twice."""
        with self._lock, self._adapters_lock:
            if self._sampler is not None:
                self._sampler.free()
            if self._pool is not None:
                self._pool.free()
            if self._model is not None:
                llama_cpp.llama_model_free(self._model)
            self._model = self._sampler = self._pool = None

    # Answers

    def generate(
        self,
        messages: Sequence[Message],
        grammar: Grammar | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Answer chat messages: three lines under a `CommandGrammar`, one choice under a `ChoiceGrammar`, else free
        text, with `FreeLine` a short one.

        The latter two have a context of their own, so that the KV cache of the decisions' prompts survives them.
        `deadline` is in seconds from now, waiting for another's answer included: analysis and reasoning are cut where
        the command would be late otherwise. Raises `SlmDeadlineError`, `SlmCancelled`, or `SlmError` when the prompt
        does not fit.
        """
        start = time.monotonic()
        end = start + deadline if deadline is not None else None
        with self._turn(start, deadline, cancel):
            if self._pool is None or self._sampler is None:
                raise SlmError(f"{self.path} is closed")
            parts, tokens = self._read_chat(messages)
            needed = self._check_fit(len(tokens), grammar)
            context = self._pool.take(_is_short(grammar), needed, _handle(self._adapter))
            context.reset_clock()
            decoder = Decoder(context, self._sampler, self.speeds.text, tokens, self._lookup)
            writer = AnswerWriter(decoder, self._chat, self._limits, self.speeds, end)
            head = self._chat.head_tokens[HEADS[0]] if isinstance(grammar, CommandGrammar) else []
            sections = ("", "", "")
            try:
                with stopping(context.arm(), end, cancel), pinned(self._cores):
                    reused = self._read(context, tokens + head, end)
                    read_time = context.eval_time
                    if isinstance(grammar, CommandGrammar):
                        sections = writer.write_sections(grammar)
                        text = "".join(f"{head} {section}" for head, section in zip(HEADS, sections))
                    elif isinstance(grammar, ChoiceGrammar):
                        text = writer.write_choice(grammar)
                    else:
                        text = writer.write_freely(grammar)
            except Stopped:
                if cancel is not None and cancel.is_set():
                    raise SlmCancelled(f"cancelled after {time.monotonic() - start:.3f} s") from None
                read = min(context.length, len(tokens))
                raise SlmDeadlineError(
                    f"no answer within {deadline:.3g} s: {read} of the prompt's {len(tokens)} tokens were read, "
                    f"{decoder.generated} tokens were written"
                ) from None
            eval_time = context.eval_time
        return Generation(
            text=text,
            prompt="".join(part for part, _ in parts),
            analysis=sections[0],
            reasoning=sections[1],
            command=sections[2],
            prompt_tokens=len(tokens),
            reused_tokens=min(reused, len(tokens)),
            generated_tokens=decoder.generated,
            latency=time.monotonic() - start,
            eval_time=eval_time,
            read_time=read_time,
            grammar_time=writer.grammar_time,
            cut=writer.cut,
        )

    @contextlib.contextmanager
    def _turn(self, start: float, deadline: float | None, cancel: threading.Event | None) -> Iterator[None]:
        """The model for oneself, once the answers that others wait for are written. Raises as `generate` does."""
        while not self._lock.acquire(timeout=_TURN_POLL):
            waited = time.monotonic() - start
            if cancel is not None and cancel.is_set():
                raise SlmCancelled(f"cancelled after {waited:.3f} s of waiting for another answer")
            if deadline is not None and waited >= deadline:
                raise SlmDeadlineError(f"no answer within {deadline:.3g} s: another one was still being written")
        try:
            yield
        finally:
            self._lock.release()

    def render_chat(self, messages: Sequence[Message]) -> str:
        """The text that the model reads: its own chat template filled with the messages, ready for the answer."""
        return "".join(part for part, _ in self._chat.render(messages))

    def tokenize_chat(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that the model reads. No message can bring in a token of the chat template."""
        return self._chat.tokenize_parts(self._chat.render(messages))

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """As `Generator.count_tokens`; raises `SlmError` when the model is closed."""
        with self._lock:
            if self._model is None:
                raise SlmError(f"{self.path} is closed")
            return len(self._read_chat(messages)[1])

    def _read_chat(self, messages: Sequence[Message]) -> tuple[list[tuple[str, bool]], list[int]]:
        """The prompt in parts, and its tokens; those of the last prompt are kept, as it is counted, then answered."""
        chat = tuple(messages)
        if self._last_chat is None or self._last_chat[0] != chat:
            parts = self._chat.render(chat)
            self._last_chat = (chat, parts, self._chat.tokenize_parts(parts))
        return self._last_chat[1:]

    def prompt_budget(self, grammar: Grammar | None = None) -> PromptBudget:
        """As `Generator.prompt_budget`: what n_ctx leaves beside the longest answer, and what the model's training
        does, as it says itself (`smallplan.prompt_tokens`) or by the length of its context then."""
        answer, adapter = self._longest_answer(grammar), self._adapter
        trained = trained_prompt_tokens(self._metadata, adapter.metadata if adapter is not None else {})
        most = self._n_ctx - answer
        return PromptBudget(most, min(most, self._n_ctx_train - answer if trained is None else trained))

    # Adapters

    @property
    def adapter(self) -> Path | None:
        """The LoRA adapter that answers are computed with, None for the model alone."""
        return self._adapter.path if self._adapter is not None else None

    def use_adapter(self, name: str | Path) -> None:
        """Compute with another LoRA adapter from the next answer on; '' for none. Does not wait for an answer.

        `name` is a file, or the name of one in `lora_folder`, with or without `.gguf`. Raises `SlmError` when it is
        no adapter for this model or was trained with another version of the prompt; the one before stays then.
        """
        with self._adapters_lock:
            if self._model is None:
                raise SlmError(f"{self.path} is closed")
            adapter = self._adapters.load(self._adapter_file(str(name))) if str(name) else None
            check_prompt_version(
                self.path,
                self._metadata,
                adapter.path if adapter is not None else None,
                adapter.metadata if adapter is not None else {},
            )
            self._adapter = adapter

    def _adapter_file(self, name: str) -> Path:
        if self._lora_folder is not None and "/" not in name:
            for path in (self._lora_folder / name, self._lora_folder / f"{name}.gguf"):
                if path.is_file():
                    return path
        return Path(name)

    # The KV cache on disk

    def save_state(self, folder: str | Path) -> None:
        """Write the KV cache of the prompts that were read last to `folder`, for `restore_state`. Raises OSError."""
        with self._lock:
            adapter = self._adapter  # may be changed meanwhile
            if self._pool is not None:
                self._pool.save(Path(folder), self._identity(adapter), _handle(adapter))

    def restore_state(self, folder: str | Path) -> int:
        """Take over the KV cache that the same model with the same adapter saved there; returns its tokens, 0: none.

        Raises `SlmError` when there is no memory for it."""
        with self._lock:
            adapter = self._adapter
            if self._pool is None:
                return 0
            return self._pool.restore(Path(folder), self._identity(adapter), _handle(adapter))

    def _identity(self, adapter: Adapter | None) -> tuple[str, str]:
        return self._fingerprint, adapter.fingerprint if adapter is not None else ""

    # Loading

    def _check_settings(
        self, n_ctx: int, n_threads: int, n_gpu_layers: int, cache_type: str, flash_attention: str, temperature: float
    ) -> None:
        if n_ctx < 0 or n_threads < 0:
            raise SlmError(f"n_ctx is {n_ctx} and n_threads {n_threads}; expected 0 (automatic) or more")
        check_cache(cache_type, flash_attention)
        if not 0 <= self._lookup <= _MAX_LOOKUP:
            raise SlmError(f"lookup_tokens is {self._lookup}; expected 0 (off) to {_MAX_LOOKUP}")
        if self._lookup and temperature:
            raise SlmError(f"lookup_tokens needs temperature 0, which is {temperature}: set one of them to 0")
        check_cores(self._cores)
        check_gpu_layers(n_gpu_layers)

    def _load_model(self, n_gpu_layers: int) -> None:
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        # Mapped, the file's pages would stay in memory beside the copy that llama.cpp makes for this processor.
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        forget_errors()
        self._model = llama_cpp.llama_model_load_from_file(str(self.path).encode(), params)
        if self._model is None:
            size = self.path.stat().st_size
            raise SlmError(f"{self.path} ({size} bytes) is not a model that llama.cpp can load: {last_errors()}")
        if self._lookup and not can_go_back(self._model):
            raise SlmError(
                f"lookup_tokens is {self._lookup}, and {self.path} can't take back what it has read: set it to 0"
            )
        self._chat = ChatVocabulary(self._model, self.path)
        self._metadata = model_metadata(self._model)
        self._n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(self._model)
        self._fingerprint = fingerprint(self.path)
        self._adapters = Adapters(self._model, self.path, self._metadata)

    def _check_fit(self, prompt_tokens: int, grammar: Grammar | None) -> int:
        """Tokens that prompt and answer take together. Raises `SlmError` when they are more than `n_ctx`."""
        answer = self._longest_answer(grammar)
        needed = prompt_tokens + answer
        if needed > self._n_ctx:
            raise SlmError(
                f"the prompt has {prompt_tokens} tokens, the answer takes up to {answer}, and n_ctx is {self._n_ctx}: "
                f"set n_ctx to {needed} or more"
            )
        return needed

    def _longest_answer(self, grammar: Grammar | None) -> int:
        """Tokens that an answer may take, line heads included."""
        answer = grammar.longest if grammar is not None else self._limits.command
        if not _is_short(grammar):
            answer += self._limits.analysis + self._limits.reasoning + 16  # 16: the line heads
        return answer

    def _suitable_threads(self) -> int:
        """As many threads as pay. They meet hundreds of times a token, and wait long where other processes compete:
        on two busy cores a model of 7 M parameters took 3 times as long with two threads as with one (idle: 0.6)."""
        if self._is_small():
            return 1
        return min(len(self._cores) or len(os.sched_getaffinity(0)), _MAX_THREADS)

    def _is_small(self) -> bool:
        return int(llama_cpp.llama_model_n_params(self._model)) < _SMALL_MODEL

    def _warm_up(self, context: ModelContext) -> None:
        """The first evaluation allocates; do it now rather than in the first decision, and measure those after it."""
        with pinned(self._cores):
            context.prefill(self._chat.head_tokens[HEADS[0]])
            token = self._chat.head_tokens[HEADS[0]][0]
            begun = time.monotonic()
            for _ in range(_WARM_UP):
                context.evaluate([token])
            self.speeds.text.learn(_WARM_UP, time.monotonic() - begun)
        context.clear()

    # Computing

    def _read(self, context: ModelContext, tokens: list[int], end: float | None) -> int:
        """Have the context read a prompt; returns the tokens that it had read before.

        One that takes too long is begun all the same: what was read until the deadline is reused in the next answer.
        """
        if not self._reuse:
            context.clear()
        begun = time.monotonic()
        if end is not None:
            to_come = len(tokens) - context.reusable(tokens)
            predicted = to_come * self.speeds.prompt.seconds
            if begun + predicted > end:
                logger.warning(
                    "reading %d tokens of the prompt takes about %.2f s, and the answer is due in %.2f s: raise the "
                    "deadline",
                    to_come,
                    predicted,
                    max(0.0, end - begun),
                )
        reused = context.prefill(tokens)
        self.speeds.prompt.learn(len(tokens) - reused, time.monotonic() - begun)
        return reused


def _is_short(grammar: Grammar | None) -> bool:
    """Whether the answer is one line, without analysis and reasoning."""
    return grammar is not None and not isinstance(grammar, CommandGrammar)


def _handle(adapter: Adapter | None) -> Any:
    return adapter.handle if adapter is not None else None
