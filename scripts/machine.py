"""What this machine has: a Python that fits, the tools that set-up needs, a sourced ROS 2, a GPU.

Standard library only, because it runs before anything is installed. It looks, and changes nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SUPPORTED = ((3, 10), (3, 11), (3, 12))
PROBE = """
import importlib.util, os, sys, sysconfig
venv = all(importlib.util.find_spec(name) is not None for name in ("venv", "ensurepip"))
headers = os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
base = getattr(sys, "_base_executable", None) or sys.executable
print(sys.version_info[0], sys.version_info[1], int(venv), int(headers), base)
"""


class MachineError(RuntimeError):
    """This machine can't be used as it is; the message says what to do."""


@dataclass(frozen=True)
class Python:
    """An interpreter, and what of it is installed."""

    path: str  # of the installation; not of a virtual environment or a shim that leads to it
    version: tuple[int, int]
    has_venv: bool
    has_headers: bool

    @property
    def supported(self) -> bool:
        return self.version in SUPPORTED

    @property
    def name(self) -> str:
        return f"python{self.version[0]}.{self.version[1]}"


def sourced_ros(environ: Mapping[str, str]) -> str | None:
    """The distribution of the ROS 2 that is sourced in `environ` ("humble", "jazzy", …), or None."""
    return environ.get("ROS_DISTRO") or None


def probe_python(command: str) -> Python | None:
    """What the interpreter `command` (a name or path) offers; None when there is none or it does not run."""
    path = shutil.which(command)
    if path is None:
        return None
    done = subprocess.run([path, "-c", PROBE], capture_output=True, text=True, timeout=60, check=False)
    words = done.stdout.split(maxsplit=4)
    if done.returncode != 0 or len(words) != 5:
        return None
    major, minor, venv, headers = (int(word) for word in words[:4])
    return Python(words[4].strip(), (major, minor), bool(venv), bool(headers))


def find_python(environ: Mapping[str, str]) -> Python:
    """The interpreter of the workspace: $PYTHON, the system's beside a sourced ROS, else the first that fits.

    Raises `MachineError` when none is of a supported version.
    """
    if environ.get("PYTHON"):
        candidates = [environ["PYTHON"]]
    elif sourced_ros(environ):
        candidates = ["/usr/bin/python3"]
    else:
        candidates = ["python3", "python3.12", "python3.11", "python3.10", "/usr/bin/python3"]
    found = [python for python in map(probe_python, candidates) if python is not None]
    for python in found:
        if python.supported:
            return python
    seen = ", ".join(f"{python.path} is {python.name}" for python in found) or f"none of {', '.join(candidates)} runs"
    raise MachineError(f"Python 3.10, 3.11 or 3.12 is needed; {seen}. Set PYTHON=/path/to/python3.12 to choose one.")


def missing_packages(python: Python) -> list[str]:
    """The Debian packages that set-up needs and this machine lacks."""
    of_python = "python3" if is_system_default(python) else python.name
    missing = []
    if not python.has_venv:
        missing.append(f"{of_python}-venv")
    if not python.has_headers:
        missing.append(f"{of_python}-dev")
    if not (_which_any("c++", "g++", "clang++") and _which_any("cc", "gcc", "clang")):
        missing.append("build-essential")
    for tool in ("make", "git"):
        if shutil.which(tool) is None:
            missing.append(tool)
    return missing


def is_system_default(python: Python) -> bool:
    """Whether the packages of `python` are called python3-… rather than python3.12-…"""
    default = Path("/usr/bin/python3")
    return default.exists() and default.resolve() == Path(python.path).resolve()


def install_line(packages: list[str], *, root: bool = False) -> str:
    """The one line that installs `packages`."""
    return f"{'' if root else 'sudo '}apt-get install -y {' '.join(packages)}"


def require(python: Python) -> None:
    """Raise `MachineError` with the line that installs what is missing."""
    missing = missing_packages(python)
    if missing:
        raise MachineError(
            f"set-up needs {', '.join(missing)}, which this machine lacks. Install with\n\n"
            f"    {install_line(missing, root=os.geteuid() == 0)}\n"
        )


def has_cuda() -> bool:
    """Whether llama.cpp can be built for, and run on, an NVIDIA GPU: a compiler for it and a device."""
    return find_nvcc() is not None and (is_jetson() or _nvidia_smi())


def find_nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def is_jetson() -> bool:
    return Path("/etc/nv_tegra_release").exists() or any(Path("/dev").glob("nvhost*"))


def _nvidia_smi() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0 and "GPU" in done.stdout


def _which_any(*tools: str) -> bool:
    return any(shutil.which(tool) for tool in tools)


def llama_cmake_args(*, machine: str | None = None, cuda: bool | None = None, jetson: bool | None = None) -> list[str]:
    """The flags that llama.cpp is built with. Portable: a build for the native processor may die in a virtual machine.

    Every x86-64 of the last ten years has AVX2, FMA, F16C and BMI2.
    """
    machine = platform.machine() if machine is None else machine
    cuda = has_cuda() if cuda is None else cuda
    jetson = is_jetson() if jetson is None else jetson
    args = ["-DGGML_NATIVE=OFF"]
    if machine in ("x86_64", "AMD64"):
        args += ["-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON"]
    if jetson:
        args.append("-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16")  # Orin's Cortex-A78AE; the default is of 2011
    if cuda:
        args.append("-DGGML_CUDA=ON")
        if jetson:
            args.append("-DCMAKE_CUDA_ARCHITECTURES=87")  # Orin
    return args
