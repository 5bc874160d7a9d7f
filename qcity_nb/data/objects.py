"""Content by its md5: located in directories with DVC's layout, and copied out with its md5 checked."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from qcity_nb.errors import DataError

__all__ = ["Mismatch", "copy", "listing", "locate", "md5_of"]

_CHUNK_BYTES = 1 << 20
_part = itertools.count()

# A copied file gets a modification time this far in the past, so that any later edit has a newer one, however
# coarse the file system's clock is (2 s on FAT); ``verified`` relies on it.
_BACKDATE_NS = 3_000_000_000


class Mismatch(Exception):
    """A stored object whose bytes do not have the md5 in its name; ``actual`` is the md5 that they have."""

    def __init__(self, place: Path, actual: str) -> None:
        super().__init__(f"{place} has md5 {actual}")
        self.place = place
        self.actual = actual


def md5_of(file: Path) -> str:
    """The md5 of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def locate(directories: Sequence[Path], md5: str, suffix: str = "") -> list[Path]:
    """The places that hold an object, best first."""
    name = f"files/md5/{md5[:2]}/{md5[2:]}{suffix}"
    return [place for directory in directories if (place := directory / name).is_file()]


def copy(source: Path, target: Path, *, md5: str, parts: Path, on_bytes: Callable[[int], None]) -> None:
    """Copy ``source`` to ``target``, which appears complete and with this md5, or not at all.

    Args:
        parts: a folder for the file while it is incomplete.
        on_bytes: called with the number of bytes of each piece that was copied.
    Raises:
        Mismatch: the source has another md5.
        OSError: the source cannot be read, or the target cannot be written.
    Does not: sync the file to the disk. After a power failure it may have a wrong md5; it is then fetched again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    parts.mkdir(parents=True, exist_ok=True)
    name = f"{os.getpid()}-{next(_part)}.part"
    # A rename is atomic only within one file system.
    same = parts.stat().st_dev == target.parent.stat().st_dev
    part = parts / name if same else target.parent / f".{target.name}.{name}"
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with source.open("rb") as reader, part.open("wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                digest.update(chunk)
                writer.write(chunk)
                on_bytes(len(chunk))
        if digest.hexdigest() != md5:
            raise Mismatch(source, digest.hexdigest())
        now_ns = time.time_ns()
        os.utime(part, ns=(now_ns, now_ns - _BACKDATE_NS))
        part.replace(target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def listing(data: bytes, *, name: str) -> dict[str, str]:
    """The md5 of each file of a tracked directory, by relative path, from its ``.dir`` object.

    Raises:
        DataError: it is not such a listing, or a path leaves the directory.
    """
    try:
        entries = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(data)}
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{name}: its listing is not one that DVC writes") from None
    for path in entries:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or path != pure.as_posix() or "\\" in path:
            raise DataError(f"{name}: its listing has the path {path!r}, which leaves the directory")
    return entries
