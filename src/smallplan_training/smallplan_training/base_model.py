"""The language model that is trained: any causal LM of transformers, LoRA adapters on it, and a value head beside.

    lm = load_language_model(BaseOptions("Qwen/Qwen2.5-3B-Instruct"))   or a folder
    scores = lm(batch)                       # log-probabilities of the answers, and a value for each prompt
    with lm.reference(): ...                 # the model as it was: adapters off
    lm.merge_and_save(folder)                # a checkpoint folder for `smallplan_training.export`

What a family of models needs besides its weights is in `config/models` (see `model_recipes.py`). On a GPU the base
is quantised to 4 bits (nf4); the adapters and the value head are float32 everywhere.
B samples, T positions, A answer positions, D width.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import enable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from smallplan_training.base_files import find_base, read_config, save_model, write_folder
from smallplan_training.chat import Chat
from smallplan_training.errors import UserError
from smallplan_training.model_attention import use_fast_attention
from smallplan_training.model_recipes import DTYPES, QUANTISATIONS, LoraRecipe, ModelRecipe, find_recipe, load_recipe
from smallplan_training.token_batches import Batch

__all__ = ["BaseOptions", "Chat", "LanguageModel", "ModelRecipe", "Scores", "ValueHead", "load_language_model"]

logger = logging.getLogger(__name__)

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # peft's names
VALUE_HEAD, ADAPTER_BASE = "value_head.safetensors", "base.json"
_CHUNK_LOGITS = 2**25  # logits that become probabilities at a time: 128 MiB in float32


@dataclass(frozen=True)
class BaseOptions:
    """Which model, and how it is held. Raises ValueError."""

    base: str  # a folder, or a name on the Hugging Face hub
    recipe: str = ""  # a name in config/models or a path; '' = the one that fits
    adapter: Path | None = None  # a folder that `save_adapter` (or peft) wrote, to go on from
    device: str = "auto"  # auto = the GPU if there is one
    dtype: str = "auto"  # of the base: bfloat16, float32; auto = bfloat16 on a GPU, the recipe's on a CPU
    quantisation: str = "auto"  # nf4, none; auto = the recipe's on a GPU, none on a CPU
    seed: int = 0  # of the adapters' first weights
    lora: Mapping[str, Any] = field(default_factory=dict)  # rank, alpha, dropout, where other than the recipe's

    def __post_init__(self) -> None:
        for name, allowed in (("dtype", ("auto", *DTYPES)), ("quantisation", ("auto", *QUANTISATIONS))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Scores:
    """What a model says of a batch. On padding `logprobs` and `entropy` are 0, `likeliest` is False."""

    logprobs: Tensor  # (B, A) float32, of the answers' tokens
    values: Tensor  # (B,) float32, before answering
    entropy: Tensor | None  # (B, A) float32; None unless asked for
    likeliest: Tensor  # (B, A) bool: the answer's token is the likeliest


class ValueHead(nn.Module):
    """How good the outlook is before answering: the hidden state at the prompt's last token to one number.

    Begins as 0 everywhere.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, D) to (B,). Only the head learns from its errors: in the model they would drown PPO's advantages."""
        return self.linear(hidden.detach().float()).squeeze(-1)


@dataclass
class _Places:
    """Where logits are wanted, and the hidden states that were on their way to the output layer."""

    rows: Tensor  # (N,)
    positions: Tensor  # (N,)
    hidden: Tensor | None = None  # (B, T, D)


_PLACES: ContextVar[_Places | None] = ContextVar("places", default=None)  # of a thread: several share the model


def _pick(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """In front of an output layer: only the places that are wanted, where somebody said which."""
    places = _PLACES.get()
    if places is None:
        return inputs
    places.hidden = inputs[0]
    return (inputs[0][places.rows, places.positions].unsqueeze(0), *inputs[1:])


class LanguageModel(nn.Module):
    """A causal LM with adapters, its chat, and a value head. Made by `load_language_model`."""

    def __init__(self, model: PeftModel, chat: Chat, recipe: ModelRecipe, folder: Path, quantised: bool) -> None:
        super().__init__()
        self.model = model
        self.chat = chat
        self.recipe = recipe
        self.folder = folder  # of the base
        self.quantised = quantised
        embeddings = model.get_base_model().get_input_embeddings().weight
        self.vocab_size = int(embeddings.shape[0])
        self.width = int(model.get_base_model().get_output_embeddings().in_features)
        self.value_head = ValueHead(self.width).to(embeddings.device)
        model.get_base_model().get_output_embeddings().register_forward_pre_hook(_pick)

    @property
    def device(self) -> torch.device:
        return self.value_head.linear.weight.device

    def forward(self, batch: Batch, entropy: bool = False, temperature: float = 1.0) -> Scores:
        """Scores of the answers in a batch (made with prompt_weight 0) under logits / temperature.

        Logits are computed at answer positions only: a vocabulary of 150,000 at all positions is most of the memory.
        """
        answer = batch.weights > 0  # (B, A)
        rows = torch.arange(batch.samples, device=answer.device).unsqueeze(1).expand_as(answer)[answer]
        logits, hidden = self._logits_at(batch.ids, rows, batch.scored[answer])
        columns = _score(logits / temperature if temperature != 1.0 else logits, batch.targets[answer], entropy)
        logprobs, spread, likeliest = (_spread(column, answer) for column in columns)
        values = self.value_head(hidden[torch.arange(batch.samples, device=hidden.device), batch.scored[:, 0]])
        return Scores(logprobs, values, spread if entropy else None, likeliest)

    def _logits_at(self, ids: Tensor, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (N, vocabulary) at N places of ids (B, T), last hidden states (B, T, D)).

        The places are picked in front of the output layer, whatever the model does around it. There is no attention
        mask: padding stands behind everything that attends, so causality hides it, and the fast kernels apply.
        """
        places = _Places(rows, positions)
        token = _PLACES.set(places)
        try:
            output = self.model(input_ids=ids, use_cache=False)
        finally:
            _PLACES.reset(token)
        assert places.hidden is not None
        return output.logits.squeeze(0), places.hidden

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """The model as it was before training: adapters off, no gradients."""
        with self.model.disable_adapter(), torch.no_grad():
            yield

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Of the adapters, then of the value head."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def trainable_state(self) -> dict[str, Tensor]:
        """All weights that training changes, on the CPU, by name; for checkpoints."""
        adapter = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        state = {f"adapter.{name}": tensor for name, tensor in adapter.items()}
        state |= {f"value_head.{name}": tensor for name, tensor in self.value_head.state_dict().items()}
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `trainable_state` gave; raises `UserError` when it is of another model or other adapters."""
        own = self.trainable_state()
        names = sorted(own.keys() | state.keys())
        wrong = [n for n in names if n not in own or n not in state or own[n].shape != state[n].shape]
        if wrong:
            has, got = (_shape(part.get(wrong[0])) for part in (own, state))
            raise UserError(
                f"the adapter does not fit {self.folder}: {wrong[0]} is {got} in the adapter and {has} here "
                f"({len(wrong)} of {len(names)} tensors differ); give the base and the LoRA settings that it was "
                "trained with"
            )
        adapter = {name.partition(".")[2]: tensor for name, tensor in state.items() if name.startswith("adapter.")}
        head = {name.partition(".")[2]: tensor for name, tensor in state.items() if name.startswith("value_head.")}
        set_peft_model_state_dict(self.model, adapter)
        self.value_head.load_state_dict(head)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapters as peft does, and the value head. Whole or not at all; raises `UserError`."""
        state = self.trainable_state()
        kinds = {"adapter": ADAPTER, "value_head": VALUE_HEAD}
        with write_folder(folder) as new:
            for prefix, file in kinds.items():
                tensors = {n.partition(".")[2]: t for n, t in state.items() if n.startswith(f"{prefix}.")}
                save_file(tensors, new / file, metadata={"format": "pt"})
            self.model.peft_config["default"].save_pretrained(str(new))
            (new / ADAPTER_BASE).write_text(json.dumps(self._base_facts(), indent=1), encoding="utf-8")

    def load_adapter(self, folder: Path) -> None:
        """Take over what `save_adapter` wrote; of peft's own folders the adapters alone. Raises `UserError`."""
        adapter = _load_tensors(folder / ADAPTER)
        _check_base(folder, self._base_facts())
        state = {f"adapter.{name}": tensor for name, tensor in adapter.items()}
        head = _load_tensors(folder / VALUE_HEAD) if (folder / VALUE_HEAD).is_file() else self.value_head.state_dict()
        state |= {f"value_head.{name}": tensor for name, tensor in head.items()}
        self.load_trainable_state(state)

    def merge_and_save(self, folder: Path) -> None:
        """Write base and adapters as one checkpoint folder, which transformers loads and `export.convert` takes.

        The base is read anew and whole: merging into the one in memory would round its weights (and a base of 4 bits
        can't be exported). Raises `UserError`.
        """
        base = _load_weights(self.folder, dtype="auto")
        merged = get_peft_model(base, self.model.peft_config["default"])
        state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        set_peft_model_state_dict(merged, {name: tensor.detach().cpu() for name, tensor in state.items()})
        save_model(merged.merge_and_unload(), self.folder, self.chat.tokenizer, folder)

    def _base_facts(self) -> dict[str, Any]:
        config = self.model.get_base_model().config
        names = ("model_type", "hidden_size", "num_hidden_layers")
        return {"vocab_size": self.vocab_size, **{name: getattr(config, name, None) for name in names}}


def hide_progress() -> None:
    """No bars of transformers' own beside those of a command; downloads keep theirs."""
    transformers_logging.disable_progress_bar()
    enable_progress_bars()


def load_language_model(options: BaseOptions) -> LanguageModel:
    """Load base and tokenizer, put adapters on. Raises `UserError` that says what is missing or does not fit."""
    folder = find_base(options.base)
    config = read_config(folder)
    tokenizer = _load_tokenizer(folder)
    recipe = (
        load_recipe(options.recipe)
        if options.recipe
        else find_recipe(options.base, config.model_type, tokenizer.get_vocab())
    )
    device = _device(options.device)
    on_gpu = device.type == "cuda"
    quantisation = (
        (recipe.quantisation if on_gpu else "none") if options.quantisation == "auto" else options.quantisation
    )
    dtype = ("bfloat16" if on_gpu else recipe.cpu_dtype) if options.dtype == "auto" else options.dtype
    chat = Chat(tokenizer, recipe)
    model = _load_weights(folder, dtype, device, quantisation == "nf4")
    rows = int(model.get_input_embeddings().weight.shape[0])
    if chat.vocab_size > rows:
        raise UserError(
            f"{folder}: the tokenizer has {chat.vocab_size} tokens and the model embeddings for {rows}; "
            "use the tokenizer that belongs to the model"
        )
    use_fast_attention(model)
    model.requires_grad_(False)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if options.adapter is None:
        lora = _lora_config(replace(recipe.lora, **options.lora))
    else:
        lora = _read_lora_config(options.adapter)
    if options.adapter is not None:
        _check_base(options.adapter, {"vocab_size": rows, "hidden_size": getattr(config, "hidden_size", None)})
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.manual_seed(options.seed)
        try:
            peft = get_peft_model(model, lora)
        except ValueError as error:
            raise UserError(f"{folder} can't take adapters with the recipe {recipe.name!r}: {error}") from error
        lm = LanguageModel(peft, chat, recipe, folder, quantised=quantisation == "nf4")
    if options.adapter is not None:
        lm.load_adapter(options.adapter)
    trained = sum(parameter.numel() for parameter in lm.trainable_parameters())
    logger.info(
        "%s: recipe %s, %s%s on %s, %.2f M of %.1f M parameters are trained",
        options.base,
        recipe.name,
        dtype,
        " in 4 bits" if lm.quantised else "",
        device,
        trained / 1e6,
        model.num_parameters() / 1e6,
    )
    return lm


def _score(logits: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probability of the target, entropy or 0, whether the target is the likeliest), each (N,).

    In chunks whose probabilities are computed again in the backward pass, so that they are never all in memory.
    """
    rows = max(1, _CHUNK_LOGITS // logits.shape[-1])
    if len(logits) <= rows or not logits.requires_grad:
        parts = [
            _score_chunk(logits[i : i + rows], targets[i : i + rows], entropy) for i in range(0, len(logits), rows)
        ]
    else:
        parts = [
            checkpoint(_score_chunk, logits[i : i + rows], targets[i : i + rows], entropy, use_reentrant=False)
            for i in range(0, len(logits), rows)
        ]
    logprobs, spreads, likeliest = (torch.cat(column) for column in zip(*parts, strict=True))
    return logprobs, spreads, likeliest


def _score_chunk(logits: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    all_of = functional.log_softmax(logits.float(), dim=-1)
    logprobs = all_of.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    spread = -(all_of.exp() * all_of).sum(-1) if entropy else torch.zeros_like(logprobs)
    return logprobs, spread, logits.argmax(-1) == targets


def _spread(column: Tensor, answer: Tensor) -> Tensor:
    """(N,) to (B, A): in the order of the True places of `answer`, 0 elsewhere."""
    return torch.zeros(answer.shape, dtype=column.dtype, device=column.device).masked_scatter(answer, column)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"there is no device {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"no GPU is to be had for device {name!r}; use cpu, or install PyTorch for CUDA and a driver")
    return device


def _load_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} has no tokenizer that transformers can load: {error}") from error


def _load_weights(folder: Path, dtype: str, device: torch.device | None = None, quantised: bool = False) -> Any:
    """The base, its weights in `dtype` ("auto": as they are stored)."""
    place = device or torch.device("cpu")
    kind = "auto" if dtype == "auto" else getattr(torch, dtype)
    options: dict[str, Any] = {"dtype": kind}
    if quantised:
        options |= {"quantization_config": _nf4(place), "device_map": {"": place}}
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise UserError(f"{folder} does not fit into the memory of {place}: {error}") from error
        raise UserError(f"{folder} is no causal language model that transformers can load: {error}") from error
    return model if quantised else model.to(place)


def _nf4(device: torch.device) -> Any:
    if device.type != "cuda":
        raise UserError(f"a base of 4 bits (nf4) needs a CUDA GPU, not {device}; set quantisation to none")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "a base of 4 bits (nf4) needs bitsandbytes (the extra `quantised`): run `pip install bitsandbytes`, or set "
            "quantisation to none"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _lora_config(recipe: LoraRecipe) -> LoraConfig:
    modules = recipe.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=modules if isinstance(modules, str) else list(modules),
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        bias="none",
    )


def _read_lora_config(folder: Path) -> LoraConfig:
    if not (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder} holds no {ADAPTER_CONFIG}; expected a folder with adapters")
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / ADAPTER_CONFIG} can't be read: {error}") from error
    config.inference_mode = False
    return config


def _load_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {path.name}; expected a folder with adapters")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} can't be read: {error}; it is damaged, use an earlier one") from error


def _check_base(folder: Path, here: Mapping[str, Any]) -> None:
    """Raise `UserError` when the adapters in `folder` say that they were trained on a base of other sizes."""
    path = folder / ADAPTER_BASE
    if not path.is_file():
        return  # peft's own folder says nothing about it; the shapes are compared anyway
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    for name, label in (("vocab_size", "a vocabulary"), ("hidden_size", "a width"), ("num_hidden_layers", "a depth")):
        if name in here and there.get(name) != here[name]:
            raise UserError(
                f"the adapter in {folder} was trained on a base with {label} of {there.get(name)}, this base has "
                f"{here[name]}; give the base that it was trained on, or train anew without the adapter"
            )


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else "x".join(map(str, tensor.shape))
