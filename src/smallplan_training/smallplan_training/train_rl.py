"""Stage 2, the paper's Algorithm 1 for many tasks at once.

Each iteration: the model searches in the simulator, PPO on the simulator's feedback, then SFT on the teacher's
answers to the very prompts that the model met.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from accelerate.utils import gather_object
from tqdm import tqdm

from smallplan_planner.search import ResultCode
from smallplan_training.batch_rollout import Trajectory
from smallplan_training.errors import UserError
from smallplan_training.probe import score_suites
from smallplan_training.rewards import mean_components
from smallplan_training.samples import Sample
from smallplan_training.sft import tokenise
from smallplan_training.simulators.factory import resolve_scenes
from smallplan_training.token_batches import SampleSet, concatenate
from smallplan_training.train_data import draw, replay_samples, taught_samples
from smallplan_training.train_ppo import reinforce
from smallplan_training.train_rollouts import Rollouts, even_shares, means, outcomes, summed
from smallplan_training.train_state import Run
from smallplan_training.train_supervised import distill
from smallplan_training.train_tasks import Task, TaskSource, scene_tasks
from smallplan_training.worker_rollouts import make_rollouts


def improve(run: Run) -> None:
    """Stage 2, from where the run stands to its end."""
    config, progress = run.config, run.progress
    source = TaskSource(config.tasks, config.seed)
    if config.validation.every:
        resolve_scenes(config.tasks.simulator, config.validation.scenes)  # what is not there is said now
    rollouts = make_rollouts(config, run.lm)
    replay = replay_samples(config.distill.replay, run.lm.chat, run.max_tokens) if config.distills else None
    bar = tqdm(desc="stage 2", unit="iteration", initial=progress.step, total=config.rollouts.iterations,
               disable=not run.is_main, dynamic_ncols=True)  # fmt: skip
    try:
        while _done(run) < 1.0:
            begin = time.monotonic()
            number, done = progress.step, _done(run)
            trajectories = _shared_out(run, _search(run, rollouts, _tasks(run, source, number)))
            rolled_out = time.monotonic()
            figures = {"reward_" + name: value for name, value in _mean_rewards(trajectories).items()}
            figures |= means(gather_object(outcomes(trajectories)))
            figures |= summed(gather_object([rollouts.take_usage()]))
            figures |= reinforce(run, trajectories, run.seed(number, 1), done)
            reinforced = time.monotonic()
            if config.distills:
                data = _lessons(run, trajectories, replay, number)
                made = distill(run, data, run.seed(number, 2), done)
                figures |= {f"sft_{name}": value for name, value in made.items()}
            progress.step += 1
            turns = sum(len(trajectory.turns) for trajectory in trajectories)
            progress.samples += turns
            run.add_time(begin)
            now = time.monotonic()
            figures |= {
                "samples_per_s": run.processes * turns / max(1e-9, now - begin),
                "rollout_s": rolled_out - begin,
                "ppo_s": reinforced - rolled_out,
                "sft_s": now - reinforced,
            }
            run.log.write("reinforce", progress.step, figures)
            bar.set_postfix(success=f"{figures['success']:.2f}", reward=f"{figures['reward_total']:.2f}")
            bar.update()
            if config.validation.every and progress.step % config.validation.every == 0:
                validate(run, rollouts)
            run.save_when_due()
    finally:
        bar.close()
        rollouts.close()


def _search(run: Run, rollouts: Rollouts, tasks: Sequence[Task]) -> list[Trajectory]:
    """The searches of an iteration; those that the simulator lost say nothing of the model and are left out.

    A teacher that fails for good, or a simulator that loses all, ends the run, after a checkpoint.
    """
    try:
        found = rollouts.sample(tasks, run.seed(run.progress.step, 0))
        kept = [one for one in found if one.record.result.code is not ResultCode.EXECUTOR_UNAVAILABLE]
        if not kept:
            raise UserError(f"the simulator lost all of {len(found)} searches; the warnings above say why")
        return kept
    except UserError:
        if run.processes == 1:  # several would wait for those that have not failed
            run.save()
        raise


def _shared_out(run: Run, trajectories: list[Trajectory]) -> list[Trajectory]:
    """As many turns for each process to learn from, or the slowest one would keep the others waiting."""
    if run.processes == 1:
        return trajectories
    return even_shares(gather_object(trajectories), run.processes)[run.rank]


def validate(run: Run, rollouts: Rollouts) -> dict[str, float]:
    """Greedy searches in houses that nothing is trained on, shared out among the processes, and minimal pairs."""
    config = run.config.validation
    tasks = list(scene_tasks(config.scenes, config.episodes, config.seed, simulator=run.config.tasks.simulator))
    mine = tasks[run.rank :: run.processes]
    figures = means(gather_object(outcomes(rollouts.greedy(mine))))
    if config.pairs:
        passed = score_suites(rollouts.answer, pairs=config.pairs)
        figures |= {f"probe_{name}": percent / 100.0 for name, percent in passed.items()}
    run.log.write("validation", run.progress.step, figures)
    return figures


def _done(run: Run) -> float:
    """Share of stage 2 that is done, by iterations or by minutes."""
    config, progress = run.config.rollouts, run.progress
    by_time = progress.seconds / 60.0 / config.minutes if config.minutes else 0.0
    return min(1.0, max(progress.step / config.iterations, by_time))


def _tasks(run: Run, source: TaskSource, iteration: int) -> list[Task]:
    """This process's tasks of an iteration."""
    episodes = run.config.rollouts.episodes
    first = (iteration * run.processes + run.rank) * episodes
    return [source.task(first + index) for index in range(episodes)]


def _lessons(
    run: Run, trajectories: Sequence[Trajectory], replay: SampleSet | None, iteration: int
) -> SampleSet | None:
    """The teacher's answers to what was met, and a share of earlier samples; None where nothing was met."""
    config, turns = run.config.distill, [turn for trajectory in trajectories for turn in trajectory.turns]
    if config.variations:
        samples = taught_samples([turn.view for turn in turns], config.variations, run.seed(iteration, 4))
    else:
        samples = [Sample(tuple(turn.messages), turn.teacher_answer) for turn in turns if turn.teacher_answer]
    data = tokenise(samples, run.lm.chat, run.max_tokens)[0]
    if replay is not None and config.replay_share:
        count = round(max(1, len(data)) * config.replay_share / (1.0 - config.replay_share))
        data = concatenate([data, draw(replay, count, np.random.default_rng(run.seed(iteration, 5)))])
    return data if len(data) else None


def _mean_rewards(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over the decisions of all processes; zeros where there were none."""
    rewards = gather_object([turn.reward for trajectory in trajectories for turn in trajectory.turns])
    return dict(mean_components(rewards)) or {"total": 0.0}
