"""The file that `--json` names: where a command writes its figures, checked before the work begins."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from smallplan_training.errors import UserError


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def check_writable(path: Path | None) -> None:
    """Better before an hour's run than after it; leaves no empty file. Raises `UserError`; None is fine."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("a", encoding="utf-8"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror}") from error


def write_figures(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures as JSON; nothing where no file was asked for."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
