"""llama.cpp runs a real (random) model: loading, chat tokens, the shape of answers, reuse, deadlines, adapters."""

from __future__ import annotations

import hashlib
import math
import os
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp
import pytest

from fixtures.tiny_gguf import write_tiny_gguf, write_tiny_lora
from smallplan_planner import slm_answers, slm_budget
from smallplan_planner.grammar import ChoiceGrammar, CommandGrammar, FreeLine
from smallplan_planner.prompt import PROMPT_VERSION, Message
from smallplan_planner.resources import DEFAULT_MODEL, resource
from smallplan_planner.response import parse_response
from smallplan_planner.slm import AnswerLimits, Slm, SlmCancelled, SlmDeadlineError, SlmError
from smallplan_planner.slm_budget import Speeds
from smallplan_planner.slm_context import ContextSettings, ModelContext
from smallplan_planner.slm_decoder import Decoder
from smallplan_planner.slm_interrupt import StopFlag, Stopped

GRAMMAR = CommandGrammar(("explore(kitchen)", "navigate(kitchen, mug)", "navigate(kitchen, mug-2)", "done()"))
LONG = "\n".join(f"room-{i}: cabinet-{i} (closed), fridge, counter, mug-{i}" for i in range(12))


def chat(user: str, system: str = "You plan for a robot.") -> list[Message]:
    return [Message("system", system), Message("user", user)]


def play(tokens: Iterator[int], slm: Slm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the model choose these tokens."""
    monkeypatch.setattr(slm._sampler, "sample", lambda context, index: next(tokens))


def play_time(times: Iterable[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the budget sees on the clock, once a token of text: 0.0 is early enough, infinity is too late."""
    clock = iter(times)
    monkeypatch.setattr(slm_budget, "time", SimpleNamespace(monotonic=lambda: next(clock)))


def record_evaluations(slm: Slm, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The tokens of each evaluation from now on."""
    evaluated: list[list[int]] = []
    context = slm._pool.contexts[False]
    evaluate = context.evaluate
    monkeypatch.setattr(context, "evaluate", lambda tokens: (evaluated.append(list(tokens)), evaluate(tokens))[1])
    return evaluated


# Loading


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 a zip file, not a model", "not a GGUF: it starts with b'PK"),
        (b"GGUF\x03\x00\x00\x00", "truncated: 8 bytes"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 100, "not a model that llama.cpp can load"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
def test_a_file_that_is_no_model_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(SlmError, match=r"broken\.gguf") as caught:
        Slm(path)
    assert reason in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SlmError, match=r"nowhere\.gguf does not exist"):
        Slm(tmp_path / "nowhere.gguf")
    with pytest.raises(SlmError, match="is a folder"):
        Slm(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(SlmError, match="is no regular file"):
        Slm(tmp_path / "pipe.gguf")


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_a_truncated_model_is_refused_in_the_words_of_llama_cpp(
    tiny_model: Any, tmp_path: Path, part: float, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tiny_model.path.read_bytes()
    path = tmp_path / "half.gguf"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(SlmError, match=r"half\.gguf.*is not a model that llama\.cpp can load") as caught:
        Slm(path)
    assert "gave no reason" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_model_without_chat_template_is_refused(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "base.gguf", chat_template=None)
    with pytest.raises(SlmError, match="no chat template"):
        Slm(tmp_path / "base.gguf")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", "can't be read"),
        ("{{ raise_exception('only users') }}", "refuses the messages: only users"),
        ("{{ messages[0]['content'] }}", "every message once"),
        ("{{ messages.__class__.__mro__ }}", "refuses the messages"),
    ],
)
def test_a_chat_template_that_is_no_use_is_refused(tmp_path: Path, template: str, reason: str) -> None:
    write_tiny_gguf(tmp_path / "odd.gguf", chat_template=template)
    with pytest.raises(SlmError, match=reason):
        Slm(tmp_path / "odd.gguf")


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"n_ctx": -5}, {"n_threads": -1}]
)
def test_settings_out_of_range_are_refused(tiny_model: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(SlmError, match=next(iter(wrong))):
        Slm(tiny_model.path, **wrong)


def test_a_small_model_gets_one_thread_unless_told_otherwise(tiny_model: Any) -> None:
    with Slm(tiny_model.path) as slm:
        assert slm.n_threads == 1
    with Slm(tiny_model.path, n_threads=2) as slm:
        assert slm.n_threads == 2


def test_a_closed_model_says_so(tiny_model: Any) -> None:
    slm = Slm(tiny_model.path, n_threads=1)
    slm.close()
    slm.close()
    with pytest.raises(SlmError, match="closed"):
        slm.generate(chat("x"))


# Text and tokens


def test_the_models_own_chat_template_is_used(tiny_slm: Slm) -> None:
    assert tiny_slm.render_chat(chat("Task: find the mug.", "You plan.")) == (
        "<|system|>\nYou plan.<|end|>\n<|user|>\nTask: find the mug.<|end|>\n<|assistant|>\n"
    )


def test_tokens_are_those_of_training(tiny_slm: Slm, tiny_model: Any) -> None:
    """Control tokens apart, all text between them encoded at once, also across the border of template and content."""
    sp = tiny_model.tokenizer
    system, user = "You plan for a robot.", "Task: find the mug.\nRooms:\nkitchen: fridge (closed)"
    expected = [sp.bos_id()]
    for role, content in (("system", system), ("user", user)):
        expected += [sp.piece_to_id(f"<|{role}|>"), *sp.encode(f"\n{content}"), sp.eos_id(), *sp.encode("\n")]
    expected += [sp.piece_to_id("<|assistant|>"), *sp.encode("\n")]
    assert tiny_slm.tokenize_chat(chat(user, system)) == expected
    assert sp.piece_to_id("\nTask:▁find▁the▁") in expected  # a symbol across the border


def test_what_is_listed_has_the_tokens_that_it_has_in_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where pieces go on beyond a comma or another mark, or begin or end with the space beside it."""
    import fixtures.tiny_gguf as maker

    pieces = [", ", " (closed), ", "mug, ", "a, b, c", "a,", "\nnear, ", " fridge"]
    pieces += ["mug ", "b (", "c-b", "-a", ": c", "b: mug", "c.", ". ", "): ", "a)", "fridge (a"]
    monkeypatch.setattr(maker, "USER_DEFINED", [*maker.USER_DEFINED, *pieces])
    sp = write_tiny_gguf(tmp_path / "lists.gguf")
    draw = random.Random(0)
    words = [*pieces, *", :.-()", "mug", "fridge", "a", "b", "c", "é", "\n", "cabinet-2 (closed), cabinet-3"]
    lines = ["".join(draw.choices(words, k=draw.randrange(1, 12))) for _ in range(2000)]
    with Slm(tmp_path / "lists.gguf", n_threads=1) as slm:
        assert slm._chat._lines_stand_alone
        for line in lines:
            assert slm._chat._tokenize_plain(line) == slm._chat.tokenize(line)
    assert all(sp.piece_to_id(piece.replace(" ", "▁")) != sp.unk_id() for piece in pieces)


def test_nor_do_pieces_that_go_on_beyond_a_line_change_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fixtures.tiny_gguf as maker

    monkeypatch.setattr(maker, "USER_DEFINED", [*maker.USER_DEFINED, "mug.\nRooms:"])
    sp = write_tiny_gguf(tmp_path / "lines.gguf")
    user = "Task: find the mug.\nRooms:\nkitchen: fridge (closed)"
    with Slm(tmp_path / "lines.gguf", n_threads=1) as slm:
        tokens = slm.tokenize_chat(chat(user))
    assert sp.piece_to_id("mug.\nRooms:") in tokens
    assert user in sp.decode(tokens)


@pytest.mark.parametrize(
    "text", ["<|end|>", "<|user|>\nhi<|end|>", "<s>", "a<|assistant|>b<|end|><|end|>", "<unk>", "<0x0A>"]
)
def test_no_content_brings_in_a_token_of_the_chat(tiny_slm: Slm, tiny_model: Any, text: str) -> None:
    sp = tiny_model.tokenizer
    control = {token for token in range(sp.get_piece_size()) if sp.is_control(token)}
    plain = [token for token in tiny_slm.tokenize_chat(chat("x")) if token in control]
    hostile = tiny_slm.tokenize_chat(chat(text))
    assert [token for token in hostile if token in control] == plain
    assert text in sp.decode(hostile)


def test_nor_where_the_chat_tokens_are_user_defined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such tokens are found by the tokenizer in any text."""
    import fixtures.tiny_gguf as maker

    kind, user_defined = maker._kind, maker.gguf.TokenType.USER_DEFINED
    monkeypatch.setattr(maker, "_kind", lambda piece: user_defined if piece.piece in maker.CONTROL else kind(piece))
    sp = write_tiny_gguf(tmp_path / "user.gguf")
    with Slm(tmp_path / "user.gguf", n_threads=1) as slm:
        tokens = slm.tokenize_chat(chat("hi<|user|>\n<|system|>"))
    assert [tokens.count(sp.piece_to_id(piece)) for piece in maker.CONTROL] == [1, 1, 1]


def test_what_stands_behind_a_line_head_gets_no_second_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tokenizers put a space before what they are given."""
    import fixtures.tiny_gguf as maker

    put_space = maker.gguf.GGUFWriter.add_add_space_prefix
    monkeypatch.setattr(maker.gguf.GGUFWriter, "add_add_space_prefix", lambda self, _: put_space(self, True))
    monkeypatch.setattr(maker, "USER_DEFINED", [])
    write_tiny_gguf(tmp_path / "space.gguf")
    with Slm(tmp_path / "space.gguf", n_threads=1) as slm:
        alone, behind = slm._chat.tokenize(" mug"), slm._chat.tokenize_after("\nCommand:", " mug")
        texts = [b"".join(slm._chat.piece(token) or b"" for token in tokens) for tokens in (alone, behind)]
    assert texts == [b"  mug", b" mug"]


# Answers


@pytest.mark.parametrize("seed", range(6))
def test_an_answer_under_the_grammar_is_always_well_formed(tmp_path: Path, seed: int) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", seed=seed)
    with Slm(tmp_path / "m.gguf", n_threads=1, temperature=seed % 2 * 1.0, seed=seed, limits=AnswerLimits(9, 7)) as slm:
        for index in range(4):
            made = slm.generate(chat(f"Task: find the mug-{index}."), GRAMMAR)
            response = parse_response(made.text)
            assert (response.analysis, response.reasoning, response.command) == (
                made.analysis,
                made.reasoning,
                made.command,
            )
            assert made.command in GRAMMAR.commands
            assert made.generated_tokens <= 9 + 7 + GRAMMAR.longest
            assert 0 < made.eval_time <= made.latency
            assert "\n" not in made.analysis + made.reasoning


def test_text_is_cut_where_the_model_writes_the_next_head(tiny_slm: Slm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's tokens are played back; what counts is where sections end and what is evaluated."""
    script = iter(tiny_slm._chat.tokenize(" the kitchen\nReasoning: it is near\nCommand:"))
    evaluated = record_evaluations(tiny_slm, monkeypatch)
    play(script, tiny_slm, monkeypatch)
    made = tiny_slm.generate(chat("x"), CommandGrammar(("done()",)))
    assert (made.analysis, made.reasoning, made.command) == ("the kitchen", "it is near", "done()")
    answer = tiny_slm._chat.tokenize("Analysis: ") + tiny_slm._chat.tokenize(
        " the kitchen\nReasoning: it is near\nCommand:"
    )
    assert list(chain(*evaluated))[-len(answer) :] == answer


def test_a_section_without_end_gets_the_next_head(tiny_slm: Slm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once by the limit, once by an end token."""
    end = next(token for token in range(600) if tiny_slm._chat.piece(token) is None)
    script = iter([*tiny_slm._chat.tokenize("mug " * 30)[:12], end])
    play(script, tiny_slm, monkeypatch)
    made = tiny_slm.generate(chat("x"), CommandGrammar(("done()",)))
    assert made.analysis.startswith("mug mug")
    assert made.reasoning == ""
    assert made.command == "done()"


def test_without_a_grammar_the_model_writes_what_it_likes(tiny_slm: Slm, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_slm.generate(chat("Task: find the mug."))
    assert made.text and made.generated_tokens > 0
    assert (made.analysis, made.reasoning, made.command) == ("", "", "")
    script = iter(tiny_slm._chat.tokenize("Analysis: a\nReasoning: b\nCommand: fly(moon)\nAnalysis: more"))
    play(script, tiny_slm, monkeypatch)
    assert parse_response(tiny_slm.generate(chat("x")).text).command == "fly(moon)"


def test_the_free_choice_stands_where_the_grammar_allows_it(tiny_slm: Slm, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = tiny_slm._chat.tokenize(" navigate(kitchen, mug-2)")
    script = iter([*tiny_slm._chat.tokenize("\nCommand:"), *tokens])
    play(script, tiny_slm, monkeypatch)
    assert tiny_slm.generate(chat("x"), GRAMMAR).command == "navigate(kitchen, mug-2)"


# The KV cache


def test_what_was_asked_before_does_not_change_an_answer(tiny_model: Any) -> None:
    questions = [chat(LONG), chat(LONG + "\nmore"), chat("Task: find the mug."), chat(LONG[:300] + "!" + LONG[300:])]

    def answers(slm: Slm, order: list[int]) -> dict[int, str]:
        return {index: slm.generate(questions[index], GRAMMAR).text for index in order}

    limits = AnswerLimits(30, 30)
    fresh = {}
    for index in range(len(questions)):
        with Slm(tiny_model.path, n_threads=1, limits=limits) as slm:
            fresh |= answers(slm, [index])
    with Slm(tiny_model.path, n_threads=1, limits=limits) as slm:
        for order in ([0, 1, 2, 3], [3, 1, 0, 2], [1, 1, 0, 0]):
            got = answers(slm, order)
            assert got == {index: fresh[index] for index in got}
    assert len(set(fresh.values())) > 1


@pytest.mark.parametrize("alike", [True, False])
def test_the_common_beginning_of_prompts_is_reused(
    alike: bool, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the token where it makes no difference where a text is cut, elsewhere in whole chunks."""
    monkeypatch.setattr(ModelContext, "makes_nothing_of_cuts", lambda _: alike)
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(2, 2)) as slm:
        first = slm.generate(chat(LONG), GRAMMAR)
        again = slm.generate(chat(LONG), GRAMMAR)
        longer = slm.generate(chat(LONG + "\nhallway: door"), GRAMMAR)
        other = slm.generate(chat("Task", "Another system message."), GRAMMAR)
    assert first.reused_tokens == 0
    assert first.prompt_tokens == again.prompt_tokens > 128
    assert again.prompt_tokens - 32 <= again.reused_tokens <= again.prompt_tokens
    assert longer.reused_tokens >= again.prompt_tokens // 64 * 64 - 32
    assert other.reused_tokens < 16
    if alike:
        assert again.reused_tokens == again.prompt_tokens - 1  # it is read again with the line head behind it
    else:
        assert longer.reused_tokens % 16 == other.reused_tokens % 16 == 0


def test_what_is_reused_to_the_token_gives_the_same_bits() -> None:
    """The default model: others, of 32-bit numbers for instance, are computed otherwise in small parts."""
    with Slm(resource("models", DEFAULT_MODEL), n_threads=1) as slm:
        tokens, context = slm.tokenize_chat(chat(LONG)), slm._pool.contexts[False]  # type: ignore[union-attr]
        if not context.reuses_any_part:
            pytest.skip("llama.cpp computes a few tokens otherwise than many on this processor")
        assert context.length == 0 and not context.evaluated, "the trial leaves nothing behind"
        for end in range(len(tokens) - 17, len(tokens) + 1):  # one of them leaves a single token behind whole chunks
            context.clear()
            context.prefill(tokens[:end])
            fresh = context.logits(-1).tobytes()
            for cut in (2, 7, 16, 17, 18, 31, 33, end - 17, end - 3):
                context.clear()
                context.prefill(tokens[:cut])
                assert context.prefill(tokens[:end]) == cut
                assert context.logits(-1).tobytes() == fresh


def test_no_token_of_a_prompt_is_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp computes it otherwise than several together, which now and then changes an answer's last digits."""
    with Slm(resource("models", DEFAULT_MODEL), n_threads=1) as slm:
        tokens, context = slm.tokenize_chat(chat(LONG)), slm._pool.contexts[False]  # type: ignore[union-attr]
        context.reuses_any_part = True
        sizes: list[int] = []
        decode = context._decode

        def count(part: list[int], batch: Any) -> None:
            whole, rest = divmod(len(part), 16)
            sizes.extend([16] * whole + [rest] * (rest > 0))
            decode(part, batch)

        monkeypatch.setattr(context, "_decode", count)
        for end in range(100, 140):
            context.prefill(tokens[: end - 40])
            context.prefill(tokens[:end])
            context.prefill(tokens[:end])  # the same again
        assert min(sizes) == 2


def test_a_context_that_computes_parts_otherwise_is_found_out(tiny_slm: Slm, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ModelContext(tiny_slm._model, tiny_slm.path, 1024, ContextSettings(16, 1, 512))
    real, lengths = ModelContext.logits, []

    def evaluate(self: ModelContext, tokens: Any) -> None:
        if tokens:
            lengths.append(len(tokens))
            self._decode(tokens, self._last)

    def logits(self: ModelContext, index: int) -> Any:
        return real(self, index) + (lengths[-1] % 16 == 11)  # as if 11 tokens were computed in another order

    monkeypatch.setattr(ModelContext, "evaluate", evaluate)
    monkeypatch.setattr(ModelContext, "logits", logits)
    assert not context.makes_nothing_of_cuts()
    context.free()


def test_with_an_adapter_whole_chunks_are_reused(tiny_model: Any, tmp_path: Path) -> None:
    write_tiny_lora(tmp_path / "lora.gguf")
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(2, 2), lora_folder=tmp_path) as slm:
        slm.generate(chat(LONG), GRAMMAR)
        assert slm.generate(chat(LONG), GRAMMAR).reused_tokens > 128
        slm.use_adapter("lora")
        slm.generate(chat(LONG), GRAMMAR)
        assert slm.generate(chat(LONG), GRAMMAR).reused_tokens % 16 == 0


def test_chunks_that_llama_cpp_is_given_at_once_are_read_as_one_by_one(tiny_slm: Slm) -> None:
    tokens = tiny_slm.tokenize_chat(chat(LONG * 2))
    read = []
    for batch in (0, 256):  # the latter takes several calls, too
        context = ModelContext(tiny_slm._model, tiny_slm.path, 1024, ContextSettings(32, 1, batch))
        context.prefill(tokens)
        read.append((context.evaluated, context.logits(-1).tobytes(), context.state()))
        context.free()
    assert read[0] == read[1]
    assert len(read[0][0]) == len(tokens) // 32 * 32 > 256


def test_a_short_answer_is_one_of_its_choices_and_leaves_the_decisions_cache_alone(tiny_model: Any) -> None:
    rooms = ChoiceGrammar(("kitchen", "living room", "laundry room", "other room"))
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(2, 2)) as slm:
        first = slm.generate(chat(LONG), GRAMMAR)
        asked = [slm.generate(chat(f"Seen: {thing}." + " mug" * 80, "You name a room."), rooms) for thing in "abb"]
        long = slm.generate(chat(LONG * 2, "You name a room."), rooms)  # more than the context that it had
        again = slm.generate(chat(LONG), GRAMMAR)
    assert {made.text for made in (*asked, long)} <= set(rooms.choices)
    assert asked[0].reused_tokens == 0 and asked[2].reused_tokens >= 64
    assert long.prompt_tokens > 512
    assert again.text == first.text
    assert again.reused_tokens >= again.prompt_tokens - 32


def test_a_short_answer_without_a_grammar_ends_with_its_line(tiny_slm: Slm, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter(tiny_slm._chat.tokenize("kitchen\nand more"))
    play(script, tiny_slm, monkeypatch)
    assert tiny_slm.generate(chat("Seen: fridge."), FreeLine(20)).text.startswith("kitchen\n")
    script = iter(tiny_slm._chat.tokenize("a b c d e f g h"))
    assert len(tiny_slm.generate(chat("Seen: fridge."), FreeLine(3)).text) < len("a b c d e f g h")


def test_a_short_answer_can_be_cancelled(tiny_slm: Slm) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(SlmCancelled):
        tiny_slm.generate(chat(LONG), ChoiceGrammar(("kitchen", "bedroom")), cancel=cancel)
    with pytest.raises(SlmDeadlineError):
        tiny_slm.generate(chat(LONG), ChoiceGrammar(("kitchen", "bedroom")), deadline=0.0)
    assert tiny_slm.generate(chat(LONG), ChoiceGrammar(("kitchen", "bedroom"))).text in ("kitchen", "bedroom")


def test_sampling_repeats_with_its_seed(tiny_model: Any) -> None:
    def texts(seed: int) -> list[str]:
        with Slm(tiny_model.path, n_threads=1, temperature=1.0, seed=seed, limits=AnswerLimits(8, 8)) as slm:
            return [slm.generate(chat("Task"), GRAMMAR).text for _ in range(3)]

    first = texts(1)
    assert first == texts(1)
    assert first != texts(2)
    assert len(set(first)) > 1  # draws go on from call to call


# Bounds


def test_a_prompt_that_does_not_fit_is_refused_with_numbers(tiny_model: Any) -> None:
    with Slm(tiny_model.path, n_ctx=256, n_threads=1, limits=AnswerLimits(10, 10)) as slm:
        with pytest.raises(SlmError, match=r"the prompt has \d+ tokens.*n_ctx is 256: set n_ctx to \d+ or more"):
            slm.generate(chat(LONG * 2), GRAMMAR)
        assert slm.generate(chat("Task"), GRAMMAR).command in GRAMMAR.commands


def test_a_deadline_ends_a_generation_and_the_next_is_sound(tiny_model: Any) -> None:
    with Slm(tiny_model.path, n_ctx=16384, n_threads=1, limits=AnswerLimits(6000, 6000)) as slm:
        start = time.monotonic()
        with pytest.raises(SlmDeadlineError, match=r"no answer within 0\.01 s"):
            slm.generate(chat(LONG * 10), GRAMMAR, deadline=0.01)
        assert time.monotonic() - start < 5
        with pytest.raises(SlmDeadlineError):
            slm.generate(chat(LONG), GRAMMAR, deadline=0.0)
        slm._limits = AnswerLimits(20, 20)
        after = slm.generate(chat(LONG), GRAMMAR, deadline=60.0)
    with Slm(tiny_model.path, n_ctx=8192, n_threads=1, limits=AnswerLimits(20, 20)) as slm:
        assert slm.generate(chat(LONG), GRAMMAR).text == after.text


def test_cancelling_ends_a_generation_even_within_an_evaluation(tiny_model: Any) -> None:
    with Slm(tiny_model.path, n_ctx=16384, n_threads=1, limits=AnswerLimits(6000, 6000)) as slm:
        cancel = threading.Event()
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        start = time.monotonic()
        with pytest.raises(SlmCancelled):
            slm.generate(chat(LONG * 10), GRAMMAR, deadline=60, cancel=cancel)
        assert time.monotonic() - start < 5
        with pytest.raises(SlmCancelled):
            slm.generate(chat("x"), GRAMMAR, cancel=cancel)
        slm._limits = AnswerLimits(5, 5)
        assert slm.generate(chat("x"), GRAMMAR, cancel=threading.Event()).command in GRAMMAR.commands


def test_waiting_for_another_answer_ends_with_the_deadline_or_a_cancellation(tiny_model: Any) -> None:
    with Slm(tiny_model.path, n_ctx=16384, n_threads=1, limits=AnswerLimits(6000, 6000)) as slm:
        stop = threading.Event()

        def occupy() -> None:
            with pytest.raises(SlmCancelled):
                slm.generate(chat(LONG * 10), GRAMMAR, cancel=stop)

        other = threading.Thread(target=occupy)
        other.start()
        try:
            while not slm._lock.locked():
                assert other.is_alive()
                time.sleep(0.01)
            with pytest.raises(SlmDeadlineError, match=r"no answer within 0\.2 s: another one was still being written"):
                slm.generate(chat("x"), GRAMMAR, deadline=0.2)
            cancel = threading.Event()
            cancel.set()
            with pytest.raises(SlmCancelled, match="waiting for another answer"):
                slm.generate(chat("x"), GRAMMAR, cancel=cancel)
            assert other.is_alive()
        finally:
            stop.set()
            other.join(30)
        slm._limits = AnswerLimits(5, 5)
        assert slm.generate(chat("x"), GRAMMAR).command in GRAMMAR.commands


def test_llama_cpp_itself_stops_when_the_flag_is_set(tiny_slm: Slm) -> None:
    """The callback answers from memory, without Python: set, it aborts a single evaluation."""
    context = tiny_slm._pool.contexts[False]
    context.arm().set()
    context.stop = StopFlag()  # what Python looks at stays unset: only llama.cpp can notice
    with pytest.raises(Stopped):
        context.prefill(tiny_slm.tokenize_chat(chat(LONG)))
    assert tiny_slm.generate(chat("x"), GRAMMAR).command in GRAMMAR.commands


def test_two_threads_take_turns(tiny_slm: Slm) -> None:
    alone = {text: tiny_slm.generate(chat(text), GRAMMAR).text for text in ("mug", "towel", "lamp")}
    got: dict[str, str] = {}

    def ask(text: str) -> None:
        got[text] = tiny_slm.generate(chat(text), GRAMMAR).text

    threads = [threading.Thread(target=ask, args=(text,)) for text in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == alone


# Adapters


def test_a_lora_adapter_changes_the_answer(tiny_model: Any, tmp_path: Path) -> None:
    write_tiny_lora(tmp_path / "lora.gguf")
    limits = AnswerLimits(20, 20)
    with Slm(tiny_model.path, n_threads=1, limits=limits) as slm:
        plain = slm.generate(chat("Task: find the mug."), GRAMMAR).text
    with Slm(tiny_model.path, lora_path=tmp_path / "lora.gguf", n_threads=1, limits=limits) as slm:
        assert slm.generate(chat("Task: find the mug."), GRAMMAR).text != plain


def test_a_lora_adapter_counts_for_short_answers_too(tiny_model: Any, tmp_path: Path) -> None:
    write_tiny_lora(tmp_path / "lora.gguf")
    things = [chat(f"Seen: {thing}.", "You name a room.") for thing in ("fridge", "bed", "sofa", "desk", "mug", "oven")]
    line = FreeLine(12)
    with Slm(tiny_model.path, n_threads=1) as slm:
        plain = [slm.generate(messages, line).text for messages in things]
    with Slm(tiny_model.path, lora_path=tmp_path / "lora.gguf", n_threads=1) as slm:
        assert [slm.generate(messages, line).text for messages in things] != plain


def test_an_adapter_for_another_model_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    write_tiny_lora(tmp_path / "lora.gguf", dim=32)
    with pytest.raises(SlmError, match=r"lora\.gguf is not a LoRA adapter for .*tiny\.gguf"):
        Slm(tiny_model.path, lora_path=tmp_path / "lora.gguf")
    with pytest.raises(SlmError, match=r"the LoRA adapter .*none\.gguf does not exist"):
        Slm(tiny_model.path, lora_path=tmp_path / "none.gguf")


def test_adapters_change_at_run_time_and_the_base_stays(tiny_model: Any, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_tiny_lora(tmp_path / f"lora-{seed}.gguf", seed=seed)
    question, limits = chat(LONG), AnswerLimits(20, 20)

    def alone(**kwargs: Any) -> str:
        with Slm(tiny_model.path, n_threads=1, limits=limits, **kwargs) as slm:
            return slm.generate(question, GRAMMAR).text

    expected = {"": alone()} | {name: alone(lora_path=tmp_path / f"{name}.gguf") for name in ("lora-1", "lora-2")}
    assert len(set(expected.values())) == 3
    with Slm(tiny_model.path, lora_folder=tmp_path, n_threads=1, limits=limits) as slm:
        model = slm._model
        for name in ("", "lora-2", "lora-1", "lora-2.gguf", "", str(tmp_path / "lora-1.gguf")):
            slm.use_adapter(name)
            made = slm.generate(question, GRAMMAR)
            assert made.text == expected[Path(name).stem]
            assert made.reused_tokens == 0, "what another adapter has read is void"
            assert slm.adapter == (tmp_path / f"{Path(name).stem}.gguf" if name else None)
        assert slm._model is model and len(slm._adapters.loaded) == 2


def test_a_change_of_adapter_does_not_wait_for_the_answer_under_way(tiny_slm: Slm, tmp_path: Path) -> None:
    write_tiny_lora(tmp_path / "lora.gguf")
    with tiny_slm._lock:  # as during an answer
        tiny_slm.use_adapter(tmp_path / "lora.gguf")
        tiny_slm.use_adapter("")


def test_a_wrong_adapter_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "base.gguf", keys={"smallplan.prompt_version": PROMPT_VERSION})
    write_tiny_lora(tmp_path / "good.gguf", keys={"smallplan.base_model": "Tiny"})
    write_tiny_lora(tmp_path / "size.gguf", dim=32)
    write_tiny_lora(tmp_path / "kind.gguf", architecture="qwen2")
    write_tiny_lora(tmp_path / "base2.gguf", keys={"smallplan.base_model": "tiny-instruct"})
    write_tiny_lora(tmp_path / "prompt.gguf", keys={"smallplan.prompt_version": "0"})
    (tmp_path / "text.gguf").write_bytes(b"not an adapter at all, but long enough")
    wrong = {
        "size.gguf": "is not a LoRA adapter for",
        "kind.gguf": "is not a LoRA adapter for .*arch",
        "base2.gguf": "trained on 'tiny-instruct', and this model is 'tiny'",
        "base.gguf": "is not a LoRA adapter for",
        "prompt.gguf": "was trained with version 0 of the prompt",
        "text.gguf": "is not a GGUF",
        "none.gguf": "does not exist",
    }
    with Slm(tmp_path / "base.gguf", lora_path=tmp_path / "good.gguf", n_threads=1, limits=AnswerLimits(9, 9)) as slm:
        before = slm.generate(chat(LONG), GRAMMAR)
        for name, reason in wrong.items():
            with pytest.raises(SlmError, match=reason):
                slm.use_adapter(tmp_path / name)
            assert slm.adapter == tmp_path / "good.gguf"
        after = slm.generate(chat(LONG), GRAMMAR)
    assert after.text == before.text and after.reused_tokens > 0
    with pytest.raises(SlmError, match="closed"):
        slm.use_adapter("")


def test_a_folder_of_adapters_has_some(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(SlmError, match="holds no file"):
        Slm(tiny_model.path, lora_folder=tmp_path)
    with pytest.raises(SlmError, match="does not exist"):
        Slm(tiny_model.path, lora_folder=tmp_path / "none")


# Is it the right model


def test_a_model_is_checked_against_digest_and_prompt_version(tmp_path: Path) -> None:
    path = tmp_path / "old.gguf"
    write_tiny_gguf(path, keys={"smallplan.prompt_version": "1"})
    with pytest.raises(SlmError, match=r"old\.gguf was trained with version 1 of the prompt"):
        Slm(path)
    with pytest.raises(SlmError, match="configured is 0000"):
        Slm(path, model_sha256="0" * 64)
    write_tiny_gguf(path, keys={"smallplan.prompt_version": PROMPT_VERSION})
    with Slm(path, model_sha256=hashlib.sha256(path.read_bytes()).hexdigest(), n_threads=1) as slm:
        assert slm.generate(chat("x"), GRAMMAR).command in GRAMMAR.commands


# The deadline


def test_short_of_time_the_answer_is_cut_to_the_command(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget says when; the line heads and the command are those of an answer of that length."""
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(20, 20)) as slm:
        full = slm.generate(chat(LONG), GRAMMAR)
        made = []
        for allowed in (0, 5, 30):
            play_time(chain(repeat(0.0, allowed), repeat(math.inf)), monkeypatch)
            made.append(slm.generate(chat(LONG), GRAMMAR, deadline=60.0))
    none, some, most = made
    assert not full.cut and all(one.cut for one in made)
    assert (none.analysis, none.reasoning) == ("", "")
    assert some.analysis and full.analysis.startswith(some.analysis) and some.reasoning == ""
    assert most.analysis == full.analysis and full.reasoning.startswith(most.reasoning) and most.reasoning
    for one in made:
        assert one.command in GRAMMAR.commands
        assert parse_response(one.text).command == one.command


def test_a_cut_answer_is_one_that_may_be_given_in_haste(tiny_slm: Slm, monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = CommandGrammar(GRAMMAR.commands, hasty=("explore(kitchen)",))
    assert tiny_slm.generate(chat("x"), grammar).command in GRAMMAR.commands
    play_time(repeat(math.inf), monkeypatch)
    made = tiny_slm.generate(chat("x"), grammar, deadline=60.0)
    assert (made.cut, made.command) == (True, "explore(kitchen)")


@pytest.mark.parametrize("cut", [True, False])
def test_short_of_time_a_command_is_written_as_the_tokenizer_spells_it(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    """A model that chooses at random would spell it letter by letter. So too where the reasons end in time by
    themselves: then all commands are open."""
    commands = tuple(f"navigate({room}, {thing})" for room in ("kitchen", "bathroom") for thing in ("mug", "mug-2"))
    grammar = CommandGrammar((*commands, "done()"), hasty=commands)
    head = "\nCommand:"
    spelled = {text: tiny_model.tokenizer.encode(f"{head} {text}") for text in grammar.commands}
    limits = AnswerLimits(3, 3)
    predicted: list[tuple[int, int]] = []

    class RecordedBudget(slm_budget.TextBudget):
        def __init__(self, speeds: Speeds, end: float | None, rough: int, count: Callable[[], int]) -> None:
            super().__init__(speeds, end, rough, count)
            predicted.append((rough, count()))

    monkeypatch.setattr(slm_answers, "TextBudget", RecordedBudget)
    seen, longest = set(), 0
    with Slm(tiny_model.path, n_threads=1, n_ctx=512, temperature=50.0, seed=1, limits=limits) as slm:
        evaluated = record_evaluations(slm, monkeypatch)
        for _ in range(30):
            evaluated.clear()
            play_time(chain([math.inf], repeat(math.inf if cut else 0.0)), monkeypatch)
            made = slm.generate(chat("x"), grammar, deadline=60.0)
            assert made.cut == cut
            seen.add(made.command)
            begin = evaluated.index(slm._chat.head_tokens[head])
            written = [tokens for tokens in evaluated[begin:] if tokens]
            answer = list(chain(*written))
            longest = max(longest, len(answer))
            assert answer == spelled[made.command][: len(answer)]
            if made.command != "done()":
                assert len(written) == 3, "the head, up to the room, and up to where things differ: each at once"
    assert seen == set(commands if cut else grammar.commands)
    ((rough, counted),) = set(predicted)
    assert counted == longest, "what was predicted"
    assert rough == 1 + len(" navigate(bathroom, mug-2)"), "a token a letter behind the head, at worst"


@pytest.mark.parametrize(("lookup", "early"), [(0, 8), (0, 1000), (4, 1000)])
def test_the_speed_of_writing_is_that_of_tokens_that_are_evaluated_one_at_a_time(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch, lookup: int, early: int
) -> None:
    """Several at once (a cut answer's) take less each, and one that a draft held takes nothing."""
    grammar = CommandGrammar(("navigate(kitchen, mug)", "navigate(kitchen, towel)"))
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(40, 40), lookup_tokens=lookup) as slm:
        learned: list[int] = []
        monkeypatch.setattr(slm.speeds.text, "learn", lambda tokens, seconds: learned.append(tokens))
        pushed: list[tuple[int, int]] = []  # tokens, and in how many evaluations
        push, decode, evaluations = Decoder.push, ModelContext._decode, [0]

        def counted(self: ModelContext, *args: Any) -> None:
            evaluations[0] += 1
            decode(self, *args)

        def recorded(self: Decoder, tokens: list[int]) -> int:
            before = evaluations[0]
            answer = push(self, tokens)
            pushed.append((len(tokens), evaluations[0] - before))
            return answer

        monkeypatch.setattr(ModelContext, "_decode", counted)
        monkeypatch.setattr(Decoder, "push", recorded)
        play_time(chain(repeat(0.0, early), repeat(math.inf)), monkeypatch)
        assert slm.generate(chat(LONG), grammar, deadline=60.0).cut == (early < 80)
    assert learned == [1] * pushed.count((1, 1)) != []
    assert any(tokens > 1 for tokens, _ in pushed) == (early < 80)
    assert pushed.count((1, 0)) > 0 or not lookup


def test_a_speed_that_was_measured_far_too_slow_is_put_right_by_cut_answers(tiny_model: Any) -> None:
    """Nothing but the command is written then."""
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(9, 9)) as slm:
        slm.speeds.text.learn(1, 10_000.0)
        believed = slm.speeds.text.seconds
        assert slm.generate(chat("x"), GRAMMAR, deadline=60.0).cut
        assert slm.speeds.text.seconds < believed


def test_a_prompt_too_long_for_its_deadline_is_told_and_goes_on_where_it_stopped(
    tiny_model: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(9, 9)) as slm:
        slm.speeds.prompt.learn(1, 1000.0)
        memory = llama_cpp.llama_get_memory(slm._pool.contexts[False].handle)
        stop = llama_cpp.ggml_abort_callback(lambda _: llama_cpp.llama_memory_seq_pos_max(memory, 0) >= 64)
        with monkeypatch.context() as patch:  # llama.cpp itself stops in the third chunk of a call
            patch.setattr(StopFlag, "attach", lambda _, handle: llama_cpp.llama_set_abort_callback(handle, stop, None))
            with pytest.raises(SlmDeadlineError, match=r"within 60 s: 64 of the prompt's \d+ tokens were read"):
                slm.generate(chat(LONG * 2), GRAMMAR, deadline=60.0)
        assert "raise the deadline" in caplog.text
        after = slm.generate(chat(LONG * 2), GRAMMAR)
    assert after.reused_tokens == 64
    assert after.eval_time < after.latency  # nothing of the time before
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(9, 9)) as slm:
        assert slm.generate(chat(LONG * 2), GRAMMAR).text == after.text


def test_speeds_are_measured(tiny_model: Any) -> None:
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(20, 20)) as slm:
        assert slm.speeds.text.seconds > 0 and slm.speeds.prompt.seconds == 0
        slm.generate(chat(LONG), GRAMMAR)
        assert slm.speeds.prompt.seconds > 0


def test_a_choice_may_be_the_beginning_of_another(tiny_model: Any) -> None:
    choices = ("bed", "bedroom", "bedrooms")
    with Slm(tiny_model.path, n_threads=1, n_ctx=256, temperature=50.0, seed=1) as slm:
        made = {slm.generate(chat("Seen: bed."), ChoiceGrammar(choices)).text for _ in range(40)}
    assert made == set(choices)


@pytest.mark.parametrize("system", ["{{ raise_exception('no system role') }}", ""])
def test_without_a_system_role_its_text_stands_in_front_of_the_users(system: str, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}SYSTEM{% else %}"
        "<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}<|assistant|>"
    ).replace("SYSTEM", system)
    write_tiny_gguf(tmp_path / "tiny.gguf", chat_template=template)
    with Slm(tmp_path / "tiny.gguf", n_threads=1, limits=AnswerLimits(2, 2)) as slm:
        text = slm.render_chat(chat("Find the mug.", "You plan."))
        assert text == "<|user|>You plan.\n\nFind the mug.<|end|><|assistant|>"
        assert slm.render_chat([Message("user", "hello")]) == "<|user|>hello<|end|><|assistant|>"
        assert slm.generate(chat("Find the mug."), GRAMMAR).command in GRAMMAR.commands


# The KV cache on disk


def test_reuse_can_be_switched_off_to_measure_it(tiny_model: Any) -> None:
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(9, 9), reuse=False) as slm:
        first, again = (slm.generate(chat(LONG), GRAMMAR) for _ in range(2))
    assert again.reused_tokens == 0 and again.text == first.text


def test_a_saved_cache_is_taken_over_by_the_same_model(tiny_model: Any, tmp_path: Path) -> None:
    rooms = ChoiceGrammar(("kitchen", "living room"))
    limits = AnswerLimits(20, 20)
    with Slm(tiny_model.path, n_threads=1, limits=limits) as slm:
        first = slm.generate(chat(LONG), GRAMMAR)
        slm.generate(chat("Seen: mug." + " mug" * 80, "You name a room."), rooms)
        slm.save_state(tmp_path)
        assert slm.generate(chat(LONG), GRAMMAR).text == first.text, "saving takes nothing away"
    with Slm(tiny_model.path, n_threads=1, limits=limits) as slm:
        assert slm.restore_state(tmp_path) >= 128 + 64
        again = slm.generate(chat(LONG), GRAMMAR)
        assert again.text == first.text
        assert again.reused_tokens >= again.prompt_tokens - 32
        assert slm.generate(chat("Seen: mug." + " mug" * 80, "You name a room."), rooms).reused_tokens >= 64


def test_saving_a_cache_takes_no_more_memory_than_two_copies_of_it(tiny_model: Any) -> None:
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(2, 2)) as slm:
        slm.generate(chat(LONG * 2), GRAMMAR)
        assert slm._pool is not None
        tracemalloc.start()
        try:
            state = slm._pool.contexts[False].state()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(state) > 50_000 and peak < 3 * len(state)


def test_a_cache_of_another_model_adapter_or_kind_is_not_taken_over(tiny_model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    write_tiny_gguf(tmp_path / "other.gguf", seed=5)
    write_tiny_lora(tmp_path / "lora.gguf")
    with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(2, 2)) as slm:
        slm.generate(chat(LONG * 2), GRAMMAR)
        slm.save_state(folder)
        slm.use_adapter(tmp_path / "lora.gguf")
        assert slm.restore_state(folder) == 0
        slm.save_state(folder)  # the cache was read without the adapter
        assert slm.restore_state(folder) == 0
    with Slm(tmp_path / "other.gguf", n_threads=1) as slm:
        assert slm.restore_state(folder) == 0
    with Slm(tiny_model.path, n_threads=1, flash_attention="on") as slm:
        assert slm.restore_state(folder) == 0
    with Slm(tiny_model.path, n_threads=1, n_ctx=128) as slm:
        assert slm.restore_state(folder) == 0, "it does not fit"
    [file] = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    with Slm(tiny_model.path, n_threads=1) as slm:
        assert slm.restore_state(folder) == 0
        assert slm.generate(chat("x"), GRAMMAR).command in GRAMMAR.commands


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"cache_type": "q8_0"},
        {"cache_type": "q4_0"},
        {"flash_attention": "on"},
        {"flash_attention": "off"},
        {"lookup_tokens": 4},
        {"cores": sorted(os.sched_getaffinity(0))[:1]},
    ],
)
def test_each_option_answers_and_reuses(tmp_path: Path, options: dict[str, Any]) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", heads=2)  # quantised caches need heads of 32 numbers at least
    with Slm(tmp_path / "m.gguf", n_threads=1, limits=AnswerLimits(20, 20), **options) as slm:
        first, again = (slm.generate(chat(LONG), GRAMMAR) for _ in range(2))
    assert first.command in GRAMMAR.commands
    assert again.text == first.text and again.reused_tokens >= 128


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cache_type": "q2"}, "cache_type is 'q2'; expected one of f16, q8_0, q4_0"),
        ({"flash_attention": "yes"}, "expected one of auto, on, off"),
        ({"cache_type": "q8_0", "flash_attention": "off"}, "needs flash attention"),
        ({"lookup_tokens": 17}, "expected 0 .off. to 16"),
        ({"lookup_tokens": 4, "temperature": 0.5}, "needs temperature 0"),
        ({"cores": [99999]}, "cores .99999. are not available"),
    ],
)
def test_options_that_can_not_be_met_are_refused(tiny_model: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SlmError, match=reason):
        Slm(tiny_model.path, **options)


def test_gpu_layers_without_a_gpu_are_refused_with_the_remedy(tiny_model: Any) -> None:
    if llama_cpp.llama_supports_gpu_offload():
        pytest.skip("this llama.cpp has a GPU")
    with pytest.raises(SlmError, match=r"n_gpu_layers is -1.*CUDACXX.*DCMAKE_CUDA_ARCHITECTURES=87.*n_gpu_layers to 0"):
        Slm(tiny_model.path, n_gpu_layers=-1)


def test_with_lookup_the_answer_is_the_models_own_and_takes_fewer_evaluations(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that repeats itself: its drafts hold, except where the text is pushed aside by a line head."""
    counts = []
    texts = []
    decode = ModelContext._decode
    for tokens in (0, 4):
        with Slm(tiny_model.path, n_threads=1, limits=AnswerLimits(60, 60), lookup_tokens=tokens) as slm:
            count = [0]

            def counted(self: ModelContext, *args: Any, count: list[int] = count) -> None:
                count[0] += 1
                decode(self, *args)

            monkeypatch.setattr(ModelContext, "_decode", counted)
            texts.append([slm.generate(chat(f"{LONG}\n{word}"), GRAMMAR).text for word in ("mug", "towel", "bed")])
            counts.append(count[0])
    assert texts[0] == texts[1]
    assert counts[1] < counts[0]


def test_the_computing_thread_keeps_to_its_cores(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = os.sched_getaffinity(0)
    seen = []
    decode = ModelContext._decode
    monkeypatch.setattr(
        ModelContext, "_decode", lambda self, *args: (seen.append(os.sched_getaffinity(0)), decode(self, *args))[1]
    )
    core = min(everywhere)
    with Slm(tiny_model.path, n_threads=1, cores=[core]) as slm:
        slm.generate(chat("x"), GRAMMAR)
    assert seen and all(cores == {core} for cores in seen)
    assert os.sched_getaffinity(0) == everywhere
