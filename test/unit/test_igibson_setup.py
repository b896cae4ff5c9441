"""`make igibson`: which Python it takes, what it says is missing, that it leaves alone what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import igibson_setup
import machine
from smallplan_training.simulators.igibson import environment
from workspace import Step, StepError

ROOT = Path(__file__).resolve().parents[2]


def fake_python(path: Path, version: str, venv: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version} {venv} 1 {path}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose PATH holds nothing but `bin`, with an own home folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return {"HOME": str(tmp_path), "PATH": str(folder)}


def test_the_oldest_python_that_fits_is_taken(home: dict[str, str], tmp_path: Path) -> None:
    fake_python(tmp_path / "bin/python3.10", "3 10")
    oldest = fake_python(tmp_path / "bin/python3.8", "3 8")
    assert igibson_setup.find_python(home).path == str(oldest)


@pytest.mark.parametrize(
    "place", [".pyenv/versions/3.9.18/bin/python", ".local/share/uv/python/cpython-3.9.18-linux/bin/python3"]
)
def test_pythons_of_pyenv_and_uv_are_found(home: dict[str, str], tmp_path: Path, place: str) -> None:
    fake_python(tmp_path / "bin/python3", "3 12")
    kept = fake_python(tmp_path / place, "3 9")
    assert igibson_setup.find_python(home).path == str(kept)


def test_the_chosen_python_must_fit(home: dict[str, str], tmp_path: Path) -> None:
    fake_python(tmp_path / "bin/python3.8", "3 8")
    new = fake_python(tmp_path / "new", "3 11")
    with pytest.raises(machine.MachineError, match=r"needs Python 3\.8, 3\.9 or 3\.10 .*new is python3\.11"):
        igibson_setup.find_python({**home, "SMALLPLAN_IGIBSON_PYTHON": str(new)})


def test_without_a_python_that_fits_one_line_says_what_to_do(home: dict[str, str], tmp_path: Path) -> None:
    fake_python(tmp_path / "bin/python3", "3 12")
    fake_python(tmp_path / "bin/python3.8", "3 8", venv=0)
    with pytest.raises(machine.MachineError) as error:
        igibson_setup.find_python(home)
    message = str(error.value)
    assert "\n" not in message
    for part in ("python3.8 without venv", "python3.12", "pyenv install 3.8", "SMALLPLAN_IGIBSON_PYTHON="):
        assert part in message


def test_a_machine_without_egl_or_compiler_is_told_so_in_one_line(
    home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = machine.Python("/opt/python3.8", (3, 8), True, True)
    with pytest.raises(machine.MachineError, match=r"^building iGibson needs build-essential, make: `.*apt-get.*`$"):
        igibson_setup.require_tools(python)
    for tool in ("cc", "c++", "make"):
        fake_python(tmp_path / "bin" / tool, "")
    monkeypatch.setattr(environment, "missing_for_rendering", lambda: "no EGL: `apt-get install -y libegl1`")
    with pytest.raises(machine.MachineError, match=r"^iGibson can't render here: no EGL: `apt-get install.*`$"):
        igibson_setup.require_tools(python)
    monkeypatch.setattr(environment, "missing_for_rendering", lambda: None)
    igibson_setup.require_tools(python)


def test_what_was_done_is_kept_with_the_environment(tmp_path: Path) -> None:
    step = Step("packages", "Packages", "one", venv=tmp_path / "venv")
    step.begin()
    step.finish()
    assert Step("packages", "Packages", "one", venv=tmp_path / "venv").is_done()
    assert not Step("packages", "Packages", "one", venv=tmp_path / "another").is_done()


def test_an_environment_that_fits_stays(home: dict[str, str], tmp_path: Path) -> None:
    fake_python(tmp_path / "venv/bin/python", "3 9")
    assert igibson_setup.create_environment(tmp_path / "venv", home).version == (3, 9)


def test_a_folder_of_somebody_else_is_not_replaced(
    home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(igibson_setup, "require_tools", lambda python: None)
    fake_python(tmp_path / "bin/python3.8", "3 8")
    kept = tmp_path / "venv" / "diary.txt"
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(machine.MachineError, match="venv is not an environment of Python"):
        igibson_setup.create_environment(kept.parent, home)
    assert kept.exists()


def test_half_an_environment_is_removed(home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(igibson_setup, "require_tools", lambda python: None)
    python = fake_python(tmp_path / "bin/python3.8", "3 8")
    script = python.read_text().partition("\n")[2]
    python.write_text(f'#!/bin/sh\nif [ "$2" = venv ]; then /bin/mkdir "$3"; exit 1; fi\n{script}')
    with pytest.raises(subprocess.CalledProcessError):
        igibson_setup.create_environment(tmp_path / "venv", home)
    assert not (tmp_path / "venv").exists()


def test_a_frame_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = tmp_path / "check.py"
    check.write_text("import sys\nprint('Mesa')\nsys.exit('Traceback\\nEGL error 0x3008')\n")
    monkeypatch.setattr(igibson_setup, "CHECK", check)
    with pytest.raises(StepError, match=r"can't render: exit code 1, EGL error 0x3008$"):
        igibson_setup.render_one_frame(environment.IgibsonEnvironment(Path(sys.executable), "2.2.2"))
    check.write_text("print('Mesa')\n")
    assert igibson_setup.render_one_frame(environment.IgibsonEnvironment(Path(sys.executable), "2.2.2")) == "Mesa"


@pytest.mark.parametrize("name", ["igibson", "igibson-build"])
def test_every_package_has_its_version(name: str) -> None:
    lines = [line for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^ ]*", line) for line in lines), lines
    if name == "igibson":
        assert f"igibson=={environment.VERSION}" in lines


def test_make_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "igibson_setup.py"
    sources = [str(ROOT / "src" / name) for name in ("smallplan_planner", "smallplan_training")]
    env = {
        "PATH": "/nowhere",
        "HOME": str(tmp_path),
        "PYTHONPATH": ":".join(sources),
        "SMALLPLAN_IGIBSON_VENV": str(tmp_path / "venv"),
    }
    done = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("make igibson: iGibson 2.2.2 needs Python 3.8")
    assert not (tmp_path / "venv").exists()
