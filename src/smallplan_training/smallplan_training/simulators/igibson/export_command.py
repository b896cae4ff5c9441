"""`smallplan export-igibson`: a house as a data set of iGibson's format, for iGibson itself or to look at.

smallplan export-igibson house.json --folder build/pack
IGIBSON_DATASET_PATH=build/pack python my_igibson_script.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from smallplan_training.scenes import load_house
from smallplan_training.simulators.igibson.pack import make_pack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `smallplan export-igibson`."""
    parser.add_argument("house", type=Path, metavar="HOUSE.json", help="a house, or a ProcTHOR house")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where to write; empty, or not there")


def run(args: argparse.Namespace) -> int:
    """Write the pack."""
    pack = make_pack(load_house(args.house), args.folder)
    Console(highlight=False, soft_wrap=True).print(
        f"{pack.folder}: scene {pack.scene}, {len(pack.rooms)} rooms, {len(pack.names)} things. "
        f"iGibson reads it with IGIBSON_DATASET_PATH={pack.folder.resolve()}"
    )
    return 0
