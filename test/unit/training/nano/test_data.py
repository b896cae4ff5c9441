from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from smallplan_training.nano.tokenizer import NanoTokenizer
from smallplan_training.sample_tokens import tokenise
from smallplan_training.samples import Sample
from smallplan_training.token_batches import (
    BatchStream,
    SampleSet,
    concatenate,
    make_batch,
    plan_epoch,
)


def test_only_the_answer_is_scored(sample_set: SampleSet, samples: list[Sample], tokenizer: NanoTokenizer) -> None:
    batch = make_batch(sample_set, [3, 90], tokenizer.pad_id)
    for row, index in enumerate((3, 90)):
        counted = batch.weights[row] > 0
        assert batch.targets[row][counted].tolist() == tokenizer.encode_answer(samples[index].answer)
        # each target stands right behind the position that predicts it
        assert batch.ids[row][batch.scored[row][counted] + 1].tolist() == batch.targets[row][counted].tolist()
        assert batch.ids[row][: sample_set.prompts[index]].tolist() == tokenizer.encode_prompt(samples[index].messages)


def test_a_prompt_weight_scores_the_prompt_a_little(sample_set: SampleSet, tokenizer: NanoTokenizer) -> None:
    batch = make_batch(sample_set, [5], tokenizer.pad_id, prompt_weight=0.25)
    prompt, length = int(sample_set.prompts[5]), int(sample_set.lengths[5])
    assert batch.weights[0, : prompt - 1].unique().tolist() == [0.25]
    assert batch.weights[0, prompt - 1 : length - 1].unique().tolist() == [1.0]
    assert batch.weights[0, length - 1 :].sum() == 0


def test_long_samples_are_left_out(samples: list[Sample], tokenizer: NanoTokenizer) -> None:
    short, stats = tokenise(samples, tokenizer, 200)
    assert 0 < len(short) < len(samples)
    assert short.lengths.max() <= 200 < stats.longest
    assert (stats.kept, stats.too_long) == (len(short), len(samples) - len(short))
    assert short.ids.dtype == np.uint16, "a vocabulary this small takes two bytes a token"


def test_an_epoch_has_every_sample_once_within_the_tokens(sample_set: SampleSet) -> None:
    plan = plan_epoch(sample_set.lengths, 2048, seed=1, epoch=0)
    assert sorted(index for batch in plan for index in batch) == list(range(len(sample_set)))
    for batch in plan:
        longest = -(-int(sample_set.lengths[batch].max()) // 8) * 8
        assert len(batch) == 1 or longest * len(batch) <= 2048
    assert plan == plan_epoch(sample_set.lengths, 2048, seed=1, epoch=0)
    assert plan != plan_epoch(sample_set.lengths, 2048, seed=1, epoch=1)


def test_a_stream_goes_on_where_it_stood(sample_set: SampleSet) -> None:
    whole = BatchStream(sample_set, 4096, 0, 3)
    expected = [next(whole).ids for _ in range(30)]
    first = BatchStream(sample_set, 4096, 0, 3)
    for _ in range(17):
        next(first)
    assert first.epoch > 0
    second = BatchStream(sample_set, 4096, 0, 3)
    second.restore(first.state)
    assert all((next(second).ids == ids).all() for ids in expected[17:])


def test_a_stream_refuses_the_state_of_other_data(sample_set: SampleSet) -> None:
    other = BatchStream(sample_set.take(np.arange(10)), 4096, 0, 3)
    with pytest.raises(ValueError, match="10 samples, the data has 100"):
        BatchStream(sample_set, 4096, 0, 3).restore(other.state)


def test_sets_are_saved_joined_and_split(sample_set: SampleSet, tmp_path: Path) -> None:
    sample_set.save(tmp_path / "set.npz")
    loaded = SampleSet.load(tmp_path / "set.npz")
    rest, held_out = loaded.split(30, seed=2)
    assert (len(rest), len(held_out)) == (70, 30)
    joined = concatenate([rest, held_out])
    assert sorted(joined.lengths) == sorted(sample_set.lengths)
    assert joined.ids.sum() == sample_set.ids.sum()
    assert (joined.ids[joined.starts[70] : joined.starts[71]] == held_out.ids[: held_out.lengths[0]]).all()


def test_a_mark_stands_at_the_token_that_ends_its_thing(samples: list[Sample], tokenizer: NanoTokenizer) -> None:
    data = tokenise(samples, tokenizer, 1000, tokenizer.locate_marks)[0]
    assert len(data) == len(samples)
    for index, sample in enumerate(samples):
        prompt = slice(data.starts[index], data.starts[index] + data.prompts[index])
        assert (data.marks[prompt] > 0).sum() == len(sample.marks) > 0
        ids, content = data.ids[prompt].tolist(), sample.messages[1].content
        before = tokenizer.decode(tokenizer.encode_prompt(sample.messages[:-1])[:-2]) + "\n"
        for at, mark in zip(np.flatnonzero(data.marks[prompt]), sample.marks, strict=True):
            assert data.marks[prompt][at] == 1 + mark.label
            text = tokenizer.decode(ids[: at + 1])[len(before) :]
            # a token may hold what follows as well: `: within`, never less than the thing
            assert text.startswith(content[: mark.end]) and len(text) - mark.end <= 2
        assert not data.marks[prompt.stop : data.starts[index + 1]].any(), "an answer has none"


def test_marks_stay_with_their_samples(samples: list[Sample], tokenizer: NanoTokenizer, tmp_path: Path) -> None:
    data = tokenise(samples, tokenizer, 1000, tokenizer.locate_marks)[0]
    data.save(tmp_path / "samples.npz")
    again = concatenate([SampleSet.load(tmp_path / "samples.npz").take(np.array([7, 3])), data])
    first = slice(data.starts[7], data.starts[8])
    assert again.marks[: data.lengths[7]].tolist() == data.marks[first].tolist()
    batch = make_batch(data, [7, 3], tokenizer.pad_id)
    assert batch.marks[0, : data.lengths[7]].tolist() == data.marks[first].tolist()
    plain = tokenise(samples, tokenizer, 1000)[0]
    assert not plain.marks.any() and (plain.ids == data.ids).all()
