"""What is the same in every store: valid run ids and object names, and how an object becomes a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from qcity_nb.errors import UsageError

__all__ = ["MAX_LENGTH", "check_name", "check_run", "place"]

MAX_LENGTH = 200
_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def check_run(run: str) -> str:
    """``run``, if it may be a run id (``ports.Store``).

    Raises:
        UsageError: it may not; the message shows it.
    """
    return _check(run, "a run id")


def check_name(name: str) -> str:
    """``name``, if it may be an object's name (``ports.Store``).

    Raises:
        UsageError: it may not; the message shows it.
    """
    return _check(name, "an object's name")


def _check(text: str, what: str) -> str:
    if len(text) > MAX_LENGTH or _PATH.fullmatch(text) is None:
        shown = text if len(text) <= MAX_LENGTH else text[:40] + "…"
        raise UsageError(
            f"{shown!r} is not {what}: up to {MAX_LENGTH} characters A-Z a-z 0-9 . _ - in segments separated "
            "by /, none of which is empty or starts with a dot"
        )
    return text


def place(path: Path, content: bytes) -> None:
    """Write ``content`` to the file ``path``, completely or not at all.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
