"""llama.cpp: load a GGUF and answer chat messages under a grammar and a deadline.

The answer is three lines, `Analysis: …`, `Reasoning: …`, `Command: …`. The first two are free text of bounded
length; only the command line is under the grammar. A section that ends early or grows too long is closed by
putting the next line head in, so an answer under a grammar is always well-formed.

The KV cache of the prompt's common beginning is reused between calls, in whole chunks that always start at the
same positions: so a token's state never depends on what was asked before, and answers at temperature 0 don't
either. Nothing else in the project imports llama_cpp.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smallplan_planner.generation import Generation, SlmCancelled, SlmDeadlineError, SlmError
from smallplan_planner.grammar import ChoiceGrammar, CommandGrammar, FreeLine, Grammar
from smallplan_planner.prompt import Message

__all__ = ["AnswerLimits", "Slm", "SlmCancelled", "SlmDeadlineError", "SlmError"]

logger = logging.getLogger(__name__)

_HEADS = ("Analysis:", "\nReasoning:", "\nCommand:")
_CPU_CHUNK = 64  # tokens of a prompt evaluated at once: reuse is in whole chunks, larger ones are hardly faster
_GPU_CHUNK = 512
_SHORT_CONTEXT = 512  # tokens: contexts for short answers are multiples of it
_MAX_THREADS = 4  # the rest is for the other processes of a robot
_SMALL_MODEL = 50_000_000  # parameters
_POLL = 0.02  # s between looks at the cancel event while llama.cpp computes
_ABORTED = 2  # what llama_decode returns when the abort callback stopped it
_SPECIAL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])

# llama.cpp asks this callback again and again whether to stop. `strlen` of a flag (a byte and a zero) answers
# without Python, whose interpreter lock would cost more than a small model's tokens.
_is_flag_set = llama_cpp.ggml_abort_callback(("strlen", ctypes.CDLL(None)))


@dataclass
class _Context:
    """One of llama.cpp's contexts, with the KV cache of the prompt that was read last."""

    handle: Any
    memory: Any
    size: int  # tokens
    evaluated: list[int] = field(default_factory=list)  # the prompt tokens in whole chunks whose KV cache is there


@dataclass(frozen=True)
class AnswerLimits:
    """Tokens that the free text may take. Raises ValueError when one is below 1."""

    analysis: int = 96
    reasoning: int = 128
    command: int = 96  # only without a grammar, which bounds it by itself

    def __post_init__(self) -> None:
        if min(self.analysis, self.reasoning, self.command) < 1:
            raise ValueError(f"limits of an answer are at least 1 token each, got {self}")


class Slm:
    """A model in memory. One generation at a time: others wait for it. Use as a context manager, or `close()`.

    Raises `SlmError` for a file that is missing, empty, truncated or not a GGUF, and says which.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        lora_path: str | Path | None = None,
        n_ctx: int = 4096,  # tokens of prompt and answer together; 0: what the model was trained with
        n_threads: int = 0,  # 0: by the model's size, 1 for a small one, else one per processor, at most 4
        n_gpu_layers: int = 0,  # -1: all
        temperature: float = 0.0,  # 0: always the likeliest token
        seed: int = 0,  # of the sampling at a temperature above 0; draws go on from call to call
        limits: AnswerLimits = AnswerLimits(),
    ) -> None:
        self.path = Path(model_path)
        self._lora_path = lora_path
        self._limits = limits
        self._lock = threading.Lock()
        self._model: Any = None
        self._adapter: Any = None
        self._contexts: dict[bool, _Context] = {}  # by whether they are for short answers
        self._sampler: Any = None
        self._generated = 0
        self._stop_flag = ctypes.create_string_buffer(2)
        _check_file(self.path)
        _capture_log()
        try:
            self._load_model(n_gpu_layers)
            self._set_sizes(n_ctx, n_threads, _GPU_CHUNK if n_gpu_layers else _CPU_CHUNK)
            if lora_path is not None and str(lora_path):
                self._load_adapter(Path(lora_path))
            self._current = self._contexts[False] = self._make_context(n_ctx)
            self._n_ctx = self._current.size
            self._sampler = _make_sampler(temperature, seed)
            self._warm_up()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Slm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free model and context, after the generation under way; may be called twice."""
        with self._lock:
            if self._sampler is not None:
                llama_cpp.llama_sampler_free(self._sampler)
            for context in self._contexts.values():
                llama_cpp.llama_free(context.handle)
            self._contexts.clear()
            if self._model is not None:
                llama_cpp.llama_model_free(self._model)
            self._model = self._sampler = None

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
        `deadline` is in seconds from now. Raises `SlmDeadlineError`, `SlmCancelled`, or `SlmError` when the prompt
        does not fit.
        """
        start = time.monotonic()
        with self._lock:
            if self._model is None:
                raise SlmError(f"{self.path} is closed")
            parts = self._chat.render(messages)
            tokens = self._chat.tokenize_parts(parts)
            prompt_tokens = len(tokens)
            self._take_context(prompt_tokens, grammar)
            llama_cpp.llama_perf_context_reset(self._current.handle)
            self._generated = 0
            sections = ("", "", "")
            with self._interruptible(start, deadline, cancel):
                if isinstance(grammar, CommandGrammar):
                    reused = self._prefill(tokens + self._chat.head_tokens[_HEADS[0]])
                    sections = self._write_sections(grammar)
                    text = "".join(f"{head} {section}" for head, section in zip(_HEADS, sections))
                elif isinstance(grammar, ChoiceGrammar):
                    reused = self._prefill(tokens)
                    text = self._write_choice(grammar)
                else:
                    reused = self._prefill(tokens)
                    text = self._write_freely(grammar)
            perf = llama_cpp.llama_perf_context(self._current.handle)
        return Generation(
            text=text,
            prompt="".join(part for part, _ in parts),
            analysis=sections[0],
            reasoning=sections[1],
            command=sections[2],
            prompt_tokens=prompt_tokens,
            reused_tokens=min(reused, prompt_tokens),
            generated_tokens=self._generated,
            latency=time.monotonic() - start,
            eval_time=(perf.t_p_eval_ms + perf.t_eval_ms) / 1000,
        )

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
            return len(self.tokenize_chat(messages))

    def prompt_budget(self, grammar: Grammar | None = None) -> int:
        """As `Generator.prompt_budget`: n_ctx without the longest answer."""
        return self._n_ctx - self._longest_answer(grammar)

    # Loading

    def _load_model(self, n_gpu_layers: int) -> None:
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        if n_gpu_layers and not llama_cpp.llama_supports_gpu_offload():
            logger.warning("n_gpu_layers is %d, but this llama.cpp knows no GPU: the CPU computes", n_gpu_layers)
        _log_lines.clear()
        self._model = llama_cpp.llama_model_load_from_file(str(self.path).encode(), params)
        if self._model is None:
            size = self.path.stat().st_size
            raise SlmError(f"{self.path} ({size} bytes) is not a model that llama.cpp can load: {_last_errors()}")
        self._chat = _ChatVocabulary(self._model, self.path)

    def _set_sizes(self, n_ctx: int, n_threads: int, chunk: int) -> None:
        trained = llama_cpp.llama_model_n_ctx_train(self._model)
        if n_ctx < 0 or n_threads < 0:
            raise SlmError(f"n_ctx is {n_ctx} and n_threads {n_threads}; expected 0 (automatic) or more")
        if n_ctx > trained:
            logger.info("n_ctx is %d, the model was trained with %d: long prompts may be read badly", n_ctx, trained)
        self.n_threads = n_threads or self._suitable_threads()
        self._chunk = chunk
        self._tokens = (llama_cpp.llama_token * chunk)()

    def _make_context(self, n_ctx: int) -> _Context:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = self._chunk
        params.n_threads = params.n_threads_batch = self.n_threads
        params.no_perf = False
        _log_lines.clear()
        handle = llama_cpp.llama_init_from_model(self._model, params)
        if handle is None:
            raise SlmError(f"{self.path}: no context of {n_ctx} tokens could be made: {_last_errors()}; lower n_ctx")
        if self._adapter is not None:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._adapter)
            if llama_cpp.llama_set_adapters_lora(handle, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
                llama_cpp.llama_free(handle)
                raise SlmError(f"{self._lora_path} can't be applied to {self.path}: {_last_errors()}")
        return _Context(handle, llama_cpp.llama_get_memory(handle), llama_cpp.llama_n_ctx(handle))

    def _take_context(self, prompt_tokens: int, grammar: Grammar | None) -> None:
        """Make the context for such an answer the current one; that of short answers grows as it is needed."""
        short = _is_short(grammar)
        answer = self._longest_answer(grammar)
        needed = prompt_tokens + answer
        if needed > self._n_ctx:
            raise SlmError(
                f"the prompt has {prompt_tokens} tokens, the answer takes up to {answer}, and n_ctx is {self._n_ctx}: "
                f"set n_ctx to {needed} or more"
            )
        context = self._contexts.get(short)
        if context is None or needed > context.size:
            if context is not None:
                llama_cpp.llama_free(self._contexts.pop(short).handle)
            context = self._make_context(min(self._n_ctx, -(-needed // _SHORT_CONTEXT) * _SHORT_CONTEXT))
            self._contexts[short] = context
        self._current = context

    def _longest_answer(self, grammar: Grammar | None) -> int:
        """Tokens that an answer may take, line heads included."""
        answer = grammar.longest if grammar is not None else self._limits.command
        if not _is_short(grammar):
            answer += self._limits.analysis + self._limits.reasoning + 16  # 16: the line heads
        return answer

    def _suitable_threads(self) -> int:
        """As many threads as pay. They meet hundreds of times a token, and wait long where other processes compete:
        on two busy cores a model of 7 M parameters took 3 times as long with two threads as with one (idle: 0.6)."""
        if llama_cpp.llama_model_n_params(self._model) < _SMALL_MODEL:
            return 1
        return min(len(os.sched_getaffinity(0)), _MAX_THREADS)

    def _load_adapter(self, path: Path) -> None:
        _check_file(path, "LoRA adapter")
        _log_lines.clear()
        adapter = llama_cpp.llama_adapter_lora_init(self._model, str(path).encode())
        if not adapter:
            raise SlmError(f"{path} is not a LoRA adapter for {self.path}: {_last_errors()}")
        self._adapter = adapter  # freed with the model

    def _warm_up(self) -> None:
        """The first evaluation allocates; do it now rather than in the first decision."""
        self._prefill(self._chat.head_tokens[_HEADS[0]])
        llama_cpp.llama_memory_clear(self._current.memory, True)
        self._current.evaluated.clear()

    # Evaluation

    @contextmanager
    def _interruptible(self, start: float, deadline: float | None, cancel: threading.Event | None) -> Iterator[None]:
        """Stops llama.cpp, even within an evaluation, when the deadline has passed or `cancel` is set."""
        self._stop_flag = flag = ctypes.create_string_buffer(2)
        llama_cpp.llama_set_abort_callback(self._current.handle, _is_flag_set, ctypes.cast(flag, ctypes.c_void_p))
        end = start + deadline if deadline is not None else None

        def is_cancelled() -> bool:
            return cancel is not None and cancel.is_set()

        def is_late() -> bool:
            return end is not None and time.monotonic() >= end

        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_POLL):
                if is_cancelled() or is_late():
                    flag[0] = b"\x01"
                    return

        if is_cancelled() or is_late():
            flag[0] = b"\x01"
        watcher = None
        if cancel is not None or end is not None:
            watcher = threading.Thread(target=watch, name="slm-watch", daemon=True)
            watcher.start()
        try:
            yield
        except _Stopped:
            if is_cancelled():
                raise SlmCancelled(f"cancelled after {time.monotonic() - start:.3f} s") from None
            raise SlmDeadlineError(f"no answer within {deadline} s, {self._generated} tokens were written") from None
        finally:
            ended.set()
            if watcher is not None:
                watcher.join()

    def _prefill(self, tokens: list[int]) -> int:
        """Evaluate a prompt, from the first chunk that differs from the prompt before; returns the tokens reused."""
        size, evaluated = self._chunk, self._current.evaluated
        same = next((i for i, (a, b) in enumerate(zip(tokens, evaluated)) if a != b), None)
        same = min(len(tokens), len(evaluated)) if same is None else same
        reused = min(same, len(tokens) - 1) // size * size
        if not llama_cpp.llama_memory_seq_rm(self._current.memory, 0, reused, -1):  # recurrent models can't go back
            llama_cpp.llama_memory_clear(self._current.memory, True)
            reused = 0
        del evaluated[reused:]
        for begin in range(reused, len(tokens), size):
            chunk = tokens[begin : begin + size]
            self._evaluate(chunk)
            if len(chunk) == size:
                evaluated += chunk
        return reused

    def _evaluate(self, tokens: Sequence[int]) -> None:
        """Append tokens to the context; afterwards the next one can be sampled."""
        for begin in range(0, len(tokens), self._chunk):
            part = tokens[begin : begin + self._chunk]
            if self._stop_flag[0] != b"\x00":
                raise _Stopped
            self._tokens[: len(part)] = part
            batch = llama_cpp.llama_batch_get_one(self._tokens, len(part))
            status = llama_cpp.llama_decode(self._current.handle, batch)
            if status == _ABORTED:
                raise _Stopped
            if status != 0:
                raise SlmError(f"{self.path}: llama_decode failed with {status}: {_last_errors()}")
            llama_cpp.llama_synchronize(self._current.handle)

    def _sample(self) -> int:
        self._generated += 1
        return int(llama_cpp.llama_sampler_sample(self._sampler, self._current.handle, -1))

    # Answers

    def _write_freely(self, line: FreeLine | None) -> str:
        """Text up to the end token, the end of the command line (or of a short answer's line), or the limit."""
        text = bytearray()
        limits = self._limits
        for _ in range(line.longest if line is not None else limits.analysis + limits.reasoning + limits.command):
            token = self._sample()
            piece = self._chat.piece(token)
            if piece is None:
                break
            text += piece
            if line is not None and b"\n" in text.lstrip():
                break
            if b"\n" in piece and re.search(rb"(^|\n)Command:[^\n]*\n", text):
                break
            self._evaluate([token])
        return text.decode("utf-8", "replace")

    def _write_sections(self, grammar: CommandGrammar) -> tuple[str, str, str]:
        analysis, head = self._write_section(self._limits.analysis, _HEADS[1:])
        reasoning = ""
        if head == _HEADS[1]:
            reasoning, _ = self._write_section(self._limits.reasoning, _HEADS[2:])
        return analysis, reasoning, self._write_choice(grammar)

    def _write_section(self, limit: int, heads: Sequence[str]) -> tuple[str, str]:
        """Free text up to the next line head, which is put in where the model does not write it."""
        text = bytearray()
        for _ in range(limit):
            token = self._sample()
            piece = self._chat.piece(token)
            if piece is None:
                break
            text += piece
            for head in heads:
                at = text.find(head.encode(), max(0, len(text) - len(piece) - len(head)))
                if at >= 0:
                    self._evaluate(self._cut_after(head, token, piece, len(text) - at - len(head)))
                    return _one_line(text[:at]), head
            self._evaluate([token])
        self._evaluate(self._chat.head_tokens[heads[0]])
        return _one_line(text), heads[0]

    def _cut_after(self, head: str, token: int, piece: bytes, surplus: int) -> list[int]:
        """A head's last token, without the `surplus` bytes that it holds beyond the head; a space may stay in text."""
        may_stay = surplus == 0 or (head != _HEADS[-1] and piece[-surplus:] == b" ")
        return [token] if may_stay else self._chat.tokenize(piece[: len(piece) - surplus].decode("utf-8", "replace"))

    def _write_choice(self, grammar: ChoiceGrammar) -> str:
        """A choice of the grammar, a command for instance: the likeliest by the model's own choice of tokens."""
        sampler = llama_cpp.llama_sampler_init_grammar(self._chat.vocab, grammar.gbnf.encode(), b"root")
        if not sampler:
            raise SlmError(f"llama.cpp can't read the grammar of {len(grammar.choices)} choices: {_last_errors()}")
        try:
            text = b""
            while (command := grammar.complete(text[len(grammar.lead) :])) is None:
                token = self._sample()
                if not _allows(sampler, token):
                    token = self._sample_allowed(sampler)
                llama_cpp.llama_sampler_accept(sampler, token)
                text += self._chat.piece(token) or b""
                self._evaluate([token])
            return command
        finally:
            llama_cpp.llama_sampler_free(sampler)

    def _sample_allowed(self, grammar: Any) -> int:
        """The choice among the tokens that the grammar allows, for when the free choice is none of them."""
        candidates = np.zeros(self._chat.size, _CANDIDATE)
        candidates["id"] = np.arange(self._chat.size)
        logits = llama_cpp.llama_get_logits_ith(self._current.handle, -1)
        candidates["logit"] = np.ctypeslib.as_array(logits, (self._chat.size,))
        array = _candidate_array(candidates)
        llama_cpp.llama_sampler_apply(grammar, ctypes.byref(array))
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        chosen = array.data[array.selected]
        if not _allows(grammar, chosen.id):
            raise SlmError(f"{self.path}: its tokenizer can't spell any answer that is open")
        return int(chosen.id)


class _ChatVocabulary:
    """Chat messages to tokens and tokens to text, by the model's own template and tokenizer."""

    def __init__(self, model: Any, path: Path) -> None:
        self._path = path
        self.vocab = llama_cpp.llama_model_get_vocab(model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self._pieces: dict[int, bytes | None] = {}
        bos, eos = llama_cpp.llama_vocab_bos(self.vocab), llama_cpp.llama_vocab_eos(self.vocab)
        self._start: list[int] = [bos] if llama_cpp.llama_vocab_get_add_bos(self.vocab) else []
        self._bos, self._eos = self._text(bos), self._text(eos)
        self._template = self._read_template(model)
        self._template_tokens = self._find_template_tokens()
        texts = sorted(self._template_tokens, key=len, reverse=True)
        within = [f"(?<={re.escape(text[0])})(?={re.escape(text[1:])})" for text in texts]
        self._at_tokens = re.compile(f"({'|'.join(map(re.escape, texts))})" if texts else "(?!)()")
        self._within_tokens = re.compile("|".join(within) or "(?!)")
        self.head_tokens = {head: self._tokenize_head(head) for head in _HEADS}

    def render(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """The prompt in parts: (text, whether it is a message's content rather than the template's)."""
        marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
        chat = [{"role": message.role, "content": mark} for message, mark in zip(messages, marks)]
        try:
            text = self._template.render(
                messages=chat,
                bos_token=self._bos,
                eos_token=self._eos,
                add_generation_prompt=True,
                raise_exception=_refuse_chat,
            )
        except TemplateError as error:
            raise SlmError(f"{self._path}: its chat template refuses the messages: {error}") from error
        pieces = re.split("\ue000(\\d+)\ue001", text)
        if [int(index) for index in pieces[1::2]] != list(range(len(messages))):
            raise SlmError(f"{self._path}: its chat template does not show every message once and in order")
        if self._start and self._bos:
            pieces[0] = pieces[0].removeprefix(self._bos)  # the tokenizer puts it there
        return [(messages[int(p)].content, True) if i % 2 else (p, False) for i, p in enumerate(pieces)]

    def tokenize_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """Tokens of the parts as of one text, except that the template's own are recognised in its text alone."""
        tokens, plain = list(self._start), ""
        for text, is_content in parts:
            if is_content:
                # A tokenizer finds user-defined tokens in any text: break up those that the template uses.
                for index, piece in enumerate(self._within_tokens.split(text)):
                    if index > 0:
                        tokens += self.tokenize(plain)
                        plain = ""
                    plain += piece
                continue
            for index, piece in enumerate(self._at_tokens.split(text)):
                if index % 2:
                    tokens += [*self.tokenize(plain), self._template_tokens[piece]]
                    plain = ""
                else:
                    plain += piece
        return tokens + self.tokenize(plain)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Tokens of a text alone; those that are control tokens are found in it only with `special`."""
        data = text.encode("utf-8", "replace")
        if not data:
            return []
        room = len(data) + 2
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, room, False, special)
        if count < 0:
            raise SlmError(f"{self._path}: its tokenizer made {-count} tokens of {len(data)} bytes")
        return list(tokens[:count])

    def piece(self, token: int) -> bytes | None:
        """The token's text, None when it ends an answer: an end token, or any other control token."""
        if token not in self._pieces:
            ends = llama_cpp.llama_vocab_is_eog(self.vocab, token)
            ends = ends or llama_cpp.llama_vocab_is_control(self.vocab, token)
            self._pieces[token] = None if ends else self._bytes(token)
        return self._pieces[token]

    def _read_template(self, model: Any) -> Template:
        source = llama_cpp.llama_model_chat_template(model, None)
        if not source:
            raise SlmError(f"{self._path} has no chat template (tokenizer.chat_template); use a model made for chats")
        try:
            environment = ImmutableSandboxedEnvironment(
                trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
            )
            return environment.from_string(source.decode())
        except (TemplateError, UnicodeDecodeError) as error:
            raise SlmError(f"{self._path}: its chat template can't be read: {error}") from error

    def _find_template_tokens(self) -> dict[str, int]:
        """Text to id of the special tokens that the template uses. White space may be one, too, and is no structure."""
        found = {}
        for part, is_content in self.render([Message("system", "s"), Message("user", "u")]):
            for token in [] if is_content else self.tokenize(part, special=True):
                text = self._text(token)
                is_special = llama_cpp.llama_vocab_get_attr(self.vocab, token) & _SPECIAL
                if is_special and len(text) > 1 and not text.isspace():
                    found[text] = token
        return found

    def _tokenize_head(self, head: str) -> list[int]:
        """The tokens of a line head as they are before text: some tokenizers join the space to the head."""
        tokens = self.tokenize(head + (" explore(kitchen)" if head == _HEADS[-1] else " The"))
        text, count = b"", 0
        while len(text) < len(head):
            text += self._bytes(tokens[count])
            count += 1
        return tokens[:count] if text.decode("utf-8", "replace").rstrip(" ") == head else self.tokenize(head)

    def _bytes(self, token: int) -> bytes:
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def _text(self, token: int) -> str:
        return self._bytes(token).decode("utf-8", "replace") if token >= 0 else ""


class _Stopped(Exception):
    """The stop flag was seen."""


def _is_short(grammar: Grammar | None) -> bool:
    """Whether the answer is one line, without analysis and reasoning."""
    return grammar is not None and not isinstance(grammar, CommandGrammar)


def _make_sampler(temperature: float, seed: int) -> Any:
    if not 0.0 <= temperature < 100.0:
        raise SlmError(f"temperature is {temperature}; expected 0 (always the likeliest token) or more, at most 100")
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    if temperature == 0.0:
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
    else:
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_temp(temperature))
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(seed % 2**32))
    return chain


def _candidate_array(candidates: np.ndarray) -> llama_cpp.llama_token_data_array:
    data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
    return llama_cpp.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)


def _allows(grammar: Any, token: int) -> bool:
    candidates = np.zeros(1, _CANDIDATE)
    candidates["id"] = token
    array = _candidate_array(candidates)
    llama_cpp.llama_sampler_apply(grammar, ctypes.byref(array))
    return bool(np.isfinite(candidates["logit"][0]))


def _one_line(text: bytes | bytearray) -> str:
    """Printable text on one line: a model may write anything, and this goes to logs and terminals."""
    shown = (c if c.isprintable() else " " for c in text.decode("utf-8", "replace"))
    return " ".join("".join(shown).split())


def _refuse_chat(message: str) -> None:
    raise TemplateError(message)


def _check_file(path: Path, what: str = "model file") -> None:
    """Say in plain words what is wrong with a file that can't be a GGUF, before llama.cpp sees it."""
    if not path.exists():
        raise SlmError(f"the {what} {path} does not exist")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise SlmError(f"the {what} {path} is {kind}; expected a .gguf file")
    try:
        with path.open("rb") as file:
            start = file.read(24)
    except OSError as error:
        raise SlmError(f"the {what} {path} can't be read: {error}") from error
    if not start:
        raise SlmError(f"the {what} {path} is empty")
    if start.startswith(b"version https://git-lfs"[:24]):
        raise SlmError(f"the {what} {path} is a Git LFS pointer, not the file itself; run `git lfs pull`")
    if not start.startswith(b"GGUF"):
        raise SlmError(f"the {what} {path} is not a GGUF: it starts with {start[:4]!r} instead of b'GGUF'")
    if len(start) < 24:
        raise SlmError(f"the {what} {path} is truncated: {len(start)} bytes, less than a GGUF header")


# llama.cpp's log: to logging, and the last errors into messages

_log_lines: deque[str] = deque(maxlen=8)
_WARNING, _ERROR = 3, 4  # ggml_log_level


@llama_cpp.llama_log_callback
def _forward_log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").rstrip()
    if line.strip("."):  # dots are llama.cpp's progress bar
        logger.debug("llama.cpp: %s", line)
        if level in (_WARNING, _ERROR):
            _log_lines.append(line)


def _capture_log() -> None:
    llama_cpp.llama_log_set(_forward_log, ctypes.c_void_p(0))  # each time: others in this process may have set theirs
    llama_cpp.llama_backend_init()


def _last_errors() -> str:
    return "; ".join(_log_lines) or "llama.cpp gave no reason"
