"""Who takes part in an evaluation: each entrant is one row of its tables.

An entrant is a policy with its model, the mode in its prompt, and what it has to do without. `line_up` makes the
rows of one run from what the command line says: several models (the strategies that they were trained by, the
numbers of samples that they saw), both modes, and the model without its grammar or without the prompt's helps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from smallplan_planner.prompt import MODES
from smallplan_planner.search import SearchConfig
from smallplan_training.errors import UserError
from smallplan_training.policy_factory import PolicyOptions, needs_model

VARIANTS = ("no-grammar", "no-hints", "no-matches", "no-helps")
"""What a model can be made to do without; `no-helps` is neither hints nor matches."""
_READS_MODE = ("slm", "expert")  # the others would do the same again


@dataclass(frozen=True)
class NamedModel:
    """A GGUF file; `label` is '' where there is nothing to tell it from."""

    path: Path
    label: str = ""
    note: str = ""  # said beside its rows: how it was trained

    @staticmethod
    def parse(text: str) -> NamedModel:
        """From `FILE` or `NAME=FILE`; a file that exists under the whole text is that file."""
        name, found, path = text.partition("=")
        if not found or "/" in name or Path(text).is_file():
            return NamedModel(Path(text))
        if not name.strip() or not path:
            raise UserError(f"--model is {text!r}; expected FILE or NAME=FILE")
        return NamedModel(Path(path), name.strip())


@dataclass(frozen=True)
class Entrant:
    """One row: its name, which is unique in a run, and what is behind it."""

    name: str
    policy: str  # one of `policy_factory.POLICIES`
    options: PolicyOptions
    search: SearchConfig
    note: str = ""


def parse_models(given: Sequence[str], notes: Sequence[str] = ()) -> tuple[NamedModel, ...]:
    """The models of `--model` and `--note`. Several are told apart by their labels, or else by their files' names."""
    models = [NamedModel.parse(text) for text in given]
    if len(models) > 1:
        models = [model if model.label else replace(model, label=model.path.stem) for model in models]
    _check_unique((model.label for model in models), "models")
    for text in notes:
        name, found, note = text.partition("=")
        if not found or not name or name not in [model.label for model in models]:
            labels = ", ".join(model.label for model in models if model.label) or "none has a label"
            raise UserError(f"--note is {text!r}; expected NAME=TEXT with the label of a model ({labels})")
        models = [replace(model, note=note) if model.label == name else model for model in models]
    return tuple(models)


def line_up(
    policies: Sequence[str],
    options: PolicyOptions,
    search: SearchConfig,
    models: Sequence[NamedModel] = (),
    modes: Sequence[str] = (),
    variants: Sequence[str] = (),
) -> tuple[Entrant, ...]:
    """The rows, in the order of `policies`.

    `slm` has a row for each model and mode, and one for each model and variant in the first mode; `expert` one for
    each mode. The untrained copy is the first model's. Without `models`, `options.model` is the only one; without
    `modes`, `search.mode`. Raises `UserError` for modes or variants that don't exist and when two rows get one name.
    """
    models = models or ((NamedModel(options.model),) if options.model is not None else ())
    modes = modes or (search.mode,)
    _check_known(modes, MODES, "mode")
    _check_known(variants, VARIANTS, "variant")
    entrants: list[Entrant] = []
    for policy in policies:
        of_policy = models if policy == "slm" else models[:1] if needs_model(policy) else ()
        for model in of_policy or (None,):
            own = replace(options, model=model.path) if model is not None else options
            label = f"{policy}:{model.label}" if policy == "slm" and model is not None and model.label else policy
            note = model.note if policy == "slm" and model is not None else ""
            rows = [
                Entrant(_name(label, mode), policy, own, replace(search, mode=mode), note)
                for mode in (modes if policy in _READS_MODE else modes[:1])
            ]
            if policy == "slm":
                rows += [_without(variant, rows[0], label) for variant in variants]
            entrants += rows
    _check_unique((entrant.name for entrant in entrants), "rows")
    return tuple(entrants)


def _without(variant: str, plain: Entrant, label: str) -> Entrant:
    helps = plain.search.helps
    helps = replace(
        helps,
        matches=helps.matches and variant not in ("no-matches", "no-helps"),
        hints=helps.hints and variant not in ("no-hints", "no-helps"),
    )
    return replace(
        plain,
        name=_name(label, plain.search.mode, variant.replace("-", " ")),
        options=replace(plain.options, grammar=plain.options.grammar and variant != "no-grammar"),
        search=replace(plain.search, helps=helps),
    )


def _name(label: str, mode: str, variant: str = "") -> str:
    """`slm`, `slm:large (saver)`, `slm (saver, no grammar)`: the normal mode goes without saying."""
    reads_mode = label.partition(":")[0] in _READS_MODE
    marks = [mark for mark in (mode if reads_mode and mode != "normal" else "", variant) if mark]
    return f"{label} ({', '.join(marks)})" if marks else label


def _check_known(given: Iterable[str], known: Sequence[str], what: str) -> None:
    for word in given:
        if word not in known:
            raise UserError(f"there is no {what} {word!r}; expected one of {', '.join(known)}")


def _check_unique(names: Iterable[str], what: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"two {what} are called {twice[0]!r}; give each its own name with --model NAME=FILE")
