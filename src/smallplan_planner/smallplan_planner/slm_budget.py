"""How long an answer is going to take, by the speeds measured so far, and when it has to be cut to meet a deadline.

No llama.cpp in here.
"""

from __future__ import annotations

import time

_MARGIN = 1.25  # a prediction is believed to be this much too short at most
_COMMAND_MARGIN = 1.75  # the same of a command: late by a token it is lost, and it may be spelled in more tokens
_RESERVE = 0.005  # s for what is no token
_NEWEST = 0.3  # weight of the newest measurement
_GRAMMAR = 1.5  # a token under a grammar is believed to take this much longer, until one was measured
_ENOUGH = 4  # tokens that tell a speed


class Speed:
    """Seconds that one token takes: a mean in which old measurements fade. 0 until something was measured."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        if tokens < 1 or seconds <= 0:
            return
        newest = seconds / tokens
        self.seconds = newest if not self.seconds else (1 - _NEWEST) * self.seconds + _NEWEST * newest

    @property
    def tokens_per_second(self) -> float:
        return 1 / self.seconds if self.seconds else 0.0


class Speeds:
    """What was measured of one model: a prompt is read, text is written, a command is written under its grammar."""

    def __init__(self) -> None:
        self.prompt = Speed()
        self.text = Speed()
        self.command = Speed()

    def command_seconds(self, tokens: int) -> float:
        """What a command takes that is believed to have `tokens` tokens, with a margin.

        None is believed to take less than one of text: a short command has tokens that cost nothing, as what is
        decided is not evaluated, and the next one may be long.
        """
        rate = max(self.command.seconds, self.text.seconds) if self.command.seconds else self.text.seconds * _GRAMMAR
        return tokens * rate * _COMMAND_MARGIN + _RESERVE


class TextBudget:
    """Says, token by token, whether there is still time for text before the command that must stand at the end.

    `end` is when the answer is due (s, `time.monotonic`), None: never. `command` is how many tokens the command and
    its line head take at most.
    """

    def __init__(self, speeds: Speeds, end: float | None, command: int) -> None:
        self._speeds = speeds
        self._end = end
        self._command = command
        self._begun = 0.0
        self._written = 0

    def allows_token(self) -> bool:
        """Whether one more token of text can be written, and the command after it; to be asked before each."""
        if self._end is None:
            return True
        now = time.monotonic()
        self._begun = self._begun or now
        rate = self._speeds.text.seconds
        if self._written >= _ENOUGH:  # slower than usual: other processes compete
            rate = max(rate, (now - self._begun) / self._written)
        slower = rate / self._speeds.text.seconds if self._speeds.text.seconds else 1.0
        self._written += 1
        return now + rate * _MARGIN + self._speeds.command_seconds(self._command) * slower < self._end
