"""Time: one wall clock for people, one monotonic clock for leases."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock", "iso_now"]

# CLOCK_MONOTONIC stands still while a laptop sleeps, and a lease must not; Linux has BOOTTIME.
_LEASE_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 0))


class Clock(Protocol):
    """What the protocol needs of time; tests inject their own."""

    def now_s(self) -> float:
        """Seconds that only grow and count sleep; comparable on one machine only."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC, for people and for metric timestamps."""

    def sleep(self, wait_s: float) -> None:
        """Return after about ``wait_s`` seconds."""


class SystemClock:
    """The machine's own clocks."""

    def now_s(self) -> float:
        """Seconds on CLOCK_BOOTTIME where there is one."""
        return time.clock_gettime(_LEASE_CLOCK)

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000

    def sleep(self, wait_s: float) -> None:
        """Sleep."""
        time.sleep(wait_s)


def iso_now() -> str:
    """The wall clock in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
