"""What decides in a search: the configured policy behind the runner's `Decider`, made and freed with the node."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from smallplan_planner.generation import SlmError
from smallplan_planner.nodes.parameters import PlannerParameters
from smallplan_planner.nodes.search_runner import ModelError
from smallplan_planner.policies import GreedyPolicy, SlmPolicy
from smallplan_planner.resources import DEFAULT_MODEL, resource
from smallplan_planner.search import Answer, Situation


class OwnedDecider(Protocol):
    """A `Decider` that may hold a model until `close`. `name` says in diagnostics what decides."""

    name: str

    def decide(self, situation: Situation, cancel: threading.Event) -> Answer: ...

    def classify_room(self, labels: Sequence[str], cancel: threading.Event) -> str: ...

    def close(self) -> None: ...


class GreedyDecider:
    """The greedy baseline: it answers at once, so there is nothing to cancel and nothing to free."""

    name = "greedy"

    def __init__(self) -> None:
        self._policy = GreedyPolicy()

    def decide(self, situation: Situation, cancel: threading.Event) -> Answer:
        return self._policy.decide(situation)

    def classify_room(self, labels: Sequence[str], cancel: threading.Event) -> str:
        return self._policy.classify_room(labels)

    def close(self) -> None:
        return None


class SlmDecider:
    """The language model. Raises `SlmError`, which says what is wrong with the file, when it can't be loaded."""

    def __init__(self, parameters: PlannerParameters) -> None:
        from smallplan_planner.slm import Slm  # only here: llama.cpp is not needed where no model is used

        path = _file(parameters.model_path) or resource("models", DEFAULT_MODEL)
        self.name = str(path)
        self._slm = Slm(
            path,
            lora_path=_file(parameters.lora_path),
            n_ctx=parameters.n_ctx,
            n_threads=parameters.n_threads,
            n_gpu_layers=parameters.n_gpu_layers,
            temperature=parameters.temperature,
            seed=parameters.seed,
        )
        self._policy = SlmPolicy(self._slm, use_grammar=parameters.use_grammar)

    def decide(self, situation: Situation, cancel: threading.Event) -> Answer:
        """The model's answer; the runner keeps the deadline and sets `cancel` when it has passed."""
        try:
            return self._policy.decide(situation, cancel)
        except SlmError as error:
            raise ModelError(str(error)) from error

    def classify_room(self, labels: Sequence[str], cancel: threading.Event) -> str:
        """The model's answer, as with `decide`."""
        try:
            return self._policy.classify_room(labels, cancel)
        except SlmError as error:
            raise ModelError(str(error)) from error

    def close(self) -> None:
        self._slm.close()


def _file(path: str) -> Path | None:
    """A path as a person writes it; no shell expands the ~ of `model_path:=~/model.gguf`."""
    return Path(path).expanduser() if path else None


def make_decider(parameters: PlannerParameters) -> OwnedDecider:
    """What `parameters.policy` names. Raises `SlmError`, FileNotFoundError, ImportError (no llama.cpp)."""
    return GreedyDecider() if parameters.policy == "greedy" else SlmDecider(parameters)
