"""What the model may answer, given this graph: a GBNF grammar of the command line.

It is made from the actions that are open, so a command that it lets through is always valid. It covers what
follows the line head `Command:`; analysis and reasoning stay free text. Common prefixes are factored out (a
radix tree), so that with a thousand objects only a few of llama.cpp's grammar stacks are alive at a time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from smallplan_planner.actions import Action, format_command
from smallplan_planner.names import NameBook


@dataclass(frozen=True)
class CommandGrammar:
    """The commands that may be answered. Raises ValueError when there is none, or one that is empty."""

    commands: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.commands or not all(self.commands):
            raise ValueError(f"a grammar needs at least one command and no empty one, got {self.commands!r}")

    @cached_property
    def gbnf(self) -> str:
        """The grammar in llama.cpp's notation; its rule `root` is a space and one of the commands."""
        return f'root ::= " " ({alternatives(sorted(set(self.commands)))})\n'

    def complete(self, prefix: bytes) -> str | None:
        """The only command that starts with `prefix` (UTF-8, it may end within a character), None when several do.

        As soon as a single command is left there is nothing more to decide, and nothing more to generate.
        """
        first = bisect_left(self._sorted, prefix)
        found = [command for command in self._sorted[first : first + 2] if command.startswith(prefix)]
        return found[0].decode() if len(found) == 1 else None

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest command, which bounds its tokens."""
        return max(map(len, self._sorted))

    @cached_property
    def _sorted(self) -> list[bytes]:
        return sorted({command.encode() for command in self.commands})


def build_grammar(options: Iterable[Action], names: NameBook) -> CommandGrammar:
    """The grammar of exactly these actions, in the names of the episode."""
    return CommandGrammar(tuple(format_command(action, names) for action in options))


def alternatives(words: Sequence[str]) -> str:
    """Sorted, distinct words as GBNF, split into groups by their first character."""
    return " | ".join(_sequence(group) for group in _groups(words))


def _sequence(words: Sequence[str]) -> str:
    """Words that share their first character: what they have in common, then what sets them apart."""
    common = _common_beginning(words[0], words[-1])
    rests = [word[len(common) :] for word in words]
    return _literal(common) if len(rests) == 1 else f"{_literal(common)} ({alternatives(rests)})"


def _common_beginning(first: str, last: str) -> str:
    """What all sorted words from `first` to `last` begin with."""
    length = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return first[:length]


def _groups(words: Sequence[str]) -> Iterator[list[str]]:
    for _, group in groupby(words, key=lambda word: word[:1]):
        yield list(group)


def _literal(text: str) -> str:
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
