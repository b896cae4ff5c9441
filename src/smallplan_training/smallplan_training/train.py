"""`smallplan train`: the whole method, from a base model and a teacher's answers to a policy.

    smallplan collect --output build/samples.jsonl --episodes 20 --limit 500
    smallplan train --base Qwen/Qwen2.5-3B-Instruct --samples build/samples.jsonl --strategy rl-sft

Stage 1 is supervised on stored answers, stage 2 reinforces and distils in the simulator. All settings are in
`config/training.yaml`; the command's options and `--set section.field=value` go before them. The same command goes on
where its folder's checkpoint stands. On several GPUs: `accelerate launch -m smallplan_training.cli train ...`; in
several processes on a CPU: `torchrun --nproc-per-node N -m smallplan_training.cli train --cpu ...`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from smallplan_planner.resources import resource
from smallplan_training.errors import UserError
from smallplan_training.figures import check_writable
from smallplan_training.simulators.factory import SIMULATORS
from smallplan_training.train_strategies import STRATEGIES, WHY_NOT_RL_ALONE

FILE_TYPES = ("Q8_0", "F32", "F16", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
"""Those of `export.py`, which needs llama.cpp."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="YAML", help="default: config/training.yaml")
    parser.add_argument("--folder", type=Path, default=Path("build/training"), help="of the run (default: %(default)s)")
    parser.add_argument("--base", metavar="FOLDER|NAME", help="the base model: a Hugging Face folder or name")
    parser.add_argument("--strategy", choices=tuple(STRATEGIES), help=_strategies())
    parser.add_argument("--samples", nargs="+", metavar="FILE.jsonl", help="of stage 1, from `smallplan collect`")
    parser.add_argument(
        "--simulator", choices=SIMULATORS, help="of stage 2: the embedded one, or iGibson (default: that of the config)"
    )
    parser.add_argument("--scenes", nargs="+", metavar="SPLIT|PATH", help="of stage 2, and no generated houses")
    parser.add_argument("--iterations", type=int, help="of stage 2")
    parser.add_argument("--minutes", type=float, help="of stage 2 without its validation, summed over resumptions")
    parser.add_argument("--seed", type=int, help="of everything that is drawn")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="any other setting")
    parser.add_argument(
        "--export", type=Path, metavar="FILE.gguf", help="export the merged model as GGUF at the end, unchecked"
    )
    parser.add_argument(
        "--file-type", choices=FILE_TYPES, default=FILE_TYPES[0], help="of the exported file (default: %(default)s)"
    )
    parser.add_argument("--cpu", action="store_true", help="don't use a GPU")
    parser.add_argument(
        "--discouraged-rl-alone", action="store_true", help=f"allow --strategy rl, although {WHY_NOT_RL_ALONE}"
    )


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    from smallplan_training.train_config import TrainConfig, read_config
    from smallplan_training.train_data import check_data

    path = args.config or resource("config", "training.yaml")
    config = read_config(TrainConfig, path, _options(args), args.set)
    if config.strategy == "rl" and not args.discouraged_rl_alone:
        raise UserError(
            f"strategy rl: {WHY_NOT_RL_ALONE}. Use rl-sft, or give --discouraged-rl-alone to run it all the same"
        )
    if not (args.folder / "checkpoint").exists():
        check_data(config)
    from accelerate import Accelerator

    from smallplan_training.base_model import hide_progress
    from smallplan_training.train_stages import train, where_it_stands
    from smallplan_training.train_state import Run

    accelerator = Accelerator(cpu=args.cpu)
    if accelerator.is_main_process:
        check_writable(args.export)
    hide_progress()
    training = Run(config, args.folder, accelerator)
    try:
        found = where_it_stands(training)
        if found and training.is_main:
            print(found, flush=True)
        train(training)
    finally:
        training.log.close()
    if args.export is not None and training.is_main:
        from smallplan_training.export_command import export_run

        export_run(args.folder, args.export, args.file_type)
    if training.is_main:
        print(f"{args.folder / 'merged'}: the trained model; {args.folder / 'adapter'}: its adapter alone")
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The command's options as settings."""
    settings = {
        "base": args.base,
        "strategy": args.strategy,
        "seed": args.seed,
        "tasks.simulator": args.simulator,
        "tasks.scenes": args.scenes,
        "tasks.generated": 0.0 if args.scenes else None,
        "few_shot.samples": args.samples,
        "rollouts.iterations": args.iterations,
        "rollouts.minutes": args.minutes,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _strategies() -> str:
    return "; ".join(f"{name}: {what}" for name, what in STRATEGIES.items())
