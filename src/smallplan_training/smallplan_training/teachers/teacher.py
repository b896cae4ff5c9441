"""What a teacher is: whoever answers a situation in the prompt's three lines. Here are the ones that run locally.

The built-in expert reads the prompt's view, a GGUF model reads the prompt; `openai.py` asks an endpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smallplan_planner.actions import ActionRefused, parse_command
from smallplan_planner.generation import Generator
from smallplan_planner.grammar import CommandGrammar, build_grammar
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message, render
from smallplan_planner.prompt_budget import fit_situation
from smallplan_planner.response import parse_response
from smallplan_planner.search import Situation
from smallplan_training.teachers.expert import ExpertTeacher


@dataclass(frozen=True)
class TeacherAnswer:
    """The answer as the teacher wrote it, not yet checked, and what it cost."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False  # it was paid for before


class Teacher(Protocol):
    """May be asked from several threads at once."""

    @property
    def name(self) -> str:
        """The kind of teacher: expert, openai, gguf."""

    @property
    def model(self) -> str:
        """Which model answers, '' where there is none."""

    def read(self, situation: Situation) -> Situation:
        """The situation with as much in its view as this teacher can read; raises `SlmError` when it can't any."""

    def answer(self, situation: Situation) -> TeacherAnswer:
        """Answer the prompt of what `read` gives; raises `UserError` or `SlmError` when there will be no answer."""


class ReadsAll:
    """The part of a teacher that reads prompts at any length, as far as is known."""

    def read(self, situation: Situation) -> Situation:
        """The situation itself."""
        return situation


class ExpertAdapter(ReadsAll):
    """The built-in expert."""

    name = "expert"
    model = ""

    def __init__(self) -> None:
        self._expert = ExpertTeacher()

    def answer(self, situation: Situation) -> TeacherAnswer:
        return TeacherAnswer(self._expert.answer(situation.view).render())


class GgufTeacher:
    """A local model through llama.cpp; with `use_grammar` every command it writes is one that is open."""

    name = "gguf"

    def __init__(self, slm: Generator, model: str, use_grammar: bool = True) -> None:
        self._slm = slm
        self._use_grammar = use_grammar
        self._priors = load_priors()
        self.model = model

    def read(self, situation: Situation) -> Situation:
        """What fits into the model's context."""
        return fit_situation(situation, self._slm, self._grammar(situation), self._priors)

    def answer(self, situation: Situation) -> TeacherAnswer:
        made = self._slm.generate(render(self.read(situation).view), self._grammar(situation))
        return TeacherAnswer(made.text, made.prompt_tokens, made.generated_tokens)

    def _grammar(self, situation: Situation) -> CommandGrammar | None:
        return build_grammar(situation.options, situation.names) if self._use_grammar else None


def answer_fault(text: str, situation: Situation) -> str:
    """Why an answer is no sample (it can't be parsed, or its action is not open), '' when it is one."""
    try:
        parse_command(parse_response(text).command, situation.graph, situation.names, situation.rules)
    except ActionRefused as refused:
        return str(refused)
    return ""


def prompt_hash(messages: Sequence[Message]) -> str:
    """64 hexadecimal digits that stand for a prompt."""
    text = json.dumps([[message.role, message.content] for message in messages])
    return hashlib.sha256(text.encode()).hexdigest()
