"""A tiny model for the tests that run llama.cpp: made once a session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("smallplan", deadline=None)  # machines that run tests are busy
settings.load_profile("smallplan")


@dataclass(frozen=True)
class TinyModel:
    path: Path
    tokenizer: Any  # sentencepiece.SentencePieceProcessor


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    from fixtures.tiny_gguf import write_tiny_gguf

    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return TinyModel(path, write_tiny_gguf(path))


@pytest.fixture(scope="session")
def tiny_slm(tiny_model: TinyModel) -> Iterator[Any]:
    """A loaded model; what it answers does not depend on what it was asked before, so tests may share it."""
    from smallplan_planner.slm import AnswerLimits, Slm

    with Slm(tiny_model.path, n_ctx=2048, n_threads=1, limits=AnswerLimits(12, 12)) as slm:
        yield slm
