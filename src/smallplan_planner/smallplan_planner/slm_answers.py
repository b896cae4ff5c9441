"""The shapes of an answer: three lines of which the last is a command, one choice, or free text.

Analysis and reasoning are free text of bounded length; only the command line is under the grammar. A section that
ends early, grows too long or has no time left is closed by putting the next line head in, so an answer under a
grammar is always well-formed. Where time is short, the command is written in the tokenizer's own spelling.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

from smallplan_planner.generation import SlmError
from smallplan_planner.grammar import ChoiceGrammar, CommandGrammar, FreeLine
from smallplan_planner.slm_budget import Speeds, TextBudget
from smallplan_planner.slm_chat import HEADS, ChatVocabulary
from smallplan_planner.slm_decoder import Decoder
from smallplan_planner.slm_sampling import GrammarState
from smallplan_planner.slm_spelling import Spellings


@dataclass(frozen=True)
class AnswerLimits:
    """Tokens that the free text may take. Raises ValueError when one is below 1."""

    analysis: int = 96
    reasoning: int = 128
    command: int = 96  # only without a grammar, which bounds it by itself

    def __post_init__(self) -> None:
        if min(self.analysis, self.reasoning, self.command) < 1:
            raise ValueError(f"limits of an answer are at least 1 token each, got {self}")


DEFAULT_LIMITS = AnswerLimits()


class AnswerWriter:
    """Writes one answer with a decoder, whose context has just read the prompt (and the first line head, where there
    is one). `end` is when it is due (s, `time.monotonic`), None: never; `speeds` is what was measured so far."""

    def __init__(
        self, decoder: Decoder, chat: ChatVocabulary, limits: AnswerLimits, speeds: Speeds, end: float | None
    ) -> None:
        self.cut = False  # text was left out to be in time
        self.grammar_time = 0.0  # s that the grammar took
        self._decoder = decoder
        self._chat = chat
        self._limits = limits
        self._speeds = speeds
        self._end = end

    def write_freely(self, line: FreeLine | None) -> str:
        """Text up to the end token, the end of the command line (or of a short answer's line), or the limit."""
        text = bytearray()
        limits = self._limits
        for _ in range(line.longest if line is not None else limits.analysis + limits.reasoning + limits.command):
            token = self._decoder.sample()
            piece = self._chat.piece(token)
            if piece is None:
                break
            text += piece
            if line is not None and b"\n" in text.lstrip():
                break
            if b"\n" in piece and re.search(rb"(^|\n)Command:[^\n]*\n", text):
                break
            self._decoder.push([token])
        return text.decode("utf-8", "replace")

    def write_sections(self, grammar: CommandGrammar) -> tuple[str, str, str]:
        """Analysis, reasoning and command. The first two are cut where the command would be late otherwise."""
        spellings = cache(partial(self._spell, grammar))  # with a thousand commands it takes 20 ms
        head_tokens = len(self._chat.head_tokens[HEADS[-1]])
        rough = head_tokens + len(grammar.lead) + grammar.longest
        budget = TextBudget(self._speeds, self._end, rough, lambda: head_tokens + spellings().longest)
        analysis, head = self._write_section(self._limits.analysis, HEADS[1:], budget)
        reasoning = ""
        if head == HEADS[1]:
            reasoning, _ = self._write_section(self._limits.reasoning, HEADS[2:], budget)
        open_now = grammar.in_haste if self.cut else grammar
        if budget.is_short:
            return analysis, reasoning, self._write_spelled(spellings().among(open_now.choices))
        return analysis, reasoning, self.write_choice(open_now)

    def write_choice(self, grammar: ChoiceGrammar) -> str:
        """A choice of the grammar, a command for instance: the likeliest by the model's own choice of tokens."""
        text, choice = b"", grammar.complete(b"")
        with GrammarState(self._chat.vocab, grammar) as state:
            while choice is None:
                token = self._decoder.sample()
                asked = time.monotonic()
                piece = self._chat.piece(token)
                if not piece or not grammar.allows(text + piece):
                    token = self._sample_allowed(state)
                    piece = self._chat.piece(token) or b""
                if not piece:  # the end of a choice that is the beginning of another one
                    choice = text[len(grammar.lead) :].decode()
                    break
                state.accept(token)
                text += piece
                choice = grammar.complete(text[len(grammar.lead) :])
                self.grammar_time += time.monotonic() - asked
                if choice is None:  # else nothing comes after it
                    self._decoder.push([token])
        return choice

    def _spell(self, grammar: CommandGrammar) -> Spellings:
        """The commands as the tokenizer spells them behind their line head."""
        spell = partial(self._chat.tokenize_after, HEADS[-1])
        return Spellings(([*spell(grammar.lead + text), self._chat.end], text) for text in grammar.choices)

    def _write_spelled(self, spellings: Spellings) -> str:
        """One of these choices: where they differ, the likeliest next token of them."""
        while (choice := spellings.only) is None:
            self._decoder.push(spellings.forced)
            asked = time.monotonic()
            spellings = spellings.after(self._decoder.sample_among(spellings.open))
            self.grammar_time += time.monotonic() - asked
        return choice

    def _sample_allowed(self, state: GrammarState) -> int:
        """The choice among the tokens that the grammar allows, for when the free choice is none of them."""
        token = self._decoder.sample_allowed(state)
        if token is None:
            raise SlmError(f"{self._chat.path}: its tokenizer can't spell any answer that is open")
        return token

    def _write_section(self, limit: int, heads: Sequence[str], budget: TextBudget) -> tuple[str, str]:
        """Free text up to the next line head, which is put in where the model does not write it."""
        text = bytearray()
        endings = [(head, head.encode()) for head in heads]
        for _ in range(limit):
            if not budget.allows_token():
                self.cut = True
                self._decoder.push(self._chat.head_tokens[heads[-1]])
                return _one_line(text), heads[-1]
            token = self._decoder.sample()
            piece = self._chat.piece(token)
            if piece is None:
                break
            text += piece
            if b":" in piece:  # a head ends so
                for head, ending in endings:
                    at = text.find(ending, max(0, len(text) - len(piece) - len(ending)))
                    if at >= 0:
                        self._decoder.push(self._cut_after(head, token, piece, len(text) - at - len(head)))
                        return _one_line(text[:at]), head
            self._decoder.push([token])
        self._decoder.push(self._chat.head_tokens[heads[0]])
        return _one_line(text), heads[0]

    def _cut_after(self, head: str, token: int, piece: bytes, surplus: int) -> list[int]:
        """A head's last token, without the `surplus` bytes that it holds beyond the head; a space may stay in text."""
        may_stay = surplus == 0 or (head != HEADS[-1] and piece[-surplus:] == b" ")
        return [token] if may_stay else self._chat.tokenize(piece[: len(piece) - surplus].decode("utf-8", "replace"))


def _one_line(text: bytes | bytearray) -> str:
    """Printable text on one line: a model may write anything, and this goes to logs and terminals."""
    shown = text.decode("utf-8", "replace")
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else " " for c in shown)
    return " ".join(shown.split())
