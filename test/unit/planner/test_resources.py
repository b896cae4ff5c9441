from __future__ import annotations

from pathlib import Path

import pytest

from smallplan_planner import resources
from smallplan_planner.resources import resource

ROOT = Path(__file__).resolve().parents[3]


def put(folder: Path, relative: str) -> Path:
    path = folder / relative
    path.parent.mkdir(parents=True)
    path.write_text("x")
    return path


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module as if installed to `<prefix>/lib/python3.11/site-packages`, away from the source tree."""
    prefix = tmp_path / "prefix"
    module = put(prefix, "lib/python3.11/site-packages/smallplan_planner/resources.py")
    monkeypatch.setattr(resources, "__file__", str(module))
    return prefix


def test_the_source_tree_is_found() -> None:
    assert resource("config", "priors.yaml") == ROOT / "config" / "priors.yaml"


def test_the_environment_variable_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = put(tmp_path, "config/priors.yaml")
    monkeypatch.setenv("SMALLPLAN_SHARE", str(tmp_path))
    assert resource("config", "priors.yaml") == mine


def test_what_the_variable_lacks_is_found_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLPLAN_SHARE", str(tmp_path))
    assert resource("config", "priors.yaml") == ROOT / "config" / "priors.yaml"


def test_the_prefix_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = installed(tmp_path, monkeypatch)
    model = put(prefix, "share/smallplan_planner/models/nano/a.gguf")
    assert resource("models", "nano/a.gguf") == model


def test_the_ament_prefixes_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch)
    overlay = put(tmp_path / "overlay", "share/smallplan_planner/config/x.yaml")
    put(tmp_path / "underlay", "share/smallplan_planner/config/x.yaml")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}/empty:{tmp_path}/overlay:{tmp_path}/underlay")
    assert resource("config", "x.yaml") == overlay


def test_nothing_found_names_what_was_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLPLAN_SHARE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"models/none\.gguf.*{tmp_path}.*make setup"):
        resource("models", "none.gguf")


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'docker'.*config"):
        resource("docker", "x")
