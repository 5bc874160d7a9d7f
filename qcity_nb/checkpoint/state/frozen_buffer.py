"""Buffers in slices: of a captured state, and of a stored one.

Both have ``size`` and can be read into memory of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from qcity_nb.checkpoint.buffer import Buffer
from qcity_nb.checkpoint.digest import SLICE, name_of
from qcity_nb.checkpoint.memory import address_of, copy, view_at
from qcity_nb.errors import CheckpointCorrupt

__all__ = ["Content", "Frozen", "SmallBuffer", "Read", "Stored", "fill", "slices_of"]


class Content(Protocol):
    """The content of a buffer, wherever it is."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read_into(self, target: memoryview) -> None:
        """Copy all of it to ``target``. Raises CheckpointCorrupt."""

    def parts(self) -> Iterator[tuple[str, Buffer | None]]:
        """Name and content of each slice; None as content if a checkpoint has it already."""


def slices_of(size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of each slice of a buffer; an empty buffer has one empty slice."""
    yield from ((at, min(SLICE, size - at)) for at in range(0, size, SLICE)) if size else ((0, 0),)


class SmallBuffer:
    """A small buffer: an own copy."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._data)

    def read_into(self, target: memoryview) -> None:
        """Copy all of it to ``target``."""
        target[:] = self._data

    def parts(self) -> Iterator[tuple[str, Buffer | None]]:
        """Name and content of each slice."""
        view = memoryview(self._data)
        for at, length in slices_of(len(self._data)):
            part = view[at : at + length]
            yield name_of(part), part


class Frozen:
    """A large buffer: what may have changed is in an arena, the rest is known by name.

    ``names`` and ``fresh`` have one entry per slice. A slice whose ``fresh`` is 0 was proved to have the content that
    ``names`` names, and is not copied. A name may be empty until ``parts`` has hashed the copy.
    """

    __slots__ = ("base", "fresh", "keep", "learn", "names", "size")

    def __init__(self, size: int) -> None:
        count = -(-size // SLICE)
        self.size = size
        self.base = 0
        """Address of slice 0, even if that slice is not copied."""
        self.names = [""] * count
        self.fresh = bytearray(count)
        self.keep: object = None
        self.learn: Callable[[list[str]], None] = lambda names: None
        """Called with the names once all are known."""

    def read_into(self, target: memoryview) -> None:
        """Copy all of it to ``target``.

        Raises:
            CheckpointCorrupt: an unchanged part was not copied; it must be read from the previous checkpoint.
        """
        if not all(self.fresh):
            raise CheckpointCorrupt("a captured state was read that was only partly copied")
        if self.size:
            copy(address_of(target), self.base, self.size)

    def parts(self) -> Iterator[tuple[str, Buffer | None]]:
        """Name and content of each slice; the content is None if unchanged. Hashes slices that have no name yet."""
        for index, (at, length) in enumerate(slices_of(self.size)):
            if not self.fresh[index]:
                yield self.names[index], None
                continue
            view = view_at(self.base + at, length)
            if not self.names[index]:
                self.names[index] = name_of(view)
            yield self.names[index], view
        self.learn(self.names)


Read = Callable[[str], bytes]
"""Returns an object by name, verified."""


class Stored:
    """A buffer of a checkpoint: its slices are read and verified on access."""

    __slots__ = ("names", "read", "size")

    def __init__(self, size: int, names: Sequence[str], read: Read) -> None:
        self.size = size
        self.names = names
        self.read = read

    def read_into(self, target: memoryview) -> None:
        """Read all of it into ``target``, verified.

        Raises:
            CheckpointCorrupt: a slice is damaged or gone; ``target`` may then be partly filled.
        """
        fill([(self, target)])

    def parts(self) -> Iterator[tuple[str, Buffer | None]]:
        """The names only: a checkpoint has the content."""
        return ((name, None) for name in self.names)

    def places(self, target: memoryview) -> Iterator[tuple[str, memoryview]]:
        """The name and the target memory of each slice.

        Raises:
            CheckpointCorrupt: the numbers in the record contradict each other.
        """
        parts = list(slices_of(self.size))
        if len(parts) != len(self.names) or len(target) != self.size:
            raise CheckpointCorrupt(f"a buffer of {self.size} bytes has {len(self.names)} slices")
        for name, (at, length) in zip(self.names, parts, strict=True):
            yield name, target[at : at + length]


def fill(jobs: Iterable[tuple[Content, memoryview]], *, is_own: bool = False) -> None:
    """Read several buffers into place, those of one reader in parallel if it can.

    Args:
        is_own: nobody uses this memory after a failure, so it may hold bytes before they are verified.
    Raises:
        CheckpointCorrupt: one of them is damaged or gone.
    """
    together: dict[int, tuple[Read, list[tuple[str, memoryview]]]] = {}
    for content, target in jobs:
        if isinstance(content, Stored):
            _, places = together.setdefault(id(content.read), (content.read, []))
            places += content.places(target)
        else:
            content.read_into(target)
    for read, places in together.values():
        at_once = getattr(read, "read_into", None)
        if at_once is not None:
            at_once(places, is_own=is_own)
            continue
        for name, target in places:
            data = read(name)
            if len(data) != len(target):
                raise CheckpointCorrupt(f"object {name} has {len(data)} bytes, not {len(target)}")
            target[:] = data
