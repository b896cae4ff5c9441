"""iGibson itself, for the tests that start it: skipped with the reason where it is not set up.

`make igibson` sets it up, `make test-igibson` does and runs these tests; with SMALLPLAN_IGIBSON=1 a machine without it
fails instead of skipping.
"""

from __future__ import annotations

import os

import pytest

from smallplan_training.errors import UserError
from smallplan_training.simulators.igibson import environment


@pytest.fixture(scope="session")
def igibson() -> environment.IgibsonEnvironment:
    """The environment with iGibson, on a machine where it can render."""
    try:
        found = environment.find_environment()
        lacking = environment.missing_for_rendering()
    except UserError as error:
        lacking = str(error)
    if lacking:
        if os.environ.get("SMALLPLAN_IGIBSON") == "1":
            pytest.fail(f"SMALLPLAN_IGIBSON=1, and iGibson can't be run: {lacking}")
        pytest.skip(f"needs iGibson: {lacking}")
    return found
