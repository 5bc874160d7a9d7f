"""Which finished cells run again to make variables that cannot be saved.

``absent`` says it by cell: the variables that are not in the snapshot behind it, None where there is no snapshot.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["RERUN_S", "last_with_names", "last_with_snapshot"]

RERUN_S = 60.0
"""Cells that made what cannot be saved run again if they took no longer than this."""


def last_with_snapshot(not_saved: Sequence[Collection[str] | None], count: int) -> int:
    """The last of the first ``count`` cells with a snapshot behind it; 0: none."""
    while count and not_saved[count - 1] is None:
        count -= 1
    return count


def last_with_names(not_saved: Sequence[Collection[str] | None], count: int, names: Collection[str]) -> int:
    """The last of the first ``count`` cells whose snapshot lacks none of ``names``: what follows it makes them again.

    Args:
        count: 0, or a cell with a snapshot.
    """
    while count and not set(names).isdisjoint(not_saved[count - 1] or ()):
        count = last_with_snapshot(not_saved, count - 1)
    return count
