"""llama.cpp's own program is run where it is there, and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from smallplan_training.bench_llama import LlamaBenchFigures, read_figures, run_llama_bench
from smallplan_training.errors import UserError

PROGRAM = """#!/bin/sh
echo "$@" > "$0.args"
echo 'build: 1' >&2
echo '[ {"n_prompt": 250, "n_gen": 0, "avg_ns": 9, "avg_ts": 4321.04}, {"n_prompt": 0, "n_gen": 44, "avg_ts": 987.66} ]'
"""


def install(folder: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / "llama-bench"
    path.write_text(program)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return path


def test_its_figures_for_as_many_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = install(tmp_path, PROGRAM, monkeypatch)
    assert run_llama_bench(Path("a.gguf"), 250, 44, 2) == LlamaBenchFigures(4321.0, 987.7)
    assert Path(f"{path}.args").read_text().split() == [
        "-m",
        "a.gguf",
        "-p",
        "250",
        "-n",
        "44",
        "-t",
        "2",
        "-ngl",
        "0",
        "-o",
        "json",
    ]


def test_a_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "#!/bin/sh\necho 'unable to load model' >&2; exit 3\n", monkeypatch)
    with pytest.raises(UserError, match="ended with code 3: unable to load model"):
        run_llama_bench(Path("a.gguf"), 1, 1, 1)


@pytest.mark.parametrize("output", ["", "{}", "[]", '[{"n_prompt": 5, "n_gen": 0, "avg_ts": 3.0}]', "[3]"])
def test_other_output_is_refused(output: str) -> None:
    with pytest.raises(UserError, match="can't be read"):
        read_figures(output)
