"""The untrained baseline: a copy of a model whose weights are random.

Architecture, tokenizer and file format stay, so what differs from the model is training alone. Weights are drawn
as a Llama is initialised: normal(0, 0.02) for matrices, 1 for norms.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import quantize

logger = logging.getLogger(__name__)

STANDARD_DEVIATION = 0.02
CACHE = Path("build") / "untrained"


def untrained_copy(model: Path, seed: int = 0, cache: Path = CACHE) -> Path:
    """The path of an untrained copy of a GGUF model, made once for each model and seed.

    Raises ValueError when the model has tensors of a type that can't be written.
    """
    digest = hashlib.sha256(model.read_bytes()).hexdigest()[:16]
    path = cache / f"{digest}-{seed}.gguf"
    if path.is_file():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")  # several workers may do this at once; the last rename wins
    shutil.copyfile(model, draft)
    randomise(draft, seed)
    draft.replace(path)
    logger.info("untrained copy of %s: %s", model, path)
    return path


def randomise(path: Path, seed: int) -> None:
    """Overwrite the weights of a GGUF file in place. Vectors that are no norms (biases) become 0."""
    rng = np.random.default_rng(seed)
    reader = GGUFReader(path, "r+")
    for tensor in reader.tensors:
        shape = tuple(int(length) for length in reversed(tensor.shape))
        if tensor.name.startswith("rope_"):  # positions, not weights
            continue
        if "norm" in tensor.name:
            values = np.ones(shape, dtype=np.float32)
        elif len(shape) == 1:
            values = np.zeros(shape, dtype=np.float32)
        else:
            values = rng.normal(0.0, STANDARD_DEVIATION, shape).astype(np.float32)
        try:
            data = quantize(values, tensor.tensor_type)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise ValueError(f"{path}: tensor {tensor.name} is of type {kind}; use F32, F16 or Q8_0") from error
        tensor.data[...] = np.asarray(data).view(tensor.data.dtype).reshape(tensor.data.shape)
    reader.data.flush()
