"""What decides in a search: the configured policy behind the runner's `Decider`, made and freed with the node."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from smallplan_planner.generation import SlmError
from smallplan_planner.nodes.parameters import ParameterError, PlannerParameters
from smallplan_planner.nodes.search_runner import ModelError
from smallplan_planner.policies import GreedyPolicy, SlmPolicy
from smallplan_planner.resources import DEFAULT_MODEL, resource
from smallplan_planner.search import Answer, Situation

logger = logging.getLogger(__name__)

_DRIVER = (
    "Where the library is libcuda.so.1, it is the driver of the GPU, which the host brings: start the container with "
    "the NVIDIA runtime (--runtime nvidia)"
)


class OwnedDecider(Protocol):
    """A `Decider` that may hold a model until `close`. `name` says in diagnostics what decides."""

    name: str

    def decide(self, situation: Situation, cancel: threading.Event, due: float) -> Answer: ...

    def classify_room(self, labels: Sequence[str], cancel: threading.Event, due: float) -> str: ...

    def use_adapter(self, name: str) -> None:
        """Decide with another LoRA adapter from the next decision on. Raises `SlmError`; then nothing changes."""

    def restore(self) -> None:
        """Take over what an earlier run has saved, where there is something."""

    def save(self) -> None:
        """Keep for the next run what it can use."""

    def status(self) -> Mapping[str, object]:
        """What diagnostics show of it."""

    def close(self) -> None: ...


class GreedyDecider:
    """The greedy baseline: it answers at once, so there is nothing to cancel, nothing to keep and nothing to free."""

    name = "greedy"

    def __init__(self) -> None:
        self._policy = GreedyPolicy()

    def decide(self, situation: Situation, cancel: threading.Event, due: float) -> Answer:
        return self._policy.decide(situation)

    def classify_room(self, labels: Sequence[str], cancel: threading.Event, due: float) -> str:
        return self._policy.classify_room(labels)

    def use_adapter(self, name: str) -> None:
        return None

    def restore(self) -> None:
        return None

    def save(self) -> None:
        return None

    def status(self) -> Mapping[str, object]:
        return {}

    def close(self) -> None:
        return None


class SlmDecider:
    """The language model. Raises `SlmError`, which says what is wrong with the file, when it can't be loaded."""

    def __init__(self, parameters: PlannerParameters) -> None:
        try:  # only here: llama.cpp is not needed where no model is used
            from smallplan_planner.slm import Slm
            from smallplan_planner.slm_state import default_state_folder
        except RuntimeError as error:  # as llama_cpp says that a library can't be loaded
            raise SlmError(f"llama.cpp can't be loaded: {error}. {_DRIVER}") from error

        path = _file(parameters.model_path) or resource("models", DEFAULT_MODEL)
        self.name = str(path)
        self._folder: Path | None = None
        if parameters.save_cache:
            self._folder = _file(parameters.cache_folder) or default_state_folder()
        self._slm = Slm(
            path,
            model_sha256=parameters.model_sha256,
            lora_path=_file(parameters.lora_path),
            lora_folder=_file(parameters.lora_folder),
            n_ctx=parameters.n_ctx,
            n_threads=parameters.n_threads,
            n_gpu_layers=parameters.n_gpu_layers,
            temperature=parameters.temperature,
            seed=parameters.seed,
            cache_type=parameters.cache_type,
            flash_attention=parameters.flash_attention,
            lookup_tokens=parameters.lookup_tokens,
            cores=parse_cores(parameters.cores),
        )
        self._policy = SlmPolicy(self._slm, use_grammar=parameters.use_grammar)

    def decide(self, situation: Situation, cancel: threading.Event, due: float) -> Answer:
        """The model's answer, with less reasoning where time is short."""
        try:
            return self._policy.decide(situation, cancel, due - time.monotonic())
        except SlmError as error:
            raise ModelError(str(error)) from error

    def classify_room(self, labels: Sequence[str], cancel: threading.Event, due: float) -> str:
        """The model's answer, as with `decide`."""
        try:
            return self._policy.classify_room(labels, cancel, due - time.monotonic())
        except SlmError as error:
            raise ModelError(str(error)) from error

    def use_adapter(self, name: str) -> None:
        self._slm.use_adapter(_file(name) or "")

    def restore(self) -> None:
        """Take over the KV cache that was saved; where that fails, the first decisions compute it again."""
        if self._folder is None:
            return
        try:
            tokens = self._slm.restore_state(self._folder)
        except SlmError as error:
            logger.warning("the KV cache in %s can't be used: %s", self._folder, error)
        else:
            if tokens:
                logger.info("the KV cache of %d tokens was restored from %s", tokens, self._folder)

    def save(self) -> None:
        """Keep the KV cache; where it can't be written, the next run computes it again."""
        if self._folder is None:
            return
        try:
            self._slm.save_state(self._folder)
        except OSError as error:
            logger.warning(
                "the KV cache can't be saved in %s: %s; set cache_folder, or save_cache to false", self._folder, error
            )

    def status(self) -> Mapping[str, object]:
        speeds = self._slm.speeds
        return {
            "adapter": self._slm.adapter or "none",
            "prompt (tokens/s)": f"{speeds.prompt.tokens_per_second:.0f}",
            "answer (tokens/s)": f"{speeds.text.tokens_per_second:.0f}",
        }

    def close(self) -> None:
        self._slm.close()


def parse_cores(text: str) -> tuple[int, ...]:
    """Processors as `taskset` lists them, `0,4-7`; none for ''. Raises `ParameterError`."""
    cores: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() else []:
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
            raise ParameterError(f"parameter cores is {text!r}; expected processors such as 0,4-7")
        cores.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(cores))


def _file(path: str) -> Path | None:
    """A path as a person writes it; no shell expands the ~ of `model_path:=~/model.gguf`."""
    return Path(path).expanduser() if path else None


def make_decider(parameters: PlannerParameters) -> OwnedDecider:
    """What `parameters.policy` names. Raises `SlmError`, `ParameterError`, FileNotFoundError, ImportError (no
    llama.cpp)."""
    return GreedyDecider() if parameters.policy == "greedy" else SlmDecider(parameters)
