"""The state of processes on this machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_alive", "process_state", "start_time"]


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/<pid>/stat after the name; empty if there is no such process.

    Read with bare system calls: supervision does it several times a second, and file objects cost three times as much.
    """
    try:
        handle = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return []
    try:
        return os.read(handle, 4096).rpartition(b")")[2].split()
    except ProcessLookupError:
        return []
    finally:
        os.close(handle)


def process_state(pid: int) -> str:
    """The kernel's letter for a process (R, S, T, Z, …); empty if there is none.

    Linux reads /proc; elsewhere a process that exists counts as running.
    """
    if fields := _stat(pid):
        return fields[0].decode("ascii", errors="replace")
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "R"
    return "R"


def start_time(pid: int) -> int:
    """When the process began, in the kernel's ticks; pid and start time together name one process only. 0: unknown."""
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def is_alive(pid: int, started: int = 0) -> bool:
    """Does that very process exist and run? A zombie does not."""
    if fields := _stat(pid):
        return fields[0] not in (b"Z", b"X") and (not started or int(fields[19]) == started)
    return process_state(pid) not in ("", "Z", "X")
