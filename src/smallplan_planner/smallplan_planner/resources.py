"""Where the files that are no code lie: `config/`, `models/`, `launch/`.

They stand at the top of the source tree and are installed into `share/smallplan_planner`; this finds them in both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

DEFAULT_MODEL = "SmallPlan-Nano-Q8_0.gguf"
"""The model under `models/` that is used unless another is asked for."""

KINDS = ("config", "models", "launch")


def resource(kind: str, name: str) -> Path:
    """The path of `<kind>/<name>`; raises FileNotFoundError that lists where it was looked for.

    `SMALLPLAN_SHARE` comes first, then the source tree, then the installed share folders (`AMENT_PREFIX_PATH`).
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind of resource {kind!r}; expected one of {', '.join(KINDS)}")
    tried = []
    for folder in _roots():
        path = folder / kind / name
        if path.exists():
            return path
        tried.append(str(path))
    raise FileNotFoundError(
        f"no {kind}/{name}: looked at {', '.join(tried) or 'nothing'}; set SMALLPLAN_SHARE to the folder that holds {kind}/"
    )


def _roots() -> Iterator[Path]:
    if share := os.environ.get("SMALLPLAN_SHARE"):
        yield Path(share)
    here = Path(__file__).resolve()
    for folder in here.parents:
        if (folder / "config").is_dir() and (folder / "src").is_dir():
            yield folder
    for folder in here.parents:  # installed as <prefix>/lib/python3.x/site-packages/smallplan_planner
        if (folder / "share" / "smallplan_planner").is_dir():
            yield folder / "share" / "smallplan_planner"
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        yield Path(prefix) / "share" / "smallplan_planner"
