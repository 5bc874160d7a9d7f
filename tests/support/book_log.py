"""What a cell of a book calls first: it notes that it ran, and leaves nothing in the notebook's namespace.

    __import__("book_log").ran(3)

A line of the file that ``BOOK_LOG`` names is ``cell pid seconds``; the seconds are this machine's monotonic clock.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CellStart", "read_log", "ran"]


@dataclass(frozen=True, slots=True)
class CellStart:
    """A cell began."""

    cell: int
    pid: int
    at_s: float


def ran(cell: int) -> None:
    """Note that a cell begins: one write, so that lines of several kernels do not mix."""
    path = os.environ.get("BOOK_LOG", "")
    if not path:
        return
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{cell} {os.getpid()} {time.monotonic()!r}\n".encode())
    finally:
        os.close(handle)


def read_log(path: Path) -> list[CellStart]:
    """All that a file holds, oldest first."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []
    return [CellStart(int(cell), int(pid), float(at_s)) for cell, pid, at_s in (line.split() for line in lines)]
