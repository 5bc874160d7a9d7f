"""Files at the speed of the disk: past the page cache where the file system allows it.

Writing a gigabyte through the page cache costs a second of CPU and pushes out what the training reads; with O_DIRECT
the disk takes it from the arena itself. Source: open(2), O_DIRECT: memory, offset and length in whole blocks.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from pathlib import Path

from qcity_nb.checkpoint.memory import PAGE, address_of

__all__ = ["DIRECT_BYTES", "Sink", "open_for_reading", "sync_data"]

DIRECT_BYTES = 4 << 20
"""Smaller files go through the page cache: there it is the faster way."""
_PIECE = 8 << 20
"""Bytes of one write. Larger ones are no faster; several in flight are not needed on one disk."""
_O_DIRECT = getattr(os, "O_DIRECT", 0)


class Sink:
    """An open file, written from its beginning to its end."""

    def __init__(self, descriptor: int, *, size: int) -> None:
        """Take over writing to ``descriptor``; ``size`` is about how much it will be."""
        self._descriptor = descriptor
        self._is_direct = False
        self.position = 0
        """Bytes so far."""
        if _O_DIRECT and size >= DIRECT_BYTES:
            self._is_direct = self._set_direct(on=True)
        self._stage = mmap.mmap(-1, _PIECE) if self._is_direct else None
        self._staged = bytearray() if not self._is_direct else b""
        self._count = 0
        self._written = 0

    def _set_direct(self, *, on: bool) -> bool:
        import fcntl

        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | _O_DIRECT if on else flags & ~_O_DIRECT)
        except OSError:
            return False  # tmpfs and some network file systems have no such thing
        return True

    def _out(self, data: memoryview) -> None:
        while len(data):
            try:
                count = os.pwrite(self._descriptor, data[:_PIECE], self._written)
            except OSError as error:
                if not self._is_direct or error.errno != errno.EINVAL:
                    raise
                # Set without complaint, refused at the first write: larger blocks than a page, or none at all.
                self._is_direct = False
                self._set_direct(on=False)
                continue
            self._written += count
            data = data[count:]
            if self._is_direct and count % PAGE:  # a short write: the disk is nearly full, and says so next
                self._is_direct = False
                self._set_direct(on=False)

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        self.position += len(data)
        if self._stage is None:
            assert isinstance(self._staged, bytearray)
            if len(data) < 1 << 20:
                self._staged += data
                if len(self._staged) < 1 << 22:
                    return
                data = memoryview(b"")
            held, self._staged = self._staged, bytearray()
            self._out(memoryview(held))
            self._out(data)
            return
        if not self._count and len(data) >= PAGE and address_of(data) % PAGE == 0:
            whole = len(data) - len(data) % PAGE
            self._out(data[:whole])
            data = data[whole:]
        while len(data):
            part = data[: _PIECE - self._count]
            self._stage[self._count : self._count + len(part)] = part
            self._count += len(part)
            data = data[len(part) :]
            if self._count == _PIECE:
                self._drain()

    def _drain(self) -> None:
        assert self._stage is not None
        with memoryview(self._stage) as stage:
            self._out(stage[: self._count])
        self._count = 0

    def pad(self, to: int) -> None:
        """Zeros up to the next multiple."""
        if gap := -self.position % to:
            self.write(memoryview(bytes(gap)))

    def align(self) -> None:
        """Zeros up to a page's beginning, where a write past the page cache may start."""
        if self._stage is not None:
            self.pad(PAGE)
            if self._count:
                self._drain()

    def finish(self) -> None:
        """Write what is left, and put everything on the disk."""
        if self._stage is not None:
            whole = self._count - self._count % PAGE
            with memoryview(self._stage) as stage:
                self._out(stage[:whole])
                if self._is_direct:
                    self._set_direct(on=False)
                    self._is_direct = False
                self._out(stage[whole : self._count])
            self._count = 0
        elif self._staged:
            self._out(memoryview(self._staged))
            self._staged = bytearray()
        sync_data(self._descriptor)

    def close(self) -> None:
        """Give the memory back; the descriptor stays its owner's."""
        if self._stage is not None:
            with contextlib.suppress(BufferError):
                self._stage.close()


def sync_data(descriptor: int) -> None:
    """Put a file's bytes, and the size that leads to them, on the disk."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def open_for_reading(path: Path, *, size: int) -> tuple[int, bool]:
    """A descriptor, and whether it goes past the page cache (then: whole pages at pages' beginnings).

    Raises:
        OSError: the file is not there, or not readable.
    """
    if _O_DIRECT and size >= DIRECT_BYTES:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _O_DIRECT)
            try:
                probe = mmap.mmap(-1, PAGE)
                os.preadv(descriptor, [probe], 0)
                probe.close()
                return descriptor, True
            except OSError:
                os.close(descriptor)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe under a pack's name must not wait
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor, False
