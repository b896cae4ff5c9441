"""What llama.cpp's own `llama-bench` measures of a model, for as many tokens as a decision has.

Neither the planner nor its bindings bring that program; it is used where it is on PATH.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from smallplan_training.errors import UserError

PROGRAM = "llama-bench"
_PATIENCE = 600.0  # s


@dataclass(frozen=True)
class LlamaBenchFigures:
    """Tokens per second that llama.cpp tells of itself, with its own defaults but for the threads."""

    prompt_tps: float
    generation_tps: float


def run_llama_bench(model: Path, prompt: int, generated: int, threads: int) -> LlamaBenchFigures:
    """Read a prompt of so many tokens, and write so many. Raises `UserError` without the program, and when it fails."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise UserError(f"{PROGRAM} is not on PATH; build llama.cpp's tools and put it there")
    sizes = ["-p", str(prompt), "-n", str(generated), "-t", str(threads), "-ngl", "0", "-o", "json"]
    try:
        ended = subprocess.run(
            [program, "-m", str(model), *sizes], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{program} could not be run: {error}") from error
    if ended.returncode != 0:
        raise UserError(f"{program} ended with code {ended.returncode}: {ended.stderr.strip()[-400:]}")
    return read_figures(ended.stdout)


def read_figures(output: str) -> LlamaBenchFigures:
    """The figures in what `llama-bench -o json` writes: one object for the prompt, one for the generation.

    Raises `UserError` when they are not there.
    """
    try:
        tests = json.loads(output)
        reading = next(test["avg_ts"] for test in tests if test["n_prompt"] and not test["n_gen"])
        writing = next(test["avg_ts"] for test in tests if test["n_gen"] and not test["n_prompt"])
        return LlamaBenchFigures(round(float(reading), 1), round(float(writing), 1))
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise UserError(
            f"what {PROGRAM} wrote can't be read ({error!r}): {output[:200]!r}; expected its JSON, with avg_ts of a "
            "prompt and of a generation"
        ) from error
