"""Which finished cells are re-run to re-create variables that could not be saved.

``not_saved`` lists, for each cell, the variables that are missing in the snapshot after it; None: there is no snapshot.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["RERUN_S", "last_with_names", "last_with_snapshot"]

RERUN_S = 60.0
"""Cells are re-run for variables that could not be saved if they took no longer than this."""


def last_with_snapshot(not_saved: Sequence[Collection[str] | None], count: int) -> int:
    """The last of the first ``count`` cells that has a snapshot after it; 0: none."""
    while count and not_saved[count - 1] is None:
        count -= 1
    return count


def last_with_names(not_saved: Sequence[Collection[str] | None], count: int, names: Collection[str]) -> int:
    """The last of the first ``count`` cells whose snapshot has all of ``names``: the cells after it re-create them.

    Args:
        count: 0, or a cell with a snapshot.
    """
    while count and not set(names).isdisjoint(not_saved[count - 1] or ()):
        count = last_with_snapshot(not_saved, count - 1)
    return count
