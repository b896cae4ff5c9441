"""Where configuration, models and launch files lie, whichever way the package was installed.

Looked for in this order: the folder named by the environment variable SMALLPLAN_SHARE; the source tree that this
module lies in (an editable installation, or a colcon build with symlinks); `share/smallplan_planner` of the prefix
that this module was installed to, of each prefix in AMENT_PREFIX_PATH, and of the Python environment.
Knows no ROS: the ament index is read as a path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

KINDS = ("config", "models", "launch")
PACKAGE = "smallplan_planner"
DEFAULT_MODEL = "SmallPlan-Nano-Q8_0.gguf"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast, which counts at each start


def resource(kind: str, name: str) -> Path:
    """The path of the existing file or folder `name` (may hold subfolders) of `kind`, one of `KINDS`.

    Raises `ValueError` for another kind, `FileNotFoundError` that names every place that was searched.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of resource {kind!r}: expected one of {', '.join(KINDS)}")
    searched = []
    for root in dict.fromkeys(_roots()):
        path = root / kind / name
        if path.exists():
            return path
        searched.append(str(path))
    raise FileNotFoundError(
        f"{kind}/{name} was not found; searched {', '.join(searched)}. "
        "Build the workspace (make setup), or set SMALLPLAN_SHARE to the folder that holds "
        f"{', '.join(KINDS)}."
    )


def read_yaml(path: Path) -> Any:
    """What a YAML file says. Raises OSError and `yaml.YAMLError`."""
    return yaml.load(path.read_text(encoding="utf-8"), _LOADER)


def user_cache() -> Path:
    """Where this project's programs keep what they can make again: `smallplan` in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smallplan"


def oldest_first(paths: Iterable[Path]) -> list[tuple[float, Path]]:
    """Files or folders of a cache with when they were written, in s; without what another process has just removed."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path))
    return sorted(found)


def _roots() -> Iterator[Path]:
    """The folders that may hold `config`, `models` and `launch`, the most specific first."""
    override = os.environ.get("SMALLPLAN_SHARE")
    if override:
        yield Path(override)
    module = Path(__file__).resolve()
    source_tree = module.parents[3]  # <tree>/src/smallplan_planner/smallplan_planner/resources.py
    if (source_tree / "src" / PACKAGE / "package.xml").is_file():
        yield source_tree
    for parent in module.parents:  # <prefix>/lib/python3.x/site-packages/smallplan_planner/resources.py
        if parent.name in ("lib", "local"):
            yield parent.parent / "share" / PACKAGE
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix:
            yield Path(prefix) / "share" / PACKAGE
    yield Path(sys.prefix) / "share" / PACKAGE
