"""What a training run says while it runs: a JSON line for each step, and the same figures for TensorBoard.

A line is written when its step is done. A resumed run takes back the lines of the steps that it does again, so that
the log reads as if the run had never been interrupted.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smallplan_training.errors import UserError

logger = logging.getLogger(__name__)

LOG = "log.jsonl"


class TrainLog:
    """The log in a run's folder; a silent one (not the main process) writes nothing."""

    def __init__(self, folder: Path, silent: bool = False) -> None:
        self.path, self._silent = folder / LOG, silent
        self._board = None if silent else _tensorboard(folder / "tensorboard")

    @property
    def size(self) -> int:
        """Bytes written so far: what a checkpoint keeps."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def cut(self, size: int) -> None:
        """Take back what was written after a checkpoint."""
        if not self._silent and self.size > size:
            os.truncate(self.path, size)

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """One line; figures that are not finite become null, as JSON has no word for them."""
        if self._silent:
            return
        line = {"stage": stage, "step": step, **{name: _rounded(value) for name, value in values.items()}}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(
                f"can't write {self.path}: {error.strerror}; the last checkpoint is whole. Mend that and run the same "
                "command again: it goes on from there"
            ) from error
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self._board.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: Path) -> Any:
    """A writer, or None where TensorBoard is not installed: it comes with the extra `train`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        logger.info("no TensorBoard log: %s", error)
        return None
    return SummaryWriter(str(folder))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
