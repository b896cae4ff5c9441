from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from smallplan_training.nano.model import ModelConfig, NanoModel  # noqa: E402


@pytest.fixture
def model(tiny: ModelConfig) -> NanoModel:
    torch.manual_seed(0)
    return NanoModel(tiny)


def ids(length: int = 150, batch: int = 3, vocabulary: int = 2000) -> torch.Tensor:
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))


def test_logits_are_those_of_transformers(model: NanoModel) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**model.config.to_hugging_face(1, 2, 3))
    theirs = transformers.LlamaForCausalLM(config)
    theirs.load_state_dict(model.to_hugging_face() | {"lm_head.weight": model.embedding.weight.detach()})
    with torch.no_grad():
        expected = theirs.eval()(ids()).logits
        assert torch.allclose(model(ids()), expected, atol=2e-5)


def test_gradients_are_those_of_transformers(model: NanoModel) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**model.config.to_hugging_face(1, 2, 3)))
    theirs.load_state_dict(model.to_hugging_face() | {"lm_head.weight": model.embedding.weight.detach()})
    x = ids(100)
    for logits in (model(x), theirs(x).logits):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten()).backward()
    layer = theirs.model.layers[0]
    width = model.config.width
    assert torch.allclose(model.blocks[0].qkv.weight.grad[:width], layer.self_attn.q_proj.weight.grad, atol=1e-6)
    assert torch.allclose(model.blocks[1].down.weight.grad, theirs.model.layers[1].mlp.down_proj.weight.grad, atol=1e-6)
    assert torch.allclose(model.embedding.weight.grad, theirs.model.embed_tokens.weight.grad, atol=1e-6)


def test_scored_positions_have_the_logits_of_the_whole(model: NanoModel) -> None:
    scored = torch.tensor([[0, 5, 149], [100, 101, 102], [63, 64, 65]])
    with torch.no_grad():
        whole, part = model(ids()), model(ids(), scored)
    assert torch.allclose(part, whole.gather(1, scored.unsqueeze(-1).expand(-1, -1, whole.shape[-1])), atol=1e-5)


def test_the_future_changes_nothing(model: NanoModel) -> None:
    x = ids()
    y = x.clone()
    y[:, 100:] = 7
    with torch.no_grad():
        assert torch.allclose(model(x)[:, :100], model(y)[:, :100], atol=1e-5)


def test_weights_go_to_hugging_face_and_back(model: NanoModel, tiny: ModelConfig) -> None:
    other = NanoModel(ModelConfig.from_hugging_face(tiny.to_hugging_face(1, 2, 3)))
    other.load_hugging_face(model.to_hugging_face())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


@pytest.mark.parametrize("shape", [{"width": 100, "heads": 8}, {"heads": 8, "kv_heads": 3}])
def test_shapes_that_do_not_fit_are_refused(shape: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"is expected|for each head"):
        ModelConfig(**shape)
