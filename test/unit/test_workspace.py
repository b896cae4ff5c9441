"""The set-up scripts: what they find on a machine, what they tell, and that they do nothing twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import machine
import patch_ros_wheels
import workspace

ROOT = Path(__file__).resolve().parents[2]


def python(**changes: object) -> machine.Python:
    values = {"path": "/opt/python", "version": (3, 11), "has_venv": True, "has_headers": True}
    return machine.Python(**{**values, **changes})


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with every tool that set-up needs; delete one to see what is said."""
    for tool in ("cc", "c++", "make", "git"):
        path = tmp_path / tool
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def fake_python(folder: Path, name: str, version: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {version} 1 1 {path}\n")
    path.chmod(0o755)
    return path


def test_a_complete_machine_lacks_nothing(tools: Path) -> None:
    assert machine.missing_packages(python()) == []


@pytest.mark.parametrize(
    ("tool", "package"), [("cc", "build-essential"), ("c++", "build-essential"), ("make", "make"), ("git", "git")]
)
def test_a_missing_tool_is_named_by_its_package(tools: Path, tool: str, package: str) -> None:
    (tools / tool).unlink()
    assert machine.missing_packages(python()) == [package]
    with pytest.raises(machine.MachineError, match=rf"apt-get install -y {package}"):
        machine.require(python())


def test_missing_parts_of_python_are_named_for_that_python(tools: Path) -> None:
    bare = python(version=(3, 12), has_venv=False, has_headers=False)
    assert machine.missing_packages(bare) == ["python3.12-venv", "python3.12-dev"]


def test_one_line_installs_everything() -> None:
    assert machine.install_line(["a", "b"]) == "sudo apt-get install -y a b"
    assert machine.install_line(["a"], root=True) == "apt-get install -y a"


def test_this_interpreter_is_probed() -> None:
    found = machine.probe_python(sys.executable)
    assert found is not None
    assert found.version == sys.version_info[:2]
    assert Path(found.path).exists()


def test_a_python_that_does_not_fit_is_passed_over(tools: Path) -> None:
    fake_python(tools, "python3", "3 13")
    fits = fake_python(tools, "python3.11", "3 11")
    assert machine.find_python({}).path == str(fits)


def test_python_chosen_by_hand_must_fit(tools: Path) -> None:
    old = fake_python(tools, "python3.9", "3 9")
    with pytest.raises(machine.MachineError, match=r"3\.10, 3\.11 or 3\.12 .*python3\.9"):
        machine.find_python({"PYTHON": str(old)})


@pytest.mark.parametrize(
    ("processor", "cuda", "jetson", "expected", "absent"),
    [
        ("x86_64", False, False, {"-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON"}, {"-DGGML_CUDA=ON"}),
        ("x86_64", True, False, {"-DGGML_CUDA=ON", "-DGGML_AVX2=ON"}, {"-DCMAKE_CUDA_ARCHITECTURES=87"}),
        ("aarch64", False, False, {"-DGGML_NATIVE=OFF"}, {"-DGGML_AVX2=ON", "-DGGML_CUDA=ON"}),
        ("aarch64", True, True, {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=87"}, {"-DGGML_AVX2=ON"}),
        ("aarch64", False, True, {"-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16"}, {"-DGGML_CUDA=ON"}),
    ],
)
def test_flags_of_llama_cpp(processor: str, cuda: bool, jetson: bool, expected: set[str], absent: set[str]) -> None:
    flags = set(machine.llama_cmake_args(machine=processor, cuda=cuda, jetson=jetson))
    assert expected <= flags
    assert not absent & flags


def test_include_folders_of_the_wheels_builder_are_replaced() -> None:
    base = "/opt/python/cp311-cp311"
    line = f'set(inc "{base}/include/python3.11;{base}/lib/python3.11/site-packages/numpy/_core/include;/usr/include")'
    patched = patch_ros_wheels.patch(line, "/here/python", "/here/numpy")
    assert patched == 'set(inc "/here/python;/here/numpy;/usr/include")'
    assert patch_ros_wheels.patch(patched, "/here/python", "/here/numpy") == patched


def test_a_step_is_done_until_its_inputs_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(workspace, "LOGS", tmp_path / "logs")
    step = workspace.Step("x", "X", "one")
    assert not step.is_done()
    step.begin()
    step.run([sys.executable, "-c", "print('hello')"])
    assert not step.is_done(), "an interrupted step counts as not done"
    step.finish()
    assert workspace.Step("x", "X", "one").is_done()
    assert not workspace.Step("x", "X", "two").is_done()


def test_a_failing_step_shows_the_end_of_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(workspace, "LOGS", tmp_path / "logs")
    step = workspace.Step("x", "The step", "one")
    step.begin()
    with pytest.raises(workspace.StepError, match=r"(?s)The step: failed.*no space left"):
        step.run([sys.executable, "-c", "import sys; sys.exit('no space left')"])
    assert not step.is_done()


@pytest.mark.parametrize(
    "name", ["runtime", "robot", "build", "training", "torch", "test", "llama", "ros-wheels", "sourced-ros"]
)
def test_every_requirement_is_pinned(name: str) -> None:
    def lines(path: Path) -> list[str]:
        return [line.strip() for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]

    folder = ROOT / "requirements"
    pinned = {line.split("==")[0] for line in lines(folder / "constraints.txt") if "==" in line} | {"numpy", "torch"}
    for line in lines(folder / f"{name}.txt"):
        bare = re.sub(r"\[.*\]", "", line.split("==")[0])
        assert "==" in line or bare in pinned, f"{line} of {name}.txt has no version"


def test_installed_executables_start_under_the_workspaces_python() -> None:
    node = ROOT / "install" / "lib" / "smallplan_planner" / "planner_node"
    if not node.exists():
        pytest.skip("the workspace is not built (make setup)")
    interpreter = re.search(r"'''exec' \"([^\"]+)\"", node.read_text())
    assert interpreter is not None
    assert Path(interpreter[1]) == ROOT / ".venv" / "bin" / "python"
    assert os.access(node, os.X_OK)


def test_env_script_puts_the_workspace_on_the_paths() -> None:
    if not (ROOT / "install" / "setup.sh").exists():
        pytest.skip("the workspace is not built (make setup)")
    command = f"source '{ROOT}/scripts/env.sh' && command -v python && echo $AMENT_PREFIX_PATH && echo $PYTHONPATH"
    done = subprocess.run(["bash", "-c", command], cwd="/", capture_output=True, text=True, timeout=60, check=True)
    interpreter, prefixes, packages = done.stdout.splitlines()
    assert interpreter == str(ROOT / ".venv" / "bin" / "python")
    assert str(ROOT / "install") in prefixes.split(":")
    sources = [str(ROOT / "src" / name) for name in ("smallplan_planner", "smallplan_training")]
    assert packages.split(":")[:2] == sources
