"""Choices in the tokenizer's own spelling, for an answer that is short of time.

Under a grammar a model may write a name in any tokens that make it up, letter by letter at worst, so nobody knows how
many are to come. Here each choice has one spelling: how many tokens have to be evaluated is known before, and where all
choices left go on alike, the model is not asked. No llama.cpp in here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from smallplan_planner.grammar import common_length


class Spellings:
    """Choices (at least one) with their tokens, and how many of these, the same for all, are `written` already.

    No choice's tokens may be the beginning of another's: let all end with an end token.
    """

    def __init__(self, spelled: Iterable[tuple[Sequence[int], str]], written: int = 0) -> None:
        self._spelled = sorted((tuple(tokens), choice) for tokens, choice in spelled)
        self._first, self._last = self._spelled[0][0], self._spelled[-1][0]
        self._written = written
        self._shared = common_length(self._first, self._last)

    @property
    def longest(self) -> int:
        """Tokens that have to be evaluated at most until a single choice is left; the last one decides, and is not."""
        tokens = [tokens for tokens, _ in self._spelled]
        return max(map(common_length, tokens, tokens[1:]), default=self._written) - self._written

    @property
    def only(self) -> str | None:
        """The choice when a single one is left, or several that are spelled alike: nothing tells these apart."""
        return self._spelled[0][1] if self._first == self._last else None

    @property
    def forced(self) -> list[int]:
        """Tokens with which all choices go on alike: those to evaluate before `open` can be chosen among."""
        return list(self._first[self._written : self._shared])

    @property
    def open(self) -> list[int]:
        """The tokens behind `forced` by which choices differ."""
        return sorted({tokens[self._shared] for tokens, _ in self._spelled})

    def after(self, token: int) -> Spellings:
        """The choices that are left when `forced` is written and `token`, which is `open`, was chosen."""
        left = [(tokens, choice) for tokens, choice in self._spelled if tokens[self._shared] == token]
        return Spellings(left, self._shared)

    def among(self, choices: Collection[str]) -> Spellings:
        """Only these of the choices; at least one of them has to be here."""
        kept = set(choices)
        return Spellings([(tokens, choice) for tokens, choice in self._spelled if choice in kept], self._written)
