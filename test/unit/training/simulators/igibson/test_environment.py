"""Where iGibson is looked for, and what a process of it is given."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from smallplan_planner.resources import user_cache
from smallplan_training.errors import UserError
from smallplan_training.simulators.igibson import challenge, environment

CHECK = Path(__file__).resolve().parents[5] / "scripts" / "igibson_check.py"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment that names a folder with an installed iGibson, and no data."""
    folder = tmp_path / "venv"
    site = folder / "lib" / "python3.9" / "site-packages"
    (site / "igibson-2.2.2.dist-info").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").touch()
    return {"SMALLPLAN_IGIBSON_VENV": str(folder), "HOME": str(tmp_path)}


def make_dataset(folder: Path, scenes: tuple[str, ...] = ()) -> Path:
    (folder / "objects").mkdir(parents=True)
    (folder / "scenes").mkdir()
    (folder / "VERSION").write_text("2.0.6")
    for name in scenes:
        urdf = folder / "scenes" / name / "urdf"
        urdf.mkdir(parents=True)
        (urdf / f"{name}_best.urdf").touch()
    return folder


def test_an_environment_is_found_with_its_version(environ: dict[str, str], tmp_path: Path) -> None:
    found = environment.find_environment(environ)
    assert found == environment.IgibsonEnvironment(tmp_path / "venv" / "bin" / "python", "2.2.2")


@pytest.mark.parametrize("missing", ["bin/python", "lib/python3.9/site-packages/igibson-2.2.2.dist-info"])
def test_without_igibson_the_remedy_is_named(environ: dict[str, str], tmp_path: Path, missing: str) -> None:
    path = tmp_path / "venv" / missing
    path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=r"venv holds no iGibson: run `make igibson`"):
        environment.find_environment(environ)


def test_the_data_set_is_the_named_one_or_that_of_the_installation(environ: dict[str, str], tmp_path: Path) -> None:
    assert environment.dataset_folder(environ) is None
    inside = make_dataset(tmp_path / "venv/lib/python3.9/site-packages/igibson/data/ig_dataset")
    assert environment.dataset_folder(environ) == inside
    named = make_dataset(tmp_path / "named")
    assert environment.dataset_folder({**environ, "IGIBSON_DATASET_PATH": str(named)}) == named


def test_a_folder_without_a_version_is_no_data_set(environ: dict[str, str], tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "named")
    (folder / "VERSION").unlink()
    with pytest.raises(UserError, match=r"IGIBSON_DATASET_PATH names .*named, .*expected a folder with VERSION"):
        environment.dataset_folder({**environ, "IGIBSON_DATASET_PATH": str(folder)})


def test_a_worker_gets_its_folders_and_nothing_of_our_python(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "has_nvidia_egl", lambda: False)
    assets = tmp_path / "assets"
    ours = {"PYTHONPATH": "/ours", "VIRTUAL_ENV": "/ours", "GIBSON_ASSETS_PATH": str(assets), "LANG": "C"}
    values = environment.worker_environ(tmp_path / "pack", {**environ, **ours})
    assert values["IGIBSON_DATASET_PATH"] == str(tmp_path / "pack")
    assert values["GIBSON_ASSETS_PATH"] == str(assets)
    assert values["LANG"] == "C"
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & set(values)
    assert values["MESA_GL_VERSION_OVERRIDE"] == "4.6"
    assert values["MESA_GLSL_VERSION_OVERRIDE"] == "460"


def test_a_gpu_is_left_alone_and_settings_of_the_user_stay(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "has_nvidia_egl", lambda: True)
    assert not set(environment.SOFTWARE_RENDERING) & set(environment.worker_environ(tmp_path, environ))
    monkeypatch.setattr(environment, "has_nvidia_egl", lambda: False)
    chosen = environment.worker_environ(tmp_path, {**environ, "GIBSON_DEVICE_ID": "3"})
    assert chosen["GIBSON_DEVICE_ID"] == "3"


def test_the_key_beside_the_data_set_is_found(environ: dict[str, str], tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data" / "ig_dataset")
    assert "KEY_PATH" not in environment.worker_environ(dataset, environ)
    key = dataset.parent / "igibson.key"
    key.touch()
    assert environment.worker_environ(dataset, environ)["KEY_PATH"] == str(key)


def test_assets_are_those_named_those_downloaded_or_an_empty_folder(environ: dict[str, str], tmp_path: Path) -> None:
    assert environment.assets_folder(environ) == user_cache() / "igibson" / "assets"
    assert not environment.has_fetch(environ)
    downloaded = tmp_path / "venv/lib/python3.9/site-packages/igibson/data/assets"
    (downloaded / "models" / "fetch").mkdir(parents=True)
    (downloaded / "models" / "fetch" / "fetch_gripper.urdf").touch()
    (downloaded / "VERSION").touch()
    assert environment.assets_folder(environ) == downloaded
    assert environment.has_fetch(environ)
    assert environment.assets_folder({**environ, "GIBSON_ASSETS_PATH": "/named"}) == Path("/named")


def test_an_assets_folder_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "assets"
    environment.make_assets_folder(folder)
    assert (folder / "VERSION").read_text() == environment.VERSION
    (folder / "VERSION").write_text("2.0.6")
    environment.make_assets_folder(folder)
    assert (folder / "VERSION").read_text() == "2.0.6", "what the user installed stays"


@pytest.mark.parametrize(
    ("loadable", "expected"),
    [
        ({"libEGL.so.1", "libEGL_mesa.so.0"}, None),
        ({"libEGL.so.1"}, "without a driver"),
        (set(), r"no EGL .*apt-get install -y libegl1"),
    ],
)
def test_what_rendering_lacks_is_told_with_the_remedy(
    loadable: set[str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_loads", lambda library: library in loadable)
    lacking = environment.missing_for_rendering()
    assert (lacking is None) == (expected is None)
    assert lacking is None or re.search(str(expected), lacking)


def test_scenes_of_the_challenge(tmp_path: Path) -> None:
    assert [len(names) for names in challenge.SPLITS.values()] == [8, 7]
    assert not set(challenge.SPLITS["train"]) & set(challenge.SPLITS["test"])
    dataset = make_dataset(tmp_path / "data", ("Rs_int", "Merom_1_int"))
    assert challenge.present(dataset, "train") == ["Rs_int"]
    assert challenge.present(dataset, "test") == ["Merom_1_int"]


@pytest.mark.slow
def test_igibson_renders_what_is_there(igibson: environment.IgibsonEnvironment, tmp_path: Path) -> None:
    environment.make_assets_folder(environment.assets_folder())
    picture = tmp_path / "cube.png"
    env = environment.worker_environ(tmp_path / "no-data-set")
    done = subprocess.run(
        [str(igibson.python), str(CHECK), str(picture)],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert picture.stat().st_size > 0
