"""The budget for snapshots: a share of the cells' time, which accumulates and is spent if a snapshot is worth it."""

from __future__ import annotations

import math

__all__ = ["SnapshotBudget", "describe_postponed"]

START_S = 0.05
"""The budget before the first cell, so that small variables are saved after each of the first cells."""
WORTH = 0.25
"""A snapshot may take this share of what re-running its cells would take: most notebooks do not die …"""
LEAST_S = 0.03
"""… and this many seconds are allowed after even the quickest cell."""


class SnapshotBudget:
    """Accumulates a share of the cells' time. It is spent on snapshots that cost little compared with the cells that
    would have to be re-run without them: at most ``WORTH`` of what these took, or ``share`` if that is more.

    Args:
        share: 0.1 is a tenth; 0: no snapshots at all.

    Does not promise that one snapshot stays within the budget, because a copy of large arrays cannot be cut off. The
    next ones then wait until the cells have made up for it.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._left_s = START_S if share else -math.inf
        self._needs_s = 0.0
        self._unsaved_s = 0.0
        """How long the cells took that have no snapshot after them."""
        self.is_waiting = False
        """Whether the newest snapshot was postponed."""

    @property
    def limit_s(self) -> float:
        """How long the next snapshot may take; 0: it is postponed."""
        worth_s = math.inf if math.isinf(self._share) else max(LEAST_S, self._unsaved_s * max(WORTH, self._share))
        limit_s = min(self._left_s, worth_s)
        return limit_s if limit_s > 0 and limit_s >= self._needs_s else 0.0

    def add_run(self, wall_s: float) -> None:
        """Add a cell's time."""
        self._unsaved_s += wall_s
        if self._share:
            self._left_s += self._share * wall_s

    def subtract_cost(self, cost_s: float) -> None:
        """Pay for a snapshot that was taken."""
        self._left_s -= cost_s
        self._needs_s = self._unsaved_s = 0.0
        self.is_waiting = False

    def note_postponed(self, needs_s: float, cost_s: float = 0.0) -> None:
        """Note that no snapshot was taken, since it needs more than the budget. To find that out took ``cost_s``."""
        self._left_s -= cost_s
        self._needs_s = max(needs_s, self._needs_s)
        self.is_waiting = True


def describe_postponed(needs_s: float) -> str:
    """The message that snapshots are postponed."""
    return f"a snapshot takes {needs_s:.2f} s or more: it waits for cells that take longer"
