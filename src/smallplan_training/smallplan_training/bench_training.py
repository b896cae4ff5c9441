"""`smallplan bench --training`: how much faster the trainer is than the loop that one writes first.

Both are stage 2 of `train.py` itself, from the same base, on the same tasks, with the same losses: each sample is
searched for, reinforced (one pass of PPO) and distilled (one of SFT), as in the paper's Algorithm 1. The serial loop
has batches of one, runs one environment, and generates without a KV cache, with the adapters beside the weights as in
training; the batched one has the settings of the configuration. They run one after the other on the
same machine, and the first iteration of each does not count: code is compiled and caches are filled then. A throughput
is all samples over all seconds: one search's own rate depends on how long it is.

    smallplan bench --training --json build/bench-training.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from smallplan_planner.resources import resource
from smallplan_training.errors import UserError
from smallplan_training.figures import check_writable, write_figures
from smallplan_training.scenes import default_model

logger = logging.getLogger(__name__)

SERIAL: Mapping[str, Any] = {
    "rollouts.batch": 1,
    "rollouts.in_flight": 1,
    "rollouts.cache": False,
    "rollouts.workers": 1,
    "ppo.minibatch_tokens": 1,  # a batch holds at least one sample
    "distill.batch_tokens": 1,
}
"""What makes the trainer the serial loop."""

_COMMON: Mapping[str, Any] = {
    "strategy": "rl-sft",
    "checkpoint_minutes": 1e6,
    "validation.every": 0,
    "distill.replay": [],
    "distill.variations": 0,
    "ppo.epochs": 1,  # a sample is one PPO step and one SFT step, as in Algorithm 1
    "ppo.target_kl": 0.0,  # no pass is left out in either
    "teacher.name": "expert",
}
_ALL = "samples_per_s"
_PARTS = {"rollout": "rollout_s", "ppo": "ppo_s", "sft": "sft_s"}


@dataclass(frozen=True)
class TrainingBench:
    """What is run: iterations that count, and searches in each."""

    base: Path
    config: Path
    batched: tuple[int, int] = (1, 128)  # iterations, searches in each
    serial: tuple[int, int] = (16, 1)
    workers: int = 1  # processes that search, batched
    device: str = "auto"  # auto: the GPU if there is one; cpu
    seed: int = 0

    def __post_init__(self) -> None:
        if min(*self.batched, *self.serial) < 1:
            raise UserError(
                f"{self.batched} batched, {self.serial} serial iterations and searches; expected at least 1"
            )


def run_training_bench(bench: TrainingBench, folder: Path) -> dict[str, Any]:
    """Measure in `folder`, which takes the runs; returns the figures. Raises `UserError`."""
    batched = _measure(bench, folder / "batched", {}, *bench.batched)
    serial = _measure(bench, folder / "serial", SERIAL, *bench.serial)
    times = {name: round(batched[name]["overall"] / serial[name]["overall"], 2) for name in (_ALL, *_PARTS)}
    return {
        "training_speedup": times.pop(_ALL),
        "training_speedup_range": [
            round(batched[_ALL]["min"] / serial[_ALL]["max"], 2),
            round(batched[_ALL]["max"] / serial[_ALL]["min"], 2),
        ],
        "training_speedup_parts": times,
        "batched": batched,
        "serial": serial,
        "settings": {
            "base": bench.base.name,
            "device": _device_name(bench.device),
            "batched": {"iterations": bench.batched[0], "searches": bench.batched[1], "workers": bench.workers},
            "serial": {"iterations": bench.serial[0], "searches": bench.serial[1], **SERIAL},
            "seed": bench.seed,
        },
    }


def _measure(
    bench: TrainingBench, folder: Path, settings: Mapping[str, Any], iterations: int, searches: int
) -> dict[str, dict[str, Any]]:
    """The throughput of the iterations that count."""
    from accelerate import Accelerator

    from smallplan_training.base_model import hide_progress
    from smallplan_training.train_config import TrainConfig, read_config
    from smallplan_training.train_rl import improve
    from smallplan_training.train_state import REINFORCE, Run

    options = {
        **_COMMON,
        "base": str(bench.base),
        "seed": bench.seed,
        "rollouts.iterations": iterations + 1,
        "rollouts.minutes": 0.0,
        "rollouts.episodes": searches,
        "rollouts.in_flight": searches,
        "rollouts.batch": searches,
        "rollouts.workers": bench.workers,
        "rollouts.ray": "",
        **settings,
    }
    hide_progress()
    run = Run(read_config(TrainConfig, bench.config, options), folder, Accelerator(cpu=bench.device == "cpu"))
    try:
        run.enter(REINFORCE)
        improve(run)
    finally:
        run.log.close()
    lines = [json.loads(line) for line in run.log.path.read_text(encoding="utf-8").splitlines()]
    return throughput([line for line in lines if line["stage"] == REINFORCE][1:])


def throughput(lines: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Samples per second by iterations' lines in the log, of the whole (`samples_per_s`) and of each part.

    `overall` is all samples over all seconds; `all` has each iteration's own. Raises `UserError` when an iteration had
    no samples.
    """
    samples = np.array([round(line["turns"] * line["episodes"]) for line in lines])
    if not samples.all():
        raise UserError("a search ended before the model was asked; give more searches (--searches) or another --seed")
    seconds = {name: np.array([max(line[key], 1e-9) for line in lines]) for name, key in _PARTS.items()}
    seconds[_ALL] = sum(seconds.values(), np.zeros(len(lines)))
    return {name: _rates(samples, seconds[name]) for name in (_ALL, *_PARTS)}


def _rates(samples: NDArray[np.int_], seconds: NDArray[np.float64]) -> dict[str, Any]:
    each = (samples / seconds).round(3).tolist()
    overall = round(float(samples.sum() / seconds.sum()), 3)
    return {"overall": overall, "min": min(each), "max": max(each), "all": each}


def base_of_gguf(model: Path, folder: Path) -> Path:
    """A GGUF file's weights, dequantised, and its tokenizer as a Hugging Face folder; raises `UserError`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not model.is_file():
        raise UserError(f"there is no model file {model}; give a Hugging Face folder with --base")
    try:
        weights = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name)
        tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"transformers can't load {model}: {error}; give a Hugging Face folder with --base") from error
    config = weights.config.to_dict()
    config.pop("quantization_config", None)  # the weights are dequantised, but not meant to be saved: copy them
    plain = AutoModelForCausalLM.from_config(type(weights.config).from_dict(config), dtype=torch.float32)
    plain.load_state_dict(weights.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _drop_tokens(folder / "tokenizer.json", int(config["vocab_size"]))
    return folder


def _drop_tokens(path: Path, rows: int) -> None:
    """Take out of a tokenizer what has no embedding: transformers gives a Llama that lacks `</s>` one more token."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < rows]
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def _device_name(device: str) -> str:
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    from smallplan_training.bench import processor

    return f"{processor()}, {torch.get_num_threads()} threads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training", "throughput of stage 2, against a serial loop")
    group.add_argument("--training", action="store_true", help="measure that, and nothing else")
    group.add_argument("--base", type=Path, metavar="FOLDER", help="default: the weights of the model in models/")
    iterations, searches = TrainingBench.batched
    group.add_argument("--searches", type=int, metavar="N", help=f"at once, batched (default: {searches})")
    group.add_argument("--iterations", type=int, metavar="N", help=f"that count, batched (default: {iterations})")
    group.add_argument(
        "--serial-searches", type=int, metavar="N", help=f"that count, serial (default: {TrainingBench.serial[0]})"
    )
    group.add_argument(
        "--workers", type=int, metavar="N", help="processes that search, batched (default: one per core; GPU: 1)"
    )
    group.add_argument("--cpu", action="store_true", help="don't use a GPU")


def refuse_options(args: argparse.Namespace) -> None:
    """Raise `UserError` for options that mean something with `--training` alone."""
    names = ("base", "searches", "iterations", "serial_searches", "workers", "cpu")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, False)]
    if given:
        raise UserError(f"{', '.join(given)} only has a meaning with --training; add that, or leave it out")


def run(args: argparse.Namespace) -> int:
    """`smallplan bench --training`; returns its exit code."""
    check_writable(args.json)
    iterations, searches = TrainingBench.batched
    with tempfile.TemporaryDirectory(prefix="smallplan-bench-") as temporary:
        folder = Path(temporary)
        bench = TrainingBench(
            base=args.base or base_of_gguf(args.model or default_model(), folder / "base"),
            config=resource("config", "training.yaml"),
            batched=(_or(args.iterations, iterations), _or(args.searches, searches)),
            serial=(_or(args.serial_searches, TrainingBench.serial[0]), 1),
            workers=_or(args.workers, _cores_without_gpu(args.cpu)),
            device="cpu" if args.cpu else "auto",
            seed=args.seed,
        )
        report = run_training_bench(bench, folder)
    write_figures(args.json, report)
    _print(report, Console())
    return 0


def _cores_without_gpu(cpu: bool) -> int:
    """Processes that search: on a GPU one batch serves all."""
    import torch

    return 1 if torch.cuda.is_available() and not cpu else len(os.sched_getaffinity(0))


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def _print(report: Mapping[str, Any], console: Console) -> None:
    low, high = report["training_speedup_range"]
    table = Table(title=f"training: {report['training_speedup']} times the serial loop ({low} to {high})")
    for head in ("samples/s", "batched", "serial", "times"):
        table.add_column(head)
    times = {_ALL: report["training_speedup"], **report["training_speedup_parts"]}
    for name, factor in times.items():
        cells = [
            f"{part['overall']} ({part['min']} to {part['max']})"
            for part in (report["batched"][name], report["serial"][name])
        ]
        table.add_row("all" if name == _ALL else name, *cells, str(factor))
    console.print(table)
