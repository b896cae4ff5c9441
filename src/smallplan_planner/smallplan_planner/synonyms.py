"""Words for the same thing, from `config/synonyms.yaml`: `couch` is a `sofa` to whoever asks for it."""

from __future__ import annotations

from functools import lru_cache

import yaml

from smallplan_planner.resources import resource


@lru_cache(maxsize=1)
def _canonical_words() -> dict[str, str]:
    path = resource("config", "synonyms.yaml")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    words: dict[str, str] = {}
    for section in ("synonyms", "rooms"):
        for word, others in data[section].items():
            for other in others:
                if words.setdefault(other, word) != word:
                    raise ValueError(f"{path}: {other!r} stands under {words[other]!r} and under {word!r}; remove one")
    return words


@lru_cache(maxsize=65536)
def canonical(word: str) -> str:
    """The word that stands for this one and its synonyms; a plural counts as its singular. Lower case in and out."""
    known = _canonical_words()
    if word in known:
        return known[word]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        singular = word[:-1]
        return known.get(singular, word if word in known.values() else singular)
    return word


@lru_cache(maxsize=4096)
def words_for(word: str) -> tuple[str, ...]:
    """All words for the thing that `word` means, itself included."""
    stands_for = canonical(word)
    return (word, *(other for other, known in _canonical_words().items() if known == stands_for and other != word))
