"""`smallplan export`: what was trained, as GGUF files that the robot and plain llama.cpp tools load.

    smallplan export build/training/adapter --output build/gguf --type Q4_K_M --type Q8_0
    smallplan export build/training/adapter --output build/gguf --kind adapter --base-gguf Qwen2.5-3B-Q4_K_M.gguf

(a) `merged`: base and adapter in one file, one for each type; (b) `adapter`: a LoRA to load over a base that several
adapters share. Each file is compared with the model in transformers (`parity.py`). They are put into the output
folder together, when all of them are near enough; otherwise none is, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import errno
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp
from rich.console import Console
from rich.table import Table

from smallplan_planner.prompt import PROMPT_VERSION
from smallplan_planner.slm_files import sha256
from smallplan_planner.slm_identity import BASE_MODEL_KEY, PROMPT_TOKENS_KEY, PROMPT_VERSION_KEY
from smallplan_training import export
from smallplan_training.errors import UserError
from smallplan_training.figures import add_json_argument, check_writable, write_figures
from smallplan_training.gguf_metadata import (
    STRATEGY_KEY,
    TRAINING_RUN_KEY,
    FileName,
    Value,
    name_parts,
    read_metadata,
    size_label,
)
from smallplan_training.policy_factory import check_model

if TYPE_CHECKING:
    from smallplan_training.export_source import Prepared, Source
    from smallplan_training.parity import FileParity, Limits

MERGED, ADAPTER = "merged", "adapter"
FINETUNE = "SmallPlan"  # in the names of what was trained from a base

_BITS = {"F32": 32.0, "F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "Q4_0": 4.6}
"""About what a parameter takes in a file of each type."""

_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

_LOGITS_BYTES = 4 * 1000  # of a prompt and its answer, for each token of the vocabulary


@dataclass(frozen=True)
class Target:
    """A file to be made."""

    kind: str  # MERGED | ADAPTER
    file_type: str
    path: Path


@dataclass(frozen=True)
class Names:
    """What the files and the model in them are called."""

    file: FileName
    title: str  # general.name
    base_title: str = ""  # general.name of the base, '' = unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FOLDER|NAME", help="an adapter folder of `smallplan train`, or a model")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument("--kind", action="append", choices=(MERGED, ADAPTER), help="may be repeated (default: merged)")
    parser.add_argument(
        "--type",
        action="append",
        type=str.upper,
        choices=tuple(export.FILE_TYPES),
        help="of a merged file, may be repeated (default: Q8_0)",
    )
    parser.add_argument(
        "--adapter-type",
        type=str.upper,
        choices=export.ADAPTER_TYPES,
        default=export.ADAPTER_TYPES[0],
        help="of an adapter's file (default: %(default)s)",
    )
    parser.add_argument("--base", metavar="FOLDER|NAME", help="of the adapter (default: the one that it names)")
    parser.add_argument(
        "--base-gguf", type=Path, metavar="FILE", help="the shared base that an adapter is checked over"
    )
    parser.add_argument("--recipe", default="", help="of the chat, from config/models (default: the training run's)")
    names = parser.add_argument_group("metadata")
    names.add_argument("--name", help="of the model (default: the base's, and SmallPlan)")
    names.add_argument("--model-version", default="v1.0", metavar="vN.N", help="default: %(default)s")
    names.add_argument("--licence", help="default: what the base's model card says")
    names.add_argument("--training-run", metavar="NAME", help="default: the name of the run's folder")
    names.add_argument(
        "--prompt-version",
        metavar="N",
        help=f"that it was trained with (default: {PROMPT_VERSION} for what comes from `smallplan train`, else none)",
    )
    names.add_argument(
        "--prompt-tokens",
        type=int,
        metavar="N",
        help="of the longest prompts that it was trained with: longer ones are cut (default: the training run's)",
    )
    checks = parser.add_argument_group("parity", "a file that is further from the model is refused")
    checks.add_argument("--prompts", type=int, default=8, help="whose logits are compared (default: %(default)s)")
    checks.add_argument("--graphs", type=int, default=50, help="whose commands are compared (default: %(default)s)")
    checks.add_argument("--min-agreement", type=float, metavar="PERCENT", help="of likeliest tokens (default: by type)")
    checks.add_argument("--max-kl", type=float, metavar="NATS", help="mean KL divergence (default: by type)")
    checks.add_argument("--min-actions", type=float, metavar="PERCENT", help="of same commands (default: by type)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    if args.prompts < 1 or args.graphs < args.prompts:
        raise UserError(f"{args.prompts} prompts of {args.graphs} graphs; expected at least 1, and no more than graphs")
    if args.prompt_tokens is not None and args.prompt_tokens < 1:
        raise UserError(f"--prompt-tokens is {args.prompt_tokens}; expected at least 1")
    kinds = tuple(dict.fromkeys(args.kind or [MERGED]))
    if args.base_gguf is not None and ADAPTER not in kinds:
        raise UserError("--base-gguf is what an adapter is checked over; add --kind adapter, or leave it out")
    if args.base_gguf is not None:
        check_model(args.base_gguf)
    check_writable(args.json)
    export.converter_dir()
    from smallplan_training.base_model import hide_progress

    hide_progress()
    job = _make_job(args)
    if ADAPTER in kinds and not job.source.is_adapter:
        raise UserError(f"{args.source} is a whole model; --kind adapter expects an adapter folder")
    targets = job.targets(kinds)
    return job.run(targets)


def export_run(folder: Path, path: Path, file_type: str) -> None:
    """The merged model of a finished training run in `folder` as one file, with the metadata that the command writes.

    It is compared with nothing. Raises `UserError`.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    job = _make_job(parser.parse_args([str(folder / "adapter"), "--output", str(path.parent)]))
    whole = folder / "merged.gguf"
    try:
        export.convert(folder / "merged", whole, job.metadata(), precision="auto")
        export.quantise(whole, path, file_type)
    finally:
        whole.unlink(missing_ok=True)


def _make_job(args: argparse.Namespace) -> _Job:
    from smallplan_training.export_source import count_parameters, find_source

    source = find_source(args.source, args.base, args.recipe)
    parameters = count_parameters(source.weights)
    return _Job(args, source, _names(args, source, parameters), parameters)


class _Job:
    """One call of the command."""

    def __init__(self, args: argparse.Namespace, source: Source, names: Names, parameters: int) -> None:
        from smallplan_training.export_source import find_licence

        self.args, self.source, self.names, self.parameters = args, source, names, parameters
        self.output: Path = args.output
        trained = source.is_adapter or source.strategy  # another model is a base, which was trained with none
        self.prompt_version: str = args.prompt_version or (PROMPT_VERSION if trained else "")
        self.licence: str = args.licence or find_licence(source.weights)
        self.console = Console()

    def targets(self, kinds: Sequence[str]) -> list[Target]:
        """The files to be made; raises `UserError` when one is there."""
        types = list(dict.fromkeys(self.args.type or ["Q8_0"]))
        wanted = [(MERGED, kind) for kind in types if MERGED in kinds]
        wanted += [(ADAPTER, self.args.adapter_type)] if ADAPTER in kinds else []
        targets = [
            Target(kind, file_type, self.output / self.names.file.of(file_type, "LoRA" if kind == ADAPTER else ""))
            for kind, file_type in wanted
        ]
        there = [target.path for target in targets if target.path.exists()]
        if there and not self.args.overwrite:
            raise UserError(f"{there[0]} is there; remove it, give --overwrite, or another --output or --model-version")
        return targets

    def run(self, targets: Sequence[Target]) -> int:
        if not self.licence:
            self.console.print("No licence is known (no model card), so the files name none; give one with --licence")
        with _scratch(self.output) as scratch:
            self._check_space(targets)
            made = self._make(targets, self.metadata(), scratch)
            refused = any(item["faults"] for item in made)
            if not refused:
                for target in targets:
                    (scratch / target.path.name).replace(target.path)
        write_figures(self.args.json, self._report(made, refused))
        self._print(made)
        return 1 if refused else 0

    def _make(self, targets: Sequence[Target], keys: dict[str, Value], scratch: Path) -> list[dict[str, Any]]:
        from smallplan_training.export_source import prepare
        from smallplan_training.parity import Reference, record_views

        with self.console.status("preparing the model"):
            prepared = prepare(self.source, scratch)
        with self.console.status(f"recording {self.args.graphs} graphs"):
            views = record_views(self.args.graphs)
        with self.console.status("transformers answers"):
            reference = Reference(prepared.model, prepared.chat, views, self.args.prompts, scratch / "logits")
        whole = scratch / "whole.gguf"
        if any(target.kind == MERGED for target in targets):
            with self.console.status("converting"):
                export.convert(prepared.model, whole, keys)
                _check_converted(whole, prepared)
        made = []
        for target in targets:
            with self.console.status(f"{target.path.name}: making and checking it"):
                path = scratch / target.path.name
                if target.kind == ADAPTER:
                    base, type_of_base = self._shared_base(prepared, scratch)
                    extra = {BASE_MODEL_KEY: read_metadata(base).get("general.name", self.names.base_title)}
                    export.convert_adapter(self.source.folder, prepared.base, path, keys | extra, target.file_type)
                    made.append(self._check(target, path, reference.compare(base, path), type_of_base))
                else:
                    export.quantise(whole, path, target.file_type)
                    made.append(self._check(target, path, reference.compare(path), target.file_type))
        return made

    def _shared_base(self, prepared: Prepared, scratch: Path) -> tuple[Path, str]:
        """(the base's GGUF, its type): the one that is given, else one of float32."""
        if self.args.base_gguf is not None:
            number = read_metadata(self.args.base_gguf).get("general.file_type")
            types = {int(value): name for name, value in export.FILE_TYPES.items()}
            return self.args.base_gguf, types.get(int(number or 0), "Q4_0")
        base = scratch / "base.gguf"
        export.convert(prepared.base, base, {"general.name": self.names.base_title})
        return base, "F32"

    def _check(self, target: Target, path: Path, parity: FileParity, file_type: str) -> dict[str, Any]:
        """The report of a file. An adapter of 16 bits over a base of 32 is measured as 16 bits."""
        order = list(_BITS)
        limits = self._limits(max(file_type, target.file_type, key=order.index))
        return {
            "file": target.path.name,
            "kind": target.kind,
            "type": target.file_type,
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
            "parity": asdict(parity),
            "limits": asdict(limits),
            "faults": parity.faults(limits),
        }

    def _limits(self, file_type: str) -> Limits:
        from smallplan_training.parity import LIMITS

        given = {"agreement": self.args.min_agreement, "kl": self.args.max_kl, "actions": self.args.min_actions}
        return replace(LIMITS[file_type], **{name: value for name, value in given.items() if value is not None})

    def metadata(self) -> dict[str, Value]:
        """Of all files."""
        from smallplan_training.export_source import prompt_tokens

        keys: dict[str, Value] = {"general.name": self.names.title, **self.names.file.keys()}
        base = self.source.base_name
        if base:
            organisation, _, name = base.rpartition("/")
            keys |= {"general.base_model.count": 1, "general.base_model.0.name": name.replace("-", " ")}
            if organisation:
                keys["general.base_model.0.organization"] = organisation
                keys["general.base_model.0.repo_url"] = f"https://huggingface.co/{base}"
        if self.licence:
            keys["general.license"] = self.licence
        if self.prompt_version:
            keys[PROMPT_VERSION_KEY] = self.prompt_version
        tokens = self.args.prompt_tokens or prompt_tokens(self.source)
        if tokens is not None:
            keys[PROMPT_TOKENS_KEY] = tokens
        run = self.args.training_run or self.source.run
        keys |= {TRAINING_RUN_KEY: run} if run else {}
        return keys | ({STRATEGY_KEY: self.source.strategy} if self.source.strategy else {})

    def _check_space(self, targets: Sequence[Target]) -> None:
        """Better before the work than when the disk is full."""
        whole = self.parameters * 4
        merged = sum(self.parameters * _BITS[t.file_type] / 8 for t in targets if t.kind == MERGED)
        needed = merged + (whole if merged else 0) + (whole if self.source.is_adapter else 0)
        needed += whole if any(t.kind == ADAPTER for t in targets) and self.args.base_gguf is None else 0
        needed += self.args.prompts * _LOGITS_BYTES * _vocabulary(self.source.weights)
        free = shutil.disk_usage(self.output).free
        if free < needed:
            raise UserError(
                f"{self.output} has {free / 1e9:.1f} GB free, and exporting {self.parameters / 1e6:.1f} M parameters "
                f"takes about {needed / 1e9:.1f} GB while it is under way; make room, or give another --output"
            )

    def _report(self, made: list[dict[str, Any]], refused: bool) -> dict[str, Any]:
        return {
            "source": self.source.folder.name,
            "base": self.source.base_name,
            "name": self.names.title,
            "parameters": self.parameters,
            "licence": self.licence,
            "prompt_version": self.prompt_version,
            "training_run": self.args.training_run or self.source.run,
            "converter": f"llama.cpp of llama-cpp-python {llama_cpp.__version__}",
            "refused": refused,
            "files": made,
        }

    def _print(self, made: Sequence[dict[str, Any]]) -> None:
        table = Table(title=f"{self.names.title}: llama.cpp beside transformers")
        for heading in ("", "type", "MB", "same tokens", "agreement %", "mean KL", "same commands %"):
            table.add_column(heading)
        for item in made:
            parity = item["parity"]
            tokens = f"{parity['equal_tokens']}/{parity['prompts']}"
            figures = (
                tokens,
                f"{parity['agreement']:.2f}",
                f"{parity['mean_kl']:.2g}",
                f"{parity['equal_actions']:.1f}",
            )
            table.add_row(item["kind"], item["type"], f"{item['bytes'] / 1e6:.1f}", *figures)
        self.console.print(table)
        if made[0]["parity"]["readable"] == 0:
            self.console.print("It answers in no format that the planner reads: it has not been trained for it")
        refused = any(item["faults"] for item in made)
        for item in made:
            path = self.output / item["file"]
            if not refused:
                self.console.print(str(path), soft_wrap=True, highlight=False)
            for fault in item["faults"]:
                self.console.print(f"refused: {path.name}: {fault}", soft_wrap=True, highlight=False)
        if refused:
            self.console.print("Nothing was written. Take types of more bits, or allow more (see --help, parity)")


def _names(args: argparse.Namespace, source: Source, parameters: int) -> Names:
    """What to call the files: as told, else after the base."""
    size = size_label(parameters)
    base_title = _title(source.base_name) if source.base_name else ""
    if args.name:
        return Names(FileName(args.name.replace(" ", "-"), size, version=args.model_version), args.name, base_title)
    basename, finetune = name_parts(source.base_name or source.own_name, parameters)
    if not source.base_name:
        return Names(FileName(basename, size, finetune, args.model_version), _title(source.own_name))
    finetune = "-".join(part for part in (finetune, FINETUNE) if part)
    return Names(FileName(basename, size, finetune, args.model_version), f"{base_title} {FINETUNE}", base_title)


def _title(name: str) -> str:
    return name.rpartition("/")[2].replace("-", " ")


def _check_converted(path: Path, prepared: Prepared) -> None:
    """What the converter takes over without a word when it is wrong or missing. Raises `UserError`."""
    from smallplan_training.base_files import read_config

    keys, config = read_metadata(path), read_config(prepared.model)
    here = keys.get(f"{keys['general.architecture']}.context_length")
    there = getattr(config, "max_position_embeddings", here)
    if here != there:
        raise UserError(
            f"the converter wrote a context length of {here}, config.json has {there}; look into the model's "
            "configuration"
        )
    if keys.get("tokenizer.chat_template") != prepared.chat.tokenizer.chat_template:
        raise UserError(
            "the converter did not take over the chat template; the tokenizer's files contradict each other"
        )


def _vocabulary(folder: Path) -> int:
    from smallplan_training.base_files import read_config

    return int(read_config(folder).vocab_size)


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A folder for what is under way, beside the files, so that they need not be copied. Leaves nothing behind."""
    is_new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=output) as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise UserError(f"can't write {output}: {error.strerror}; make room there, or give another --output") from error
    finally:
        if is_new and output.is_dir() and not any(output.iterdir()):
            output.rmdir()
