"""Does an exported GGUF compute what the model computes that it was made of?

On real prompts: both sides make the same tokens of them, llama.cpp's logits are those of transformers, and on recorded
graphs both answer with the same command. `LIMITS` says how far a file of each type may be from the model; a file
beyond is not to be used.

    reference = Reference(folder, chat, record_views(50), prompts=8, scratch=scratch)
    faults = reference.compare(path).faults(LIMITS["Q4_K_M"])

T positions of a prompt and its answer, V tokens of the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import llama_cpp
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from smallplan_planner.generation import SlmError
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message, PromptView, render
from smallplan_planner.response import read_response
from smallplan_planner.search import SearchConfig
from smallplan_planner.slm import AnswerLimits, Slm
from smallplan_training.batch_generation import BatchGenerator
from smallplan_training.chat import Chat
from smallplan_training.errors import UserError
from smallplan_training.nano.situations import DisturbedPolicy, meet_situations
from smallplan_training.parity_choice import Chooser, open_commands
from smallplan_training.teachers.expert import ExpertPolicy, ExpertTeacher

TIE = 1e-3
"""Two tokens are as likely as each other when their logits differ by less than this share of the logits' spread: more
than the last digits of float32, in which two libraries differ, and far less than what a change of the weights does."""

_HOUSES = 90_000_000  # first seed of the houses: far from those of training and of the splits
_DISTURBANCE = 0.2  # share of actions that are random, so that other graphs than an expert's are met, too
_KEPT = 5  # graphs of an episode, so that they come from many
_ROWS = 64  # of logits that become probabilities at a time
_BATCH = 8  # prompts that transformers answers at a time
_COMMAND = re.compile(r"(?:^|\n)\s*Command:[^\n]*")


@dataclass(frozen=True)
class Limits:
    """How far a file may be from its model."""

    agreement: float  # percent of positions at least, at which both have the same likeliest token (or a tie)
    kl: float  # nats at most, mean Kullback-Leibler divergence of its distribution from the model's
    actions: float  # percent of graphs at least, on which both command the same


LIMITS = {
    "F32": Limits(100.0, 1e-4, 100.0),
    "F16": Limits(99.0, 1e-3, 98.0),
    "Q8_0": Limits(96.0, 0.01, 90.0),
    "Q6_K": Limits(93.0, 0.03, 85.0),
    "Q5_K_M": Limits(90.0, 0.06, 80.0),
    "Q4_K_M": Limits(85.0, 0.15, 70.0),
    "Q4_0": Limits(80.0, 0.30, 60.0),
}
"""A judgement, with room for models of other sizes: beyond, something is wrong, or a model is too small for so few
bits."""


@dataclass(frozen=True)
class FileParity:
    """How far a file is from the model that it was made of. Shares in percent, divergences in nats."""

    prompts: int
    equal_tokens: int  # prompts of which both sides make the same tokens
    positions: int
    agreement: float  # of the positions: the same likeliest token, or a tie
    ties: int  # positions at which the likeliest tokens differ, but are as likely as each other
    mean_kl: float
    largest_kl: float
    largest_difference: float  # of a logit
    graphs: int
    readable: int  # graphs on which the model answers in the planner's format
    equal_actions: float  # of the graphs: the same command, written or, where the model writes none, chosen

    def faults(self, limits: Limits) -> list[str]:
        """What is beyond the limits, in words; nothing when the file may be used."""
        found = []
        if self.equal_tokens < self.prompts:
            found.append(f"only {self.equal_tokens} of {self.prompts} prompts have the same tokens on both sides")
        if self.agreement < limits.agreement:
            found.append(
                f"at {self.agreement:.2f} % of {self.positions} positions the likeliest token is the same, expected at "
                f"least {limits.agreement:g} %"
            )
        if not self.mean_kl <= limits.kl:  # NaN is one, too
            found.append(f"the mean KL divergence is {self.mean_kl:.2g}, expected at most {limits.kl:g}")
        if self.equal_actions < limits.actions:
            found.append(
                f"on {self.equal_actions:.1f} % of {self.graphs} graphs the command is the same, expected at least "
                f"{limits.actions:g} %"
            )
        return found


def record_views(graphs: int) -> list[PromptView]:
    """What is known at `graphs` moments of searches in generated houses, the same ones each time."""
    policy = DisturbedPolicy(ExpertPolicy(), _DISTURBANCE, _HOUSES)
    config = SearchConfig(classify_rooms="rule")
    views: list[PromptView] = []
    for seed in count(_HOUSES):
        if len(views) >= graphs:
            return views[:graphs]
        views += meet_situations(policy, [seed], config, keep=_KEPT)
    raise AssertionError("houses don't end")


@dataclass(frozen=True)
class _Text:
    """A prompt with its answer, as transformers' tokens."""

    messages: list[Message]
    answer: str
    prompt_ids: list[int]
    answer_ids: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.answer_ids


class Reference:
    """A model in transformers: its logits on `prompts` of the views with answers, its commands on the first `graphs`.

    None: on all of them. They are computed once, and the logits lie in `scratch`. Raises `UserError`.
    """

    def __init__(
        self,
        folder: Path,
        chat: Chat,
        views: Sequence[PromptView],
        prompts: int,
        scratch: Path,
        graphs: int | None = None,
    ) -> None:
        teacher = ExpertTeacher(load_priors())
        self._asked = [render(view) for view in views[:graphs]]
        self._open = [open_commands(view) for view in views[:graphs]]
        spread = [round(i * (len(views) - 1) / max(1, prompts - 1)) for i in range(min(prompts, len(views)))]
        self._texts = [_text(chat, render(views[i]), teacher.answer(views[i]).render()) for i in spread]
        self._limits = AnswerLimits()
        self._scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{folder} is no causal language model that transformers can load: {error}") from error
        for index, text in enumerate(self._texts):
            with torch.inference_mode():
                np.save(self._file(index), model(torch.tensor([text.ids]), use_cache=False).logits[0].numpy())
        longest = self._limits.analysis + self._limits.reasoning + self._limits.command
        generator = BatchGenerator(model, chat, temperature=0.0, max_tokens=longest, batch=_BATCH)
        answers = generator.generate(self._asked)
        self._written = [_command(answer.text) for answer in answers]  # '' where none can be read
        chooser = None if all(self._written) else Chooser(model, chat)
        self._chosen = [
            "" if written or chooser is None else chooser.choose(answer.prompt_ids, grammar)
            for written, answer, grammar in zip(self._written, answers, self._open)
        ]

    def compare(self, path: Path, lora: Path | None = None) -> FileParity:
        """How far a GGUF file, with a LoRA adapter over it, is from the model. Raises `UserError`."""
        longest = max(len(text.ids) for text in self._texts)
        try:
            # room for what a tokenizer that splits otherwise makes of them
            n_ctx = max(4096, 2 * longest)
            with Slm(path, lora_path=lora, n_ctx=n_ctx, limits=self._limits, flash_attention="off") as slm:
                threads = slm.n_threads
                same = [slm.tokenize_chat(text.messages) == text.prompt_ids for text in self._texts]
                equal = [
                    _command(slm.generate(messages).text) == written
                    if written
                    else slm.generate(messages, grammar).text == chosen
                    for messages, grammar, written, chosen in zip(self._asked, self._open, self._written, self._chosen)
                ]
        except SlmError as error:
            raise UserError(str(error)) from error
        figures = _Figures()
        with _open(path, lora, longest, threads) as llama:
            for index, text in enumerate(self._texts):
                answer = llama.tokenize(text.answer.encode(), add_bos=False, special=False)
                same[index] = same[index] and answer == text.answer_ids
                figures.add(np.load(self._file(index), mmap_mode="r"), _logits(llama, text.ids))
        return FileParity(
            prompts=len(same),
            equal_tokens=sum(same),
            positions=figures.positions,
            agreement=100.0 * figures.equal / figures.positions,
            ties=figures.ties,
            mean_kl=figures.kl / figures.positions,
            largest_kl=figures.largest_kl,
            largest_difference=figures.largest_difference,
            graphs=len(equal),
            readable=sum(map(bool, self._written)),
            equal_actions=100.0 * sum(equal) / len(equal) if equal else 100.0,
        )

    def _file(self, index: int) -> Path:
        return self._scratch / f"logits-{index}.npy"


@dataclass
class _Figures:
    """Sums over positions."""

    positions: int = 0
    equal: int = 0  # ties included
    ties: int = 0
    kl: float = 0.0
    largest_kl: float = 0.0
    largest_difference: float = 0.0

    def add(self, theirs: NDArray[np.float32], ours: NDArray[np.float32]) -> None:
        """Logits (T, V) of transformers and of llama.cpp."""
        for begin in range(0, len(theirs), _ROWS):
            p, q = (part[begin : begin + _ROWS].astype(np.float64) for part in (theirs, ours))
            rows = np.arange(len(p))
            best, chosen = p.argmax(-1), q.argmax(-1)
            gap = p[rows, best] - p[rows, chosen]  # (rows,), 0 where they agree
            near = gap < TIE * p.std(-1)
            self.positions += len(p)
            self.equal += int(((best == chosen) | near).sum())
            self.ties += int(((best != chosen) & near).sum())
            log_p, log_q = _log_softmax(p), _log_softmax(q)
            kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
            self.kl += float(kl.sum())
            self.largest_kl = max(self.largest_kl, float(kl.max()))
            self.largest_difference = max(self.largest_difference, float(np.abs(p - q).max()))


@contextmanager
def _open(path: Path, lora: Path | None, positions: int, threads: int) -> Iterator[llama_cpp.Llama]:
    """The file in llama.cpp with float32 in its KV cache, so that the weights alone make the difference."""
    whole = llama_cpp.GGML_TYPE_F32
    options = {"n_ctx": positions + 8, "type_k": whole, "type_v": whole, "logits_all": True, "verbose": False}
    options |= {"n_threads": threads, "n_threads_batch": threads}
    try:
        llama = llama_cpp.Llama(str(path), lora_path=None if lora is None else str(lora), **options)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"llama.cpp can't load {path if lora is None else lora}: {error}") from error
    try:
        yield llama
    finally:
        llama.close()


def _logits(llama: llama_cpp.Llama, ids: Sequence[int]) -> NDArray[np.float32]:
    """(T, V)"""
    llama.reset()
    llama.eval(ids)
    return np.asarray(llama.scores[: len(ids)])


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _text(chat: Chat, messages: list[Message], answer: str) -> _Text:
    *answer_ids, _ = chat.encode_answer(answer)  # the last one ends the turn
    return _Text(messages, answer, chat.encode_prompt(messages), answer_ids)


def _command(text: str) -> str:
    """The command that an answer gives, '' when none can be read; what follows its line is passed over, as on the
    robot."""
    found = _COMMAND.search(text)
    return read_response(text[: found.end()])[0].command if found else ""
