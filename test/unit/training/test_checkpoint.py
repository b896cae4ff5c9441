"""Checkpoints: whole or not there, whatever happens while they are written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from smallplan_training import checkpoint  # noqa: E402
from smallplan_training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from smallplan_training.errors import UserError  # noqa: E402

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from smallplan_training.checkpoint import save_checkpoint
from smallplan_training.errors import UserError
folder = Path(sys.argv[1])
save_checkpoint(folder, {"weights": torch.ones(10)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(folder, {"weights": torch.zeros(100_000)})
except UserError as error:
    print(error)
"""


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PART_BYTES", 1000)
    state = {"weights": torch.arange(2000.0), "nested": {"step": 3, "words": ["a", None]}}
    save_checkpoint(tmp_path / "checkpoint", state)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded is not None
    assert torch.equal(loaded["weights"], state["weights"])
    assert loaded["nested"] == state["nested"]
    sizes = [part.stat().st_size for part in (tmp_path / "checkpoint").glob("part-*")]
    assert len(sizes) > 8
    assert max(sizes) <= 1000


def test_a_full_disk_leaves_the_old_checkpoint_and_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "checkpoint")],
        capture_output=True, text=True, timeout=120, env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "checkpoint.new/part-000" in done.stdout, done.stderr
    assert "Make room" in done.stdout
    assert "whole in" in done.stdout
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded is not None
    assert torch.equal(loaded["weights"], torch.ones(10))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_no_space_at_any_file_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, {"step": 1})
    real = checkpoint._write

    def write(path: Path, data: bytes) -> None:
        if path.name == "index.json":
            raise OSError(28, "No space left on device")
        real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_write", write)
        with pytest.raises(UserError, match=r"index\.json.*No space left on device.*Make room"):
            save_checkpoint(folder, {"step": 2})
    assert load_checkpoint(folder) == {"step": 1}
    save_checkpoint(folder, {"step": 3})
    assert load_checkpoint(folder) == {"step": 3}


def test_a_crash_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, {"step": 1})
    save_checkpoint(tmp_path / "other", {"step": 2})
    folder.rename(tmp_path / "checkpoint.old")
    (tmp_path / "other").rename(tmp_path / "checkpoint.new")
    assert load_checkpoint(folder) == {"step": 2}


def test_a_damaged_checkpoint_is_told_from_none(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    assert load_checkpoint(folder) is None
    save_checkpoint(folder, {"step": 1})
    data = bytearray((folder / "part-000").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "part-000").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(folder)
