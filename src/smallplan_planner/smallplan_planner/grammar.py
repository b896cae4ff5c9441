"""What the model may answer: a GBNF grammar of the command line, given this graph, or of one of a few choices.

The commands are made from the actions that are open, so one that is let through is always valid. Their grammar covers
what follows the line head `Command:`; analysis and reasoning stay free text. Common prefixes are factored out (a
radix tree), so that with a thousand objects only a few of llama.cpp's grammar stacks are alive at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, takewhile
from operator import eq
from typing import ClassVar

from smallplan_planner.actions import DONE, Action, format_command, format_commands
from smallplan_planner.names import NameBook

_BETWEEN = b"\xff"  # no UTF-8 has this byte


@dataclass(frozen=True)
class ChoiceGrammar:
    """An answer that is one of a few texts and nothing else. Raises ValueError when there is none, or an empty one."""

    choices: tuple[str, ...]

    lead: ClassVar[str] = ""
    """What stands before a choice in the answer."""

    def __post_init__(self) -> None:
        if not self.choices or not all(self.choices):
            raise ValueError(f"a grammar needs at least one choice and no empty one, got {self.choices!r}")

    @cached_property
    def gbnf(self) -> str:
        """The grammar in llama.cpp's notation; its rule `root` is `lead` and one of the choices."""
        choices = _alternatives(sorted(set(self.choices)))
        return f"root ::= {_literal(self.lead)} ({choices})\n" if self.lead else f"root ::= {choices}\n"

    def complete(self, prefix: bytes) -> str | None:
        """The only choice that starts with `prefix` (UTF-8, it may end within a character), None when several do.

        As soon as a single choice is left there is nothing more to decide, and nothing more to generate.
        """
        first = self._joined.find(_BETWEEN + prefix) + 1
        if not first or self._joined.find(_BETWEEN + prefix, first) >= 0:
            return None
        return self._joined[first:].partition(_BETWEEN)[0].decode()

    def allows(self, beginning: bytes) -> bool:
        """Whether an answer may begin so (UTF-8, it may end within a character): what `gbnf` says, of one text."""
        lead = self.lead.encode()
        if len(beginning) <= len(lead):
            return lead.startswith(beginning)
        prefix = beginning[len(lead) :]
        return beginning.startswith(lead) and _BETWEEN not in prefix and _BETWEEN + prefix in self._joined

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest choice, which bounds its tokens."""
        return max(map(len, self._joined.split(_BETWEEN)))

    @cached_property
    def _joined(self) -> bytes:
        """The choices, each once, behind a mark each: one text is looked through quicker than many."""
        return _BETWEEN.join((b"", *map(str.encode, dict.fromkeys(self.choices))))


@dataclass(frozen=True)
class CommandGrammar(ChoiceGrammar):
    """An answer in three lines of which the last is one of these commands, after the line head `Command:`.

    `hasty`: those among them that an answer may be whose reasons were cut for want of time, () for all.
    """

    lead: ClassVar[str] = " "

    hasty: tuple[str, ...] = ()

    @property
    def commands(self) -> tuple[str, ...]:
        return self.choices

    @property
    def in_haste(self) -> CommandGrammar:
        """The grammar of an answer whose reasons were cut."""
        return CommandGrammar(self.hasty) if self.hasty else self


@dataclass(frozen=True)
class FreeLine:
    """No grammar, but a short answer: one line of at most `longest` tokens."""

    longest: int


Grammar = ChoiceGrammar | FreeLine


def build_grammar(options: Iterable[Action], names: NameBook, *, target_listed: bool = True) -> CommandGrammar:
    """The grammar of exactly these actions, in the names of the episode.

    Where the target is not listed, `done()` gives the search up. That takes reasons: an answer without them is one of
    the other actions, as long as there is one.
    """
    commands = format_commands(options, names)
    give_up = format_command(DONE, names)
    return CommandGrammar(tuple(commands), () if target_listed else tuple(c for c in commands if c != give_up))


def common_length(first: Sequence[object], last: Sequence[object]) -> int:
    """In how many items two sequences begin alike, and so do all that are sorted between them."""
    return sum(takewhile(bool, map(eq, first, last)))


def _alternatives(words: Sequence[str]) -> str:
    """Sorted, distinct words as GBNF, split into groups by their first character."""
    return " | ".join(_sequence(group) for group in _groups(words))


def _sequence(words: Sequence[str]) -> str:
    """Words that share their first character: what they have in common, then what sets them apart."""
    common = words[0][: common_length(words[0], words[-1])]
    rests = [word[len(common) :] for word in words]
    return _literal(common) if len(rests) == 1 else f"{_literal(common)} ({_alternatives(rests)})"


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
