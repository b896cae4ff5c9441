"""A minimal pair: two prompts that differ in one decisive fact, and what a right answer to each is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from smallplan_planner.actions import ActionKind, ParseError
from smallplan_planner.prompt import Message, Option, PromptView, listed_surfaces, render
from smallplan_planner.response import parse_response
from smallplan_training.teachers.expert import option_command

_COMMAND = re.compile(r"([a-z_]+)\s*\(([^()]*)\)")
_VERBS = frozenset(kind.verb for kind in ActionKind)

Reader = Callable[[str], "str | None"]
"""What an answer's text says, None when it can't be read."""


@dataclass(frozen=True)
class Question:
    """One prompt, and what is right: one of `wanted`, or with `avoid` anything readable that is none of them."""

    messages: tuple[Message, ...]
    wanted: frozenset[str]
    read: Reader
    avoid: bool = False
    view: PromptView | None = None  # what the prompt was written from, where it is a planning prompt

    def is_right(self, text: str) -> bool:
        """Whether this answer is right; one that can't be read is wrong."""
        said = self.read(text)
        return said is not None and (said in self.wanted) != self.avoid

    @property
    def expected(self) -> str:
        """The right answers in words."""
        return ("anything but " if self.avoid else "") + " | ".join(sorted(self.wanted))


@dataclass(frozen=True)
class Pair:
    """Counts as passed only when both answers are right. `kind` tells the pairs of a suite apart, in a word."""

    kind: str
    first: Question
    second: Question


def command_of(text: str) -> str | None:
    """The command of an answer in its usual spelling, None when the answer or its command can't be parsed."""
    try:
        command = parse_response(text).command
    except ParseError:
        return None
    match = _COMMAND.fullmatch(command)
    if match is None or match[1] not in _VERBS:
        return None
    return f"{match[1]}({', '.join(part.strip() for part in match[2].split(','))})"


def ask(view: PromptView, wanted: Iterable[str], avoid: bool = False) -> Question:
    """The question that a view poses, whose answers are commands."""
    return Question(tuple(render(view)), frozenset(wanted), command_of, avoid, view)


def listed_commands(view: PromptView) -> frozenset[str]:
    """The commands that take one of the options which the prompt lists."""
    return frozenset(option_command(kind, option) for kind, option in listed_options(view))


def listed_options(view: PromptView) -> list[tuple[ActionKind, Option]]:
    """Every option that the prompt lists, with the action that takes it."""
    return [
        (kind, option)
        for kind, options in (
            (ActionKind.EXPLORE, view.spaces),
            (ActionKind.GO_TO_AND_OPEN, view.doors),
            (ActionKind.GO_TO_AND_OPEN, view.containers),
            (ActionKind.NAVIGATE, listed_surfaces(view)),
        )
        for option in options
    ]
