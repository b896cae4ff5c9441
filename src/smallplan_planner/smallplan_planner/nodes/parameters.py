"""The planner node's parameters: their defaults, meaning and ranges in one place, and how they are read.

`config/planner.yaml` lists the same parameters for people. A value that is refused at start-up does not end the
node: its problem is kept, and configuring fails with it until somebody sets the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from smallplan_planner.prompt import MODES
from smallplan_planner.search import ROOM_CLASSIFIERS, SearchConfig


class ParameterError(ValueError):
    """Parameters with which the node can't be configured; the message names parameter, value and what is allowed."""


def _parameter(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    live: bool = False,
) -> Any:
    """A field of `PlannerParameters`. `live`: may be changed at any time and counts from the next goal on."""
    metadata = {"description": description, "low": low, "high": high, "choices": tuple(choices), "live": live}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class PlannerParameters:
    """One consistent set of values, as read when the node is configured and when a goal begins."""

    autostart: bool = _parameter(True, "Configure and activate by itself after start-up.")
    policy: str = _parameter(
        "slm", "What decides: the language model, or the greedy baseline.", choices=("slm", "greedy")
    )

    model_path: str = _parameter("", "Model file (GGUF). '' = the default model.")
    model_sha256: str = _parameter("", "SHA-256 that the model file has to have, in hex digits. '' = any.")
    lora_path: str = _parameter(
        "",
        "LoRA adapter (GGUF) for the model: a file, or the name of one in lora_folder. '' = none. It may be set at any "
        "time and counts from the next decision on.",
        live=True,
    )
    lora_folder: str = _parameter(
        "", "Folder whose LoRA adapters (*.gguf) are loaded at once, to be chosen by lora_path. '' = none."
    )
    n_ctx: int = _parameter(4096, "Tokens of context of the model, prompt and answer together.", low=256, high=131072)
    n_threads: int = _parameter(
        0, "CPU threads of the model. 0 = one for a small model, else one per core, at most 4.", low=0, high=256
    )
    n_gpu_layers: int = _parameter(0, "Layers of the model on the GPU. -1 = all, 0 = none.", low=-1, high=1000)
    temperature: float = _parameter(0.0, "Sampling temperature. 0 = always the likeliest token.", low=0.0, high=2.0)
    seed: int = _parameter(0, "Seed of the sampling.", low=0, high=2**31 - 1)
    cache_type: str = _parameter(
        "f16",
        "Numbers of the KV cache; the smaller ones save memory and switch flash attention on.",
        choices=("f16", "q8_0", "q4_0"),
    )
    flash_attention: str = _parameter(
        "auto",
        "Whether attention is computed in one step; auto: on a GPU, where llama.cpp can.",
        choices=("auto", "on", "off"),
    )
    lookup_tokens: int = _parameter(
        0, "Tokens drafted at most from what the prompt repeats, at temperature 0. 0 = none.", low=0, high=16
    )
    cores: str = _parameter("", "Processors that compute the model, such as 0,4-7. '' = any.")
    save_cache: bool = _parameter(
        True, "Whether the KV cache is kept on disk while the node is not active, for the same model and adapter."
    )
    cache_folder: str = _parameter("", "Folder for that. '' = ~/.cache/smallplan/kv.")
    use_grammar: bool = _parameter(True, "Constrain the command to actions that the scene graph allows.")

    deadline: float = _parameter(20.0, "Seconds for one decision.", low=0.01, high=600.0, live=True)
    fallback: str = _parameter(
        "greedy",
        "What happens when the model misses the deadline or fails: the greedy policy decides, or the search ends.",
        choices=("greedy", "abort"),
        live=True,
    )
    max_steps: int = _parameter(50, "Actions of one search at most.", low=1, high=100000, live=True)
    max_retries: int = _parameter(5, "Refused or failed answers without motion at most.", low=0, high=1000, live=True)
    mode: str = _parameter("normal", "How a search weighs success against travel.", choices=MODES, live=True)
    allow_open: bool = _parameter(True, "Whether the robot may open doors and containers.", live=True)
    allow_close: bool = _parameter(False, "Whether the robot may close them; it never helps a search.", live=True)
    show_matches: bool = _parameter(True, "Whether the prompt names the objects that match the target.", live=True)
    show_hints: bool = _parameter(True, "Whether the prompt says where such an object is commonly kept.", live=True)
    classify_rooms: str = _parameter(
        SearchConfig.classify_rooms,
        "What names rooms that perception has not labelled: the model, from what was seen in them, or a rule.",
        choices=ROOM_CLASSIFIERS,
        live=True,
    )
    preempt: bool = _parameter(
        True, "Whether a second goal preempts the first; false: it is refused while one is running.", live=True
    )

    graph_durability: str = _parameter(
        "transient_local",
        "Durability of the subscription scene_graph; volatile receives from any publisher, but only what comes later.",
        choices=("transient_local", "volatile"),
    )
    graph_timeout: float = _parameter(
        2.0, "Seconds to wait for a scene graph that was observed after an action's end.", low=0.0, high=60.0, live=True
    )
    executor_timeout: float = _parameter(
        5.0, "Seconds to wait for an executor to appear and to answer a goal.", low=0.1, high=600.0, live=True
    )
    execution_timeout: float = _parameter(
        300.0, "Seconds that one action may take before it is cancelled.", low=0.1, high=36000.0, live=True
    )
    cancel_timeout: float = _parameter(
        5.0, "Seconds to wait for a cancelled action to end.", low=0.1, high=60.0, live=True
    )


class ParameterStore:
    """Declares the parameters on a node, guards changes, and reads them as `PlannerParameters`.

    `use_adapter` is called while the node is configured, when `lora_path` is set; it returns why the value is refused,
    '' when it is taken.
    """

    def __init__(self, node: Node, use_adapter: Callable[[str], str]) -> None:
        self._node = node
        self._use_adapter = use_adapter
        self._configured = False
        self._problems: dict[str, str] = {}
        for item in fields(PlannerParameters):
            self._declare(item)
        node.add_on_set_parameters_callback(self._on_set)

    def lock(self, configured: bool) -> None:
        """Say whether the node is configured: only live parameters can be changed then."""
        self._configured = configured

    def read(self) -> PlannerParameters:
        """The current values. Raises `ParameterError` when one that was given at start-up can't be used."""
        if self._problems:
            raise ParameterError("; ".join(self._problems.values()) + "; set it and configure again")
        values = {item.name: self._node.get_parameter(item.name).value for item in fields(PlannerParameters)}
        return PlannerParameters(**values)

    def _declare(self, item: Field[Any]) -> None:
        descriptor = _descriptor(item)
        try:
            value = self._node.declare_parameter(item.name, item.default, descriptor).value
            problem = _check_choice(item, value)
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            self._node.declare_parameter(item.name, item.default, descriptor, ignore_override=True)
            problem = f"parameter {item.name}: {error} ({item.metadata['description']} {_allowed(item)})"
        if problem:
            self._problems[item.name] = problem

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        known = {item.name: item for item in fields(PlannerParameters)}
        for parameter in parameters:
            item = known.get(parameter.name)
            if item is None:
                continue
            if self._configured and not item.metadata["live"]:
                reason = f"{parameter.name} can only be changed while the node is unconfigured (clean it up first)"
                return SetParametersResult(successful=False, reason=reason)
            problem = _check_choice(item, parameter.value)
            if problem:
                return SetParametersResult(successful=False, reason=problem)
        adapters = [parameter.value for parameter in parameters if parameter.name == "lora_path"]
        problem = self._use_adapter(adapters[-1]) if adapters and self._configured else ""
        if problem:
            return SetParametersResult(successful=False, reason=problem)
        for parameter in parameters:
            self._problems.pop(parameter.name, None)
        return SetParametersResult(successful=True)


def _descriptor(item: Field[Any]) -> ParameterDescriptor:
    low, high = item.metadata["low"], item.metadata["high"]
    descriptor = ParameterDescriptor(description=item.metadata["description"])
    if item.metadata["choices"]:
        descriptor.additional_constraints = _allowed(item)
    if low is not None and isinstance(item.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)]
    elif low is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
    return descriptor


def _allowed(item: Field[Any]) -> str:
    if item.metadata["choices"]:
        return f"One of {', '.join(item.metadata['choices'])}."
    if item.metadata["low"] is not None:
        kind = "A number with a decimal point" if isinstance(item.default, float) else "An integer"
        return f"{kind} from {item.metadata['low']} to {item.metadata['high']}."
    return f"A {type(item.default).__name__}."


def _check_choice(item: Field[Any], value: object) -> str:
    choices = item.metadata["choices"]
    if not choices or value in choices:
        return ""
    return f"parameter {item.name} is {value!r}; expected one of {', '.join(choices)}"
