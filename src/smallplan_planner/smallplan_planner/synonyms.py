"""Words for the same thing, from `config/synonyms.yaml`: `couch` is a `sofa` to whoever asks for it."""

from __future__ import annotations

from functools import lru_cache

from smallplan_planner.resources import read_yaml, resource


@lru_cache(maxsize=1)
def load_synonyms() -> dict[str, str]:
    """Word to the one that stands for it, read once. Raises ValueError for a word that two stand for."""
    path = resource("config", "synonyms.yaml")
    data = read_yaml(path)
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
    known = load_synonyms()
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
    return (word, *(other for other, known in load_synonyms().items() if known == stands_for and other != word))
