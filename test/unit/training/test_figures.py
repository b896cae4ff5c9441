"""A file for figures that can't be written is said before the work begins."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from smallplan_training import cli
from smallplan_training.errors import UserError
from smallplan_training.figures import add_json_argument, check_writable, write_figures


@pytest.mark.parametrize("command", ["bench", "probe-flip", "evaluate"])
def test_a_file_that_cannot_be_written_ends_a_command_at_once(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--json", str(tmp_path)]) == 2
    assert f"can't write {tmp_path}" in capsys.readouterr().err


def test_figures_come_back(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_json_argument(parser)
    path = parser.parse_args(["--json", str(tmp_path / "new" / "figures.json")]).json
    check_writable(path)
    write_figures(path, {"sr": 97.0})
    assert json.loads(path.read_text()) == {"sr": 97.0}


def test_the_check_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()  # a command that then refuses its input leaves no empty file
    (tmp_path / "old.json").write_text("{}")
    check_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "{}"


def test_no_file_is_fine() -> None:
    check_writable(None)
    write_figures(None, {"sr": 97.0})


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="can't write"):
        check_writable(tmp_path / "file" / "figures.json")
