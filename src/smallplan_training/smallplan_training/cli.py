"""`smallplan`: the workstation's commands. A module is imported only when its command is called.

Exit codes: 0 success, 1 the command ran and the answer is no (`demo` found nothing), 2 wrong input,
130 interrupted. `--verbose` shows tracebacks and log messages.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from smallplan_training.errors import UserError

COMMANDS = {
    "demo": ("smallplan_training.demo", "a simulated robot searches a house, over ROS 2, and tells what it does"),
    "evaluate": ("smallplan_training.evaluate", "measure policies on houses: success, SPL, distance, retrials"),
    "report": ("smallplan_training.report", "one HTML page: tables, learning curves, episodes to step through"),
    "collect": ("smallplan_training.collect", "let a teacher plan, and keep its answers as samples to train on"),
    "train": ("smallplan_training.train", "train a policy: stage 1 on a teacher's answers, stage 2 in the simulator"),
    "export": ("smallplan_training.export_command", "what was trained as GGUF: merged or a LoRA, quantised, checked"),
    "bench": ("smallplan_training.bench", "time and memory of a decision; with --training, the trainer's speed"),
    "probe": ("smallplan_training.probe", "minimal pairs: what the model masters, one skill at a time"),
    "probe-flip": ("smallplan_training.flip", "flip one decisive fact in prompts: does the model follow?"),
    "export-igibson": (
        "smallplan_training.simulators.igibson.export_command",
        "write a house as a data set that iGibson loads",
    ),
    "import-igibson": (
        "smallplan_training.simulators.igibson.import_scene",
        "turn a scene of iGibson's data set into a house",
    ),
    "doctor": ("smallplan_training.doctor", "what this machine has: simulators, GPUs, ROS, models, teachers"),
    "nano": ("smallplan_training.nano.recipe", "build the default model from nothing (needs PyTorch)"),
}
"""Command -> the module with its `add_arguments(parser)` and `run(args) -> int`, and one line of help."""

_OPTIONAL = {
    "torch": "run `make setup-training`",
    "transformers": "run `make setup-training`",
    "sentencepiece": "run `make setup-training`",
    "llama_cpp": "run `make setup`",
    "rclpy": "run `make setup`, or source a ROS 2 and run it again",
    "smallplan_msgs": "run `make setup`",
}
"""What may be missing from an installation, and what to do then."""

USER_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in arguments if word in COMMANDS), None)
    args = None
    try:
        args = _build_parser(command).parse_args(arguments, argparse.Namespace(verbose=False))
        logging.basicConfig(
            level=logging.DEBUG if args.verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
        )
        return int(importlib.import_module(COMMANDS[args.command][0]).run(args))
    except UserError as error:
        if args is not None and args.verbose:
            logging.getLogger(__name__).exception("%s failed", command)
        print(f"smallplan: {error}", file=sys.stderr)
        return USER_ERROR
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _OPTIONAL:
            raise
        print(f"smallplan: {command} needs {package}: {_OPTIONAL[package]}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _build_parser(command: str | None) -> argparse.ArgumentParser:
    verbose = argparse.ArgumentParser(add_help=False)
    verbose.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help="show log and tracebacks")
    parser = argparse.ArgumentParser(
        prog="smallplan", description="Object search planned by a small language model.", parents=[verbose]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_line) in COMMANDS.items():
        subparser = commands.add_parser(name, help=help_line, description=help_line, parents=[verbose])
        if name == command:
            importlib.import_module(module).add_arguments(subparser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
