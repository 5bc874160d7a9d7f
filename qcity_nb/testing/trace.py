"""The records of a trace: what was done to the files below one directory, in order (``testing.disk`` writes them)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ROOT", "Entry", "Milestone", "Node", "Operation", "Resize", "Sync", "Trace", "Write", "read_tree"]

Node = int
"""A file or directory, whatever names it has."""
ROOT: Node = 0


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes into a file."""

    node: Node
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """A file cut, or grown by zeros."""

    node: Node
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sync:
    """fsync, or fdatasync, of a file or directory."""

    node: Node
    is_data_only: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """Names of one directory that change together: a create, link, unlink, or rename within it."""

    folder: Node
    changes: tuple[tuple[str, Node | None], ...]
    """By name: what it stands for from now on; ``None``: nothing."""


@dataclass(frozen=True, slots=True)
class Milestone:
    """A text from the workload: what had been reported as done."""

    text: str


Operation = Write | Resize | Sync | Entry | Milestone


@dataclass(slots=True)
class Trace:
    """What happened, from a directory that was wholly durable."""

    files: dict[Node, bytes] = field(default_factory=dict)
    """The files that were there at the start."""
    folders: set[Node] = field(default_factory=lambda: {ROOT})
    """All directories, those made later too."""
    entries: dict[tuple[Node, str], Node] = field(default_factory=dict)
    """The names at the start."""
    operations: list[Operation] = field(default_factory=list)


def read_tree(root: Path) -> tuple[dict[str, bytes], set[str]]:
    """The files below ``root``, with their bytes, and the directories."""
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            folders.add(name)
        else:
            files[name] = path.read_bytes()
    return files, folders
