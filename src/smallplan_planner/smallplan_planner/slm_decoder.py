"""The answer under way: its next token is sampled, and what it goes on with is evaluated.

With prompt lookup (off by default) several tokens are evaluated at once: an answer often repeats the prompt, names
above all, so what followed the last two tokens when they stood there before is tried as a draft. Each of its tokens
counts only where the model chooses the same one, and the answer is that of the model alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from smallplan_planner.slm_budget import Speed
from smallplan_planner.slm_context import ModelContext
from smallplan_planner.slm_sampling import GrammarState, Sampler


class Decoder:
    """Tokens of one answer, behind a prompt that the context has just read.

    `lookup` is how many tokens are drafted at most, 0 for none; the sampler has to choose the likeliest token then.
    What a token takes that is evaluated alone goes into `speed`.
    """

    def __init__(
        self, context: ModelContext, sampler: Sampler, speed: Speed, prompt: Sequence[int], lookup: int = 0
    ) -> None:
        self.context = context
        self.generated = 0  # tokens that the model chose
        self._sampler = sampler
        self._speed = speed
        self._lookup = lookup
        self._text = list(prompt) if lookup else []
        self._draft: list[int] = []  # evaluated, but not chosen yet
        self._at = -1  # of the tokens evaluated last, the one whose successor is next

    def sample(self) -> int:
        """The model's choice of the next token; `push` goes on with it, or with another."""
        self.generated += 1
        return self._sampler.sample(self.context, self._at)

    def sample_allowed(self, grammar: GrammarState) -> int | None:
        """In place of the token just sampled, the choice among those that the grammar allows, None without any."""
        return grammar.sample(self._sampler, self.context, self._at)

    def sample_among(self, tokens: Sequence[int]) -> int:
        """The model's choice among these as the next token."""
        self.generated += 1
        return self._sampler.choose_among(self.context, tokens, self._at)

    def push(self, tokens: Sequence[int]) -> None:
        """Go on with these tokens. Raises `Stopped` and `SlmError`."""
        begun = time.monotonic()
        if self._lookup:
            evaluated = self._push_drafted(tokens)
        else:
            self.context.evaluate(tokens)
            evaluated = len(tokens)
        if evaluated == 1:  # several together take less each
            self._speed.learn(1, time.monotonic() - begun)

    def _push_drafted(self, tokens: Sequence[int]) -> int:
        """As `push`; returns how many were evaluated, as no draft held them."""
        evaluated = 0
        for token in tokens:
            self._text.append(token)
            if self._draft and self._draft[0] == token:
                del self._draft[0]
                self._at += 1
            else:
                self._evaluate(token)
                evaluated += 1
        return evaluated

    def _evaluate(self, token: int) -> None:
        if self._draft:
            self.context.truncate(self.context.length - len(self._draft))
        room = self.context.size - self.context.length - 1
        self._draft = find_draft(self._text, min(self._lookup, room))
        self._at = 0
        self.context.evaluate_each([token, *self._draft])


def find_draft(text: Sequence[int], longest: int) -> list[int]:
    """What followed the last two tokens where they stood together before, latest place first; [] when nowhere."""
    if len(text) < 3 or longest < 1:
        return []
    before, last = text[-2], text[-1]
    for at in range(len(text) - 2, 0, -1):
        if text[at] == last and text[at - 1] == before:
            return list(text[at + 1 : at + 1 + longest])
    return []
