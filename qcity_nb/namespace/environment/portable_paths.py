"""Paths as a snapshot stores them: relative to the project if inside it, so that they work on another host."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

__all__ = ["to_portable", "resolve"]


def to_portable(path: Path, root: Path) -> str:
    """The path relative to ``root`` with forward slashes if it is inside, else absolute."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - links inside the root are kept
    if whole.is_relative_to(root):
        return whole.relative_to(root).as_posix()
    if whole.resolve().is_relative_to(root):
        return whole.resolve().relative_to(root).as_posix()
    return str(whole)


def resolve(text: str, root: Path) -> Path:
    """The path on this host, from what ``to_portable`` returned."""
    return Path(text) if Path(text).is_absolute() else root / PurePosixPath(text)
