"""The cells that closures share their variables in."""

from __future__ import annotations

import types

__all__ = ["is_full"]


def is_full(cell: types.CellType) -> bool:
    """Has its variable been bound, and not been deleted?"""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
