"""Can this directory keep the promises of a store? Tested once, before anything depends on it."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from pathlib import Path

from qcity_nb.errors import StoreError, StoreRefused, StoreUnavailable

__all__ = ["MARKER", "probe", "translate"]

MARKER = "probed"
"""File in the store's root: the machine and device on which the probe last succeeded."""

# What no retry can fix. Everything else may be a temporary fault of a disk or a network.
_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "the operation is not permitted",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "a file is in the way",
    errno.ENAMETOOLONG: "the path is too long",
}


def translate(error: OSError, doing: str, root: Path) -> StoreError:
    """The store error for an error of the file system.

    Only for steps before the run record is linked: after that, any error means *outcome unknown*.
    """
    reason = _REFUSALS.get(error.errno or 0)
    if reason is not None:
        return StoreRefused(f"store {root}: {doing} failed: {reason}; fix that, or use another store")
    return StoreUnavailable(f"store {root}: {doing} failed: {error.strerror or error}")


def probe(root: Path) -> None:
    """Make the store's directories, and check that a hard link is made at most once and that fsync works.

    Success is recorded in ``MARKER``, for this machine and device: elsewhere the same directory may be mounted in a
    way that cannot do this (a synchronised drive copies the marker too).

    Raises:
        StoreRefused: the message names the reason, and what to use instead.
    """
    marker = root / MARKER
    doing = "creating the directory"
    try:
        root.mkdir(parents=True, exist_ok=True)
        stamp = f"{platform.node()} {root.stat().st_dev}\n"
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            if marker.read_text(encoding="utf-8") == stamp:
                return
        for folder in ("runs", "tmp"):
            (root / folder).mkdir(exist_ok=True)
        doing = "writing a file"
        name = f"probe-{platform.node()}-{os.getpid()}-{os.urandom(4).hex()}"
        first, second = root / "tmp" / name, root / "tmp" / f"{name}-link"
        try:
            _probe_links(root, first, second)
        finally:
            for path in (first, second):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        doing = "writing a file"
        marker.write_text(stamp, encoding="utf-8")
    except OSError as error:
        raise translate(error, doing, root) from None


def _probe_links(root: Path, first: Path, second: Path) -> None:
    with first.open("xb") as file:
        file.write(b"probe")
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno in _REFUSALS:
                raise
            raise _refuse(root, f"fsync fails ({error.strerror})") from None
    try:
        os.link(first, second)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise _refuse(root, f"hard links cannot be made ({error.strerror})") from None
    if first.stat().st_ino != second.stat().st_ino or second.read_bytes() != b"probe":
        raise _refuse(root, "a hard link is a copy here")
    try:
        os.link(first, second)
    except FileExistsError:
        pass
    except OSError as error:
        raise _refuse(root, f"a second hard link of one name fails with {error.strerror!r}") from None
    else:
        raise _refuse(root, "a hard link replaces a file that exists")
    folder = os.open(first.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        raise _refuse(root, f"fsync of a directory fails ({error.strerror})") from None
    finally:
        os.close(folder)


def _refuse(root: Path, reason: str) -> StoreRefused:
    return StoreRefused(
        f"{root} cannot be a store: {reason}, so two writers could both win; mounted drives and buckets are "
        "like that: use a directory on a local disk, or an hf:// store"
    )
