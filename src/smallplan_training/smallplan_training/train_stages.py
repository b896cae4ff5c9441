"""The stages of a run in their order, each from where the run stands to its end."""

from __future__ import annotations

from collections.abc import Callable

from smallplan_training.train_rl import improve
from smallplan_training.train_state import DONE, FEW_SHOT, REINFORCE, Run
from smallplan_training.train_supervised import few_shot


def train(run: Run) -> None:
    """All that is left of a run. At its end `adapter/` and `merged/` are in its folder."""
    stages: dict[str, Callable[[Run], None]] = {FEW_SHOT: few_shot}
    if run.config.reinforces:
        stages[REINFORCE] = improve
    order = [*stages, DONE]
    while run.progress.stage != DONE:
        stage = run.progress.stage
        stages[stage](run)
        run.enter(order[order.index(stage) + 1])
    if run.is_main:
        run.lm.save_adapter(run.folder / "adapter")
        run.lm.merge_and_save(run.folder / "merged")
    run.accelerator.wait_for_everyone()
