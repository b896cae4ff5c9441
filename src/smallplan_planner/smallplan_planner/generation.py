"""What a text generator is to the planner, whichever one it is: `slm.Slm` runs llama.cpp, a test may script it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smallplan_planner.grammar import Grammar
from smallplan_planner.prompt import Message


class SlmError(RuntimeError):
    """The model can't be loaded or can't answer; the message says what was wrong, where, and what to do."""


class SlmDeadlineError(SlmError):
    """The answer was not ready in time."""


class SlmCancelled(SlmError):
    """Somebody cancelled the generation."""


@dataclass(frozen=True)
class Generation:
    """An answer and what it cost. Only under a grammar of commands it has sections, else just `text`."""

    text: str
    prompt: str  # as the model read it, chat template included
    analysis: str = ""
    reasoning: str = ""
    command: str = ""
    prompt_tokens: int = 0
    reused_tokens: int = 0  # of the prompt, whose KV cache was still there
    generated_tokens: int = 0  # that the model chose; line heads that were put in don't count
    latency: float = 0.0  # s
    eval_time: float = 0.0  # s that llama.cpp computed, of the latency
    read_time: float = 0.0  # s of eval_time for the part of the prompt that was not reused
    grammar_time: float = 0.0  # s that the grammar took, of the latency, without its making
    cut: bool = False  # analysis and reasoning end early, so that the command is in time


@dataclass(frozen=True)
class PromptBudget:
    """Tokens that a prompt may take. The first bound is hard; what can't be left out may exceed the second."""

    most: int  # with more, it does not fit into the context beside the longest answer; below 1: nor does the answer
    readable: int  # with more, a model reads it badly, that was trained on shorter ones; at most `most`


class PromptReader(Protocol):
    """Whatever reads prompts, and may not read them at any length."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of these messages as a prompt, chat template included."""

    def prompt_budget(self, grammar: Grammar | None = None) -> PromptBudget:
        """How long the prompt of an answer under this grammar may be."""


class Generator(PromptReader, Protocol):
    """Whatever answers chat messages."""

    def generate(
        self,
        messages: Sequence[Message],
        grammar: Grammar | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Answer within `deadline` seconds: three lines under a `CommandGrammar`, the first two cut where there is no
        time for more, one choice under a `ChoiceGrammar`, else free text, a short one with `FreeLine`.

        Raises `SlmDeadlineError`, `SlmCancelled` or `SlmError`.
        """
