"""Chats as token ids, as the model's own chat template and tokenizer have them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from smallplan_planner.prompt import Message
from smallplan_training.errors import UserError
from smallplan_training.model_recipes import ModelRecipe

_MARK = "smallplan-answer"


class Chat:
    """Messages and answers to token ids, and back. `tokenizer` is a transformers tokenizer with a chat template.

    `encode_prompt` gives what `tokenizer.apply_chat_template(messages, add_generation_prompt=True)` gives; where a
    template knows no system role, the system's text stands in front of the user's. Raises `UserError`.
    """

    def __init__(self, tokenizer: Any, recipe: ModelRecipe) -> None:
        template = recipe.chat_template or tokenizer.chat_template
        if not isinstance(template, str):
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template; use a model made for chats "
                "(its name often ends in Instruct), or set chat_template in a recipe"
            )
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.chat_template = _fix(template, recipe.template_constants)
        self.has_system_role = self._knows_system_role()
        vocabulary = self.tokenizer.get_vocab()
        self.end_id = self._find_end(recipe.end_of_turn, vocabulary)
        stops = {vocabulary[token] for token in recipe.stop_tokens if token in vocabulary}
        own = self.tokenizer.eos_token_id
        self.end_ids = frozenset({self.end_id, *stops, *([] if own is None else [own])})
        if recipe.pad_token in vocabulary:
            self.pad_id = int(vocabulary[recipe.pad_token])
        else:  # padding is never scored nor attended to, so any id will do
            self.pad_id = self.end_id if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)
        self.vocab_size = len(self.tokenizer)

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat, up to where the assistant's answer begins."""
        ids = self.tokenizer.apply_chat_template(
            self._turns(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return [int(token) for token in ids]

    def encode_answer(self, answer: str) -> list[int]:
        """Token ids of an answer, the end of the turn included; special tokens in it are text."""
        ids = self.tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*(int(token) for token in ids), self.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens are left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def render(self, messages: Sequence[Message]) -> str:
        """The chat as text, up to where the assistant's answer begins."""
        turns = self._turns(messages)
        return str(self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))

    def _turns(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        if self.has_system_role or not turns or turns[0]["role"] != "system":
            return turns
        system, *rest = turns
        if not rest or rest[0]["role"] != "user":
            return [{"role": "user", "content": system["content"]}, *rest]
        return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]

    def _knows_system_role(self) -> bool:
        turns = [{"role": "system", "content": _MARK}, {"role": "user", "content": "u"}]
        try:
            return _MARK in self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except TemplateError:
            return False  # such templates raise on a system message

    def _find_end(self, end_of_turn: str, vocabulary: Mapping[str, int]) -> int:
        """The id of the token behind an answer: the recipe's, else the template's, else the end of text."""
        if end_of_turn:
            if end_of_turn not in vocabulary:
                raise UserError(
                    f"the tokenizer {self.tokenizer.name_or_path!r} has no token {end_of_turn!r}, which the recipe "
                    "names as end_of_turn; use a recipe that fits the model"
                )
            return int(vocabulary[end_of_turn])
        turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": _MARK}]
        tail = self.tokenizer.apply_chat_template(turns, tokenize=False).partition(_MARK)[2]
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"]
        added = self.tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
        if added is not None and added.special:
            return int(ids[0])
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer {self.tokenizer.name_or_path!r} has no token that ends an answer; "
                "name one as end_of_turn and in stop_tokens of a recipe"
            )
        return int(self.tokenizer.eos_token_id)


def _fix(template: str, constants: Mapping[str, str]) -> str:
    """The template with some of its variables fixed, so that whoever renders it gets the same text."""
    lines = (f"{{%- set {name} = {str(value)!r} -%}}" for name, value in constants.items())
    return "".join(lines) + template
