"""Time: one wall clock for people, one monotonic clock for leases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

__all__ = ["Clock", "SystemClock", "iso_now", "within"]

T = TypeVar("T")

# CLOCK_MONOTONIC stands still while a laptop sleeps, and lease time must not; Linux has BOOTTIME.
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


def within(limit_s: float, call: Callable[[], T], *, name: str) -> T:
    """Call with a time limit, for libraries that would wait indefinitely.

    Args:
        name: of the thread in which the call runs.
    Returns: what ``call`` returns; what it raises is raised here.
    Raises:
        TimeoutError: it took too long. It continues in its thread, and its outcome is lost.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {limit_s:.0f} s")
    return results[0]


def iso_now() -> str:
    """The wall clock in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
