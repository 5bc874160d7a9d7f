"""Raw memory: the address of a live buffer, and the arena into which it is copied.

Nothing here depends on numpy or torch; a buffer is an address, a size and the object that keeps it alive.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcity_nb.checkpoint.buffer import Buffer

__all__ = ["PAGE", "Arena", "Span", "address_of", "available_bytes", "copy", "allocate", "view_at"]

PAGE = 4096
_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)


class _PyBuffer(ctypes.Structure):
    # Py_buffer of the C API, stable since Python 3.0.
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def address_of(data: Buffer) -> int:
    """The address of a contiguous buffer; valid as long as the caller keeps the buffer alive."""
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(buffer), 0)
    try:
        return buffer.buf or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


def view_at(address: int, size: int) -> memoryview:
    """The memory at ``address`` as writable bytes. The view does not keep it alive."""
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


_LARGE = 1 << 20
"""From this size on, writing zeros that nobody reads costs more than two calls into C."""


def allocate(size: int) -> bytearray:
    """Uninitialized bytes, to be filled before they are read; large ones begin at a page if possible.

    ``bytearray(size)`` writes zeros to fresh pages first, which takes as long as reading the content from a disk.
    Source: https://docs.python.org/3/c-api/bytearray.html: without a source, the bytes are not initialized.
    """
    if size < _LARGE:
        return bytearray(size)
    make = ctypes.pythonapi.PyByteArray_FromStringAndSize
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_char_p, ctypes.c_ssize_t)
    made: bytearray = make(None, size + PAGE)
    gap = -address_of(made) % PAGE
    del made[:gap]  # moves the beginning, copies no content
    del made[size:]
    if _HUGE is not None:
        with contextlib.suppress(AttributeError, OSError):  # works without huge pages, a little slower
            ctypes.CDLL(None).madvise(
                ctypes.c_void_p(address_of(made)), ctypes.c_size_t(size - size % PAGE), ctypes.c_int(_HUGE)
            )
    return made


def copy(target: int, source: int, size: int) -> None:
    """Copy ``size`` bytes; other Python threads can run meanwhile."""
    ctypes.memmove(target, source, size)


@dataclass(slots=True, eq=False)
class Span:
    """A live buffer, not copied yet."""

    address: int
    size: int
    keep: Any
    """What keeps the memory alive."""
    hint: int = -1
    """A counter that most changes increment (torch's ``_version``); -1: none. Never trusted alone."""
    device: Any = None
    """A torch storage that is not in the host's memory; the address is then 0."""
    watch: tuple[Any, ...] = ()
    """The torch tensors that use this memory."""


class Arena:
    """Page-aligned memory that is reused: copying into fresh pages takes more than twice as long as into used ones."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None
        self._anchor: Any = None
        self.size = 0
        self.address = 0
        self.used = 0
        self._pinned: Callable[[], object] | None = None

    def begin(self, size: int) -> None:
        """Drop the content, and make space for ``size`` bytes.

        Raises:
            MemoryError: there is not enough memory.
        """
        self.used = 0
        if size <= self.size:
            return
        self.release()
        size = -(-size // PAGE) * PAGE
        try:
            self._map = mmap.mmap(-1, size)
        except (OSError, ValueError, OverflowError) as error:
            raise MemoryError(f"no memory for an arena of {size} bytes") from error
        if _HUGE is not None:
            with contextlib.suppress(OSError):  # works without huge pages, a little slower
                self._map.madvise(_HUGE)
        self._anchor = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        self.size = size

    def allocate(self, size: int) -> int:
        """Allocate the next ``size`` bytes, at the beginning of a page; returns their address."""
        at = -(-self.used // PAGE) * PAGE
        if at + size > self.size:
            raise MemoryError(f"the arena has {self.size} bytes; {at + size} are needed")
        self.used = at + size
        return self.address + at

    def pin(self, register: Callable[[int, int], Callable[[], object] | None]) -> None:
        """Let a GPU copy into it directly; ``register(address, size)`` returns a function that undoes it, or None."""
        if self._pinned is None and self.size:
            self._pinned = register(self.address, self.size)

    def release(self) -> None:
        """Free the memory. Views of it must not be used any more."""
        if self._pinned is not None:
            self._pinned()
            self._pinned = None
        self._anchor = None
        if self._map is not None:
            with contextlib.suppress(BufferError):  # a view still exists: the memory is freed with it
                self._map.close()
        self._map, self.size, self.address, self.used = None, 0, 0, 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None


def available_bytes() -> int | None:
    """Memory that this process can still use without swapping: by the machine or its cgroup, the smaller one.

    None if neither can be read (not Linux).
    """
    limits: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, now = _number(Path(limit)), _number(Path(usage))
        if most is not None and now is not None:
            limits.append(max(0, most - now))
    return min(limits) if limits else None
