"""Python's garbage collector, kept out of decisions."""

from __future__ import annotations

import gc

_YOUNG = 10_000  # objects made, less those that have gone, between two looks at the newest; 700 by default


def spare_decisions() -> None:
    """To be called when everything is loaded: what is there by now stays, and the collector need not look through it.

    Nearly all that a decision makes goes by itself as it is no longer referred to. By default the collector looks for
    the rest several times a decision, which is 1 % of the default model's.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
