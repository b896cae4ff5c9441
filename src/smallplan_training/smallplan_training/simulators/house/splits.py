"""Writes the houses of the splits: 8 to train on, 7 to decide by (`val`), 7 for final figures (`test`).

Each house is fixed by its seed, and no seed is used twice; nothing of `test` is looked at when something is chosen.
The files are committed, so this is run again only when the generator or the priors change.

    python -m smallplan_training.simulators.house.splits config/houses
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from smallplan_training.simulators.house.generator import generate_house

log = logging.getLogger(__name__)

ROOMS_OF = {
    "train": (3, 4, 5, 6, 7, 8, 9, 10),
    "val": (4, 5, 6, 7, 8, 9, 10),
    "test": (4, 5, 6, 7, 8, 9, 10),
}
"""How many rooms each house of a split has."""
FIRST_SEED = {"train": 1_000, "val": 2_000, "test": 3_000}


def write_splits(folder: Path) -> list[Path]:
    """Write `<folder>/<split>/<split>-<n>.json` for all splits; returns the files."""
    written = []
    for split, rooms in ROOMS_OF.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number, n_rooms in enumerate(rooms, start=1):
            name = f"{split}-{number}"
            path = folder / split / f"{name}.json"
            generate_house(FIRST_SEED[split] + number, n_rooms, name=name).save(path)
            written.append(path)
    return written


def main() -> None:
    """Write the houses of all splits."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("config/houses"))
    for path in write_splits(parser.parse_args().folder):
        log.info("%s", path)


if __name__ == "__main__":
    main()
