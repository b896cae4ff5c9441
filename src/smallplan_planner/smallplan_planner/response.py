"""The three lines of an answer: `Analysis: …`, `Reasoning: …`, `Command: …`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from smallplan_planner.actions import ParseError

HEADS = ("Analysis", "Reasoning", "Command")
_REASONING = re.compile(r"\n[^\S\n]*Reasoning:")


@dataclass(frozen=True)
class Response:
    """An answer in its parts; `command` is the command line's text, not yet checked."""

    analysis: str
    reasoning: str
    command: str

    def render(self) -> str:
        """The text that a teacher writes and a model learns."""
        return f"Analysis: {self.analysis}\nReasoning: {self.reasoning}\nCommand: {self.command}"


def read_response(text: str) -> tuple[Response, str]:
    """(the answer's parts, why it can't be parsed): the parts are empty where it can't, the reason where it can."""
    try:
        return parse_response(text), ""
    except ParseError as error:
        return Response("", "", ""), str(error)


def parse_response(text: str) -> Response:
    """Split an answer into its lines; raises `ParseError` that says which line is missing."""
    above, _, last = text.strip().rpartition("\n")
    last, reasoning = last.lstrip(), _REASONING.search(above)
    if reasoning is None or not above.startswith("Analysis:") or not last.startswith("Command:"):
        missing = [head for head in HEADS if f"{head}:" not in text]
        misplaced = "the lines are out of order or text follows the command"
        reason = f"no line {', '.join(missing)}" if missing else misplaced
        raise ParseError(f"the answer can't be parsed: {reason}; expected the lines {', '.join(HEADS)}")
    begin, end = reasoning.span()
    return Response(above[len("Analysis:") : begin].strip(), above[end:].strip(), last[len("Command:") :].strip())
