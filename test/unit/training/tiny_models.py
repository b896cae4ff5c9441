"""Tiny random models of several families as folders: real architectures and forms of chat, random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from smallplan_planner.prompt import Message
from smallplan_training.nano.tokenizer import NanoTokenizer, save_tokenizer, train_tokenizer

PROMPT = (
    Message("system", "You plan for a robot. Answer in three lines."),
    Message("user", "Task: find the mug.\nRooms:\nkitchen: fridge (closed), table\nhallway: nothing seen"),
)
ANSWER = "Analysis: No mug yet.\nReasoning: The fridge is closed.\nCommand: go_to_and_open(kitchen, fridge)"
OTHER_PROMPT = (PROMPT[0], Message("user", "Task: find the sock.\nRooms:\nhallway: sock"))
OTHER_ANSWER = "Analysis: The sock is here.\nReasoning: It is found.\nCommand: done()"

FAMILIES = ("qwen2.5", "llama-3.2", "phi-4-mini", "other")
_SPECIAL = {
    "qwen2.5": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama-3.2": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|finetune_right_pad_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
    ],
    "phi-4-mini": ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "other": ["<eos>", "<turn>", "<stop>"],
}
_ROLES: dict[str, dict[str, str]] = {
    "qwen2.5": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "llama-3.2": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "phi-4-mini": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "other": {"eos_token": "<eos>"},
}
_TEMPLATES = {
    "qwen2.5": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama-3.2": (
        "{{ bos_token }}{% if not date_string is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}{% endif %}"
        "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
        "{% if m['role'] == 'system' %}{{ 'Today Date: ' + date_string + '\n\n' }}{% endif %}"
        "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "phi-4-mini": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "other": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{{ '<turn>' + m['role'] + ': ' + m['content'] + '<stop>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<turn>assistant: ' }}{% endif %}"
    ),
}
_SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
_CONFIGS: dict[str, Callable[..., Any]] = {
    "qwen2.5": lambda **k: Qwen2Config(num_key_value_heads=2, intermediate_size=64, **_SHAPE, **k),
    "llama-3.2": lambda **k: LlamaConfig(num_key_value_heads=2, intermediate_size=64, **_SHAPE, **k),
    "phi-4-mini": lambda **k: Phi3Config(num_key_value_heads=2, intermediate_size=64, **_SHAPE, **k),
    "other": lambda **k: GPTNeoXConfig(intermediate_size=64, **_SHAPE, **k),
}


def make_tokenizer(family: str, vocabulary: int = 360) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the family's special tokens and a chat template of its form."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in _SPECIAL[family]]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message.content for message in (*PROMPT, *OTHER_PROMPT)]
    tokenizer.train_from_iterator([*texts, ANSWER, OTHER_ANSWER] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=_TEMPLATES[family],
        clean_up_tokenization_spaces=False,
        **_ROLES[family],
    )


def save_random_model(family: str, folder: Path, rows: int, hidden: int = 32, seed: int = 0) -> None:
    """Random weights of the family's architecture with embeddings for `rows` tokens."""
    torch.manual_seed(seed)
    config = _CONFIGS[family](
        vocab_size=rows, hidden_size=hidden, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20.0)  # as in trained models, some tokens are clearly likelier
    model.save_pretrained(folder)


def save_tiny(family: str, folder: Path, hidden: int = 32, spare: int = 8, seed: int = 0) -> Path:
    """A folder that transformers loads; `spare` = rows of the embeddings beyond the tokenizer's vocabulary."""
    tokenizer = make_tokenizer(family)
    tokenizer.save_pretrained(folder)
    save_random_model(family, folder, len(tokenizer) + spare, hidden, seed)
    return folder


def save_tiny_sentencepiece(family: str, folder: Path) -> NanoTokenizer:
    """A model of the family's architecture with the default model's kind of tokenizer, which llama.cpp converts."""
    texts = [message.content for message in (*PROMPT, *OTHER_PROMPT)]
    tokenizer = NanoTokenizer(train_tokenizer(texts * 3, [ANSWER, OTHER_ANSWER] * 3, ["fridge", "living room"], 700))
    save_tokenizer(tokenizer, folder)
    save_random_model(family, folder, len(tokenizer), hidden=64)
    return tokenizer
