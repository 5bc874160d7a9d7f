"""Files at the speed of the disk: without the page cache if the file system allows it.

Writing a gigabyte through the page cache costs a second of CPU and evicts what the training reads. With O_DIRECT the
disk reads from the arena itself. Source: open(2), O_DIRECT: memory, offset and length must be whole blocks.
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
"""Smaller files go through the page cache, which is faster for them."""
_PIECE = 8 << 20
"""Bytes of one write. Larger writes are not faster; one disk does not need several at once."""
_O_DIRECT = getattr(os, "O_DIRECT", 0)


class Sink:
    """An open file, written from its beginning to its end."""

    def __init__(self, descriptor: int, *, size: int) -> None:
        """Write to ``descriptor``; ``size`` is about how many bytes that will be."""
        self._descriptor = descriptor
        self._is_direct = False
        self.position = 0
        """Bytes written so far."""
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
            return False  # tmpfs and some network file systems do not support it
        return True

    def _out(self, data: memoryview) -> None:
        while len(data):
            try:
                count = os.pwrite(self._descriptor, data[:_PIECE], self._written)
            except OSError as error:
                if not self._is_direct or error.errno != errno.EINVAL:
                    raise
                # The flag was accepted and the first write refused: blocks larger than a page, or no direct I/O at all.
                self._is_direct = False
                self._set_direct(on=False)
                continue
            self._written += count
            data = data[count:]
            if self._is_direct and count % PAGE:  # a short write: the disk is nearly full, the next write fails
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
        """Write zeros up to the next multiple of ``to``."""
        if gap := -self.position % to:
            self.write(memoryview(bytes(gap)))

    def align(self) -> None:
        """Write zeros up to the beginning of a page, where a direct write may start."""
        if self._stage is not None:
            self.pad(PAGE)
            if self._count:
                self._drain()

    def finish(self) -> None:
        """Write the rest, and sync everything to the disk."""
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
        """Free the memory; closing the descriptor is up to its owner."""
        if self._stage is not None:
            with contextlib.suppress(BufferError):
                self._stage.close()


def sync_data(descriptor: int) -> None:
    """Sync a file's bytes and its size to the disk."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def open_for_reading(path: Path, *, size: int) -> tuple[int, bool]:
    """A descriptor, and whether it uses direct I/O (then only whole, aligned pages can be read).

    Raises:
        OSError: the file does not exist, or cannot be read.
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
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe that has a pack's name must not block
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor, False
