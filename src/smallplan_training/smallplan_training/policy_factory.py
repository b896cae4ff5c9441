"""Policies by name: what `evaluate`, `probe-flip` and `bench` put side by side."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from smallplan_planner.generation import Generator, SlmError
from smallplan_planner.policies import GreedyPolicy, Policy, RandomPolicy, SlmPolicy
from smallplan_training.errors import UserError

POLICIES = ("slm", "expert", "greedy", "random", "untrained")


@dataclass(frozen=True)
class PolicyOptions:
    """What a policy is made from. `model` is a GGUF file; None: no policy that needs one may be made."""

    model: Path | None = None
    grammar: bool = True
    threads: int = 2
    untrained_seed: int = 0


Loaded = MutableMapping[tuple[Path, int], Generator]
"""Models that are in memory: (file, threads) -> the model."""


def needs_model(name: str) -> bool:
    """Whether this policy asks a language model."""
    return name in ("slm", "untrained")


def check_model(path: Path) -> Path:
    """The path, after a look at the file: what is no model is said without loading one. Raises `UserError`."""
    if not path.is_file():
        raise UserError(f"there is no model file {path}; expected a GGUF file, give one with --model")
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"GGUF":
        raise UserError(f"the model file {path} is not a GGUF: it starts with {start!r}, expected b'GGUF'")
    return path


def make_policy(name: str, options: PolicyOptions, seed: int = 0, loaded: Loaded | None = None) -> Policy:
    """A policy by its name; `seed` is the random policy's. Raises `UserError` for a name or model that is none.

    Policies that are given the same `loaded` share a model's memory; only one of them may decide at a time.
    """
    if name == "greedy":
        return GreedyPolicy()
    if name == "random":
        return RandomPolicy(seed)
    if name == "expert":
        from smallplan_training.teachers.expert import ExpertPolicy

        return ExpertPolicy()
    if not needs_model(name):
        raise UserError(f"there is no policy {name!r}; expected one of {', '.join(POLICIES)}")
    if options.model is None:
        raise UserError(f"policy {name!r} needs a model; give one with --model")
    model = check_model(options.model)
    if name == "untrained":
        from smallplan_training.untrained import untrained_copy

        model = untrained_copy(model, options.untrained_seed)
    models = {} if loaded is None else loaded
    key = (model, options.threads)
    if key not in models:
        models[key] = load_model(*key)
    return SlmPolicy(models[key], use_grammar=options.grammar)


def load_model(path: Path, threads: int = 0) -> Generator:
    """The model in a GGUF file; `threads` 0: as many as the planner takes for it. Raises `UserError`."""
    from smallplan_planner.slm import Slm

    try:
        return Slm(path, n_threads=threads)
    except SlmError as error:
        raise UserError(str(error)) from error
