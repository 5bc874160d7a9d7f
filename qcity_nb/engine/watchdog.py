"""Watches over the attempt while cells run: a lost lease, a stop, a dead sidecar."""

from __future__ import annotations

import os
import signal
import threading
import time

from qcity_nb.engine.attempt_context import AttemptContext
from qcity_nb.run.mailbox import Status
from qcity_nb.run.processes import is_alive
from qcity_nb.sidecar import start as sidecar

__all__ = ["Watchdog"]

WATCHDOG_S = 0.5


class Watchdog(threading.Thread):
    """Interrupts the kernel when the lease is lost, or when no boundary follows a stop in time."""

    def __init__(self, context: AttemptContext, kernel_pid: int) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._context = context
        self._pid = kernel_pid
        self._end = threading.Event()

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def run(self) -> None:
        """Watch until the cells have ended."""
        since_s: float | None = None
        seen: tuple[int, int] | None = None
        status = Status()
        while not self._end.wait(WATCHDOG_S):
            if (version := self._context.mailbox.version()) != seen:
                seen, status = version, self._context.mailbox.status()
            if status.state == "held" and status.pid and not is_alive(status.pid):
                sidecar.spawn(sidecar.respawn(self._context.config))
                self._end.wait(2.0)
                continue
            if not (status.state == "lost" or status.stop):
                continue
            now = time.monotonic()
            since_s = since_s if since_s is not None else now
            patience_s = 1.0 if status.state == "lost" else self._context.grace_s
            if now - since_s >= patience_s and is_alive(self._pid):
                # No loop ended by itself: cells that make no call of qcity are interrupted.
                os.kill(self._pid, signal.SIGINT)
                since_s = now
