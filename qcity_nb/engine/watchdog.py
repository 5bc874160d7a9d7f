"""Watches over the attempt while cells run: a lost lease, a stop, a dead sidecar."""

from __future__ import annotations

import os
import signal
import threading
import time

from qcity_nb.engine.attempt_context import AttemptContext
from qcity_nb.run.mailbox import Status
from qcity_nb.run.processes import is_alive
from qcity_nb.run.respawns import Respawns
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
        self._respawns = Respawns()

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def _respawn(self) -> None:
        """Start another sidecar. If that was in vain too often, the attempt ends, as if its host had died."""
        if not self._respawns.is_due():
            return
        if self._respawns.is_hopeless:
            log = self._context.mailbox.log
            self._context.note("trouble", message=f"qcity's background process dies again and again; its log: {log}")
            os.kill(self._pid, signal.SIGKILL)
            return
        sidecar.spawn(sidecar.respawn(self._context.config))

    def run(self) -> None:
        """Watch until the cells have ended."""
        since_s: float | None = None
        seen: tuple[int, int] | None = None
        status = Status()
        while not self._end.wait(WATCHDOG_S):
            if (version := self._context.mailbox.version()) != seen:
                seen, status = version, self._context.mailbox.status()
            if status.state == "held" and status.pid and not is_alive(status.pid):
                self._respawn()
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
