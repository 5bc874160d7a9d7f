"""Paths as a snapshot tells them: below the project relative to it, so that another host finds them below its own."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

__all__ = ["to_portable", "resolve"]


def to_portable(path: Path, root: Path) -> str:
    """Below ``root`` relative to it, with forward slashes; else absolute."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - links below the root stay what they are
    if whole.is_relative_to(root):
        return whole.relative_to(root).as_posix()
    if whole.resolve().is_relative_to(root):
        return whole.resolve().relative_to(root).as_posix()
    return str(whole)


def resolve(text: str, root: Path) -> Path:
    """The path that ``told`` told, here."""
    return Path(text) if Path(text).is_absolute() else root / PurePosixPath(text)
