"""Time: one wall clock for people, one monotonic clock for leases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

__all__ = ["Clock", "SystemClock", "iso_now", "within"]

T = TypeVar("T")

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


def within(limit_s: float, call: Callable[[], T], *, name: str) -> T:
    """What ``call`` returns or raises, if it does so in time: for libraries that wait for ever.

    Args:
        name: of the thread that it runs in.
    Raises:
        TimeoutError: it has not. It goes on in its thread, and nobody hears what comes of it.
    """
    box: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            box.append(call())
        except BaseException as error:  # noqa: BLE001  # raised again where it was called
            raised.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(limit_s)
    if raised:
        raise raised[0]
    if not box:
        raise TimeoutError(f"no answer in {limit_s:.0f} s")
    return box[0]


def iso_now() -> str:
    """The wall clock in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
