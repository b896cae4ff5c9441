"""Installs what stands at the top of the repository, for people, to `share/smallplan_planner` as colcon does."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
TOP = Path("..", "..")


def shared_files() -> list[tuple[str, list[str]]]:
    """(folder below the prefix, its files), paths relative to this folder."""
    found: dict[str, list[str]] = {}
    for kind in ("config", "launch", "models"):
        for path in sorted((HERE / TOP / kind).rglob("*")):
            relative = path.relative_to(HERE / TOP)
            if path.is_file() and "__pycache__" not in relative.parts:
                folder = Path("share", "smallplan_planner", relative.parent)
                found.setdefault(str(folder), []).append(str(TOP / relative))
    return list(found.items())


setup(data_files=shared_files())
