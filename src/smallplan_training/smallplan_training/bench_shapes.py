"""Memory and speed of full-size models where none can be downloaded: random weights in their shape, by the planner.

A process of its own loads the file as the planner's node does, and decides in situations of real searches: without a
deadline, under the node's, and under one that leaves time for little more than the command.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smallplan_training.bench_process import in_own_process, peak_resident_mb
from smallplan_training.bench_searches import DEADLINE, Decision, RecordedSearch, loaded, replay, summarise
from smallplan_training.errors import UserError
from smallplan_training.random_gguf import SHAPES, Shape, write_random_gguf

logger = logging.getLogger(__name__)

_COMMAND = 24  # tokens of a long command, its line head included
_SLACK = 1.5  # times what the prompt and a command take by the speeds measured: the tight deadline


@dataclass(frozen=True)
class ShapeTask:
    """A model file and the situations to decide in. `deadline` is in s for one answer."""

    model: Path
    searches: Sequence[RecordedSearch]
    n_ctx: int = 4096
    n_threads: int = 0
    deadline: float = DEADLINE


@dataclass(frozen=True)
class Punctuality:
    """Answers under a deadline."""

    deadline_s: float
    in_time: int
    cut: int  # of them: with reasons cut to be in time
    longest_s: float  # of an answer


@dataclass(frozen=True)
class ShapeFigures:
    """What a model of this size takes. Memory in units of 10^6 bytes, times in s, speeds in tokens/s."""

    file_mb: float
    rss_mb: float  # the most that a process had resident that loaded it and decided
    load_s: float
    prompt_tps: float
    generation_tps: float
    n_ctx: int
    decisions: int  # without a deadline, and under each of the two
    usual: Punctuality
    tight: Punctuality


def measure_named_shape(
    name: str, searches: Sequence[RecordedSearch], tokenizer: Path, threads: int, n_ctx: int = 4096
) -> ShapeFigures:
    """As `measure_shape`, of one of `SHAPES`. Raises `UserError` for another name."""
    if name not in SHAPES:
        raise UserError(f"there is no shape {name!r}; expected one of {', '.join(SHAPES)}")
    return measure_shape(name, SHAPES[name], searches, tokenizer, threads, n_ctx)


def measure_shape(
    name: str, shape: Shape, searches: Sequence[RecordedSearch], tokenizer: Path, threads: int, n_ctx: int = 4096
) -> ShapeFigures:
    """Write such a model to a temporary folder (up to 3 GB), measure it, and remove it. Raises `UserError`."""
    with tempfile.TemporaryDirectory(prefix="smallplan-shape-") as folder:
        path = Path(folder) / f"{name}.gguf"
        try:
            write_random_gguf(path, shape, tokenizer)
        except OSError as error:
            raise UserError(f"a model of the shape {name} can't be written to {folder}: {error}; set TMPDIR") from error
        logger.info("%s: %.2f GB of random weights", path, path.stat().st_size / 1e9)
        return in_own_process(decide_in_time, ShapeTask(path, searches, n_ctx, threads))


def decide_in_time(task: ShapeTask) -> ShapeFigures:
    """Load the model in this process, and decide in all situations, three times."""
    begun = time.perf_counter()
    with loaded(task.model, n_ctx=task.n_ctx, n_threads=task.n_threads) as slm:
        load = time.perf_counter() - begun
        free = list(replay(slm, task.searches))
        unread = max(one.generation.prompt_tokens - one.generation.reused_tokens for one in free)
        short = round(_SLACK * (unread * slm.speeds.prompt.seconds + slm.speeds.writing_seconds(_COMMAND)), 2)
        usual = list(replay(slm, task.searches, task.deadline))
        tight = list(replay(slm, task.searches, short))
    figures = summarise(free)
    return ShapeFigures(
        file_mb=round(task.model.stat().st_size / 1e6, 1),
        rss_mb=round(peak_resident_mb(), 1),
        load_s=round(load, 2),
        prompt_tps=figures.prompt_tps,
        generation_tps=figures.generation_tps,
        n_ctx=task.n_ctx,
        decisions=len(free),
        usual=_punctuality(usual, task.deadline),
        tight=_punctuality(tight, short),
    )


def _punctuality(decisions: Sequence[Decision], deadline: float) -> Punctuality:
    return Punctuality(
        deadline_s=deadline,
        in_time=sum(not one.late and one.answer_seconds <= deadline for one in decisions),
        cut=sum(one.generation.cut for one in decisions),
        longest_s=round(max(one.answer_seconds for one in decisions), 2),
    )
