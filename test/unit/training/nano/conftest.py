"""A tokenizer, samples and a tiny model, made once."""

from __future__ import annotations

from itertools import islice

import pytest

from smallplan_planner.priors import load_priors
from smallplan_training.nano.model import ModelConfig
from smallplan_training.nano.situations import imagined_samples
from smallplan_training.nano.tokenizer import NanoTokenizer, train_tokenizer
from smallplan_training.sample_tokens import tokenise
from smallplan_training.samples import Sample
from smallplan_training.token_batches import SampleSet

VOCABULARY = 2000


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Mostly short ones, which train faster."""
    made = list(islice(imagined_samples(load_priors(), 1), 320))
    return sorted(made[:300], key=lambda sample: len(sample.messages[1].content))[:80] + made[300:]


@pytest.fixture(scope="session")
def tokenizer(samples: list[Sample]) -> NanoTokenizer:
    texts = ["\n" + message.content for sample in samples for message in sample.messages]
    priors = load_priors()
    names = [*priors.rooms, *priors.furniture, *priors.objects]
    return NanoTokenizer(train_tokenizer(texts, [sample.answer for sample in samples], names, VOCABULARY))


@pytest.fixture(scope="session")
def sample_set(samples: list[Sample], tokenizer: NanoTokenizer) -> SampleSet:
    return tokenise(samples, tokenizer, 1000)[0]


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCABULARY, width=64, layers=2, heads=4, kv_heads=2, feed_forward=96, max_positions=1024
    )
