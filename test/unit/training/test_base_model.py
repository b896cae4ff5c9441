from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from smallplan_planner.actions import ActionKind
from smallplan_planner.prompt import ObjectView, PromptView, RoomView
from smallplan_training import base_model, export
from smallplan_training.base_model import BaseOptions, LanguageModel, load_language_model
from smallplan_training.errors import UserError
from smallplan_training.parity import Reference
from smallplan_training.sample_tokens import pack_pairs
from smallplan_training.token_batches import Batch, make_batch
from unit.training.tiny_models import (
    ANSWER,
    FAMILIES,
    OTHER_ANSWER,
    OTHER_PROMPT,
    PROMPT,
    save_random_model,
    save_tiny,
    save_tiny_sentencepiece,
)

TARGETS = {
    "qwen2.5": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "llama-3.2": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "phi-4-mini": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "other": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_tiny(family, tmp_path_factory.mktemp("base") / family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(folder: Path, **options: Any) -> LanguageModel:
    return load_language_model(BaseOptions(str(folder), **{"device": "cpu", "dtype": "float32", **options})).eval()


@pytest.fixture
def lm(family: str, folders: dict[str, Path]) -> LanguageModel:
    return load(folders[family])


def pairs_of(lm: LanguageModel) -> list[tuple[list[int], list[int]]]:
    chats = ((PROMPT, ANSWER), (OTHER_PROMPT, OTHER_ANSWER), (PROMPT[1:], "done()"))
    return [(lm.chat.encode_prompt(prompt), lm.chat.encode_answer(answer)) for prompt, answer in chats]


def batch_of(lm: LanguageModel) -> Batch:
    return make_batch(pack_pairs(pairs_of(lm)), range(3), lm.chat.pad_id)


def disturb(lm: LanguageModel) -> None:
    """As if trained: adapters and value head away from 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lm.trainable_parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def unbatched(model: Any, prompt: list[int], answer: list[int]) -> tuple[Tensor, Tensor]:
    """(logits (A, vocabulary) in front of each answer token, the last hidden state at the prompt's end (D,))."""
    with torch.no_grad():
        output = model(input_ids=torch.tensor([[*prompt, *answer]]), output_hidden_states=True)
    begin = len(prompt) - 1
    return output.logits[0, begin : begin + len(answer)], output.hidden_states[-1][0, begin]


def test_the_recipe_that_fits_is_used_and_its_layers_are_adapted(family: str, lm: LanguageModel) -> None:
    assert lm.recipe.name == ("generic" if family == "other" else family)
    adapted = {name.split(".")[-2] for name, _ in lm.named_modules() if name.endswith(".lora_A")}
    assert adapted == TARGETS[family]
    trained = {name for name, parameter in lm.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("value_head.") for name in trained)
    assert len(trained) == len(lm.trainable_parameters())


def test_a_batch_scores_as_each_turn_does_alone(lm: LanguageModel) -> None:
    disturb(lm)
    pairs, batch = pairs_of(lm), batch_of(lm)
    with torch.no_grad():
        scores = lm(batch, entropy=True)
    assert scores.entropy is not None
    for row, (prompt, answer) in enumerate(pairs):
        logits, hidden = unbatched(lm.model, prompt, answer)
        value = lm.value_head(hidden.unsqueeze(0)).detach()
        all_of = logits.log_softmax(-1)
        count = len(answer)
        assert torch.allclose(scores.logprobs[row, :count], all_of[range(count), answer], atol=1e-4)
        assert torch.allclose(scores.entropy[row, :count], -(all_of.exp() * all_of).sum(-1), atol=1e-4)
        assert scores.likeliest[row, :count].tolist() == (logits.argmax(-1) == torch.tensor(answer)).tolist()
        assert not scores.logprobs[row, count:].any() and not scores.likeliest[row, count:].any()
        assert float(scores.values[row]) == pytest.approx(float(value), abs=1e-4)


def test_the_value_does_not_know_the_answer(folders: dict[str, Path]) -> None:
    lm = load(folders["qwen2.5"])
    disturb(lm)
    prompt = lm.chat.encode_prompt(PROMPT)
    pairs = [(prompt, lm.chat.encode_answer(answer)) for answer in (ANSWER, OTHER_ANSWER)]
    values = lm(make_batch(pack_pairs(pairs), [0, 1], lm.chat.pad_id)).values.detach()
    assert float(values[0]) == pytest.approx(float(values[1]), abs=1e-5)
    assert float(values[0].abs()) > 0


def test_temperature_divides_the_logits(folders: dict[str, Path]) -> None:
    lm = load(folders["llama-3.2"])
    prompt, answer = pairs_of(lm)[0]
    logits, _ = unbatched(lm.model, prompt, answer)
    with torch.no_grad():
        scores = lm(batch_of(lm), temperature=0.5)
    expected = (2 * logits).log_softmax(-1)[range(len(answer)), answer]
    assert torch.allclose(scores.logprobs[0, : len(answer)], expected, atol=1e-4)


def test_chunks_of_logits_give_the_same_gradients(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load(folders["qwen2.5"])
    disturb(lm)

    def gradients() -> list[Tensor]:
        lm.zero_grad()
        scores = lm(batch_of(lm), entropy=True)
        assert scores.entropy is not None
        (scores.logprobs.sum() + scores.entropy.sum() + scores.values.sum()).backward()
        return [parameter.grad.clone() for parameter in lm.trainable_parameters() if parameter.grad is not None]

    whole = gradients()
    monkeypatch.setattr(base_model, "_CHUNK_LOGITS", 5 * lm.vocab_size)
    parts = gradients()
    assert len(parts) == len(whole) == len(lm.trainable_parameters())
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(parts, whole, strict=True))


def test_the_reference_is_the_base(family: str, lm: LanguageModel, folders: dict[str, Path]) -> None:
    disturb(lm)
    batch = batch_of(lm)
    base = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32).eval()
    with lm.reference():
        reference = lm(batch)
    now = lm(batch)
    assert not reference.logprobs.requires_grad and now.logprobs.requires_grad
    for row, (prompt, answer) in enumerate(pairs_of(lm)):
        expected = unbatched(base, prompt, answer)[0].log_softmax(-1)[range(len(answer)), answer]
        assert torch.allclose(reference.logprobs[row, : len(answer)], expected, atol=1e-4)
        assert not torch.allclose(now.logprobs[row, : len(answer)], expected, atol=1e-2)


def test_an_adapter_comes_back_as_it_was(lm: LanguageModel, tmp_path: Path) -> None:
    disturb(lm)
    lm.save_adapter(tmp_path / "adapter")
    again = load(lm.folder, adapter=tmp_path / "adapter", seed=5)
    batch = batch_of(lm)
    with torch.no_grad():
        before, after = lm(batch), again(batch)
    assert torch.equal(before.logprobs, after.logprobs) and torch.equal(before.values, after.values)
    fresh = load(lm.folder, seed=5)
    fresh.load_trainable_state(again.trainable_state())
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), lm.parameters(), strict=True))
    assert not (tmp_path / "adapter.new").exists()


def test_a_merged_folder_is_the_trained_model(lm: LanguageModel, tmp_path: Path) -> None:
    disturb(lm)
    weights = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    lm.merge_and_save(tmp_path / "merged")
    assert all(torch.equal(weights[name], tensor) for name, tensor in lm.state_dict().items())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    prompt, answer = pairs_of(lm)[0]
    assert torch.allclose(unbatched(merged, prompt, answer)[0], unbatched(lm.model, prompt, answer)[0], atol=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    turns = lm.chat._turns(PROMPT)
    assert tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"] == prompt
    assert tokenizer.chat_template == lm.chat.tokenizer.chat_template


@pytest.mark.slow
@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize("family", ["qwen2.5", "llama-3.2", "phi-4-mini"])
def test_a_merged_model_runs_in_llama_cpp(family: str, tmp_path: Path) -> None:
    save_tiny_sentencepiece(family, tmp_path / "base")
    lm = load(tmp_path / "base", recipe="smallplan-nano" if family == "llama-3.2" else "generic")
    disturb(lm)
    lm.merge_and_save(tmp_path / "merged")
    export.convert(tmp_path / "merged", tmp_path / "model.gguf")
    view = PromptView("mug", "normal", (ActionKind.DONE,), (RoomView("kitchen", (ObjectView("fridge", "closed"),)),))
    reference = Reference(tmp_path / "merged", lm.chat, [view], 1, tmp_path / "logits", graphs=0)
    parity = reference.compare(tmp_path / "model.gguf")
    assert parity.agreement == 100.0 and parity.ties == 0
    assert parity.largest_difference < 0.05
    if family == "llama-3.2":  # the others are never made with such a tokenizer
        assert parity.equal_tokens == parity.prompts == 1


def test_an_adapter_of_another_vocabulary_is_refused_with_both_sizes(folders: dict[str, Path], tmp_path: Path) -> None:
    lm = load(folders["qwen2.5"])
    lm.save_adapter(tmp_path / "adapter")
    other = save_tiny("qwen2.5", tmp_path / "other", spare=40)
    with pytest.raises(UserError) as caught:
        load(other, adapter=tmp_path / "adapter")
    message = str(caught.value)
    assert f"a vocabulary of {lm.vocab_size}" in message and str(lm.vocab_size + 32) in message
    assert "give the base that it was trained on" in message


def test_an_adapter_of_another_shape_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    lm = load(folders["qwen2.5"])
    wide = load(save_tiny("qwen2.5", tmp_path / "wide", hidden=64))
    wide.save_adapter(tmp_path / "adapter")
    with pytest.raises(UserError, match="a width of 64, this base has 32"):
        load(folders["qwen2.5"], adapter=tmp_path / "adapter")
    (tmp_path / "adapter" / "base.json").unlink()  # as an adapter that peft wrote
    with pytest.raises(UserError, match=r"does not fit .* is 64x16 in the adapter and 32x16 here"):
        lm.load_adapter(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"does not fit .*phi-4-mini"):
        load(folders["phi-4-mini"], adapter=tmp_path / "adapter")


def test_an_adapter_that_peft_wrote_is_taken(folders: dict[str, Path], tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folders["llama-3.2"], dtype=torch.float32)
    theirs = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    lm = load(folders["llama-3.2"], adapter=tmp_path / "adapter")
    prompt, answer = pairs_of(lm)[0]
    assert torch.allclose(
        unbatched(lm.model, prompt, answer)[0], unbatched(theirs.eval(), prompt, answer)[0], atol=1e-5
    )


def test_a_full_disk_costs_nothing_that_was_saved(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load(folders["qwen2.5"])
    lm.save_adapter(tmp_path / "adapter")
    before = lm.trainable_state()
    disturb(lm)

    def full(*_args: object, **_others: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(base_model, "save_file", full)
    with pytest.raises(UserError, match=r"No space left on device.*what was there stays"):
        lm.save_adapter(tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    lm.load_adapter(tmp_path / "adapter")
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.trainable_state().items())


def test_the_first_weights_are_the_seeds(folders: dict[str, Path]) -> None:
    torch.manual_seed(9)
    drawn = torch.rand(1)
    torch.manual_seed(9)
    one, same, another = (load(folders["qwen2.5"], seed=seed).trainable_state() for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), drawn)  # nobody else's dice were thrown
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], another[name]) for name in one)


def test_on_a_cpu_the_base_is_bfloat16_and_what_is_trained_float32(folders: dict[str, Path]) -> None:
    lm = load(folders["qwen2.5"], dtype="auto")
    kinds = {parameter.requires_grad: parameter.dtype for parameter in lm.parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}
    scores = lm(batch_of(lm))
    assert scores.logprobs.dtype == scores.values.dtype == torch.float32
    (scores.logprobs.sum() + scores.values.sum()).backward()
    assert all(parameter.grad is not None for parameter in lm.trainable_parameters())


def test_gradient_checkpointing_changes_no_gradient(folders: dict[str, Path], tmp_path: Path) -> None:
    grads = []
    for switch in ("true", "false"):
        recipe = tmp_path / f"{switch}.yaml"
        recipe.write_text(f"gradient_checkpointing: {switch}\n")
        lm = load(folders["phi-4-mini"], recipe=str(recipe)).train()
        assert lm.model.get_base_model().is_gradient_checkpointing == (switch == "true")
        lm(batch_of(lm)).logprobs.sum().backward()
        grads.append([p.grad for p in lm.trainable_parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))
    assert any(float(gradient.abs().max()) > 0 for gradient in grads[0])


def test_four_bits_need_a_gpu(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="needs a CUDA GPU, not cpu; set quantisation to none"):
        load(folders["qwen2.5"], quantisation="nf4")


def test_four_bits_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        base_model._nf4(torch.device("cuda"))


def test_a_base_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no model folder /nowhere/model"):
        load(Path("/nowhere/model"))
    with pytest.raises(UserError, match=r"holds no config\.json"):
        load(tmp_path)
    from huggingface_hub.errors import LocalEntryNotFoundError

    from smallplan_training import base_files

    def offline(*_args: object, **_others: object) -> str:
        raise LocalEntryNotFoundError("outgoing traffic has been disabled")

    monkeypatch.setattr(base_files, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"Qwen/Qwen2.5-3B-Instruct is neither a folder.*outgoing traffic.*a folder"):
        load_language_model(BaseOptions("Qwen/Qwen2.5-3B-Instruct"))


def test_a_base_by_name_is_taken_from_the_local_cache(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from smallplan_training import base_files

    asked: list[tuple[str, bool]] = []

    def local(name: str, local_files_only: bool = False, **_others: object) -> str:
        asked.append((name, local_files_only))
        return str(folders["phi-4-mini"])

    monkeypatch.setattr(base_files, "snapshot_download", local)
    lm = load_language_model(BaseOptions("microsoft/Phi-4-mini-instruct", device="cpu", dtype="float32"))
    assert lm.recipe.name == "phi-4-mini"
    assert asked == [("microsoft/Phi-4-mini-instruct", True)]


def test_damaged_folders_are_named(tmp_path: Path, folders: dict[str, Path]) -> None:
    broken = save_tiny("qwen2.5", tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match="broken is no causal language model that transformers can load"):
        load(broken)
    small = save_tiny("qwen2.5", tmp_path / "small")
    save_random_model("qwen2.5", small, rows=100)
    with pytest.raises(UserError, match=r"the tokenizer has \d+ tokens and the model embeddings for 100"):
        load(small)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "config.json").write_text(json.dumps({"model_type": "abacus"}))
    with pytest.raises(UserError, match="abacus"):
        load(strange)
    with pytest.raises(UserError, match=r"holds no adapter_config\.json"):
        load(folders["qwen2.5"], adapter=tmp_path)
    with pytest.raises(UserError, match="there is no device 'abacus'"):
        load(folders["qwen2.5"], device="abacus")
