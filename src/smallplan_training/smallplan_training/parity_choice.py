"""The likeliest of a few texts, token by token, as `slm.py` chooses under a grammar; here in transformers.

A model that was not trained for the planner writes no command, but it prefers one to the others all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from smallplan_planner.actions import ActionKind
from smallplan_planner.grammar import ChoiceGrammar
from smallplan_planner.prompt import PromptView, listed_surfaces
from smallplan_training.chat import Chat
from smallplan_training.teachers.expert import option_command


def open_commands(view: PromptView) -> ChoiceGrammar:
    """The commands that are open in what a prompt shows."""
    kinds = (
        (ActionKind.GO_TO_AND_OPEN, (*view.doors, *view.containers)),
        (ActionKind.NAVIGATE, listed_surfaces(view)),
        (ActionKind.EXPLORE, view.spaces),
    )
    commands = [option_command(kind, option) for kind, options in kinds for option in options]
    return ChoiceGrammar((*dict.fromkeys(commands), f"{ActionKind.DONE.verb}()"))


class Chooser:
    """Chooses with a causal language model of transformers."""

    def __init__(self, model: Any, chat: Chat) -> None:
        self._model, self._chat = model, chat
        self._pieces = _pieces(chat.tokenizer, model.config.vocab_size)

    @torch.inference_mode()
    def choose(self, prompt_ids: Sequence[int], grammar: ChoiceGrammar) -> str:
        """The choice that follows a prompt: always the likeliest token that leads to one."""
        choices = [choice.encode() for choice in grammar.choices]
        new, cache, text = list(prompt_ids), None, b""
        while (chosen := grammar.complete(text)) is None:
            made = self._model(torch.tensor([new]), past_key_values=cache, use_cache=True)
            cache = made.past_key_values
            token = next(
                int(token)
                for token in made.logits[0, -1].argsort(descending=True)
                if (piece := self._pieces[int(token)]) and any(c.startswith(text + piece) for c in choices)
            )
            new, text = [token], text + self._pieces[token]
        return chosen


def _pieces(tokenizer: Any, size: int) -> list[bytes]:
    """What each token adds to a text; nothing for special tokens and for those that are no whole character."""
    start = tokenizer("a", add_special_tokens=False)["input_ids"]
    before = tokenizer.decode(start)
    pieces = []
    for token in range(size):
        text = tokenizer.decode([*start, token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        pieces.append(text.removeprefix(before).encode() if text.startswith(before) else b"")
    return pieces
