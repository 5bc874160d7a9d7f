"""The local directory: whose it is, and who else may write to it. What lies there is unpickled.

prepare(local_dir)    at the start of an attempt; commands that only read never call it
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from qcity_nb.errors import UsageError

__all__ = ["PRIVATE", "find_problem", "prepare"]

PRIVATE = ("runs", "attempts")
"""The folders that only this user may write to: local checkpoints, and the mailboxes of attempts."""


def prepare(local_dir: Path) -> None:
    """Make the local directory and its folders, writable for this user alone whatever the umask.

    Raises:
        UsageError: another user could put checkpoints there; the message says what to do.
        OSError: it cannot be made.
    """
    local_dir.parent.mkdir(parents=True, exist_ok=True)
    for folder in (local_dir, *(local_dir / name for name in PRIVATE)):
        folder.mkdir(mode=0o700, exist_ok=True)
    if problem := find_problem(local_dir):
        raise UsageError(problem)


def find_problem(local_dir: Path) -> str:
    """What lets another user put checkpoints there, and what to do, in one line; empty if there is nothing."""
    user = os.getuid()
    mode = local_dir.stat()
    if mode.st_uid not in (user, 0):
        return _describe(local_dir, "belongs to another user", f"chown {user}")
    if mode.st_mode & stat.S_IWOTH and not mode.st_mode & stat.S_ISVTX:
        return _describe(local_dir, "can be written by every user", "chmod o-w")
    for folder in (local_dir / name for name in PRIVATE):
        # A link is as safe as the directory that it leads to, if its owner is.
        for entry in (folder.lstat(), folder.stat()) if folder.exists() else ():
            if entry.st_uid != user:
                return _describe(folder, "belongs to another user", f"chown -R {user}")
            if not stat.S_ISLNK(entry.st_mode) and entry.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return _describe(folder, "can be written by other users", "chmod go-w")
    return ""


def _describe(path: Path, problem: str, command: str) -> str:
    return (
        f"{path} {problem}, who could put checkpoints there that this user then unpickles: if you trust what is "
        f"in it, run `{command} {shlex.quote(str(path))}`; else set another `local_dir`"
    )
