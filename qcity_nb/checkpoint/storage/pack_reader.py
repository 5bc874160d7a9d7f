"""Reads many objects from pack files in parallel, each directly into its place, verified."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from types import TracebackType

from qcity_nb.checkpoint.memory import PAGE, address_of, view_at
from qcity_nb.checkpoint.storage import pack
from qcity_nb.checkpoint.storage.direct_io import DIRECT_BYTES, open_for_reading
from qcity_nb.checkpoint.storage.pack import ObjectRef
from qcity_nb.errors import CheckpointCorrupt

__all__ = ["PackReader"]

_PIECE = 4 << 20
"""Bytes of one read: few enough to be still in the processor's cache when they are checked and copied."""
_STRAIGHT_PIECE = 32 << 20
"""The same if nothing is copied: more, since a thread must wait for the GIL after each read."""
_LONE = 64 * 1024
"""Smaller objects are read together with their neighbors."""
_THREADS = 4
"""Reads at once: while one waits for the disk, others are checked."""

_Place = tuple[ObjectRef, str, memoryview | None]


class PackReader:
    """Reads a checkpoint's objects by name. Keeps its packs open, so they may be deleted meanwhile."""

    def __init__(self, folder: Path, objects: Mapping[str, ObjectRef]) -> None:
        """Open the packs.

        Raises:
            CheckpointCorrupt: a pack is gone.
        """
        self._objects = objects
        self._stack = ExitStack()
        self._files: dict[str, tuple[int, int, bool]] = {}
        sizes: dict[str, int] = {}
        for ref in objects.values():
            sizes[ref.pack] = sizes.get(ref.pack, 0) + ref.size_bytes
        try:
            for name, needed in sorted(sizes.items()):
                descriptor, is_direct = open_for_reading(folder / name, size=needed)
                self._stack.callback(os.close, descriptor)
                self._files[name] = descriptor, os.fstat(descriptor).st_size, is_direct
        except OSError as error:
            self._stack.close()
            raise CheckpointCorrupt(f"pack {name}: {error.strerror or error}") from error

    def __enter__(self) -> PackReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def __del__(self) -> None:
        self._stack.close()

    def _ref(self, name: str) -> ObjectRef:
        try:
            return self._objects[name]
        except KeyError:
            raise CheckpointCorrupt(f"the checkpoint has no object {name}") from None

    def __call__(self, name: str) -> bytes:
        """One object, verified.

        Raises:
            CheckpointCorrupt: it does not exist or is damaged.
        """
        ref = self._ref(name)
        self._bounds(ref, name)
        data = bytearray(ref.size_bytes)
        self.read_into([(name, memoryview(data))])
        return bytes(data)

    def _bounds(self, ref: ObjectRef, name: str) -> None:
        # Never allocate what a damaged record claims.
        if not 0 <= ref.offset <= ref.offset + ref.size_bytes <= self._files[ref.pack][1]:
            raise CheckpointCorrupt(f"pack {ref.pack}: object {name} cannot be read: the file is too short")

    def read_into(self, places: Iterable[tuple[str, memoryview]], *, is_own: bool = False) -> None:
        """Read objects by name, each into its own memory.

        Args:
            is_own: that memory may hold bytes before they are verified; else only verified bytes are copied there.
        Raises:
            CheckpointCorrupt: one of them does not exist or is damaged; those read before it are in place.
        """
        requests: list[_Place] = []
        for name, target in places:
            ref = self._ref(name)
            self._bounds(ref, name)
            if len(target) != ref.size_bytes:
                raise CheckpointCorrupt(f"object {name} has {ref.size_bytes} bytes, not {len(target)}")
            requests.append((ref, name, target))
        self._read(requests, is_own=is_own)

    def verify(self) -> None:
        """Read and check every object.

        Raises:
            CheckpointCorrupt: one of them is damaged.
        """
        for name, ref in self._objects.items():
            self._bounds(ref, name)
        self._read([(ref, name, None) for name, ref in self._objects.items()])

    def _read(self, places: list[_Place], *, is_own: bool = False) -> None:
        places.sort(key=lambda place: (place[0].pack, place[0].offset))
        total = sum(place[0].size_bytes for place in places)
        straight, places_to_copy = self._runs(places) if is_own else ([], places)
        turn = iter([*((group, True) for group in straight), *((group, False) for group in _group(places_to_copy))])
        if total < DIRECT_BYTES:
            self._read_groups(turn)
            return
        go = Event()

        def part() -> None:
            go.wait()
            self._read_groups(turn)  # one iterator for all threads: next() of a list's iterator is atomic

        # All threads exist before one reads: a thread needs memory for its stack, and waits long for it while the
        # system allocates pages for the reads.
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="qcity-read") as pool:
            try:
                parts = [pool.submit(part) for _ in range(_THREADS)]
            finally:
                go.set()
            for future in parts:
                future.result()

    def _runs(self, places: list[_Place]) -> tuple[list[list[_Place]], list[_Place]]:
        """Runs of objects that can be read without a copy (same order in file and memory), and the other objects."""
        runs: list[list[_Place]] = []
        rest: list[_Place] = []
        following: tuple[str, int, int] | None = None
        for place in places:
            ref, _, target = place
            address = address_of(target) if target is not None and ref.size_bytes else 0
            here = ref.pack, ref.offset, address
            is_direct = self._files[ref.pack][2]
            may_begin = ref.size_bytes >= _LONE and not (is_direct and (ref.offset % PAGE or address % PAGE))
            if here == following and here[1] + ref.size_bytes - runs[-1][0][0].offset <= _STRAIGHT_PIECE:
                runs[-1].append(place)
            elif may_begin:
                runs.append([place])
            else:
                rest.append(place)
                following = None
                continue
            following = ref.pack, ref.offset + ref.size_bytes, address + ref.size_bytes
        return runs, rest

    def walk(self, names: Iterable[str]) -> Iterator[tuple[str, memoryview]]:
        """Objects by name, verified, in the order of the file; the memory of each is valid only until the next one.

        Raises:
            CheckpointCorrupt: one of them does not exist or is damaged.
        """
        places: list[_Place] = []
        for name in names:
            ref = self._ref(name)
            self._bounds(ref, name)
            places.append((ref, name, None))
        places.sort(key=lambda place: (place[0].pack, place[0].offset))
        for _, name, _, data in self._read_checked(_group(places)):
            yield name, data

    def _read_groups(self, groups: Iterable[tuple[list[_Place], bool]]) -> None:
        def groups_to_copy() -> Iterator[list[_Place]]:
            for group, is_straight in groups:
                if is_straight:
                    self._read_straight(group)
                else:
                    yield group

        for _, _, target, data in self._read_checked(groups_to_copy()):
            if target is not None:
                target[:] = data

    def _read_straight(self, run: list[_Place]) -> None:
        first, name, target = run[0]
        assert target is not None
        descriptor, _, is_direct = self._files[first.pack]
        size = sum(ref.size_bytes for ref, _, _ in run)
        whole = size - size % PAGE if is_direct else size
        memory = view_at(address_of(target), size)
        try:
            _read(descriptor, memory[:whole], first.offset, whole)
            if whole < size:
                with mmap.mmap(-1, PAGE) as page, memoryview(page) as last:
                    _read(descriptor, last, first.offset + whole, size - whole)
                    memory[whole:] = last[: size - whole]
        except (OSError, ValueError) as error:
            raise CheckpointCorrupt(f"pack {first.pack}: object {name} cannot be read: {error}") from error
        for ref, name, target in run:
            assert target is not None
            pack.check(target, ref, name)

    def _read_checked(
        self, groups: Iterable[list[_Place]]
    ) -> Iterator[tuple[ObjectRef, str, memoryview | None, memoryview]]:
        bounce: mmap.mmap | None = None
        for group in groups:
            ref, name, _ = group[0]
            descriptor, _, is_direct = self._files[ref.pack]
            low = ref.offset // PAGE * PAGE if is_direct else ref.offset
            high = group[-1][0].offset + group[-1][0].size_bytes
            length = -(-(high - low) // PAGE) * PAGE
            if bounce is None or len(bounce) < length:
                bounce = mmap.mmap(-1, max(length, PAGE if high - low < PAGE else _PIECE + 2 * PAGE))
            with memoryview(bounce) as memory:
                try:
                    _read(descriptor, memory[:length] if is_direct else memory[: high - low], low, high - low)
                except (OSError, ValueError) as error:
                    raise CheckpointCorrupt(f"pack {ref.pack}: object {name} cannot be read: {error}") from error
                for object_ref, object_name, target in group:
                    with memory[object_ref.offset - low : object_ref.offset - low + object_ref.size_bytes] as data:
                        pack.check(data, object_ref, object_name)
                        yield object_ref, object_name, target, data


def _group(places: list[_Place]) -> list[list[_Place]]:
    """Groups of objects that are close together in a file, which one call reads."""
    groups: list[list[_Place]] = []
    for place in places:
        ref = place[0]
        first = groups[-1][0][0] if groups else None
        last = groups[-1][-1][0] if groups else None
        if (
            first is not None
            and last is not None
            and ref.pack == first.pack
            and ref.offset - (last.offset + last.size_bytes) <= 2 * PAGE
            and ref.offset + ref.size_bytes - first.offset <= _PIECE
        ):
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _read(descriptor: int, memory: memoryview, offset: int, needed: int) -> None:
    """Read at least ``needed`` bytes into ``memory``."""
    got = 0
    while got < needed:
        count = os.preadv(descriptor, [memory[got:]], offset + got)
        if not count:
            raise ValueError("the file ends early")
        got += count
