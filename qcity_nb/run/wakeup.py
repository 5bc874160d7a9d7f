"""A wakeup: a process sleeps until a file comes into a directory, or another process ends.

    wakeup = Wakeup(owner.pid, [mailbox.path / "requests"])
    wakeup.wait(1.0)

Polling ten times a second costs a good part of a CPU millisecond each time. Linux notifies instead (inotify, pidfd).
A wakeup is only a reason to look: it may come for nothing. Where the system cannot notify, it comes every ``POLL_S``.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterable
from pathlib import Path

__all__ = ["POLL_S", "Wakeup"]

POLL_S = 0.1
"""How often ``wait`` returns where the system does not notify."""
_MOVED_TO = 0x80
"""A file was renamed to a name in the directory, as every file of a mailbox is (inotify(7))."""


def _inotify(folders: Iterable[Path]) -> int:
    """A descriptor that becomes readable once a file has been renamed into one of the directories.

    Raises:
        OSError: no such system call, no such directory, or the user's limit of watches is reached.
    """
    import ctypes  # slow to import, and only a sidecar needs it

    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "inotify_init1"):
        raise OSError("no inotify")
    handle = int(library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if handle < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    for folder in folders:
        if library.inotify_add_watch(handle, os.fsencode(folder), _MOVED_TO) < 0:
            os.close(handle)
            raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
    return handle


class Wakeup:
    """See the module. One thread waits; any thread may wake it.

    Args:
        pid: the process whose end wakes.
        folders: directories that already exist.
    """

    def __init__(self, pid: int, folders: Iterable[Path]) -> None:
        self._files = -1
        self._process = -1
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        with contextlib.suppress(OSError, AttributeError):
            self._files = _inotify(folders)
            self._process = os.pidfd_open(pid)
        self._poll = select.poll()
        for handle in (self._read, self._files, self._process):
            if handle >= 0:
                self._poll.register(handle, select.POLLIN)

    @property
    def is_notified(self) -> bool:
        """Does the system notify of everything, so that there is no need to look often?"""
        return self._files >= 0 and self._process >= 0

    def ring(self) -> None:
        """Wake the thread that waits. Never blocks."""
        with contextlib.suppress(OSError):  # full: a wakeup is already pending
            os.write(self._write, b"!")

    def wait(self, timeout_s: float) -> None:
        """Sleep until woken, at most ``timeout_s`` seconds."""
        timeout_s = timeout_s if self.is_notified else min(timeout_s, POLL_S)
        for handle, _ in self._poll.poll(max(0.0, timeout_s) * 1000):
            if handle == self._process:
                # It stays readable. The caller sees that the process is gone; if it does not, this is no busy loop.
                time.sleep(0.001)
                continue
            with contextlib.suppress(OSError):
                while len(os.read(handle, 4096)) == 4096:
                    pass

    def close(self) -> None:
        """Close the descriptors."""
        for handle in (self._read, self._write, self._files, self._process):
            if handle >= 0:
                os.close(handle)
        self._files = self._process = -1
