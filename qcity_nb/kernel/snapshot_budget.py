"""How much of the cells' time their snapshots may take: it is saved up, and spent where it is worth it."""

from __future__ import annotations

import math

__all__ = ["Allowance", "describe_postponed"]

START_S = 0.05
"""What there is before the first cell: small variables are saved behind each cell of a notebook that has just begun."""
WORTH = 0.25
"""A snapshot may take so much of what its cells would take if they ran again: most notebooks do not die …"""
LEAST_S = 0.03
"""… and that is worth it behind the quickest cell."""


class Allowance:
    """A share of the time that cells took, saved up. It is spent on snapshots that cost little beside the cells that
    would have to run again without them: ``WORTH`` of what these took, or ``share`` if that is more.

    Args:
        share: 0.1 is a tenth; 0: no snapshots at all.

    Not promised: that one snapshot stays within it, for the copy of large arrays cannot be given up half-way. Those
    after it wait until the cells have made up for that.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._left_s = START_S if share else -math.inf
        self._needs_s = 0.0
        self._unsaved_s = 0.0
        """What the cells took that no snapshot stands behind."""
        self.is_waiting = False
        """Was the newest snapshot postponed?"""

    @property
    def limit_s(self) -> float:
        """What the next snapshot may take; 0: it is postponed."""
        worth_s = math.inf if math.isinf(self._share) else max(LEAST_S, self._unsaved_s * max(WORTH, self._share))
        limit_s = min(self._left_s, worth_s)
        return limit_s if limit_s > 0 and limit_s >= self._needs_s else 0.0

    def add_run(self, wall_s: float) -> None:
        """A cell took so long."""
        self._unsaved_s += wall_s
        if self._share:
            self._left_s += self._share * wall_s

    def subtract_cost(self, cost_s: float) -> None:
        """A snapshot was taken."""
        self._left_s -= cost_s
        self._needs_s = self._unsaved_s = 0.0
        self.is_waiting = False

    def note_postponed(self, needs_s: float, cost_s: float = 0.0) -> None:
        """None was taken: it needs more time than there was. Finding that out took ``cost_s``."""
        self._left_s -= cost_s
        self._needs_s = max(needs_s, self._needs_s)
        self.is_waiting = True


def describe_postponed(needs_s: float) -> str:
    """Snapshots wait, in words."""
    return f"a snapshot takes {needs_s:.2f} s or more: it waits for cells that take longer"
