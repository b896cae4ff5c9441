"""GPU layers where llama.cpp has no GPU: refused with the remedy that fits, asked for or not."""

from __future__ import annotations

from pathlib import Path

import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama.cpp: run `make setup`")

from smallplan_planner.generation import SlmError  # noqa: E402
from smallplan_planner.slm_gpu import check_gpu_layers, gpu_backends  # noqa: E402


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of llama.cpp's libraries, of a build for the CPU, and no GPU to be seen."""
    folder = tmp_path / "llama_cpp" / "lib"
    folder.mkdir(parents=True)
    for name in ("libggml-base.so", "libggml-cpu.so", "libggml.so", "libllama.so"):
        (folder / name).touch()
    monkeypatch.setattr(llama_cpp, "__file__", str(folder.parent / "__init__.py"))
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: False)
    return folder


@pytest.mark.parametrize("layers", [-1, 1, 99])
def test_a_build_for_the_cpu_is_to_be_built_again(layers: int, libraries: Path) -> None:
    assert gpu_backends() == ()
    with pytest.raises(SlmError) as caught:
        check_gpu_layers(layers)
    message = str(caught.value)
    assert f"n_gpu_layers is {layers}" in message and "built for the CPU alone" in message
    for remedy in ("CUDACXX=", "-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=87", "n_gpu_layers to 0"):
        assert remedy in message


def test_a_build_for_a_gpu_that_sees_none_is_to_be_given_one(libraries: Path) -> None:
    (libraries / "libggml-cuda.so").touch()
    assert gpu_backends() == ("cuda",)
    with pytest.raises(SlmError, match=r"built for cuda, finds no GPU.*--runtime nvidia.*video and render") as caught:
        check_gpu_layers(-1)
    assert "CUDACXX" not in str(caught.value), "building it again would change nothing"


def test_no_layers_need_no_gpu(libraries: Path) -> None:
    check_gpu_layers(0)


def test_layers_go_where_a_gpu_is(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: True)
    check_gpu_layers(-1)


def test_this_builds_backends_are_those_that_it_can_use() -> None:
    if not gpu_backends():
        assert not llama_cpp.llama_supports_gpu_offload()
