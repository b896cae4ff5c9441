"""Makes the CMake files of the ROS 2 wheels fit this machine. Run it with the Python of the environment.

The wheels name the include folders of the machine that built them, for Python and for numpy; here those of this
Python are put in their place. Running it twice changes nothing.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

NUMPY_INCLUDE = re.compile(r"/opt/python/[^;\"\s]*?/numpy/_?core/include")
PYTHON_INCLUDE = re.compile(r"/opt/python/[^;\"\s]*?/include/python3\.\d+")


def patch(text: str, python_include: str, numpy_include: str) -> str:
    """`text` of one CMake file with the two folders replaced."""
    text = NUMPY_INCLUDE.sub(lambda _: numpy_include, text)
    return PYTHON_INCLUDE.sub(lambda _: python_include, text)


def main() -> None:
    import numpy

    for path in Path(sys.prefix, "share").rglob("*.cmake"):
        before = path.read_text()
        after = patch(before, sysconfig.get_paths()["include"], numpy.get_include())
        if after != before:
            path.write_text(after)


if __name__ == "__main__":
    main()
