"""How long an answer is going to take, by the speeds measured so far, and when it has to be cut to meet a deadline.

No llama.cpp in here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_MARGIN = 1.35  # a prediction is believed to be this much too short at most: tokens are counted, speeds vary
_RESERVE = 0.005  # s for what is no token
_NEWEST_PROMPT = 0.3  # weight of the prompt that was read last
_NEWEST_TOKEN = 0.1  # the same of a token: a hiccup tells little of the next ten, a busy processor is soon noticed


class Speed:
    """Seconds that one token takes: a mean in which old measurements fade. 0 until something was measured.

    `newest` is the weight of the newest measurement, from 0 to 1.
    """

    def __init__(self, newest: float) -> None:
        self.seconds = 0.0
        self._newest = newest

    def learn(self, tokens: int, seconds: float) -> None:
        if tokens < 1 or seconds <= 0:
            return
        measured = seconds / tokens
        self.seconds += (measured - self.seconds) * (self._newest if self.seconds else 1.0)

    @property
    def tokens_per_second(self) -> float:
        return 1 / self.seconds if self.seconds else 0.0


class Speeds:
    """What was measured of one model: how fast a prompt is read, and how fast an answer is written.

    `text` is that of tokens that are evaluated one at a time: several together take less each, a right draft nothing.
    """

    def __init__(self) -> None:
        self.prompt = Speed(_NEWEST_PROMPT)
        self.text = Speed(_NEWEST_TOKEN)

    def writing_seconds(self, tokens: int) -> float:
        """What writing so many tokens takes, with a margin."""
        return tokens * self.text.seconds * _MARGIN + _RESERVE


class TextBudget:
    """Says, token by token, whether there is still time for text before the command that must stand at the end.

    `end` is when the answer is due (s, `time.monotonic`), None: never. The command and its line head take at most
    `rough` tokens. `count` tells how many at most in the tokenizer's own spelling; with many commands it takes a while,
    so it is asked only where `rough` would be late, and from then on time `is_short`: the command has to be spelled so.
    """

    def __init__(self, speeds: Speeds, end: float | None, rough: int, count: Callable[[], int]) -> None:
        self.is_short = False
        self._speeds = speeds
        self._end = end
        self._command = rough
        self._count = count

    def allows_token(self) -> bool:
        """Whether one more token of text can be written, and the command after it; to be asked before each."""
        if self._end is None or self._is_in_time(self._end):
            return True
        if self.is_short:
            return False
        self.is_short = True
        self._command = self._count()
        return self._is_in_time(self._end)

    def _is_in_time(self, end: float) -> bool:
        return time.monotonic() + self._speeds.writing_seconds(1 + self._command) < end
