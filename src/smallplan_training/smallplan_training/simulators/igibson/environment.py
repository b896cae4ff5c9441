"""Where iGibson is on this machine, and what a process needs to run it. Looks, and imports no iGibson.

iGibson 2.2.2 needs an older Python and older packages than SmallPlan, so it has an environment of its own, which
`make igibson` sets up, and whatever uses it is a process of that environment's Python. iGibson reads its folders from
environment variables when it is imported: one data set for each process.

    SMALLPLAN_IGIBSON_VENV   the environment; otherwise .venv-igibson of the source tree
    IGIBSON_DATASET_PATH     the licensed data set; otherwise where iGibson's own download puts it
    GIBSON_ASSETS_PATH       its robots (Fetch); otherwise likewise, or a folder in the user's cache that holds none
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from smallplan_planner.resources import user_cache
from smallplan_training.errors import UserError

VERSION = "2.2.2"
"""The version of iGibson that `make igibson` installs, and of the data that it accepts."""

SOFTWARE_RENDERING = {
    "MESA_GL_VERSION_OVERRIDE": "4.6",
    "MESA_GLSL_VERSION_OVERRIDE": "460",
    "GIBSON_DEVICE_ID": "0",
}
"""What iGibson's renderer needs where there is no NVIDIA driver.

Mesa's software renderer has what the shaders use, and announces an older version of OpenGL than they ask for.
iGibson looks for NVIDIA's and Intel's devices only, unless it is told which one to take.
"""


@dataclass(frozen=True)
class IgibsonEnvironment:
    """A Python environment in which iGibson is installed."""

    python: Path
    version: str


def environment_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of the environment, whether it is there or not."""
    named = environ.get("SMALLPLAN_IGIBSON_VENV")
    return Path(named).expanduser() if named else Path(__file__).resolve().parents[5] / ".venv-igibson"


def find_environment(environ: Mapping[str, str] = os.environ) -> IgibsonEnvironment:
    """The environment with iGibson in it; raises `UserError` where there is none."""
    folder = environment_folder(environ)
    python = folder / "bin" / "python"
    installed = next(iter(sorted(folder.glob("lib/python3.*/site-packages/igibson-*.dist-info"))), None)
    if installed is None or not python.exists():
        raise UserError(f"{folder} holds no iGibson: run `make igibson`, or name one with SMALLPLAN_IGIBSON_VENV")
    version = re.fullmatch(r"igibson-(.+)\.dist-info", installed.name)
    return IgibsonEnvironment(python, version[1] if version else "?")


def assets_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """iGibson's assets: robots and primitive shapes, or nothing but the file VERSION."""
    named = environ.get("GIBSON_ASSETS_PATH")
    if named:
        return Path(named).expanduser()
    downloaded = (folder for folder in _downloads(environ, "assets") if (folder / "VERSION").is_file())
    return next(downloaded, user_cache() / "igibson" / "assets")


def make_assets_folder(folder: Path) -> None:
    """Make an empty assets folder that iGibson accepts; one that is there stays as it is.

    Raises: UserError: it can't be written.
    """
    version = folder / "VERSION"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not version.exists():
            version.write_text(VERSION)
    except OSError as error:
        raise UserError(
            f"{version}: can't be written: {error.strerror}; set XDG_CACHE_HOME or GIBSON_ASSETS_PATH"
        ) from error


def has_fetch(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the robot of the method is installed."""
    return (assets_folder(environ) / "models" / "fetch" / "fetch_gripper.urdf").is_file()


def dataset_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The licensed data set of iGibson, or None; raises `UserError` when the named one is none."""
    named = environ.get("IGIBSON_DATASET_PATH")
    if named:
        folder = Path(named).expanduser()
        if not is_dataset(folder):
            raise UserError(
                f"IGIBSON_DATASET_PATH names {folder}, which is no data set of iGibson; expected a folder with "
                "VERSION, scenes and objects: name another one, or unset it"
            )
        return folder
    return next((folder for folder in _downloads(environ, "ig_dataset") if is_dataset(folder)), None)


def is_dataset(folder: Path) -> bool:
    """Whether `folder` is laid out as a data set of iGibson."""
    return (folder / "VERSION").is_file() and (folder / "scenes").is_dir() and (folder / "objects").is_dir()


def worker_environ(dataset: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables of a process that loads scenes of `dataset`; the caller's own settings win."""
    values = dict(environ)
    # What belongs to SmallPlan's own Python is not for another one.
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        values.pop(name, None)
    if not has_nvidia_egl():
        values = {**SOFTWARE_RENDERING, **values}
    values.setdefault("IG_LOG_LEVEL", "WARNING")
    values.update(IGIBSON_DATASET_PATH=str(dataset), GIBSON_ASSETS_PATH=str(assets_folder(environ)))
    keys = [dataset.parent / "igibson.key", *_downloads(environ, "igibson.key")]
    key = next((path for path in keys if path.is_file()), None)
    if key is not None:
        values.setdefault("KEY_PATH", str(key))
    return values


def has_nvidia_egl() -> bool:
    """Whether frames are rendered by an NVIDIA GPU."""
    return any(Path("/dev").glob("nvidia[0-9]*")) and _loads("libEGL_nvidia.so.0")


def missing_for_rendering() -> str | None:
    """What rendering without a screen lacks on this machine, with the remedy; None when nothing."""
    if not _loads("libEGL.so.1"):
        return "no EGL (libEGL.so.1): `apt-get install -y libegl1 libgl1-mesa-dri`"
    if not has_nvidia_egl() and not _loads("libEGL_mesa.so.0"):
        return "EGL without a driver, neither NVIDIA's nor Mesa's: `apt-get install -y libgl1-mesa-dri`"
    return None


def _downloads(environ: Mapping[str, str], name: str) -> list[Path]:
    """What iGibson's own download has put beside its code."""
    return sorted(environment_folder(environ).glob(f"lib/python3.*/site-packages/igibson/data/{name}"))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
