"""KV caches on disk: files that are whole and for exactly this model, or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smallplan_planner.slm_state import SavedState, default_state_folder, read_state, state_file, write_state

STATE = SavedState((1, 2, 70000), b"\x00llama.cpp's\nown bytes")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.kv"
    write_state(path, SavedState((9,), b"before"))
    write_state(path, STATE)
    assert read_state(path) == STATE
    assert list(path.parent.iterdir()) == [path], "nothing else is left there"


def test_none_is_no_fault_and_a_damaged_one_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.kv"
    assert read_state(path) is None and not caplog.records
    write_state(path, STATE)
    whole = path.read_bytes()
    for broken in (b"", whole[:-1], whole[:20], whole[:-1] + b"?", b"x" + whole[1:], b"smallplan-kv 1\nnot json\nx"):
        caplog.clear()
        path.write_bytes(broken)
        assert read_state(path) is None
        assert "a.kv is damaged" in caplog.text
    assert read_state(tmp_path) is None and "can't be read" in caplog.text


def test_a_name_stands_for_all_that_a_cache_depends_on(tmp_path: Path) -> None:
    names = {state_file(tmp_path, identity).name for identity in (["a", "b"], ["b", "a"], ["ab", ""], ["a", "b", ""])}
    assert len(names) == 4
    assert state_file(tmp_path, ("a", "b")) == state_file(tmp_path, ["a", "b"])


def test_a_folder_that_can_not_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_state(tmp_path / "file" / "a.kv", STATE)


def test_the_default_folder_is_the_caches_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_state_folder() == tmp_path / "smallplan" / "kv"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/robot")
    assert default_state_folder() == Path("/home/robot/.cache/smallplan/kv")


def test_the_oldest_files_of_a_folder_make_room(tmp_path: Path) -> None:
    for number in range(10):
        path = state_file(tmp_path, [f"model {number}"])
        write_state(path, SavedState((number,), b"x"))
        os.utime(path, (1000 + number, 1000 + number))
    (tmp_path / "notes.txt").write_text("mine")
    write_state(state_file(tmp_path, ["model 2"]), SavedState((2,), b"newer"))
    kept = {number for number in range(10) if read_state(state_file(tmp_path, [f"model {number}"])) is not None}
    assert kept == {2, 3, 4, 5, 6, 7, 8, 9}
    assert (tmp_path / "notes.txt").exists()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".unfinished-old", tmp_path / ".unfinished-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    write_state(state_file(tmp_path, ["model"]), SavedState((1,), b"x"))
    assert not old.exists() and new.exists(), "another process may still write the new one"
