"""How often a loop saves: the ``every`` argument."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from qcity_nb.errors import UsageError
from qcity_nb.settings import seconds

__all__ = ["Every", "Pace", "pace"]

Every = int | str | timedelta | None

COST_SHARE = 0.01
"""By default saving may cost this share of the loop's time."""


class Pace(Protocol):
    """Decides at each boundary."""

    is_strict: bool
    """A save is in the local tier before the loop goes on, so that no finished iteration is ever run again."""
    waits: bool
    """A save that falls due while the one before is being written waits for it; else it is passed over."""

    def is_due(self, *, iterations: int, elapsed_s: float, cost_s: float) -> bool:
        """Save now?

        Args:
            iterations: finished since the last save.
            elapsed_s: since the last save ended.
            cost_s: what the last save took of the loop's time.
        """


class _Iterations:
    def __init__(self, count: int) -> None:
        self.count = count
        self.is_strict = count == 1

    waits = True

    def is_due(self, *, iterations: int, elapsed_s: float, cost_s: float) -> bool:
        return iterations >= self.count


class _Time:
    is_strict = False
    waits = False

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s

    def is_due(self, *, iterations: int, elapsed_s: float, cost_s: float) -> bool:
        return elapsed_s >= self.wait_s


class _Share:
    is_strict = False
    waits = False

    def is_due(self, *, iterations: int, elapsed_s: float, cost_s: float) -> bool:
        return elapsed_s * COST_SHARE >= cost_s


def pace(every: Every | float) -> Pace:
    """The pace that ``every`` means: a whole number of iterations, a time, or ``None`` for 1% of the loop's time.

    Raises:
        UsageError: anything else.
    """
    if every is None:
        return _Share()
    if isinstance(every, bool):
        raise UsageError("every=True says nothing: give a number of iterations, a time such as '60s', or None")
    if isinstance(every, float):
        raise UsageError(f"every={every}: iterations are whole; a time is written as in '{every:g}s'")
    if isinstance(every, int):
        if every < 1:
            raise UsageError(f"every={every}: at least 1 iteration")
        return _Iterations(every)
    wait_s = every.total_seconds() if isinstance(every, timedelta) else seconds(every, name="every")
    if wait_s < 0:
        raise UsageError(f"every={every}: a time cannot be negative")
    return _Time(wait_s)
