"""The scenes of iGibson's challenge that the method trains and is measured on, by name."""

from __future__ import annotations

from pathlib import Path

SPLITS: dict[str, tuple[str, ...]] = {
    "train": (
        "Merom_0_int", "Benevolence_0_int", "Pomaria_0_int", "Wainscott_1_int", "Rs_int", "Ihlen_0_int",
        "Beechwood_1_int", "Ihlen_1_int",
    ),
    "test": (
        "Benevolence_1_int", "Wainscott_0_int", "Pomaria_2_int", "Benevolence_2_int", "Beechwood_0_int",
        "Pomaria_1_int", "Merom_1_int",
    ),
}  # fmt: skip
"""Split -> the folders in `scenes` of the data set."""


def present(dataset: Path, split: str) -> list[str]:
    """The scenes of `split` that the data set in `dataset` holds, in the order of the split."""
    return [name for name in SPLITS[split] if (dataset / "scenes" / name / "urdf" / f"{name}_best.urdf").is_file()]
