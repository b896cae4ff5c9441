#!/usr/bin/env python3
"""Sets iGibson up in an environment of its own (.venv-igibson): `igibson_setup.py`; `make igibson` calls it.

It needs a Python 3.8, 3.9 or 3.10 beside SmallPlan's own, a C++ compiler and EGL; it says in one line what is missing
and how to get it. Each step is skipped while nothing that it depends on has changed, and at the end one frame is
rendered and compared with what must be seen. Nothing that is under iGibson's licence is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import machine
from smallplan_training.errors import UserError
from smallplan_training.simulators.igibson import challenge, environment
from workspace import ROOT, Step, StepError, files_key, requirements, say

SUPPORTED = ((3, 8), (3, 9), (3, 10))
"""iGibson's code does not compile on newer ones."""

CHECK = ROOT / "scripts" / "igibson_check.py"
CHECK_TIME = 300.0  # s; a frame takes a few


def candidates(environ: Mapping[str, str]) -> Iterator[str]:
    """Where a Python of a supported version may be, the best first."""
    chosen = environ.get("SMALLPLAN_IGIBSON_PYTHON")
    if chosen:
        yield chosen
        return
    home = Path(environ.get("HOME") or "~").expanduser()
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    uv = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "uv" / "python"
    for major, minor in SUPPORTED:
        name = f"{major}.{minor}"
        yield f"python{name}"
        yield from map(str, sorted(pyenv.glob(f"{name}.*/bin/python")))
        yield from map(str, sorted(uv.glob(f"cpython-{name}.*/bin/python3")))
    yield "python3"


def find_python(environ: Mapping[str, str]) -> machine.Python:
    """The interpreter of iGibson's environment; raises `MachineError` when there is none that fits."""
    seen = []
    for command in candidates(environ):
        python = machine.probe_python(command)
        if python is not None and python.version in SUPPORTED and python.has_venv:
            return python
        if python is not None:
            seen.append(f"{python.path} is {python.name}{'' if python.has_venv else ' without venv'}")
    raise machine.MachineError(
        f"iGibson {environment.VERSION} needs Python 3.8, 3.9 or 3.10 with venv, and there is none "
        f"({'; '.join(dict.fromkeys(seen)) or 'none runs'}): `pyenv install 3.8` or `uv python install 3.8`, "
        "or set SMALLPLAN_IGIBSON_PYTHON=/path/to/python3.8"
    )


def require_tools(python: machine.Python) -> None:
    """Raise `MachineError` with the line that installs what building or rendering lacks, before anything is made."""
    packages = [name for name in machine.missing_packages(python) if name != "git"]
    if packages:
        line = machine.install_line(packages, root=os.geteuid() == 0)
        raise machine.MachineError(f"building iGibson needs {', '.join(packages)}: `{line}`")
    missing = environment.missing_for_rendering()
    if missing:
        raise machine.MachineError(f"iGibson can't render here: {missing}")


def create_environment(folder: Path, environ: Mapping[str, str]) -> machine.Python:
    """The Python of the environment in `folder`, which is made where it is not there yet."""
    made = machine.probe_python(str(folder / "bin" / "python"))
    if made is not None and made.version in SUPPORTED:
        return made
    python = find_python(environ)
    require_tools(python)
    if folder.exists() and folder != ROOT / ".venv-igibson":
        raise machine.MachineError(f"{folder} is not an environment of Python 3.8 to 3.10: remove it, or set "
                                   "SMALLPLAN_IGIBSON_VENV to another folder")  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    say(f"-- Creating {folder} with {python.path} ({python.name}) …")
    try:
        subprocess.run([python.path, "-m", "venv", str(folder)], check=True)
    except BaseException:  # also Ctrl-C: half an environment would be taken for a whole one
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return python


def install_packages(folder: Path, python: machine.Python) -> None:
    """Install the pinned packages; iGibson and its physics engine are compiled, unless pip has them in its cache."""
    lists = requirements("igibson-build", "igibson")
    title = f"iGibson {environment.VERSION} and its packages (about 10 min on 2 cores unless pip has them in its cache)"
    step = Step("igibson", title, files_key(lists), python.name, venv=folder)
    if step.is_done():
        return
    step.begin()
    env = dict(os.environ, PATH=f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        env.pop(name, None)
    pip: list[str | Path] = [
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--no-input",
        "--no-compile",
        "--progress-bar=off",
    ]
    step.run([*pip, "-r", lists[0]], env=env)
    # The build tools are in the environment: in an isolated build its `cmake` can't be started.
    step.run([*pip, "--no-deps", "--no-build-isolation", "-r", lists[1]], env=env)
    step.finish()


def render_one_frame(found: environment.IgibsonEnvironment) -> str:
    """Render and check one frame in the environment; returns the OpenGL device that did it."""
    env = environment.worker_environ(environment.assets_folder() / "no-data-set")
    done = subprocess.run(
        [str(found.python), str(CHECK)], env=env, capture_output=True, text=True, timeout=CHECK_TIME, check=False
    )
    if done.returncode != 0 or not done.stdout.strip():
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise StepError(f"iGibson is installed and can't render: exit code {done.returncode}, {lines[-1]}")
    return done.stdout.strip()


def setup() -> None:
    folder = environment.environment_folder()
    install_packages(folder, create_environment(folder, os.environ))
    environment.make_assets_folder(environment.assets_folder())
    found = environment.find_environment()
    device = render_one_frame(found)
    say(f"iGibson {found.version} renders with OpenGL {device}; Python: {found.python}")
    dataset = environment.dataset_folder()
    if dataset is None:
        say("No data set of iGibson here (IGIBSON_DATASET_PATH): scenes are made from houses; see docs/igibson.md")
    else:
        counts = [f"{len(challenge.present(dataset, split))} of {len(names)} {split}"
                  for split, names in challenge.SPLITS.items()]  # fmt: skip
        say(f"Data set of iGibson in {dataset}: {' and '.join(counts)} scenes of the challenge")


def main() -> int:
    try:
        setup()
    except (machine.MachineError, StepError, UserError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"make igibson: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
