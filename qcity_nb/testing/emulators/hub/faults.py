"""Switches that make the emulator fail as a Hub may, and hooks that tell a test where a request is."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["COUNTED", "EVENTS", "Faults", "VALUED"]

log = logging.getLogger(__name__)

COUNTED: dict[str, str] = {
    "commit-lost": "a commit lands, and the connection is dropped without a reply",
    "commit-500": "a commit lands, and the answer is 500",
    "commit-500-before": "a commit is answered with 500 and does not land",
    "commit-412": "a commit is answered with 412 though its parent is the tip of the branch",
    "rate-429": "a call is answered with 429 and the headers of a spent rate limit",
    "error-500": "a call is answered with 500",
    "upload-cut": "an upload's connection is dropped half way",
    "stale-read": "a read of a branch answers as of the commit before",
    "storage-full": "a commit or an LFS batch is answered with 403 for want of storage",
    "credit": "starting a job is answered with 402: there is no credit",
    "credit-out": "a running job is ended for want of credit",
    "evict": "a running job's machine is taken away",
    "job-lost": "a job starts, and the connection is dropped without a reply",
    "jobs-down": "a call about jobs is answered with 503",
    "down": "a connection is dropped before a request is read",
}
"""Faults whose number says how often they strike."""

VALUED: dict[str, str] = {
    "upload-slow": "uploads are read at so many bytes a second",
    "commit-slow": "a commit lands, and is answered so many seconds later",
}
"""Faults whose number is a rate or a time; they strike until cleared, or ``times`` times."""

EVENTS = ("upload.begin", "upload.half", "commit.begin", "commit.landed")


@dataclass(slots=True)
class _Switch:
    left: int | None  # None: until cleared
    value: float
    kind: str | None


class Faults:
    """Which faults strike next. Any thread may set, clear and ask.

    Attributes:
        struck: the names of the faults that struck, in order.
        retry_s: after how many seconds a 429 asks to come again.
    """

    def __init__(self) -> None:
        self.struck: list[str] = []
        self.retry_s = 1
        self._switches: dict[str, list[_Switch]] = {}
        self._hooks: dict[str, list[Callable[..., None]]] = {}
        self._lock = threading.Lock()

    def set(self, name: str, number: float = 1, *, times: int | None = None, kind: str | None = None) -> None:
        """Switch a fault on.

        Args:
            name: a key of ``COUNTED`` or ``VALUED``.
            number: how often a counted fault strikes (``inf``: until cleared); the value of another.
            times: how often a valued fault strikes; None: until cleared.
            kind: only requests of this kind of route (``web.Kind``).
        """
        if name not in COUNTED and name not in VALUED:
            raise ValueError(f"no fault is called {name!r}; there are {', '.join([*COUNTED, *VALUED])}")
        if not number > 0:
            raise ValueError(f"{name}: the number must be above 0")
        if name in COUNTED:
            switch = _Switch(None if number == float("inf") else math.ceil(number), number, kind)
        else:
            switch = _Switch(times, number, kind)
        with self._lock:
            self._switches.setdefault(name, []).append(switch)

    def clear(self, name: str | None = None) -> None:
        """Switch one fault off, or all. Hooks stay."""
        with self._lock:
            if name is None:
                self._switches.clear()
            else:
                self._switches.pop(name, None)

    def reset(self) -> None:
        """Switch all faults off, take all hooks away, forget what struck."""
        with self._lock:
            self._switches.clear()
            self._hooks.clear()
            self.struck.clear()

    def is_set(self, name: str) -> bool:
        """Whether the fault would strike some request."""
        with self._lock:
            return bool(self._switches.get(name))

    def strike(self, name: str, kind: str = "", *, only: bool = False) -> float | None:
        """The fault's number if it strikes now, which uses it up by one; else None.

        Args:
            only: ignore a switch for any kind of route.
        """
        with self._lock:
            switches = self._switches.get(name, [])
            switch = next((each for each in switches if each.kind == kind or (each.kind is None and not only)), None)
            if switch is None:
                return None
            if switch.left is not None:
                switch.left -= 1
                if not switch.left:
                    switches.remove(switch)
            self.struck.append(name)
        log.info("hub emulator: the fault %s strikes", name)
        return switch.value

    def on(self, event: str, hook: Callable[..., None]) -> Callable[[], None]:
        """Call ``hook(**facts)`` in the request's own thread at each ``event``; what it raises ends the request.

        Returns: call it to take the hook away.
        """
        if event not in EVENTS:
            raise ValueError(f"no event is called {event!r}; there are {', '.join(EVENTS)}")
        with self._lock:
            self._hooks.setdefault(event, []).append(hook)

        def remove() -> None:
            with self._lock:
                if hook in self._hooks.get(event, []):
                    self._hooks[event].remove(hook)

        return remove

    def fire(self, event: str, **details: Any) -> None:
        """Call the hooks of ``event``."""
        with self._lock:
            hooks = list(self._hooks.get(event, ()))
        for hook in hooks:
            hook(**details)
