"""Whether this llama.cpp can put layers on a GPU.

Asked for layers that it can't put there, llama.cpp computes them on the CPU without a word, many times slower than
the robot was planned for. That is an error here, before a model is loaded.
"""

from __future__ import annotations

from pathlib import Path

import llama_cpp

from smallplan_planner.generation import SlmError

_BACKENDS = ("cuda", "hip", "vulkan", "metal", "sycl", "musa", "cann", "opencl")  # those of ggml that are a GPU's
_BUILD = (
    "CUDACXX=/usr/local/cuda/bin/nvcc CMAKE_ARGS='-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=87' make setup "
    "(87 is a Jetson Orin; other GPUs have other numbers)"
)


def check_gpu_layers(n_gpu_layers: int) -> None:
    """Raise `SlmError` with the remedy when layers are to go on a GPU (not 0; -1 is all) and can't."""
    if n_gpu_layers == 0 or llama_cpp.llama_supports_gpu_offload():
        return
    asked = f"n_gpu_layers is {n_gpu_layers}, but this llama.cpp"
    backends = gpu_backends()
    if not backends:
        raise SlmError(
            f"{asked} was built for the CPU alone, which would compute those layers, slowly. Build it for the GPU: "
            f"{_BUILD}, or set n_gpu_layers to 0"
        )
    raise SlmError(
        f"{asked}, built for {', '.join(backends)}, finds no GPU, so the CPU would compute those layers, slowly. Give "
        "this process one: a container is started with the NVIDIA runtime (--runtime nvidia), its user is in the "
        "groups of the GPU's devices (video and render). Or set n_gpu_layers to 0"
    )


def gpu_backends() -> tuple[str, ...]:
    """The kinds of GPU that this llama.cpp was built for, by the libraries beside it."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    return tuple(name for name in _BACKENDS if any(folder.glob(f"*ggml-{name}*")))
