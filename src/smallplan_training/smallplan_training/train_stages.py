"""The stages of a run in their order, each from where the run stands to its end."""

from __future__ import annotations

from collections.abc import Callable

import torch

from smallplan_training.errors import UserError
from smallplan_training.ppo import NotFinite
from smallplan_training.train_rl import improve
from smallplan_training.train_state import DONE, FEW_SHOT, REINFORCE, Run
from smallplan_training.train_supervised import few_shot
from smallplan_training.training_curves import read_log

_NAMES = {FEW_SHOT: ("stage 1", "step"), REINFORCE: ("stage 2", "iteration")}


def train(run: Run) -> None:
    """All that is left of a run. At its end `adapter/` and `merged/` are in its folder.

    Raises `UserError` also for weights that diverge and for a GPU's memory that is full.
    """
    stages: dict[str, Callable[[Run], None]] = {FEW_SHOT: few_shot}
    if run.config.reinforces:
        stages[REINFORCE] = improve
    order = [*stages, DONE]
    had_ended = run.progress.stage == DONE
    while run.progress.stage != DONE:
        stage = run.progress.stage
        try:
            stages[stage](run)
        except NotFinite as error:
            raise UserError(f"{_NAMES[stage][0]}: {error}") from error
        except torch.OutOfMemoryError as error:
            raise UserError(_out_of_memory(run)) from error
        run.enter(order[order.index(stage) + 1])
    merged = run.folder / "merged"
    if run.is_main and not (had_ended and merged.is_dir()):
        run.lm.save_adapter(run.folder / "adapter")
        run.lm.merge_and_save(merged)
    run.accelerator.wait_for_everyone()


def where_it_stands(run: Run) -> str:
    """A line on a run that was found in its folder; '' of one that begins now."""
    if not run.resumed:
        return ""
    progress = run.progress
    if progress.stage != DONE:
        stage, unit = _NAMES[progress.stage]
        return f"{run.folder}: goes on in {stage} after {unit} {progress.step}"
    rows = read_log(run.folder) if run.log.size else []
    steps = [(row["stage"], row["step"]) for row in rows if row.get("stage") in _NAMES]
    name, step = steps[-1] if steps else (FEW_SHOT, 0)
    stage, unit = _NAMES[name]
    merged = run.folder / "merged"
    return (
        f"{run.folder}: this run has ended, {stage} after {unit} {step}, and is not trained on; to go on, "
        f"begin a new one from {merged}: --base {merged} --set few_shot.epochs=0 --folder ANOTHER"
    )


def _out_of_memory(run: Run) -> str:
    config = run.config
    if run.progress.stage == FEW_SHOT:
        remedy = f"lower few_shot.batch_tokens ({config.few_shot.batch_tokens}), and give another --folder"
    else:
        remedy = (
            f"lower rollouts.batch ({config.rollouts.batch}), ppo.minibatch_tokens ({config.ppo.minibatch_tokens}) or "
            f"distill.batch_tokens ({config.distill.batch_tokens}), and run it again: it goes on where it was saved"
        )
    return f"{_NAMES[run.progress.stage][0]}: the memory of {run.device} is full (CUDA out of memory); {remedy}"
