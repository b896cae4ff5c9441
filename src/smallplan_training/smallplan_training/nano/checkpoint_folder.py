"""A model as a Hugging Face checkpoint folder: what transformers loads and llama.cpp's converter reads."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from smallplan_training.nano.model import ModelConfig, NanoModel
from smallplan_training.nano.tokenizer import NanoTokenizer, save_tokenizer


def save_folder(model: NanoModel, tokenizer: NanoTokenizer, folder: Path) -> None:
    """Write weights (float32), `config.json` and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_hugging_face(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_tokenizer(tokenizer, folder)
    part = folder / "model.safetensors.part"
    save_file(model.to_hugging_face(), part, metadata={"format": "pt"})
    part.replace(folder / "model.safetensors")


def load_folder(folder: Path) -> NanoModel:
    """The model of a folder that `save_folder` wrote; raises FileNotFoundError."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = NanoModel(ModelConfig.from_hugging_face(config))
    model.load_hugging_face(load_file(folder / "model.safetensors"))
    return model
