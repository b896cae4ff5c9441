"""What the model reads and answers to name a room: a short prompt of its own, apart from the decisions.

The model is told what was seen in the room and answers with one of the room types, `other room` when uncertain.
A room in which nothing with a name was seen is no question: it is `other room` without asking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from smallplan_planner.actions import ParseError
from smallplan_planner.grammar import ChoiceGrammar
from smallplan_planner.names import UNCERTAIN_ROOM, shorten
from smallplan_planner.priors import load_priors
from smallplan_planner.prompt import Message

MAX_WORDS = 8
"""Things that one question lists. More tell nothing new, and what is not listed is no reason to ask again."""


def room_words(labels: Iterable[str], limit: int = MAX_WORDS) -> tuple[str, ...]:
    """What a question lists for these labels: their distinct words in the order of the labels, '' never.

    Of more than `limit` those are taken that tell the most about a room's type (`Priors.room_evidence`), of equal ones
    the first.
    """
    return _most_telling(_distinct_words(labels), limit)


def render_room(labels: Iterable[str], room_types: Sequence[str], limit: int = MAX_WORDS) -> list[Message]:
    """The question as chat messages, which says how many words it leaves out beyond `limit`.

    Labels that are new stand behind the others, so that what is asked again begins as before.

    Raises ValueError when no label has a letter or digit: don't ask then.
    """
    everything = _distinct_words(labels)
    words = _most_telling(everything, limit)
    if not words:
        raise ValueError("a room in which nothing was seen is not asked about; it is `other room`")
    types = ", ".join(room_answers(room_types))
    more = f", and {len(everything) - len(words)} more" if len(words) < len(everything) else ""
    return [
        Message("system", f"You name a room of a house by what was seen in it. Answer with one room type:\n{types}."),
        Message("user", f"Seen: {', '.join(words)}{more}.\nRoom type:"),
    ]


def room_answers(room_types: Sequence[str]) -> tuple[str, ...]:
    """Everything that may be answered: the room types and, last, `other room`."""
    return (*room_types, UNCERTAIN_ROOM)


def parse_room(text: str, room_types: Sequence[str]) -> str:
    """The room type that was answered, in any case and with or without a full stop; raises `ParseError`."""
    answer = " ".join(text.split()).rstrip(".").lower()
    if answer not in room_answers(room_types):
        shown = answer if len(answer) <= 40 else answer[:40] + "…"
        raise ParseError(f"the answer {shown!r} is no room type; expected one of {', '.join(room_answers(room_types))}")
    return answer


def room_grammar(room_types: Sequence[str]) -> ChoiceGrammar:
    """What may be answered: a room type or `other room`, and nothing else."""
    return ChoiceGrammar(room_answers(room_types))


def _distinct_words(labels: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(map(shorten, labels)) if word]


def _most_telling(words: Sequence[str], limit: int) -> tuple[str, ...]:
    if len(words) > limit:
        telling = set(sorted(words, key=_evidence, reverse=True)[:limit])
        words = [word for word in words if word in telling]
    return tuple(words)


@lru_cache(maxsize=4096)  # the same few words come at every observation
def _evidence(word: str) -> float:
    return load_priors().room_evidence(word)
