"""The garbage collector looks neither at what was loaded nor, all the time, at what a decision makes."""

from __future__ import annotations

import subprocess
import sys

LOOKS = """
import gc
from smallplan_planner.garbage import spare_decisions

loaded = [[n] for n in range(100_000)]
spare_decisions()
looks, kept = [], []
gc.callbacks.append(lambda phase, info: looks.append(info["generation"]))
kept = [[n] for n in range(9_000)]
few = len(looks)
for _ in range(200):
    ring = [[n] for n in range(1_000)]
    for part in ring:
        part.append(ring)
print(few, len(looks) - few, gc.get_freeze_count() >= 100_000, gc.get_count()[0] < 50_000)
"""


def test_what_is_loaded_is_left_alone_and_rings_still_go() -> None:
    done = subprocess.run([sys.executable, "-c", LOOKS], capture_output=True, text=True, check=True, timeout=60)
    few, looks, frozen, collected = done.stdout.split()
    assert (few, frozen, collected) == ("0", "True", "True")
    assert int(looks) >= 10, "200,000 objects in rings, 10,000 at a time"
