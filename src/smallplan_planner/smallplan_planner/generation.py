"""What a text generator is to the planner, whichever one it is: `slm.Slm` runs llama.cpp, a test may script it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smallplan_planner.grammar import CommandGrammar
from smallplan_planner.prompt import Message


class SlmError(RuntimeError):
    """The model can't be loaded or can't answer; the message says what was wrong, where, and what to do."""


class SlmDeadlineError(SlmError):
    """The answer was not ready in time."""


class SlmCancelled(SlmError):
    """Somebody cancelled the generation."""


@dataclass(frozen=True)
class Generation:
    """An answer and what it cost. Without a grammar only `text` is filled, as the model wrote it."""

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


class Generator(Protocol):
    """Whatever answers chat messages."""

    def generate(
        self,
        messages: Sequence[Message],
        grammar: CommandGrammar | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Answer within `deadline` seconds; raises `SlmDeadlineError`, `SlmCancelled` or `SlmError`."""
