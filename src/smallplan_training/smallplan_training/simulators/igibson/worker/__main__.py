"""Starts the worker, by path: `<iGibson's Python> <this file>`, with one line of JSON on its standard input.

The folder is loaded as a package of its own, so that nothing else of the project is on the path of that Python.
"""

import importlib.util
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_NAME = "smallplan_igibson_worker"


def _load_package() -> None:
    spec = importlib.util.spec_from_file_location(
        _NAME, str(_FOLDER / "__init__.py"), submodule_search_locations=[str(_FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _load_package()
    run = importlib.import_module(_NAME + ".igibson_worker").main
    sys.exit(run())
