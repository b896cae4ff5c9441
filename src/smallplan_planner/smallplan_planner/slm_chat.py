"""Chat messages to tokens and tokens to text, by the model's own chat template and tokenizer.

No message can bring in a token of the chat template: a name in a scene graph may be anything, also `<|end|>`.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import llama_cpp
from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smallplan_planner.generation import SlmError
from smallplan_planner.prompt import Message

HEADS = ("Analysis:", "\nReasoning:", "\nCommand:")
"""The heads of an answer's lines, each with the line break before it."""

_BEGINNINGS = (",", " (", "-", ":", ".", ")")  # of the parts of a line: where it may be cut
_AT_BEGINNINGS = re.compile(f"({'|'.join(map(re.escape, _BEGINNINGS))})")
_FEW = 64
_FewTokens = llama_cpp.llama_token * _FEW  # kept, as making such a type takes longer than to tokenize a word
_SPECIAL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED


class ChatVocabulary:
    """Chat messages to tokens and tokens to text, by the model's own template and tokenizer."""

    def __init__(self, model: Any, path: Path) -> None:
        self.path = path
        self.vocab = llama_cpp.llama_model_get_vocab(model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self._pieces: dict[int, bytes | None] = {}
        self._tokens_of = lru_cache(maxsize=512)(self._tokenize_line)  # most lines are the same from answer to answer
        self._tokens_of_part = lru_cache(maxsize=1024)(self.tokenize)  # of the others, most of their parts are
        pieces = [self._bytes(token) for token in range(self.size)] if self._only_joins_pieces() else []
        # Nothing is joined with a line break behind it where no piece has one inside, and with the beginning of a part
        # only behind what stands before one in a piece.
        self._lines_stand_alone = bool(pieces) and not any(b"\n" in piece[1:] for piece in pieces)
        texts = [piece.decode("utf-8", "replace") for piece in pieces]
        self._before = {beginning: _fronts(texts, beginning) for beginning in _BEGINNINGS}
        self._frames: dict[tuple[str, ...], list[str]] = {}  # a few: templates know few roles, chats here are short
        bos, eos = llama_cpp.llama_vocab_bos(self.vocab), llama_cpp.llama_vocab_eos(self.vocab)
        self._start: list[int] = [bos] if llama_cpp.llama_vocab_get_add_bos(self.vocab) else []
        self.end = eos
        self._bos, self._eos = self._text(bos), self._text(eos)
        self._template = self._read_template(model)
        self._has_system_role = self._knows_system_role()
        self._template_tokens = self._find_template_tokens()
        texts = sorted(self._template_tokens, key=len, reverse=True)
        within = [f"(?<={re.escape(text[0])})(?={re.escape(text[1:])})" for text in texts]
        self._at_tokens = re.compile(f"({'|'.join(map(re.escape, texts))})" if texts else "(?!)()")
        self._within_tokens = re.compile("|".join(within) or "(?!)")
        self.head_tokens = {head: self._tokenize_head(head) for head in HEADS}

    def render(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """The prompt in parts: (text, whether it is a message's content rather than the template's).

        Where the template knows no system role, the system's text stands in front of the user's, as in training.
        """
        pieces = self._frame(tuple(message.role for message in messages))
        return [(messages[int(p)].content, True) if i % 2 else (p, False) for i, p in enumerate(pieces)]

    def tokenize_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """Tokens of the parts as of one text, except that the template's own are recognised in its text alone."""
        tokens, plain = list(self._start), ""
        for text, is_content in parts:
            if is_content:
                # A tokenizer finds user-defined tokens in any text: break up those that the template uses.
                held = any(token in text for token in self._template_tokens)  # hardly ever, and looking is quick
                for index, piece in enumerate(self._within_tokens.split(text) if held else [text]):
                    if index > 0:
                        tokens += self._tokenize_plain(plain)
                        plain = ""
                    plain += piece
                continue
            for index, piece in enumerate(self._at_tokens.split(text)):
                if index % 2:
                    tokens += [*self._tokenize_plain(plain), self._template_tokens[piece]]
                    plain = ""
                else:
                    plain += piece
        return tokens + self._tokenize_plain(plain)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Tokens of a text alone; those that are control tokens are found in it only with `special`."""
        data = text.encode("utf-8", "replace")
        if not data:
            return []
        tokens = _FewTokens() if len(data) + 2 <= _FEW else (llama_cpp.llama_token * (len(data) + 2))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), False, special)
        if count < 0:
            raise SlmError(f"{self.path}: its tokenizer made {-count} tokens of {len(data)} bytes")
        return list(tokens[:count])

    def _tokenize_plain(self, text: str) -> list[int]:
        """As `tokenize`, of lines that are known already where the vocabulary lets them stand alone."""
        if not self._lines_stand_alone:
            return self._tokens_of(text)
        first, *lines = text.split("\n")
        tokens = list(self._tokens_of(first))
        for line in lines:
            tokens += self._tokens_of(f"\n{line}")
        return tokens

    def _tokenize_line(self, line: str) -> list[int]:
        """As `tokenize`, part by part where the vocabulary lets them stand alone, each with what it begins with."""
        if not self._lines_stand_alone:
            return self.tokenize(line)
        part, *others = _AT_BEGINNINGS.split(line)
        tokens: list[int] = []
        for beginning, rest in zip(others[::2], others[1::2]):
            if part.endswith(self._before[beginning]):
                part += beginning + rest
            else:
                tokens += self._tokens_of_part(part)
                part = beginning + rest
        return tokens + self._tokens_of_part(part)

    def _only_joins_pieces(self) -> bool:
        """Whether the tokenizer only joins what makes a piece of its vocabulary, as SentencePiece's do.

        Others split a text by rules of their own first.
        """
        if llama_cpp.llama_vocab_type(self.vocab) != llama_cpp.LLAMA_VOCAB_TYPE_SPM:
            return False
        if self.tokenize("a\na") != self.tokenize("a") + self.tokenize("\na"):  # it puts a space before a text
            return False
        strips = llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP | llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP  # white space, line breaks too
        return not any(llama_cpp.llama_vocab_get_attr(self.vocab, token) & strips for token in range(self.size))

    def tokenize_after(self, head: str, text: str) -> list[int]:
        """Tokens of a text as they are behind one of `HEADS`; some tokenizers put a space before a text alone."""
        tokens, before = self.tokenize(head + text), self.head_tokens[head]
        return tokens[len(before) :] if tokens[: len(before)] == before else self.tokenize(text)

    def piece(self, token: int) -> bytes | None:
        """The token's text, None when it ends an answer: an end token, or any other control token."""
        if token not in self._pieces:
            ends = llama_cpp.llama_vocab_is_eog(self.vocab, token)
            ends = ends or llama_cpp.llama_vocab_is_control(self.vocab, token)
            self._pieces[token] = None if ends else self._bytes(token)
        return self._pieces[token]

    def _read_template(self, model: Any) -> Template:
        source = llama_cpp.llama_model_chat_template(model, None)
        if not source:
            raise SlmError(f"{self.path} has no chat template (tokenizer.chat_template); use a model made for chats")
        try:
            environment = ImmutableSandboxedEnvironment(
                trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
            )
            return environment.from_string(source.decode())
        except (TemplateError, UnicodeDecodeError) as error:
            raise SlmError(f"{self.path}: its chat template can't be read: {error}") from error

    def _frame(self, roles: tuple[str, ...]) -> list[str]:
        """What the template puts before, between and behind messages of these roles, and there each one's number."""
        if roles not in self._frames:
            self._frames[roles] = self._make_frame(roles)
        return self._frames[roles]

    def _make_frame(self, roles: tuple[str, ...]) -> list[str]:
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        chat = [{"role": role, "content": mark} for role, mark in zip(roles, marks)]
        if not self._has_system_role and roles[:2] == ("system", "user"):
            chat[:2] = [{"role": "user", "content": f"{marks[0]}\n\n{marks[1]}"}]
        try:
            text = self._fill(chat)
        except TemplateError as error:
            raise SlmError(f"{self.path}: its chat template refuses the messages: {error}") from error
        pieces = re.split("\ue000(\\d+)\ue001", text)
        if [int(index) for index in pieces[1::2]] != list(range(len(roles))):
            raise SlmError(f"{self.path}: its chat template does not show every message once and in order")
        if self._start and self._bos:
            pieces[0] = pieces[0].removeprefix(self._bos)  # the tokenizer puts it there
        return pieces

    def _fill(self, chat: Sequence[Mapping[str, str]]) -> str:
        return self._template.render(
            messages=chat,
            bos_token=self._bos,
            eos_token=self._eos,
            add_generation_prompt=True,
            raise_exception=_refuse_chat,
        )

    def _knows_system_role(self) -> bool:
        """Whether the template shows what a system message says; some raise on one, some leave it out."""
        try:
            return "\ue000" in self._fill([{"role": "system", "content": "\ue000"}, {"role": "user", "content": "u"}])
        except TemplateError:
            return False

    def _find_template_tokens(self) -> dict[str, int]:
        """Text to id of the special tokens that the template uses. White space may be one, too, and is no structure."""
        found = {}
        for part, is_content in self.render([Message("system", "s"), Message("user", "u")]):
            for token in [] if is_content else self.tokenize(part, special=True):
                text = self._text(token)
                is_special = llama_cpp.llama_vocab_get_attr(self.vocab, token) & _SPECIAL
                if is_special and len(text) > 1 and not text.isspace():
                    found[text] = token
        return found

    def _tokenize_head(self, head: str) -> list[int]:
        """The tokens of a line head as they are before text: some tokenizers join the space to the head."""
        tokens = self.tokenize(head + (" explore(kitchen)" if head == HEADS[-1] else " The"))
        text, count = b"", 0
        while len(text) < len(head):
            text += self._bytes(tokens[count])
            count += 1
        return tokens[:count] if text.decode("utf-8", "replace").rstrip(" ") == head else self.tokenize(head)

    def _bytes(self, token: int) -> bytes:
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def _text(self, token: int) -> str:
        return self._bytes(token).decode("utf-8", "replace") if token >= 0 else ""


def _fronts(pieces: Sequence[str], beginning: str) -> tuple[str, ...]:
    """What stands in a piece before a beginning, all of it or its first characters: these two may be joined."""
    return tuple(
        {
            piece[:at]
            for piece in pieces
            for at in range(1, len(piece))
            if piece.startswith(beginning, at) or beginning.startswith(piece[at:])
        }
    )


def _refuse_chat(message: str) -> None:
    raise TemplateError(message)
