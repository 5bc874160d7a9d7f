"""A clock that moves only when a test moves it."""

from __future__ import annotations

__all__ = ["ManualClock"]


class ManualClock:
    """For leases, observers and the memory store: ``sleep`` and ``advance`` move it, nothing else does."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        """See ``clock.Clock``."""
        return self._now_s

    def wall_ms(self) -> int:
        """See ``clock.Clock``; the same time as ``now_s``."""
        return int(self._now_s * 1000)

    def sleep(self, wait_s: float) -> None:
        """Move on by ``wait_s`` seconds, at once."""
        self.advance(wait_s)

    def advance(self, by_s: float) -> None:
        """Move on by ``by_s`` seconds."""
        if by_s < 0:
            raise ValueError("time does not go back")
        self._now_s += by_s
