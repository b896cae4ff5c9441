"""What `smallplan train` is told: typed sections, read from YAML, each checked when it is built.

A section is a frozen dataclass, so that a run's whole configuration can be written down, read again and compared.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from smallplan_training.errors import UserError
from smallplan_training.model_recipes import QUANTISATIONS
from smallplan_training.ppo import PpoConfig
from smallplan_training.rewards import RewardConfig
from smallplan_training.simulators.factory import HOUSE, SIMULATORS
from smallplan_training.train_strategies import STRATEGIES

_T = TypeVar("_T")


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


@dataclass(frozen=True)
class Steps:
    """How an optimiser steps: its learning rate warms up, stays, and falls linearly over the stage's last `decay`."""

    learning_rate: float = 1e-5
    warm_up: int = 10  # steps
    decay: float = 1.0  # share of the stage; 0: constant
    accumulate: int = 1  # batches of a step, on each process
    clip: float = 1.0  # norm of the gradient
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _expect(0 < self.learning_rate < 1, f"learning_rate is {self.learning_rate}; expected within (0, 1)")
        _expect(self.warm_up >= 0, f"warm_up is {self.warm_up}; expected at least 0 steps")
        _expect(0 <= self.decay <= 1, f"decay is {self.decay}; expected a share, 0 to 1")
        _expect(self.accumulate >= 1, f"accumulate is {self.accumulate}; expected at least 1")
        _expect(self.clip > 0, f"clip is {self.clip}; expected more than 0")


@dataclass(frozen=True)
class LoraConfig:
    """What is to be other than in the base's recipe (`config/models`)."""

    rank: int | None = None
    alpha: int | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            value = getattr(self, name)
            _expect(value is None or value >= 1, f"{name} is {value}; expected at least 1")
        _expect(self.dropout is None or 0 <= self.dropout < 1, f"dropout is {self.dropout}; expected within [0, 1)")


@dataclass(frozen=True)
class FewShotConfig:
    """Stage 1: supervised on stored answers of a teacher (500 samples, 3 epochs in the paper)."""

    samples: tuple[str, ...] = ()  # JSONL files of `smallplan collect`
    limit: int = 500  # samples taken, drawn at random by the run's seed; 0: all
    epochs: int = 3
    batch_tokens: int = 8192  # of one forward pass, padding included
    steps: Steps = field(default_factory=Steps)

    def __post_init__(self) -> None:
        _expect(self.limit >= 0, f"limit is {self.limit}; expected at least 0 (0: all)")
        _expect(self.epochs >= 0, f"epochs is {self.epochs}; expected at least 0 (0: no stage 1)")
        _expect(self.batch_tokens >= 1, f"batch_tokens is {self.batch_tokens}; expected at least 1")


@dataclass(frozen=True)
class TaskConfig:
    """Which searches stage 2 runs."""

    simulator: str = HOUSE
    scenes: tuple[str, ...] = ("train",)
    generated: float = 0.5  # share of the houses that are generated, each from a seed that no split has
    episodes_per_house: int = 4  # in a row, since a house takes longer to make than an episode
    saver: float = 0.3  # share of the searches in mode saver
    failure_rate: float = 0.03  # of executions, for no fault of the action
    max_steps: int = 50
    max_retries: int = 5  # while the robot has not moved

    def __post_init__(self) -> None:
        _expect(self.simulator in SIMULATORS, f"simulator is {self.simulator!r}; expected {' or '.join(SIMULATORS)}")
        _expect(0 <= self.generated <= 1, f"generated is {self.generated}; expected a share, 0 to 1")
        _expect(0 <= self.saver <= 1, f"saver is {self.saver}; expected a share, 0 to 1")
        _expect(0 <= self.failure_rate < 1, f"failure_rate is {self.failure_rate}; expected within [0, 1)")
        _expect(self.episodes_per_house >= 1, f"episodes_per_house is {self.episodes_per_house}; expected at least 1")
        _expect(self.max_steps >= 1, f"max_steps is {self.max_steps}; expected at least 1")
        _expect(self.max_retries >= 0, f"max_retries is {self.max_retries}; expected at least 0")
        _expect(bool(self.scenes) or self.generated == 1, "scenes is empty; expected some, or generated: 1.0")


@dataclass(frozen=True)
class RolloutConfig:
    """Stage 2's rollouts. It ends after `iterations` or `minutes`, whichever comes first."""

    iterations: int = 100
    minutes: float = 0.0  # of stage 2, summed over resumptions; 0: no limit. With one, a run can't be repeated exactly
    episodes: int = 16  # an iteration, each process
    batch: int = 32  # answers generated at once
    in_flight: int = 64  # searches under way at once
    cache: bool = True  # of keys and values while generating; without is only good for comparing
    temperature: float = 1.0
    max_tokens: int = 160  # of an answer
    workers: int = 1  # processes that search, each with a copy of the model; 1: this one alone
    ray: str = ""  # the Ray cluster that they run on: local, auto, ray://HOST:10001; '': processes of this machine
    gpus: float = 0.0  # share of a GPU that a worker on a Ray cluster gets

    def __post_init__(self) -> None:
        _expect(self.iterations >= 1, f"iterations is {self.iterations}; expected at least 1")
        _expect(self.minutes >= 0, f"minutes is {self.minutes}; expected at least 0 (0: no limit)")
        _expect(self.episodes >= 1, f"episodes is {self.episodes}; expected at least 1")
        _expect(self.batch >= 1, f"batch is {self.batch}; expected at least 1")
        _expect(self.in_flight >= 1, f"in_flight is {self.in_flight}; expected at least 1")
        _expect(self.temperature > 0, f"temperature is {self.temperature}; expected more than 0: PPO needs exploration")
        _expect(self.max_tokens >= 1, f"max_tokens is {self.max_tokens}; expected at least 1")
        _expect(self.workers >= 1, f"workers is {self.workers}; expected at least 1")
        _expect(self.gpus >= 0, f"gpus is {self.gpus}; expected at least 0")
        _expect(not self.gpus or bool(self.ray), f"gpus is {self.gpus} without ray; set ray, or gpus to 0")


@dataclass(frozen=True)
class DistillConfig:
    """Stage 2's SFT: on the teacher's answers to the prompts that the model met."""

    variations: int = 0  # of each met situation: renamed, asked for other things; only with the teacher `expert`
    replay: tuple[str, ...] = ()  # files or folders of earlier samples (.jsonl, .npz), so that nothing is forgotten
    replay_share: float = 0.3  # of a step's samples
    batch_tokens: int = 8192  # of one forward pass, padding included
    steps: Steps = field(default_factory=Steps)

    def __post_init__(self) -> None:
        _expect(self.variations >= 0, f"variations is {self.variations}; expected at least 0")
        _expect(0 <= self.replay_share < 1, f"replay_share is {self.replay_share}; expected within [0, 1)")
        _expect(self.batch_tokens >= 1, f"batch_tokens is {self.batch_tokens}; expected at least 1")


@dataclass(frozen=True)
class TeacherConfig:
    """Who answers the prompts. `openai`: any compatible endpoint, its key from OPENAI_API_KEY."""

    name: str = "expert"  # expert | openai | gguf
    model: str = ""  # openai: its name; gguf: the file
    base_url: str = ""  # openai; '' means OPENAI_BASE_URL, or OpenAI's own
    cache: str = "build/teacher"  # openai: folder of answers, so that none is paid for twice; '': none
    prompt_price: float = 0.0  # openai: per million tokens, for the count of costs
    completion_price: float = 0.0

    def __post_init__(self) -> None:
        names = ("expert", "openai", "gguf")
        _expect(self.name in names, f"name is {self.name!r}; expected one of {', '.join(names)}")
        _expect(
            self.name != "openai" or bool(self.model),
            "the teacher openai needs a model's name; set teacher.model to what its endpoint calls it",
        )


@dataclass(frozen=True)
class ValidationConfig:
    """Scores on houses that nothing is trained on, with greedy decoding."""

    every: int = 0  # iterations of stage 2; 0: never
    scenes: tuple[str, ...] = ("val",)
    episodes: int = 2  # a scene
    seed: int = 1000  # of the episodes; far from those that final figures are taken with
    pairs: int = 0  # minimal pairs of each suite of `smallplan probe`; 0: none

    def __post_init__(self) -> None:
        _expect(self.pairs >= 0, f"pairs is {self.pairs}; expected at least 0 (0: none)")
        _expect(self.every >= 0, f"every is {self.every}; expected at least 0 (0: never)")
        _expect(self.episodes >= 1, f"episodes is {self.episodes}; expected at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """A whole run."""

    base: str = ""  # a Hugging Face folder or name
    recipe: str = ""  # of config/models, or a file; '': the one that fits the base
    quantisation: str = "auto"  # of the base: nf4, none; auto: the recipe's on a GPU, none on a CPU
    strategy: str = "rl-sft"  # one of STRATEGIES
    seed: int = 0
    bf16: bool = True  # autocast to it, where the processor is faster for it
    checkpoint_minutes: float = 5.0  # between checkpoints; 0: after every step
    max_tokens: int = 0  # of a sample, longer ones are left out; 0: as many as the recipe says
    lora: LoraConfig = field(default_factory=LoraConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    tasks: TaskConfig = field(default_factory=TaskConfig)
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)
    ppo_steps: Steps = field(default_factory=Steps)
    value_steps: Steps = field(default_factory=lambda: Steps(learning_rate=1e-4, decay=0.0))  # of PPO's value head
    distill: DistillConfig = field(default_factory=DistillConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        known = ", ".join(STRATEGIES)
        _expect(bool(self.base), "base is empty; expected a Hugging Face folder or name")
        _expect(self.strategy in STRATEGIES, f"strategy is {self.strategy!r}; expected one of {known}")
        held = ("auto", *QUANTISATIONS)
        _expect(self.quantisation in held, f"quantisation is {self.quantisation!r}; expected one of {', '.join(held)}")
        _expect(self.checkpoint_minutes >= 0, f"checkpoint_minutes is {self.checkpoint_minutes}; expected at least 0")
        _expect(self.max_tokens >= 0, f"max_tokens is {self.max_tokens}; expected at least 0 (0: the recipe's)")
        _expect(
            not self.distill.variations or self.teacher.name == "expert",
            f"distill.variations is {self.distill.variations} with the teacher {self.teacher.name!r}; variations are "
            "answered by the expert: set it to 0, or teacher.name to expert",
        )

    def prompt_tokens(self, recipe_tokens: int) -> int:
        """Of the longest prompts: what `max_tokens` (or those of the base's recipe) leave beside the longest answer."""
        return max(1, (self.max_tokens or recipe_tokens) - self.rollouts.max_tokens)

    @property
    def reinforces(self) -> bool:
        return self.strategy != "sft"

    @property
    def distills(self) -> bool:
        """Whether stage 2 has its SFT."""
        return self.strategy in ("rl-sft", "rl-sft+")


def read_config(
    kind: type[_T], path: Path, options: Mapping[str, Any] | None = None, settings: Sequence[str] = ()
) -> _T:
    """The configuration in a YAML file; `options` (dotted names) and `settings` (`rollouts.episodes=8`) go before it.

    Raises `UserError` that names the file, the field, and the fields that there are.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({error})") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds {type(data).__name__}; expected fields, as in config/training.yaml")
    for name, value in (options or {}).items():
        _set(data, name, value)
    for setting in settings:
        _set(data, *_parse_setting(setting))
    try:
        return build(kind, data)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def build(kind: type[_T], data: Mapping[str, Any], where: str = "") -> _T:
    """A dataclass out of plain data; raises ValueError that names the field."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or 'the configuration'} is {data!r}; expected fields")
    hints = typing.get_type_hints(kind)
    known = [item.name for item in fields(kind) if item.init]  # type: ignore[arg-type]
    unknown = sorted(str(name) for name in set(data) - set(known))
    if unknown:
        place = f" in {where}" if where else ""
        raise ValueError(f"unknown field {', '.join(unknown)}{place}; expected some of {', '.join(known)}")
    values = {name: _convert(hints[name], value, f"{where}.{name}".lstrip(".")) for name, value in data.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON can hold it."""
    return {name: _plain(value) for name, value in asdict(config).items()}


def differences(left: Mapping[str, Any], right: Mapping[str, Any], where: str = "") -> list[str]:
    """In which fields two plain configurations differ: `field: left, right`."""
    found: list[str] = []
    for name in sorted({*left, *right}):
        one, other = left.get(name), right.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{where}{name}.")
        elif one != other:
            found.append(f"{where}{name}: {one!r}, {other!r}")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _parse_setting(setting: str) -> tuple[str, Any]:
    """(dotted name, value) of `a.b=value`, the value in YAML."""
    name, equals, text = setting.partition("=")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {setting!r}: the value is not YAML ({error})") from error
    if not equals or not all(name.split(".")):
        raise UserError(f"--set {setting!r}; expected section.field=value, such as rollouts.episodes=8")
    return name, value


def _set(data: dict[str, Any], name: str, value: Any) -> None:
    """Set a field by its dotted name."""
    *sections, last = name.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise UserError(f"{name}: {section} is {data!r}; expected a section with fields")
    data[last] = value


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A value as its field's type wants it."""
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, value or {}, where)
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _convert(next(option for option in options if option is not type(None)), value, where)
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ValueError(f"{where} is {value!r}; expected a list")
        return tuple(_convert(options[0], item, where) for item in items)
    if hint is float:
        try:
            return float(value)  # YAML reads 1e-5 as text
        except (TypeError, ValueError):
            raise ValueError(f"{where} is {value!r}; expected a number") from None
    if hint is int and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"{where} is {value!r}; expected a whole number")
    if hint is bool and not isinstance(value, bool):
        raise ValueError(f"{where} is {value!r}; expected true or false")
    if hint is str and not isinstance(value, str):
        raise ValueError(f"{where} is {value!r}; expected text")
    return value
