"""When a background process that has died is started again: at once, later with growing pauses, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["LIMIT", "Respawns"]

PAUSE_S = 1.0
"""The first pause. Each further one is twice as long."""
LONGEST_S = 60.0
LIMIT = 8
"""After so many starts in a row, which take four minutes, another one will not help."""
CALM_S = 300.0
"""A process that lived so long has not died of what the one before it died of."""


class Respawns:
    """Counts the starts of one process.

    Args:
        now_s: seconds of a steady clock.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._last_s = float("-inf")
        self._count = 0

    @property
    def is_hopeless(self) -> bool:
        """Was it started too often?"""
        return self._count > LIMIT

    def is_due(self) -> bool:
        """May it be started now? Then that counts as a start."""
        since_s = self._now_s() - self._last_s
        if since_s > CALM_S:
            self._count = 0
        elif since_s < min(PAUSE_S * 2 ** (self._count - 1), LONGEST_S):
            return False
        self._count += 1
        self._last_s = self._now_s()
        return True
