"""What is installed to lib/<package>: a template that `sh` and Python read, filled in by CMake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src"
TEMPLATES = [SOURCES / package / "cmake" / "node.in" for package in ("smallplan_planner", "smallplan_training")]


def start(template: Path, folder: Path, module: str) -> subprocess.Popen[str]:
    """The executable of a node whose module has this text."""
    (folder / "some_node.py").write_text(module, encoding="utf-8")
    text = template.read_text(encoding="utf-8")
    text = text.replace("@SMALLPLAN_PYTHON@", sys.executable).replace("@MODULE@", "some_node")
    executable = folder / "some_node"
    executable.write_text(text, encoding="utf-8")
    executable.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    pipe = subprocess.PIPE
    return subprocess.Popen([executable, "an argument"], env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.parts[-3])
def test_it_runs_main_and_ends_with_its_code(template: Path, tmp_path: Path) -> None:
    process = start(template, tmp_path, "import sys\ndef main():\n    print(sys.argv[1])\n    return 3\n")
    output, errors = process.communicate(timeout=60)
    assert (output.strip(), errors, process.returncode) == ("an argument", "", 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_is_imported_ends_it_without_a_word(number: signal.Signals, tmp_path: Path) -> None:
    process = start(TEMPLATES[0], tmp_path, "import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (output, errors, process.returncode) == ("", "", 0)
